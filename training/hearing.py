"""Losses that follow what is heard: loudness in critical bands, and the movement of envelopes that speech is understood by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

_SPEECH_DB = 65.0  # sound pressure level at which an item is taken to be heard
_FAINTEST = 1e-6  # mean square (re full scale) below which an item is not brought to that level
_ZWICKER = 0.23  # power of the specific loudness
_DEAD_ZONE = 0.25  # share of the softer loudness by which both may differ unheard (ITU-T P.862, 10.2.8)
_ASYMMETRY, _LEAST_RATIO, _MOST_RATIO = (
    1.2,
    3.0,
    12.0,
)  # added sound disturbs more than missing sound (ITU-T P.862, 10.2.9)
_ASYMMETRIC = 0.309  # weight of what is added, relative to the disturbance (0.0309 / 0.1 in ITU-T P.862, 10.2.12)
_RATIO_OFFSET = 5.0  # energies relative to the threshold, so that what is hardly heard does not count as added
_WORST = 3.0  # power of the mean over frames: the worst count more
_UNHEARD = 1e-4  # energy of a band, relative to the mean of an item's, that is as good as none
_DIGITAL_SILENCE = 1e-9
_SILENT_DB = -40.0  # frames this far below the loudest carry no speech (Jensen and Taal 2016)


def _bark(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Critical-band rate (Traunmueller 1990)."""
    return np.asarray(26.81 * hz / (1960.0 + hz) - 0.53)


def _threshold_db(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Threshold in quiet, dB sound pressure level (Terhardt 1979)."""
    khz = np.maximum(hz, 20.0) / 1000
    return np.asarray(3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4)


def bark_filters(
    sample_rate: int, window: int, width: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Triangular bands every `width` Bark that share every bin between two, and their centres in Hz.

    Shape: `[bands, window / 2 + 1]`, `[bands]`.
    """
    hz = np.linspace(0.0, sample_rate / 2, window // 2 + 1)
    place = (_bark(hz) - _bark(np.array(50.0))) / width
    bands = int(place[-1]) + 1
    filters = np.maximum(0.0, 1.0 - np.abs(place - np.arange(bands)[:, None]))
    rate = _bark(np.array(50.0)) + width * np.arange(bands)
    centres = 1960.0 * (rate + 0.53) / (26.28 - rate)
    return filters.astype(np.float32), centres.astype(np.float32)


class Loudness(nn.Module):
    """Distance of loudness patterns, after the perceptual model of ITU-T P.862 (PESQ).

    Energies in critical bands become loudness by Zwicker's law, above the threshold in quiet and with the item at 65 dB sound
    pressure level. Differences that louder sound masks do not count; what the codec added counts more than what it lost.
    """

    def __init__(self, sample_rate: int, *, window_seconds: float = 0.032, band_width: float = 0.5) -> None:
        super().__init__()
        self.window = 4 * round(sample_rate * window_seconds / 4)
        filters, centres = bark_filters(sample_rate, self.window, band_width)
        threshold = 10 ** (_threshold_db(centres.astype(np.float64)) / 10)
        hann = torch.hann_window(self.window)
        self.register_buffer("hann", hann, persistent=False)
        # A frame's energies sum to its mean square.
        self.register_buffer(
            "filters", torch.from_numpy(filters).t() * (2 / (self.window * hann.square().sum())), persistent=False
        )
        self.register_buffer("threshold", torch.from_numpy(threshold.astype(np.float32)), persistent=False)

    def _energies(self, x: Tensor, scale: Tensor) -> Tensor:
        """Of bands, relative to the threshold in quiet: `[B, 1, T]`, `[B]` -> `[B, frames, bands]`."""
        hann = self.get_buffer("hann")
        spectrum = torch.stft(x.squeeze(1), self.window, self.window // 4, window=hann, return_complex=True)
        energies = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2) @ self.get_buffer("filters")
        return energies * scale[:, None, None] / self.get_buffer("threshold")

    def _loudness(self, energies: Tensor) -> Tensor:
        scale: Tensor = self.get_buffer("threshold") ** _ZWICKER
        loudness: Tensor = scale * ((0.5 + 0.5 * energies) ** _ZWICKER - 0.5**_ZWICKER).clamp_min(0)
        return loudness

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> disturbance relative to the target's own loudness, mean over items."""
        estimate, target = estimate.float(), target.float()
        with torch.no_grad():
            scale = 10 ** (_SPEECH_DB / 10) / target.square().mean((1, 2)).clamp_min(_FAINTEST)
            wanted = self._energies(target, scale)
            loud = self._loudness(wanted)
            level = loud.mean((1, 2)) + 1.0
        energies = self._energies(estimate, scale)
        coded = self._loudness(energies)
        difference = ((coded - loud).abs() - _DEAD_ZONE * torch.minimum(coded, loud)).clamp_min(0)
        with torch.no_grad():
            ratio = ((energies + _RATIO_OFFSET) / (wanted + _RATIO_OFFSET)) ** _ASYMMETRY
            added = torch.where(ratio < _LEAST_RATIO, 0.0, ratio.clamp_max(_MOST_RATIO))
        frames = (difference.square().mean(2) + 1e-8).sqrt() + _ASYMMETRIC * (difference * added).mean(2)
        return (((frames**_WORST).mean(1) ** (1 / _WORST)) / level).mean()


class Levels(nn.Module):
    """Difference of levels in critical bands, in bels, over times in which the chance of single bins evens out.

    A spectrogram's bins have one degree of freedom: where its fine structure is not coded they differ by 6 dB however well
    the level is met, and a level that is off by 3 dB hardly adds to that. Cells count by their loudness.
    """

    def __init__(self, sample_rate: int, *, seconds: Sequence[float] = (0.027, 0.054), band_width: float = 1.0) -> None:
        super().__init__()
        self.windows = [4 * round(sample_rate * length / 4) for length in seconds]
        for window in self.windows:
            hann = torch.hann_window(window)
            filters, _ = bark_filters(sample_rate, window, band_width)
            self.register_buffer(f"hann_{window}", hann, persistent=False)
            scale = 2 / (window * hann.square().sum())
            self.register_buffer(f"filters_{window}", torch.from_numpy(filters).t() * scale, persistent=False)

    def _energies(self, x: Tensor, window: int) -> Tensor:
        """`[B, 1, T]` -> `[B, frames, bands]`."""
        hann = self.get_buffer(f"hann_{window}")
        spectrum = torch.stft(x.float().squeeze(1), window, window // 2, window=hann, return_complex=True)
        return torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2) @ self.get_buffer(f"filters_{window}")

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> mean over items and windows."""
        distances = []
        for window in self.windows:
            with torch.no_grad():
                wanted = self._energies(target, window)
                floor = _UNHEARD * wanted.mean((1, 2), keepdim=True) + _DIGITAL_SILENCE
                weight = (wanted + floor) ** (_ZWICKER / 2)
                weight = weight / weight.sum((1, 2), keepdim=True)
            difference = ((self._energies(estimate, window) + floor) / (wanted + floor)).log10().abs()
            distances.append((difference * weight).sum((1, 2)).mean())
        return torch.stack(distances).mean()


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
