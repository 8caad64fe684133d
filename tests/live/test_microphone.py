"""A microphone whose reader is late: what it has let pass is silence in its place, or told. On a device of the test."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from streamdac.codec import Codec
from streamdac.errors import BadDataError
from streamdac.frontends import device_ends
from streamdac.frontends.device_config import Plan
from streamdac.frontends.device_ends import Microphone
from streamdac.frontends.rings import Ring
from streamdac.frontends.tone import Tone
from streamdac.frontends.ws_capture import Capture

RATE, HOP = 24_000, 320
LIMIT = 4_000  # samples that the ring keeps


class Device:
    """In place of a device process: audio that counts its samples, as many as the test says."""

    rate = RATE

    def __init__(self, plan: Plan) -> None:
        self.capture = Ring(plan.channels)
        self.capture.limit = LIMIT
        self.input_rate = self.rate
        self.opened = SimpleNamespace(input_latency_ms=0.0)

    def give(self, samples: int) -> None:
        first = self.capture.written + 1
        for start in range(first, first + samples, 100):
            count = min(100, first + samples - start)
            self.capture.write(np.arange(start, start + count, dtype=np.float32)[:, None], 0.0)

    def wait(self, seconds: float) -> bool:
        self.give(100)
        return True

    def trouble(self) -> None:
        return None

    def close(self) -> None:
        pass


def microphone(monkeypatch: pytest.MonkeyPatch, *, rate: int = RATE) -> tuple[Microphone, Device]:
    """At 24 kHz, of a device at `rate`."""
    monkeypatch.setattr(device_ends, "DeviceStream", Device)
    monkeypatch.setattr(Device, "rate", rate)
    source = Microphone("", sample_rate=RATE, channels=1)
    device = source._stream
    assert isinstance(device, Device)
    return source, device


def taken(source: Microphone, samples: int) -> np.ndarray:
    blocks = []
    while samples:
        block = source.read(min(samples, HOP))
        assert block is not None
        assert 1 <= len(block) <= HOP
        blocks.append(block[:, 0])
        samples -= len(block)
    return np.concatenate(blocks)


def test_what_was_dropped_is_zeros_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    source, device = microphone(monkeypatch)
    first = taken(source, 500)
    device.give(10_000)
    audio = np.concatenate([first, taken(source, 10_500)])
    position = np.arange(1, len(audio) + 1)
    np.testing.assert_array_equal(audio[audio > 0], position[audio > 0])
    assert (audio == 0).sum() == source._ring.counts.dropped >= 6_000


@pytest.mark.parametrize("first", ["read", "lost"])
def test_what_went_by_before_the_first_read_is_no_loss(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    source, device = microphone(monkeypatch)
    device.give(10_000)
    assert first == "read" or source.take_lost() == 0
    np.testing.assert_array_equal(taken(source, 1_000), np.arange(8_001, 9_001))


def test_time_is_right_at_another_rate_too(monkeypatch: pytest.MonkeyPatch) -> None:
    source, device = microphone(monkeypatch, rate=2 * RATE)
    taken(source, 500)
    device.give(30_000)
    taken(source, 14_000)
    behind = device.capture.written - 2 * 14_500
    assert 0 <= behind < 2_200


def test_who_is_always_late_hears_more_than_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    source, device = microphone(monkeypatch)
    audio = []
    for _ in range(200):
        device.give(2 * HOP)
        audio.append(taken(source, HOP))
    assert all((np.concatenate(audio[first : first + 50]) > 0).any() for first in (0, 50, 100, 150))


def test_what_is_told_is_not_given_as_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    source, device = microphone(monkeypatch)
    taken(source, 500)
    device.give(10_000)
    lost = source.take_lost()
    assert lost == source._ring.counts.dropped
    np.testing.assert_array_equal(taken(source, 700), np.arange(501 + lost, 1_201 + lost))
    assert source.take_lost() == 0


def test_what_is_told_is_in_samples_of_the_source_and_no_half_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    source, device = microphone(monkeypatch, rate=2 * RATE)
    told = 0
    for samples in (9_001, 8_000, 7_003, 9_001):
        taken(source, 1_100)
        device.give(samples)
        told += source.take_lost()
    dropped = source._ring.counts.dropped
    assert dropped > 20_000
    assert told == dropped // 2


@pytest.mark.parametrize("late", [0, 1, 2])
def test_the_end_says_how_much_was_lost_and_how_often(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], late: int
) -> None:
    source, device = microphone(monkeypatch)
    device.give(10_000)
    taken(source, 1)
    for _ in range(late):
        device.give(LIMIT // 2 + RATE)
        taken(source, RATE)
    source.close()
    said = capsys.readouterr().err
    if not late:
        assert said == ""
        return
    found = re.fullmatch(r"streamdac: (\d\.\d\d) s of the microphone were lost(.*): its audio was not .*\n", said)
    assert found is not None
    assert float(found[1]) == pytest.approx(late, abs=0.1)
    assert found[2] == ("" if late == 1 else ", 2 times")


class Losing(Tone):
    """A device that has lost something before some of its hops."""

    live = True

    def __init__(self, losses: dict[int, int], hops: int, *, rate: int = RATE) -> None:
        super().__init__(440.0, hops * HOP / RATE, rate, 1)
        self.losses, self.hop = losses, -1

    def take_lost(self) -> int:
        self.hop += 1
        return self.losses.get(self.hop, 0)


async def done(source: Tone, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is called on the loop: frames that are delivered or pass in silence, and samples at the end."""
    calls: list[tuple[str, int]] = []
    capture = Capture(
        codec, source, channels=1, codebooks=4, deliver=lambda codes: calls.append(("frames", codes.shape[2])),
        mute=lambda frames: calls.append(("muted", frames)), ended=lambda samples: calls.append(("ended", samples)),
    )  # fmt: skip
    monkeypatch.setattr(capture, "call", lambda function, *arguments: function(*arguments))
    capture.work()
    return calls


async def test_a_capture_passes_over_in_silence_what_its_device_has_lost(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = await done(Losing({3: 30 * HOP + 7}, 6), codec, monkeypatch)
    assert calls == [("frames", 1)] * 3 + [("muted", 30)] + [("frames", 1)] * 3 + [("ended", 6 * HOP)]


async def test_what_is_no_whole_frame_is_kept_for_later(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = dict.fromkeys(range(4), 60 * HOP + 2 * 90)
    calls = await done(Losing(losses, 6, rate=2 * RATE), codec, monkeypatch)
    assert [frames for what, frames in calls if what == "muted"] == [30, 30, 30, 31]


async def test_little_losses_are_one_mute(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server takes so many a second."""
    calls = await done(Losing(dict.fromkeys(range(80), HOP // 2), 80), codec, monkeypatch)
    assert [frames for what, frames in calls if what == "muted"] == [9, 9, 9, 9]


@pytest.mark.parametrize("rate", [1, 2_000_000_000])
async def test_a_capture_refuses_rates_that_nobody_records_at(
    codec: Codec, monkeypatch: pytest.MonkeyPatch, rate: int
) -> None:
    source = Tone(0.1, 1.0, 24_000, 1)
    source.sample_rate = rate
    with pytest.raises(BadDataError, match=f"the source has {rate} Hz, need 1000 to 768000 Hz"):
        await done(source, codec, monkeypatch)
