"""Programs in this process: a transfer that broke is no success, and neither is output that nobody takes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest
import soundfile
from websockets.asyncio.server import ServerConnection

from streamdac.errors import BadDataError, UnavailableError
from streamdac.frontends import ws_channel, ws_program
from streamdac.frontends.tone import Tone
from streamdac.frontends.ws_access import Settings
from streamdac.frontends.ws_outbox import Outbox
from streamdac.frontends.ws_run import Options, Program
from streamdac.frontends.ws_serve import run_server
from streamdac.frontends.ws_server import RelayServer
from streamdac.protocols.messages import Bye, Offer, Reason, Role
from streamdac.protocols.sender import Sender

from .parts import PATIENCE, accepting, hello, raw, running, small_codec, until, url


async def run(options: Options, stop: asyncio.Event | None = None) -> int:
    """A peer from start to end; the exit code."""
    program = Program(options, small_codec())
    program.open_ends()
    return await asyncio.wait_for(program.run_until(stop or asyncio.Event(), options.target()), PATIENCE)


def sending(to: str, seconds: float = 0.1) -> Options:
    return Options(to, source=f"tone:440,{seconds}", quiet=True)


async def say_nothing(socket: ServerConnection) -> None:
    async for _ in socket:
        pass


async def test_a_transfer_is_done_once_the_server_has_answered_the_bye() -> None:
    async with running() as relay:
        assert await run(sending(url(relay))) == 0


async def test_a_transfer_whose_bye_nobody_answers_has_failed(monkeypatch) -> None:
    monkeypatch.setattr(ws_channel, "LEAVE_SECONDS", 0.2)
    async with accepting(say_nothing) as server:
        with pytest.raises(UnavailableError, match="no answer to the Bye"):
            await run(sending(server))


async def test_a_transfer_that_has_no_session_at_its_end_has_failed() -> None:
    async with running() as relay:
        ending = asyncio.ensure_future(run(sending(url(relay), 1.0)))
        await until(lambda: relay.counts.received)
        await relay.stop()
        with pytest.raises(UnavailableError, match="no session when the input ended"):
            await ending


async def test_a_transfer_that_the_user_interrupts_is_interrupted_whoever_answers(monkeypatch) -> None:
    monkeypatch.setattr(ws_channel, "LEAVE_SECONDS", 0.2)
    stop = asyncio.Event()

    async def interrupt(socket: ServerConnection) -> None:
        stop.set()
        await say_nothing(socket)

    async with accepting(interrupt) as server:
        assert await run(sending(server, 60.0), stop) == 130


async def test_a_recording_whose_sender_left_is_kept_and_no_success(tmp_path) -> None:
    offer = Offer(small_codec().fingerprint, 24_000, 320, 4, 64)
    async with running() as relay, raw(relay, greet=hello(Role.SEND, offer=offer, codebooks=4)) as speaker:
        options = Options(url(relay), sink=str(tmp_path / "x.wav"), exact=True, once=True, quiet=True)
        ending = asyncio.ensure_future(run(options))
        await until(lambda: len(relay.rooms["lobby"].members) == 2)
        for packet in Sender(speaker.session.agreement.layout).push(np.zeros((4, 1, 30), np.int64)):
            await speaker.say(packet)
        await speaker.say(Bye(Reason.NORMAL, ""))
        with pytest.raises(BadDataError, match=r"the sender left before its end: 0\.4 s are written"):
            await ending
        assert soundfile.info(tmp_path / "x.wav").frames == 30 * 320


@contextlib.asynccontextmanager
async def restarted(relay: RelayServer) -> AsyncIterator[RelayServer]:
    """The same server anew, at the same port."""
    await relay.stop()
    async with running(port=relay.port) as again:
        yield again


async def test_a_transfer_with_a_gap_has_failed() -> None:
    async with running() as relay:
        ending = asyncio.ensure_future(run(sending(url(relay), 2.0)))
        await until(lambda: relay.counts.received)
        async with restarted(relay):
            with pytest.raises(UnavailableError, match=r"not all was sent: \d\.\d s are missing"):
                await ending


@pytest.fixture
def always_late(monkeypatch) -> None:
    """Every packet is too old at once."""
    monkeypatch.setattr(ws_channel, "Outbox", lambda: Outbox(max_age=-1.0))


@pytest.mark.usefixtures("always_late")
async def test_a_transfer_whose_packets_were_not_taken_in_time_has_failed() -> None:
    async with running() as relay:
        with pytest.raises(UnavailableError, match="not all was sent: 8 packets were not taken in time"):
            await run(sending(url(relay)))


@pytest.mark.usefixtures("always_late")
async def test_who_talks_live_may_lose_what_is_too_late(monkeypatch) -> None:
    monkeypatch.setattr(Tone, "live", True, raising=False)
    async with running() as relay:
        assert await run(sending(url(relay))) == 0


async def say(relay: RelayServer, *, to_the_end: bool) -> None:
    """Thirty frames, as soon as somebody listens."""
    offer = Offer(small_codec().fingerprint, 24_000, 320, 4, 64)
    async with raw(relay, greet=hello(Role.SEND, offer=offer, codebooks=4)) as speaker:
        await until(lambda: len(relay.rooms["lobby"].members) == 2)
        sender = Sender(speaker.session.agreement.layout)
        messages = [*sender.push(np.zeros((4, 1, 30), np.int64)), *(sender.end(30 * 320) if to_the_end else [])]
        for message in messages:
            await speaker.say(message)
        await until(lambda: relay.counts.received == 30)
        await asyncio.sleep(0.1)
        await relay.stop()


async def test_a_recording_with_a_gap_is_kept_and_no_success(tmp_path) -> None:
    async with running() as relay:
        options = Options(url(relay), sink=str(tmp_path / "x.wav"), exact=True, once=True, quiet=True)
        ending = asyncio.ensure_future(run(options))
        await say(relay, to_the_end=False)
    async with running(port=relay.port) as again:
        saying = asyncio.ensure_future(say(again, to_the_end=True))
        with pytest.raises(BadDataError, match=r"the sender left|the connection was lost"):
            await ending
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)
    assert soundfile.info(tmp_path / "x.wav").frames >= 30 * 320


@contextlib.contextmanager
def stdout_fails(number: int) -> Iterator[None]:
    """With an error of that number, which is expected to come out."""
    if number == errno.EPIPE:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full", os.O_WRONLY)
    nowhere = os.fdopen(writer, "w")
    try:
        with contextlib.redirect_stdout(nowhere), pytest.raises(OSError, match=os.strerror(number)):
            yield
    finally:
        with contextlib.suppress(OSError):
            nowhere.close()


@pytest.fixture(params=[errno.EPIPE, errno.ENOSPC], ids=["closed", "full"])
def number(request, monkeypatch) -> int:
    monkeypatch.setattr(ws_program, "SHOW_SECONDS", 0.01)
    return request.param


async def serve(own: Program | None = None) -> int:
    return await asyncio.wait_for(run_server(Settings(port=0), as_json=True, quiet=True, own=own), PATIENCE)


async def test_a_server_whose_output_nobody_takes_ends_with_that_error(number) -> None:
    with stdout_fails(number):
        await serve()


async def test_a_server_that_takes_part_ends_with_that_error_too(number) -> None:
    own = Program(Options("", source="tone:440", quiet=True), small_codec())
    own.open_ends()
    with stdout_fails(number):
        await serve(own)


async def test_a_peer_whose_output_nobody_takes_ends_with_that_error(number) -> None:
    async with running() as relay:
        with stdout_fails(number):
            await run(Options(url(relay), source="tone:440", as_json=True, quiet=True))


async def test_a_terminal_that_goes_away_ends_nobody(monkeypatch) -> None:
    """As after a logout, where the program stays in the background."""
    monkeypatch.setattr(ws_program, "SHOW_SECONDS", 0.01)
    ours, theirs = os.openpty()
    terminal = os.fdopen(theirs, "w")
    monkeypatch.setattr(sys, "stderr", terminal)
    display = ws_program.Display(as_json=False, quiet=False)
    os.close(ours)
    stop = asyncio.Event()
    async with display.showing(lambda: ({}, "a line"), stop):
        display.note("a note")
        await asyncio.sleep(0.1)
    assert not stop.is_set()
    with contextlib.suppress(OSError):
        terminal.close()
