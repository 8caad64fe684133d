"""What a receiver measures of a stream's packets: losses, bursts, duplicates and jitter, as RFC 3550 defines them."""

from collections import deque
from dataclasses import dataclass

from .messages import SEQUENCES, Packet, Stats

_HISTORY = 1024  # packets whose duplicates are recognised
_REPORTS = 60  # that are remembered: a minute at one a second
_MAX_COUNT = 1_000_000
_MAX_MICROS = 60_000_000


@dataclass(slots=True)
class PacketCounts:
    """Packets of a stream, since its start or since the last report."""

    received: int = 0
    lost: int = 0  # that is, not yet come; one that comes late is taken off again
    burst: int = 0  # the longest run of them
    late: int = 0
    duplicates: int = 0


class Arrivals:
    """Follows the sequence numbers of one stream across their wrap."""

    def __init__(self, frame_seconds: float) -> None:
        self.total = PacketCounts()
        self.jitter = 0.0  # s
        self._frame_seconds = frame_seconds
        self._since = PacketCounts()
        self._highest: int | None = None  # extended sequence number
        self._lowest = 0
        self._seen = 0  # bit i: the packet i before the highest has come
        self._transit: float | None = None
        self._fastest: float | None = None  # smallest transit since the last report
        self._history: deque[float] = deque(maxlen=_REPORTS)  # those of earlier reports

    def observe(self, packet: Packet, now: float) -> bool:
        """Count a packet; False if it is a duplicate."""
        new = self._sequence(packet.sequence)
        counts = self.total, self._since
        if not new:
            for count in counts:
                count.duplicates += 1
            return False
        for count in counts:
            count.received += 1
        transit = now - packet.first_frame * self._frame_seconds
        if self._transit is not None:
            self.jitter += (abs(transit - self._transit) - self.jitter) / 16
        self._transit = transit
        self._fastest = transit if self._fastest is None else min(self._fastest, transit)
        return True

    def late(self) -> None:
        """The packet just counted came too late to be played."""
        self.total.late += 1
        self._since.late += 1

    def report(self, stream: int, *, buffered: float = 0.0, round_trip: float | None = None) -> Stats:
        """The Stats since the last report; times in seconds."""
        since, self._since = self._since, PacketCounts()
        counts = [min(max(n, 0), _MAX_COUNT) for n in (since.received, since.lost, since.burst, since.late)]
        times = [_micros(seconds) for seconds in (self.jitter, self._queued(), buffered, round_trip or 0.0)]
        return Stats(stream, (self._highest or 0) % SEQUENCES, *counts, *times)

    def _queued(self) -> float:
        """How much slower the fastest packet since the last report was than the fastest of the reports before."""
        fastest, self._fastest = self._fastest, None
        if fastest is None:
            return 0.0
        self._history.append(fastest)
        return fastest - min(self._history)

    def _sequence(self, sequence: int) -> bool:
        """Take a sequence number; False for a duplicate, or one too old to tell."""
        if self._highest is None:
            self._highest, self._lowest, self._seen = sequence, sequence, 1
            return True
        ahead = (sequence - self._highest + SEQUENCES // 2) % SEQUENCES - SEQUENCES // 2
        if ahead > 0:
            self._highest += ahead
            self._seen = (self._seen << ahead if ahead < _HISTORY else 0) | 1
            self._seen &= (1 << _HISTORY) - 1
            for count in (self.total, self._since):
                count.lost += ahead - 1
                count.burst = max(count.burst, ahead - 1)
            return True
        if -ahead >= _HISTORY or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        # What lies before the first packet that came counts from now on; all else was taken for lost.
        extended = self._highest + ahead
        found = self._lowest - extended - 1 if extended < self._lowest else -1
        self._lowest = min(self._lowest, extended)
        self.total.lost += found
        self._since.lost += found
        return True


def _micros(seconds: float) -> int:
    return min(max(round(seconds * 1e6), 0), _MAX_MICROS)
