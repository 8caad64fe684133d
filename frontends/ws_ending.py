"""How a channel ends: the close code, and what either side said last."""

from __future__ import annotations

from dataclasses import dataclass

from websockets.exceptions import ConnectionClosed

from streamdac.protocols.messages import Bye, Reject

NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, POLICY, INTERNAL_ERROR, TRY_LATER = (
    1000,
    1001,
    1002,
    1003,
    1008,
    1011,
    1013,
)
LOST = 1006


@dataclass(frozen=True, slots=True)
class Ending:
    """How a channel ended: the close code, and what either side said."""

    code: int
    text: str
    said: Bye | Reject | None = None  # the peer's last message
    answered: bool = False  # it answers a Bye of ours, so the peer has taken all that came before
    error: Exception | None = None  # why we ended it, or that the connection was closed


def closed(error: ConnectionClosed) -> Ending:
    """The connection was closed, or lost, without a Bye."""
    close = error.rcvd or error.sent
    return Ending(close.code if close else LOST, printable(close.reason) if close else "connection lost", error=error)


def printable(text: str) -> str:
    """What another machine says, without what would steer a terminal."""
    return "".join(char for char in text if char.isprintable())
