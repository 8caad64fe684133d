"""Reconstruction losses of DAC (Kumar et al. 2023, section 3.5): mel, multi-resolution STFT, waveform.

Values equal the official package's. Both spectral losses share their STFTs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .fused import compressed_distance, log_distance, magnitude

_BREAK_HZ = 1000.0  # Slaney's mel scale: linear below, logarithmic above
_MEL_PER_HZ = 3 / 200
_LOG_STEP = np.log(6.4) / 27
_SILENT, _NOTHING = 1e-9, 1e-10  # mean squares
_FAINT = 1e-9  # energy of a bin, per sample of its window, below which compression is linear


def _hz_to_mel(hz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logarithmic = _BREAK_HZ * _MEL_PER_HZ + np.log(np.maximum(hz, 1e-9) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz >= _BREAK_HZ, logarithmic, hz * _MEL_PER_HZ)


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_HZ * _MEL_PER_HZ))
    return np.where(mel >= _BREAK_HZ * _MEL_PER_HZ, logarithmic, mel / _MEL_PER_HZ)


def mel_filters(
    sample_rate: int, window: int, n_mels: int, *, fmin: float = 0.0, fmax: float | None = None
) -> npt.NDArray[np.float32]:
    """Triangular filters of unit area on Slaney's scale: `[n_mels, window / 2 + 1]`.

    Where a window is too narrow for its mels, rows are all zero, as in the official package.
    """
    low, high = _hz_to_mel(np.array([fmin, sample_rate / 2 if fmax is None else fmax]))
    edges = _mel_to_hz(np.linspace(float(low), float(high), n_mels + 2))
    bins = np.linspace(0.0, sample_rate / 2, window // 2 + 1)
    widths = np.diff(edges)
    ramps = edges[:, None] - bins
    triangles = np.maximum(0.0, np.minimum(-ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


@dataclass(frozen=True)
class MelSettings:
    """One mel scale per window; the defaults are the official final configuration."""

    n_mels: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    windows: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    fmin: float = 0.0
    fmax: float | None = None
    clamp: float = 1e-5
    power: float = 1.0
    mag_weight: float = 0.0
    log_weight: float = 1.0


@dataclass(frozen=True)
class StftSettings:
    """Windows of the multi-resolution STFT loss, in samples."""

    windows: tuple[int, ...] = (2048, 512)
    clamp: float = 1e-5
    power: float = 2.0
    mag_weight: float = 1.0
    log_weight: float = 1.0


def _spectrum(x: Tensor, hann: Tensor) -> Tensor:
    """`[B, 1, T]` -> complex `[B, frames, window / 2 + 1]`: hop a quarter, centred, reflect-padded."""
    window = len(hann)
    return torch.stft(x.squeeze(1), window, window // 4, window=hann, return_complex=True).transpose(1, 2)


class SpectralLosses(nn.Module):
    """Mel and STFT distance of two waveforms, with one STFT per window for both."""

    def __init__(self, sample_rate: int, mel: MelSettings | None = None, stft: StftSettings | None = None) -> None:
        super().__init__()
        self.mel_settings, self.stft_settings = mel or MelSettings(), stft or StftSettings()
        settings = self.mel_settings
        self.windows = sorted({*settings.windows, *self.stft_settings.windows})
        for window in self.windows:
            self.register_buffer(f"hann_{window}", torch.hann_window(window), persistent=False)
        for window, n_mels in zip(settings.windows, settings.n_mels, strict=True):
            filters = mel_filters(sample_rate, window, n_mels, fmin=settings.fmin, fmax=settings.fmax)
            self.register_buffer(f"filters_{window}", torch.from_numpy(filters), persistent=False)

    def magnitudes(self, x: Tensor, window: int) -> Tensor:
        """`[B, 1, T]` -> `[B, frames, window / 2 + 1]`, with a periodic Hann window."""
        return magnitude(_spectrum(x, self.get_buffer(f"hann_{window}")))

    def _mel_distance(self, estimate: Tensor, target: Tensor, window: int, excess: float) -> Tensor:
        s, filters = self.mel_settings, self.get_buffer(f"filters_{window}").t()
        return _distance(estimate @ filters, target @ filters, s, excess)

    def per_window(
        self, estimate: Tensor, target: Tensor, excess: float = 1.0
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Mel and STFT distances by window in samples; `[B, 1, T]` each, no gradient for the target."""
        mel: dict[int, Tensor] = {}
        stft: dict[int, Tensor] = {}
        for window in self.windows:
            a = self.magnitudes(estimate, window)
            with torch.no_grad():
                b = self.magnitudes(target, window)
            if window in self.mel_settings.windows:
                mel[window] = self._mel_distance(a, b, window, excess)
            if window in self.stft_settings.windows:
                stft[window] = _distance(a, b, self.stft_settings, excess)
        return mel, stft

    def forward(self, estimate: Tensor, target: Tensor, excess: float = 1.0) -> tuple[Tensor, Tensor]:
        """`[B, 1, T]`, `[B, 1, T]` -> mel distance, STFT distance, summed over windows.

        excess: how much more logs above the target's weigh than logs below it; at 1 these are the official distances.
        """
        mel, stft = self.per_window(estimate.float(), target.float(), excess)
        return _total(mel.values()), _total(stft.values())


def _distance(estimate: Tensor, target: Tensor, settings: MelSettings | StftSettings, excess: float) -> Tensor:
    return log_distance(
        estimate,
        target,
        clamp=settings.clamp,
        lean=_lean(excess),
        log_weight=settings.log_weight * settings.power,
        mag_weight=settings.mag_weight,
    )


