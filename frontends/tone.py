"""`tone:440` or `tone:440,5`: a sine of so many Hz, for so many seconds (without end otherwise), at half of full scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdac.errors import UsageError
from streamdac.frontend import Frontend

if TYPE_CHECKING:
    from streamdac.frontend import Block

AMPLITUDE = 0.5


class Tone:
    """A source without hardware."""

    def __init__(self, hertz: float, seconds: float | None, sample_rate: int, channels: int) -> None:
        self.hertz, self.sample_rate, self.channels = hertz, sample_rate, channels
        self.samples = None if seconds is None else round(seconds * sample_rate)
        self._at = 0

    def read(self, samples: int) -> Block | None:
        """The next samples of the sine."""
        import numpy as np

        if self.samples is not None:
            samples = min(samples, self.samples - self._at)
        if samples <= 0:
            return None
        time = np.arange(self._at, self._at + samples) / self.sample_rate
        self._at += samples
        wave = (AMPLITUDE * np.sin(2 * np.pi * self.hertz * time)).astype(np.float32)
        return np.repeat(wave[:, None], self.channels, axis=1)

    def close(self) -> None:
        """Nothing to let go of."""


def open_source(rest: str, *, sample_rate: int | None = None, channels: int | None = None) -> Tone:
    """`HERTZ[,SECONDS]`; 440 Hz where nothing is said.

    Raises:
        UsageError: not numbers, or out of range.
    """
    hertz, _, seconds = (rest or "440").partition(",")
    try:
        pitch, length = float(hertz), float(seconds) if seconds else None
    except ValueError:
        raise UsageError(f"tone:{rest}: need tone:HERTZ or tone:HERTZ,SECONDS") from None
    rate = sample_rate or 24_000
    if not 0 < pitch < rate / 2 or (length is not None and not 0 <= length < 1e9):
        raise UsageError(f"tone:{rest}: need more than 0 and less than {rate // 2} Hz, and 0 or more seconds")
    return Tone(pitch, length, rate, channels or 1)


frontend = Frontend(open_source=open_source)
