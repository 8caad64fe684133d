"""Two devices with clocks of their own around a bridge, in simulated time."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from streamdac.frontends.bridge import Bridge, Geometry
from streamdac.frontends.rings import Ring

Block = npt.NDArray[np.float32]
RATE, HOP = 24_000, 320


class Through:
    """In place of the codec: gives what it gets, in whole hops."""

    def __init__(self) -> None:
        self._held: Block = np.zeros((0, 1), np.float32)

    def push(self, block: Block) -> Block:
        held = np.concatenate([self._held, block])
        whole = len(held) // HOP * HOP
        self._held = held[whole:]
        return held[:whole]


def ramp(first: int, samples: int) -> Block:
    """Audio that says when it was captured: a triangle of 2 s, so that it never jumps."""
    phase = (np.arange(first, first + samples) % (2 * RATE)) / (2 * RATE)
    return np.abs(2 * phase - 1).astype(np.float32)[:, None]


@dataclass
class Devices:
    """Callbacks of `block` samples, each late by up to `jitter` s; the input's clock is fast by `ppm`."""

    ppm: float = 0.0
    block: int = 240
    jitter: float = 0.001
    work: float = 0.004  # s that a hop takes
    margin: float = 0.03
    one_clock: bool = False
    rate: int = RATE
    signal: Callable[[int, int], Block] = ramp
    now: float = 0.0
    played: list[Block] = field(default_factory=list)
    keep: bool = True
    filled: float = 0.0
    """Level of the playback ring, integrated over time: samples * s. At callbacks alone it would beat with the hops."""

    def __post_init__(self) -> None:
        self.capture, self.playback = Ring(1), Ring(1)
        geometry = Geometry(self.rate, self.rate, RATE, HOP, 0, 1, self.one_clock)
        self.bridge = Bridge(
            geometry, self.capture, self.playback, Through(), margin=self.margin, clock=lambda: self.now
        )
        self._random = random.Random(1)
        self._captured = 0
        self._out: Block = np.zeros((self.block, 1), np.float32)
        self._events: list[tuple[float, int]] = []
        self._ideal = [0.0, 0.0037]
        self._stall = 0.0
        self._busy = 0.0
        for kind in (0, 1) if not self.one_clock else (0,):
            heapq.heappush(self._events, (self._ideal[kind], kind))
        self.bridge.begin()

    def stall(self, seconds: float) -> None:
        """The worker sleeps."""
        self._busy = max(self._busy, self.now) + seconds

    def run(self, seconds: float) -> Iterator[float]:
        """Gives the time after each callback of the output."""
        end = self.now + seconds
        while self._events[0][0] < end:
            before = self.now
            self.now, kind = heapq.heappop(self._events)
            self.filled += self.playback.level * (self.now - before)
            if kind == 2:
                self.bridge.step()
                continue
            if kind == 0:
                self._input()
            if kind == 1 or self.one_clock:
                self._output()
                yield self.now
            clock = 1 + 1e-6 * self.ppm if kind == 0 else 1.0
            self._ideal[kind] += self.block / (self.rate * clock)
            late = 0.0 if self.one_clock else self._random.random() * self.jitter
            heapq.heappush(self._events, (self._ideal[kind] + late, kind))

    def _input(self) -> None:
        self.capture.write(self.signal(self._captured, self.block), self.now)
        self._captured += self.block
        if self.capture.written >= self.capture.bell:
            # The worker is done when its work is, and one hop after the other.
            self._busy = max(self._busy, self.now) + self.work
            heapq.heappush(self._events, (self._busy, 2))

    def _output(self) -> None:
        self.playback.read_into(self._out, self.now)
        if self.keep:
            self.played.append(self._out.copy())
