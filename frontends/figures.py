"""Figures of a run that may last for days: percentiles in fixed memory, and levels for meters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_STEP, _STEPS = 0.02, 50_000  # ms, up to a second
FLOOR_DB = -80.0


class Histogram:
    """Times in ms: the percentiles are right to a fiftieth of one."""

    def __init__(self) -> None:
        self._counts: npt.NDArray[np.int64] = np.zeros(_STEPS, np.int64)
        self.count = 0
        self.worst = 0.0
        self.total = 0.0

    def add(self, ms: float) -> None:
        """One more."""
        self._counts[min(max(int(ms / _STEP), 0), _STEPS - 1)] += 1
        self.count += 1
        self.total += ms
        self.worst = max(self.worst, ms)

    @property
    def mean(self) -> float:
        """0 where there are none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> float:
        """Nearest rank; 0 where there are none."""
        if not self.count:
            return 0.0
        rank = min(self.count - 1, int(self.count * percent / 100))
        return min(self.worst, _STEP * (int(np.searchsorted(np.cumsum(self._counts), rank, side="right")) + 0.5))


class Meter:
    """Peak level in dB of full scale, falling by 20 dB a second."""

    def __init__(self) -> None:
        self.db = FLOOR_DB

    def add(self, block: npt.NDArray[np.float32], seconds: float) -> None:
        """A block that lasts so long."""
        peak = float(np.abs(block).max()) if block.size else 0.0
        level = 20 * float(np.log10(peak)) if peak > 1e-4 else FLOOR_DB
        self.db = max(level, self.db - 20 * seconds, FLOOR_DB)
