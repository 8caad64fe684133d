from __future__ import annotations

import threading

import numpy as np
import pytest

from streamdac.frontends.rings import CAPACITY, FADE, Ring


def count(first: int, samples: int) -> np.ndarray:
    return np.arange(first, first + samples, dtype=np.float32)[:, None]


def read(ring: Ring, samples: int, now: float = 0.0) -> np.ndarray:
    out = np.full((samples, ring.channels), np.nan, np.float32)
    ring.read_into(out, now)
    return out


def test_what_goes_in_comes_out_around_the_end_of_the_memory() -> None:
    ring = Ring(1)
    ring.write(count(0, 100), 0.0)
    read(ring, 100)  # the first samples after silence are faded in
    position = 100
    for step in range(500):
        samples = 1 + 977 * step % 1500
        ring.write(count(position, samples), 0.0)
        assert np.array_equal(read(ring, samples), count(position, samples))
        position += samples
    assert position > 3 * CAPACITY
    assert ring.counts.underruns == ring.counts.overruns == 0


def test_an_underrun_fades_to_silence_and_back_and_is_counted_once() -> None:
    ring = Ring(1)
    ring.write(np.ones((1000, 1), np.float32), 0.0)
    ring.prime()
    assert np.all(read(ring, 900)[FADE:] == 1)
    short = read(ring, 300)[:, 0]
    assert np.all(short[:100] == 1)
    assert np.all(np.diff(short[100 : 100 + FADE]) < 0), "no step"
    assert np.all(short[100 + FADE :] == 0)
    assert np.all(read(ring, 300) == 0)
    assert ring.counts.underruns == 1
    assert ring.counts.filled == 500
    ring.write(np.ones((300, 1), np.float32), 0.0)
    back = read(ring, 300)[:, 0]
    assert np.all(np.diff(back[:FADE]) > 0)
    assert np.all(back[FADE:] == 1)


def test_silence_before_the_first_audio_is_no_underrun() -> None:
    ring = Ring(2)
    assert np.all(read(ring, 500) == 0)
    assert ring.counts.underruns == ring.counts.filled == 0
    assert ring.offset == 500


def test_too_much_drops_the_oldest_and_counts_it() -> None:
    ring = Ring(1, limit=1000)
    ring.write(count(0, 1200), 0.0)
    block = ring.take(500)
    assert block is not None
    assert np.array_equal(block, count(700, 500))
    assert (ring.counts.overruns, ring.counts.dropped) == (1, 700)


def test_what_is_dropped_does_not_count_as_given() -> None:
    ring = Ring(1, limit=1000)
    ring.write(count(0, 1200), 0.0)
    read(ring, 100)
    read(ring, 100)
    assert ring.read_stamp() == (100, 0.0)
    assert ring.written + ring.offset == 200 + ring.level


def test_a_reader_that_was_away_finds_the_newest() -> None:
    ring = Ring(1)
    for first in range(0, 5 * CAPACITY, 1000):
        ring.write(count(first % 1000, 1000), 0.0)
    written = ring.written
    assert ring.take(10) is not None
    assert ring.counts.overruns == 1
    assert ring.level < CAPACITY // 2
    assert ring.counts.dropped + ring.level + 10 == written


def test_the_clock_tells_when_a_sample_is_given() -> None:
    ring = Ring(1)
    read(ring, 300)
    ring.write(count(1, 1000), 0.0)
    for _ in range(4):
        read(ring, 300)  # the last one is short by 200
    when = ring.written + ring.offset  # of the next sample that is written
    ring.write(count(5000, 10), 0.0)
    given = 5 * 300
    assert when == given
    assert ring.read_stamp() == (given - 300, 0.0)


def test_taking_waits_for_enough() -> None:
    ring = Ring(1)
    ring.write(count(0, 99), 0.0)
    assert ring.take(100) is None
    ring.write(count(99, 1), 0.0)
    block = ring.take(100)
    assert block is not None
    assert np.array_equal(block, count(0, 100))


@pytest.mark.parametrize("channels", [1, 2])
def test_two_threads_lose_nothing(channels: int) -> None:
    ring, samples = Ring(channels), 400_000

    def write() -> None:
        at = 0
        while at < samples:
            if ring.level < 20_000:
                block = count(at, min(317, samples - at)) % 65_536
                ring.write(np.repeat(block, channels, axis=1), 0.0)
                at += len(block)

    thread = threading.Thread(target=write)
    thread.start()
    at = 0
    while at < samples:
        block = ring.take(min(250, samples - at))
        if block is not None:
            assert np.array_equal(block, np.repeat(count(at, len(block)) % 65_536, channels, axis=1))
            at += len(block)
    thread.join()
    assert ring.counts.overruns == 0
