"""The frontend contract: specs find their frontend, sources give blocks, sinks take them, also from asyncio."""

from __future__ import annotations

import io
import signal
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile

from streamdac import frontend
from streamdac.errors import FrontendUnavailable, NoInputError, OutputError, UnavailableError, UsageError
from streamdac.frontend import AsyncSink, AsyncSource, Source
from streamdac.frontends.archives import rereadable
from streamdac.frontends.coding import StreamDecoding
from streamdac.frontends.encode import encode_stream, output_stream
from streamdac.frontends.null import Silence
from streamdac.frontends.recording import recorded

from . import models
from .models import RATE
from .test_files import noise


def everything(source: Source, samples: int = 100) -> np.ndarray:
    blocks = []
    while (block := source.read(samples)) is not None:
        assert 1 <= len(block) <= samples
        assert block.dtype == np.float32
        assert block.shape[1] == source.channels
        blocks.append(block)
    source.close()
    return np.concatenate(blocks) if blocks else np.zeros((0, source.channels), np.float32)


def test_a_bare_path_is_a_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1_000, 2), 8_000, subtype="FLOAT")
    source = frontend.open_source(str(tmp_path / "a.wav"))
    assert (source.sample_rate, source.channels, source.samples) == (8_000, 2, 1_000)
    np.testing.assert_array_equal(everything(source), noise(1_000, 2))
    assert len(everything(frontend.open_source(f"file:{tmp_path / 'a.wav'}"))) == 1_000


def test_a_tone_has_its_pitch_its_level_and_its_duration() -> None:
    source = frontend.open_source("tone:1000,0.5", sample_rate=16_000, channels=2)
    assert (source.sample_rate, source.channels, source.samples) == (16_000, 2, 8_000)
    audio = everything(source)
    assert audio.shape == (8_000, 2)
    spectrum = np.abs(np.fft.rfft(audio[:, 1]))
    assert np.argmax(spectrum) == 500
    assert np.abs(audio).max() == pytest.approx(0.5, abs=1e-3)


def test_null_forgets_and_its_silence_is_silent() -> None:
    assert not everything(frontend.open_source("null:0.25")).any()
    sink = frontend.open_sink("null:", sample_rate=RATE, channels=1)
    sink.write(noise(50))
    sink.close()
    assert type(frontend.open_sink("null", sample_rate=RATE, channels=1)) is type(sink)


def test_a_file_is_meant_where_one_has_the_name_of_a_frontend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert everything(frontend.open_source("null:0.001")).shape == (24, 1)
    soundfile.write(tmp_path / "null", noise(70), RATE, format="WAV")
    assert len(everything(frontend.open_source("null"))) == 70


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tone:", None),
        ("tone:0", "need more than 0"),
        ("tone:12000", "less than 12000 Hz"),
        ("tone:440,-1", "0 or more seconds"),
        ("tone:a", "need tone:HERTZ"),
        ("tone:nan", "need more than 0"),
        ("null:x", "need null: or null:SECONDS"),
        ("completion:", "is no source of audio"),
    ],
)
def test_wrong_specs_are_refused_with_what_is_right(spec: str, message: str | None) -> None:
    if message is None:
        assert frontend.open_source(spec).samples is None
        return
    with pytest.raises(UsageError, match=message):
        frontend.open_source(spec)


def test_what_takes_no_audio_says_so() -> None:
    with pytest.raises(UsageError, match="tone: takes no audio"):
        frontend.open_sink("tone:440", sample_rate=RATE, channels=1)
    with pytest.raises(UsageError, match="takes no argument"):
        frontend.open_sink("null:x", sample_rate=RATE, channels=1)
    with pytest.raises(FrontendUnavailable, match="0 frontends are called 'gong'"):
        frontend.load("gong")
    with pytest.raises(NoInputError):  # no frontend: a path
        frontend.open_source("gong:440")


async def test_source_and_sink_serve_asyncio(tmp_path: Path) -> None:
    target = tmp_path / "a.wav"
    sink = AsyncSink(frontend.open_sink(str(target), sample_rate=RATE, channels=1))
    samples = 0
    async for block in AsyncSource(frontend.open_source("tone:440,0.1")).blocks(1_000):
        samples += len(block)
        assert not target.exists()  # whole or not at all
        await sink.write(block)
    await sink.close()
    assert soundfile.info(target).frames == samples == RATE // 10


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
def test_an_abandoned_sink_leaves_nothing(tmp_path: Path, name: str) -> None:
    sink = frontend.open_sink(str(tmp_path / name), sample_rate=RATE, channels=1)
    sink.write(noise(5_000))
    sink.close(complete=False)
    assert list(tmp_path.iterdir()) == []


