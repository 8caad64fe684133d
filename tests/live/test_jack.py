"""The whole live path on a sound server: speech in at the capture side, coded out at the playback side."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from streamdac.codec import Codec
from streamdac.errors import UnavailableError
from streamdac.frontends import device_stream, live_loop
from streamdac.frontends.bridge import Process
from streamdac.frontends.chain import Settings
from streamdac.frontends.device_config import Opened, Plan
from streamdac.frontends.device_stream import DeviceStream
from streamdac.frontends.latency_probe import Probe
from streamdac.frontends.live_loop import LiveLoop, Options
from streamdac.frontends.rings import Ring

from .jack import Jack

SPEECH = Path(__file__).parents[1] / "data" / "speech.flac"
RATE, HOP = 24_000, 320
PATIENT = Options(margin=0.1, ramp=False)  # whatever else the machine does


class Listening:
    """Keeps what the chain was given."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.heard: list[np.ndarray] = []

    def push(self, block: np.ndarray) -> np.ndarray:
        self.heard.append(block.copy())
        return self.process.push(block)


def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def best_shift(reference: np.ndarray, signal: np.ndarray) -> int:
    """Samples by which `signal` is later; may be negative."""
    size = len(signal) + len(reference)
    match = np.fft.irfft(np.fft.rfft(signal, size) * np.conj(np.fft.rfft(reference, size)), size)
    best = int(np.argmax(match))
    return best if best < len(signal) else best - size


def play_through(jack: Jack, codec: Codec, seconds: float, **settings: float) -> tuple[LiveLoop, Listening, np.ndarray]:
    """Speech from another client through `live` and back to that client: the loop, what it heard, what came back."""
    speech = soundfile.read(SPEECH, dtype="float32")[0]
    track = np.resize(speech, round(seconds * RATE))[:, None].copy()
    listening: list[Listening] = []

    def wrap(process: Process) -> Process:
        listening.append(Listening(process))
        return listening[0]

    loop = LiveLoop(codec, PATIENT, Settings(codec.n_codebooks), wrap=wrap)
    loop.start()
    before = set(jack.ports())
    other = DeviceStream(Plan("", "", RATE, 1, ""))
    other.capture.limit = 1 << 15
    back: list[np.ndarray] = []
    try:
        mine, theirs = "PortAudio", next(iter(set(jack.ports()) - before)).partition(":")[0]
        jack.connect(f"{theirs}:out_0", f"{mine}:in_0")
        jack.connect(f"{mine}:out_0", f"{theirs}:in_0")
        at, end = 0, time.monotonic() + seconds + 0.6
        while time.monotonic() < end:
            while at < len(track) and other.playback.level < RATE // 4:
                other.playback.write(track[at : at + 600], 0.0)
                at += 600
            while (block := other.capture.take(600)) is not None:
                back.append(block[:, 0])
            time.sleep(0.02)
            loop.check()
    finally:
        other.close()
        loop.stop()
    return loop, listening[0], np.concatenate(back)


def equal_share(wanted: np.ndarray, got: np.ndarray) -> float:
    """Share of quarter seconds of `wanted` that are in `got`, sample for sample, each within 20 ms of one shift."""
    shift = best_shift(wanted, got)
    size, good, tried = RATE // 4, 0, 0
    for first in range(0, len(wanted) - size, size):
        piece = wanted[first : first + size]
        at = first + shift
        if at < 500 or at + size + 500 > len(got):
            continue
        tried += 1
        around = got[at - 500 : at + size + 500]
        exact = np.correlate(around, piece, "valid").argmax()
        good += bool(np.allclose(around[exact : exact + size], piece, atol=1e-6))
    assert tried >= 8
    return good / tried


def coded_equals_offline(jack: Jack, codec: Codec, seconds: float) -> LiveLoop:
    loop, listening, back = play_through(jack, codec, seconds)
    heard = np.concatenate(listening.heard)[:, 0]
    speech = soundfile.read(SPEECH, dtype="float32")[0]
    assert equal_share(speech, heard) > 0.8, "the speech did not come in"
    offline = codec.decode(codec.encode(heard))[0, 0]
    # A client that misses its turn on a busy machine loses a period; those quarter seconds are few.
    assert equal_share(offline, back) > 0.8
    return loop


def test_speech_comes_out_as_the_offline_codec_gives_it(jack: Callable[..., Jack], codec: Codec) -> None:
    loop = coded_equals_offline(jack(), codec, 10.0)
    status = loop.status()
    assert status.frames > 9 * 75
    assert status.total_ms == pytest.approx(1000 * HOP / RATE + 100, abs=30)
    assert status.input_rate == status.output_rate == RATE
    assert status.latency.conversion == 0


@pytest.mark.slow
def test_speech_for_a_minute(jack: Callable[..., Jack], codec: Codec) -> None:
    coded_equals_offline(jack(), codec, 60.0)


