"""The threads beside the event loop: capture, its failures, and what a program does when one hangs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamdac.errors import OutputError, UnavailableError, UsageError
from streamdac.frontends import ws_run, ws_worker
from streamdac.frontends.audio_files import FileSink
from streamdac.frontends.hops import HopEncoder
from streamdac.frontends.null import NullSink
from streamdac.frontends.tone import Tone
from streamdac.frontends.varirate import VariableResampler
from streamdac.frontends.ws_capture import SILENT_DB, Capture, level_db, to_channels
from streamdac.frontends.ws_heard import Heard
from streamdac.frontends.ws_playback import ExactPlayback
from streamdac.frontends.ws_worker import Worker
from streamdac.protocols.messages import Layout
from streamdac.protocols.sender import Sender

from .parts import PATIENCE, small_codec, until

LAYOUT = Layout(4, 64, 1)


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
    capture = Capture(
        small_codec(), source, channels=channels, codebooks=4, deliver=codes.append, mute=id, ended=samples.append
    )
    capture.start()
    await asyncio.wait_for(capture.done, PATIENCE)
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


def test_an_array_that_is_filled_anew_after_each_push_gives_the_same_codes() -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 480 * 8).astype(np.float32)
    encoder, block = HopEncoder(small_codec(), sample_rate=24_000, channels=1), np.empty((480, 1), np.float32)
    parts = []
    for start in range(0, len(audio), 480):
        block[:, 0] = audio[start : start + 480]
        parts.append(encoder.push(block))
    assert np.array_equal(np.concatenate(parts, axis=2)[:, 0], small_codec().encode(audio)[0])


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


class SlowSink(FileSink):
    """Takes a hop at a time, when told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, sample_rate=24_000, channels=1, force=False)
        self.free = threading.Semaphore(0)

    def write(self, block: np.ndarray) -> None:
        self.free.acquire()
        super().write(block)


def backlog(sink: SlowSink | NullSink, frames: int) -> ExactPlayback:
    """A playback that has heard a stream of so many frames at once."""
    playback = ExactPlayback(sink, small_codec())
    playback.prepare()
    playback.begin(LAYOUT)
    sender, codes = Sender(LAYOUT), np.random.default_rng(0).integers(0, 64, (4, 1, frames))
    for message in [*sender.push(codes), *sender.end(320 * frames)]:
        playback.hear(message, 0.0)
    return playback


async def test_a_recording_is_finished_as_long_as_something_is_written(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(ws_worker, "STOP_SECONDS", 0.1)
    sink = SlowSink(tmp_path / "x.wav")
    playback = backlog(sink, 10)
    playback.start()
    finishing = asyncio.ensure_future(playback.finish())
    sink.free.release(2)
    await until(lambda: playback.written >= 3 * 320)  # the third waits in the sink
    await asyncio.sleep(0.12)
    assert not finishing.done()
    sink.free.release(20)
    await finishing
    assert playback.ended == 1
    assert soundfile.info(tmp_path / "x.wav").frames == 10 * 320


async def test_a_recording_that_is_cut_short_keeps_what_was_written(tmp_path) -> None:
    sink = SlowSink(tmp_path / "x.wav")
    playback = backlog(sink, 10)
    playback.start()
    finishing = asyncio.ensure_future(playback.finish())
    sink.free.release(2)
    await until(lambda: playback.written >= 3 * 320)
    finishing.cancel()
    await asyncio.sleep(0)
    sink.free.release(20)
    with pytest.raises(asyncio.CancelledError):
        await finishing
    assert playback.done.done()
    assert 3 * 320 <= soundfile.info(tmp_path / "x.wav").frames < 10 * 320
    assert [file.name for file in tmp_path.iterdir()] == ["x.wav"]


async def test_what_failed_while_it_is_finished_is_seen(tmp_path) -> None:
    class Full(NullSink):
        def write(self, block: np.ndarray) -> None:
            raise OutputError("disk full")

    playback = backlog(Full(), 3)
    playback.start()
    await until(playback.done.done)
    with pytest.raises(OutputError, match="disk full"):
        await playback.finish()


def test_a_program_whose_sink_hangs_says_that_not_all_is_written(monkeypatch, capsys) -> None:
    program = ws_run.Program(ws_run.Options("ws://h", sink="x.wav"), small_codec())
    left: list[int] = []

    async def run() -> int:
        program.hanging = program.unwritten = True
        return 0

    monkeypatch.setattr(program, "open_ends", lambda: None)
    monkeypatch.setattr(ws_run.os, "_exit", left.append)
    ws_run.run_program(program, run)
    assert left == [OutputError.exit_code]
    assert capsys.readouterr().err == "streamdac: x.wav takes no more: not all that was heard is written\n"


async def test_a_program_that_does_not_read_loses_the_oldest_blocks() -> None:
    heard = Heard(3)
    for i in range(5):
        heard.write(np.full((1, 1), i, np.float32))
    heard.close()
    await asyncio.sleep(0)
    assert heard.dropped == 2
    assert [float(block[0, 0]) for block in [await heard.read(), await heard.read(), await heard.read()]] == [2, 3, 4]
    assert await heard.read() is None


async def test_what_is_written_after_the_end_is_not_read() -> None:
    heard, block = Heard(10), np.zeros((1, 1), np.float32)
    heard.write(block)
    heard.close()
    heard.write(block)
    await asyncio.sleep(0)
    assert await heard.read() is block
    heard.write(block)
    await asyncio.sleep(0)
    assert await heard.read() is None


def test_a_level_is_that_of_the_mean_power() -> None:
    assert level_db(np.ones((10, 1), np.float32)) == pytest.approx(0.0)
    assert level_db(np.full((10, 1), 0.1, np.float32)) == pytest.approx(-20.0, abs=1e-3)
    assert level_db(np.zeros((10, 1), np.float32)) == level_db(np.zeros((0, 1), np.float32)) == SILENT_DB
