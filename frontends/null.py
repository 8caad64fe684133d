"""`null:` as a sink takes everything and keeps nothing; as a source, `null:SECONDS` is silence."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdac.errors import UsageError
from streamdac.frontend import Frontend

if TYPE_CHECKING:
    from streamdac.frontend import Block


class NullSink:
    """Counts what it is given."""

    def __init__(self) -> None:
        self.written = 0

    def write(self, block: Block) -> None:
        """Count and forget."""
        self.written += len(block)

    def close(self, *, complete: bool = True) -> None:
        """Nothing to let go of."""


class Silence:
    """Zeros, for so many seconds or without end."""

    def __init__(self, seconds: float | None, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self.samples = None if seconds is None else round(seconds * sample_rate)
        self._at = 0

    def read(self, samples: int) -> Block | None:
        """Zeros."""
        import numpy as np

        if self.samples is not None:
            samples = min(samples, self.samples - self._at)
        self._at += max(samples, 0)
        return np.zeros((samples, self.channels), np.float32) if samples > 0 else None

    def close(self) -> None:
        """Nothing to let go of."""


def open_source(rest: str, *, sample_rate: int | None = None, channels: int | None = None) -> Silence:
    """Silence.

    Raises:
        UsageError: `rest` is not a number of seconds.
    """
    try:
        seconds = float(rest) if rest else None
    except ValueError:
        seconds = -1.0
    if seconds is not None and not 0 <= seconds < 1e9:
        raise UsageError(f"null:{rest}: need null: or null:SECONDS")
    return Silence(seconds, sample_rate or 24_000, channels or 1)


def open_sink(rest: str, *, sample_rate: int, channels: int, force: bool = False) -> NullSink:
    """A sink that forgets.

    Raises:
        UsageError: something stands after the colon.
    """
    if rest:
        raise UsageError(f"null:{rest}: a null sink takes no argument")
    return NullSink()


frontend = Frontend(open_source=open_source, open_sink=open_sink)
