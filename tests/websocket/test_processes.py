"""Whole programs: a server, a listener and a sender, each a process of its own, and what they say when they end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile

from streamdac import frontend, load
from streamdac.frontends.wav import SampleFormat, header
from streamdac.protocols.messages import End, Offer, Packet, Role

from ..processes import in_terminal
from .parts import hello, raw, running, small_codec, speech, until, url


@pytest.fixture
def start(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts programs, and ends those that are left over."""
    started = []

    def start_one(*arguments: object, stdin: int | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "streamdac", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        started.append(
            subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                cwd=tmp_path,
            )
        )
        return started[-1]

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str], holding: str) -> str:
    """The next line on stderr that holds a text."""
    assert process.stderr is not None
    seen = []
    for text in process.stderr:
        if holding in text:
            return text
        seen.append(text)
    raise AssertionError(f"ended without {holding!r}: {seen}")


@pytest.fixture
def server(start) -> tuple[subprocess.Popen[str], str]:
    process = start("serve", "--port", 0, "--no-adapt", "--json")
    return process, line(process, "listening on").split()[-1]


def decoded_here(model: Path, folder: Path) -> np.ndarray:
    """What the codes of in.wav decode to, frame by frame, as it is written to a file."""
    codec = load(model)
    written, rate = soundfile.read(folder / "in.wav", dtype="float32")
    codes, decoder = codec.encode(written), codec.decoder()
    audio = np.concatenate([decoder.push(codes[:, :, i : i + 1])[0, 0] for i in range(codes.shape[2])])
    sink = frontend.open_sink(str(folder / "here.wav"), sample_rate=rate, channels=1)
    sink.write(audio[: len(written), None])
    sink.close()
    return soundfile.read(folder / "here.wav", dtype="int16")[0]


def test_a_file_sent_by_one_process_is_written_by_another_as_the_local_decode(start, server, model, tmp_path) -> None:
    serving, url = server
    soundfile.write(tmp_path / "in.wav", speech(1.5), 24_000)
    listening = start("listen", url, "--room", "r", "--model", model, "-o", tmp_path / "out.wav", "--exact", "--once")
    line(listening, "/r: model small")
    with urllib.request.urlopen(url.replace("ws:", "http:") + "/healthz") as response:
        health = json.load(response)
    assert (health["status"], health["rooms"]) == ("ok", {"r": 1})
    sending = start("send", url + "/r", "--model", model, "-i", tmp_path / "in.wav", "--no-adapt", "--json")
    out, err = sending.communicate(timeout=60)
    assert sending.returncode == 0, err
    shown = [json.loads(text) for text in out.splitlines()]
    assert (shown[-1]["frames_sent"], shown[-1]["frames_lost"], shown[-1]["packets_dropped"]) == (113, 0, 0)
    _, err = listening.communicate(timeout=60)
    assert listening.returncode == 0, err
    heard, rate = soundfile.read(tmp_path / "out.wav", dtype="int16")
    assert (rate, len(heard)) == (24_000, 36_000)
    assert np.array_equal(heard, decoded_here(model, tmp_path))
    serving.send_signal(signal.SIGINT)
    out, err = serving.communicate(timeout=20)
    assert serving.returncode == 0, err
    last = json.loads(out.splitlines()[-1])
    assert last["received"] == last["forwarded"] == 113
    assert last["dropped"] == last["thinned"] == 0


def test_an_interrupted_server_says_bye_and_its_peers_say_that_nobody_came_back(start, server, model) -> None:
    serving, url = server
    listening = start("listen", url, "--model", model, "-o", "null:", "--retry", 0.5)
    line(listening, "model small")
    serving.send_signal(signal.SIGINT)
    _, err = serving.communicate(timeout=20)
    assert serving.returncode == 0, err
    _, err = listening.communicate(timeout=20)
    assert listening.returncode == 69
    assert err.splitlines()[-1] == f"streamdac: {url}: the server ends, and no new session for 0.5 s"


