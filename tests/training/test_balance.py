"""Gradients at the decoded waveform have the sizes that were asked for, wherever the audio is loud or quiet."""

from __future__ import annotations

import pytest
import torch

from streamdac.training.balance import Balance
from streamdac.training.losses import SpectralLosses, level_normalised_l1

RATE, FRAME = 24_000, 320


def speechlike() -> torch.Tensor:
    """Two items of unlike levels `[2, 1, T]`, each loud, near silence, and loud again."""
    torch.manual_seed(0)
    noise = torch.randn(2, 1, 30 * FRAME)
    noise[..., 10 * FRAME : 20 * FRAME] *= 1e-4
    return noise * torch.tensor([0.3, 0.01])[:, None, None]


def gradient(target: torch.Tensor, share: float, quiet: float = 0.0) -> torch.Tensor:
    torch.manual_seed(1)
    estimate = (target * 0.8 + 1e-6 * torch.randn_like(target)).requires_grad_()
    mel, stft = SpectralLosses(RATE)(Balance(target, FRAME, quiet)(estimate, share), target)
    (15 * mel + stft).backward()
    assert estimate.grad is not None
    return estimate.grad


def test_an_items_gradient_has_the_size_of_its_share_over_the_root_of_its_level() -> None:
    target = speechlike()
    roots = target.square().mean((1, 2)) ** 0.25
    one, three = gradient(target, 1.0), gradient(target, 3.0)
    torch.testing.assert_close(one.flatten(1).norm(dim=1) * roots, torch.full((2,), 18.0))
    torch.testing.assert_close(three, 3 * one, rtol=1e-4, atol=1e-4 * float(one.abs().max()))


def test_silence_no_longer_has_most_of_the_gradient() -> None:
    target = speechlike()
    for share, low, high in ((0.0, 0.9, 1.0), (1.0, 0.0, 0.2)):
        energy = gradient(target, share).square().unflatten(2, (3, -1)).sum((0, 1, 3))
        assert low <= float(energy[1] / energy.sum()) <= high


def test_quiet_frames_lose_their_gradient_without_a_share_too_and_loud_ones_keep_theirs() -> None:
    target = speechlike()
    whole, gained = (gradient(target, 0.0, quiet).unflatten(2, (3, -1)) for quiet in (0.0, 1.0))
    assert float(gained[:, :, 1].norm() / whole[:, :, 1].norm()) < 0.02
    torch.testing.assert_close(gained[:, :, 2], whole[:, :, 2], rtol=0.05, atol=0.0)


def test_without_a_share_the_gradient_is_the_losses_own() -> None:
    target = speechlike()
    estimate = (0.8 * target).requires_grad_()
    assert Balance(target, FRAME)(estimate, 0.0) is estimate


@pytest.mark.parametrize("samples", [1, FRAME, FRAME + 1])
def test_any_length_and_silence_give_finite_gradients(samples: int) -> None:
    target = torch.zeros(1, 1, samples)
    estimate = torch.full_like(target, 0.1).requires_grad_()
    level_normalised_l1(Balance(target, FRAME)(estimate, 1.0), target).backward()
    assert estimate.grad is not None
    assert bool(torch.isfinite(estimate.grad).all())
