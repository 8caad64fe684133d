"""From the capture ring through the codec to the playback ring, hop by hop. No threads, no devices: called with the time.

Knows for each sample when it was captured and when it will be played, and so the delay: by counting where both ends have
one clock, by the stamps of their callbacks where they have two.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .delay_control import DelayControl
from .figures import Histogram
from .rings import Ring
from .varirate import VariableResampler

Block = npt.NDArray[np.float32]  # [T, C]

_SETTLED = 8  # hops after which the delay has found its place
_CROSSFADE = 0.002  # s, where audio is cut out


class Process(Protocol):
    """What turns blocks at the model's rate into blocks: a `Chain`."""

    def push(self, block: Block) -> Block:
        """The audio now complete."""
        ...


@dataclass(frozen=True)
class Geometry:
    """Rates in Hz, the rest in samples of the model's rate."""

    input_rate: int
    output_rate: int
    model_rate: int
    hop: int
    lookahead: int
    channels: int
    one_clock: bool


@dataclass
class Delays:
    """Where the time goes between the two rings, ms a hop."""

    wait: Histogram = field(default_factory=Histogram)
    """From a hop's last sample being there to the worker taking it."""
    compute: Histogram = field(default_factory=Histogram)
    added: Histogram = field(default_factory=Histogram)
    """In all, from ring to ring: what the software adds to the devices' own delay."""


class Bridge:
    """One run between two rings.

    Args:
        margin: seconds beyond a hop, look-ahead and conversion for compute and for a busy machine.
        clock: gives the time of stamps; the simulated one in tests.
    """

    def __init__(
        self,
        geometry: Geometry,
        capture: Ring,
        playback: Ring,
        process: Process,
        *,
        margin: float,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.geometry, self.process = geometry, process
        self._capture, self._playback, self._clock = capture, playback, clock
        g = geometry
        self._in = None if g.input_rate == g.model_rate else VariableResampler(g.input_rate, g.model_rate, g.channels)
        varies = not g.one_clock or g.output_rate != g.model_rate
        self._out = VariableResampler(g.model_rate, g.output_rate, g.channels) if varies else None
        self._control = DelayControl(self.least + margin, one_clock=g.one_clock)
        self.delays = Delays()
        self.corrections = 0
        """Cuts and insertions after trouble."""
        self._start: int | None = None  # of the stream in the capture's count, samples
        self._hops = 0
        self._given = 0  # samples of the model's rate that came out of the process
        self._silence: Block = np.zeros((g.output_rate, g.channels), np.float32)
        capture.limit = g.input_rate // 4
        playback.limit = g.output_rate // 2

    @property
    def conversion(self) -> float:
        """Seconds that the two converters hold back."""
        g = self.geometry
        seconds = 0.0 if self._in is None else self._in.delay / g.input_rate
        return seconds + (0.0 if self._out is None else self._out.delay / g.model_rate)

    @property
    def least(self) -> float:
        """Seconds that a sample takes on an infinitely fast machine: hop, look-ahead, conversion."""
        return (self.geometry.hop + self.geometry.lookahead) / self.geometry.model_rate + self.conversion

    @property
    def drift_ppm(self) -> float:
        """How much faster the capture's clock runs."""
        return self._control.drift_ppm

    @property
    def error_ms(self) -> float:
        """The loop's: smoothed distance of the delay from its target."""
        return 1000 * self._control.error

    @property
    def target_ms(self) -> float:
        """Delay between the rings that is held."""
        return 1000 * self._control.target

    def begin(self) -> None:
        """From now on; what was captured before is left out."""
        g = self.geometry
        self._capture.discard()
        self._start = self._capture.read_position - self._capture.counts.dropped
        lead = 0 if self._in is None else self._in.delay
        self._need = ceil(g.hop * g.input_rate / g.model_rate) + lead
        self._capture.bell = self._capture.read_position + self._need

    def step(self) -> bool:
        """Carry one hop over; False, with the bell set, where there is none yet."""
        assert self._start is not None, "begin() comes first"
        block = self._capture.take(self._need)
        if block is None:
            return False
        arrived = self._available_at(self._capture.read_position)
        began = self._clock()
        self._hops += 1
        self._need = self._boundary(self._hops + 1) - self._boundary(self._hops)
        self._capture.bell = self._capture.read_position + self._need
        audio = self.process.push(block if self._in is None else self._in.push(block))
        if len(audio):
            ended = self._clock()
            self._queue(audio)
            self.delays.wait.add(1000 * max(0.0, began - arrived))
            self.delays.compute.add(1000 * (ended - began))
        return True

    def _boundary(self, hops: int) -> int:
        """Input samples of so many hops."""
        return hops * self.geometry.hop * self.geometry.input_rate // self.geometry.model_rate

    def _queue(self, audio: Block) -> None:
        """To the playback ring, at the right time."""
        g, ring, control = self.geometry, self._playback, self._control
        position = float(self._given) if self._out is None else self._out.position
        self._given += len(audio)
        # Measured before anything else, as the reader goes on meanwhile.
        delay = self._delay(position / g.model_rate)
        if delay is None:
            if self._out is not None:
                self._out.push(audio)
            return
        counts = ring.counts
        decision = control.decide(delay, counts.underruns, counts.filled / g.output_rate, self._clock())
        if self._out is not None:
            self._out.speed = control.speed
            audio = self._out.push(audio)
        if insert := round(decision.insert * g.output_rate):
            ring.write(self._silence[:insert], self._clock())
            self.corrections += self._hops > _SETTLED
        if drop := round(decision.drop * g.output_rate):
            audio = cut(audio, drop, round(_CROSSFADE * g.output_rate))
            self.corrections += self._hops > _SETTLED
        ring.write(audio, self._clock())
        ring.prime()
        self.delays.added.add(1000 * (delay + (insert - drop) / g.output_rate))

    def _delay(self, seconds: float) -> float | None:
        """Of a sample captured so many seconds after the start, if it were queued now; None before the first callback."""
        assert self._start is not None
        g, ring = self.geometry, self._playback
        captured = self._start + self._capture.counts.dropped + seconds * g.input_rate
        clock = ring.written + ring.offset
        if g.one_clock:
            return clock / g.output_rate - captured / g.input_rate
        stamp = ring.read_stamp()
        if stamp is None:
            return None
        return stamp[1] + (clock - stamp[0]) / g.output_rate - self._captured_at(captured)

    def _available_at(self, position: int) -> float:
        """The time at which the callback brought the sample before that position."""
        stamp = self._capture.write_stamp()
        written = self._capture.written
        return self._clock() if stamp is None else stamp[1] - (written - position) / self.geometry.input_rate

    def _captured_at(self, position: float) -> float:
        """The time at which the capture's count was that."""
        stamp = self._capture.write_stamp()
        if stamp is None:
            return self._clock()
        return stamp[1] + (position - stamp[0]) / self.geometry.input_rate


def cut(block: Block, samples: int, fade: int) -> Block:
    """`block` without `samples` of it, what comes before and after faded into each other."""
    if samples >= len(block):
        return block[:0]
    rest = block[samples:].copy()
    n = min(fade, len(rest))
    share = np.linspace(0, 1, n, dtype=np.float32)[:, None]
    rest[:n] = block[:n] * (1 - share) + rest[:n] * share
    return rest
