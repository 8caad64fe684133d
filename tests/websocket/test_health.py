"""`/healthz` on the port of the sessions, and the statistics of a server."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import Any, cast

import pytest

from streamdac.frontends.ws_peer import PeerCounts
from streamdac.frontends.ws_stats import PeerStats, PeerWatch, peer_line, server_line
from streamdac.protocols.messages import Packet, Role

from .parts import hello, looking_ahead_codec, packets, raw, running, small_codec, until


def get(port: int, path: str, token: str = "") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers["Content-Type"], response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


async def test_health_says_who_is_there_and_what_passed() -> None:
    async with (
        running(token="sesame") as relay,
        raw(relay, "r", greet=hello(Role.SEND), additional_headers={"Authorization": "Bearer sesame"}) as speaker,
        raw(
            relay, "r", greet=hello(Role.RECEIVE), additional_headers={"Authorization": "Bearer sesame"}, read=True
        ) as listener,
    ):
        for packet in packets(10):
            await speaker.say(packet)
        await until(lambda: len(listener.heard(Packet)) == 10)
        status, kind, body = await asyncio.to_thread(get, relay.port, "/healthz", "sesame")
        health = json.loads(body)
        assert (status, kind) == (200, "application/json")
        assert health["status"] == "ok"
        for token in ("", "wrong"):
            assert json.loads((await asyncio.to_thread(get, relay.port, "/healthz", token))[2]) == {"status": "ok"}
        assert (health["sessions"], health["rooms"]) == (2, {"r": 2})
        assert (health["received"], health["forwarded"], health["dropped"], health["refused"]) == (10, 10, 0, 0)


@pytest.mark.parametrize(("path", "status"), [("/", 426), ("/healthz/x", 404), ("/healthz?x=1", 200)])
async def test_other_requests_get_an_answer_too(path, status) -> None:
    async with running() as relay:
        assert (await asyncio.to_thread(get, relay.port, path))[0] == status


async def test_bitrates_are_those_since_the_last_look() -> None:
    async with running() as relay, raw(relay, greet=hello(Role.SEND)) as speaker:
        relay.look()
        for packet in packets(10):
            await speaker.say(packet)
        await until(lambda: relay.counts.received == 10)
        stats = relay.look()
        assert stats.received_kbps > 0
        assert "1 sessions in 1 rooms" in server_line(stats)


def test_a_line_for_people_holds_the_whole_delay() -> None:
    stats = PeerStats(
        connected=True, speaking=2, capture_ms=13, encode_ms=2, network_ms=10, buffer_ms=30, decode_ms=3, playback_ms=8
    )
    assert "delay 13 + 2 + 10 + 30 + 3 + 8 = 66 ms" in peer_line(stats)
    assert peer_line(PeerStats()).startswith("no session")


@pytest.mark.parametrize("codec", [small_codec, looking_ahead_codec])
def test_the_delay_of_what_is_captured_holds_what_the_model_looks_ahead(codec) -> None:
    peer = SimpleNamespace(codec=codec(), counts=PeerCounts(), channel=None, codebooks=0)
    capture = SimpleNamespace(level=-20.0, encode_ms=0.0, source=SimpleNamespace(latency=0.01))
    stats = PeerWatch(cast(Any, peer), cast(Any, capture), None).look()
    samples = 320 + codec().plan.encoder_lookahead
    assert stats.capture_ms == pytest.approx(10 + samples / 24, abs=0.01)


def test_a_line_for_people_tells_of_streams_that_are_not_heard() -> None:
    assert peer_line(PeerStats(connected=True, speaking=8, not_heard=2)).startswith("8 speaking (2 not heard)  ")
    assert "not heard" not in peer_line(PeerStats(connected=True))
