"""Microphone and loudspeaker as a source and a sink that any command takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
import numpy as np

from streamdac.errors import UnavailableError, UsageError

from .device_config import Plan
from .device_stream import DeviceStream
from .rings import CAPACITY, RingCounts

if TYPE_CHECKING:
    from streamdac.frontend import Block

    from .varirate import VariableResampler

BUFFER_SECONDS = 0.04  # kept before the loudspeaker: what a busy machine may sleep
_PATIENCE = 0.25  # s between looks at the device
_MOST = CAPACITY // 4  # samples at once, in and out: of more than twice as many a ring skips the oldest


def _resampler(stream: DeviceStream, rate_in: int, rate_out: int, channels: int) -> VariableResampler | None:
    """None where none is needed; the stream is closed where there can be none."""
    from .varirate import VariableResampler

    try:
        return None if rate_in == rate_out else VariableResampler(rate_in, rate_out, channels)
    except UsageError:
        stream.close()
        raise


class Microphone:
    """A capture device at the rate that was asked for; where the device refuses it, converted with little delay.

    What a late reader has let pass comes as silence, so that time stays right; or `take_lost` tells a reader of it.
    """

    live = True
    samples: int | None = None

    def __init__(self, name: str, *, sample_rate: int, channels: int) -> None:
        self.sample_rate, self.channels = sample_rate, channels
        self._stream = DeviceStream(Plan(name, None, sample_rate, channels, ""))
        rate = self._stream.input_rate
        self._resampler = _resampler(self._stream, rate, sample_rate, channels)
        self._ratio = rate / sample_rate
        self._ring = self._stream.capture
        nothing: Block = np.zeros((0, channels), np.float32)
        self._rest = nothing  # what the resampler gave beyond the last read
        self._before: RingCounts | None = None  # of what went by until the first read
        # Samples of the device: dropped by the ring as far as was seen, those that nothing stands for yet, and what follows them.
        self._dropped = self._gap = 0
        self._after = nothing
        self._fraction = 0.0  # of a sample of ours, lost and not told

    @property
    def latency(self) -> float:
        """Seconds by which the device says that it is late."""
        return self._stream.opened.input_latency_ms / 1000

    def read(self, samples: int) -> Block | None:
        """The next `samples` or fewer, once they have been spoken; zeros for those that were lost.

        Raises:
            UnavailableError: the device is gone.
        """
        while not len(self._rest):
            block = self._take(min(max(1, round(samples * self._ratio)), _MOST))
            self._rest = block if self._resampler is None else self._resampler.push(block)
        block, self._rest = self._rest[:samples], self._rest[samples:]
        return block

    def take_lost(self) -> int:
        """Samples lost since the last call; they will not be given as zeros."""
        self._look()
        exact = self._gap / self._ratio + self._fraction
        self._gap, self._fraction = 0, exact % 1
        return int(exact)

    def close(self) -> None:
        """Let go of the device, and say what was lost."""
        self._stream.close()
        if self._before is None:
            return
        counts = self._ring.counts
        seconds = (counts.dropped - self._before.dropped) / self._stream.input_rate
        if times := counts.overruns - self._before.overruns:
            what = f"{seconds:.2f} s of the microphone were lost" + (f", {times} times" if times > 1 else "")
            click.echo(f"streamdac: {what}: its audio was not taken in time", err=True)

    def _look(self) -> None:
        """For what the ring has dropped: a gap, and what is there now comes after it."""
        if len(self._after):
            return
        self._ring.skip()
        if self._before is None:
            self._before = self._ring.counts
            self._dropped = self._before.dropped
        if new := self._ring.counts.dropped - self._dropped:
            self._dropped += new
            self._gap += new
            # Taken now: whoever is slow would lose it while the zeros go by, and hear nothing else ever after.
            if (after := self._ring.take(self._ring.limit // 2)) is not None:
                self._after = after

    def _take(self, samples: int) -> Block:
        """The next of the device."""
        while True:
            self._look()
            if self._gap:
                samples = min(samples, self._gap)
                self._gap -= samples
                return np.zeros((samples, self.channels), np.float32)
            if len(self._after):
                given, self._after = self._after[:samples], self._after[samples:]
                return given
            self._ring.bell = self._ring.read_position + samples
            if (block := self._ring.take(samples)) is not None:
                return block
            if not self._stream.wait(_PATIENCE) and (reason := self._stream.trouble()):
                raise UnavailableError(f"the microphone is gone: {reason}")


class Loudspeaker:
    """A playback device that takes blocks at any rate and gives the pace: `write` waits until there is room."""

    live = True

    def __init__(self, name: str, *, sample_rate: int, channels: int) -> None:
        self._stream = DeviceStream(Plan(None, name, sample_rate, channels, ""))
        rate = self._rate = self._stream.output_rate
        self._resampler = _resampler(self._stream, sample_rate, rate, channels)
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
