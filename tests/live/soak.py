"""Runs `live` beside a bare pass-through client, and compares their xruns: python -m tests.live.soak SECONDS [RATE [PERIOD]]

A JSON line for every half minute: xruns of both, memory and latency of `live`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from .jack import Jack, why_not

BARE = """
import sounddevice as sd, sys
count = [0, 0]
def callback(indata, outdata, frames, timing, status):
    outdata[:] = indata
    count[0] += 1
    count[1] += bool(status)
with sd.Stream(channels=1, latency="low", callback=callback):
    for line in sys.stdin:
        print(*count, flush=True)
"""


def rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(seconds: str, rate: str = "48000", period: str = "128") -> None:
    if reason := why_not():
        sys.exit(reason)
    server = Jack(rate=int(rate), period=int(period))
    server.start()
    os.environ |= server.environment
    bare = subprocess.Popen([sys.executable, "-c", BARE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    command = [sys.executable, "-m", "streamdac", "live", "--mic", "--json", "--seconds", seconds]
    live = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert bare.stdin is not None
    assert bare.stdout is not None
    assert live.stdout is not None
    try:
        start, said = None, 0.0
        for line in live.stdout:
            status = json.loads(line)
            bare.stdin.write("\n")
            bare.stdin.flush()
            callbacks, xruns = map(int, bare.stdout.readline().split())
            if start is None:
                start = (callbacks, xruns, status["xruns"])
            if time.monotonic() - said >= 30 or status.get("final"):
                said = time.monotonic()
                memory = 0.0 if status.get("final") else rss_mb(live.pid)
                keys = ("seconds", "underruns", "underrun_ms", "overruns", "corrections", "added_p50_ms", "added_p99_ms",
                        "compute_p99_ms", "target_ms")  # fmt: skip
                row = {key: status[key] for key in keys}
                row |= {"live_xruns": status["xruns"] - start[2], "bare_xruns": xruns - start[1]}
                print(json.dumps({**row, "callbacks": callbacks - start[0], "memory_mb": memory}), flush=True)
        print("exit code", live.wait())
    finally:
        bare.kill()
        live.kill()
        server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
