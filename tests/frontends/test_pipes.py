"""Pipes: the same bytes as by files, from any WAV, of known length or not, and from raw PCM."""

from __future__ import annotations

import io
import os
import struct
import tempfile
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import BadDataError
from streamdac.frontends import wav as wav_module
from streamdac.frontends.pipes import PcmSource
from streamdac.frontends.wav import UNKNOWN, SampleFormat, header, read_header

from .conftest import Run
from .models import HOP, RATE
from .test_files import noise

Signal = npt.NDArray[np.float32]


def wav(audio: Signal, rate: int = RATE, subtype: str = "PCM_16", form: str = "WAV") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio, rate, subtype=subtype, format=form)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "PCM_32"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("WAVEX", "PCM_24"),
        ("WAV", "ULAW"),
        ("WAV", "IMA_ADPCM"),
        ("RF64", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("AIFF", "PCM_16"),
    ],
)
def test_a_pipe_makes_the_bytes_that_a_file_makes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, subtype: str
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spool))
    data = wav(noise(5_000, 2), 44_100, subtype, form)
    path = tmp_path / "in.wav"
    path.write_bytes(data)
    run("encode", path, "-o", tmp_path / "a.sdac").ok()
    assert run("encode", "-", "-o", "-", stdin=data).ok().out == (tmp_path / "a.sdac").read_bytes()
    assert not list(spool.iterdir())


@pytest.mark.parametrize("options", [[], ["--float"]])
def test_a_stream_through_a_pipe_becomes_the_audio_that_a_file_becomes(
    run: Run, tmp_path: Path, options: list[str]
) -> None:
    coded = run("encode", "-", "-o", "-", stdin=wav(noise(5_000, 2), 44_100)).ok().out
    (tmp_path / "a.sdac").write_bytes(coded)
    run("decode", tmp_path / "a.sdac", *options).ok()
    piped = run("decode", "-", "-o", "-", *options, stdin=coded).ok().out
    in_file, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    from_pipe, pipe_rate = soundfile.read(io.BytesIO(piped), dtype="float32")
    np.testing.assert_array_equal(in_file, from_pipe)
    assert (len(in_file), rate, pipe_rate) == (5_000, 44_100, 44_100)


@pytest.mark.parametrize("told", [0, UNKNOWN, UNKNOWN - 36, 0x7FFFF000])
def test_a_wav_whose_writer_did_not_know_its_length_is_read_to_its_end(run: Run, told: int) -> None:
    data = wav(noise(3_000))
    known = run("encode", "-", stdin=data).ok().out
    at = data.index(b"data") + 4
    unknown = data[:at] + struct.pack("<I", told) + data[at + 4 :]
    assert run("encode", "-", stdin=unknown).ok().out == known


@pytest.mark.parametrize(("channels", "bits"), [(1, 16), (2, 16), (1, 24), (3, 24), (5, 16), (7, 32)])
def test_a_length_that_sox_did_not_know_is_rounded_to_blocks(channels: int, bits: int) -> None:
    form = SampleFormat(bits)
    most = 0x7FFFF000 // (channels * form.width)
    for samples, found in ((most, None), (most - 1, most - 1)):
        assert read_header(io.BytesIO(header(8_000, channels, form, samples))).samples == found


def test_chunks_after_the_samples_are_no_samples(run: Run) -> None:
    data = wav(noise(3_000))
    assert run("encode", "-", stdin=data + b"LIST\4\0\0\0abcd").ok().out == run("encode", "-", stdin=data).ok().out


@pytest.mark.parametrize(("raw", "dtype"), [("s16le", "<i2"), ("f32le", "<f4")])
@pytest.mark.parametrize("channels", [1, 2])
def test_raw_samples_are_coded_as_a_wav_of_them(run: Run, raw: str, dtype: str, channels: int) -> None:
    audio = np.round(noise(4_001, channels) * 32768) / np.float32(32768)
    data = (audio * 32768).astype(dtype).tobytes() if raw == "s16le" else audio.astype(dtype).tobytes()
    options = ["--raw", raw, "--rate", 16_000, "--channels", channels]
    coded = run("encode", "-", "-o", "-", *options, stdin=data).ok().out
    assert coded == run("encode", "-", stdin=wav(audio, 16_000)).ok().out
    decoded = np.frombuffer(run("decode", "-", "-o", "-", "--raw", raw, stdin=coded).ok().out, dtype)
    assert decoded.size == 4_001 * channels


