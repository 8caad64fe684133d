"""Rate control: less under queues and heavy loss, redundancy under any, and back again; doubled waits where that fails."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import UsageError
from streamdac.protocols import rate
from streamdac.protocols.messages import Stats
from streamdac.protocols.rate import Rate, RateControl


def stats(*, lost=0, burst=0, queued=0.0, round_trip=0.0, received=None) -> Stats:
    received = 75 - lost if received is None else received
    return Stats(0, 0, received, lost, burst, 0, 0, round(queued * 1e6), 0, round(round_trip * 1e6))


def control(**kwargs) -> RateControl:
    return RateControl(max_codebooks=16, **kwargs)


def run(made: RateControl, seconds: int, *, start=0, **report) -> Rate:
    """One report a second."""
    for second in range(start, start + seconds):
        made.report(stats(**report), float(second))
    return made.rate


def test_without_trouble_everything_is_sent() -> None:
    assert run(control(), 60) == Rate(16, 1, 0, 1)


def test_loss_is_met_with_redundancy_for_its_bursts_and_that_goes_again() -> None:
    made = control(redundancy_codebooks=2)
    assert run(made, 10, lost=3, burst=3) == Rate(16, 1, 3, 2)
    assert run(made, 60, start=10) == Rate(16, 1, 0, 2)


def test_redundancy_takes_no_more_room_than_the_codes_themselves() -> None:
    made = control(redundancy_codebooks=4)
    assert run(made, 10, lost=2, burst=1) == Rate(16, 1, 1, 4)
    assert run(made, 5, start=10, lost=4, burst=8) == Rate(16, 1, 8, 2)
    assert run(made, 5, start=15, lost=4, burst=60) == Rate(16, 1, 16, 1)
    assert run(made, 90, start=20) == Rate(16, 1, 0, 4)


def test_redundancy_covers_whole_packets_up_to_a_limit() -> None:
    assert run(control(frames_per_packet=4), 10, lost=2, burst=2).redundancy_frames == 8
    assert run(control(), 10, lost=3, burst=60).redundancy_frames == rate.MAX_REDUNDANCY


def test_a_queue_lowers_the_rate_at_once_overhead_first() -> None:
    made = control()
    seen = [made.report(stats(queued=0.4), float(second)) for second in range(12)]
    # One frame of 16 codebooks is 160 bits, less than a packet's overhead.
    assert [(r.codebooks, r.frames_per_packet) for r in seen[:4]] == [(16, 2), (11, 2), (7, 2), (7, 4)]
    assert seen[-1].codebooks == 1
    assert made.decreases == 7


def test_a_queue_on_our_own_side_does_the_same_without_any_report() -> None:
    made = control()
    assert made.queued(0.3, 0.0).frames_per_packet == 2
    assert made.queued(0.3, 0.5).codebooks == 16  # the first decrease has not shown yet
    assert made.queued(0.3, 1.0).codebooks == 11
    assert made.queued(0.1, 60.0) == Rate(11, 2, 0, 1)  # neither trouble nor calm
    assert made.queued(0.0, 61.0).codebooks == 12


def test_a_rise_of_the_round_trip_lowers_the_rate_until_the_route_is_known() -> None:
    made = control()
    run(made, 5, round_trip=0.05)
    assert run(made, 2, start=5, round_trip=0.5).frames_per_packet > 1
    assert run(made, 200, start=7, round_trip=0.5) == made.best


def test_the_rate_comes_back_one_codebook_after_the_other_then_smaller_packets() -> None:
    made = control()
    run(made, 3, queued=0.4)
    lowered = made.rate
    assert lowered == Rate(7, 2, 0, 1)
    seen = [made.report(stats(), float(second)) for second in range(3, 60)]
    steps = [(r.codebooks, r.frames_per_packet) for r in dict.fromkeys(seen)]
    assert steps == [(n, 2) for n in range(7, 17)] + [(16, 1)]


def limited(made: RateControl, codebooks: int, seconds: range) -> list[int]:
    """The seconds at which the rate came to exceed what the link takes, which then has a queue."""
    exceeded = []
    for second in seconds:
        before = made.rate.codebooks
        after = made.report(stats(queued=0.4 if before > codebooks else 0.0), float(second)).codebooks
        if after > codebooks >= before:
            exceeded.append(second)
    return exceeded


def test_an_increase_that_brings_trouble_is_tried_again_later_and_later() -> None:
    made = control()
    exceeded = limited(made, 8, range(1500))
    waits = [b - a for a, b in itertools.pairwise(exceeded)]
    assert waits == sorted(waits)
    assert waits[0] < 20
    assert waits[-1] == pytest.approx(rate.MAX_RAISE_SECONDS, abs=10)
    # A link that has become worse and better again is used in full soon.
    run(made, 10, start=1500, queued=0.4)
    assert made.rate.codebooks == 1
    assert run(made, 20, start=1510).codebooks == 8
    assert run(made, 120, start=1530) == made.best


def test_heavy_loss_that_sending_less_cures_stays_low() -> None:
    made, low = control(), None
    for second in range(30):
        lost = 20 if made.rate.codebooks > 8 else 0
        low = made.report(stats(lost=lost, burst=1), float(second))
        if low.codebooks <= 8:
            break
    assert low.codebooks <= 8
    assert run(made, 3, start=second + 1).codebooks <= 9


def test_heavy_loss_that_sending_less_does_not_cure_is_left_to_redundancy() -> None:
    made = control()
    final = run(made, 60, lost=15, burst=2)
    assert made.decreases > 0
    assert (final.codebooks, final.frames_per_packet) == (16, 1)
    assert final.redundancy_frames >= 2


def test_a_report_of_nothing_is_no_loss() -> None:
    assert run(control(), 5, received=0) == control().best


def test_a_packet_of_many_frames_is_made_of_fewer_codebooks_at_once() -> None:
    made = control(frames_per_packet=8)
    assert made.report(stats(queued=1.0), 0.0) == Rate(11, 8, 0, 1)


@pytest.mark.parametrize(("low", "high"), [(0, 4), (5, 4)])
def test_bounds_out_of_order_are_a_mistake(low, high) -> None:
    with pytest.raises(UsageError, match=f"got {low} to {high} codebooks"):
        RateControl(max_codebooks=high, min_codebooks=low)


REPORTS = st.builds(
    stats,
    lost=st.integers(0, 75),
    burst=st.integers(0, 75),
    queued=st.floats(0, 2),
    round_trip=st.floats(0, 2),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.one_of(REPORTS, st.floats(0, 1))), max_size=60), st.integers(1, 16))
def test_rates_stay_within_their_bounds_whatever_is_reported(steps, low) -> None:
    made, now = control(min_codebooks=low, frames_per_packet=2), 0.0
    for wait, report in steps:
        now += wait
        got = made.report(report, now) if isinstance(report, Stats) else made.queued(report, now)
        assert low <= got.codebooks <= 16
        assert 2 <= got.frames_per_packet <= rate.MAX_FRAMES_PER_PACKET
        assert 0 <= got.redundancy_frames <= rate.MAX_REDUNDANCY
