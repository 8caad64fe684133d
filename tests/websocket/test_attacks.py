"""Whoever behaves badly is sent away with the right code, and its neighbour in the same room notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import CloseCode

from streamdac import protocols
from streamdac.frontends import ws_ending, ws_limits, ws_server
from streamdac.frontends.ws_server import RelayServer
from streamdac.protocols import session
from streamdac.protocols.messages import SUBPROTOCOL, Bye, Packet, Reason, Reject, Role
from streamdac.protocols.wire import encode

from .parts import hello, packets, raw, running, until, url

SENT = packets(400)


class Neighbours:
    """Two well-behaved members of a room: what one sends while `talk` runs, the other gets."""

    def __init__(self, speaker, listener) -> None:
        self.speaker, self.listener = speaker, listener
        self.sent = 0
        self._task = asyncio.create_task(self._talk())

    async def _talk(self) -> None:
        for packet in SENT:
            await self.speaker.say(packet)
            self.sent += 1
            await asyncio.sleep(0.01)

    async def undisturbed(self) -> None:
        """They still talk after what happened, and nothing has been lost."""
        already = self.sent
        await until(lambda: self.sent >= min(already + 5, len(SENT)))
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await until(lambda: len(self.listener.heard(Packet)) >= self.sent)
        assert [packet.first_frame for packet in self.listener.heard(Packet)] == list(range(self.sent))


@contextlib.asynccontextmanager
async def neighbours(relay: RelayServer) -> AsyncIterator[Neighbours]:
    token = relay.settings.token
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        raw(relay, greet=hello(Role.SEND), additional_headers=headers) as speaker,
        raw(relay, greet=hello(Role.RECEIVE), read=True, additional_headers=headers) as listener,
    ):
        speaker.reading = asyncio.create_task(speaker.keep_hearing())
        yield Neighbours(speaker, listener)


def flip(packet: bytes) -> bytes:
    return packet[:-1] + bytes([packet[-1] ^ 1])


LAST = packets(1, codebooks=1)[0]  # 10 bits: the last byte has spare ones


@pytest.mark.parametrize(
    ("data", "code", "reason"),
    [
        pytest.param(os.urandom(100), 1002, Reason.VIOLATION, id="garbage"),
        pytest.param(b"", 1002, Reason.VIOLATION, id="empty"),
        pytest.param(flip(encode(LAST)), 1002, Reason.VIOLATION, id="damaged"),
        pytest.param(encode(SENT[0])[:-2], 1002, Reason.VIOLATION, id="cut"),
        pytest.param(encode(hello()), 1002, Reason.VIOLATION, id="second-hello"),
        pytest.param(b"\x91\x3f", 1002, Reason.VERSION, id="unknown-critical"),
        pytest.param(b"\0" * 20_000, 1002, Reason.VIOLATION, id="too-long-a-message"),
        pytest.param("text", 1003, Reason.VIOLATION, id="text"),
        pytest.param(b"\0" * 70_000, 1009, None, id="oversize"),
    ],
)
async def test_what_is_no_message_ends_its_own_session_alone(data, code, reason) -> None:
    async with running() as relay, neighbours(relay) as pair, raw(relay, greet=hello()) as bad:
        await bad.socket.send(data)
        if reason is not None:
            assert (await bad.hear_a(Bye)).reason == reason
        assert (await bad.closed())[0] == code
        await pair.undisturbed()
        await until(lambda: len(relay.rooms["lobby"].members) == 2)


async def test_a_message_before_the_hello_is_refused() -> None:
    async with running() as relay, neighbours(relay) as pair, raw(relay) as bad:
        await bad.socket.send(encode(SENT[0]))
        assert await bad.hear_a(Reject)
        assert (await bad.closed())[0] == 1002
        await pair.undisturbed()


async def test_who_says_no_hello_is_sent_away(monkeypatch) -> None:
    monkeypatch.setattr(session, "HANDSHAKE_SECONDS", 0.3)
    async with running() as relay, neighbours(relay) as pair, raw(relay) as silent:
        reply = await silent.hear_a(Reject)
        assert reply == Reject(Reason.TIMEOUT, "no Hello within 0.3 s")
        assert (await silent.closed())[0] == 1008
        await pair.undisturbed()


async def test_who_falls_silent_is_sent_away(monkeypatch) -> None:
    async with running() as relay, neighbours(relay) as pair, raw(relay, greet=hello(Role.SEND)) as silent:
        monkeypatch.setattr(session, "SILENCE_SECONDS", 1.5)
        code, _ = await silent.closed()  # reads, but answers no Ping of the session
        assert code == 1008
        await pair.undisturbed()


async def test_slow_requests_are_cut_off(monkeypatch) -> None:
    monkeypatch.setattr(ws_server, "HANDSHAKE_SECONDS", 0.5)

    async def dribble(port: int) -> int:
        """Bytes until the server hangs up; the request never ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        sent = 0
        with contextlib.suppress(ConnectionError):
            while not reader.at_eof():
                writer.write(b"X: y\r\n"[sent % 6 : sent % 6 + 1])
                await writer.drain()
                sent += 1
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(100), 0.05)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return sent

    async with running() as relay, neighbours(relay) as pair:
        sent = await asyncio.gather(*(dribble(relay.port) for _ in range(20)))
        assert 0 < min(sent) <= max(sent) < 100  # bytes; 768 would make one header too many
        await pair.undisturbed()


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "Basic c2VzYW1l", "Bearer sesame ", "sesame", "Bearer \u00e9"]
)
async def test_a_wrong_token_or_none_is_denied(header) -> None:
    async with running(token="sesame") as relay, neighbours(relay) as pair:
        headers = {} if header is None else {"Authorization": header}
        if header == "Bearer sesame ":
            headers = [("Authorization", "Bearer sesame"), ("Authorization", "Bearer sesame")]
        with pytest.raises(InvalidStatus) as info:
            async with connect(url(relay), subprotocols=[SUBPROTOCOL], proxy=None, additional_headers=headers):
                pass
        assert info.value.response.status_code == 401
        assert info.value.response.headers["WWW-Authenticate"].startswith("Bearer")
        await pair.undisturbed()
        assert relay.stats().refused == 1


