"""Who may come in, and over what: tokens, TLS, and the refusal to listen beyond this machine without them."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import socket as sockets
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamdac.errors import BadDataError, UsageError
from streamdac.files import unreadable

# Nothing of the library's own goes to a terminal; a program that wants it sets up logging.
logger = logging.getLogger("streamdac.websocket")
logger.addHandler(logging.NullHandler())

ROOM = re.compile(r"[A-Za-z0-9._~-]{1,64}")  # a name that a room may have
HEALTH = "/healthz"  # a path that is no room's


@dataclass(frozen=True)
class Settings:
    """How a server listens and whom it lets in."""

    host: str = "127.0.0.1"
    port: int = 8765
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token: str | None = None
    max_sessions: int = 100
    rooms: tuple[str, ...] = ()  # any room where empty
    origins: tuple[str, ...] = ()  # of browsers; a peer without an Origin is none
    echo: bool = False
    adapt: bool = True
    insecure: bool = False


def authorized(headers: list[str], token: str) -> bool:
    """Whether there is one Authorization header, and it holds the token. Takes as long for any token."""
    given = headers[0] if len(headers) == 1 else ""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode())


def read_token(path: Path) -> str:
    """The token in a file: its first line.

    Raises:
        NoInputError, DeniedError: it cannot be read.
        BadDataError: nothing in it, or what no header can hold.
    """
    try:
        lines = path.read_text("utf-8").split("\n")
    except OSError as error:
        raise unreadable(f"token file {path}", error) from error
    except UnicodeDecodeError as error:
        raise BadDataError(f"token file {path}: not text") from error
    token = lines[0].strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BadDataError(f"token file {path}: its first line must be printable ASCII without blanks")
    return token


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """For a server with a certificate.

    Raises:
        UsageError: one of the two files is not given.
        NoInputError, DeniedError, BadDataError: they cannot be read.
    """
    if settings.tls_cert is None and settings.tls_key is None:
        return None
    if settings.tls_cert is None or settings.tls_key is None:
        raise UsageError("TLS needs both a certificate and its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except ssl.SSLError as error:
        raise BadDataError(
            f"{settings.tls_cert}, {settings.tls_key}: no certificate with its key ({error.reason})"
        ) from error
    except OSError as error:
        both = (settings.tls_cert, settings.tls_key)
        which = next((path for path in both if not _may_read(path)), ", ".join(map(str, both)))
        raise unreadable(which, error) from error
    return context


def _may_read(path: Path) -> bool:
    """Without opening it: it may be a pipe."""
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids) and not path.is_dir()


def check_exposure(settings: Settings) -> None:
    """Refuse to listen beyond this machine without TLS and a token.

    Raises:
        UsageError: that, unless `insecure`.
    """
    if settings.insecure or is_loopback(settings.host):
        return
    missing = [
        what
        for what, there in (
            ("TLS (--tls-cert, --tls-key)", settings.tls_cert),
            ("a token (--token-file)", settings.token),
        )
        if not there
    ]
    if missing:
        raise UsageError(
            f"listening on {settings.host or 'every address'} without {' and '.join(missing)}: others could listen in; "
            "--insecure allows it"
        )


def check_rooms(settings: Settings) -> None:
    """Refuse rooms that nobody could enter.

    Raises:
        UsageError: that.
    """
    for room in settings.rooms:
        if not ROOM.fullmatch(room) or f"/{room}" == HEALTH:
            raise UsageError(f"no room can be {room!r}: need 1 to 64 of A-Z a-z 0-9 . _ ~ -, and not {HEALTH[1:]!r}")


def is_loopback(host: str) -> bool:
    """Whether every address that `host` means is of this machine alone."""
    try:
        found: list[Any] = [info[4][0] for info in sockets.getaddrinfo(host or None, 0, flags=sockets.AI_PASSIVE)]
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(str(address).split("%")[0]).is_loopback for address in found)
