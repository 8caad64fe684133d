"""Clock drift between sender and receiver, and the playback speed that makes up for it.

The smallest transit of each second (arrival time less frame time) has hardly any jitter in it; the slope of these over
a minute is the drift. The slope is Theil and Sen's, the median over pairs, here those at most a third of the history
apart: wherever a change of route lies, one pair in five at most has it in between, and the median is not upset.
"""

from collections import deque

import numpy as np

SECONDS = 60  # of history
ENOUGH = 10  # seconds before an estimate is given
LIMIT = 0.01  # of drift and of the change of speed: what a listener does not notice
SETTLE = 10.0  # s in which an excess delay is played away


class DriftEstimator:
    """Frame times and arrival times in, the sender's clock against ours out."""

    def __init__(self, frame_seconds: float) -> None:
        self.drift = 0.0  # how much faster the sender's clock runs, 0 until there is enough history
        self._frame_seconds = frame_seconds
        self._points: deque[tuple[float, float]] = deque(maxlen=SECONDS)  # (arrival, transit)
        self._current: tuple[float, float] | None = None
        self._start = 0.0

    def observe(self, first_frame: int, now: float) -> None:
        """Take a packet."""
        transit = now - first_frame * self._frame_seconds
        if self._current is None:
            self._start = now
        elif now - self._start >= 1.0:
            self._points.append(self._current)
            self._current = None
            self._start = now
            self._estimate()
        if self._current is None or transit < self._current[1]:
            self._current = now, transit

    def speed(self, excess: float) -> float:
        """Playback speed, within 1 ± `LIMIT`, that follows the drift and plays `excess` s of delay away."""
        return 1.0 + min(max(self.drift + excess / SETTLE, -LIMIT), LIMIT)

    def _estimate(self) -> None:
        if len(self._points) < ENOUGH:
            return
        points = np.array(self._points)
        later, earlier = np.tril_indices(len(points), -1)
        near = later - earlier <= len(points) // 3
        steps = points[later[near]] - points[earlier[near]]
        slope = float(np.median(steps[:, 1] / np.maximum(steps[:, 0], 1e-9)))
        # Transits fall when the sender is fast: after t s of ours it has made (1 + drift) t s of frames.
        self.drift = min(max(-slope, -LIMIT), LIMIT)
