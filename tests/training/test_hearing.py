"""Losses that follow what is heard, against the published measures and their own properties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from streamdac.training.hearing import Envelopes, Levels, Loudness, bark_filters

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


@pytest.mark.parametrize("loss", [Loudness(RATE), Levels(RATE), Envelopes(RATE)], ids=["loudness", "levels", "envelopes"])
def test_zero_for_equal_signals_and_growing_with_noise(loss: torch.nn.Module) -> None:
    x = voiced()
    distances = [float(loss(noisy(x, snr), x)) for snr in (40.0, 25.0, 10.0, 0.0)]
    assert float(loss(x, x)) == pytest.approx(0, abs=2e-3)
    assert distances == sorted(distances)
    assert distances[-1] > 5 * distances[0]


@pytest.mark.parametrize("loss", [Loudness(RATE), Levels(RATE), Envelopes(RATE)], ids=["loudness", "levels", "envelopes"])
@pytest.mark.parametrize(("estimate", "target"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_silence_gives_finite_gradients(loss: torch.nn.Module, estimate: float, target: float) -> None:
    y = (estimate * voiced()).requires_grad_()
    distance = loss(y, target * voiced(seed=1))
    distance.backward()
    assert y.grad is not None
    assert torch.isfinite(distance)
    assert torch.isfinite(y.grad).all()


def test_loudness_does_not_depend_on_the_items_level() -> None:
    x, loss = voiced(), Loudness(RATE)
    assert float(loss(0.1 * noisy(x, 20), 0.1 * x)) == pytest.approx(float(loss(noisy(x, 20), x)), rel=1e-3)


def test_added_sound_is_worse_than_missing_sound() -> None:
    x, loss = voiced(), Loudness(RATE)
    more = x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    assert float(loss(more, x)) > float(loss(x, more))


def test_noise_far_below_the_threshold_is_not_heard() -> None:
    x, loss = voiced(), Loudness(RATE)
    assert float(loss(noisy(x, 90.0), x)) < 2e-3


def test_bark_bands_share_out_every_bin() -> None:
    filters, centres = bark_filters(RATE, 768, 0.5)
    inside = (np.linspace(0, RATE / 2, 385) > centres[0]) & (np.linspace(0, RATE / 2, 385) < centres[-1])
    assert np.allclose(filters[:, inside].sum(0), 1, atol=1e-5)
    assert np.all(np.diff(centres) > 0)


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


def test_a_gain_of_ten_decibels_is_a_bel() -> None:
    x, loss = voiced(), Levels(RATE)
    assert float(loss(10**0.5 * x, x)) == pytest.approx(1, abs=0.1)


def test_noise_of_the_right_level_is_near() -> None:
    """Other noise of the same spectrum: every bin differs, no level does."""
    first, second = (torch.randn(4, 1, 9600, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert float(Levels(RATE)(first, second)) < 0.2
    assert float(Levels(RATE)(0.5 * first, second)) > 0.4
