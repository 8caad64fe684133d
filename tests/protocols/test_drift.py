"""The drift estimate: right within 20 ppm under jitter, and a playback speed that follows it."""

import random

import pytest

from streamdac.protocols.drift import ENOUGH, LIMIT, SETTLE, DriftEstimator

from .streams import HOP


def run(drift, *, seconds=90, jitter=0.0, step=0.0) -> DriftEstimator:
    """A sender whose clock runs `drift` fast; after half of the time its packets take `step` s longer."""
    made, draw = DriftEstimator(HOP), random.Random(3)
    for frame in range(round(seconds / HOP)):
        late = draw.expovariate(1 / jitter) if jitter else 0.0
        made.observe(frame, frame * HOP / (1 + drift) + late + step * (frame * HOP > seconds / 2))
    return made


@pytest.mark.parametrize("drift", [-5e-3, -2e-4, 0.0, 1e-4, 5e-3])
@pytest.mark.parametrize("jitter", [0.0, 0.02])
def test_drift_is_found_under_jitter(drift, jitter) -> None:
    assert run(drift, jitter=jitter).drift == pytest.approx(drift, abs=2e-5)


def test_a_change_of_route_does_not_upset_it() -> None:
    assert run(1e-4, jitter=0.01, step=0.1).drift == pytest.approx(1e-4, abs=2e-4)


@pytest.mark.parametrize("step", [0.9, 0.05, -0.2])
@pytest.mark.parametrize("at", [20, 100])
def test_nor_does_it_while_it_passes_through_the_history(step, at) -> None:
    made, draw = DriftEstimator(HOP), random.Random(3)
    errors = []
    for frame in range(round(180 / HOP)):
        time = frame * HOP
        made.observe(frame, time / (1 + 1e-4) + draw.expovariate(1 / 0.01) + step * (time > at))
        if time > at:
            errors.append(abs(made.drift - 1e-4))
    assert max(errors) < 1e-4


def test_no_estimate_is_given_before_there_is_enough_history() -> None:
    assert run(5e-3, seconds=ENOUGH).drift == 0
    assert run(5e-3, seconds=ENOUGH + 3).drift != 0


def test_it_is_limited() -> None:
    assert run(0.05).drift == LIMIT
    assert run(-0.05).drift == -LIMIT


def test_speed_follows_the_drift_and_plays_excess_delay_away() -> None:
    made = DriftEstimator(HOP)
    made.drift = 1e-3
    assert made.speed(0.0) == pytest.approx(1.001)
    assert made.speed(0.02) == pytest.approx(1.001 + 0.02 / SETTLE)
    assert made.speed(-0.02) == pytest.approx(1.001 - 0.02 / SETTLE)
    assert made.speed(5.0) == 1 + LIMIT
    assert made.speed(-5.0) == 1 - LIMIT
