"""The receiving end as a whole: what to decode and how loud, what to report, how fast to play."""

import dataclasses

import numpy as np
import pytest

from streamdac.errors import RemoteProtocolError
from streamdac.protocols.jitter import Kind
from streamdac.protocols.messages import End, Mute
from streamdac.protocols.receiver import Playable, Receiver

from .streams import HOP, LAYOUT, codes, packets

SILENCE = np.full((4, 1), 9)
CODES = codes(40)


def receiver() -> Receiver:
    return Receiver(LAYOUT, frame_seconds=HOP, silence=SILENCE)


def play(made, count, *, lost=(), mute=None, end=True) -> list[Playable]:
    """Packets in real time, one pop a hop; WAITING left out."""
    sent, played = packets(count), []
    for hop in range(count + 8):
        now = (hop + 1) * HOP
        if hop < count and hop not in lost:
            made.push(sent[hop], now)
        if hop == mute:
            made.push(Mute(0, mute), now)
        if hop == count and end:
            made.push(End(0, 0, count), now)
        played.append(made.pop(now + HOP / 2))
    return [playable for playable in played if playable.kind is not Kind.WAITING]


def test_each_hop_gives_the_codes_of_its_frame_at_full_level() -> None:
    played = play(receiver(), 40)
    assert [p.frame for p in played[:40]] == list(range(40))
    assert all(p.gain == 1 and np.array_equal(p.codes, CODES[:, :, p.frame]) for p in played[:40])
    assert played[-1].kind is Kind.ENDED
    assert played[-1].frame is None
    assert played[-1].gain == 0


def test_a_hole_repeats_the_last_codes_and_is_counted_once() -> None:
    made = receiver()
    played = play(made, 40, lost=[20])
    (hole,) = [p for p in played if p.kind in (Kind.MISSING, Kind.STALLED)]
    assert np.array_equal(hole.codes, CODES[:, :, 19])
    assert hole.gain == 1
    assert made.concealer.counts.repeated == 1
    assert made.arrivals.total.lost == 1


def test_a_long_hole_fades_to_silence_and_playback_goes_on_after_it() -> None:
    played = play(receiver(), 40, lost=range(10, 25))
    gains = [p.gain for p in played]
    assert 0 in gains[10:25]
    assert [p.frame for p in played if p.kind is Kind.PLAYED] == [*range(10), *range(25, 40)]


def test_a_mute_is_silence_and_no_concealment() -> None:
    made = receiver()
    played = play(made, 40, lost=range(20, 30), mute=20)
    quiet = [p for p in played if p.kind is Kind.MUTED]
    assert len(quiet) == 10
    assert all(p.gain == 0 and p.codes is SILENCE for p in quiet)
    assert made.concealer.counts.runs == 0


def test_before_the_first_packet_it_waits_in_silence() -> None:
    playable = receiver().pop(0.0)
    assert (playable.kind, playable.gain, playable.codes is SILENCE) == (Kind.WAITING, 0, True)


def test_duplicates_and_late_packets_are_counted_and_change_nothing() -> None:
    made = receiver()
    play(made, 20, end=False)
    before = made.jitter.buffered
    made.push(packets(20)[4], 0.3)
    assert made.arrivals.total.duplicates == 1
    made = receiver()
    play(made, 20, lost=[4], end=False)
    made.push(packets(20)[4], 0.3)
    stats = made.stats(0, 0.3)
    assert (stats.late, stats.received, stats.lost) == (1, 20, 0)
    assert made.jitter.buffered == before


def test_codes_that_do_not_fit_are_the_senders_fault() -> None:
    with pytest.raises(RemoteProtocolError, match="got a packet of 5 codebooks"):
        receiver().push(dataclasses.replace(packets(1)[0], codebooks=5), 0.0)


def test_the_report_names_the_buffers_delay_and_the_round_trip() -> None:
    made = receiver()
    play(made, 40, end=False)
    stats = made.stats(2, 0.47, round_trip=0.031)
    assert (stats.stream, stats.highest, stats.received, stats.round_trip) == (2, 39, 40, 31_000)
    assert 20_000 <= stats.buffered <= 100_000
    later = made.stats(2, 0.77)  # nothing was played meanwhile
    assert later.buffered == pytest.approx(stats.buffered + 300_000, abs=20_000)


def test_speed_follows_a_fast_sender() -> None:
    made = receiver()
    for frame, packet in enumerate(packets(3000)):
        now = frame * HOP / 1.004
        made.push(packet, now)
        if frame % 250 != 249:  # played a little too slowly
            made.pop(now)
    assert made.drift.drift == pytest.approx(0.004, abs=1e-4)
    assert 1.004 <= made.speed(3000 * HOP / 1.004) <= 1.01
