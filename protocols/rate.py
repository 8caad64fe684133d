"""Rate control at the sender: less when the receiver's reports or our own queue say so, and back again.

Less is, as long as the overhead of packets outweighs their codes, more frames a packet, then fewer codebooks; more is
the reverse. A queue, here or on the way, lowers the rate at once. Light loss is met with redundancy, heavy loss with
less (above 10 %, as GCC's loss controller); but loss that a decrease does not cure is not of
our making (a bad radio link, say): the rate is restored, and redundancy alone has to do. Each time that an increase
brings trouble, the rate that it led to is tried again after twice as long.
"""

from collections import deque
from dataclasses import dataclass, replace

from ..errors import UsageError
from .messages import Stats

HEAVY_LOSS = 0.10
LIGHT_LOSS = 0.07  # below which the rate may rise
ANY_LOSS = 0.005  # from which on redundancy is sent
QUEUE_SECONDS = 0.15  # of packets waiting, on the way or in our own queue
ROUND_TRIP_RISE = 0.3  # s above the smallest of the last reports
ROUND_TRIPS = 60  # reports, so that a new, longer route is accepted after a while
HOLD_SECONDS = 1.0  # between two decreases, so that the first one can show
JUDGE_SECONDS = 4.0  # after which decreases must have cured a loss
RAISE_SECONDS = 2.0  # without trouble before an increase
MAX_RAISE_SECONDS = 60.0
FORGIVE_SECONDS = 20.0  # without trouble after an increase: it has not failed
DECREASE = 0.7
TOLERANCE_FADES = 0.998  # per report: a loss once tolerated is tried again after minutes
OVERHEAD_BITS = 25 * 8  # of a packet: message, websocket frame, a share of TCP and IP
MAX_FRAMES_PER_PACKET = 4
MAX_REDUNDANCY = 16  # frames


@dataclass(frozen=True, slots=True)
class Rate:
    """What packets should hold."""

    codebooks: int
    frames_per_packet: int
    redundancy_frames: int
    redundancy_codebooks: int
    """Fewer than asked for where many frames are to be repeated."""


