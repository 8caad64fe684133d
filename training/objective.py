"""One training step's forward pass and losses, as a module that can be wrapped for several processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from streamdac.nn import DAC

from . import fastnet
from .losses import SpectralLosses, level_normalised_l1
from .recipe import Recipe


class Adversary(Protocol):
    """Discriminators, as the objective sees them."""

    def generator_losses(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Weighted losses for the codec, by name; `[B, 1, T]` each."""

    def learn(self, estimate: Tensor, target: Tensor) -> dict[str, float]:
        """Train the discriminators on one batch; figures for the log."""


@dataclass(frozen=True)
class StepResult:
    """Losses of one batch."""

    total: Tensor
    """What is minimised: the weighted sum."""
    parts: dict[str, Tensor]
    """Every loss, unweighted."""
    estimate: Tensor
    """`[B, 1, T]`."""
    codes: Tensor | None
    """`[B, K, F]`, None without quantiser."""
    latents: Tensor | None
    """`[B, K * codebook_dim, F]`."""


class Objective(nn.Module):
    """Encode, quantise, decode, compare."""

    def __init__(self, network: DAC, recipe: Recipe, dtype: torch.dtype, adversary: Adversary | None = None) -> None:
        super().__init__()
        self.network = network
        self.spectral = SpectralLosses(network.sample_rate)
        self.weights = recipe.losses
        self.dtype = dtype
        self._adversary = adversary

    def forward(self, audio: Tensor, quantise: bool) -> StepResult:
        """audio float32 `[B, 1, T]`, of any length."""
        latent = fastnet.encode(self.network, self.network.preprocess(audio), self.dtype)
        parts: dict[str, Tensor] = {}
        codes = latents = None
        if quantise:
            quantised = self.network.quantizer(latent)
            latent, codes, latents = quantised.z, quantised.codes, quantised.latents
            parts |= {"commitment": quantised.commitment_loss, "codebook": quantised.codebook_loss}
        estimate = fastnet.decode(self.network, latent, self.dtype)
        samples = min(estimate.shape[-1], audio.shape[-1])  # centred odd strides give a few samples less
        estimate, target = estimate[..., :samples], audio[..., :samples]
        parts["mel"], parts["stft"] = self.spectral(estimate, target)
        parts["waveform"] = level_normalised_l1(estimate, target)
        total = torch.stack([getattr(self.weights, name) * loss for name, loss in parts.items()]).sum()
        if self._adversary is not None:
            adversarial = self._adversary.generator_losses(estimate, target)
            total = total + torch.stack(list(adversarial.values())).sum()
            parts |= adversarial
        return StepResult(
            total, {name: loss.detach() for name, loss in parts.items()}, estimate.detach(), codes, latents
        )
