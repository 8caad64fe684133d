"""Opus beside our codec: clips through `opusenc` and `opusdec`, with the bits that the packets really hold."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from streamdac.errors import BadDataError, UnavailableError

Signal = npt.NDArray[np.float32]  # [T]

OPUSENC_KBPS = (5.0, 256.0)
"""What `opusenc` can be asked for, of one channel: below the first it gives no less."""

_HEADER_PACKETS = 2  # identification and comment (RFC 7845)


@dataclass(frozen=True)
class OpusClip:
    """One clip after Opus."""

    audio: Signal
    bits: int
    """In the audio packets, without Ogg's own bytes."""


def require_opus() -> None:
    """Raises UnavailableError where the tools are missing."""
    if missing := [tool for tool in ("opusenc", "opusdec") if shutil.which(tool) is None]:
        raise UnavailableError(f"{' and '.join(missing)} not found (Debian: apt-get install opus-tools)")


def through_opus(audio: Signal, rate: int, kbps: float) -> OpusClip:
    """`[T]` at `rate` Hz, coded at a nominal bitrate; the same length and rate come back.

    Raises:
        UnavailableError: the tools are missing or fail.
    """
    require_opus()
    with tempfile.TemporaryDirectory() as folder:
        original, packed, decoded = (Path(folder) / name for name in ("in.wav", "coded.opus", "out.wav"))
        soundfile.write(original, audio, rate, subtype="FLOAT")
        _run("opusenc", "--quiet", "--bitrate", f"{kbps:g}", "--discard-comments", str(original), str(packed))
        _run("opusdec", "--quiet", "--float", "--rate", str(rate), str(packed), str(decoded))
        result, _ = soundfile.read(decoded, dtype="float32")
        bits = packet_bits(packed.read_bytes())
    fitted = np.zeros_like(audio)
    samples = min(len(audio), len(result))
    fitted[:samples] = result[:samples]
    return OpusClip(fitted, bits)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise UnavailableError(f"{command[0]} failed: {(result.stderr.strip().splitlines() or ['no message'])[-1]}")


def packet_bits(ogg: bytes) -> int:
    """Bits in the audio packets of an Ogg Opus file (RFC 3533: 27 bytes of page header, then a table of segment lengths).

    Raises:
        BadDataError: it is no Ogg file.
    """
    packets: list[int] = []
    held = place = 0
    while place < len(ogg):
        if ogg[place : place + 4] != b"OggS" or place + 27 > len(ogg):
            raise BadDataError(f"no Ogg page at byte {place}")
        table = ogg[place + 27 : place + 27 + ogg[place + 26]]
        for length in table:
            held += length
            if length < 255:
                packets.append(held)
                held = 0
        place += 27 + len(table) + sum(table)
    return 8 * sum(packets[_HEADER_PACKETS:])
