"""One end of a session, without I/O: whole messages in and out, time passed in as seconds of any monotonic clock.

`send` gives the bytes for a message of ours, `receive` checks one of the peer's; both walk through one table, `NEXT`.
What we may not send is a LocalProtocolError, what the peer may not send a RemoteProtocolError; after that nothing more
is received, and only a Bye or Reject may still be sent (`farewell` makes it).
"""

import enum
from collections import deque

from ..errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from . import rules
from .messages import (
    Accept,
    Adapt,
    Bye,
    End,
    Hello,
    Left,
    Message,
    Mute,
    Packet,
    Ping,
    Pong,
    Reason,
    Reject,
    Stats,
)
from .wire import Unknown, UnsupportedError, decode, encode

HANDSHAKE_SECONDS = 5.0  # from the start to the client's Hello for the server, to the answer for the client
PING_SECONDS = 10.0
SILENCE_SECONDS = 30.0  # without any message the peer is taken for gone
MAX_WAITING = 16  # answers not yet taken; a peer that pings faster loses the oldest


class PeerTimeoutError(RemoteProtocolError):
    """The peer did not answer in time."""


class Side(enum.Enum):
    """Who speaks: the client opens the session."""

    CLIENT, SERVER = range(2)

    @property
    def other(self) -> "Side":
        """The peer's side."""
        return Side.SERVER if self is Side.CLIENT else Side.CLIENT


class State(enum.Enum):
    """Where a session is. DONE: that side has said Bye, the other may still have messages on their way."""

    HELLO, ANSWER, OPEN, CLIENT_DONE, SERVER_DONE, CLOSED = range(6)


def _stay(state: State, *kinds: type[Message]) -> dict[type[Message], State]:
    return dict.fromkeys(kinds, state)


_EITHER = (Packet, End, Mute, Adapt, Stats, Ping, Pong)
_SERVER = (*_EITHER, Left)

# The whole protocol: what each side may say in each state, and the state that follows.
NEXT: dict[tuple[State, Side], dict[type[Message], State]] = {
    (State.HELLO, Side.CLIENT): {Hello: State.ANSWER, Bye: State.CLOSED},
    (State.HELLO, Side.SERVER): {Reject: State.CLOSED, Bye: State.SERVER_DONE},
    (State.ANSWER, Side.CLIENT): {Bye: State.CLIENT_DONE},
    (State.ANSWER, Side.SERVER): {Accept: State.OPEN, Reject: State.CLOSED, Bye: State.SERVER_DONE},
    (State.OPEN, Side.CLIENT): _stay(State.OPEN, *_EITHER) | {Bye: State.CLIENT_DONE},
    (State.OPEN, Side.SERVER): _stay(State.OPEN, *_SERVER) | {Bye: State.SERVER_DONE},
    (State.CLIENT_DONE, Side.CLIENT): {},
    (State.CLIENT_DONE, Side.SERVER): _stay(State.CLIENT_DONE, *_SERVER, Accept)
    | {Reject: State.CLOSED, Bye: State.CLOSED},
    (State.SERVER_DONE, Side.CLIENT): _stay(State.SERVER_DONE, *_EITHER, Hello) | {Bye: State.CLOSED},
    (State.SERVER_DONE, Side.SERVER): {},
    (State.CLOSED, Side.CLIENT): {},
    (State.CLOSED, Side.SERVER): {},
}

_AWAITED = {(State.HELLO, Side.SERVER): "Hello", (State.ANSWER, Side.CLIENT): "answer to the Hello"}


