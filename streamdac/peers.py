"""Peers for asyncio programs: what `streamdac.connect` gives, through whichever frontend knows the URL's scheme."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import frontend
from .errors import FrontendUnavailable, UsageError

if TYPE_CHECKING:
    from .codec import Codec
    from .frontend import Block


class Peer(Protocol):
    """An open connection to others: what `async with connect(...)` gives."""

    @property
    def sample_rate(self) -> int:
        """Hz, of what is sent and heard."""
        ...

    async def send(self, pcm: Any) -> None:
        """Send audio `[T]` or `[T, C]` float32; waits while it runs ahead of real time."""
        ...

    def __aiter__(self) -> AsyncIterator[Block]:
        """Blocks `[T, C]` float32 of what the others say, mixed."""
        ...

    def stats(self) -> Any:
        """Counts so far, an attribute each."""
        ...


@dataclass(frozen=True)
class PeerOptions:
    """What is asked of a connection; the names are those of `connect`'s arguments."""

    model: Codec | str | None
    room: str | None
    token: str | None
    tls_ca: Path | None
    role: str
    channels: int
    codebooks: int | None
    vbr: bool
    frames_per_packet: int
    redundancy_frames: int
    adapt: bool
    exact: bool
    correct_drift: bool
    delay: float
    retry_seconds: float


class Connector(Protocol):
    """Makes a connection to `url`."""

    def __call__(self, url: str, options: PeerOptions) -> AbstractAsyncContextManager[Peer]:
        """Not yet open: that is for `async with`.

        Raises:
            UsageError: an option is wrong.
        """
        ...


def connect(
    url: str,
    *,
    model: Codec | str | None = None,
    room: str | None = None,
    token: str | None = None,
    tls_ca: Path | None = None,
    role: str = "both",
    channels: int = 1,
    codebooks: int | None = None,
    vbr: bool = False,
    frames_per_packet: int = 1,
    redundancy_frames: int = 0,
    adapt: bool = True,
    exact: bool = False,
    correct_drift: bool = True,
    delay: float = 0.02,
    retry_seconds: float = 60.0,
) -> AbstractAsyncContextManager[Peer]:
    """A peer in a room of a server, for asyncio:

        async with streamdac.connect("ws://host:8765/room") as peer:
            await peer.send(pcm)
            async for pcm in peer: ...

    Args:
        url: ws://HOST[:PORT][/ROOM] or wss://...; other schemes where a frontend offers them.
        model: a codec, or what `load` takes.
        room: where the URL does not name it.
        token: the server's.
        tls_ca: certificates to trust instead of the system's.
        role: send, receive or both.
        codebooks: at most so many.
        vbr: fewer codebooks where it is quieter.
        redundancy_frames: repeated coarsely in each packet.
        adapt: fewer codebooks where the link is slow.
        exact: every frame as it was sent, one sender at a time, instead of a mix in real time. Whether all of it came is
            in the connection's `stats()`: `ended`, `left`, `broken`, `concealed` and `recovered`.
        correct_drift: play up to 1 % faster or slower, so that the delay stays.
        delay: seconds that the jitter buffer holds at least.
        retry_seconds: that a lost connection is tried again.

    Raises:
        UsageError: no frontend knows the scheme, or an argument is wrong.
    """
    scheme = url.partition(":")[0].lower()
    known: dict[str, Connector] = {}
    for name in frontend.names():
        with suppress(FrontendUnavailable):  # a broken one offers nothing
            known |= frontend.load(name).connectors
    if scheme not in known:
        raise UsageError(f"{url!r}: need {' or '.join(f'{one}://' for one in sorted(known)) or 'a frontend'}")
    options = PeerOptions(
        model=model,
        room=room,
        token=token,
        tls_ca=tls_ca,
        role=role,
        channels=channels,
        codebooks=codebooks,
        vbr=vbr,
        frames_per_packet=frames_per_packet,
        redundancy_frames=redundancy_frames,
        adapt=adapt,
        exact=exact,
        correct_drift=correct_drift,
        delay=delay,
        retry_seconds=retry_seconds,
    )
    return known[scheme](url, options)
