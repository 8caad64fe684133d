"""--vbr: streams whose number of codebooks follows the level, whole and in pieces."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from streamdac.codec import Codec
from streamdac.frontends.coding import StreamDecoding, StreamEncoding
from streamdac.frontends.hops import HopEncoder, runs
from streamdac.protocols.stream import Codes, StreamReader

from .conftest import Run
from .models import HOP, RATE

Signal = npt.NDArray[np.float32]


def with_pauses(speech: Signal) -> Signal:
    """Every other fifth of a second 60 dB quieter."""
    quiet = np.arange(len(speech)) // (RATE // 5) % 2
    return (speech * np.where(quiet, 1e-3, 1.0)).astype(np.float32)


def packed_codes(data: bytes) -> npt.NDArray[np.int64]:
    """The codes `[K, C, F]` of a stream, -1 where a packet has none."""
    reader = StreamReader()
    reader.feed(data)
    reader.feed_eof()
    found = []
    while (event := reader.next_event()) is not None:
        if isinstance(event, Codes):
            found.append(event.codes)
    most = max(len(codes) for codes in found)
    padded = [np.pad(codes, ((0, most - len(codes)), (0, 0), (0, 0)), constant_values=-1) for codes in found]
    return np.concatenate(padded, axis=2)


@given(depths=st.lists(st.integers(1, 5), max_size=30), channels=st.integers(1, 3))
def test_runs_are_the_codes_in_pieces_of_one_depth(depths: list[int], channels: int) -> None:
    codes = np.arange(5 * channels * len(depths)).reshape(5, channels, len(depths))
    codes = np.where(np.arange(5)[:, None, None] < np.array(depths, int), codes, -1)
    pieces = list(runs(codes))
    assert [depth for piece in pieces for depth in [len(piece)] * piece.shape[2]] == depths
    assert all(len(a) != len(b) for a, b in pairwise(pieces))
    joined = [np.pad(piece, ((0, 5 - len(piece)), (0, 0), (0, 0)), constant_values=-1) for piece in pieces]
    assert np.array_equal(np.concatenate([codes[:, :, :0], *joined], axis=2), codes)


@pytest.mark.parametrize("per_packet", [1, 4, 16])
def test_the_stream_holds_just_the_codes_of_the_codec(
    run: Run, tmp_path: Path, codec: Codec, speech: Signal, per_packet: int
) -> None:
    audio = with_pauses(speech)
    soundfile.write(tmp_path / "in.wav", audio, RATE, subtype="FLOAT")
    for name, more in (("all", ()), ("vbr", ("--vbr",))):
        run(
            "encode", tmp_path / "in.wav", "-o", tmp_path / f"{name}.sdac", "--frames-per-packet", per_packet, *more
        ).ok()
    wanted = codec.encode(audio, vbr=True)
    assert 0.2 < float((wanted < 0).mean()) < 0.6
    data = (tmp_path / "vbr.sdac").read_bytes()
    assert np.array_equal(packed_codes(data)[:, 0], wanted[0])
    if per_packet == 1:
        assert len(data) < (tmp_path / "all.sdac").stat().st_size
    run("decode", tmp_path / "vbr.sdac", "-o", tmp_path / "out.wav", "--float").ok()
    heard = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    np.testing.assert_allclose(heard, codec.decode(wanted)[0, 0, : len(audio)], atol=1e-3)


def test_channels_share_the_number_of_the_one_that_needs_most(codec: Codec, speech: Signal) -> None:
    left, right = with_pauses(speech), with_pauses(speech)[::-1]
    coding = StreamEncoding(codec, sample_rate=RATE, channels=2, vbr=True)
    data = coding.start() + coding.push(np.stack([left, right], axis=1)) + coding.finish()
    codes = packed_codes(data)
    apart = [codec.encode(np.ascontiguousarray(side), vbr=True)[0] for side in (left, right)]
    depths = (codes >= 0).sum(axis=0)
    assert np.array_equal(depths[0], depths[1])
    assert np.array_equal(depths[0], np.maximum(*((side >= 0).sum(axis=0) for side in apart)))
    decoding = StreamDecoding(codec)
    assert sum(len(block) for block in [*decoding.feed(data), *decoding.finish()]) == len(left)


@given(parts=st.lists(st.integers(0, 3 * HOP), max_size=20))
def test_blocks_of_any_length_give_the_same_codes(codec: Codec, parts: list[int]) -> None:
    audio = np.random.default_rng(0).uniform(-0.5, 0.5, 9 * HOP + 17).astype(np.float32)
    audio[3 * HOP : 7 * HOP] *= 1e-3
    encoder, found, place = HopEncoder(codec, sample_rate=RATE, channels=1, vbr=True), [], 0
    for part in [*parts, len(audio)]:
        found.append(encoder.push(audio[place : place + part, None]))
        place += part
    found.append(encoder.flush())
    wanted = codec.encode(audio, vbr=True)
    assert np.array_equal(np.concatenate(found, axis=2)[:, 0], wanted[0])
    bits = codec.config.bits_per_code * int((wanted >= 0).sum())
    assert encoder.kbps == pytest.approx(bits / (10 * HOP / RATE) / 1000)


@pytest.mark.parametrize("chunk", [HOP, 4 * HOP, HOP + 5])
def test_a_streaming_encoder_gives_the_codes_of_the_whole(codec: Codec, speech: Signal, chunk: int) -> None:
    audio, encoder = with_pauses(speech), codec.encoder(n_codebooks=3, vbr=True)
    parts = [encoder.push(audio[start : start + chunk]) for start in range(0, len(audio), chunk)]
    found = np.concatenate([*parts, encoder.flush()], axis=2)
    assert np.array_equal(found, codec.encode(audio, 3, vbr=True))


def test_live_records_what_encode_makes(run: Run, tmp_path: Path, codec: Codec, speech: Signal) -> None:
    soundfile.write(tmp_path / "in.wav", with_pauses(speech), RATE, subtype="FLOAT")
    record = tmp_path / "heard.sdac"
    result = run("live", "-i", tmp_path / "in.wav", "--no-pace", "--vbr", "-n", 3, "--record-codes", record)
    assert result.code == 0
    run("encode", tmp_path / "in.wav", "--vbr", "-n", 3, "--frames-per-packet", 1).ok()
    assert np.array_equal(packed_codes(record.read_bytes()), packed_codes((tmp_path / "in.sdac").read_bytes()))


def test_an_archive_is_refused(run: Run, tmp_path: Path, speech: Signal) -> None:
    soundfile.write(tmp_path / "in.wav", speech, RATE)
    result = run("encode", tmp_path / "in.wav", "--vbr", "-o", tmp_path / "out.dac")
    assert (result.code, result.err) == (2, "streamdac: --vbr is for streams: an archive has one number of codebooks\n")
    assert not (tmp_path / "out.dac").exists()


def test_a_pipe_gives_the_bytes_of_the_file(run: Run, tmp_path: Path, speech: Signal) -> None:
    held = io.BytesIO()
    soundfile.write(held, with_pauses(speech), RATE, format="WAV", subtype="FLOAT")
    (tmp_path / "in.wav").write_bytes(held.getvalue())
    run("encode", tmp_path / "in.wav", "--vbr").ok()
    assert run("encode", "-", "--vbr", stdin=held.getvalue()).ok().out == (tmp_path / "in.sdac").read_bytes()
