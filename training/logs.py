"""What a run reports: a line on the terminal, JSON lines and TensorBoard scalars in its folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class RunLog:
    """Writes to `log.jsonl`, TensorBoard (if installed) and the terminal. Only the first process has one."""

    def __init__(self, folder: Path, *, tensorboard: bool = True, terminal: TextIO | None = None) -> None:
        self._terminal = sys.stderr if terminal is None else terminal
        self._lines = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._board: Any = None
        self._open_line = False
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.say("note: tensorboard is not installed, scalars go to log.jsonl only")
            else:
                self._board = SummaryWriter(str(folder / "tensorboard"))  # type: ignore[no-untyped-call]

    def record(self, kind: str, step: int, values: Mapping[str, float | str]) -> None:
        """One line of JSON, and scalars named `kind/...`."""
        plain = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}
        self._lines.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 1), **plain}) + "\n")
        self._lines.flush()
        if self._board is not None:
            for key, value in values.items():
                if not isinstance(value, str):
                    self._board.add_scalar(f"{kind}/{key.replace('@', '_at_')}", value, step)

    def progress(self, step: int, values: Mapping[str, float], rate: float, left: float | None) -> None:
        """One line, rewritten in place on a terminal."""
        parts = " ".join(f"{key} {value:.3f}" for key, value in values.items())
        text = f"step {step} | {parts} | {rate:.1f} audio-s/s | {'-' if left is None else _clock(left)} left"
        if self._terminal.isatty():
            self._terminal.write(f"\r\x1b[K{text}")
            self._open_line = True
        else:
            self._terminal.write(text + "\n")
        self._terminal.flush()

    def say(self, text: str) -> None:
        """A line of its own."""
        self._terminal.write(("\n" if self._open_line else "") + text + "\n")
        self._terminal.flush()
        self._open_line = False

    def close(self) -> None:
        """Close the files."""
        if self._open_line:
            self._terminal.write("\n")
        self._lines.close()
        if self._board is not None:
            self._board.close()
