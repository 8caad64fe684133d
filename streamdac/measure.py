"""How close decoded audio is to the original: a few figures that need nothing but numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Signal = npt.NDArray[np.float32]  # [T]

_WINDOW, _STEP, _FLOOR = 1024, 256, 1e-4


def snr_db(reference: Signal, decoded: Signal) -> float:
    """Signal-to-noise ratio; both `[T]`. Infinite for equal signals, NaN for silence."""
    x, y = _aligned(reference, decoded)
    return _ratio_db(float(np.sum(x**2)), float(np.sum((x - y) ** 2)))


def si_sdr_db(reference: Signal, decoded: Signal) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019); both `[T]`."""
    x, y = _aligned(reference, decoded)
    energy = float(np.sum(x**2))
    if energy == 0:
        return float("nan")
    target = x * (float(np.sum(x * y)) / energy)
    return _ratio_db(float(np.sum(target**2)), float(np.sum((target - y) ** 2)))


def log_spectral_distance_db(reference: Signal, decoded: Signal) -> float:
    """Root-mean-square difference of the log spectra of a frame, averaged over frames where the original is not silent."""
    x, y = _aligned(reference, decoded)
    a, b = _spectrum(x), _spectrum(y)
    if not len(a):
        return float("nan")
    loud = a.max(axis=1) > 20 * np.log10(_FLOOR) + 20
    distance = np.sqrt(np.mean((a - b) ** 2, axis=1))
    return float(distance[loud].mean()) if loud.any() else float("nan")


def level_db(signal: Signal) -> float:
    """Root-mean-square level against full scale."""
    return _ratio_db(float(np.mean(np.square(signal, dtype=np.float64))), 1.0) if len(signal) else float("-inf")


def _aligned(reference: Signal, decoded: Signal) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    n = min(len(reference), len(decoded))
    return reference[:n].astype(np.float64), decoded[:n].astype(np.float64)


def _ratio_db(power: float, noise: float) -> float:
    if power == 0:
        return float("nan") if noise == 0 else float("-inf")
    return float("inf") if noise == 0 else float(10 * np.log10(power / noise))


def _spectrum(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Magnitudes in dB `[frames, bins]` under a Hann window, floored at -80 dB."""
    if len(signal) < _WINDOW:
        return np.zeros((0, _WINDOW // 2 + 1))
    frames = np.lib.stride_tricks.sliding_window_view(signal, _WINDOW)[::_STEP]
    window = np.hanning(_WINDOW + 1)[:-1]
    magnitude = np.abs(np.fft.rfft(frames * window, axis=1)) / window.sum()
    return np.asarray(20 * np.log10(np.maximum(magnitude, _FLOOR)), dtype=np.float64)
