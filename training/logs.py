"""What a run reports: a line on the terminal, JSON lines and TensorBoard scalars in its folder."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from streamdac.errors import OutputError

from .pictures import decibels


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def _grey(decibels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """`[bins, frames]` -> an image `[1, bins, frames]`, low frequencies at the bottom, -100 dB black, -20 dB white."""
    return np.asarray(((decibels[None, ::-1] + 100) / 80).clip(0, 1) * 255, dtype=np.uint8)


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
                self._board = SummaryWriter(str(folder / "tensorboard"))

    def record(self, kind: str, step: int, values: Mapping[str, float | str]) -> None:
        """One line of JSON, and scalars named `kind/...`.

        Raises:
            OutputError: the line cannot be written.
        """
        plain = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}
        try:
            self._lines.write(json.dumps({"kind": kind, "step": step, "time": round(time.time(), 1), **plain}) + "\n")
            self._lines.flush()
        except OSError as error:
            raise OutputError(f"{self._lines.name}: cannot write the log: {error.strerror or error}") from error
        if self._board is not None:
            for key, value in values.items():
                if not isinstance(value, str):
                    self._board.add_scalar(f"{kind}/{key.replace('@', '_at_')}", value, step)

    @property
    def shows(self) -> bool:
        """Whether there is a TensorBoard for clips."""
        return self._board is not None

    def sample(self, name: str, step: int, audio: npt.NDArray[np.float32], sample_rate: int) -> None:
        """A clip `[T]` to listen to in TensorBoard, and its spectrogram."""
        if self._board is not None:
            self._board.add_audio(name, audio.clip(-1, 1)[None], step, sample_rate)
            self._board.add_image(f"{name}-spectrogram", _grey(decibels(audio)), step)

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
        with contextlib.suppress(OSError):  # of a full disk, reported already
            self._lines.close()
        if self._board is not None:
            self._board.close()


class StepMeans:
    """Means of what happened since the last report."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._reset()

    def _reset(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._samples, self._begun = 0, time.monotonic()

    def add(self, values: Mapping[str, float], samples: int) -> None:
        """One step's figures, and the samples it saw."""
        self._rows.append(dict(values))
        self._samples += samples

    def take(self) -> tuple[dict[str, float], float]:
        """Means, and audio-seconds per second of wall time."""
        names = self._rows[-1]
        means = {name: float(np.mean([row[name] for row in self._rows if name in row])) for name in names}
        rate = self._samples / self._sample_rate / max(1e-9, time.monotonic() - self._begun)
        self._reset()
        return means, rate
