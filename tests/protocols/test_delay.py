"""The delay estimator: its target follows the network's delays, up at once and down after a while."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import UsageError
from streamdac.protocols.delay import BUCKET, MAX_SECONDS, DelayEstimator

from .streams import HOP


def run(made: DelayEstimator, delays, *, first=0) -> DelayEstimator:
    """Packets of one frame, sent in real time, each with its delay (s)."""
    for frame, delay in enumerate(delays, first):
        made.observe(frame, frame * HOP + delay)
    return made


def test_before_the_first_packet_nothing_is_known() -> None:
    made = DelayEstimator(HOP)
    assert made.base is None
    assert made.target == 0.02


def test_a_constant_delay_of_any_size_needs_the_minimum_only() -> None:
    for delay in (0.0, 0.1, 900.0):
        made = run(DelayEstimator(HOP), [delay] * 2000)
        assert made.target == 0.02
        assert made.base == pytest.approx(delay)


def test_the_target_covers_the_delays_that_come_often() -> None:
    draw = random.Random(1)
    made = run(DelayEstimator(HOP), [0.05 + draw.uniform(0, 0.1) for _ in range(6000)])
    assert 0.09 <= made.target <= 0.1 + 2 * BUCKET


def test_one_late_packet_in_a_minute_is_not_waited_for() -> None:
    made = run(DelayEstimator(HOP), [0.4 if frame == 4000 else 0.05 for frame in range(6000)])
    assert made.target == 0.02


def test_the_target_rises_within_seconds_and_falls_within_a_minute() -> None:
    made = run(DelayEstimator(HOP), [0.05] * 3000)
    run(made, [0.05 + 0.2 * (frame % 10 == 0) for frame in range(500)], first=3000)
    assert made.target >= 0.2
    run(made, [0.05] * 9000, first=3500)
    assert made.target == 0.02


def test_a_shorter_route_is_the_new_base_at_once_and_a_longer_one_after_two_seconds() -> None:
    made = run(DelayEstimator(HOP), [0.2] * 500)
    run(made, [0.1], first=500)
    assert made.base == pytest.approx(0.1)
    run(made, [0.2] * 150, first=501)
    assert made.base == pytest.approx(0.1)
    run(made, [0.2] * 60, first=651)
    assert made.base == pytest.approx(0.2)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 5), max_size=300), st.floats(0, 1), st.floats(0, 1))
def test_the_target_stays_within_its_bounds(delays, low, more) -> None:
    made = DelayEstimator(HOP, minimum=low, maximum=low + more)
    now = 0.0
    for frame, delay in enumerate(delays):
        now = max(now, frame * HOP + delay)
        assert made.observe(frame, now) >= 0
        assert low <= made.target <= low + more


@pytest.mark.parametrize(("low", "high"), [(-0.1, 1), (0.2, 0.1), (0, MAX_SECONDS + 1), (float("nan"), 1)])
def test_bounds_out_of_order_are_a_mistake(low, high) -> None:
    with pytest.raises(UsageError, match=f"got delays from {low} to {high} s"):
        DelayEstimator(HOP, minimum=low, maximum=high)
