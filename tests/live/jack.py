"""A JACK server without hardware, and what tests need of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from ctypes.util import find_library


def why_not() -> str | None:
    """Why there can be no server here; None if there can."""
    missing = [name for name in ("jackd", "jack_connect", "jack_lsp") if shutil.which(name) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install jackd2 jack-example-tools"
    return None if find_library("portaudio") else "no PortAudio library: apt-get install libportaudio2"


class Jack:
    """One server with the dummy driver, under a name of its own."""

    def __init__(self, *, rate: int = 24_000, period: int = 256) -> None:
        # One name: a server that was killed leaves its place in JACK's registry, which has eight, to the next of that name.
        self.name = f"streamdac{os.getpid()}"
        self.rate, self.period = rate, period
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """For its clients."""
        return {"JACK_DEFAULT_SERVER": self.name, "JACK_NO_START_SERVER": "1", "JACK_NO_AUDIO_RESERVATION": "1"}

    def start(self) -> None:
        """Started, and taking clients."""
        # Synchronous: jackd 1.9.21 otherwise trips over clients that leave. Few ports, unlocked: containers have little shared
        # memory. The time-out is for a busy machine.
        command = ["jackd", "-r", "-S", "-m", "-p", "64", "-t", "5000", "-n", self.name, "-d", "dummy"]
        self.process = subprocess.Popen(
            [*command, "-r", str(self.rate), "-p", str(self.period), "-C", "1", "-P", "2"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **self.environment},
        )  # fmt: skip
        deadline = time.monotonic() + 20
        while not self.ports():
            assert time.monotonic() < deadline, "jackd does not start: is its registry full (/dev/shm/jack*)?"
            time.sleep(0.1)

    def kill(self) -> None:
        """Gone at once, as after a crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Gone in order. One that was killed is started again first: else its place among JACK's eight stays taken."""
        assert self.process is not None
        if self.process.poll() is not None:
            self.start()
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
            return
        self.kill()

    def ports(self) -> list[str]:
        """Their names."""
        return self._run("jack_lsp").stdout.decode().split()

    def connect(self, source: str, target: str) -> None:
        """Patch two ports."""
        done = self._run("jack_connect", source, target)
        assert done.returncode == 0, done.stderr

    def _run(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, capture_output=True, env=environment, timeout=30, check=False)
