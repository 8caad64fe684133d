"""The process that talks to PortAudio: its callbacks copy between the devices and two rings in shared memory.

A process of its own, because PortAudio cannot be trusted with ours: when a JACK server dies, Pa_CloseStream waits for half a
minute and Pa_Terminate aborts the whole process (measured, V19.6). It also keeps codec work from ever holding the callback's
interpreter lock, and the libraries' chatter off the user's terminal.

    python -m streamdac.frontends.device_process list
    python -m streamdac.frontends.device_process run '{"input": ..., "output": ..., "rate": ..., ...}'

On stdout one JSON object a line: the devices; or `ready` with what was opened, `failed` or `stopped` with why. An empty line
wakes the other side. The end of stdin ends it.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from streamdac.errors import UsageError

from .device_config import DeviceInfo, Opened, Plan, ring_memory
from .device_names import choose
from .rings import Ring

_CHECK_SECONDS = 0.1
_CLOSE_SECONDS = 1.0
_out = 1  # to the other side


class Callbacks:
    """What PortAudio calls: copies and counts, no more."""

    def __init__(self, capture: Ring | None, playback: Ring | None) -> None:
        self.capture, self.playback = capture, playback
        self._bell = -1

    def duplex(self, indata: Any, outdata: Any, frames: int, timing: Any, status: Any) -> None:
        """Both directions of one device."""
        self.input(indata, frames, timing, status)
        self.output(outdata, frames, timing, None)

    def input(self, indata: Any, frames: int, timing: Any, status: Any) -> None:
        """Device to ring."""
        ring = self.capture
        assert ring is not None
        ring.write(indata, time.perf_counter())
        # Once for each position asked for: the pipe is as bounded as the ring.
        if (bell := ring.bell) != self._bell and ring.written >= bell:
            self._bell = bell
            self.ring_bell()
        if status:
            ring.add_xrun()

    def output(self, outdata: Any, frames: int, timing: Any, status: Any) -> None:
        """Ring to device; a mono ring plays on every channel."""
        ring = self.playback
        assert ring is not None
        now = time.perf_counter()
        if ring.channels == outdata.shape[1]:
            ring.read_into(outdata, now)
        else:
            ring.read_into(outdata[:, :1], now)
            outdata[:, 1:] = outdata[:, :1]
        if self.capture is None and (bell := ring.bell) != self._bell and ring.read_position >= bell:
            self._bell = bell
            self.ring_bell()
        if status:
            ring.add_xrun()

    @staticmethod
    def ring_bell() -> None:
        """Wake the other side; if the pipe is full it has enough to wake up to."""
        with suppress(BlockingIOError):
            os.write(_out, b"\n")


def say(**message: Any) -> None:
    """One line to the other side."""
    os.set_blocking(_out, True)
    os.write(_out, (json.dumps(message) + "\n").encode())
    os.set_blocking(_out, False)


def devices(sd: Any) -> list[DeviceInfo]:
    """All of them, with what PortAudio knows."""
    apis = sd.query_hostapis()
    rows = []
    for index, row in enumerate(sd.query_devices()):
        api = apis[row["hostapi"]]
        rows.append(
            DeviceInfo(
                index=index,
                name=row["name"],
                api=api["name"],
                inputs=row["max_input_channels"],
                outputs=row["max_output_channels"],
                rate=round(row["default_samplerate"]),
                input_latency_ms=1000 * row["default_low_input_latency"],
                output_latency_ms=1000 * row["default_low_output_latency"],
                default_input=index == _default(sd, 0),
                default_output=index == _default(sd, 1),
            )
        )
    return rows


def _default(sd: Any, direction: int) -> int:
    """PortAudio's default, or the first device of any host API where it has none (JACK beside an ALSA without cards)."""
    chosen = int(sd.default.device[direction])
    if chosen >= 0:
        return chosen
    key = ("default_input_device", "default_output_device")[direction]
    return next((int(api[key]) for api in sd.query_hostapis() if api[key] >= 0), -1)


def open_streams(sd: Any, plan: Plan, memory: mmap.mmap) -> tuple[list[Any], Opened]:
    """Streams that are ready to start: one where both ends are one device, else one for each."""
    rows = devices(sd)
    source = None if plan.input is None else choose(rows, plan.input, "input")
    target = None if plan.output is None else choose(rows, plan.output, "output")
    if source:
        _check_channels(source.name, source.inputs, "input", plan.channels)
    if target:
        _check_channels(target.name, target.outputs, "output", plan.channels)
    areas = ring_memory(memory, plan.channels)
    callbacks = Callbacks(
        Ring(plan.channels, areas[0]) if source else None, Ring(plan.channels, areas[1]) if target else None
    )
    if source and target and source.index == target.index:
        stream = _duplex(sd, plan, source, callbacks)
        return [stream], _opened(source, target, stream, stream, one_clock=True)
    reader = _reader(sd, plan, source, callbacks) if source else None
    writer = _writer(sd, plan, target, callbacks) if target else None
    streams = [stream for stream in (reader, writer) if stream is not None]
    return streams, _opened(source, target, reader, writer, one_clock=False)


def _check_channels(name: str, has: int, end: str, wanted: int) -> None:
    if has < wanted:
        raise UsageError(f"{name!r} has {has} {end} channel{'s' * (has > 1)}, need {wanted}")


