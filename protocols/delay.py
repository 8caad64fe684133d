"""How long to wait for packets: a quantile of their delays, with forgetting, as NetEq's delay manager has it.

A packet's transit is its arrival time less its frame time, so it holds an unknown offset; its relative delay is the
transit less the smallest one of the last seconds (`window`). The largest relative delay of each `interval` goes into a
histogram whose old entries fade by `forget`; the target is its `quantile`. Short intervals of maxima instead of single
packets let one packet in twenty be as late as it likes without being half of the histogram.
"""

import math
from collections import deque

import numpy as np

from ..errors import UsageError

QUANTILE = 0.95
FORGET = 0.983  # per interval: half is forgotten after 20 s
INTERVAL = 0.5  # s
WINDOW = 2.0  # s
BUCKET = 0.005  # s
MAX_SECONDS = 60


class DelayEstimator:
    """Relative delays in, `target` (s) out, between `minimum` and `maximum`."""

    def __init__(self, frame_seconds: float, *, minimum: float = 0.02, maximum: float = 1.0) -> None:
        if not 0 <= minimum <= maximum <= MAX_SECONDS:
            raise UsageError(f"got delays from {minimum} to {maximum} s, need 0 to {MAX_SECONDS}, rising")
        self.minimum, self.maximum = minimum, maximum
        self.target = minimum
        self._frame_seconds = frame_seconds
        self._histogram = np.zeros(math.ceil(maximum / BUCKET) + 1)
        self._updates = 0
        self._smallest: deque[tuple[float, float]] = deque()  # (arrival, transit), both rising: a sliding minimum
        self._interval: float | None = None  # start of the running interval
        self._largest = 0.0

    @property
    def base(self) -> float | None:
        """The smallest transit of the last seconds; None before the first packet."""
        return self._smallest[0][1] if self._smallest else None

    def observe(self, first_frame: int, now: float) -> float:
        """Take a packet; gives its relative delay."""
        transit = now - first_frame * self._frame_seconds
        while self._smallest and self._smallest[-1][1] >= transit:
            self._smallest.pop()
        self._smallest.append((now, transit))
        while self._smallest[0][0] < now - WINDOW:
            self._smallest.popleft()
        relative = transit - self._smallest[0][1]
        self._largest = max(self._largest, relative)
        if self._interval is None:
            self._interval = now
        elif now - self._interval >= INTERVAL:
            self._update()
            self._interval, self._largest = now, 0.0
        return relative

    def _update(self) -> None:
        self._updates += 1
        # The first entries count in full (NetEq's start_forget_weight of 2), so the start does not take 20 s.
        forget = min(FORGET, max(0.0, 1 - 2 / (self._updates + 1)))
        bucket = min(int(self._largest / BUCKET), len(self._histogram) - 1)
        self._histogram *= forget
        self._histogram[bucket] += 1 - forget
        reached = np.searchsorted(np.cumsum(self._histogram), QUANTILE * self._histogram.sum() - 1e-12)
        self.target = min(max((int(reached) + 1) * BUCKET, self.minimum), self.maximum)
