"""The levels of a signal, and the signal brought to another: what must be known of all of it before its first code."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from .archive import MOST_DB
from .errors import BadDataError
from .loudness import LoudnessMeter
from .resample import Resampler

_DB_TO_LOG = math.log(10) / 20

Rows = npt.NDArray[np.float32]  # [R, T]
Progress = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""


@dataclass(frozen=True)
class Signal:
    """Rows of audio that can be read more than once: the channels of each of `batch` signals one after the other."""

    open: Callable[[], Iterator[Rows]]
    sample_rate: int
    channels: int
    batch: int = 1

    @property
    def rows(self) -> int:
        """Channels of all signals."""
        return self.batch * self.channels


@dataclass(frozen=True)
class Levels:
    """What the first pass finds."""

    original: int
    """Samples at the source's rate."""
    samples: int
    """Samples at the model's rate."""
    input_db: npt.NDArray[np.float32]
    """`[B]`"""
    gains: Rows
    """`[R, 1]`: to the wanted loudness."""
    limits: Rows
    """`[R, 1]`: below 1 where a row's peak would exceed 1."""

    def apply(self, x: Rows) -> Rows:
        """The levelled `x`; two factors, rounded one after the other as the official tool does."""
        return x * self.gains * self.limits


def measure(signal: Signal, sample_rate: int, normalize_db: float | None) -> Levels:
    """The first pass: length, loudness and peaks at the model's rate.

    Raises:
        BadDataError: there is no audio, or it is not finite, or far too loud.
    """
    meters = [LoudnessMeter(sample_rate, signal.channels) for _ in range(signal.batch)]
    peaks = np.zeros((signal.rows, 1), np.float32)
    original = samples = 0
    for x, taken in _at_rate(signal, sample_rate):
        original, samples = original + taken, samples + x.shape[1]
        if not x.shape[1]:
            continue
        if not np.isfinite(x).all():
            raise BadDataError(f"audio holds NaN or infinity before sample {original} at {signal.sample_rate} Hz")
        peaks = np.maximum(peaks, np.abs(x).max(axis=1, keepdims=True))
        for meter, rows in zip(meters, x.reshape(signal.batch, signal.channels, -1), strict=True):
            meter.push(rows)
    if not original:
        raise BadDataError("holds no audio: 0 samples")
    if not samples:
        raise BadDataError(f"audio of {original} samples at {signal.sample_rate} Hz is nothing at {sample_rate} Hz")
    input_db = np.array([meter.finish() for meter in meters], np.float32)
    _check_level(float(input_db.max()), float(peaks.max()))
    gains = np.ones((signal.rows, 1), np.float32)
    if normalize_db is not None:
        gains = np.repeat(gain_between(input_db, normalize_db), signal.channels)[:, None]
    peaks = peaks * gains
    limits = np.divide(np.float32(1), peaks, out=np.ones_like(peaks), where=peaks > 1)
    return Levels(original, samples, input_db, gains, limits)


def _check_level(db: float, peak: float) -> None:
    if not db <= MOST_DB:
        raise BadDataError(f"samples up to {peak:.3g} ({db:.1f} dB LUFS), need about -1 to 1")


def gain_between(db: npt.NDArray[np.float32], wanted_db: npt.NDArray[np.float32] | float) -> npt.NDArray[np.float32]:
    """Factors from one loudness to another, in float32 as torch rounds them (and so the official tool)."""
    difference = torch.as_tensor(wanted_db, dtype=torch.float32, device="cpu") - torch.from_numpy(db)
    return torch.exp(difference * _DB_TO_LOG).numpy()


def _at_rate(signal: Signal, sample_rate: int) -> Iterator[tuple[Rows, int]]:
    """Blocks at the model's rate, each with how many samples of the source went into it."""
    resampler = Resampler(signal.sample_rate, sample_rate, signal.rows)
    for block in signal.open():
        yield resampler.push(torch.from_numpy(block)).numpy(), block.shape[1]
    yield resampler.flush().numpy(), 0


def levelled(signal: Signal, sample_rate: int, levels: Levels, progress: Progress | None) -> Iterator[Rows]:
    """Blocks at the model's rate, levelled."""
    samples = 0
    for x, _ in _at_rate(signal, sample_rate):
        samples += x.shape[1]
        if progress is not None:
            progress(min(1.0, samples / levels.samples))
        yield levels.apply(x)
    if samples != levels.samples:
        raise BadDataError(f"the source changed while it was read: {levels.samples} samples, then {samples}")
