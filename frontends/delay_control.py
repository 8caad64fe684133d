"""How long audio stays between microphone and loudspeaker: held at a target against underruns and drifting clocks.

With one clock the delay is exact and changes only at trouble. With two it is known as well as callbacks are
on time, and held by a loop of second order around a variable-rate resampler, as zita-ajbridge has it: slow, so that the
jitter of callbacks does not become a wobble of pitch.
"""

from __future__ import annotations

from dataclasses import dataclass

LIMIT = 0.01  # of the change of speed
NATURAL = 0.1  # rad/s, of the loop: a drift of 300 ppm moves the delay by 1.1 ms at most
DAMPING = 0.9
SMOOTH_SECONDS = 1.0  # of the delay before the loop sees it
JUMP = 0.010  # s: beyond it the loop would take too long
EXACT = 0.00002  # s: less than a sample
MEMORY = 10.0  # s in which a second underrun is no accident
CALM = 10.0  # s without an underrun after which a grown delay shrinks
PATIENCE = 300.0  # s, where that has been too little before
SHRINK = 0.002  # s at a time
GROWTH = 0.25  # s at most


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the block that is about to be queued. Seconds."""

    insert: float = 0.0
    """Silence before it."""
    drop: float = 0.0
    """Cut out of it, oldest first."""


class DelayControl:
    """Decides once a hop.

    One underrun is an accident: what came late is dropped, and the delay is what it was. Another one soon after it means
    that the target was too tight, so it grows by what was late; while all is well it shrinks again, step by step. A step
    that brings an underrun is taken back, and not tried again for minutes.

    Args:
        target: seconds from a sample's capture to its being played, beyond what the devices take.
        one_clock: both ends are one device.
    """

    def __init__(self, target: float, *, one_clock: bool) -> None:
        self.target = self._least = self._floor = target
        self.one_clock = one_clock
        self.speed = 1.0
        self.error = 0.0
        """Smoothed distance from the target, s."""
        self._drift = 0.0  # the loop's integral
        self._underruns = 0
        self._filled = 0.0
        self._trouble: float | None = None  # time of the last underrun
        self._shrunk: float | None = None  # time of the last step down
        self._calm = 0.0  # time since which all is well
        self._then: float | None = None

    @property
    def drift_ppm(self) -> float:
        """How much faster the capture's clock runs; 0 with one clock."""
        return 1e6 * self._drift

    def decide(self, delay: float, underruns: int, filled: float, now: float) -> Decision:
        """What the block needs that would have `delay`; after so many underruns, of `filled` s in all."""
        first, elapsed = self._then is None, 0.0 if self._then is None else now - self._then
        self._then = now
        if first:
            self._calm = now
            return self._jump(delay - self.target)
        late, self._filled = filled - self._filled, filled
        if underruns > self._underruns:
            self._underruns = underruns
            if self._shrunk is not None and now - self._shrunk < CALM:
                self._floor = self.target = self.target + SHRINK
            accident = self._trouble is None or now - self._trouble >= MEMORY
            self._trouble = self._calm = now
            if not accident:
                self.target = min(self.target + late, self._least + GROWTH)
            elif not self.one_clock:
                return self._jump(late)
        elif self.target > self._least and now - self._calm > (CALM if self.target > self._floor else PATIENCE):
            self.target = max(self._least, self.target - SHRINK)
            self._calm = self._shrunk = now
        excess = delay - self.target
        if self.one_clock:
            return self._jump(excess) if abs(excess) > EXACT else Decision()
        self._steer(excess, elapsed)
        return self._jump(self.error) if abs(self.error) > JUMP else Decision()

    def _jump(self, excess: float) -> Decision:
        self.error = 0.0
        return Decision(drop=excess) if excess > 0 else Decision(insert=-excess)

    def _steer(self, excess: float, elapsed: float) -> None:
        self.error += (excess - self.error) * min(1.0, elapsed / SMOOTH_SECONDS)
        self._drift += NATURAL**2 * self.error * elapsed
        self._drift = min(max(self._drift, -LIMIT), LIMIT)
        self.speed = 1.0 + min(max(self._drift + 2 * DAMPING * NATURAL * self.error, -LIMIT), LIMIT)
