"""A simulated network: delay, jitter, bursty loss, reordering, duplication, a bandwidth cap, stalls and clock drift.

No clock and no sockets: `send` at a time of the sender's clock, `receive` up to a time of the receiver's. Everything
random comes from the seed, so a run can be repeated.
"""

import heapq
import itertools
import random
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..errors import UsageError

T = TypeVar("T")

MAX_DRIFT = 0.1


@dataclass(frozen=True, slots=True)
class Network:
    """How bad it is. Times in seconds, probabilities per packet.

    Loss is Gilbert and Elliott's: a good and a bad state, every packet of the bad one lost; `loss` is the share of all
    packets, `burst` the mean number lost in a row; it is at least 1 / (1 - loss), that of independent losses.
    """

    delay: float = 0.03
    jitter: float = 0.0  # mean of the exponential part of the delay
    loss: float = 0.0
    burst: float = 1.0
    reorder: float = 0.0  # probability that a packet is held up by `reorder_delay`
    reorder_delay: float = 0.04
    duplicate: float = 0.0
    bandwidth: float | None = None  # bit/s
    queue: float = 0.5  # seconds of packets that wait for the bandwidth; more are lost
    stall_every: float = 0.0  # mean time between stalls, in which nothing passes; 0 for none
    stall: float = 0.3
    ordered: bool = False  # like TCP: jitter holds up what follows
    drift: float = 0.0  # how much faster the sender's clock runs

    def __post_init__(self) -> None:
        shares = self.loss, self.reorder, self.duplicate
        times = self.delay, self.jitter, self.reorder_delay, self.queue, self.stall_every, self.stall
        if not all(0 <= share < 1 for share in shares):
            raise UsageError(f"got loss, reorder, duplicate of {shares}, need 0 to less than 1")
        if not all(0 <= time < float("inf") for time in times):
            raise UsageError(f"got times of {times} s, need 0 or more")
        if not 1 <= self.burst < float("inf"):
            raise UsageError(f"got bursts of {self.burst} packets, need at least 1")
        if not abs(self.drift) <= MAX_DRIFT:
            raise UsageError(f"got a drift of {self.drift}, need {-MAX_DRIFT} to {MAX_DRIFT}")
        if self.bandwidth is not None and not 0 < self.bandwidth < float("inf"):
            raise UsageError(f"got a bandwidth of {self.bandwidth} bit/s, need more than 0")


@dataclass(slots=True)
class LinkCounts:
    """Packets."""

    sent: int = 0
    lost: int = 0
    overflowed: int = 0  # lost because the queue was full
    duplicated: int = 0
    sent_bytes: int = 0


class Link(Generic[T]):
    """One direction of a `Network`; whatever is sent comes out, or does not."""

    def __init__(self, network: Network, *, seed: int = 0) -> None:
        self.network = network
        self.counts = LinkCounts()
        self._random = random.Random(seed)
        self._flying: list[tuple[float, int, T]] = []  # (arrival on the receiver's clock, order, what)
        self._order = itertools.count()
        self._bad = False
        self._free = 0.0  # when the bandwidth has let everything pass
        self._last = 0.0  # arrival, for an ordered link
        self._stall_start, self._stall_end = float("inf"), float("-inf")
        if network.stall_every:
            self._stall_start = self._random.expovariate(1 / network.stall_every)
            self._stall_end = self._stall_start + network.stall

    @property
    def pending(self) -> int:
        """How much is on its way."""
        return len(self._flying)

    def send(self, what: T, size: int, now: float) -> None:
        """Send something of `size` bytes at `now` on the sender's clock."""
        self.counts.sent += 1
        self.counts.sent_bytes += size
        now /= 1 + self.network.drift
        if self._lose():
            self.counts.lost += 1
            return
        left = self._queued(size, now)
        if left is None:
            self.counts.overflowed += 1
            return
        self._deliver(what, left)
        if self._random.random() < self.network.duplicate:
            self.counts.duplicated += 1
            self._deliver(what, left)

    def receive(self, now: float) -> list[tuple[float, T]]:
        """What has arrived up to `now` on the receiver's clock, with its times."""
        arrived = []
        while self._flying and self._flying[0][0] <= now:
            time, _, what = heapq.heappop(self._flying)
            arrived.append((time, what))
        return arrived

    def _lose(self) -> bool:
        """Gilbert and Elliott: leave the bad state with 1 / burst, enter it so that the share of losses is right."""
        leave = min(1 / self.network.burst, 1 - self.network.loss)
        enter = self.network.loss * leave / (1 - self.network.loss)
        self._bad = self._random.random() < (1 - leave if self._bad else enter)
        return self._bad

    def _queued(self, size: int, now: float) -> float | None:
        """When the packet leaves the bandwidth's queue; None if the queue is full."""
        if self.network.bandwidth is None:
            return now
        start = max(now, self._free)
        if start - now > self.network.queue:
            return None
        self._free = start + size * 8 / self.network.bandwidth
        return self._free

    def _deliver(self, what: T, left: float) -> None:
        network, rand = self.network, self._random
        arrival = left + network.delay
        if network.jitter:
            arrival += rand.expovariate(1 / network.jitter)
        if rand.random() < network.reorder:
            arrival += network.reorder_delay
        while network.stall_every and arrival >= self._stall_end:
            self._stall_start = self._stall_end + rand.expovariate(1 / network.stall_every)
            self._stall_end = self._stall_start + network.stall
        if arrival >= self._stall_start:
            arrival = self._stall_end
        if network.ordered:
            arrival = self._last = max(arrival, self._last)
        heapq.heappush(self._flying, (arrival, next(self._order), what))