def _lean(excess: float) -> float:
    """By how much more and less than 1 errors above and below zero weigh, for one to weigh `excess` times the other."""
    return (excess - 1) / (excess + 1)


def _total(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()


class CompressedSpectra(nn.Module):
    """Distance of spectra whose magnitudes are compressed by a power, as loudness is, with and without their phases.

    As in speech enhancement (Braun and Tashev 2021, "A consolidated view of loss functions for supervised deep learning-based
    speech enhancement"), relative to the target's own compressed energy. Sees formants, where a log spectrum sees every gap
    between harmonics as well, and phases, where they can be kept. Magnitudes above the target's weigh `excess` times as much as
    those below it.
    """

    def __init__(self, windows: Sequence[int], *, power: float = 0.3, phase: float = 0.3, excess: float = 1.0) -> None:
        super().__init__()
        self.windows, self.power, self.phase, self.excess = tuple(windows), power, phase, excess
        for window in self.windows:
            self.register_buffer(f"hann_{window}", torch.hann_window(window), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> mean over items and windows; no gradient for the target."""
        distances = []
        for window in self.windows:
            hann = self.get_buffer(f"hann_{window}")
            distance = compressed_distance(
                _spectrum(estimate.float(), hann),
                _spectrum(target.float(), hann),
                power=self.power,
                phase=self.phase,
                floor=_FAINT * window,
                lean=_lean(self.excess),
            )
            distances.append(distance.mean())
        return torch.stack(distances).mean()


class Lines(nn.Module):
    """What the error has at multiples of a frequency more than between them: tones that strides make of constant inputs.

    Windows hold 30 periods, so that a tone fills the bin it is in, and speech, whose pitch moves, fills many.
    """

    _PERIODS = 30
    _APART = 3  # bins from a multiple on which a Hann window's tone no longer reaches

    def __init__(self, period: int) -> None:
        """period: of the lowest tone, in samples."""
        super().__init__()
        self.register_buffer("hann", torch.hann_window(self._PERIODS * period), persistent=False)

    def forward(self, estimate: Tensor, target: Tensor) -> Tensor:
        """`[B, 1, T]`, `[B, 1, T]` -> mean amplitude at multiples in units of that between them; about 0.9 for noise."""
        hann = self.get_buffer("hann")
        error = (estimate - target).squeeze(1).float()
        error = F.pad(error, (0, max(0, len(hann) - error.shape[1])))
        spectrum = torch.stft(error, len(hann), len(hann) // 2, window=hann, center=False, return_complex=True)
        energies = torch.view_as_real(spectrum).square().sum(-1).transpose(1, 2)  # [B, frames, bins]
        periods, apart = self._PERIODS, self._APART
        cells = energies[..., periods // 2 : -(periods // 2) - 1].unflatten(2, (-1, periods))  # each around a multiple
        middle = periods // 2
        with torch.no_grad():
            around = torch.cat([cells[..., : middle - apart + 1], cells[..., middle + apart :]], 3).mean(3)
        relative = cells[..., middle] / (around + _FAINT * len(hann))
        distance: Tensor = (relative + 1e-3).sqrt().mean()
        return distance


def at_one_length(estimate: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both `[..., T]` cut to the shorter: centred odd strides give a few samples less than they got."""
    samples = min(estimate.shape[-1], target.shape[-1])
    return estimate[..., :samples], target[..., :samples]


def waveform_l1(estimate: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference: the official L1 loss."""
    return F.l1_loss(estimate, target)


def level_normalised_l1(estimate: Tensor, target: Tensor, *, floor: float = 1e-3) -> Tensor:
    """L1 relative to each item's own mean level, so that quiet speech counts as much as loud.

    The level is not taken below `floor`.
    """
    level = target.abs().mean(dim=(1, 2)) + floor
    return ((estimate - target).abs().mean(dim=(1, 2)) / level).mean()


def noise_in_silence(estimate: Tensor, target: Tensor, frame: int) -> Tensor:
    """How far `estimate` lies above `target` (or -100 dB) where that is silent, in units of 20 dB: mean over all frames.

    A frame is silent when it and the three before it are below -90 dB of full scale: what has just ended may ring out. Losses
    whose gradients follow the level (`training.balance`) say nothing there.

    Shape: `[B, 1, T]` each; frame in samples.
    """
    pair = [F.pad(x.squeeze(1), (0, -x.shape[-1] % frame)).unflatten(1, (-1, frame)) for x in (estimate, target)]
    energies, wanted = (frames.square().mean(2) for frames in pair)  # [B, F]
    loudest = F.max_pool1d(F.pad(wanted, (3, 0)), 4, 1)
    above = 0.5 * ((energies + _NOTHING) / (wanted + _NOTHING)).log10().clamp_min(0)
    return torch.where(loudest < _SILENT, above, 0).mean()


def si_sdr(estimate: Tensor, target: Tensor, *, floor: float = 1e-8) -> Tensor:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), dB: `[B, 1, T]` each -> `[B]`."""
    estimate = estimate.flatten(1) - estimate.flatten(1).mean(1, keepdim=True)
    target = target.flatten(1) - target.flatten(1).mean(1, keepdim=True)
    scale = (estimate * target).sum(1, keepdim=True) / (target.square().sum(1, keepdim=True) + floor)
    wanted = scale * target
    return 10 * torch.log10((wanted.square().sum(1) + floor) / ((estimate - wanted).square().sum(1) + floor))