class RateControl:
    """Reports and queue ages in, a `Rate` out; times in seconds."""

    def __init__(
        self,
        *,
        max_codebooks: int,
        min_codebooks: int = 1,
        frames_per_packet: int = 1,
        redundancy_codebooks: int = 1,
        bits_per_codebook: int = 10,  # in a frame, all channels
    ) -> None:
        if not 1 <= min_codebooks <= max_codebooks:
            raise UsageError(f"got {min_codebooks} to {max_codebooks} codebooks, need at least 1, rising")
        self.best = Rate(max_codebooks, frames_per_packet, 0, redundancy_codebooks)
        self.rate = self.best
        self.decreases = 0
        self._min_codebooks, self._bits = min_codebooks, bits_per_codebook
        self._loss = 0.0  # smoothed
        self._burst = 0.0  # packets; the longest lately, fading
        self._calm = True  # by the last report, if there are any: they are optional
        self._tolerated = 0.0  # loss that sending less did not cure
        self._trial: tuple[float, float, Rate] | None = None  # time, loss and rate before decreases for loss
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._trouble: float | None = None  # when it last was
        self._lowered = self._raised = float("-inf")
        self._wait = RAISE_SECONDS  # before the rate that failed is tried again
        self._failed: Rate | None = None  # the rate of the last increase that brought trouble

    def report(self, stats: Stats, now: float) -> Rate:
        """Take a receiver's report."""
        total = stats.received + stats.lost
        self._loss += 0.3 * ((stats.lost / total if total else 0.0) - self._loss)
        self._burst = max(float(stats.burst), self._burst * 0.9)
        self._tolerated *= TOLERANCE_FADES
        rise = 0.0
        if stats.round_trip:
            self._round_trips.append(stats.round_trip / 1e6)
            rise = self._round_trips[-1] - min(self._round_trips)
        waiting = stats.queued / 1e6 > QUEUE_SECONDS or rise > ROUND_TRIP_RISE
        if waiting:
            self._trial = None  # the loss may well be ours
        self._calm = self._loss < max(LIGHT_LOSS, self._tolerated)
        return self._decide(now, trouble=waiting or self._lossy(now), calm=self._calm)

    def queued(self, age: float, now: float) -> Rate:
        """Take the age of the oldest packet that waits in our own queue."""
        return self._decide(now, trouble=age > QUEUE_SECONDS, calm=self._calm and age < QUEUE_SECONDS / 2)

    def _lossy(self, now: float) -> bool:
        """Whether there is so much loss that we should send less."""
        if self._loss <= max(HEAVY_LOSS, self._tolerated):
            self._trial = None
            return False
        if self._trial is None:
            self._trial = now, self._loss, self.rate
        since, loss, rate = self._trial
        if now - since < JUDGE_SECONDS or self._loss < 0.6 * loss:
            return True
        self._tolerated = 1.5 * self._loss
        self.rate = rate
        self._trial = None
        return False

    def _decide(self, now: float, *, trouble: bool, calm: bool) -> Rate:
        if self._trouble is None:
            self._trouble = now
        if trouble:
            self._trouble = now
            if now - self._lowered >= HOLD_SECONDS:
                self._lower(now)
        elif calm:
            self._raise(now, quiet=now - max(self._trouble, self._raised))
        frames, codebooks = self._redundancy()
        self.rate = replace(self.rate, redundancy_frames=frames, redundancy_codebooks=codebooks)
        return self.rate

    def _lower(self, now: float) -> None:
        rate = self.rate
        codes = rate.codebooks * rate.frames_per_packet * self._bits
        if codes < OVERHEAD_BITS and rate.frames_per_packet < MAX_FRAMES_PER_PACKET:
            self.rate = replace(rate, frames_per_packet=min(2 * rate.frames_per_packet, MAX_FRAMES_PER_PACKET))
        else:
            self.rate = replace(rate, codebooks=max(self._min_codebooks, int(rate.codebooks * DECREASE)))
        if self.rate == rate:
            return
        if now - self._raised < FORGIVE_SECONDS:
            self._wait = min(self._wait * 2, MAX_RAISE_SECONDS)
            self._failed = rate
        self._lowered = now
        self.decreases += 1

    def _raise(self, now: float, *, quiet: float) -> None:
        if self._failed is not None and _reaches(self.rate, self._failed) and quiet >= FORGIVE_SECONDS:
            self._failed, self._wait = None, RAISE_SECONDS
        rate, best = self.rate, self.best
        if rate.codebooks < best.codebooks:
            better = replace(rate, codebooks=rate.codebooks + 1)
        elif rate.frames_per_packet > best.frames_per_packet:
            better = replace(rate, frames_per_packet=max(best.frames_per_packet, rate.frames_per_packet // 2))
        else:
            return
        risky = self._failed is not None and _reaches(better, self._failed)
        if quiet >= (self._wait if risky else RAISE_SECONDS):
            self.rate, self._raised = better, now

    def _redundancy(self) -> tuple[int, int]:
        """Frames and codebooks of redundancy: none without loss, else frames enough for the bursts of late.

        They take no more room than the packet's own codes, where one codebook will do for that.
        """
        coarse = self.best.redundancy_codebooks
        if self._loss < ANY_LOSS:
            return 0, coarse
        rate = self.rate
        frames = min(MAX_REDUNDANCY, max(1, round(self._burst)) * rate.frames_per_packet)
        return frames, min(coarse, max(1, rate.codebooks * rate.frames_per_packet // frames))


def _reaches(rate: Rate, other: Rate) -> bool:
    """Whether a rate is as good as another one."""
    return rate.codebooks >= other.codebooks and rate.frames_per_packet <= other.frames_per_packet
