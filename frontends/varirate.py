"""Sample-rate conversion with little delay and a speed that may change: a windowed sinc at any position between samples.

64 taps of the slower rate under a Kaiser window: 1.3 ms of delay at 24 kHz. Flat to 0.85 of the lower Nyquist frequency, 80
dB down beyond it. Between 48 and 24 kHz in blocks of a hop soxr's LQ, MQ and HQ hold back 20 ms and more, and its QQ
has no filter against aliases at all (`tests/live/test_varirate.py` measures both).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from streamdac.errors import UsageError

from .rates import LEAST_RATE, MOST_RATE

Block = npt.NDArray[np.float32]  # [T, C]

_ZEROS = 32  # zero crossings on either side
_PHASES = 512  # between two samples; interpolated linearly in between
_BETA = 8.0
_FEW = 8  # filters: more are gathered
_NEAR = 1e-7  # of a sample
_CUTOFF = 0.92  # of the lower Nyquist frequency
_MOST_RATIO = 64  # of the rates: a bank of 8 MB


@lru_cache(maxsize=8)
def _bank(scale: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Filters `[phases + 1, taps]` for a cut-off of `scale` of the input's Nyquist frequency, and their differences."""
    half = int(np.ceil(_ZEROS / scale))
    taps = np.arange(-half + 1, half + 1)[None, :] - np.arange(_PHASES + 1)[:, None] / _PHASES
    window = np.i0(_BETA * np.sqrt(np.clip(1 - (taps / half) ** 2, 0, None))) / np.i0(_BETA)
    filters = np.sinc(taps * scale * _CUTOFF) * window
    filters /= filters.sum(axis=1, keepdims=True)
    bank = filters.astype(np.float32)
    return bank, np.diff(bank, axis=0)


class VariableResampler:
    """Blocks `[T, C]` at one rate in, at another out; `speed` may be set at any time.

    The output begins where the input does. After n outputs at speed 1 the next one is at input sample n * rate_in /
    rate_out; it is given once `delay` samples after it have come.

    Args:
        rate_in: Hz.
        rate_out: Hz.
        channels: columns.

    Raises:
        UsageError: rates, or a ratio of them, that no audio needs.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        low, high = sorted((rate_in, rate_out))
        if low < LEAST_RATE or high > MOST_RATE or high > _MOST_RATIO * low:
            raise UsageError(
                f"cannot convert {rate_in} Hz to {rate_out} Hz: need {LEAST_RATE} to {MOST_RATE} Hz, "
                f"of which one is at most {_MOST_RATIO} times the other"
            )
        self.speed = 1.0
        """How much faster than real time the input is used up: above 1 gives fewer samples."""
        self._step = rate_in / rate_out
        self._period = Fraction(rate_in, rate_out).denominator  # outputs after which the phases come again
        self._bank, self._slopes = _bank(min(1.0, rate_out / rate_in))
        self.delay = self._bank.shape[1] // 2  # input samples
        self._buffer: Block = np.zeros((self.delay - 1, channels), np.float32)
        self._at = 0.0  # of the next output, in the buffer, less the samples before it that the filter needs
        self._dropped = 0

    @property
    def position(self) -> float:
        """Of the next output, in input samples from the start."""
        return self._dropped + self._at

    def push(self, block: Block) -> Block:
        """The samples now complete."""
        taps = self._bank.shape[1]
        self._buffer = np.concatenate([self._buffer, block])
        step = self._step * self.speed
        last = len(self._buffer) - taps  # the highest whole position
        count = max(0, int((last + 1 - self._at) // step) + 2) if last >= 0 else 0
        at = self._at + step * np.arange(count)
        # Sums of thirds fall on the same side of a sample however the blocks come.
        whole = np.floor(at + _NEAR).astype(np.int64)
        whole = whole[whole <= last]
        at = at[: len(whole)]
        if not len(at):
            return np.zeros((0, block.shape[1]), np.float32)
        phase = np.maximum(at - whole, 0) * _PHASES
        row = phase.astype(np.int64)
        rest = (phase - row).astype(np.float32)[:, None]
        windows = np.lib.stride_tricks.sliding_window_view(self._buffer, taps, axis=0)  # [T, C, taps]
        if self._period <= _FEW and self.speed == 1.0 and not rest.any():
            out = self._periodic(windows, whole, row)
        else:
            filters = self._bank[row] + rest * self._slopes[row]
            out = np.matmul(windows[whole], filters[:, :, None])[:, :, 0]
        self._at = float(at[-1]) + step
        used = min(int(self._at), len(self._buffer))
        self._buffer = self._buffer[used:].copy()
        self._at -= used
        self._dropped += used
        return out

    def _periodic(self, windows: Block, whole: npt.NDArray[np.int64], row: npt.NDArray[np.int64]) -> Block:
        """The usual ratios have few filters: one product each."""
        out = np.empty((len(whole), windows.shape[1]), np.float32)
        for k in range(min(self._period, len(whole))):
            out[k :: self._period] = windows[whole[k :: self._period]] @ self._bank[row[k]]
        return out


class LiveConverter:
    """A fixed ratio with a beginning and an end, for a stream of known length; nothing happens where the rates are equal.

    The whole output has ceil(T * rate_out / rate_in) samples.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int) -> None:
        self.rate_in, self.rate_out, self.channels = rate_in, rate_out, channels
        self._resampler = None if rate_in == rate_out else VariableResampler(rate_in, rate_out, channels)
        self.taken = self.given = 0

    @property
    def delay(self) -> float:
        """Seconds that are held back."""
        return 0.0 if self._resampler is None else self._resampler.delay / self.rate_in

    def push(self, block: Block) -> Block:
        """The samples that are complete with `block`."""
        self.taken += len(block)
        out = block if self._resampler is None else self._resampler.push(block)
        self.given += len(out)
        return out

    def flush(self) -> Block:
        """The rest, as if silence followed."""
        missing = -(-self.taken * self.rate_out // self.rate_in) - self.given
        if self._resampler is None or missing <= 0:
            return np.zeros((0, self.channels), np.float32)
        rest = self._resampler.push(np.zeros((2 * self._resampler.delay, self.channels), np.float32))[:missing]
        self.given += len(rest)
        return rest
