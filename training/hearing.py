"""Losses that follow what is heard: envelopes that speech is understood by, levels of auditory bands, loudness."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SILENT_DB = -40.0  # frames this far below the loudest carry no speech (Jensen and Taal 2016)
_MASKED_DB = -45.0  # bands this far below the loudest of their frame are not heard (as ViSQOL has it)
_EAR_Q, _EAR_HZ = 9.26449, 24.7  # bandwidth is Hz / Q + 24.7 Hz (Glasberg and Moore 1990)
_SPEECH_DB = 85.0  # at which its mean over a segment is heard: correlates best with PESQ (of 75, 80, 85)
_SPEECH_HZ = (325.0, 3250.0)  # its level is taken here (P.862)
_FAINT_SPEECH = 1e-5  # energy per sample there below which it is not made louder
_STILL = 0.1  # dB squared: movement below this has no structure, and no endless gradient


def _energies(x: Tensor, hann: Tensor, hop: int) -> Tensor:
    """`[B, 1, T]` -> energies of a spectrum's bins, `[B, frames, len(hann) / 2 + 1]`, float32."""
    spectrum = torch.stft(x.squeeze(1).float(), len(hann), hop, window=hann, return_complex=True)
    return torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)


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
        energies = _energies(x, self.get_buffer("hann"), self.hop)
        bands = energies @ self.get_buffer("filters")
        return energies.sum(2), (bands + 1e-8).sqrt().transpose(1, 2)

    def _blocks(self, x: Tensor) -> Tensor:
        """`[B, ..., frames]` -> `[B, ..., blocks, at most 30 frames]`, half a block apart."""
        frames = min(self.frames, x.shape[-1])
        return x.unfold(-1, frames, math.ceil(frames / 2))

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> mean over frames that carry sound, -1 to 1 taken from 1."""
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


class _Bands(nn.Module):
    """Levels in dB of 21 auditory bands, 50 Hz to 8 kHz on the ERB scale, over 80 ms every 20 ms.

    As ViSQOL has them (Hines et al. 2015), but the power response of gammatone filters of order 4 weighs a spectrum, where
    ViSQOL filters the waveform.
    """

    def __init__(self, sample_rate: int, *, window_seconds: float = 0.08, bands: int = 21) -> None:
        super().__init__()
        self.hop = round(sample_rate * window_seconds / 4)
        lowest, highest, corner = 50.0, 8000.0, _EAR_Q * _EAR_HZ
        steps = np.arange(bands, 0, -1) / bands
        centres = (highest + corner) * ((lowest + corner) / (highest + corner)) ** steps - corner
        widths = 1.019 * (centres / _EAR_Q + _EAR_HZ)
        hz = np.linspace(0.0, sample_rate / 2, 2 * self.hop + 1)
        filters = (1 + ((hz - centres[:, None]) / widths[:, None]) ** 2) ** -4.0
        filters /= filters.sum(1, keepdims=True)
        self.register_buffer("hann", torch.hann_window(4 * self.hop), persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters.astype(np.float32)).t(), persistent=False)

    def _levels(self, x: Tensor) -> Tensor:
        """`[B, 1, T]` -> dB, `[B, frames, bands]`."""
        energies = _energies(x, self.get_buffer("hann"), self.hop)
        return 10 * (energies @ self.get_buffer("filters") + 1e-7).log10()

    def compared(self, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Levels `[B, frames, bands]`, coded and wanted, of masked bands the mask's; frames that count, `[B, frames, 1]`."""
        coded, wanted = self._levels(estimate), self._levels(target)
        with torch.no_grad():
            loudest = torch.maximum(coded, wanted).amax(2, keepdim=True)
            loud = loudest > wanted.amax((1, 2), keepdim=True) + _SILENT_DB
            masked = loudest + _MASKED_DB
            lowest = masked.amin(1, keepdim=True)
        return torch.maximum(coded, masked) - lowest, torch.maximum(wanted, masked) - lowest, loud.float()


class BandLevels(_Bands):
    """Mean distance of levels in auditory bands, in units of 10 dB; over 80 ms chance evens out, even of noise."""

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> mean over bands of frames that carry sound."""
        coded, wanted, loud = self.compared(estimate, target)
        return _mean((coded - wanted).abs() / 10, loud)


class BandStructure(_Bands):
    """1 - the similarity index NSIM (Hines et al. 2015) of levels in auditory bands: how they move over time and frequency."""

    def __init__(self, sample_rate: int) -> None:
        super().__init__(sample_rate)
        gauss = torch.tensor([-2.0, 0.0, -2.0]).softmax(0)  # deviation of half a band, half a frame
        self.register_buffer("near", torch.outer(gauss, gauss)[None, None], persistent=False)

    def _smooth(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x[:, None], (1, 1, 1, 1), mode="replicate"), self.get_buffer("near"))[:, 0]

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> mean over bands of frames that carry sound, 0 to 2."""
        coded, wanted, loud = self.compared(estimate, target)
        mean, mean_wanted = self._smooth(coded), self._smooth(wanted)
        variance = (self._smooth(coded * coded) - mean * mean).clamp_min(0)
        variance_wanted = (self._smooth(wanted * wanted) - mean_wanted * mean_wanted).clamp_min(0)
        together = self._smooth(coded * wanted) - mean * mean_wanted
        level = (2 * mean * mean_wanted + 1e-4) / (mean * mean + mean_wanted * mean_wanted + 1e-4)
        structure = (together + _STILL) / ((variance * variance_wanted + 1e-6).sqrt() + _STILL)
        return _mean(1 - level * structure, loud)


