"""The jitter buffer: order, time, losses, stalls, mutes, ends and flushes."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from streamdac.errors import RemoteProtocolError
from streamdac.protocols import jitter
from streamdac.protocols.jitter import Kind

from .playing import DELAY, buffer, frames, kinds, play, sent
from .streams import HOP, codes, packets


def test_a_perfect_network_plays_every_frame_in_order_then_ends() -> None:
    made = buffer()
    slots = play(made, sent(50), until=0.8, end=(0.56, 50))
    assert frames(slots) == list(range(50))
    assert kinds(slots)[50:] == [Kind.ENDED] * (len(kinds(slots)) - 50)
    assert all(np.array_equal(s.codes, codes(50)[:, :, s.frame]) for s in slots if s.kind is Kind.PLAYED)
    assert dataclasses.asdict(made.counts) == dataclasses.asdict(jitter.JitterCounts(played=50))


def test_playback_begins_once_the_first_frame_is_as_old_as_the_target() -> None:
    slots = play(buffer(min_delay=0.1), sent(50), until=0.5)
    assert kinds(slots, waiting=True).index(Kind.PLAYED) == 16  # 10 ms of a frame, 50 ms of network, 100 ms of target
    assert slots[0].frame is None


def test_reordered_packets_need_nothing_while_the_delay_allows() -> None:
    made = buffer(min_delay=0.06)
    slots = play(made, sent(50, late=dict.fromkeys(range(3, 50, 4), 0.03)), until=0.7, end=(0.6, 50))
    assert frames(slots) == list(range(50))
    assert made.counts.stalled == made.counts.missing == 0


def test_packets_of_many_frames_are_played_one_frame_a_pop() -> None:
    assert frames(play(buffer(), sent(50, per_packet=8), until=0.9, end=(0.7, 50))) == list(range(50))


def test_a_lost_frame_is_missing_and_costs_its_own_time_only() -> None:
    made = buffer(min_delay=0.03)
    slots = play(made, sent(50, lost=[20, 30, 31]), until=0.8, end=(0.56, 50))
    # The end of the stream is reached at the same time as without loss.
    assert kinds(slots).index(Kind.ENDED) == 50
    assert frames(slots, Kind.PLAYED) == [f for f in range(50) if f not in (20, 30, 31)]
    assert made.counts.missing == 3


def test_redundancy_makes_up_for_lost_packets_with_coarse_codes() -> None:
    made = buffer(min_delay=0.03)
    slots = play(made, sent(50, lost=[20, 30, 31], redundancy=2, coarse=1), until=0.8, end=(0.6, 50))
    assert frames(slots, Kind.PLAYED, Kind.RECOVERED) == list(range(50))
    assert frames(slots, Kind.RECOVERED) == [20, 30, 31]
    for slot in slots:
        if slot.kind is Kind.RECOVERED:
            assert np.array_equal(slot.codes, codes(50)[:1, :, slot.frame])
    assert made.counts.recovered == 3


def test_redundancy_that_comes_late_makes_the_buffer_wait_for_it() -> None:
    lost = list(range(40, 2000, 10))
    made = buffer(min_delay=0.02)
    play(made, sent(2000, per_packet=4, lost=lost, redundancy=4), until=20.0)
    plain = buffer(min_delay=0.02)
    play(plain, sent(2000, per_packet=4, lost=lost), until=20.0)
    assert made.delay.target > plain.delay.target
    assert made.counts.missing + made.counts.passed < plain.counts.missing + plain.counts.passed


def test_a_full_frame_that_comes_after_its_coarse_copy_is_played() -> None:
    arrivals = sent(20, redundancy=1, late={5: 0.015})
    slots = play(buffer(min_delay=0.06), arrivals, until=0.4)
    assert Kind.RECOVERED not in kinds(slots)


def test_a_delay_stalls_playback_and_loses_nothing() -> None:
    made = buffer()
    slots = play(made, sent(60, late=dict.fromkeys(range(20, 60), 0.06)), until=0.9, end=(0.71, 60))
    assert frames(slots) == list(range(60))
    assert made.counts.stalled == 4
    assert made.counts.missing == 0
    assert {slot.frame for slot in slots if slot.kind is Kind.STALLED} == {20}


def test_a_loss_at_the_edge_stalls_and_is_then_passed_over() -> None:
    made = buffer(min_delay=0.02)
    arrivals = sent(60, lost=range(20, 26))
    slots = play(made, arrivals, until=0.9, end=(0.68, 60))
    counts = made.counts
    assert counts.passed > 0
    assert counts.played == 54
    assert counts.passed + counts.missing == 6
    # Concealed hops stand for exactly the frames that were lost: time stays right.
    assert counts.stalled + counts.missing == 6
    assert kinds(slots).index(Kind.ENDED) == 60


def test_a_hole_is_waited_for_while_there_is_time() -> None:
    made = buffer(min_delay=0.02)
    made.push(packets(8)[0], 0.05)
    made.push(packets(8)[1], 0.06)
    now = 0.07
    while made.pop(now).frame != 1:
        now += HOP
    made.delay.target = 0.3  # it has grown since
    made.push(packets(8)[3], 0.08)
    assert [made.pop(now + i * HOP).kind for i in (1, 2, 3)] == [Kind.STALLED] * 3
    made.push(packets(8)[2], now + 3.5 * HOP)
    assert [made.pop(now + i * HOP).frame for i in (4, 5)] == [2, 3]
    assert (made.counts.played, made.counts.missing, made.counts.passed) == (4, 0, 0)


def test_a_mute_is_silent_until_the_next_packet() -> None:
    made = buffer()
    arrivals = [a for a in sent(60) if not 20 <= a[1].first_frame < 40]
    slots = play(made, arrivals, until=0.9, mutes=[(0.26, 20), (0.36, 30)], end=(0.66, 60))
    assert made.counts.muted == 20
    assert made.counts.missing == made.counts.stalled == 0
    assert frames(slots, Kind.MUTED) == list(range(20, 40))
    assert frames(slots) == [*range(20), *range(40, 60)]


def test_a_mute_overtaken_by_the_packet_after_it_lasts_up_to_that_packet() -> None:
    made = buffer(min_delay=0.1)
    arrivals = [a for a in sent(60) if not 20 <= a[1].first_frame < 25]
    play(made, arrivals, until=0.9, mutes=[(0.32, 20)], end=(0.66, 60))
    assert (made.counts.muted, made.counts.missing, made.counts.played) == (5, 0, 55)


def test_a_mute_that_comes_when_all_is_over_changes_nothing() -> None:
    made = buffer()
    play(made, sent(30), until=0.6)
    made.mute(10)
    assert made.pop(0.6).kind is Kind.STALLED


@pytest.mark.parametrize("slower", [0.1, 0.3])
def test_what_follows_a_mute_is_whole_however_late_it_comes(slower) -> None:
    made = buffer()
    before = sent(75)
    after = sent(450, delay=DELAY + slower)[375:]
    slots = play(made, before + after, until=5.1, mutes=[(0.81, 75), (1.56, 150)])
    assert frames(slots)[:75] == list(range(75))
    assert frames(slots, Kind.PLAYED, Kind.RECOVERED)[75:150] == list(range(375, 450))
    assert (made.counts.late, made.counts.missing, made.counts.passed, made.counts.flushes) == (0, 0, 0, 0)
    # The silence has made the delay what it is to be.
    first = next(i for i, slot in enumerate(slots) if slot.frame == 375 and slot.kind is Kind.PLAYED)
    assert first * HOP + HOP / 2 - after[0][0] == pytest.approx(made.delay.target, abs=1.5 * HOP)


def test_a_sender_with_a_slow_clock_loses_nothing_by_a_long_mute() -> None:
    made, mute = buffer(), 90_000  # 15 minutes
    play(made, sent(75), until=0.9, mutes=[(0.81, 75)])
    drift = mute * HOP * 4e-4
    play(made, [], start=0.9, until=mute * HOP + 0.1)
    after = sent(75, delay=DELAY + drift)
    after = [(time + mute * HOP, dataclasses.replace(p, first_frame=mute + p.first_frame)) for time, p in after]
    slots = play(made, after, start=mute * HOP + 0.1, until=mute * HOP + 1.7)
    assert frames(slots) == list(range(mute, mute + 75))
    assert made.counts.late == 0


def test_playback_goes_back_into_a_mute_no_further_than_to_its_first_frame() -> None:
    made = buffer(min_delay=0.2)
    arrivals = [(time, p) for time, p in sent(78, late={77: 3.0}) if p.first_frame not in (75, 76)]
    slots = play(made, arrivals, until=4.5, mutes=[(0.81, 75)])
    assert frames(slots) == [*range(75), 77]
    assert [slot.frame for slot in slots if slot.frame is not None and slot.frame < 75] == list(range(75))


def test_frames_that_were_played_within_a_mute_are_not_played_again() -> None:
    made = buffer()
    play(made, sent(30), until=0.38, mutes=[(0.36, 36)])
    made.push(packets(40, per_packet=10)[3], 0.38)  # 30 to 39, although 36 is said to be silent
    slots = [made.pop(0.385 + i * HOP) for i in range(20)]
    assert frames(slots) == list(range(30, 40))
    made.push(dataclasses.replace(packets(1)[0], first_frame=37), 0.6)
    assert frames([made.pop(0.6 + i * HOP) for i in range(4)]) == []


def test_frames_that_were_concealed_before_an_end_are_not_played_after_all() -> None:
    made = buffer()
    play(made, sent(30), until=0.38)
    made.end(60)
    assert [made.pop(0.385 + i * HOP).kind for i in range(20)][-1] is Kind.MISSING
    made.mute(32)
    assert not made.push(dataclasses.replace(packets(1)[0], first_frame=33), 0.6)


@pytest.mark.parametrize("lost", [[99], range(90, 100)])
def test_a_packet_lost_before_a_mute_does_not_hold_playback(lost) -> None:
    made = buffer()
    arrivals = [a for a in sent(1200, lost=lost) if not 100 <= a[1].first_frame < 1100]
    mutes = [(frame * HOP + DELAY + HOP, frame) for frame in range(100, 1100, 75)]
    slots = play(made, arrivals, until=12.4, mutes=mutes, end=(12.05, 1200))
    counts = made.counts
    assert frames(slots) == [*range(100 - len(lost)), *range(1100, 1200)]
    assert counts.stalled + counts.missing == len(lost)
    assert counts.missing + counts.passed == len(lost)
    assert counts.muted == 1000
    assert counts.flushes == 0


def test_a_hole_before_a_mute_is_waited_for_while_there_is_time() -> None:
    made = buffer(min_delay=0.2)
    play(made, sent(20), until=0.41, mutes=[(0.26, 22)])
    made.delay.target = 0.3  # it has grown since
    now = 0.41
    slots = [made.pop(now := now + HOP) for _ in range(8)]
    assert slots[-1].kind is Kind.STALLED
    (packet,) = packets(1)
    made.push(dataclasses.replace(packet, first_frame=21), now)
    made.push(dataclasses.replace(packet, first_frame=20), now)
    assert [made.pop(now + i * HOP).frame for i in (1, 2)] == [20, 21]
    assert made.counts.missing == 0


def test_a_mute_brings_a_delay_that_is_too_long_down_unheard() -> None:
    made = buffer(max_delay=0.03)
    arrivals = [a for a in sent(200, late=dict.fromkeys(range(20, 40), 0.07)) if not 40 <= a[1].first_frame < 100]
    play(made, arrivals, until=0.52, mutes=[(0.5, 40)])
    assert made.excess(0.52) > 0.03
    play(made, [a for a in arrivals if a[0] > 0.515], start=0.52, until=1.2)
    assert made.excess(1.2) < 0.02
    assert made.counts.muted < 60
    assert made.counts.dropped == made.counts.missing == 0


def test_a_mute_holds_where_playback_is_too_early() -> None:
    made = buffer()
    play(made, sent(30), until=0.5, mutes=[(0.36, 30)])
    made.delay.target = 0.2
    held = [made.pop(0.5) for _ in range(3)]
    assert [slot.kind for slot in held] == [Kind.MUTED] * 3
    assert len({slot.frame for slot in held}) == 1


@pytest.mark.parametrize("first", [40, 41])
def test_a_frame_within_a_mute_that_came_all_the_same_is_not_passed_over(first) -> None:
    made = buffer(min_delay=0.06)
    play(made, sent(10), until=0.45, mutes=[(0.16, 10)])
    made.delay.target = 0.0  # so that the mute is shortened
    packet = packets(2, redundancy=1)[1]
    made.push(dataclasses.replace(packet, first_frame=first), first * HOP + DELAY + HOP)
    slots = [made.pop(0.46 + i * HOP) for i in range(8)]
    assert frames(slots, Kind.RECOVERED, Kind.PLAYED) == [first - 1, first]
    muted = frames(slots, Kind.MUTED)
    assert muted[-1] - muted[0] > len(muted)


def test_a_long_delay_is_shortened_by_leaving_out_a_frame_now_and_then() -> None:
    made = buffer()
    # 100 ms more for two seconds, then the old delay again.
    arrivals = sent(800, late=dict.fromkeys(range(200), 0.15))
    slots = play(made, arrivals, until=8.4, end=(8.35, 800))
    assert made.counts.dropped > 0
    assert made.counts.flushes == 0
    assert made.counts.played + made.counts.dropped == 800
    played = frames(slots)
    assert all(b - a in (1, 2) for a, b in itertools.pairwise(played))


def test_a_delay_beyond_hope_is_flushed() -> None:
    made = buffer()
    arrivals = sent(900, late={i: max(0.0, 3.0 - (i - 100) * HOP) for i in range(100, 400)})
    play(made, arrivals, until=9.5)
    assert made.counts.flushes > 0
    assert made.counts.flushed > 50
    assert abs(made.excess(9.0)) < 0.3


def test_what_lies_too_far_ahead_is_jumped_to() -> None:
    made = buffer()
    play(made, sent(20), until=0.3)
    far = dataclasses.replace(packets(1)[0], first_frame=100_000)
    assert made.push(far, 0.31)
    assert made.counts.flushes == 1
    assert made.buffered == 1
    slots = [made.pop(0.32 + i * HOP) for i in range(3)]
    assert [(slot.kind, slot.frame) for slot in slots][-1] == (Kind.PLAYED, 100_000)


def test_late_packets_are_counted_and_not_played() -> None:
    made = buffer()
    arrivals = sent(50)
    play(made, arrivals, until=0.4)
    assert not made.push(arrivals[3][1], 0.4)
    assert made.counts.late == 1


def test_only_late_packets_in_a_row_mean_that_playback_is_in_the_wrong_place() -> None:
    made = buffer()
    play(made, sent(40), until=0.4)
    made.push(dataclasses.replace(packets(1)[0], first_frame=3000), 0.4)
    assert frames([made.pop(0.41 + i * HOP) for i in range(4)]) == [3000]
    late = packets(120)[40:]
    taken = [made.push(packet, 0.45 + i * HOP) for i, packet in enumerate(late)]
    first = taken.index(True)
    assert first == pytest.approx(jitter.LATE_SECONDS / HOP, abs=1)
    assert all(taken[first:])
    assert made.counts.late == first
    assert made.counts.flushes == 2  # to frame 3000, and back
    assert made.pop(1.0).frame in range(40 + first, 120)


def test_a_burst_of_late_packets_is_not_gone_back_to() -> None:
    made = buffer()
    play(made, sent(40), until=0.4)
    made.push(dataclasses.replace(packets(1)[0], first_frame=60), 0.4)
    assert frames([made.pop(0.41 + i * HOP) for i in range(40)])[-1] == 60
    assert [made.push(packet, 0.8) for packet in packets(60)[45:]] == [False] * 15
    assert made.counts.late == 15


def test_what_waits_before_playback_begins_is_bounded() -> None:
    made = buffer(max_delay=0.1)
    for index, packet in enumerate(packets(2000)):
        made.push(packet, 0.0001 * index)
    assert made.buffered <= round((0.1 + jitter.FLUSH_SECONDS) / HOP)


def test_frames_much_older_than_the_target_are_not_begun_with() -> None:
    made = buffer()
    for packet in packets(60):
        made.push(packet, packet.first_frame * HOP)
    slot = made.pop(0.6)
    assert slot.kind is Kind.PLAYED
    assert slot.frame >= 57


def test_packets_before_the_first_one_that_came_are_played_if_there_is_time() -> None:
    made = buffer(min_delay=0.1)
    for packet in reversed(packets(5)):
        made.push(packet, 0.05)
    assert [made.pop(0.112 + i * HOP).frame for i in range(5)] == list(range(5))


def test_redundancy_alone_does_not_begin_a_stream() -> None:
    made = buffer(min_delay=0.05)
    made.push(packets(6, redundancy=3)[5], 0.05)
    assert made.buffered == 1
    assert made.pop(0.2).frame == 5


def test_a_stream_that_ends_before_anything_came_has_ended() -> None:
    made = buffer()
    assert made.pop(0.0).kind is Kind.WAITING
    made.end(0)
    assert made.pop(0.1).kind is Kind.ENDED


def test_a_short_stream_does_not_wait_for_its_target() -> None:
    made = buffer(min_delay=0.5)
    made.push(packets(2)[0], 0.01)
    made.push(packets(2)[1], 0.02)
    made.end(2)
    assert [made.pop(0.03 + i * HOP).kind for i in range(3)] == [Kind.PLAYED, Kind.PLAYED, Kind.ENDED]


def test_frames_missing_before_the_end_are_concealed() -> None:
    slots = play(buffer(), sent(45), until=0.8, end=(0.5, 50))
    assert frames(slots, Kind.MISSING, Kind.STALLED)[-1] == 49
    assert kinds(slots)[-1] is Kind.ENDED


def test_codes_that_do_not_fit_are_the_senders_fault_and_change_nothing() -> None:
    made = buffer()
    bad = dataclasses.replace(packets(1)[0], payload=bytes(4))
    with pytest.raises(RemoteProtocolError, match="got 4 payload bytes, need 5"):
        made.push(bad, 0.0)
    assert made.buffered == 0
    assert made.delay.base is None
