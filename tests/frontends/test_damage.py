"""Damage to a stream: cut at any byte, or any byte flipped, all before and after it is decoded, in time, and it is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.codec import Codec
from streamdac.errors import BadDataError, ModelMismatchError
from streamdac.frontends.coding import StreamDecoding, StreamEncoding
from streamdac.protocols.records import MAGIC, SYNC

from . import models
from .conftest import Run
from .models import HOP, RATE
from .test_files import noise

Signal = npt.NDArray[np.float32]
FRAMES, PER_PACKET = 32, 2
SAMPLES = FRAMES * HOP - 100
SETTLE = 15  # frames after a gap until the decoder has forgotten it: what one output sees, by its kernels and strides
CLOSE = {"atol": 2e-3, "rtol": 0.0}  # rounding of a random, ungentle network in other chunks


@pytest.fixture(scope="module")
def stream(codec: Codec, speech: Signal) -> bytes:
    coding = StreamEncoding(codec, sample_rate=RATE, channels=1, frames_per_packet=PER_PACKET)
    return coding.start() + coding.push(speech[:SAMPLES, None]) + coding.finish()


@pytest.fixture(scope="module")
def clean(codec: Codec, stream: bytes) -> Signal:
    audio, decoding, refusal = decoded(codec, stream)
    assert refusal is None
    assert decoding.problems == []
    assert len(audio) == SAMPLES
    return audio


def decoded(codec: Codec, data: bytes, *, join: bool = False) -> tuple[Signal, StreamDecoding, BadDataError | None]:
    """Everything that comes out, and what the stream was refused for."""
    decoding = StreamDecoding(codec, join=join)
    blocks = [np.zeros((0, 1), np.float32)]
    refusal = None
    try:
        blocks.extend(decoding.feed(data))
        blocks.extend(decoding.finish())
    except BadDataError as error:
        refusal = error
    return np.concatenate(blocks)[:, 0], decoding, refusal


def header_end(stream: bytes) -> int:
    """The first byte after magic and header."""
    return stream.index(SYNC, len(MAGIC) + 2)


def frames_at(stream: bytes, offset: int) -> int:
    """Frames in the packets that lie whole before `offset`."""
    bounds = [at for at in range(header_end(stream), len(stream)) if stream.startswith(SYNC, at)]
    ends = [*bounds[1:], len(stream)]
    return min(FRAMES, PER_PACKET * sum(end <= offset for end in ends))


def test_a_stream_cut_at_any_byte_is_decoded_up_to_there(codec: Codec, stream: bytes, clean: Signal) -> None:
    start = header_end(stream)
    for cut in range(start, len(stream)):
        audio, decoding, refusal = decoded(codec, stream[:cut])
        frames = frames_at(stream, cut)
        assert refusal is None
        assert len(audio) == frames * HOP, cut
        whole = min(len(audio), SAMPLES)
        np.testing.assert_allclose(audio[:whole], clean[:whole], **CLOSE)
        assert any("the stream has no end" in problem for problem in decoding.problems), cut


def test_a_stream_cut_before_the_end_of_its_header_is_refused(codec: Codec, stream: bytes) -> None:
    for cut in range(header_end(stream)):
        audio, _, refusal = decoded(codec, stream[:cut])
        assert len(audio) == 0
        assert refusal is not None
        assert any(word in str(refusal) for word in ("empty", "not a streamdac stream", "no readable header")), cut


def test_any_byte_flipped_after_the_header_costs_its_packet_and_nothing_else(
    codec: Codec, stream: bytes, clean: Signal
) -> None:
    for place in range(header_end(stream), len(stream)):
        broken = bytearray(stream)
        broken[place] ^= 1 << place % 8
        check_gap(codec, bytes(broken), stream, clean, place)


def check_gap(codec: Codec, broken: bytes, stream: bytes, clean: Signal, place: int) -> None:
    audio, decoding, refusal = decoded(codec, broken)
    assert refusal is None
    assert decoding.problems, place
    first = frames_at(stream, place) * HOP
    if place >= stream.rindex(SYNC):
        assert len(audio) == FRAMES * HOP  # the End is gone: the last hop cannot be cut to length
    else:
        assert len(audio) == SAMPLES  # time is right
    np.testing.assert_allclose(audio[: min(first, SAMPLES)], clean[:first], **CLOSE)
    after = first + (PER_PACKET + SETTLE) * HOP
    np.testing.assert_allclose(audio[after:SAMPLES], clean[after:], **CLOSE)


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_audio_does_not_depend_on_how_the_bytes_came(
    codec: Codec, stream: bytes, clean: Signal, size: int, rate: int
) -> None:
    """Nor does its length, though it is known only when the End has come."""
    decoding, whole = StreamDecoding(codec, rate=rate), StreamDecoding(codec, rate=rate)
    blocks = [block for at in range(0, len(stream), size) for block in decoding.feed(stream[at : at + size])]
    audio = np.concatenate([*blocks, *decoding.finish()])
    wanted = np.concatenate([*whole.feed(stream), *whole.finish()])
    assert decoding.problems == []
    assert len(audio) == len(wanted) == -(-SAMPLES * rate // RATE)
    np.testing.assert_allclose(audio, wanted, **CLOSE)
    if rate == RATE:
        np.testing.assert_allclose(audio[:, 0], clean, **CLOSE)


@pytest.mark.parametrize("place", [0, 5, 8])
def test_a_damaged_magic_is_refused_by_name(codec: Codec, stream: bytes, place: int) -> None:
    broken = bytearray(stream)
    broken[place] ^= 0x10
    audio, _, refusal = decoded(codec, bytes(broken))
    assert len(audio) == 0
    assert "not a streamdac stream" in str(refusal)


def test_a_damaged_header_is_refused_by_name(codec: Codec, stream: bytes) -> None:
    for place in range(len(MAGIC), header_end(stream)):
        broken = bytearray(stream)
        broken[place] ^= 0x04
        audio, _, refusal = decoded(codec, bytes(broken))
        assert len(audio) == 0
        assert "no readable header" in str(refusal), place


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_no_damage_raises_anything_but_bad_data(codec: Codec, stream: bytes, data: st.DataObject) -> None:
    broken = bytearray(stream)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(broken)))
        match data.draw(st.sampled_from(["cut", "insert", "flip", "repeat", "drop"])):
            case "cut":
                del broken[at:]
            case "insert":
                broken[at:at] = data.draw(st.binary(max_size=40))
            case "flip" if at < len(broken):
                broken[at] = data.draw(st.integers(0, 255))
            case "repeat":
                broken[at:at] = broken[at : at + data.draw(st.integers(0, 200))]
            case "drop":
                del broken[at : at + data.draw(st.integers(0, 200))]
    audio, decoding, refusal = decoded(codec, bytes(broken))
    assert np.isfinite(audio).all()
    assert bytes(broken) == stream or decoding.problems or refusal or len(audio) == SAMPLES


def test_a_lost_packet_is_bridged_by_the_last_frame_and_then_silence(codec: Codec) -> None:
    """A long gap takes no more memory or time than its audio, and ends in what silence sounds like."""
    from streamdac.frontends.hops import HopDecoder

    silence = codec.encode(np.zeros(200 * HOP, np.float32))[0, :, 100:101]
    quiet = codec.decode(np.repeat(silence, 50, axis=1))[0, 0]
    decoder = HopDecoder(codec, channels=1)
    decoder.push(codec.encode(noise(40 * HOP)[:, 0]).transpose(1, 0, 2))
    blocks = list(decoder.conceal(1000))
    assert max(len(block) for block in blocks) <= 64 * HOP
    concealed = np.concatenate(blocks)[:, 0]
    assert len(concealed) == 1000 * HOP
    np.testing.assert_allclose(concealed[-HOP:], quiet[-HOP:], **CLOSE)


def test_a_reader_may_join_in_the_middle(codec: Codec, speech: Signal) -> None:
    """The header is repeated every 10 s; what comes before it is no damage."""
    coding = StreamEncoding(codec, sample_rate=RATE, channels=1)
    audio = np.resize(speech, 12 * RATE)[:, None]
    stream = coding.start() + coding.push(audio) + coding.finish()
    middle = len(stream) // 2
    whole, _, _ = decoded(codec, stream)
    _, _, refusal = decoded(codec, stream[middle:])
    assert "not a streamdac stream" in str(refusal)
    late, decoding, refusal = decoded(codec, stream[middle:], join=True)
    assert (refusal, decoding.problems) == (None, [])
    assert 1.9 * RATE < len(late) <= 2 * RATE
    settled = SETTLE * HOP
    np.testing.assert_allclose(late[settled:], whole[len(whole) - len(late) + settled :], **CLOSE)


def test_a_stream_of_another_model_is_refused_with_both_fingerprints(tmp_path: Path, codec: Codec, run: Run) -> None:
    other = models.save(tmp_path / "other.safetensors", seed=7)
    run("encode", "tone:300,0.1", "-o", tmp_path / "a.sdac", "--model", other).ok()
    result = run("decode", tmp_path / "a.sdac", "-o", tmp_path / "a.wav")
    assert result.code == 65
    for fingerprint in (codec.fingerprint, models.load(other).fingerprint):
        assert fingerprint.hex()[:16] in result.err
    assert not (tmp_path / "a.wav").exists()
    with pytest.raises(ModelMismatchError):
        list(StreamDecoding(codec).feed((tmp_path / "a.sdac").read_bytes()))


@pytest.mark.parametrize("where", ["cut", "flip"])
def test_the_command_decodes_what_is_there_says_so_and_exits_with_65(
    run: Run, tmp_path: Path, stream: bytes, where: str
) -> None:
    middle = (header_end(stream) + len(stream)) // 2
    broken = bytearray(stream[:middle] if where == "cut" else stream)
    broken[middle - 1] ^= 0xFF
    (tmp_path / "a.sdac").write_bytes(broken)
    result = run("decode", tmp_path / "a.sdac")
    assert result.code == 65
    lines = result.err.splitlines()
    assert all(line.startswith(f"streamdac: {tmp_path / 'a.sdac'}: ") for line in lines)
    assert "damaged at byte" in lines[0]
    assert "frames concealed" in lines[-1]
    samples = soundfile.info(tmp_path / "a.wav").frames
    assert samples == SAMPLES if where == "flip" else HOP < samples < SAMPLES
    piped = run("decode", "-", stdin=bytes(broken))
    assert piped.code == 65
    assert len(piped.out) == 44 + 2 * samples
    assert "streamdac: stdin: " in piped.err


def test_a_damaged_header_leaves_no_file(run: Run, tmp_path: Path, stream: bytes) -> None:
    (tmp_path / "a.sdac").write_bytes(stream[: len(MAGIC) + 3] + b"?" + stream[len(MAGIC) + 4 :])
    result = run("decode", tmp_path / "a.sdac")
    assert (result.code, "no readable header" in result.err) == (65, True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.sdac"]
