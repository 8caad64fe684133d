"""What a receiver measures: losses across the wrap, bursts, duplicates, late packets, jitter, queues; and the report."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.protocols.arrivals import Arrivals, PacketCounts
from streamdac.protocols.messages import SEQUENCES, Packet, Stats
from streamdac.protocols.wire import decode, encode

from .streams import HOP, packets

(PACKET,) = packets(1)


def at(sequence, *, frame=None) -> Packet:
    frame = sequence if frame is None else frame
    return dataclasses.replace(PACKET, sequence=sequence % SEQUENCES, first_frame=frame)


def run(sequences, *, start=0) -> Arrivals:
    made = Arrivals(HOP)
    for sequence in sequences:
        made.observe(at(start + sequence), (start + sequence) * HOP)
    return made


@pytest.mark.parametrize("start", [0, 7, SEQUENCES - 3])
def test_losses_and_bursts_are_counted_across_the_wrap(start) -> None:
    made = run([0, 1, 4, 5, 6, 8], start=start)
    assert made.total == PacketCounts(received=6, lost=3, burst=2)
    assert made.report(0).highest == (start + 8) % SEQUENCES


@pytest.mark.parametrize("start", [0, SEQUENCES - 2])
def test_a_packet_that_comes_late_was_not_lost(start) -> None:
    assert run([0, 3, 1, 2], start=start).total == PacketCounts(received=4, lost=0, burst=2)


def test_packets_before_the_first_one_that_came_are_expected_from_then_on() -> None:
    made = run([5, 2, 4, 3, 6])
    assert made.total == PacketCounts(received=5, lost=0)
    assert run([2, 0]).total == PacketCounts(received=2, lost=1)


def test_duplicates_are_told_and_counted() -> None:
    made = Arrivals(HOP)
    assert [made.observe(at(n), 0.0) for n in (0, 1, 1, 0, 3, 2, 2)] == [True, True, False, False, True, True, False]
    assert made.total == PacketCounts(received=4, lost=0, burst=1, duplicates=3)


def test_what_is_too_old_to_tell_is_taken_for_a_duplicate() -> None:
    made = run([0, 1, 5000])
    assert not made.observe(at(2), 1.0)
    assert made.observe(at(4000), 1.0)
    assert made.total.lost == 4998 - 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=120), st.integers(0, SEQUENCES - 1))
def test_received_and_lost_are_the_range_that_was_expected(sequences, start) -> None:
    made = run(sequences, start=start)
    distinct = set(sequences)
    assert made.total.received == len(distinct)
    assert made.total.duplicates == len(sequences) - len(distinct)
    assert made.total.received + made.total.lost == max(distinct) - min(distinct) + 1


def test_jitter_is_that_of_rfc_3550() -> None:
    made = Arrivals(HOP)
    for frame in range(2000):
        made.observe(at(frame), frame * HOP + 0.1 + 0.01 * (frame % 2))
    assert made.jitter == pytest.approx(0.01, rel=1e-3)


def test_a_report_counts_since_the_last_one() -> None:
    made = run([0, 1, 4])
    made.late()
    assert made.report(3, buffered=0.08, round_trip=0.25) == Stats(3, 4, 3, 2, 2, 1, 0, 0, 80_000, 250_000)
    made.observe(at(2), 0.05)
    second = made.report(3)
    assert (second.received, second.lost, second.burst, second.late) == (1, 0, 0, 0)
    assert made.total == PacketCounts(received=4, lost=1, burst=2, late=1)


def test_a_queue_shows_as_packets_slower_than_the_fastest_of_the_last_minute() -> None:
    made, queued = Arrivals(HOP), []
    for frame in range(1000):
        made.observe(at(frame), frame * HOP + 0.05 + max(0.0, (frame - 300) * 0.001))
        if frame % 100 == 99:
            queued.append(made.report(0).queued)
    assert queued[:3] == [0, 0, 0]
    assert queued == sorted(queued)
    assert queued[-1] == pytest.approx(600_000, abs=2000)
    assert made.report(0).queued == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, SEQUENCES - 1), st.integers(0, 2**48 - 1), st.floats(0, 1e6))),
    st.floats(-1, 1e9),
    st.one_of(st.none(), st.floats(0, 1e9)),
)
def test_every_report_is_a_message(observed, buffered, round_trip) -> None:
    made = Arrivals(HOP)
    for sequence, frame, now in observed:
        made.observe(at(sequence, frame=frame), now)
    stats = made.report(5, buffered=buffered, round_trip=round_trip)
    assert decode(encode(stats)) == stats
