"""Losses of hearing, against the published measures and their own properties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from streamdac.training.hearing import BandLevels, BandStructure, Disturbance, Envelopes

RATE = 24_000


def voiced(seconds: float = 0.4, items: int = 2, seed: int = 0) -> Tensor:
    """Harmonics with moving envelopes: `[items, 1, T]`, level about -20 dB."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    out = []
    for item in range(items):
        pitch = 110.0 + 40 * item
        parts = [
            (1 + np.sin(2 * np.pi * rng.uniform(2, 8) * t + rng.uniform(0, 6)))
            / (1 + k / 4)
            * np.sin(2 * np.pi * k * pitch * t)
            for k in range(1, 30)
        ]
        wave = np.sum(parts, axis=0)
        out.append(0.1 * wave / wave.std())
    return torch.tensor(np.stack(out)[:, None], dtype=torch.float32)


def noisy(x: Tensor, snr_db: float) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return x + noise * x.square().mean((1, 2), keepdim=True).sqrt() * 10 ** (-snr_db / 20)


def test_zero_for_equal_signals_and_growing_with_noise() -> None:
    x, loss = voiced(), Envelopes(RATE)
    distances = [float(loss(noisy(x, snr), x)) for snr in (40.0, 25.0, 10.0, 0.0)]
    assert float(loss(x, x)) == pytest.approx(0, abs=2e-3)
    assert distances == sorted(distances)
    assert distances[-1] > 5 * distances[0]


@pytest.mark.parametrize("loss", [Envelopes, BandLevels, BandStructure, Disturbance])
@pytest.mark.parametrize(("estimate", "target"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)])
def test_silence_gives_finite_gradients(loss: Callable[[int], nn.Module], estimate: float, target: float) -> None:
    y = (estimate * voiced()).requires_grad_()
    distance = loss(RATE)(y, target * voiced(seed=1))
    distance.backward()
    assert y.grad is not None
    assert torch.isfinite(distance)
    assert torch.isfinite(y.grad).all()


def test_envelopes_ignore_the_spectrums_gain_over_a_segment() -> None:
    x, loss = voiced(), Envelopes(RATE)
    assert float(loss(3 * x, x)) == pytest.approx(0, abs=2e-3)


def test_envelopes_follow_estoi() -> None:
    pystoi = pytest.importorskip("pystoi")
    x, loss = voiced(2.0, 1), Envelopes(RATE)
    for snr in (20.0, 10.0, 0.0):
        y = noisy(x, snr)
        wanted = pystoi.stoi(x[0, 0].numpy(), y[0, 0].numpy(), RATE, extended=True)
        assert 1 - float(loss(y, x)) == pytest.approx(wanted, abs=0.08)


@pytest.mark.parametrize("loss", [BandLevels(RATE), BandStructure(RATE)], ids=["levels", "structure"])
def test_bands_are_zero_for_equal_signals_and_grow_with_noise(loss: BandLevels | BandStructure) -> None:
    x = voiced()
    distances = [float(loss(noisy(x, snr), x)) for snr in (60.0, 40.0, 20.0, 10.0, 0.0)]
    assert float(loss(x, x)) == pytest.approx(0, abs=1e-4)
    assert distances == sorted(distances)
    assert distances[-1] > 20 * distances[1]


@pytest.mark.parametrize("gain_db", [-6.0, 3.0])
def test_band_levels_are_tens_of_decibels_where_not_masked(gain_db: float) -> None:
    x = voiced()
    distance = float(BandLevels(RATE)(x * 10 ** (gain_db / 20), x))
    assert 0.75 * abs(gain_db) / 10 < distance < 1.001 * abs(gain_db) / 10


def test_band_levels_do_not_hear_which_noise_it_is() -> None:
    noises = (torch.randn(2, 1, 9600, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    one, other = (0.1 * noise for noise in noises)
    distance = BandLevels(RATE)
    assert float(distance(one, other)) < 0.3 * float(distance(3 * one, other))


def test_structure_follows_visqols_similarity() -> None:
    pytest.importorskip("visqol")
    from visqol.nsim import measure_patch_similarity

    x = voiced(items=1)
    loss = BandStructure(RATE)
    for snr in (30.0, 15.0, 5.0):
        coded, wanted, loud = loss.compared(noisy(x, snr), x)
        assert bool(loud.all())
        similarity = measure_patch_similarity(wanted[0].t().numpy(), coded[0].t().numpy()).similarity
        assert 1 - float(loss(noisy(x, snr), x)) == pytest.approx(similarity, abs=0.04)


def test_disturbance_is_zero_for_equal_signals_and_grows_with_noise() -> None:
    x, loss = voiced(), Disturbance(RATE)
    distances = [float(loss(noisy(x, snr), x)) for snr in (60.0, 40.0, 20.0, 10.0, 0.0)]
    assert float(loss(x, x)) == pytest.approx(0, abs=1e-3)
    assert distances == sorted(distances)
    assert distances[-1] > 20 * distances[0]


def test_disturbance_counts_added_noise_for_more_than_missing_noise() -> None:
    x, loss = voiced(), Disturbance(RATE)
    y = noisy(x, 20.0)
    assert float(loss(y, x)) > 3 * float(loss(x, y))


@pytest.mark.parametrize("gain_db", [-6.0, 6.0])
def test_disturbance_forgives_a_gain_over_the_whole_segment(gain_db: float) -> None:
    x, loss = voiced(), Disturbance(RATE)
    assert float(loss(x * 10 ** (gain_db / 20), x)) < 0.01 * float(loss(noisy(x, 20.0), x))
