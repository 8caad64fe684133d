"""The client's end: opens a websocket to a server, says Hello, and says in one line why that did not work."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import quote, urlsplit, urlunsplit

from websockets.asyncio.client import connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
)

from streamdac.errors import (
    BadDataError,
    DeniedError,
    ModelMismatchError,
    StreamdacError,
    UnavailableError,
    UsageError,
)
from streamdac.files import unreadable
from streamdac.protocols.messages import SUBPROTOCOL, VERSION, Bye, Hello, Offer, Reason, Reject, Role

from .ws_access import is_loopback
from .ws_channel import HANDSHAKE_SECONDS, SOCKET
from .ws_ending import POLICY, PROTOCOL_ERROR, Ending, printable

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

    from streamdac.codec import Codec

_TOO_BIG, _UNSUPPORTED = 1009, 1003
_FINAL = {POLICY, PROTOCOL_ERROR, _TOO_BIG, _UNSUPPORTED}  # close codes after which another try ends the same way


@dataclass(frozen=True)
class Target:
    """Where to, and how to be let in."""

    url: str
    token: str | None = None
    tls_ca: Path | None = None  # certificates to trust instead of the system's


@dataclass(frozen=True)
class Wishes:
    """What a peer says in its Hello, and whether it adapts to the link."""

    role: Role = Role.BOTH
    channels: int = 1
    codebooks: int | None = None  # all of the model's
    frames_per_packet: int = 1
    redundancy_frames: int = 0  # always sent; more where packets are lost
    adapt: bool = True
    retry_seconds: float = 60.0  # that a lost connection is tried again; 0 for not at all

    def hello(self, codec: Codec) -> Hello:
        """The Hello of a peer with this model."""
        return Hello(
            VERSION,
            self.role,
            (Offer(codec.fingerprint, codec.sample_rate, codec.hop_length, codec.n_codebooks, codec.codebook_size),),
            self.channels,
            self.codebooks or codec.n_codebooks,
            self.frames_per_packet,
            self.redundancy_frames,
            codec.coarse_codebooks,
        )


def with_room(url: str, room: str | None) -> str:
    """The URL with the room as its path and its scheme in small letters.

    Raises:
        UsageError: not a websocket's URL, or it names another room.
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError as error:
        raise UsageError(f"{url!r}: {error}") from error
    if parts.scheme not in ("ws", "wss") or not host:
        raise UsageError(f"{url!r}: need ws://HOST[:PORT][/ROOM] or wss://...")
    if parts.username or parts.password:
        raise UsageError(f"{parts.hostname}: no user names in a URL; a token goes into a file (--token-file)")
    if room and parts.path.strip("/") not in ("", room):
        raise UsageError(f"{url}: room {room!r} and a path of another room")
    return urlunsplit(parts._replace(path="/" + quote(room)) if room else parts)


async def open_socket(target: Target) -> ClientConnection:
    """An open websocket.

    Raises:
        UnavailableError: nobody there, or nobody who speaks this protocol.
        DeniedError: not let in.
        UsageError, NoInputError, DeniedError, BadDataError: the URL or the certificates are wrong.
    """
    url = with_room(target.url, None)
    try:
        return await _open_socket(url, target)
    except Exception as error:
        _explain(url, error)


async def _open_socket(url: str, target: Target) -> ClientConnection:
    host = urlsplit(url).hostname or ""
    headers = {} if target.token is None else {"Authorization": f"Bearer {target.token}"}
    own = await asyncio.wait_for(asyncio.to_thread(is_loopback, host), HANDSHAKE_SECONDS)  # may ask a name server
    return await connect(
        url,
        ssl=_tls(target) if url.startswith("wss:") else None,
        additional_headers=headers,
        proxy=None if own else True,
        open_timeout=HANDSHAKE_SECONDS,
        **SOCKET,
    )


def _explain(url: str, error: Exception) -> NoReturn:
    """Our error for one of the library's or the system's."""
    match error:
        case StreamdacError():
            raise error
        case InvalidStatus():
            status = error.response.status_code
            text = printable(" ".join((error.response.body or b"").decode("utf-8", "replace").split())[:200])
            kind = DeniedError if status in (401, 403) else UnavailableError
            raise kind(f"{url}: refused with HTTP {status}: {text or 'no reason given'}") from error
        case InvalidURI():
            raise UsageError(f"{url}: {error}") from error
        case NegotiationError():
            raise UnavailableError(f"{url}: does not speak {SUBPROTOCOL}") from error
        case InvalidMessage() | InvalidHandshake():
            raise UnavailableError(f"{url}: is no websocket: {printable(str(error))}") from error
        case TimeoutError() | asyncio.TimeoutError():
            raise UnavailableError(f"{url}: no answer within {HANDSHAKE_SECONDS:g} s") from error
        case ssl.SSLCertVerificationError():
            raise DeniedError(f"{url}: its certificate is not trusted: {error.verify_message}") from error
        case ssl.SSLError():
            raise UnavailableError(f"{url}: TLS failed: {error.reason or error}") from error
        case OSError():
            raise UnavailableError(f"{url}: cannot connect: {error.strerror or str(error) or _ended(url)}") from error
        case EOFError() | ConnectionClosed():
            raise UnavailableError(f"{url}: closed the connection at once") from error
    raise error


def _ended(url: str) -> str:
    """What an error without a word means: asyncio has only that where a connection ends in the TLS handshake."""
    return "the connection was closed" + (" (is it a ws:// server, without TLS?)" if url.startswith("wss:") else "")


def _tls(target: Target) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=target.tls_ca)
    except ssl.SSLError as error:
        raise BadDataError(f"{target.tls_ca}: no certificates: {error.reason}") from error
    except OSError as error:
        raise unreadable(target.tls_ca or "the system's certificates", error) from error


_ERRORS: dict[int, type[StreamdacError]] = {
    Reason.MODEL: ModelMismatchError,
    Reason.FORMAT: BadDataError,
    Reason.VIOLATION: BadDataError,
    Reason.VERSION: UnavailableError,
    Reason.DENIED: DeniedError,
}
_RETRIED = {Reason.LEAVING, Reason.TIMEOUT, Reason.BUSY, Reason.NORMAL}


def final_error(ending: Ending) -> StreamdacError | None:
    """The error with which a channel's end ends the program too; None where a new session may help."""
    if ending.said is not None:
        reason = ending.said.reason
        if isinstance(ending.said, Bye) and reason in _RETRIED:
            return None
        kind = _ERRORS.get(reason, UnavailableError)
        what = "rejected" if isinstance(ending.said, Reject) else "ended by the server"
        return kind(f"session {what}: {ending.said.text or _name(reason)}")
    if ending.error is not None and isinstance(ending.error, StreamdacError) and ending.code == PROTOCOL_ERROR:
        return ending.error
    if ending.code in _FINAL and isinstance(ending.error, ConnectionClosed):
        return UnavailableError(f"session ended by the server: {ending.code} {ending.text}")
    return None


def _name(reason: int) -> str:
    return Reason(reason).name.lower() if reason in set(Reason) else f"reason {reason}"
