"""Files of any length in constant memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from .models import SUBSET

RATE = 24_000
MINUTES = (1, 15)
MORE_BYTES = 60 << 20  # the longer file decoded has 86 MB as float32


def peak_bytes(*arguments: str) -> int:
    """Of a process of its own; the system counts kilobytes."""
    options = ("-q", "--weights_path", str(SUBSET.weights("m24")))
    with subprocess.Popen([sys.executable, "-m", "streamdac", *arguments, *options]) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss << 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units elsewhere")
def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    second = np.random.default_rng(0).uniform(-0.3, 0.3, RATE).astype(np.float32)
    peaks = []
    for minutes in MINUTES:
        clip, archive, back = (str(tmp_path / f"{minutes}.{suffix}") for suffix in ("wav", "dac", "back.wav"))
        with soundfile.SoundFile(clip, "w", RATE, 1, "PCM_16") as file:
            for _ in range(60 * minutes):
                file.write(second)
        peaks.append(
            [
                peak_bytes("encode", clip, "-o", archive),
                peak_bytes("encode", clip, "-o", archive, "--win_duration", "5", "-f"),
                peak_bytes("decode", archive, "-o", back),
            ]
        )
        assert soundfile.info(back).frames == 60 * minutes * RATE
    for short, long in zip(*peaks, strict=True):
        assert long - short < MORE_BYTES
