"""The relay: listens, checks who comes, and runs a session in a room for each. Knows no model and decodes nothing."""

from __future__ import annotations

import asyncio
import errno
import http
import json
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

from websockets.asyncio.server import serve

from streamdac.errors import DeniedError, UnavailableError, UsageError
from streamdac.protocols.messages import Reason
from streamdac.protocols.session import Side

from .ws_access import HEALTH, ROOM, Settings, authorized, check_exposure, check_rooms, logger, tls_context
from .ws_channel import CLOSE_SECONDS, HANDSHAKE_SECONDS, SOCKET, Channel
from .ws_ending import TRY_LATER
from .ws_limits import RateLimit
from .ws_rooms import Member, Room, RoomCounts

if TYPE_CHECKING:
    from websockets.asyncio.server import Server, ServerConnection
    from websockets.http11 import Request, Response

DEFAULT_ROOM = "lobby"


@dataclass
class ServerStats:
    """What `serve` shows: the state, and counts since the start."""

    seconds: float = 0.0
    sessions: int = 0
    rooms: dict[str, int] = field(default_factory=dict)  # members
    sessions_in_all: int = 0
    refused: int = 0
    received: int = 0  # packets
    forwarded: int = 0
    dropped: int = 0
    thinned: int = 0
    received_kbps: float = 0.0  # since the last look, all peers
    sent_kbps: float = 0.0
    slowest_ms: float = 0.0  # the longest that a message waits


class RelayServer:
    """One listening socket and its rooms.

    Raises:
        UsageError: the settings would listen beyond this machine in the clear or to anyone, or name a room that cannot be.
    """

    def __init__(self, settings: Settings) -> None:
        check_rooms(settings)
        check_exposure(settings)
        self.settings = settings
        self.rooms: dict[str, Room] = {}
        self.counts = RoomCounts()
        self.port = settings.port
        self._server: Server | None = None
        self._channels: dict[Channel, Member] = {}
        self._started = time.monotonic()
        self._in_all = self._refused = self._dropped = 0
        self._bytes = [0, 0]  # received and sent, of channels that are gone
        self._looked = (self._started, 0, 0)

    async def start(self) -> None:
        """Listen.

        Raises:
            UnavailableError: the address is taken, or not of this machine.
            DeniedError: the port may not be used.
            UsageError: the address is none.
        """
        settings = self.settings
        context = tls_context(settings)
        try:
            self._server = await serve(
                self._run,
                settings.host,
                settings.port,
                ssl=context,
                origins=[None, *settings.origins],  # type: ignore[list-item]
                process_request=self._admit,
                server_header=None,
                open_timeout=HANDSHAKE_SECONDS,
                **SOCKET,
            )
        except PermissionError as error:
            raise DeniedError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
        except UnicodeError as error:
            raise UsageError(f"cannot listen on {settings.host!r}: {error}") from error
        except OSError as error:
            what = "is in use" if error.errno == errno.EADDRINUSE else str(error.strerror or error)
            raise UnavailableError(f"cannot listen on {settings.host}:{settings.port}: {what}") from error
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Say Bye to everybody, then close."""
        for channel in list(self._channels):
            channel.leave(Reason.LEAVING, "the server ends")
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._channels and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request that is none for a session; None lets it in."""
        path = request.path.partition("?")[0]
        if path == HEALTH:
            health = {"status": "ok", **(asdict(self.stats()) if self._knows_token(request) else {})}
            response = connection.respond(http.HTTPStatus.OK, json.dumps(health) + "\n")
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = "application/json"
            return response
        refusal = self._refusal(connection, request, path)
        self._refused += refusal is not None
        return refusal

    def _refusal(self, connection: ServerConnection, request: Request, path: str) -> Response | None:
        if not self._knows_token(request):
            response = connection.respond(http.HTTPStatus.UNAUTHORIZED, "wrong token or none\n")
            response.headers["WWW-Authenticate"] = 'Bearer realm="streamdac"'
            return response
        if self._room_name(path) is None:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such room\n")
        if len(self._channels) >= self.settings.max_sessions:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{self.settings.max_sessions} sessions are open already\n"
            )
        return None

    def _knows_token(self, request: Request) -> bool:
        token = self.settings.token
        return token is None or authorized(request.headers.get_all("Authorization"), token)

    def _room_name(self, path: str) -> str | None:
        """The room that a path names; None for one that may not be."""
        name = unquote(path).strip("/") or (self.settings.rooms or (DEFAULT_ROOM,))[0]
        allowed = not self.settings.rooms or name in self.settings.rooms
        return name if allowed and ROOM.fullmatch(name) else None

    async def _run(self, socket: ServerConnection) -> None:
        """One session."""
        assert socket.request is not None
        name = self._room_name(socket.request.path.partition("?")[0])
        assert name is not None
        if len(self._channels) >= self.settings.max_sessions:
            await socket.close(TRY_LATER, "too many sessions")
            return
        room = self.rooms.setdefault(name, Room(name, echo=self.settings.echo, counts=self.counts))
        now = time.monotonic()
        limit = RateLimit(now)
        member = Member(room, now=now, adapt=self.settings.adapt, limit=limit)
        channel = member.channel = Channel(
            socket, Side.SERVER, handle=member.handle, cut=member.cut, tick=member.tick, limit=limit
        )
        self._channels[channel] = member
        self._in_all += 1
        try:
            ending = await channel.run()
            logger.info("room %s: session ended with %d %s", name, ending.code, ending.text)
        finally:
            self._forget(channel, member)

    def _forget(self, channel: Channel, member: Member) -> None:
        del self._channels[channel]
        self._dropped += channel.outbox.counts.dropped
        self._bytes[0] += channel.counts.received_bytes
        self._bytes[1] += channel.counts.sent_bytes
        room = member.room
        room.leave(member)
        if not room.members and not any(other.room is room for other in self._channels.values()):
            self.rooms.pop(room.name, None)
        elif not room.members:
            room.offer = None  # the next one to join chooses the model

    def stats(self) -> ServerStats:
        """The state now."""
        now = time.monotonic()
        return ServerStats(
            seconds=round(now - self._started, 3),
            sessions=len(self._channels),
            rooms={room.name: len(room.members) for room in self.rooms.values()},
            sessions_in_all=self._in_all,
            refused=self._refused,
            received=self.counts.received,
            forwarded=self.counts.forwarded,
            dropped=self._dropped + sum(channel.outbox.counts.dropped for channel in self._channels),
            thinned=self.counts.thinned,
            slowest_ms=round(1000 * max((channel.congestion(now) for channel in self._channels), default=0.0), 1),
        )

    def look(self) -> ServerStats:
        """The state now, with the bitrates since the last call."""
        stats, now = self.stats(), time.monotonic()
        received = self._bytes[0] + sum(channel.counts.received_bytes for channel in self._channels)
        sent = self._bytes[1] + sum(channel.counts.sent_bytes for channel in self._channels)
        then, received_then, sent_then = self._looked
        self._looked = now, received, sent
        seconds = max(now - then, 1e-3)
        stats.received_kbps = round((received - received_then) * 8 / seconds / 1000, 2)
        stats.sent_kbps = round((sent - sent_then) * 8 / seconds / 1000, 2)
        return stats
