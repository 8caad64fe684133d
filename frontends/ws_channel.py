"""A session on one open websocket, either side: reading, a bounded outbox, pings, and an end with the right close code.

What is written and not yet read may pile up in the kernels of both machines (megabytes: minutes of coded audio), where no
queue of ours can leave out the oldest. So a Ping goes out every second, and while one is unanswered for too long nothing
else is written: what waits in the outbox grows old there and is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed
from websockets.protocol import OPEN

from streamdac.errors import ProtocolError, RemoteProtocolError
from streamdac.protocols.messages import SUBPROTOCOL, Bye, End, Message, Mute, Pong, Reason, Reject
from streamdac.protocols.session import NEXT, PeerTimeoutError, Session, Side, State

from .ws_access import logger
from .ws_ending import (
    GOING_AWAY,
    INTERNAL_ERROR,
    LOST,
    NORMAL,
    POLICY,
    PROTOCOL_ERROR,
    UNSUPPORTED,
    Ending,
    closed,
)
from .ws_limits import RateExceeded, RateLimit
from .ws_outbox import Forwarded, Item, Outbox, TooSlow

if TYPE_CHECKING:
    from websockets.asyncio.connection import Connection

MAX_SIZE = 64 * 1024  # bytes of a message
HANDSHAKE_SECONDS = 5.0
CLOSE_SECONDS = 2.0
WRITE_LIMIT = 4096  # bytes that may wait in the transport
UNSENT_BYTES = 4096  # that may wait in the kernel
PROBE_SECONDS = 1.0  # between the session's own Pings
ROUND_TRIPS = 60  # whose smallest is the usual one, so that a new, longer route is accepted after a minute
HOLD_SECONDS = 1.0  # beyond twice the best round trip that a Pong may take before nothing more is written
TICK_SECONDS = 0.1
LEAVE_SECONDS = 3.0  # that the peer has to answer a Bye
MAX_URGENT = 64  # answers that wait for the socket; a peer that asks more loses the oldest

# Of a websocket, either side. It needs no pings: the session has its own.
SOCKET: dict[str, Any] = {
    "subprotocols": [SUBPROTOCOL],
    "compression": None,
    "ping_interval": None,
    "ping_timeout": None,
    "close_timeout": CLOSE_SECONDS,
    "max_size": MAX_SIZE,
    "write_limit": WRITE_LIMIT,
    "logger": logger,
}


class NotBinary(RemoteProtocolError):
    """A text frame came."""


@dataclass(slots=True)
class ChannelCounts:
    """Both directions, messages as they are on the wire, without the websocket's own header."""

    received: int = 0
    received_bytes: int = 0
    sent: int = 0
    sent_bytes: int = 0


