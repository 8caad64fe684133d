"""One training step's forward pass and losses, as a module that can be wrapped for several processes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from streamdac.errors import BadDataError
from streamdac.nn import DAC

from . import fastnet
from .balance import Balance
from .hearing import BandLevels, BandStructure, Disturbance, Envelopes
from .losses import (
    CompressedSpectra,
    Lines,
    MelSettings,
    SpectralLosses,
    at_one_length,
    level_normalised_l1,
    noise_in_silence,
    waveform_l1,
)
from .recipe import Recipe


class Adversary(Protocol):
    """Discriminators, as the objective sees them."""

    active: bool
    """Whether they have begun."""

    @property
    def ramp(self) -> float:
        """Factor on what the codec is told, 0 to 1."""

    def learn(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Train the discriminators on one batch; figures for the log."""

    def generator_losses(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Losses of the codec before their weights, by name; `[B, 1, T]` each."""


@dataclass(frozen=True)
class StepResult:
    """Losses of one batch."""

    total: Tensor
    """What is minimised: the weighted sum."""
    parts: dict[str, Tensor]
    """Every loss, unweighted, and the discriminators' figures."""
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
        self.spectral = SpectralLosses(network.sample_rate, MelSettings(recipe.mel_bins, recipe.mel_windows))
        self.compressed = CompressedSpectra(recipe.compressed_windows, excess=recipe.compressed_excess)
        self.envelopes = Envelopes(network.sample_rate)
        self.bands = BandLevels(network.sample_rate)
        self.structure = BandStructure(network.sample_rate)
        self.disturbance = Disturbance(network.sample_rate)
        self.lines = Lines(recipe.lines_period)
        self.weights, self.shares = recipe.losses, recipe.balance
        self.bypass, self.excess = recipe.bypass, recipe.excess
        self.dtype = dtype
        self._adversary = adversary

    def forward(self, audio: Tensor, quantise: bool) -> StepResult:
        """audio float32 `[B, 1, T]`, of any length."""
        latent = fastnet.encode(self.network, self.network.preprocess(audio), self.dtype)
        parts: dict[str, Tensor] = {}
        codes = latents = None
        if quantise:
            if self.weights.scale:
                parts["scale"] = latent.square().mean().clamp_min(1e-6).log().square()
            quantised, (parts["prediction"], parts["drift"]) = self.network.quantizer.foretold(latent)
            codes, latents = quantised.codes, quantised.latents
            whole = torch.rand(len(latent), 1, 1, device=latent.device) < self.bypass if self.bypass else None
            latent = quantised.z if whole is None else torch.where(whole, latent, quantised.z)
            parts |= {"commitment": quantised.commitment_loss, "codebook": quantised.codebook_loss}
        estimate, target = at_one_length(fastnet.decode(self.network, latent, self.dtype), audio)
        balance = self._balance(target)
        parts |= self.reconstruction(estimate, target, balance)
        figures: dict[str, Tensor] = {}
        if self._adversary is not None and self._adversary.active:
            figures = self._adversary.learn(estimate, target)
            share = self.shares.adversarial * self._adversary.ramp  # a share is the same for a loss of any size
            parts |= self._adversary.generator_losses(balance(estimate, share), target)
        total = self.weighted(parts)
        detached = {name: loss.detach() for name, loss in parts.items()}
        return StepResult(total, detached | figures, estimate.detach(), codes, latents)

    def _balance(self, target: Tensor) -> Balance:
        return Balance(target, self.network.hop_length, self.shares.quiet)

    def reconstruction(self, estimate: Tensor, target: Tensor, balance: Balance) -> dict[str, Tensor]:
        """Losses of the waveform before their weights, by name, with gradients of their shares; `[B, 1, T]` each."""
        shares = self.shares
        parts: dict[str, Tensor] = {}
        parts["mel"], parts["stft"] = self.spectral(balance(estimate, shares.spectral), target, self.excess)
        parts["waveform"] = level_normalised_l1(balance(estimate, shares.waveform), target)
        for name in ("compressed", "envelopes", "bands", "structure", "disturbance", "lines"):
            if getattr(self.weights, name):
                parts[name] = getattr(self, name)(balance(estimate, getattr(shares, name)), target)
        if self.weights.silence:
            parts["silence"] = noise_in_silence(estimate, target, self.network.hop_length)
        if self.weights.l1:
            parts["l1"] = waveform_l1(estimate, target)
        return parts

    def weighted(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Sum of losses by their weights."""
        return torch.stack([getattr(self.weights, name) * loss for name, loss in parts.items()]).sum()

    def latent_gradients(self, audio: Tensor, depth: int) -> Tensor:
        """Gradient of the waveform's losses at the latent, quantised with `depth` codebooks: `[B * F, D]`."""
        self.network.eval()
        with torch.no_grad():
            latent = fastnet.encode(self.network, self.network.preprocess(audio), self.dtype)
            latent = self.network.quantizer(latent, depth).z
        latent = latent.detach().requires_grad_()
        estimate, target = at_one_length(fastnet.decode(self.network, latent, self.dtype), audio)
        parts = self.reconstruction(estimate, target, self._balance(target))
        gradient: Tensor = torch.autograd.grad(self.weighted(parts), latent)[0]
        self.network.train()
        return gradient.transpose(1, 2).flatten(0, 1)


def check_finite(result: StepResult, norm: float, audio: Tensor, step: int, path: Path) -> None:
    """Stop at losses or a gradient (of this `norm`) that are not finite; the batch `[B, 1, T]` is then kept at `path`.

    Raises:
        BadDataError: they are not.
    """
    discriminators = float(result.parts.get("discriminator_gradient", torch.zeros(())))
    if math.isfinite(norm) and math.isfinite(discriminators) and bool(torch.isfinite(result.total)):
        return
    bad = [name for name, loss in result.parts.items() if not bool(torch.isfinite(loss))]
    np.savez(path, audio=audio.cpu().numpy())
    raise BadDataError(
        f"step {step}: {', '.join(bad) or 'the gradient'} is not finite (gradient norm {norm:g}); "
        f"the batch is in {path}, the last checkpoint is kept"
    )
