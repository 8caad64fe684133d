"""The sending end: packets whatever the pieces, adjustments from the next packet on, mutes and ends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import LocalProtocolError, UsageError
from streamdac.protocols import redundancy
from streamdac.protocols.messages import End, Layout, Mute, Packet
from streamdac.protocols.packets import max_frames, packet_codes
from streamdac.protocols.sender import Sender

from .streams import LAYOUT, codes


def opened(packets) -> np.ndarray:
    """The codes of packets that follow each other."""
    assert [p.first_frame for p in packets] == [sum(q.frames for q in packets[:i]) for i in range(len(packets))]
    assert [p.sequence for p in packets] == list(range(len(packets)))
    return np.concatenate([packet_codes(LAYOUT, packet) for packet in packets], axis=-1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=12), st.integers(1, 6))
def test_packets_do_not_depend_on_how_the_codes_came(pieces, per_packet) -> None:
    whole = codes(sum(pieces))
    cut, made, first = [], Sender(LAYOUT, frames_per_packet=per_packet), 0
    for frames in pieces:
        cut += made.push(whole[:, :, first : first + frames])
        first += frames
    *last, end = made.end(77)
    at_once = Sender(LAYOUT, frames_per_packet=per_packet)
    assert [*cut, *last] == [*at_once.push(whole), *at_once.flush()]
    assert end == End(0, 77, sum(pieces))
    if cut or last:
        assert np.array_equal(opened([*cut, *last]), whole)
    assert made.packets == len([*cut, *last])
    assert made.frames == sum(pieces)


def test_codebooks_change_with_the_next_packet() -> None:
    made, whole = Sender(LAYOUT, frames_per_packet=3), codes(8)
    sent = made.push(whole[:, :, :4])
    made.adjust(codebooks=2, frames_per_packet=2)
    sent += made.push(whole[:, :, 4:])
    assert [(p.codebooks, p.frames) for p in sent] == [(4, 3), (4, 1), (2, 2), (2, 2)]
    assert np.array_equal(packet_codes(LAYOUT, sent[3]), whole[:2, :, 6:])


def test_redundancy_changes_with_the_next_packet_and_what_is_none_stays() -> None:
    made, whole = Sender(LAYOUT, redundancy_frames=2, redundancy_codebooks=2), codes(8)
    sent = made.push(whole[:, :, :4])
    made.adjust(redundancy_frames=1)
    sent += made.push(whole[:, :, 4:5])
    made.adjust(redundancy_codebooks=1)
    sent += made.push(whole[:, :, 5:6])
    found = [redundancy.check_field(LAYOUT, packet) for packet in sent]
    assert found == [(0, 0), (1, 2), (2, 2), (2, 2), (1, 2), (1, 1)]
    assert (made.codebooks, made.frames_per_packet) == (4, 1)


def test_what_is_asked_for_is_bounded_by_the_session_and_by_one_packet() -> None:
    wide = Layout(64, 65536, 32)
    made = Sender(wide, frames_per_packet=64)
    assert made.frames_per_packet == max_frames(wide, 64) == 2
    made.adjust(codebooks=65)
    assert made.codebooks == 64


def test_redundancy_that_was_switched_off_comes_back_as_it_was() -> None:
    made = Sender(LAYOUT, redundancy_frames=3)
    made.adjust(redundancy_codebooks=0)
    made.adjust(redundancy_codebooks=2)
    assert redundancy.check_field(LAYOUT, made.push(codes(5))[4]) == (3, 2)


@pytest.mark.parametrize("wrong", [{"codebooks": 0}, {"frames_per_packet": 0}, {"codebooks": -1}])
def test_less_than_one_is_a_mistake(wrong) -> None:
    with pytest.raises(UsageError, match="need at least 1"):
        Sender(LAYOUT).adjust(**wrong)


def test_a_mute_sends_what_was_kept_and_is_said_again_once_a_second() -> None:
    made = Sender(LAYOUT, frames_per_packet=4, redundancy_frames=2, mute_frames=10, stream=5)
    made.push(codes(3))
    first = made.mute(4)
    assert [type(message) for message in first] == [Packet, Mute]
    assert first[1] == Mute(5, 3)
    assert made.mute(0) == []
    assert made.mute(5) == []
    assert made.mute(5) == []
    assert made.mute(1) == [Mute(5, 17)]
    sent = made.push(codes(4))
    assert sent[0].first_frame == 18
    assert (sent[0].sequence, sent[0].stream, sent[0].redundancy) == (1, 5, b"")
    assert made.mute(1) == [Mute(5, 22)]


def test_nothing_is_sent_after_the_end() -> None:
    made = Sender(LAYOUT)
    made.end(0)
    for again in (lambda: made.push(codes(1)), made.flush, lambda: made.mute(1), lambda: made.end(0)):
        with pytest.raises(LocalProtocolError, match="the stream has ended"):
            again()