class Channel:
    """Runs a session over `socket`; every message that comes goes to `handle`, on the event loop.

    Args:
        cut: of a relay: the bytes of a message that is forwarded, as this peer takes it; None to leave it out.
        tick: called ten times a second.
        limit: what the peer may send; none for one that we trust.
    """

    def __init__(
        self,
        socket: Connection,
        side: Side,
        *,
        handle: Callable[[Message, float], None],
        cut: Callable[[Forwarded | Mute | End], bytes | None] | None = None,
        tick: Callable[[float], None] | None = None,
        limit: RateLimit | None = None,
    ) -> None:
        self.socket = socket
        self.session = Session(side, now=time.monotonic())
        self.outbox = Outbox()
        self.counts = ChannelCounts()
        # Of the whole connection: if what is held back followed a queue that stays, so would the queue, without end.
        self.best_round_trip: float | None = None
        self._round_trips: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._handle, self._cut, self._tick, self._limit = handle, cut, tick, limit
        self._wake = asyncio.Event()
        self._urgent: deque[bytes] = deque(maxlen=MAX_URGENT)
        self._asked: float | None = None  # when the Ping that waits for its Pong was written
        self._probed = time.monotonic()
        self._leave_by: float | None = None
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        _keep_kernel_queue_short(socket)

    @property
    def open(self) -> bool:
        """Whether audio may be sent."""
        return self.session.state is State.OPEN and self._leave_by is None and not self._failed.done()

    def post(self, message: Item) -> None:
        """Put a message of ours into the outbox."""
        if self._failed.done():
            return
        try:
            self.outbox.put(message, time.monotonic())
        except TooSlow as error:
            self._failed.set_exception(error)
        self._wake.set()

    def leave(self, reason: Reason, text: str = "") -> None:
        """Say Bye after what waits; the channel ends when the peer has answered."""
        if self._leave_by is None:
            self._leave_by = time.monotonic() + LEAVE_SECONDS
            self.post(Bye(reason, text))

    def congestion(self, now: float) -> float:
        """Seconds that a message written now would wait, here or on the way."""
        if not self._round_trips:
            return self.outbox.age(now)
        waited = 0.0 if self._asked is None else now - self._asked
        return max(self.outbox.age(now), max(waited, self._round_trips[-1]) - min(self._round_trips))

    async def run(self) -> Ending:
        """Until either side ends it; the socket is closed then."""
        tasks: list[asyncio.Future[Any]] = [asyncio.create_task(self._read())]
        tasks += [asyncio.create_task(self._write()), asyncio.create_task(self._watch())]
        ending = Ending(INTERNAL_ERROR, "")
        try:
            watched = [*tasks, self._failed]
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            ending = await self._end(watched)
        finally:
            for task in tasks:
                task.cancel()
            self._failed.cancel()
            await asyncio.gather(*tasks, self._failed, return_exceptions=True)
            await self._close(ending)
        return ending

    async def _close(self, ending: Ending) -> None:
        """The library's own close waits for ever while the peer takes nothing of what is written already."""
        closing = self.socket.close(ending.code if ending.code != LOST else NORMAL, ending.text[:100])
        try:
            await asyncio.wait_for(closing, 2 * CLOSE_SECONDS)
        except asyncio.TimeoutError:
            self.socket.transport.abort()

    async def _read(self) -> Bye | Reject | None:
        """Take what comes; the peer's last message, or None once we have no more to wait for."""
        while True:
            data = await self.socket.recv()
            now = time.monotonic()
            if isinstance(data, str):
                raise NotBinary("got a text frame, need binary ones")
            if self._limit is not None:
                self._limit.take(len(data), now)
            self.counts.received += 1
            self.counts.received_bytes += len(data)
            message = self.session.receive(data, now)
            if isinstance(message, Pong):
                self._asked = None
                trip = self.session.round_trip
                if trip is not None:
                    self._round_trips.append(trip)
                    self.best_round_trip = trip if self.best_round_trip is None else min(trip, self.best_round_trip)
            elif message is not None:
                self._handle(message, now)
            self._urgent.extend(self.session.take_outgoing())
            if self._urgent or isinstance(message, Pong):  # an answer to write, or what was held may go on
                self._wake.set()
            if isinstance(message, Bye | Reject):
                return message

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._batch(time.monotonic()):
                self.counts.sent += len(batch)
                self.counts.sent_bytes += sum(map(len, batch))
                await self._send(batch)
            if self.session.state is State.CLOSED:  # by a Reject of ours
                return

    async def _send(self, batch: list[bytes]) -> None:
        """One frame each, but all in one write: on a busy machine the calls cost more than anything else."""
        socket = self.socket
        if len(batch) == 1 or socket.protocol.state is not OPEN:
            for data in batch:
                await socket.send(data)
            return
        for data in batch:
            socket.protocol.send_binary(data)
        socket.transport.write(b"".join(socket.protocol.data_to_send()))
        await socket.drain()

    def _batch(self, now: float) -> list[bytes]:
        """What is to be written now."""
        batch: list[bytes] = []
        size = 0
        while size < WRITE_LIMIT and (data := self._next(now)) is not None:
            batch.append(data)
            size += len(data)
        return batch

    def _next(self, now: float) -> bytes | None:
        """The next message to write; None while there is none or the peer does not keep up."""
        self._urgent.extend(self.session.take_outgoing())
        if self._urgent:
            return self._urgent.popleft()
        if self._held(now):
            return None
        while (message := self.outbox.take(now)) is not None:
            if self._cut is not None and isinstance(message, Forwarded | Mute | End):
                if (data := self._cut(message)) is not None:
                    return data
            elif not isinstance(message, Forwarded) and type(message) in NEXT[self.session.state, self.session.side]:
                return self.session.send(message)
        return None

    def _held(self, now: float) -> bool:
        return self._asked is not None and now - self._asked > HOLD_SECONDS + 2 * (self.best_round_trip or 0.0)

    async def _watch(self) -> None:
        """Let time pass for the session, the outbox and the owner."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self.session.tick(now)
            self.outbox.expire(now)
            if self._leave_by is not None and now > self._leave_by:
                return
            if self.session.state is State.OPEN and self._asked is None and now - self._probed >= PROBE_SECONDS:
                self.session.ping(now)
                self._asked = self._probed = now
            if self._tick is not None:
                self._tick(now)
            self._wake.set()

    async def _end(self, done: list[asyncio.Future[Any]]) -> Ending:
        """What the first to finish says."""
        error = next((task.exception() for task in done if task.done() and task.exception()), None)
        match error:
            case None:
                said = done[0].result() if done[0].done() else None
                if said is None and self.session.state is State.CLOSED:
                    return Ending(POLICY, "rejected")
                if said is None:
                    return Ending(GOING_AWAY, "no answer to the Bye")
                answered = isinstance(said, Bye) and self.session.state is State.CLOSED
                await self._say(Bye(Reason.NORMAL, ""))
                return Ending(NORMAL, said.text, said, answered)
            case ConnectionClosed():
                return closed(error)
            case NotBinary():
                return await self._farewell(error, UNSUPPORTED)
            case PeerTimeoutError():
                return await self._farewell(error, POLICY)
            case RemoteProtocolError():
                return await self._farewell(error, PROTOCOL_ERROR)
            case RateExceeded() | TooSlow():
                await self._say(Bye(Reason.OTHER if isinstance(error, RateExceeded) else Reason.TIMEOUT, str(error)))
                return Ending(POLICY, str(error), error=error)
            case ProtocolError():
                return await self._farewell(error, INTERNAL_ERROR)
        raise error

    async def _farewell(self, error: ProtocolError, code: int) -> Ending:
        data = self.session.farewell(error)
        if data is not None:
            await self._send_last(data)
        return Ending(code, str(error), error=error)

    async def _say(self, message: Bye) -> None:
        if Bye in NEXT[self.session.state, self.session.side]:
            await self._send_last(self.session.send(message))

    async def _send_last(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionClosed, asyncio.TimeoutError):
            await asyncio.wait_for(self.socket.send(data), CLOSE_SECONDS)


def _keep_kernel_queue_short(socket: Connection) -> None:
    """Few unsent bytes in the kernel, where the platform can: what waits shall wait in the outbox."""
    raw = socket.transport.get_extra_info("socket")
    option = getattr(sockets, "TCP_NOTSENT_LOWAT", None)
    if raw is not None and option is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(sockets.IPPROTO_TCP, option, UNSENT_BYTES)
