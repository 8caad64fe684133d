"""How close coded audio is to the original: distances from numpy and torch, PESQ, ESTOI and ViSQOL from the extra `eval`."""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr
import torch

from streamdac.errors import UnavailableError, UsageError

from .losses import SpectralLosses, si_sdr

Signal = npt.NDArray[np.float32]  # [T]
Metric = Callable[[Signal, Signal, int], float]

_SPEECH_RATE = 16_000  # Hz, of PESQ-WB, ESTOI (which goes on to 10 kHz) and ViSQOL's speech mode
_AUDIO_RATE = 48_000  # Hz, of ViSQOL's audio mode
_VISQOL_SECONDS = 10  # at most, at once
_VISQOL_LEAST = {"speech": 0.7, "audio": 1.0}  # seconds: of less it makes no patch


def _at(signal: Signal, rate: int, wanted: int) -> Signal:
    return signal if rate == wanted else np.asarray(soxr.resample(signal, rate, wanted), dtype=np.float32)


@functools.cache
def _spectral(rate: int) -> SpectralLosses:
    return SpectralLosses(rate)


def _distances(reference: Signal, coded: Signal, rate: int) -> tuple[float, float]:
    with torch.no_grad():
        pair = [torch.from_numpy(np.ascontiguousarray(x))[None, None] for x in (coded, reference)]
        mel, stft = _spectral(rate)(*pair)
    return float(mel), float(stft)


def mel_distance(reference: Signal, coded: Signal, rate: int) -> float:
    """The official multi-scale mel loss: L1 of log10 mel magnitudes, summed over 7 windows from 32 to 2048 samples."""
    return _distances(reference, coded, rate)[0]


def stft_distance(reference: Signal, coded: Signal, rate: int) -> float:
    """The official multi-resolution STFT loss."""
    return _distances(reference, coded, rate)[1]


def si_sdr_db(reference: Signal, coded: Signal, _rate: int) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), dB."""
    pair = [torch.from_numpy(np.ascontiguousarray(x))[None, None] for x in (coded, reference)]
    return float(si_sdr(*pair))


def pesq_wb(reference: Signal, coded: Signal, rate: int) -> float:
    """PESQ wide-band (ITU-T P.862.2), MOS-LQO; NaN where it finds no speech."""
    import pesq

    a, b = _at(reference, rate, _SPEECH_RATE), _at(coded, rate, _SPEECH_RATE)
    if not np.any(a) or not np.any(b):
        return float("nan")
    try:
        return float(pesq.pesq(_SPEECH_RATE, a, b, "wb"))
    except (pesq.NoUtterancesError, pesq.BufferTooShortError):
        return float("nan")


def estoi(reference: Signal, coded: Signal, rate: int) -> float:
    """Extended short-time objective intelligibility (Jensen and Taal 2016), 0 to 1; NaN for less than 0.4 s of speech."""
    import warnings

    from pystoi import stoi

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        value = float(
            stoi(_at(reference, rate, _SPEECH_RATE), _at(coded, rate, _SPEECH_RATE), _SPEECH_RATE, extended=True)
        )
    few = any("Not enough STFT frames" in str(one.message) for one in said)  # then it returns a constant
    return float("nan") if few else value


@functools.cache
def _visqol(mode: str) -> Any:
    from visqol import VisqolApi

    api = VisqolApi()
    # Speech by the lattice that the reference program has: the fallback of this library is up to 2 points kinder.
    api.create(mode=mode, use_lattice_model=True if mode == "speech" else None)
    return api


def _moslqo(reference: Signal, coded: Signal, rate: int, *, mode: str, wanted: int) -> float:
    a, b = (_at(x, rate, wanted).astype(np.float64) for x in (reference, coded))
    if len(a) < _VISQOL_LEAST[mode] * wanted:
        return float("nan")
    pieces = max(1, math.ceil(len(a) / (_VISQOL_SECONDS * wanted)))
    pairs = zip(np.array_split(a, pieces), np.array_split(b, pieces), strict=True)
    return float(np.mean([_visqol(mode).measure_from_arrays(*pair, wanted).moslqo for pair in pairs]))


def visqol_speech(reference: Signal, coded: Signal, rate: int) -> float:
    """ViSQOL in speech mode (Chinen et al. 2020), MOS-LQO at 16 kHz; of clips over 10 s the mean of equal parts of less.

    NaN for less than 0.7 s, which it cannot align.
    Its time grows with the square of the length: 9 s for 10 s of audio, 28 s for 20 s.
    """
    return _moslqo(reference, coded, rate, mode="speech", wanted=_SPEECH_RATE)


def visqol_audio(reference: Signal, coded: Signal, rate: int) -> float:
    """ViSQOL in audio mode, MOS-LQO at 48 kHz; long clips as in speech mode, NaN for less than 1 s."""
    return _moslqo(reference, coded, rate, mode="audio", wanted=_AUDIO_RATE)


METRICS: dict[str, Metric] = {
    "pesq_wb": pesq_wb,
    "estoi": estoi,
    "visqol_speech": visqol_speech,
    "visqol_audio": visqol_audio,
    "mel": mel_distance,
    "stft": stft_distance,
    "si_sdr": si_sdr_db,
}
"""By name, in the order of tables."""

_NEEDS = {
    "pesq_wb": ("pesq",),
    "estoi": ("pystoi",),
    "visqol_speech": ("visqol", "ai_edge_litert"),
    "visqol_audio": ("visqol",),
}


def _missing(name: str) -> list[str]:
    return [module for module in _NEEDS.get(name, ()) if importlib.util.find_spec(module) is None]


def available_metrics() -> list[str]:
    """Names of the metrics whose libraries are installed."""
    return [name for name in METRICS if not _missing(name)]


def choose_metrics(names: Sequence[str] | None) -> list[str]:
    """`names` checked, or all that are available.

    Raises:
        UsageError: an unknown name.
        UnavailableError: a metric whose library is missing.
    """
    if names is None:
        return available_metrics()
    for name in names:
        if name not in METRICS:
            raise UsageError(f"no metric {name!r}; there are {', '.join(METRICS)}")
        if missing := _missing(name):
            raise UnavailableError(f"{name} needs {' and '.join(missing)}: pip install 'streamdac[eval]'")
    return list(names)


def compare(names: Sequence[str], reference: Signal, coded: Signal, rate: int) -> dict[str, float]:
    """Every named metric of one clip; both signals `[T]` at `rate` Hz, of one length."""
    return {name: METRICS[name](reference, coded, rate) for name in names}