async def test_an_interrupted_peer_ends_its_stream_and_says_bye(start, model, caplog) -> None:
    caplog.set_level(logging.INFO, logger="streamdac.websocket")
    codec = small_codec()
    offer = Offer(codec.fingerprint, 24_000, 320, 4, 64)
    async with (
        running() as relay,
        raw(relay, greet=hello(Role.RECEIVE, offer=offer, codebooks=4), read=True) as listener,
    ):
        sending = start("send", url(relay), "--model", model, "-i", "tone:440")
        await until(lambda: len(listener.heard(Packet)) > 5, 60)
        sending.send_signal(signal.SIGINT)
        _, err = await asyncio.to_thread(sending.communicate)
        assert (sending.returncode, "Traceback" in err) == (130, False), err
        await until(lambda: len(relay.rooms["lobby"].members) == 1)
        assert caplog.messages[-1] == "room lobby: session ended with 1000 "
        packets, (end,) = listener.heard(Packet), listener.heard(End)
        assert end.frames == len(packets)


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
def test_what_was_heard_is_kept_where_the_terminal_is_closed(start, server, model, tmp_path) -> None:
    _, url = server
    command = ["listen", url + "/r", "--model", model, "-o", "out.wav", "--exact"]
    listening, near = in_terminal([sys.executable, "-m", "streamdac", *map(str, command)], tmp_path)
    try:
        while b"model small" not in os.read(near, 4096):
            pass
        sending = start("send", url + "/r", "--model", model, "-i", "null:0.5")
        assert sending.wait(60) == 0
        end = time.monotonic() + 60
        while sum(path.stat().st_size for path in tmp_path.iterdir()) < 2 * 12_000:
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        os.close(near)
    assert listening.wait(20) == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 12_000
    assert [path.name for path in tmp_path.iterdir()] == ["out.wav"]


def opened(fifo: Path) -> int:
    """The writing end of a named pipe, once somebody waits for it."""
    end = time.monotonic() + 60
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < end, "nobody opens it"
            time.sleep(0.05)


@pytest.mark.parametrize(
    ("command", "number", "code", "said"),
    [
        (["send", "ws://127.0.0.1:1"], signal.SIGINT, 130, "streamdac: interrupted\n"),
        (["serve", "--port", 0], signal.SIGINT, 130, "streamdac: interrupted\n"),
        (["serve", "--port", 0], signal.SIGTERM, 143, ""),
    ],
)
def test_a_signal_ends_the_wait_for_a_pipe_that_gives_nothing(
    start, model, tmp_path, command, number, code, said
) -> None:
    os.mkfifo(tmp_path / "fifo")
    process = start(*command, "--model", model, "-i", "fifo")
    writer = opened(tmp_path / "fifo")
    try:
        time.sleep(0.5)  # from its open to its read: Python would see a signal between the two only after the read
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        os.close(writer)
    assert (process.returncode, out, err) == (code, "", said)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Both ends of a pipe in which audio has begun to come: its header."""
    reader, writer = os.pipe()
    os.write(writer, header(24_000, 1, SampleFormat(16), None))
    yield reader, writer
    for end in (reader, writer):
        os.close(end)


SEVEN_HOPS_AND_A_HALF = bytes(2 * 2_400)


@pytest.fixture
def idle(pipe) -> int:
    """The reading end of a pipe in which there are seven hops and a half, and no more for now."""
    reader, writer = pipe
    os.write(writer, SEVEN_HOPS_AND_A_HALF)
    return reader


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its exit code and the rest of its stderr."""
    assert process.stderr is not None
    return process.wait(timeout=30), process.stderr.read()


async def test_a_server_that_waits_for_its_own_audio_ends_when_told_to(start, model, pipe) -> None:
    codec, (reader, writer) = small_codec(), pipe
    offer = Offer(codec.fingerprint, 24_000, 320, 4, 64)
    process = start("serve", "--port", 0, "--model", model, "-i", "-", stdin=reader)
    heading = await asyncio.to_thread(line, process, "listening on")
    relay = cast(Any, SimpleNamespace(port=int(heading.rpartition(":")[2])))
    async with raw(relay, greet=hello(Role.RECEIVE, offer=offer, codebooks=4), read=True) as listener:
        os.write(writer, SEVEN_HOPS_AND_A_HALF)  # now that somebody listens
        await until(lambda: len(listener.heard(Packet)) == 7, 60)
        process.send_signal(signal.SIGTERM)
        code, err = await asyncio.to_thread(ended, process)
    assert (code, "Fatal" in err) == (130, False), err


def test_a_sender_that_waits_for_audio_says_why_its_session_ended(start, server, model, idle) -> None:
    serving, url = server
    sending = start("send", url, "--model", model, "-i", "-", "--retry", 0.5, stdin=idle)
    line(sending, "model small")
    serving.send_signal(signal.SIGINT)
    code, err = ended(sending)
    assert (code, err.splitlines()[-1]) == (69, f"streamdac: {url}: the server ends, and no new session for 0.5 s")