def test_a_torn_last_sample_is_dropped(run: Run) -> None:
    options = ["--raw", "s16le", "--rate", RATE, "--channels", 2]
    data = bytes(4 * HOP)
    assert run("encode", "-", *options, stdin=data + b"xyz").ok() == run("encode", "-", *options, stdin=data).ok()


@pytest.mark.parametrize(
    ("command", "options", "data", "code", "message"),
    [
        ("encode", [], b"", 65, "stdin is empty"),
        ("encode", [], b"RIFF", 65, "the header is cut"),
        ("encode", [], b"RIFF1234AVI " + bytes(100), 65, "streamdac: stdin: not a WAV"),
        ("encode", [], b"hello, this is no audio", 65, "streamdac: stdin: not an audio file that can be read"),
        ("encode", [], b"RIFF1234WAVEdata\0\0\0\0", 65, "no fmt chunk"),
        ("encode", [], b"RIFF1234WAVEjunk\xff\xff\xff\xff", 65, "chunk b'junk' of 4294967295 bytes"),
        ("encode", ["--raw", "s16le"], bytes(100), 2, "needs --rate"),
        ("encode", ["--raw", "f32le", "--rate", "24000"], b"\0\0\xc0\x7f" * 10, 65, "NaN or infinity"),
        ("decode", [], b"", 65, "streamdac: stdin: the stream is empty"),
        ("decode", [], b"RIFF1234WAVE", 65, "not a streamdac stream"),
    ],
)
def test_what_is_no_audio_or_stream_is_refused_in_one_line(
    run: Run, command: str, options: list[str], data: bytes, code: int, message: str
) -> None:
    result = run(command, "-", "-o", "-", *options, stdin=data)
    assert result.code == code
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert result.out == b"" or command == "encode"


def test_raw_is_for_pipes_only(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(noise(HOP)))
    result = run("encode", tmp_path / "a.wav", "--raw", "s16le", "--rate", 8_000)
    assert (result.code, "--raw is for stdin" in result.err) == (2, True)
    result = run("encode", tmp_path / "a.wav", "--rate", 8_000)
    assert (result.code, "--rate and --channels are for --raw" in result.err) == (2, True)
    run("encode", tmp_path / "a.wav").ok()
    result = run("decode", tmp_path / "a.sdac", "--raw", "s16le", "-o", tmp_path / "b.wav")
    assert (result.code, "--raw is for stdout" in result.err) == (2, True)


def test_no_audio_at_all_is_a_stream_of_no_samples(run: Run) -> None:
    coded = run("encode", "-", stdin=wav(noise(0, 2), 44_100)).ok().out
    decoded = run("decode", "-", stdin=coded).ok().out
    info = soundfile.info(io.BytesIO(decoded))
    assert (info.frames, info.channels, info.samplerate) == (0, 2, 44_100)


def test_packets_leave_the_pipe_as_soon_as_they_are_complete(run: Run, tmp_path: Path, weights: Path) -> None:
    """A live source is not held up: each read of the pipe is coded at once."""
    from streamdac.frontends.encode import encode_stream
    from streamdac.frontends.pipes import WavHeader

    from . import models

    class Slow(io.RawIOBase):
        """Gives one hop at each read, and notes how much had come out by then."""

        left = 5

        def read1(self, count: int) -> bytes:
            seen.append(len(out.getvalue()))
            self.left -= 1
            return bytes(2 * HOP) if self.left >= 0 else b""

    out, seen = io.BytesIO(), list[int]()
    source = PcmSource(Slow(), WavHeader(RATE, 1, SampleFormat(16), None))  # type: ignore[arg-type]
    encode_stream(models.load(weights), source, out, None, 1, label="", quiet=True)
    assert seen == sorted(set(seen))