class Session:
    """One end of a session. After `receive` and `tick` the answers that are due wait in `take_outgoing`."""

    def __init__(self, side: Side, *, now: float) -> None:
        self.side = side
        self.state = State.HELLO
        self.agreement = rules.Agreement()
        self.round_trip: float | None = None  # s, of the last Ping answered
        self.skipped = 0  # optional messages that we do not know
        self._error: RemoteProtocolError | None = None
        self._outgoing: deque[bytes] = deque(maxlen=MAX_WAITING)
        self._start = now
        self._heard = now
        self._pinged = now
        self._token = 0
        self._asked: float | None = None  # when the Ping that waits for its Pong was sent

    def send(self, message: Message) -> bytes:
        """Bytes of one message of ours; LocalProtocolError if it has no place here."""
        if self._error is not None and not isinstance(message, Bye | Reject):
            raise LocalProtocolError(f"{type(message).__name__} after the peer broke the protocol: {self._error}")
        data = encode(message)
        self._walk(self.side, message, LocalProtocolError)
        return data

    def forward(self, message: Packet | Mute | End) -> Packet | Mute | End | Left | None:
        """What a server says of another client's message, checked when it came; it is written without `send`.

        This client may have had less of the stream than was sent, and would refuse a jump that it cannot follow: then
        it is told nothing, and of an End that the stream's sender has left.
        """
        if self._error is not None or type(message) not in NEXT[self.state, self.side]:
            return None
        if self.agreement.follows(message):
            return message
        if not isinstance(message, End):
            return None
        left = Left(message.stream)
        self._walk(self.side, left, LocalProtocolError)
        return left

    def receive(self, data: bytes, now: float) -> Message | None:
        """The peer's message, or None for one to skip; RemoteProtocolError, then and ever after, for what is wrong."""
        if self._error is not None:
            raise self._error
        try:
            message = decode(data)
            if isinstance(message, Unknown):
                self.skipped += 1
                self._heard = now
                return None
            self._walk(self.side.other, message, RemoteProtocolError)
        except RemoteProtocolError as error:
            self._error = error
            raise
        self._heard = now
        self._react(message, now)
        return message

    def tick(self, now: float) -> None:
        """Let time pass: a Ping when it is due; PeerTimeoutError when the peer has been silent for too long."""
        if self._error is not None or self.state is State.CLOSED:
            return
        if now - self._start >= HANDSHAKE_SECONDS and (self.state, self.side) in _AWAITED:
            awaited = _AWAITED[self.state, self.side]
            self._error = PeerTimeoutError(f"no {awaited} within {HANDSHAKE_SECONDS:g} s")
            raise self._error
        if now - self._heard >= SILENCE_SECONDS:
            self._error = PeerTimeoutError(f"nothing heard for {SILENCE_SECONDS:g} s")
            raise self._error
        if self.state is State.OPEN and now - self._pinged >= PING_SECONDS:
            self.ping(now)

    def ping(self, now: float) -> None:
        """Put a Ping among the outgoing messages; its Pong gives `round_trip`."""
        self._token = (self._token + 1) & 0xFFFF_FFFF
        self._pinged = self._asked = now
        self._outgoing.append(self.send(Ping(self._token)))

    def take_outgoing(self) -> list[bytes]:
        """The messages that we owe the peer, oldest first; each one is given once."""
        waiting = list(self._outgoing)
        self._outgoing.clear()
        return waiting

    def farewell(self, error: ProtocolError) -> bytes | None:
        """The Bye or Reject that tells the peer why we go; None if nothing may be sent any more."""
        if isinstance(error, UnsupportedError):
            reason = Reason.VERSION
        elif isinstance(error, PeerTimeoutError):
            reason = Reason.TIMEOUT
        elif isinstance(error, RemoteProtocolError):
            reason = Reason.VIOLATION
        else:
            reason = Reason.OTHER
        text = "".join(char for char in str(error) if char.isascii() and char.isprintable())[:200]
        allowed = NEXT[self.state, self.side]
        for kind in (Reject, Bye):
            if kind in allowed:
                return self.send(kind(reason, text))
        return None

    def _walk(self, who: Side, message: Message, blame: type[ProtocolError]) -> None:
        """Follow the table and the rules; nothing changes if either refuses."""
        state = NEXT[self.state, who].get(type(message))
        if state is None:
            raise blame(f"{type(message).__name__} from the {who.name.lower()} while {self.state.name}")
        try:
            self.agreement.check(message, from_client=who is Side.CLIENT)
        except rules.BrokenRule as error:
            raise blame(str(error)) from None
        self.state = state

    def _react(self, message: Message, now: float) -> None:
        match message:
            case Hello() | Accept():
                self._pinged = now
            case Ping(token) if Pong in NEXT[self.state, self.side]:
                self._outgoing.append(self.send(Pong(token)))
            case Pong(token) if token == self._token and self._asked is not None:
                self.round_trip = max(0.0, now - self._asked)
                self._asked = None
            case _:
                pass
