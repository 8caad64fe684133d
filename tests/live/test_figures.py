from __future__ import annotations

import numpy as np
import pytest

from streamdac.frontends.figures import FLOOR_DB, Histogram, Meter


def test_percentiles_are_those_of_the_numbers() -> None:
    times = np.random.default_rng(0).gamma(2, 5, 20_000)
    histogram = Histogram()
    for ms in times:
        histogram.add(float(ms))
    for percent in (1, 50, 90, 99, 99.9):
        assert histogram.percentile(percent) == pytest.approx(np.sort(times)[int(200 * percent)], abs=0.03)
    assert histogram.worst == times.max()
    assert histogram.mean == pytest.approx(times.mean())


def test_an_empty_one_says_nothing() -> None:
    assert (Histogram().percentile(99), Histogram().mean, Histogram().worst) == (0, 0, 0)


def test_what_is_off_the_scale_is_at_its_end() -> None:
    histogram = Histogram()
    for ms in (-1.0, 5.0, 50_000.0):
        histogram.add(ms)
    assert histogram.percentile(0) <= 0.02
    assert histogram.percentile(100) >= 999
    assert histogram.worst == 50_000


def test_a_meter_jumps_up_and_falls_slowly() -> None:
    meter = Meter()
    assert meter.db == FLOOR_DB
    meter.add(np.full((100, 1), 0.5, np.float32), 0.1)
    assert meter.db == pytest.approx(-6.02, abs=0.01)
    meter.add(np.zeros((100, 1), np.float32), 0.1)
    assert meter.db == pytest.approx(-8.02, abs=0.01)
    for _ in range(100):
        meter.add(np.zeros((0, 1), np.float32), 0.1)
    assert meter.db == FLOOR_DB