def test_a_sink_does_not_take_the_place_of_a_file_made_meanwhile(tmp_path: Path) -> None:
    sink = frontend.open_sink(str(tmp_path / "a.wav"), sample_rate=RATE, channels=1)
    (tmp_path / "a.wav").write_text("another's")
    with pytest.raises(OutputError, match="is there already"):
        sink.close()
    assert (tmp_path / "a.wav").read_text() == "another's"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_sink_refuses_formats_that_there_are_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no format for suffix '.xyz'; there are .aif"):
        frontend.open_sink(str(tmp_path / "a.xyz"), sample_rate=RATE, channels=1)
    with pytest.raises(UsageError, match="9000 channels"):
        frontend.open_sink(str(tmp_path / "a.wav"), sample_rate=RATE, channels=9_000)
    assert list(tmp_path.iterdir()) == []


class Microphone(Silence):
    """Silence that fails after a second."""

    live = True

    def __init__(self, error: type[BaseException], *, samples: int = RATE) -> None:
        super().__init__(None, RATE, 1)
        self._error, self._most = error, samples

    def read(self, samples: int) -> np.ndarray | None:
        if self._at >= self._most:
            raise self._error("unplugged")
        return super().read(min(samples, self._most - self._at))


def record(weights: Path, source: Source, out: BinaryIO) -> None:
    encode_stream(models.load(weights), source, out, None, 4, label="", quiet=True)


def whole(weights: Path, data: bytes) -> int:
    """Samples in a stream without a flaw."""
    decoding = StreamDecoding(models.load(weights))
    samples = sum(map(len, [*decoding.feed(data), *decoding.finish()]))
    assert decoding.problems == []
    return samples


@pytest.mark.parametrize("live", [True, False])
def test_an_interrupt_ends_a_recording_and_breaks_off_anything_else(weights: Path, live: bool) -> None:
    source, out = Microphone(KeyboardInterrupt), io.BytesIO()
    source.live = live
    if not live:
        with pytest.raises(KeyboardInterrupt), recorded(source) as recording:
            record(weights, recording, out)
        return
    with recorded(source) as recording:
        record(weights, recording, out)
    assert whole(weights, out.getvalue()) == RATE


class Interrupted(io.BytesIO):
    """Is written to when the user interrupts, so many times."""

    def __init__(self, times: int, number: signal.Signals = signal.SIGINT) -> None:
        super().__init__()
        self._times, self._number = times, number

    def write(self, data: Any) -> int:
        if self.tell() > 500 and self._times:
            self._times -= 1
            signal.raise_signal(self._number)
        return super().write(data)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_packet_is_written_tears_nothing(weights: Path, number: signal.Signals) -> None:
    before, out = signal.getsignal(number), Interrupted(1, number)
    source = Microphone(UnavailableError, samples=60 * RATE)
    with recorded(source) as recording:
        record(weights, recording, out)
        assert signal.getsignal(number) == before
    assert RATE // 2 <= whole(weights, out.getvalue()) == source._at < 60 * RATE


def test_a_second_interrupt_breaks_a_recording_off(weights: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        recorded(Microphone(UnavailableError, samples=60 * RATE)) as recording,
    ):
        record(weights, recording, Interrupted(2))


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with recorded(Microphone(UnavailableError)):
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("error", [UnavailableError, OSError])
def test_what_was_heard_before_a_device_was_lost_is_kept(weights: Path, tmp_path: Path, error: type[Exception]) -> None:
    target = tmp_path / "talk.sdac"
    with (
        pytest.raises(error, match="unplugged"),
        recorded(Microphone(error)) as recording,
        output_stream(str(target), force=False) as out,
    ):
        record(weights, recording, out)
    assert whole(weights, target.read_bytes()) == RATE


@pytest.mark.parametrize("error", [UnavailableError, KeyboardInterrupt])
def test_where_nothing_was_heard_there_is_no_file(weights: Path, tmp_path: Path, error: type[BaseException]) -> None:
    with (
        pytest.raises(error),
        recorded(Microphone(error, samples=0)) as recording,
        output_stream(str(tmp_path / "talk.sdac"), force=False) as out,
    ):
        record(weights, recording, out)
    assert list(tmp_path.iterdir()) == []


def test_a_recording_that_is_read_again_ends_at_the_interrupt() -> None:
    with recorded(Microphone(KeyboardInterrupt)) as recording, rereadable(recording) as opener:
        assert everything(opener()).shape == everything(opener()).shape == (RATE, 1)
