"""Memory does not grow with the length of what is coded."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from .models import RATE

SHORT, LONG = 10, 20 * 60  # seconds
MORE = 24 << 10  # KiB that a longer run may take: buffers that settle, nothing like the 115 MB of 20 minutes


def peak(process: subprocess.Popen[bytes]) -> int:
    """KiB of resident memory at most, once it has ended well."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss


def peaks(weights: Path, folder: Path, seconds: int, *, pipe: bool) -> tuple[int, int]:
    """Of encoding and decoding so much audio: from file to file, or converted from 16 kHz through pipes."""
    program = [sys.executable, "-m", "streamdac"]
    model = ["--model", str(weights), "--threads", "1", "-f"]
    if not pipe:
        tone, coded, wav = f"tone:440,{seconds}", str(folder / "a.sdac"), str(folder / "a.wav")
        steps = (["encode", tone, "-o", coded], ["decode", coded, "-o", wav], ["encode", wav, "-o", coded])
        made = [peak(subprocess.Popen([*program, *step, *model])) for step in steps]
        return max(made[0], made[2]), made[1]
    raw = ["--raw", "s16le", "--rate", "16000"]
    with (
        subprocess.Popen(
            [*program, "encode", "-", "-o", "-", *raw, *model], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as encode,
        subprocess.Popen([*program, "decode", "-", "-o", "null:", *model], stdin=encode.stdout) as decode,
    ):
        assert encode.stdin is not None
        assert encode.stdout is not None
        encode.stdout.close()
        threading.Thread(target=feed, args=(encode, seconds)).start()
        return peak(encode), peak(decode)


def feed(encode: subprocess.Popen[bytes], seconds: int) -> None:
    assert encode.stdin is not None
    with encode.stdin as pipe:
        for _ in range(seconds):
            pipe.write(os.urandom(2 * 16_000))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4")
@pytest.mark.parametrize("pipe", [False, True], ids=["files", "pipes"])
def test_twenty_minutes_take_the_memory_of_ten_seconds(weights: Path, tmp_path: Path, pipe: bool) -> None:
    short = peaks(weights, tmp_path, SHORT, pipe=pipe)
    long = peaks(weights, tmp_path, LONG, pipe=pipe)
    assert LONG * RATE * 4 > 4 * MORE << 10
    assert max(after - before for before, after in zip(short, long, strict=True)) < MORE, (short, long)
