"""The threads beside the event loop: capture, its failures, and what a program does when one hangs."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from streamdac.errors import UnavailableError, UsageError
from streamdac.frontends import ws_capture, ws_worker
from streamdac.frontends.tone import Tone
from streamdac.frontends.varirate import VariableResampler
from streamdac.frontends.ws_capture import SILENT_DB, Capture, level_db, to_channels
from streamdac.frontends.ws_heard import Heard
from streamdac.frontends.ws_worker import Worker

from .parts import PATIENCE, small_codec


class LiveTone(Tone):
    """Gives its audio at once, as a device that has it already."""

    live = True
    closed = False

    def close(self) -> None:
        self.closed = True


class Broken(LiveTone):
    def read(self, samples: int) -> np.ndarray | None:
        raise UnavailableError("the device is gone")


async def captured(source, channels: int = 1) -> tuple[np.ndarray, list[int]]:
    """The codes of a source `[K, C, F]`, and the samples at its end."""
    codes: list[np.ndarray] = []
    samples: list[int] = []
    capture = Capture(small_codec(), source, channels=channels, codebooks=4, deliver=codes.append, ended=samples.append)
    capture.start()
    async with asyncio.timeout(PATIENCE):
        await capture.done
    await asyncio.sleep(0)
    return np.concatenate(codes, axis=2), samples


@pytest.mark.parametrize("rate", [24_000, 48_000])
async def test_a_live_source_is_encoded_with_little_delay_at_any_rate(rate) -> None:
    source = LiveTone(440.0, 0.5, rate, 1)
    codes, samples = await captured(source)
    audio = LiveTone(440.0, 0.5, rate, 1).read(rate)
    if rate != 24_000:
        audio = VariableResampler(rate, 24_000, 1).push(audio)
    assert samples == [len(audio)]
    assert abs(len(audio) - 12_000) < 100
    assert np.array_equal(codes[:, 0], small_codec().encode(audio[:, 0])[0])
    assert source.closed


async def test_what_a_source_was_late_is_not_made_up_for(monkeypatch) -> None:
    """Beyond a tenth of a second: the hearers' buffers would take it for a burst, and the server for a flood."""
    now, given = 0.0, []
    hop = 320 / 24_000

    class Stalling(Tone):
        def read(self, samples: int) -> np.ndarray | None:
            nonlocal now
            if len(given) == 20:
                now += 30.0
            given.append(now)
            return super().read(samples)

    monkeypatch.setattr(ws_capture, "time", SimpleNamespace(monotonic=lambda: now))
    capture = Capture(
        small_codec(), Stalling(440.0, 1.0, 24_000, 1), channels=1, codebooks=4, deliver=id, ended=id
    )  # fmt: skip

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(capture.stopping, "wait", wait)
    capture.work()
    assert given[19] == pytest.approx(19 * hop)
    assert given[20] == pytest.approx(20 * hop + 30)
    assert given[75] == pytest.approx(given[20] - 0.1 + 54 * hop)


async def test_two_channels_are_mixed_into_a_session_of_one() -> None:
    codes, _ = await captured(LiveTone(440.0, 0.1, 24_000, 2))
    assert codes.shape == (4, 1, 8)
    codes, _ = await captured(LiveTone(440.0, 0.1, 24_000, 1), channels=2)
    assert codes.shape == (4, 2, 8)
    assert np.array_equal(codes[:, 0], codes[:, 1])


async def test_channels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="the source has 3 channels, the session 2"):
        await captured(LiveTone(440.0, 0.1, 24_000, 3), channels=2)
    with pytest.raises(UsageError, match="the source has 3 channels, the session 2"):
        to_channels(np.zeros((5, 3), np.float32), 2)


async def test_a_source_that_fails_is_closed_and_its_error_seen() -> None:
    source = Broken(440.0, 0.1, 24_000, 1)
    with pytest.raises(UnavailableError, match="the device is gone"):
        await captured(source)
    assert source.closed


async def test_a_worker_that_hangs_does_not_hang_the_program(monkeypatch) -> None:
    monkeypatch.setattr(ws_worker, "STOP_SECONDS", 0.05)
    free = threading.Event()

    class Hanging(Worker):
        def work(self) -> None:
            free.wait()

    worker = Hanging("hanging")
    await worker.stop()  # not even begun
    worker = Hanging("hanging")
    worker.start()
    await worker.stop()
    assert not worker.done.done()
    free.set()
    await worker.done


async def test_a_program_that_does_not_read_loses_the_oldest_blocks() -> None:
    heard = Heard(3)
    for i in range(5):
        heard.write(np.full((1, 1), i, np.float32))
    heard.close()
    await asyncio.sleep(0)
    assert heard.dropped == 2
    assert [float(block[0, 0]) for block in [await heard.read(), await heard.read(), await heard.read()]] == [2, 3, 4]
    assert await heard.read() is None


def test_a_level_is_that_of_the_mean_power() -> None:
    assert level_db(np.ones((10, 1), np.float32)) == pytest.approx(0.0)
    assert level_db(np.full((10, 1), 0.1, np.float32)) == pytest.approx(-20.0, abs=1e-3)
    assert level_db(np.zeros((10, 1), np.float32)) == level_db(np.zeros((0, 1), np.float32)) == SILENT_DB
