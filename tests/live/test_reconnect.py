"""Devices that are pulled out and come back under other numbers. Without hardware."""

from __future__ import annotations

import time

import pytest

from streamdac.codec import Codec
from streamdac.frontends import live_loop
from streamdac.frontends.chain import Settings
from streamdac.frontends.device_config import DeviceInfo, Opened, Plan
from streamdac.frontends.device_names import choose
from streamdac.frontends.device_stream import DeviceStream
from streamdac.frontends.live_loop import LiveLoop, Options
from streamdac.frontends.rings import Ring

from .test_jack import RATE, until


class Pulled(DeviceStream):
    """Devices that are pulled out after the first hops; once they are plugged in again their numbers are others."""

    plans: list[tuple[str | None, str | None]]
    rows: list[DeviceInfo]
    gone = False

    def __init__(self, plan: Plan) -> None:
        type(self).plans.append((plan.input, plan.output))
        source, target = choose(self.rows, plan.input or "", "input"), choose(self.rows, plan.output or "", "output")
        self.opened = Opened(
            source.name, target.name, source.api, RATE, RATE, 5.0, 5.0, one_clock=False, output_api=target.api
        )
        self.capture, self.playback = Ring(1), Ring(1)

    def wait(self, seconds: float) -> bool:
        time.sleep(0.001)
        return True

    def trouble(self) -> str | None:
        return "pulled" if self.gone else None

    def close(self) -> None:
        type(self).gone = False


def plugged(*numbers: int) -> list[DeviceInfo]:
    """Two headsets of one name in two sound systems, under these numbers."""
    systems = zip(numbers, ("ALSA", "JACK", "ALSA"), strict=False)
    return [DeviceInfo(number, "USB", system, 1, 1, RATE, 5.0, 5.0, False, False) for number, system in systems]


@pytest.fixture
def pulled(monkeypatch: pytest.MonkeyPatch) -> type[Pulled]:
    monkeypatch.setattr(live_loop, "DeviceStream", Pulled)
    monkeypatch.setattr(live_loop, "_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(Pulled, "plans", [], raising=False)
    monkeypatch.setattr(Pulled, "rows", plugged(0, 1), raising=False)
    monkeypatch.setattr(Pulled, "gone", False)
    return Pulled


def test_a_device_chosen_by_number_is_found_again_among_others_of_its_name(codec: Codec, pulled: type[Pulled]) -> None:
    loop = LiveLoop(codec, Options(source="1", target="0", margin=0.1), Settings(codec.n_codebooks))
    loop.start()
    try:
        pulled.rows, pulled.gone = plugged(4, 5), True
        until(lambda: loop.totals.reconnects == 1, 10)
        loop.check()
    finally:
        loop.stop()
    assert pulled.plans == [("1", "0"), ("USB, JACK", "USB, ALSA")]
    assert (loop.stream.opened.api, loop.stream.opened.output_api) == ("JACK", "ALSA")


def test_a_device_that_cannot_be_told_from_others_is_said_once_and_waited_for(
    codec: Codec, pulled: type[Pulled]
) -> None:
    said: list[str] = []
    loop = LiveLoop(codec, Options(source="0", target="1", margin=0.1), Settings(codec.n_codebooks), notify=said.append)
    loop.start()
    try:
        pulled.rows, pulled.gone = plugged(0, 1, 2), True
        until(lambda: len(pulled.plans) > 4, 10)
        pulled.rows = plugged(0, 1)
        until(lambda: loop.totals.reconnects == 1, 10)
    finally:
        loop.stop()
    assert [line.partition(":")[0] for line in said[1:]] == [
        "'USB, ALSA' fits 2 input devices",
        "back on 'USB' and 'USB'",
    ]
