"""What waits to be sent to one peer: bounded, and packets that are too old are left out and counted."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from streamdac.protocols.messages import Layout, Message, Mute, Packet
from streamdac.protocols.packets import thin
from streamdac.protocols.wire import encode

MAX_AGE = 0.5  # s, of a packet: later it would not be played any more
MAX_CONTROLS = 256  # messages other than packets and Mutes; who does not take so many is gone
MAX_MUTES = 4  # of one stream; a further one is left out: it is said again every second


class TooSlow(Exception):
    """The peer takes nothing, not even the messages that may not be lost."""


@dataclass(slots=True)
class Forwarded:
    """A packet on its way to many, checked when it came: encoded once for each way that it is cut."""

    packet: Packet
    _encoded: dict[tuple[int, bool], bytes] = field(default_factory=dict)

    def cut(self, layout: Layout, codebooks: int) -> bytes:
        """The message for a receiver of `layout` that takes so many codebooks."""
        packet = self.packet
        strip = bool(packet.redundancy) and packet.redundancy[1] > layout.codebooks
        key = min(codebooks, packet.codebooks), strip
        if key not in self._encoded:
            packet = thin(layout, packet, key[0])
            self._encoded[key] = encode(replace(packet, redundancy=b"") if strip else packet)
        return self._encoded[key]


Item = Message | Forwarded


@dataclass(slots=True)
class OutboxCounts:
    """Messages so far."""

    packets: int = 0  # given to the socket
    dropped: int = 0  # packets that became too old, that the peer could not follow, or for which there was no more time
    controls: int = 0  # given to the socket, Mutes among them


class Outbox:
    """A queue in order; only packets, and Mutes of a stream of which some wait already, are ever left out of it."""

    def __init__(self, *, max_age: float = MAX_AGE) -> None:
        self.counts = OutboxCounts()
        self._max_age = max_age
        self._items: deque[tuple[float, Item]] = deque()
        self._controls = 0
        self._mutes: Counter[int] = Counter()  # that wait, by stream

    def __len__(self) -> int:
        return len(self._items)

    def put(self, message: Item, now: float) -> None:
        """Add a message.

        Raises:
            TooSlow: too many that may not be lost are waiting.
        """
        if isinstance(message, Mute):
            if self._mutes[message.stream] >= MAX_MUTES:
                return
            self._mutes[message.stream] += 1
        elif not isinstance(message, Packet | Forwarded):
            if self._controls >= MAX_CONTROLS:
                raise TooSlow(f"{self._controls} messages wait, at most {MAX_CONTROLS} may")
            self._controls += 1
        self._items.append((now, message))

    def take(self, now: float) -> Item | None:
        """The next message to send; None if there is none."""
        self.expire(now)
        if not self._items:
            return None
        _, message = self._items.popleft()
        if isinstance(message, Packet | Forwarded):
            self.counts.packets += 1
            return message
        self.counts.controls += 1
        if isinstance(message, Mute):
            self._mutes[message.stream] -= 1
        else:
            self._controls -= 1
        return message

    def drop_taken(self) -> None:
        """The packet taken last is not given to the socket after all."""
        self.counts.packets -= 1
        self.counts.dropped += 1

    def expire(self, now: float) -> None:
        """Leave out the packets that are too old."""
        oldest = now - self._max_age
        if not self._items or self._items[0][0] >= oldest:
            return
        kept = deque(item for item in self._items if item[0] >= oldest or not isinstance(item[1], Packet | Forwarded))
        self.counts.dropped += len(self._items) - len(kept)
        self._items = kept

    def abandon(self) -> None:
        """Leave out the packets that wait: nothing is sent any more."""
        self.expire(math.inf)

    def age(self, now: float) -> float:
        """Seconds that the oldest message has waited."""
        return now - self._items[0][0] if self._items else 0.0