def test_two_devices_have_two_clocks_and_a_steered_delay(jack: Callable[..., Jack], codec: Codec) -> None:
    server = jack()
    other = DeviceStream(Plan("", "", RATE, 1, ""))
    try:
        until(lambda: any(port.startswith("PortAudio:in") for port in server.ports()))
        # PortAudio lists the other client as a device of its own.
        loop = LiveLoop(codec, Options(source="system", target="PortAudio", margin=0.1), Settings(codec.n_codebooks))
        loop.start()
        try:
            until(lambda: loop.chain.frames > 300)
            loop.check()
            status = loop.status()
        finally:
            loop.stop()
    finally:
        other.close()
    assert (status.input, status.output) == ("system", "PortAudio")
    assert not loop.stream.opened.one_clock
    assert status.target_ms == pytest.approx(1000 * HOP / RATE + 100 + 1.33, abs=0.1)
    assert status.added_p50_ms == pytest.approx(status.target_ms, abs=10)


def test_measured_round_trip_is_the_sum_of_the_printed_parts(jack: Callable[..., Jack], codec: Codec) -> None:
    server = jack(rate=48_000, period=256)
    probes: list[Probe] = []

    def wrap(process: Process) -> Process:
        probes.append(Probe(process, sample_rate=RATE, clicks=4))
        return probes[0]

    loop = LiveLoop(codec, PATIENT, Settings(codec.n_codebooks, original=True), wrap=wrap)
    loop.start()
    try:
        server.connect("PortAudio:out_0", "PortAudio:in_0")
        until(lambda: probes[0].done)
    finally:
        loop.stop()
    measured, status = probes[0].result(), loop.status()
    assert measured.found >= 3
    # The patch cable of JACK takes one period more.
    cable = 1000 * server.period / server.rate
    assert measured.round_trip_ms == pytest.approx(status.total_ms + cable, abs=5)
    assert status.latency.conversion == pytest.approx(2.67, abs=0.01)


def test_without_a_cable_no_click_comes_back(jack: Callable[..., Jack], codec: Codec) -> None:
    jack()
    probe = Probe(Silent(), sample_rate=RATE, clicks=2)
    while not probe.done:
        probe.push(np.zeros((HOP, 1), np.float32))
    with pytest.raises(UnavailableError, match="0 of 2 clicks"):
        probe.result()


class Silent:
    def push(self, block: np.ndarray) -> np.ndarray:
        return block


def test_a_server_that_dies_and_comes_back_is_found_again(jack: Callable[..., Jack], codec: Codec) -> None:
    server = jack()
    said: list[str] = []
    loop = LiveLoop(codec, PATIENT, Settings(codec.n_codebooks), notify=said.append)
    loop.start()
    try:
        until(lambda: loop.chain.frames > 20)
        server.kill()
        until(lambda: said)
        frames = loop.chain.frames
        server.start()
        until(lambda: loop.totals.reconnects == 1)
        until(lambda: loop.chain.frames > frames + 20)
        loop.check()
    finally:
        loop.stop()
    assert "waiting for it to come back" in said[0]
    assert said[1].startswith("back on")
    assert loop.status().reconnects == 1


def test_without_reconnect_a_dead_server_is_one_line(jack: Callable[..., Jack], codec: Codec) -> None:
    server = jack()
    loop = LiveLoop(codec, Options(reconnect=False), Settings(codec.n_codebooks))
    loop.start()
    try:
        until(lambda: loop.chain.frames > 20)
        server.kill()
        with pytest.raises(UnavailableError, match="the sound device is gone"):
            until(loop.check)
    finally:
        loop.stop()


def test_the_watchdog_sees_callbacks_that_stop(jack: Callable[..., Jack]) -> None:
    import os
    import signal

    server = jack()
    stream = DeviceStream(Plan("", "", RATE, 1, ""))
    try:
        until(lambda: stream.capture.written > 0)
        assert stream.trouble() is None
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        until(stream.trouble)
        assert "no sign for" in str(stream.trouble()) or stream.stopped
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        stream.close()


class Deaf(DeviceStream):
    """Devices whose microphone goes on while the loudspeaker asks for nothing more; simulated, as is their clock."""

    def __init__(self, plan: Plan) -> None:
        self.opened = Opened("mic", "speaker", "", RATE, RATE, 5.0, 5.0, one_clock=False)
        self.capture, self.playback = Ring(1), Ring(1)
        self.stopped = None
        self.now = self._started = 0.0
        self.playback.read_into(np.zeros((HOP, 1), np.float32), self.now)

    def wait(self, seconds: float) -> bool:
        self.now += HOP / RATE
        self.capture.write(np.zeros((HOP, 1), np.float32), self.now)
        return True

    def close(self) -> None:
        pass


def test_a_loudspeaker_that_hangs_is_noticed_while_the_microphone_lives(
    codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = LiveLoop(codec, Options(reconnect=False, margin=0.1), Settings(codec.n_codebooks))
    monkeypatch.setattr(live_loop, "DeviceStream", Deaf)
    monkeypatch.setattr(device_stream, "time", SimpleNamespace(perf_counter=lambda: loop.stream.now))
    loop.start()
    try:
        with pytest.raises(UnavailableError, match="'speaker' has given no sign for 1"):
            until(loop.check, 10)
    finally:
        loop.stop()


def test_nothing_is_left_behind(jack: Callable[..., Jack]) -> None:
    jack()
    stream = DeviceStream(Plan("", "", RATE, 1, ""))
    path = Path(stream.plan.memory)
    stream.close()
    assert not path.exists()
    assert stream._process.returncode is not None
    assert not any(thread.name == "device events" for thread in threading.enumerate())
