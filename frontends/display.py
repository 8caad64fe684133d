"""The live display: a few lines on a terminal, drawn over again; one line a message elsewhere."""

from __future__ import annotations

import shutil
import textwrap
from typing import TextIO

from .chain import Settings
from .live_status import Status, latency_line, trouble_line

_BAR = 30
_LOW_DB = -60.0
HELP = "keys: + - codebooks, m mute, o original or coded, q quit"


class Display:
    """Draws on `stream`; does nothing where that is no terminal, but for messages."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines = 0
        self.active = stream.isatty()

    def draw(self, status: Status) -> None:
        """The state in place of the one before."""
        if not self.active:
            return
        width = shutil.get_terminal_size().columns - 1
        lines = [piece for line in screen(status) for piece in textwrap.wrap(line, max(width, 20))]
        # Up to the first line; each is cleared to its end.
        up = f"\x1b[{self._lines}A" if self._lines else ""
        self._stream.write(up + "".join(f"\r{line}\x1b[K\n" for line in lines))
        self._stream.flush()
        self._lines = len(lines)

    def say(self, text: str) -> None:
        """A message that stays."""
        clear = f"\x1b[{self._lines}A\r\x1b[J" if self._lines else ""
        self._stream.write(f"{clear}{text}\n")
        self._stream.flush()
        self._lines = 0

    def clear(self) -> None:
        """Nothing is left of it."""
        if self._lines:
            self._stream.write(f"\x1b[{self._lines}A\r\x1b[J")
            self._stream.flush()
            self._lines = 0


def screen(status: Status) -> list[str]:
    """The lines of the display."""
    what = "original" if status.original else "coded"
    return [
        f"in   {bar(status.input_db)} {status.input_db:6.1f} dB{'  muted' if status.muted else ''}",
        f"out  {bar(status.output_db)} {status.output_db:6.1f} dB  {what}",
        f"{status.kbps:.2f} kbps with {status.codebooks} codebooks, {status.wire_kbps:.2f} kbps in packets, "
        f"{status.lost_frames} of {status.frames} hops lost",
        f"{status.total_ms:.1f} ms = {latency_line(status.latency)}",
        trouble_line(status),
        HELP,
    ]


def bar(db: float) -> str:
    """A meter from -60 dB to full scale."""
    filled = round(_BAR * min(max(1 - db / _LOW_DB, 0.0), 1.0))
    return "[" + "#" * filled + "-" * (_BAR - filled) + "]"


def press(key: str, settings: Settings, most: int) -> bool:
    """Do what a key means; False where it means the end."""
    if key in ("+", "=", "up"):
        settings.codebooks = min(settings.codebooks + 1, most)
    elif key in ("-", "_", "down"):
        settings.codebooks = max(settings.codebooks - 1, 1)
    elif key == "m":
        settings.muted = not settings.muted
    elif key == "o":
        settings.original = not settings.original
    return key != "q"