@given(
    sizes=st.lists(st.integers(1, 99), max_size=20),
    channels=st.integers(1, 3),
    form=st.sampled_from([SampleFormat(8), SampleFormat(16), SampleFormat(24), SampleFormat(32, is_float=True)]),
    samples=st.integers(0, 200),
    known=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_samples_do_not_depend_on_how_the_pipe_gives_them(
    sizes: list[int], channels: int, form: SampleFormat, samples: int, known: bool
) -> None:
    rng = np.random.default_rng(samples)
    body = rng.integers(0, 256, samples * channels * form.width, dtype=np.uint8).tobytes()
    if form.is_float:
        body = rng.uniform(-1, 1, samples * channels).astype("<f4").tobytes()
    data = header(RATE, channels, form, samples if known else None) + body

    class Pipe(io.BytesIO):
        pieces = iter([*sizes, *[1 << 20] * 1000])

        def read1(self, count: int | None = -1) -> bytes:
            return self.read(min(count or 0, next(self.pieces)))

    pipe = Pipe(data)
    source = PcmSource(pipe, read_header(pipe))
    blocks = []
    while (block := source.read(50)) is not None:
        assert 1 <= len(block) <= 50
        blocks.append(block)
    whole = np.concatenate(blocks) if blocks else np.zeros((0, channels), np.float32)
    np.testing.assert_array_equal(whole, form.decode(body, channels))


@given(st.binary(max_size=80), st.integers(0, 60))
@settings(max_examples=200, deadline=None)
def test_any_broken_header_is_refused_as_bad_data(junk: bytes, at: int) -> None:
    good = header(RATE, 1, SampleFormat(16), 3)
    data = good[:at] + junk
    try:
        found = read_header(io.BytesIO(data))
    except BadDataError:
        return
    assert 1 <= found.channels <= 32
    assert 1 <= found.sample_rate <= 768_000


def test_a_written_header_is_read_back() -> None:
    for form in (SampleFormat(16), SampleFormat(32, is_float=True)):
        for samples in (0, 7, None):
            found = read_header(io.BytesIO(header(48_000, 2, form, samples)))
            assert (found.sample_rate, found.channels, found.format) == (48_000, 2, form)
            assert found.samples == (samples or None)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("form", ["WAV", "FLAC"])
def test_a_named_pipe_is_read_as_stdin_is(run: Run, tmp_path: Path, form: str) -> None:
    """Also what a shell makes of <(...)."""
    pipe, data = tmp_path / "pipe", wav(noise(3_000), form=form)
    os.mkfifo(pipe)

    def given(content: bytes) -> threading.Thread:
        thread = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
        thread.start()
        return thread

    writer = given(data)
    run("encode", pipe, "-o", tmp_path / "a.sdac").ok()
    writer.join()
    coded = (tmp_path / "a.sdac").read_bytes()
    assert coded == run("encode", "-", stdin=data).ok().out
    writer = given(coded)
    run("decode", pipe, "-o", tmp_path / "a.wav").ok()
    writer.join()
    assert soundfile.info(tmp_path / "a.wav").frames == 3_000
    writer = given(b"")
    result = run("encode", pipe, "-o", tmp_path / "b.sdac")
    writer.join()
    assert (result.code, result.err) == (65, f"streamdac: {pipe} is empty\n")
    result = run("info", pipe)
    assert (result.code, "is a pipe, need a file" in result.err) == (2, True)


@pytest.mark.parametrize("each", [0, 100])
def test_a_header_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch, each: int) -> None:
    monkeypatch.setattr(wav_module, "_MAX_HEADER", 10_000)
    chunk = struct.pack("<4sI", b"junk", each) + bytes(each)
    stream = io.BytesIO(b"RIFF1234WAVE" + 5_000 * chunk)
    with pytest.raises(BadDataError, match=f"chunk b'junk' of {each} bytes after .* at most 10000 are read"):
        read_header(stream)
    assert stream.tell() <= 10_000 + 8
