"""The delay between the rings, against drift and stalls, in simulated time."""

from __future__ import annotations

import numpy as np
import pytest

from streamdac.frontends.bridge import cut

from .simulated import RATE, Devices, ramp


def joined(devices: Devices) -> np.ndarray:
    return np.concatenate(devices.played)[:, 0]


def test_one_clock_keeps_the_delay_to_the_sample() -> None:
    devices = Devices(one_clock=True, block=64, margin=0.005)
    for _ in devices.run(20):
        pass
    out, delay = joined(devices), round(RATE * devices.bridge.target_ms / 1000)
    assert delay == 320 + RATE * 0.005
    settled = 2000
    assert np.array_equal(out[settled:], ramp(settled - delay, len(out) - settled)[:, 0])
    assert devices.playback.counts.underruns == devices.bridge.corrections == 0


@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_conversion_costs_what_it_says(rate: int) -> None:
    devices = Devices(one_clock=True, block=128, margin=0.006, rate=rate)
    for _ in devices.run(5):
        pass
    bridge = devices.bridge
    assert bridge.delays.added.worst == pytest.approx(1000 * (320 / RATE + bridge.conversion) + 6, abs=0.1)
    assert 1000 * bridge.conversion < 5
    # And the audio is as late as it says.
    out, delay = joined(devices), rate * bridge.target_ms / 1000
    first = 2 * rate
    wanted = np.interp(np.arange(first, 3 * rate) - delay, np.arange(4 * rate), ramp(0, 4 * rate)[:, 0])
    assert np.abs(out[first : 3 * rate] - wanted).max() < 5e-4
    assert devices.playback.counts.underruns == bridge.corrections == 0


def hold_against_drift(ppm: float, seconds: float) -> None:
    devices = Devices(ppm=ppm, keep=False)
    target = devices.bridge.target_ms
    levels, window = [], 5.0
    for _ in devices.run(window):
        pass
    while devices.now < seconds:
        start, filled = devices.now, devices.filled
        for _ in devices.run(window):
            pass
        levels.append(1000 * (devices.filled - filled) / (devices.now - start) / RATE)
    assert devices.playback.counts.underruns == devices.playback.counts.overruns == 0
    assert devices.capture.counts.overruns == devices.bridge.corrections == 0
    mean = np.mean(levels)
    assert max(levels) < mean + 5
    assert min(levels) > mean - 5
    added = devices.bridge.delays.added
    assert target - 5 < added.percentile(0) <= added.worst < target + 5
    assert devices.bridge.drift_ppm == pytest.approx(ppm, abs=0.1 * abs(ppm) + 5)


@pytest.mark.parametrize("ppm", [300, -300])
def test_300_ppm_leave_the_level_within_5_ms_without_underrun(ppm: float) -> None:
    hold_against_drift(ppm, 90)


@pytest.mark.slow
def test_300_ppm_for_an_hour() -> None:
    hold_against_drift(300, 3600)


def test_a_drift_beyond_the_limit_changes_pitch_by_a_percent_and_no_more() -> None:
    devices = Devices(ppm=20_000, keep=False)
    for _ in devices.run(30):
        assert abs(devices.bridge._control.speed - 1) <= 0.01 + 1e-9
    # What it cannot follow is cut out, and counted.
    assert devices.bridge.corrections > 0
    assert devices.bridge.error_ms < 12


def test_one_stall_is_heard_once_and_leaves_the_delay_as_it_was() -> None:
    devices = Devices(one_clock=True, block=64, margin=0.01, work=0.001)
    for _ in devices.run(2):
        pass
    before = devices.bridge.delays.added.worst
    devices.stall(0.1)
    for _ in devices.run(5):
        pass
    assert devices.playback.counts.underruns >= 1
    assert devices.bridge.target_ms == pytest.approx(before, abs=0.05)
    out, delay = joined(devices), round(RATE * before / 1000)
    late = len(out) - RATE
    assert np.array_equal(out[late:], ramp(late - delay, RATE)[:, 0]), "the delay is another one"


def test_underruns_that_come_again_make_the_delay_grow_until_they_stop() -> None:
    devices = Devices(one_clock=True, block=64, margin=0.002, work=0.009, keep=False)
    for _ in devices.run(20):
        pass
    first = devices.playback.counts.underruns
    assert 1 <= first < 30
    assert devices.bridge.target_ms > 1000 * 320 / RATE + 7
    for _ in devices.run(8):
        pass
    assert devices.playback.counts.underruns == first


def test_a_delay_that_was_needed_once_shrinks_and_one_that_is_needed_stays() -> None:
    devices = Devices(one_clock=True, block=64, margin=0.004, work=0.001, keep=False)
    least = devices.bridge.target_ms
    for _ in devices.run(2):
        pass
    for _ in range(2):
        devices.stall(0.025)
        for _ in devices.run(1):
            pass
    grown = devices.bridge.target_ms
    assert grown > least + 5
    for _ in devices.run(150):
        pass
    assert devices.bridge.target_ms == pytest.approx(least)
    slow = Devices(one_clock=True, block=64, margin=0.002, work=0.009, keep=False)
    for _ in slow.run(60):
        pass
    underruns = slow.playback.counts.underruns
    for _ in slow.run(200):
        pass
    assert slow.playback.counts.underruns <= underruns + 1


def test_a_cut_leaves_no_step() -> None:
    wave = np.sin(np.arange(2000) / 20)[:, None].astype(np.float32)
    short = cut(wave, 300, 200)
    assert len(short) == 1700
    assert np.abs(np.diff(short[:, 0])).max() < 0.08
    assert np.array_equal(short[200:], wave[500:])
    assert len(cut(wave, 5000, 200)) == 0


def test_callbacks_in_bursts_are_survived() -> None:
    """As those of a sound server without a good driver: up to 60 ms late on either side."""
    devices = Devices(ppm=100, jitter=0.06, margin=0.015, keep=False)
    for _ in devices.run(60):
        pass
    underruns, corrections = devices.playback.counts.underruns, devices.bridge.corrections
    assert underruns < 30
    for _ in devices.run(30):
        pass
    assert devices.playback.counts.underruns - underruns <= 1
    assert devices.bridge.corrections - corrections <= 1
    assert abs(devices.bridge.error_ms) < 10
