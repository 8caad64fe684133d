"""Bit packing: `bitpack` against a slow reference, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import RemoteProtocolError, UsageError
from streamdac.protocols import bitpack

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 9))


def reference(codes: np.ndarray, bits: int) -> bytes:
    """MSB first, one code after the other, zeros at the end."""
    text = "".join(f"{code:0{bits}b}" for code in codes.ravel())
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


@st.composite
def blocks(draw) -> tuple[np.ndarray, int]:
    bits = draw(st.integers(1, 16))
    shape = draw(SHAPES)
    seed = draw(st.integers(0, 2**32 - 1))
    return np.random.default_rng(seed).integers(0, 1 << bits, shape), bits


def sizes(codes, bits) -> dict[str, int]:
    return dict(zip(("codebooks", "channels", "frames"), codes.shape, strict=True)) | {"bits": bits}


@settings(max_examples=200, deadline=None)
@given(blocks())
def test_bytes_are_those_of_the_reference_and_come_back(block) -> None:
    codes, bits = block
    payload = bitpack.pack(codes, bits)
    assert payload == reference(codes, bits)
    assert len(payload) == bitpack.payload_bytes(**sizes(codes, bits))
    back = bitpack.unpack(payload, **sizes(codes, bits))
    assert back.dtype == np.int64
    assert np.array_equal(back, codes)


@settings(max_examples=200, deadline=None)
@given(blocks(), st.data())
def test_keep_is_packing_the_first_codebooks(block, data) -> None:
    codes, bits = block
    kept = data.draw(st.integers(1, len(codes)))
    payload = bitpack.keep(bitpack.pack(codes, bits), **(sizes(codes, bits) | {"codebooks": kept}))
    assert payload == bitpack.pack(codes[:kept], bits)


@settings(max_examples=200, deadline=None)
@given(blocks(), st.data())
def test_a_wrong_byte_count_is_refused(block, data) -> None:
    codes, bits = block
    payload = bitpack.pack(codes, bits)
    wrong = data.draw(st.binary(max_size=len(payload) + 3).filter(lambda b: len(b) != len(payload)))
    with pytest.raises(RemoteProtocolError, match=f"got {len(wrong)} payload bytes, need {len(payload)}"):
        bitpack.unpack(wrong, **sizes(codes, bits))


def test_order_is_codebook_then_channel_then_frame() -> None:
    codes = np.arange(8).reshape(2, 2, 2)
    assert bitpack.pack(codes, 4) == bytes([0x01, 0x23, 0x45, 0x67])


@pytest.mark.parametrize(("entries", "bits"), [(2, 1), (3, 2), (1000, 10), (1024, 10), (1025, 11), (65536, 16)])
def test_bits_are_the_logarithm_rounded_up(entries, bits) -> None:
    assert bitpack.bits_for(entries) == bits


@pytest.mark.parametrize("entries", [-1, 0, 1, 65537])
def test_odd_codebooks_are_refused(entries) -> None:
    with pytest.raises(UsageError, match=f"got a codebook of {entries} entries, need 2 to 65536"):
        bitpack.bits_for(entries)


@pytest.mark.parametrize("spare", [1, 2, 4, 8])
def test_spare_bits_must_be_zero(spare) -> None:
    payload = bytearray(bitpack.pack(np.zeros((2, 1, 1), dtype=np.int64), 10))
    payload[-1] |= spare
    with pytest.raises(RemoteProtocolError, match="4 spare bits"):
        bitpack.unpack(bytes(payload), codebooks=2, channels=1, frames=1, bits=10)


def test_codes_beyond_the_codebook_are_refused_both_ways() -> None:
    codes = np.array([[[999]], [[1000]]])
    assert bitpack.pack(codes[:1], 10, codebook_size=1000)
    with pytest.raises(UsageError, match="got codes from 999 to 1000, need 0 to 999"):
        bitpack.pack(codes, 10, codebook_size=1000)
    with pytest.raises(UsageError, match="got codes from -1 to -1, need 0 to 1023"):
        bitpack.pack(np.full((1, 1, 1), -1), 10)
    payload = bitpack.pack(codes, 10)
    with pytest.raises(RemoteProtocolError, match="got code 1000, need 0 to 999"):
        bitpack.unpack(payload, codebooks=2, channels=1, frames=1, bits=10, codebook_size=1000)


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        (np.zeros((2, 2), dtype=int), 10, r"shape \(2, 2\)"),
        (np.zeros((1, 1, 1)), 10, "type float64, need integers"),
        (np.zeros((1, 1, 1), dtype=bool), 10, "type bool, need integers"),
        (np.zeros((1, 1, 1), dtype=int), 0, "got 0 bits"),
        (np.zeros((1, 1, 1), dtype=int), 17, "got 17 bits"),
    ],
)
def test_what_is_not_codes_is_refused(codes, bits, message) -> None:
    with pytest.raises(UsageError, match=message):
        bitpack.pack(codes, bits)


@pytest.mark.parametrize("codebooks", [0, 3])
def test_keep_keeps_no_more_than_there_is(codebooks) -> None:
    with pytest.raises(UsageError, match=f"cannot keep {codebooks} codebooks"):
        bitpack.keep(bytes(3), codebooks=codebooks, channels=1, frames=1, bits=10)


def test_no_frames_take_no_bytes() -> None:
    assert bitpack.pack(np.zeros((4, 1, 0), dtype=int), 10) == b""
    assert bitpack.unpack(b"", codebooks=4, channels=1, frames=0, bits=10).shape == (4, 1, 0)
