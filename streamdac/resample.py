"""Resampling as the official tool does it (julius.resample_frac: windowed sinc, 24 zeros, roll-off 0.945), in constant memory.

The filters are computed in float32 in julius's own order, so that they are its filters bit for bit. Blocks are always of
the same number of samples, counted from the start of the signal: the output does not depend on how the input was cut.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import UsageError
from .rates import resampled_samples, resampling_problem

_ZEROS = 24  # zero crossings of the sinc on either side
_ROLLOFF = 0.945  # cut-off, as a share of the lower Nyquist frequency
# Input samples worked on at once. Above 20,480 torch convolves by oneDNN, which sums the taps in order, so that all but very
# short signals come out as the official tool's to the last bit.
_BLOCK = 24_576
_GROUP = 640  # phases that share one matrix; every ratio of usual rates needs one group


class _Group(NamedTuple):
    """The filters of neighbouring phases `[phases, 1, taps]`; `start` is their first tap in the window."""

    start: int
    filters: Tensor


@lru_cache(maxsize=8)
def _filters(old: int, new: int) -> tuple[int, list[_Group]]:
    """Samples needed on either side, and the filters of all `new` phases, for two rates without a common divisor."""
    rate = min(new, old) * _ROLLOFF
    width = math.ceil(_ZEROS * old / rate)
    groups = []
    for first in range(0, new, _GROUP):
        end = min(first + _GROUP, new)
        low, high = first * old // new - width, -(-end * old // new) + width
        taps = torch.arange(low, high, dtype=torch.float32, device="cpu")
        phases = torch.tensor([-phase / new for phase in range(first, end)], dtype=torch.float32, device="cpu")
        t = ((phases[:, None] + taps / old) * rate).clamp_(-_ZEROS, _ZEROS) * math.pi
        filters = torch.where(t == 0, torch.ones_like(t), torch.sin(t) / t) * torch.cos(t / _ZEROS / 2).square()
        filters /= filters.sum(dim=1, keepdim=True)  # a constant stays what it is
        groups.append(_Group(low + width, filters[:, None]))
    return width, groups


class Resampler:
    """A stream at one rate in, at another out; nothing happens where they are equal.

    The whole output has `resampled_samples(T, old_rate, new_rate)` samples. Before and after the signal its first and
    last samples are repeated.

    Args:
        old_rate: Hz.
        new_rate: Hz.
        rows: channels.

    Raises:
        UsageError: the rates have so little in common that the filter would be huge.
    """

    def __init__(self, old_rate: int, new_rate: int, rows: int) -> None:
        if problem := resampling_problem(old_rate, new_rate):
            raise UsageError(problem)
        common = math.gcd(old_rate, new_rate)
        self._old, self._new, self._rows = old_rate // common, new_rate // common, rows
        self._identity = self._old == self._new
        if not self._identity:
            self._width, self._groups = _filters(self._old, self._new)
            self._frames = -(-_BLOCK // self._old)  # of `old` inputs and `new` outputs
            self._needed = self._frames * self._old + 2 * self._width
        self._buffer = _zeros(rows, 0)
        self._taken = self._given = 0

    def push(self, x: Tensor) -> Tensor:
        """float32 `[rows, T]` -> the samples now complete."""
        if self._identity or not x.shape[1]:
            return x
        if not self._taken:
            self._buffer = x[:, :1].expand(-1, self._width)
        self._taken += x.shape[1]
        self._buffer = torch.cat([self._buffer, x], dim=1)
        outputs = []
        while self._buffer.shape[1] >= self._needed:
            outputs.append(self._block())
        return self._give(outputs)

    def flush(self) -> Tensor:
        """The rest `[rows, T]`."""
        if self._identity or not self._taken:
            return _zeros(self._rows, 0)
        outputs: list[Tensor] = []
        left = resampled_samples(self._taken, self._old, self._new) - self._given
        blocks = -(-left // (self._frames * self._new))
        last = self._buffer[:, -1:].expand(-1, self._width + self._old)
        zeros = _zeros(self._rows, blocks * self._frames * self._old)
        self._buffer = torch.cat([self._buffer, last, zeros], dim=1)
        for _ in range(blocks):
            outputs.append(self._block())
        return self._give(outputs)[:, :left]

    def _block(self) -> Tensor:
        """`frames` filter positions, each giving one output per phase."""
        reach = (self._frames - 1) * self._old
        parts = []
        for start, filters in self._groups:
            window = self._buffer[:, None, start : start + reach + filters.shape[2]]
            parts.append(F.conv1d(window, filters, stride=self._old).transpose(1, 2))
        self._buffer = self._buffer[:, self._frames * self._old :]
        return torch.cat(parts, dim=2).reshape(self._rows, self._frames * self._new)

    def _give(self, outputs: list[Tensor]) -> Tensor:
        y = torch.cat(outputs, dim=1) if outputs else _zeros(self._rows, 0)
        self._given += y.shape[1]
        return y


def _zeros(rows: int, samples: int) -> Tensor:
    """Of the kind that all is here, whatever a program has made torch's default."""
    return torch.zeros(rows, samples, dtype=torch.float32, device="cpu")
