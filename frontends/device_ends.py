"""Microphone and loudspeaker as a source and a sink that any command takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from streamdac.errors import UnavailableError

from .device_config import Plan
from .device_stream import DeviceStream
from .rings import CAPACITY

if TYPE_CHECKING:
    from streamdac.frontend import Block

BUFFER_SECONDS = 0.04  # kept before the loudspeaker: what a busy machine may sleep
_PATIENCE = 0.25  # s between looks at the device
_MOST = CAPACITY // 4  # samples at once, in and out: of more than twice as many a ring skips the oldest


class Microphone:
    """A capture device at the rate that was asked for; where the device refuses it, converted with little delay."""

    live = True
    samples: int | None = None

    def __init__(self, name: str, *, sample_rate: int, channels: int) -> None:
        from .varirate import VariableResampler

        self.sample_rate, self.channels = sample_rate, channels
        self._stream = DeviceStream(Plan(name, None, sample_rate, channels, ""))
        rate = self._stream.input_rate
        self._resampler = None if rate == sample_rate else VariableResampler(rate, sample_rate, channels)
        self._ratio = rate / sample_rate
        self._ring = self._stream.capture
        self._rest: Block = np.zeros((0, channels), np.float32)  # what the resampler gave beyond the last read

    @property
    def latency(self) -> float:
        """Seconds by which the device says that it is late."""
        return self._stream.opened.input_latency_ms / 1000

    def read(self, samples: int) -> Block | None:
        """The next `samples` or fewer, once they have been spoken.

        Raises:
            UnavailableError: the device is gone.
        """
        while not len(self._rest):
            block = self._take(min(max(1, round(samples * self._ratio)), _MOST))
            self._rest = block if self._resampler is None else self._resampler.push(block)
        block, self._rest = self._rest[:samples], self._rest[samples:]
        return block

    def close(self) -> None:
        """Let go of the device."""
        self._stream.close()

    def _take(self, samples: int) -> Block:
        while True:
            self._ring.bell = self._ring.read_position + samples
            if (block := self._ring.take(samples)) is not None:
                return block
            if not self._stream.wait(_PATIENCE) and (reason := self._stream.trouble()):
                raise UnavailableError(f"the microphone is gone: {reason}")


class Loudspeaker:
    """A playback device that takes blocks at any rate and gives the pace: `write` waits until there is room."""

    live = True

    def __init__(self, name: str, *, sample_rate: int, channels: int) -> None:
        from .varirate import VariableResampler

        self._stream = DeviceStream(Plan(None, name, sample_rate, channels, ""))
        rate = self._rate = self._stream.output_rate
        self._resampler = None if rate == sample_rate else VariableResampler(sample_rate, rate, channels)
        self._ring = self._stream.playback
        self._target = min(round(BUFFER_SECONDS * rate), _MOST)
        self._channels = channels

    @property
    def latency(self) -> float:
        """Seconds from `write` to the sound: what is kept, and what the device adds by its own account."""
        return BUFFER_SECONDS + self._stream.opened.output_latency_ms / 1000

    def write(self, block: Block) -> None:
        """Queue it, part by part, and return once less than 40 ms are waiting.

        Raises:
            UnavailableError: the device is gone.
        """
        if self._resampler is not None:
            block = self._resampler.push(block)
        for start in range(0, len(block), _MOST):
            self._ring.write(block[start : start + _MOST], time.perf_counter())
            if self._ring.level >= self._target:
                self._ring.prime()
            self._wait(self._target)

    def close(self, *, complete: bool = True) -> None:
        """Play the rest and let go of the device."""
        try:
            if complete and self._resampler is not None:
                silence = np.zeros((self._resampler.delay, self._channels), np.float32)
                self._ring.write(self._resampler.push(silence), time.perf_counter())
            if complete:
                self._wait(0)
                time.sleep(self._stream.opened.output_latency_ms / 1000)
        finally:
            self._stream.close()

    def _wait(self, samples: int) -> None:
        while (excess := self._ring.level - samples) > 0:
            time.sleep(min(_PATIENCE, excess / self._rate))
            if reason := self._stream.trouble():
                raise UnavailableError(f"the loudspeaker is gone: {reason}")
