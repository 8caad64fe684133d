"""Measured latency: clicks go the whole way and are looked for in what comes back.

The clicks take the place of what the microphone hears, and pass everything that audio passes: hop, codec (whose work is done,
while the original is played: it is as late as the coded audio, and a click stays a click), rings, devices, cable or air.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from streamdac.errors import UnavailableError

from .bridge import Process

Block = npt.NDArray[np.float32]  # [T, C]

_CLICK_SECONDS = 0.006
_LEVEL = 0.5
_ENOUGH = 0.25  # of a perfect correlation
_QUIET_SECONDS = 1.0  # before the first click
_EVERY_SECONDS = 0.75  # the longest round trip that is found
_TRIES = 0.5  # of the clicks have to come back


@dataclass(frozen=True)
class Measured:
    """Round trips in ms."""

    round_trip_ms: float
    """The median."""
    least_ms: float
    most_ms: float
    found: int
    sent: int


class Probe:
    """Stands around a chain: clicks in, what came back kept.

    Args:
        process: the chain.
        sample_rate: the model's, Hz.
        clicks: how many.
    """

    def __init__(self, process: Process, *, sample_rate: int, clicks: int, channels: int = 1) -> None:
        self.process, self.sample_rate, self.clicks = process, sample_rate, clicks
        samples = round((_QUIET_SECONDS + clicks * _EVERY_SECONDS) * sample_rate)
        self._sent: Block = np.zeros((samples, channels), np.float32)
        self._heard: npt.NDArray[np.float32] = np.zeros(samples, np.float32)
        noise = np.random.default_rng(7).standard_normal(round(_CLICK_SECONDS * sample_rate))
        # Band-limited, so that no converter on the way changes its shape.
        spectrum = np.fft.rfft(noise)
        spectrum[len(spectrum) // 2 :] = 0
        click = np.fft.irfft(spectrum, len(noise)) * np.hanning(len(noise))
        self._click = (_LEVEL * click / np.abs(click).max()).astype(np.float32)
        self._starts = [round((_QUIET_SECONDS + k * _EVERY_SECONDS) * sample_rate) for k in range(clicks)]
        for start in self._starts:
            self._sent[start : start + len(self._click)] = self._click[:, None]
        self._at = 0

    @property
    def done(self) -> bool:
        """Whether the last click had its time."""
        return self._at >= len(self._heard)

    def push(self, block: Block) -> Block:
        """`block` is kept, clicks go on in its place."""
        here = slice(self._at, min(self._at + len(block), len(self._heard)))
        count = here.stop - here.start
        self._heard[here] = block[:count].mean(axis=1)
        clicks = np.zeros_like(block)
        clicks[:count] = self._sent[here]
        self._at = here.stop
        return self.process.push(clicks)

    def result(self) -> Measured:
        """What was found.

        Raises:
            UnavailableError: less than half of the clicks came back.
        """
        trips = [trip for start in self._starts if (trip := self._find(start)) is not None]
        if len(trips) < max(1, _TRIES * self.clicks):
            raise UnavailableError(
                f"{len(trips)} of {self.clicks} clicks came back: join output and input by a cable, or turn the "
                "loudspeaker up beside the microphone"
            )
        return Measured(float(np.median(trips)), min(trips), max(trips), len(trips), self.clicks)

    def _find(self, start: int) -> float | None:
        """ms after `start` at which the click is heard best; None if it is not."""
        heard = self._heard[start : start + round(_EVERY_SECONDS * self.sample_rate)].astype(np.float64)
        click = self._click.astype(np.float64)
        if len(heard) <= len(click):
            return None
        match = np.correlate(heard, click, "valid")
        power = np.convolve(heard**2, np.ones(len(click)), "valid")
        # Silence divides to nothing; a polarity that is turned round is found as well.
        score = np.abs(match) / np.sqrt(np.maximum(power, 1e-9) * float(np.sum(click**2)))
        best = int(np.argmax(np.abs(match) * (score > _ENOUGH)))
        if score[best] <= _ENOUGH:
            return None
        return 1000 * (best + _vertex(np.abs(match), best)) / self.sample_rate


def _vertex(values: npt.NDArray[np.float64], peak: int) -> float:
    """Where between samples the parabola through a peak is highest."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    before, top, after = values[peak - 1 : peak + 2]
    bend = before - 2 * top + after
    return float(0.5 * (before - after) / bend) if bend else 0.0