@pytest.mark.parametrize(("origin", "let_in"), [("https://evil.example", False), ("https://ours.example", True)])
async def test_web_pages_of_other_origins_are_denied(origin, let_in) -> None:
    async with running(origins=("https://ours.example",)) as relay, neighbours(relay) as pair:
        try:
            async with raw(relay, greet=hello(), origin=origin):
                pass
            status = 101
        except InvalidStatus as error:
            status = error.response.status_code
        assert status == (101 if let_in else 403)
        await pair.undisturbed()


async def test_one_session_too_many_is_told_to_come_later() -> None:
    async with running(max_sessions=2) as relay, neighbours(relay) as pair:
        with pytest.raises(InvalidStatus) as info:
            async with raw(relay):
                pass
        assert info.value.response.status_code == 503
        await pair.undisturbed()


@pytest.mark.parametrize("room", ["no/slashes", "no%0Acontrol", "x" * 65, "%C3%BC"])
async def test_names_that_no_room_may_have_are_not_found(room) -> None:
    async with running() as relay:
        with pytest.raises(InvalidStatus) as info:
            async with raw(relay, room):
                pass
        assert info.value.response.status_code == 404


async def test_only_the_rooms_that_are_named_exist() -> None:
    async with running(rooms=("one", "two")) as relay:
        with pytest.raises(InvalidStatus):
            async with raw(relay, "three"):
                pass
        async with raw(relay, "two", greet=hello()), raw(relay, "", greet=hello()):
            assert relay.stats().rooms == {"two": 1, "one": 1}


async def test_who_does_not_speak_the_subprotocol_is_refused() -> None:
    async with running() as relay:
        for offered in (None, ["chat"]):
            with pytest.raises(InvalidStatus) as info:
                async with connect(url(relay), subprotocols=offered, proxy=None):
                    pass
            assert info.value.response.status_code == 400


async def test_a_flood_is_cut_off(monkeypatch) -> None:
    monkeypatch.setattr(ws_limits, "BURST_SECONDS", 0.5)
    async with running() as relay, neighbours(relay) as pair, raw(relay, "x", greet=hello(), read=False) as flood:
        with contextlib.suppress(Exception):
            for _ in range(2000):
                await flood.say(SENT[0])
        bye = await flood.hear_a(Bye)
        assert bye.reason == Reason.OTHER
        assert "messages a second" in bye.text
        assert (await flood.closed())[0] == 1008
        await pair.undisturbed()


async def test_a_member_that_is_killed_disturbs_nobody() -> None:
    async with running() as relay, neighbours(relay) as pair, raw(relay, greet=hello(), read=True) as killed:
        raw_socket: socket.socket = killed.socket.transport.get_extra_info("socket")
        await killed.say(SENT[0])
        killed.socket.transport.pause_reading()
        # A reset instead of a farewell, as when a machine or a process dies.
        raw_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        killed.socket.transport.abort()
        await until(lambda: len(relay.rooms["lobby"].members) == 2)
        already = len(pair.listener.heard(Packet))
        await until(lambda: len(pair.listener.heard(Packet)) > already + 5)


def test_the_close_codes_are_those_of_the_specification() -> None:
    page = Path(protocols.__file__).with_name("PROTOCOL.md").read_text("utf-8")
    table = page.split("| close code | when |")[1].split("\n\n")[0]
    named = {int(code) for code in re.findall(r"^\| (\d{4}) ", table, flags=re.MULTILINE)}
    ours = {
        value
        for name, value in vars(ws_ending).items()
        if name.isupper() and isinstance(value, int) and 1000 <= value < 2000
    }
    assert named == (ours - {ws_ending.LOST}) | {CloseCode.MESSAGE_TOO_BIG}
