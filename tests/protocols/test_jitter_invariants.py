"""The jitter buffer under anything: time runs forwards, every pop is one hop, frames come once, counts add up."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.protocols import jitter
from streamdac.protocols.jitter import JitterBuffer, Kind, Slot

from .playing import buffer, frames, kinds, play, sent
from .streams import HOP, codes, packets

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.integers(0, 59)),
        st.tuples(st.just("pop"), st.integers(1, 6)),
        st.tuples(st.just("wait"), st.sampled_from([0.001, 0.01, 0.1, 1.0, 5.0])),
        st.tuples(st.just("mute"), st.integers(0, 200)),
        st.tuples(st.just("jump"), st.integers(0, 10**6)),
        st.tuples(st.just("end"), st.integers(0, 250)),
    ),
    max_size=60,
)
ADVANCING = (Kind.PLAYED, Kind.RECOVERED, Kind.MISSING)


def counted(made: JitterBuffer) -> Counter:
    counts = made.counts
    return Counter(
        {
            Kind.PLAYED: counts.played,
            Kind.RECOVERED: counts.recovered,
            Kind.MISSING: counts.missing,
            Kind.STALLED: counts.stalled,
            Kind.MUTED: counts.muted,
        }
    )


def check(made: JitterBuffer, slots: list[Slot], flushes: int, before: int | None) -> int | None:
    """Time runs forwards but for a flush and for silence, frames come once, and each pop is in the counts."""
    last = None if made.counts.flushes > flushes else before
    slot = slots[-1]
    if slot.frame is not None:
        assert last is None or slot.frame >= last
        if slot.kind is not Kind.MUTED:
            last = slot.frame + (slot.kind in ADVANCING)
    assert (slot.codes is not None) == (slot.kind in (Kind.PLAYED, Kind.RECOVERED))
    assert (slot.frame is None) == (slot.kind in (Kind.WAITING, Kind.ENDED))
    seen = Counter(s.kind for s in slots if s.frame is not None)
    assert +counted(made) == +seen
    return last


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 4), st.integers(0, 6))
def test_whatever_comes_time_runs_forwards_and_counts_add_up(steps, per_packet, redundancy) -> None:
    made, now, slots, last, flushes = buffer(max_delay=0.2), 0.0, [], None, 0
    stream = packets(240, per_packet=per_packet, redundancy=redundancy)
    for what, value in steps:
        if what == "push":
            made.push(stream[value % len(stream)], now)
        elif what == "jump":
            made.push(dataclasses.replace(stream[0], first_frame=value), now)
        elif what == "mute":
            made.mute(value)
        elif what == "end":
            made.end(value)
        elif what == "wait":
            now += value
        for _ in range(value if what == "pop" else 0):
            slots.append(made.pop(now))
            last = check(made, slots, flushes, last)
            flushes = made.counts.flushes
            now += HOP
        capacity = round((0.2 + jitter.FLUSH_SECONDS) / HOP)
        assert made.buffered <= capacity + jitter.FLUSH_SECONDS / HOP


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(0, 8),
    st.sets(st.integers(5, 150), max_size=60),
    st.lists(st.floats(0, 0.08), min_size=200, max_size=200),
    st.sets(st.integers(0, 150), max_size=10),
)
def test_any_network_plays_each_frame_at_most_once_with_its_own_codes(per, redundancy, lost, jitters, twice) -> None:
    made = buffer()
    arrivals = sent(200, per_packet=per, redundancy=redundancy, lost=lost, late=dict(enumerate(jitters)))
    arrivals += [(time + 0.01, packet) for i, (time, packet) in enumerate(arrivals) if i in twice]
    slots = play(made, arrivals, until=4.0, end=(2.3, 200))
    truth = codes(200)
    heard = frames(slots, Kind.PLAYED, Kind.RECOVERED)
    assert heard == sorted(set(heard))
    for slot in slots:
        if slot.codes is not None:
            assert np.array_equal(slot.codes, truth[: len(slot.codes), :, slot.frame])
    assert kinds(slots)[-1] is Kind.ENDED
    counts = made.counts
    begun = slots[next(i for i, s in enumerate(slots) if s.kind is not Kind.WAITING)].frame
    passed = counts.passed + counts.dropped + counts.flushed
    assert counts.played + counts.recovered + counts.missing + passed == 200 - begun
