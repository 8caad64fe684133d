"""Level of each band, read off the quantised latent by a linear layer: what the decoder needs first, taught without it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .hearing import bark_filters

_FLOOR = 1e-5  # of an item's mean energy per band: fainter is as good as silent
_SILENCE = 1e-9  # energy (re full scale) of digital silence


class BandLevels(nn.Module):
    """Levels of the bands of each hop, centred on it, in bels."""

    def __init__(self, sample_rate: int, hop: int, *, band_width: float = 1.0) -> None:
        super().__init__()
        self.hop = hop
        self.window = 4 * math.ceil(max(hop, sample_rate * 0.01) / 2)
        filters, _ = bark_filters(sample_rate, self.window, band_width)
        hann = torch.hann_window(self.window)
        self.register_buffer("hann", hann, persistent=False)
        scale = 2 / (self.window * hann.square().sum())
        self.register_buffer("filters", torch.from_numpy(filters).t() * scale, persistent=False)

    @property
    def bands(self) -> int:
        """How many."""
        return int(self.get_buffer("filters").shape[1])

    def forward(self, audio: Tensor) -> Tensor:
        """`[B, 1, T]`, T a whole number of hops F -> `[B, bands, F]`."""
        side = (self.window - self.hop) // 2
        padded = F.pad(audio.float().squeeze(1), (side, self.window - self.hop - side))
        hann = self.get_buffer("hann")
        spectrum = torch.stft(padded, self.window, self.hop, window=hann, center=False, return_complex=True)
        energies = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2) @ self.get_buffer("filters")
        floor = _FLOOR * energies.mean((1, 2), keepdim=True) + _SILENCE
        return (energies + floor).log10().transpose(1, 2)


class Guide(nn.Module):
    """Distance of the band levels that a linear layer finds in the quantised latent from the audio's own.

    A linear path carries what has energy, and the level of a faint band is no linear function of the waveform. The layer is
    trained beside the network and no part of it.
    """

    def __init__(self, sample_rate: int, hop: int, latent_dim: int) -> None:
        super().__init__()
        self.levels = BandLevels(sample_rate, hop)
        self.read = nn.Conv1d(latent_dim, self.levels.bands, 1)

    def forward(self, latent: Tensor, audio: Tensor) -> Tensor:
        """Quantised latent `[B, D, F]`, audio `[B, 1, F * hop]` -> mean absolute difference in bels."""
        with torch.no_grad():
            wanted = self.levels(audio)
        return F.l1_loss(self.read(latent), wanted)