def _duplex(sd: Any, plan: Plan, device: DeviceInfo, callbacks: Callbacks) -> Any:
    outputs = _output_channels(plan, device)
    rate = _rate(sd.check_input_settings, device, plan.channels, plan.rate)
    if rate == plan.rate:
        rate = _rate(sd.check_output_settings, device, outputs, plan.rate)
    return sd.Stream(
        device=(device.index, device.index), channels=(plan.channels, outputs), samplerate=rate, dtype="float32",
        latency=plan.latency, blocksize=plan.block, callback=callbacks.duplex,
    )  # fmt: skip


def _reader(sd: Any, plan: Plan, device: DeviceInfo, callbacks: Callbacks) -> Any:
    rate = _rate(sd.check_input_settings, device, plan.channels, plan.rate)
    return sd.InputStream(
        device=device.index, channels=plan.channels, samplerate=rate, dtype="float32", latency=plan.latency,
        blocksize=plan.block, callback=callbacks.input,
    )  # fmt: skip


def _writer(sd: Any, plan: Plan, device: DeviceInfo, callbacks: Callbacks) -> Any:
    outputs = _output_channels(plan, device)
    rate = _rate(sd.check_output_settings, device, outputs, plan.rate)
    return sd.OutputStream(
        device=device.index, channels=outputs, samplerate=rate, dtype="float32", latency=plan.latency,
        blocksize=plan.block, callback=callbacks.output,
    )  # fmt: skip


def _output_channels(plan: Plan, device: DeviceInfo) -> int:
    """Mono comes out on both sides."""
    return max(plan.channels, min(2, device.outputs))


def _opened(
    source: DeviceInfo | None, target: DeviceInfo | None, reader: Any, writer: Any, *, one_clock: bool
) -> Opened:
    def latency(stream: Any, end: int) -> float:
        seconds = stream.latency
        return 1000 * float(seconds[end] if isinstance(seconds, tuple) else seconds)

    api = source.api if source else target.api if target else ""
    return Opened(
        input=source.name if source else None,
        output=target.name if target else None,
        api=api,
        input_rate=round(reader.samplerate) if reader else 0,
        output_rate=round(writer.samplerate) if writer else 0,
        input_latency_ms=latency(reader, 0) if reader else 0.0,
        output_latency_ms=latency(writer, 1) if writer else 0.0,
        one_clock=one_clock,
        output_api=target.api if target else "",
    )


def _rate(check: Any, device: DeviceInfo, channels: int, wanted: int) -> int:
    """The model's own rate where the device takes it, else the device's."""
    try:
        check(device=device.index, channels=channels, samplerate=wanted, dtype="float32")
        return wanted
    except Exception:  # PortAudioError: refused for whatever reason; opening it says why if it is not the rate
        return device.rate


def run(sd: Any, plan: Plan) -> None:
    """Open, start, and stay until stdin ends or a stream stops by itself."""
    with open(plan.memory, "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
    streams, opened = open_streams(sd, plan, memory)
    for stream in streams:
        stream.start()
    ended = threading.Event()
    threading.Thread(target=_watch_stdin, args=(ended,), daemon=True).start()
    say(event="ready", **asdict(opened))
    while not ended.wait(_CHECK_SECONDS):
        if not all(stream.active for stream in streams):
            say(event="stopped", reason="the device stopped")
            return
    for stream in streams:
        _within(_CLOSE_SECONDS, stream.abort)
        _within(_CLOSE_SECONDS, stream.close)


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Call it, and go on without it if it hangs: a server that died would keep a clean end for ever."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)


def _watch_stdin(ended: threading.Event) -> None:
    while os.read(0, 64):
        pass
    ended.set()


def _quiet() -> None:
    """JACK and ALSA write to stderr, and whoever knows to stdout, whatever they like."""
    global _out
    _out = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    if not os.environ.get("STREAMDAC_TRACEBACK"):
        os.dup2(nowhere, 2)


def main(arguments: list[str]) -> None:
    """List the devices, or run streams."""
    _quiet()
    # A plain client must not start a server of its own.
    os.environ.setdefault("JACK_NO_START_SERVER", "1")
    try:
        import sounddevice as sd

        try:
            if arguments[0] == "list":
                say(event="devices", devices=[asdict(row) for row in devices(sd)])
            else:
                run(sd, Plan(**json.loads(arguments[1])))
        finally:
            # A client that vanishes can leave a JACK server deaf to all others (seen with jackd 1.9.21).
            _within(_CLOSE_SECONDS, sd._terminate)
    except ImportError as error:
        say(event="failed", kind="library", reason=f"needs {error.name}: pip install 'streamdac[live]'")
    except OSError as error:
        # sounddevice raises OSError where the shared library is not there.
        reason = "the PortAudio library is missing: apt-get install libportaudio2, or brew install portaudio"
        say(event="failed", kind="library", reason=reason if "PortAudio" in str(error) else str(error))
    except Exception as error:  # PortAudioError and its like: whatever it is, the other side reports it in one line
        say(event="failed", kind=type(error).__name__, reason=" ".join(str(error).split()))


if __name__ == "__main__":
    main(sys.argv[1:])
    # Whatever still hangs is left hanging.
    os._exit(0)
