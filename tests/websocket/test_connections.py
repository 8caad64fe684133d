"""The connection under a session: how it is opened, what it says when it is closed, and that it ends whoever does not."""

from __future__ import annotations

import asyncio
import socket
import threading

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection

import streamdac
from streamdac.errors import UnavailableError
from streamdac.frontends import ws_channel, ws_client
from streamdac.frontends.ws_client import Target, open_socket
from streamdac.frontends.ws_ending import printable
from streamdac.frontends.ws_outbox import Forwarded
from streamdac.protocols import session
from streamdac.protocols.messages import Layout, Offer, Role
from streamdac.protocols.packets import make_packet

from .parts import accepting, hello, raw, running, small_codec, until, url

WIDE = Offer(b"w" * 32, 24_000, 320, 64, 65536)  # packets of 4 kB


async def test_a_name_is_looked_up_beside_the_event_loop(monkeypatch) -> None:
    turned = threading.Event()
    waited = []

    def slow(host: str) -> bool:
        waited.append(turned.wait(5))
        return True

    monkeypatch.setattr(ws_client, "is_loopback", slow)
    async with running() as relay:
        opening = asyncio.ensure_future(open_socket(Target(url(relay))))
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(turned.set)
        await (await opening).close()
    assert waited == [True]


async def test_a_name_server_that_does_not_answer_is_as_a_server_that_does_not(monkeypatch) -> None:
    free = threading.Event()
    monkeypatch.setattr(ws_client, "HANDSHAKE_SECONDS", 0.1)
    monkeypatch.setattr(ws_client, "is_loopback", lambda host: free.wait(5))
    try:
        with pytest.raises(UnavailableError, match=r"no answer within 0\.1 s"):
            await open_socket(Target("ws://127.0.0.1:1"))
    finally:
        free.set()


async def test_what_a_server_says_at_the_end_does_not_steer_the_terminal() -> None:
    async def go(socket: ServerConnection) -> None:
        await socket.close(1008, "\x1b]0;x\x07gone\n")

    async def hear(server: str) -> None:
        async with streamdac.connect(server, model=small_codec(), role="receive") as peer:
            async for _ in peer:
                pass

    async with accepting(go) as server:
        with pytest.raises(UnavailableError, match=r"^session ended by the server: 1008 ]0;xgone$"):
            await hear(server)


def test_only_what_can_be_printed_is() -> None:
    assert printable("schön\x1b[31m\x9b\r\n\u202e") == "schön[31m"


async def test_the_library_sends_no_pings_beside_the_sessions() -> None:
    async with running() as relay, streamdac.connect(url(relay), model=small_codec(), role="receive") as peer:
        (channel,) = relay._channels
        for end in (channel, peer.peer.channel):
            assert end.socket.ping_interval is None


@pytest.mark.parametrize("reads", [True, False], ids=["silent", "deaf"])
async def test_a_connection_that_is_half_open_ends_after_its_silence(monkeypatch, reads) -> None:
    """Deaf: the server's own writes wait for ever, in the library's close too."""
    monkeypatch.setattr(ws_channel, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(ws_channel, "HOLD_SECONDS", 60.0)
    async with running() as relay, raw(relay, greet=hello(Role.RECEIVE, offer=WIDE, codebooks=64, channels=32)) as peer:
        (channel,) = relay._channels
        if not reads:
            peer.socket.transport.pause_reading()
            fill(channel)
            await until(lambda: not channel.outbox)  # too old, all of it
            assert channel.socket.transport.get_write_buffer_size() > ws_channel.WRITE_LIMIT
        monkeypatch.setattr(session, "SILENCE_SECONDS", 0.3)
        await until(lambda: not relay._channels)
        peer.socket.transport.abort()


def fill(channel: ws_channel.Channel) -> None:
    """Post what no kernel's buffers take."""
    channel.socket.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    layout = Layout(64, 65536, 32)
    codes = np.zeros((64, 32, 1), np.int64)
    for frame in range(3000):
        channel.post(Forwarded(make_packet(layout, codes, sequence=frame, first_frame=frame, stream=1)))
