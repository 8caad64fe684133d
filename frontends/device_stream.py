"""Open sound devices: starts the device process, shares the rings with it, and tells what became of it."""

from __future__ import annotations

import json
import mmap
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from streamdac.errors import StreamdacError, UnavailableError, UsageError

from .device_config import DeviceInfo, Opened, Plan, memory_bytes, ring_memory
from .rings import Ring

START_SECONDS = 20.0  # PortAudio asks every sound system on the machine
STALLED_SECONDS = 1.0  # without a callback: the device is gone
# Nothing out of the folder that the user happens to be in: Python 3.10 knows no PYTHONSAFEPATH.
_PROGRAM = """
import sys
if sys.path[0] == "":
    del sys.path[0]
import runpy
runpy.run_module("streamdac.frontends.device_process", run_name="__main__", alter_sys=True)
"""


class DeviceStream:
    """One run of the device process: capture and playback rings, a bell, and the end of it.

    Args:
        plan: what to open; its `memory` is chosen here.

    Raises:
        UnavailableError: no library, no device, or it cannot be opened.
        UsageError: the plan names more than one device.
    """

    def __init__(self, plan: Plan, *, start_seconds: float = START_SECONDS) -> None:
        self._path, self._memory = _shared_memory(memory_bytes(plan.channels))
        areas = ring_memory(self._memory, plan.channels)
        self.capture = Ring(plan.channels, areas[0])
        self.playback = Ring(plan.channels, areas[1])
        self.plan = replace(plan, memory=str(self._path))
        self.stopped: str | None = None
        """Why it stopped, once it has."""
        self._bell = threading.Semaphore(0)
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()  # two lines at most
        try:
            self._process = _start("run", json.dumps(asdict(self.plan)))
        except BaseException:
            self._path.unlink()
            raise
        self._reader = threading.Thread(target=self._read, name="device events", daemon=True)
        self._reader.start()
        try:
            self.opened = Opened(**_ready(self._next_event(start_seconds)))
        except BaseException:
            self.close()
            raise
        self._started = time.perf_counter()
        # The other side has it mapped: nothing is left behind whatever happens now.
        with suppress(OSError):
            self._path.unlink()

    @property
    def input_rate(self) -> int:
        """Hz."""
        return self.opened.input_rate

    @property
    def output_rate(self) -> int:
        """Hz."""
        return self.opened.output_rate

    def wait(self, seconds: float) -> bool:
        """Until the device process rings or `seconds` are over."""
        rung = self._bell.acquire(timeout=seconds)
        while self._bell.acquire(blocking=False):  # rings that came meanwhile mean the same
            pass
        return rung

    def trouble(self) -> str | None:
        """Why nothing more will come; None while all is well. The watchdog: callbacks that stopped are noticed too."""
        if self.stopped is not None:
            return self.stopped
        now = time.perf_counter()
        ends = []
        if self.opened.input is not None:
            ends.append((self.opened.input, self.capture.write_stamp()))
        if self.opened.output is not None:
            ends.append((self.opened.output, self.playback.read_stamp()))
        for name, stamp in ends:
            silent = now - (self._started if stamp is None else max(stamp[1], self._started))
            if silent > STALLED_SECONDS:
                return f"{name!r} has given no sign for {silent:.1f} s"
        return None

    def close(self) -> None:
        """Stop the devices; the process is killed if it does not end by itself."""
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(2.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(2.0)
        if self._process.stdout:
            self._process.stdout.close()
        with suppress(OSError):
            self._path.unlink()

    def _read(self) -> None:
        """Lines of the device process; an empty one is the bell."""
        assert self._process.stdout is not None
        descriptor, rest = self._process.stdout.fileno(), b""
        while data := os.read(descriptor, 65536):
            *lines, rest = (rest + data).split(b"\n")
            if any(not line for line in lines):
                self._bell.release()
            for line in filter(None, lines):
                event = json.loads(line)
                if event["event"] == "stopped":
                    self.stopped = event["reason"]
                self._events.put(event)
        self.stopped = self.stopped or "the device process ended"
        self._events.put({"event": "failed", "kind": "", "reason": "the device process ended before it was ready"})
        self._bell.release()

    def _next_event(self, seconds: float) -> dict[str, Any]:
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            raise UnavailableError(
                f"the sound system has not answered for {seconds:.0f} s: is its server stuck?"
            ) from None


def list_devices() -> list[DeviceInfo]:
    """Every device that PortAudio knows.

    Raises:
        UnavailableError: no library, or it does not answer.
    """
    process = _start("list")
    try:
        output, _ = process.communicate(timeout=START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise UnavailableError(
            f"the sound system has not answered for {START_SECONDS:.0f} s: is its server stuck?"
        ) from None
    lines = [line for line in output.splitlines() if line]
    if not lines:
        raise UnavailableError(f"the sound system ended its own process (exit code {process.returncode})")
    event = json.loads(lines[-1])
    if event["event"] == "failed":
        raise _error(event)
    return [DeviceInfo(**row) for row in event["devices"]]


def _start(*arguments: str) -> subprocess.Popen[bytes]:
    # Its own session, so that Ctrl-C reaches us alone and the devices are closed in order.
    try:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            start_new_session=True,
        )
    except OSError as error:
        raise UnavailableError(f"the device process cannot be started: {error.strerror or error}") from error


def _shared_memory(size: int) -> tuple[Path, mmap.mmap]:
    """A new file of so many bytes, and the map of it.

    Raises:
        UnavailableError: there is no room for it.
    """
    path: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix="streamdac-", dir=_shared_folder())
        path = Path(name)
        try:
            # Written, not only reserved: a full disk is an error here and not a crash later.
            with open(handle, "wb", closefd=False) as file:
                file.write(bytes(size))
            return path, mmap.mmap(handle, size)
        finally:
            os.close(handle)
    except BaseException as error:
        if path is not None:
            path.unlink()
        if isinstance(error, OSError):
            raise UnavailableError(f"no memory to share with the device process: {error.strerror or error}") from error
        raise


def _shared_folder() -> str | None:
    """Memory where there is such a folder, else the place for temporary files."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _ready(event: dict[str, Any]) -> dict[str, Any]:
    if event.pop("event") != "ready":
        raise _error(event)
    return event


def _error(event: dict[str, Any]) -> StreamdacError:
    kind, reason = event.get("kind", ""), event["reason"]
    if kind == "UsageError":
        return UsageError(reason)
    if kind == "PortAudioError":
        return UnavailableError(
            f"the device cannot be opened: {reason}; is another program using it? (see `streamdac devices`)"
        )
    return UnavailableError(reason)