class Disturbance(nn.Module):
    """What PESQ counts (ITU-T P.862): loudness missing or added, and once more what is added where there was little.

    Loudness by Zwicker's law in 49 bands of equal width in Bark, 50 Hz to 8 kHz, frames of 32 ms. As there, each band's
    mean level over the segment is forgiven; delays and the gain from frame to frame are left out. Correlation with
    PESQ's value before its last mapping 0.92 (63 clips of 3 s, 3 to 12 kbps), in segments of 0.4 s 0.85.
    """

    def __init__(self, sample_rate: int, *, window_seconds: float = 0.032, bands: int = 49) -> None:
        super().__init__()
        self.hop = round(sample_rate * window_seconds / 2)
        edges = np.linspace(_bark(50.0), _bark(8000.0), bands + 1)
        centres = (edges[1:] + edges[:-1]) / 2
        self.width = float(edges[1] - edges[0])
        step = sample_rate / (2 * self.hop)
        bins = np.arange(self.hop + 1) * step
        low, high = _hertz(edges[:-1, None]), _hertz(edges[1:, None])
        filters = np.maximum(np.minimum(bins + step / 2, high) - np.maximum(bins - step / 2, low), 0) / step
        khz = _hertz(centres) / 1000
        threshold_db = 3.64 * khz**-0.8 - 6.5 * np.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4  # Terhardt 1979
        steeper = np.where(centres < 4, np.minimum(6 / (centres + 2), 2) ** 0.15, 1.0)
        buffers = {
            "hann": torch.hann_window(2 * self.hop).numpy(),
            "filters": filters.T,
            "threshold": 10 ** (threshold_db / 10),
            "exponent": 0.23 * steeper,
            "speech": (bins >= _SPEECH_HZ[0]) & (bins < _SPEECH_HZ[1]),
        }
        for name, value in buffers.items():
            self.register_buffer(name, torch.from_numpy(value.astype(np.float32)), persistent=False)

    def _bands(self, estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Energies `[B, frames, bands]` of both: speech at one level, the target's bands with the estimate's means."""
        coded, wanted = (_energies(x, self.get_buffer("hann"), self.hop) for x in (estimate, target))
        faint = _FAINT_SPEECH * 0.75 * self.hop**2  # by Parseval, with a Hann window
        level = (wanted @ self.get_buffer("speech")).mean(1).clamp_min(faint)
        factor = (10 ** (_SPEECH_DB / 10) / level)[:, None, None]
        coded, wanted = ((x @ self.get_buffer("filters")) * factor for x in (coded, wanted))
        gain = (coded.mean(1, keepdim=True) + 1e3) / (wanted.mean(1, keepdim=True) + 1e3)
        return coded, wanted * gain.clamp(0.01, 100)

    def _loudness(self, energies: Tensor) -> Tensor:
        """Sone per Bark; energies relative to the one at which a tone of 1 kHz has 0 dB."""
        threshold, exponent = self.get_buffer("threshold"), self.get_buffer("exponent")
        above = (0.5 + energies / (2 * threshold)).clamp_min(1) ** exponent - 1
        return 0.1866 * (2 * threshold) ** exponent * above

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> what PESQ's value lacks of 4.5, but all frames count alike."""
        coded, wanted = self._bands(estimate, target)
        loud, loud_wanted = self._loudness(coded), self._loudness(wanted)
        distance = ((loud - loud_wanted).abs() - 0.25 * torch.minimum(loud, loud_wanted)).clamp_min(0) * self.width
        added = ((coded + 50) / (wanted + 50)) ** 1.2
        added = torch.where(added < 3, 0.0, added.clamp_max(12))
        symmetric = (distance.square().sum(2) * (self.width * distance.shape[2]) + 1e-6).sqrt()
        asymmetric = (distance * added).sum(2)
        quieter = ((wanted.sum(2) + 1e5) / 1e7) ** 0.04
        return ((0.1 * symmetric + 0.0309 * asymmetric) / quieter).mean()


def _bark(hertz: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Critical bands below a frequency (Schroeder et al. 1979)."""
    return np.asarray(7 * np.arcsinh(np.asarray(hertz) / 650), dtype=np.float64)


def _hertz(bark: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(650 * np.sinh(np.asarray(bark) / 7), dtype=np.float64)


def _mean(distances: Tensor, weight: Tensor) -> Tensor:
    """Of `[B, frames, bands]` with `[B, frames, 1]`."""
    return (distances * weight).sum() / (weight.sum() * distances.shape[2]).clamp_min(1)
