"""Redundancy and packets: what a lost packet's neighbour brings back, and what a relay may cut off."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import RemoteProtocolError, UsageError
from streamdac.protocols import bitpack, packets
from streamdac.protocols.messages import MAX_FRAMES, MAX_PAYLOAD, Layout, Packet
from streamdac.protocols.redundancy import Redundancy, check_field, most_frames, recover

from . import streams

LAYOUT = Layout(5, 1000, 2)


def coarse(layout, frames, codebooks, *, past=12) -> tuple[np.ndarray, bytes]:
    """Codes that were sent, and the redundancy of the packet after them."""
    codes = streams.codes(past, layout=layout)
    memory = Redundancy(layout, frames=frames, codebooks=codebooks)
    memory.add(codes[:, :, :5])
    memory.add(codes[:, :, 5:])
    return codes, memory.field()


def packet(field, *, first=12, layout=LAYOUT, frames=1) -> Packet:
    codes = streams.codes(frames, layout=layout, seed=9)
    return packets.make_packet(layout, codes, sequence=3, first_frame=first, redundancy=field)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.sampled_from([2, 33, 1000, 1024, 65536]), st.integers(1, 3))
def test_the_frames_before_a_packet_come_back_with_their_first_codebooks(frames, codebooks, size, channels) -> None:
    layout = Layout(5, size, channels)
    codes, field = coarse(layout, frames, codebooks)
    first, back = recover(layout, packet(field, layout=layout))
    assert first == 12 - frames
    assert np.array_equal(back, codes[:codebooks, :, 12 - frames :])
    assert check_field(layout, packet(field, layout=layout)) == (frames, codebooks)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 12), st.integers(1, 4), st.sets(st.integers(0, 14)))
def test_of_a_stream_everything_within_reach_of_a_packet_that_came_is_known(per, frames, coarse, lost) -> None:
    sent = streams.packets(15 * per, per_packet=per, redundancy=frames, coarse=coarse)
    codes = streams.codes(15 * per)
    known: dict[int, np.ndarray] = {}
    for packet in sent:
        if packet.sequence in lost:
            continue
        back = recover(streams.LAYOUT, packet)
        for i in range(0 if back is None else back[1].shape[-1]):
            known.setdefault(back[0] + i, back[1][:, :, i])
    came = [packet.first_frame for packet in sent if packet.sequence not in lost]
    reach = {f for first in came for f in range(max(0, first - frames), first)}
    assert set(known) == reach
    assert all(np.array_equal(known[f], codes[:coarse, :, f]) for f in reach)


def test_the_first_packet_has_nothing_before_it() -> None:
    assert Redundancy(LAYOUT, frames=3).field() == b""
    assert recover(LAYOUT, packet(b"")) is None
    assert check_field(LAYOUT, packet(b"")) == (0, 0)


@pytest.mark.parametrize(("frames", "codebooks"), [(0, 1), (3, 0)])
def test_no_frames_or_no_codebooks_are_no_redundancy(frames, codebooks) -> None:
    assert coarse(LAYOUT, frames, codebooks)[1] == b""


def test_what_was_sent_before_a_mute_is_forgotten() -> None:
    memory = Redundancy(LAYOUT, frames=3)
    memory.add(streams.codes(5, layout=LAYOUT))
    memory.clear()
    assert memory.field() == b""


def test_frames_sent_with_few_codebooks_bound_the_field() -> None:
    memory = Redundancy(LAYOUT, frames=4, codebooks=3)
    codes = streams.codes(4, layout=LAYOUT)
    memory.add(codes[:, :, :2])
    memory.add(codes[:2, :, 2:])
    first, back = recover(LAYOUT, packet(memory.field(), first=4))
    assert first == 0
    assert np.array_equal(back, codes[:2])


def test_it_is_bounded_by_the_model_and_by_what_fits() -> None:
    wide = Layout(64, 65536, 32)
    memory = Redundancy(wide, frames=64, codebooks=64)
    assert memory.frames == most_frames(wide, 64) == 1
    assert Redundancy(LAYOUT, codebooks=64).codebooks == 5
    memory.add(streams.codes(3, layout=wide))
    assert len(memory.field()) <= MAX_PAYLOAD


@pytest.mark.parametrize(("frames", "codebooks"), [(-1, 1), (MAX_FRAMES + 1, 1), (1, -1), (1, 65)])
def test_redundancy_out_of_bounds_is_our_callers_mistake(frames, codebooks) -> None:
    with pytest.raises(UsageError, match=f"got redundancy of {frames} frames, {codebooks} codebooks"):
        Redundancy(LAYOUT, frames=frames, codebooks=codebooks)


def field_of(frames, codebooks, count=None) -> bytes:
    need = bitpack.payload_bytes(codebooks=codebooks, channels=2, frames=frames, bits=10)
    return bytes([frames, codebooks]) + bytes(need if count is None else count)


@pytest.mark.parametrize(
    ("field", "first", "reason"),
    [
        (b"\x01", 12, "got a redundancy field of 1 bytes, need at least 2"),
        (field_of(0, 1), 12, "got redundancy of 0 frames before frame 12, need 1 to 12"),
        (field_of(13, 1), 12, "got redundancy of 13 frames before frame 12"),
        (field_of(65, 1), 99, "got redundancy of 65 frames before frame 99, need 1 to 64"),
        (field_of(1, 1), 0, "got redundancy of 1 frames before frame 0"),
        (field_of(2, 0), 12, "got redundancy of 0 codebooks, need 1 to 5"),
        (field_of(2, 6), 12, "got redundancy of 6 codebooks"),
        (field_of(2, 2, 9), 12, "got 9 payload bytes, need 10"),
        (field_of(1, 1)[:-1] + b"\x01", 12, "spare bits"),
        (field_of(1, 1)[:2] + b"\xff\xff\xf0", 12, "got code 1023, need 0 to 999"),
    ],
)
def test_a_field_that_does_not_fit_is_the_senders_fault(field, first, reason) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        recover(LAYOUT, packet(field, first=first))


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=30), st.integers(0, 100))
def test_any_field_is_read_or_refused(field, first) -> None:
    try:
        start, codes = recover(LAYOUT, packet(field, first=first))
    except RemoteProtocolError:
        return
    assert start >= 0
    assert start + codes.shape[-1] == first


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 7), st.integers(1, 9))
def test_a_relay_keeps_the_coarse_codebooks_and_the_redundancy(kept, frames) -> None:
    whole = packet(field_of(2, 1), frames=frames)
    thinned = packets.thin(LAYOUT, whole, kept)
    codes = packets.packet_codes(LAYOUT, whole)
    assert np.array_equal(packets.packet_codes(LAYOUT, thinned), codes[:kept])
    assert dataclasses.replace(thinned, codebooks=5, payload=whole.payload) == whole
    assert (thinned is whole) == (kept >= 5)


def test_sequence_numbers_wrap() -> None:
    codes = streams.codes(1, layout=LAYOUT)
    assert packets.make_packet(LAYOUT, codes, sequence=65536 + 7, first_frame=0).sequence == 7
