"""A loss that follows what is heard: the movement of envelopes that speech is understood by."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

_SILENT_DB = -40.0  # frames this far below the loudest carry no speech (Jensen and Taal 2016)


class Envelopes(nn.Module):
    """1 - the extended short-time objective intelligibility (Jensen and Taal 2016) of segments of 0.4 s.

    Envelopes of 15 third-octave bands from 150 Hz, normed over time and then over bands, are correlated frame by frame.
    """

    def __init__(self, sample_rate: int, *, window_seconds: float = 0.0256, frames: int = 30, bands: int = 15) -> None:
        super().__init__()
        self.hop = round(sample_rate * window_seconds / 2)
        self.frames = frames
        hz = np.linspace(0.0, sample_rate / 2, self.hop + 1)
        centres = 150.0 * 2 ** (np.arange(bands) / 3)
        inside = (hz >= centres[:, None] * 2 ** (-1 / 6)) & (hz < centres[:, None] * 2 ** (1 / 6))
        self.register_buffer("hann", torch.hann_window(2 * self.hop), persistent=False)
        self.register_buffer("filters", torch.from_numpy(inside.astype(np.float32)).t(), persistent=False)

    def _envelopes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, 1, T]` -> energies of frames `[B, frames]`, envelopes `[B, bands, frames]`."""
        hann = self.get_buffer("hann")
        spectrum = torch.stft(x.squeeze(1), 2 * self.hop, self.hop, window=hann, return_complex=True)
        energies = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)
        bands = energies @ self.get_buffer("filters")
        return energies.sum(2), (bands + 1e-8).sqrt().transpose(1, 2)

    def _blocks(self, x: Tensor) -> Tensor:
        """`[B, ..., frames]` -> `[B, ..., blocks, at most 30 frames]`, half a block apart."""
        frames = min(self.frames, x.shape[-1])
        return x.unfold(-1, frames, math.ceil(frames / 2))

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> mean over frames that carry sound, -1 to 1 taken from 1."""
        estimate, target = estimate.float(), target.float()
        with torch.no_grad():
            energies, wanted = self._envelopes(target)
            loud = energies > energies.amax(1, keepdim=True) * 10 ** (_SILENT_DB / 10)
            weight = self._blocks(loud.float())[:, None]  # [B, 1, blocks, frames]
            wanted = _normed(self._blocks(wanted), weight)
        coded = _normed(self._blocks(self._envelopes(estimate)[1]), weight)
        agreement = (coded * wanted).sum(1, keepdim=True)
        per_item = (agreement * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1)
        return (1 - per_item).mean()


def _normed(blocks: Tensor, weight: Tensor) -> Tensor:
    """Zero mean and unit length over frames that count, then over bands: `[B, bands, blocks, frames]`."""
    mean = (blocks * weight).sum(3, keepdim=True) / weight.sum(3, keepdim=True).clamp_min(1)
    rows = (blocks - mean) * weight
    rows = rows / (rows.square().sum(3, keepdim=True) + 1e-10).sqrt()
    columns = rows - rows.mean(1, keepdim=True)
    return columns / (columns.square().sum(1, keepdim=True) + 1e-10).sqrt()
