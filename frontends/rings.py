"""A ring of audio between one writer and one reader, threads or processes, in memory that never grows.

Neither side ever waits. The reader owns the policy: what is missing is filled with a short fade to silence, what is too
much is skipped, oldest first; both are counted. Each side stamps its calls, so that the other can tell where it stands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]  # [T, C]

CAPACITY = 1 << 16  # samples: 1.4 s at 48 kHz
FADE = 96  # samples, of the fades around an underrun: 2 ms at 48 kHz
_HEADER = 16  # numbers of 8 bytes
_STAMPS = 64  # calls whose times are kept: a reader of them is never that late
(_WRITTEN, _READ, _OFFSET, _UNDERRUNS, _FILLED, _OVERRUNS, _DROPPED, _PRIMED, _LIMIT, _BELL, _XRUNS) = range(11)


@dataclass(frozen=True, slots=True)
class RingCounts:
    """What a ring's reader had to make up for. Samples, but for the first and third."""

    underruns: int
    filled: int
    overruns: int
    dropped: int


def ring_bytes(channels: int) -> int:
    """Memory that one ring takes."""
    return 8 * (_HEADER + 4 * _STAMPS) + 4 * CAPACITY * channels


class Ring:
    """Blocks `[T, C]` float32 in on one side and out on the other.

    Positions count samples from the start: `written` and `read`. The reader's clock counts what it gave, fills included,
    so the sample at position p is given when the clock is p + `offset`.

    Args:
        channels: columns.
        memory: `ring_bytes` of shared memory, zeros at the start; its own where None.
        limit: samples beyond which the oldest are skipped.
    """

    def __init__(self, channels: int, memory: memoryview | None = None, *, limit: int | None = None) -> None:
        memory = memoryview(bytearray(ring_bytes(channels))) if memory is None else memory
        self.channels = channels
        stamps = 8 * _HEADER
        audio = stamps + 32 * _STAMPS
        self._n: npt.NDArray[np.int64] = np.frombuffer(memory, np.int64, _HEADER)
        numbers = np.frombuffer(memory, np.float64, 4 * _STAMPS, stamps).reshape(2, _STAMPS, 2)
        self._write_stamps, self._read_stamps = numbers
        self._audio: Block = np.frombuffer(memory, np.float32, CAPACITY * channels, audio).reshape(CAPACITY, channels)
        self._last: Block = np.zeros((1, channels), np.float32)  # given before a fill
        self._falling: Block = np.linspace(1, 0, FADE, dtype=np.float32)[:, None]
        self._rising: Block = self._falling[::-1].copy()
        self._dry = True  # nothing was given yet, or the last sample given was a fill
        self._writes = self._reads = 0
        if limit is not None:
            self.limit = limit

    @property
    def limit(self) -> int:
        """Samples held beyond which the reader skips the oldest."""
        return int(self._n[_LIMIT]) or CAPACITY // 2

    @limit.setter
    def limit(self, samples: int) -> None:
        self._n[_LIMIT] = min(samples, CAPACITY // 2)

    @property
    def written(self) -> int:
        """Position of the writer."""
        return int(self._n[_WRITTEN])

    @property
    def read_position(self) -> int:
        """Position of the reader."""
        return int(self._n[_READ])

    @property
    def level(self) -> int:
        """Samples held."""
        return int(self._n[_WRITTEN] - self._n[_READ])

    @property
    def offset(self) -> int:
        """The reader's clock less its position."""
        return int(self._n[_OFFSET])

    @property
    def counts(self) -> RingCounts:
        """So far."""
        return RingCounts(*(int(self._n[i]) for i in (_UNDERRUNS, _FILLED, _OVERRUNS, _DROPPED)))

    @property
    def bell(self) -> int:
        """The position of the writer at which its other side wants to be woken."""
        return int(self._n[_BELL])

    @bell.setter
    def bell(self, position: int) -> None:
        self._n[_BELL] = position

    @property
    def xruns(self) -> int:
        """Times that the device itself reported trouble at this end."""
        return int(self._n[_XRUNS])

    def add_xrun(self) -> None:
        """One more; the device's side counts."""
        self._n[_XRUNS] += 1

    def prime(self) -> None:
        """From now on an empty ring is an underrun; until then it is silence."""
        self._n[_PRIMED] = 1

    def write(self, block: Block, now: float) -> None:
        """Take `[T, C]`, at `now` s. The writer never looks at the reader: what was not read in time is written over."""
        written = int(self._n[_WRITTEN])
        self._stamp(self._write_stamps, self._writes, written, now)
        self._writes += 1
        if len(block) > CAPACITY:
            written += len(block) - CAPACITY
            block = block[-CAPACITY:]
        at = written % CAPACITY
        first = min(len(block), CAPACITY - at)
        self._audio[at : at + first] = block[:first]
        self._audio[: len(block) - first] = block[first:]
        self._n[_WRITTEN] = written + len(block)

    def discard(self) -> None:
        """Leave out what is there; the reader's, and not counted."""
        level = self.level
        self._n[_READ] += level
        self._n[_OFFSET] -= level

    def skip(self) -> None:
        """Leave out the oldest where there is too much; the reader's, and counted."""
        level, limit = self.level, self.limit
        if level > limit:
            # Down to half of the limit, so that it is one hole and not one at every call.
            excess = level - limit // 2
            self._n[_READ] += excess
            self._n[_OFFSET] -= excess
            self._n[_OVERRUNS] += 1
            self._n[_DROPPED] += excess

    def take(self, samples: int) -> Block | None:
        """The next `samples`, as a copy; None while there are fewer. For a reader that can come back: no fills."""
        self.skip()
        if self.level < samples:
            return None
        block = np.empty((samples, self.channels), np.float32)
        self._copy(block)
        return block

    def read_into(self, out: Block, now: float) -> None:
        """Fill `out` `[T, C]`, at `now` s: with what is there, then a fade, then silence."""
        clock = int(self._n[_READ] + self._n[_OFFSET])
        self._stamp(self._read_stamps, self._reads, clock, now)
        self._reads += 1
        self.skip()
        count = min(len(out), self.level)
        if count:
            self._copy(out[:count])
            if self._dry:
                n = min(FADE, count)
                out[:n] *= self._rising[:n]
            self._dry = False
        if count < len(out):
            self._fill(out, count)
        self._last[:] = out[-1:]

    def write_stamp(self) -> tuple[int, float] | None:
        """Position and time at the start of the writer's last call."""
        return self._stamped(self._write_stamps)

    def read_stamp(self) -> tuple[int, float] | None:
        """The reader's clock and the time at the start of its last call."""
        return self._stamped(self._read_stamps)

    def _copy(self, out: Block) -> None:
        at = int(self._n[_READ]) % CAPACITY
        first = min(len(out), CAPACITY - at)
        out[:first] = self._audio[at : at + first]
        out[first:] = self._audio[: len(out) - first]
        self._n[_READ] += len(out)

    def _fill(self, out: Block, count: int) -> None:
        missing = len(out) - count
        out[count:] = 0
        if not self._dry:
            last = out[count - 1 : count] if count else self._last
            n = min(FADE, missing)
            out[count : count + n] = last * self._falling[:n]
        self._n[_OFFSET] += missing
        if self._n[_PRIMED]:
            # One underrun lasts until audio comes again.
            self._n[_UNDERRUNS] += not self._dry
            self._n[_FILLED] += missing
        self._dry = True

    @staticmethod
    def _stamp(stamps: npt.NDArray[np.float64], calls: int, position: int, now: float) -> None:
        # Slot 0 says which of the others is the newest whole one.
        slot = 1 + calls % (_STAMPS - 1)
        stamps[slot] = position, now
        stamps[0, 0] = slot

    @staticmethod
    def _stamped(stamps: npt.NDArray[np.float64]) -> tuple[int, float] | None:
        slot = int(stamps[0, 0])
        return (int(stamps[slot, 0]), float(stamps[slot, 1])) if slot else None
