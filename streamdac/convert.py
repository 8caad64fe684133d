"""Sample-rate conversion of a stream by soxr, with the length kept in step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import soxr

Block = npt.NDArray[np.float32]


class Converter:
    """Blocks `[T, C]` at one rate in, blocks at another out; nothing happens where the rates are equal.

    The whole output has ceil(T * rate_out / rate_in) samples and begins where the input does: soxr's own delay is taken off by
    soxr itself and shows only as output that comes later.
    """

    def __init__(self, rate_in: int, rate_out: int, channels: int, *, quality: str = "HQ") -> None:
        self.rate_in, self.rate_out, self.channels = rate_in, rate_out, channels
        self._stream: soxr.ResampleStream | None = None
        if rate_in != rate_out:
            import soxr

            self._stream = soxr.ResampleStream(rate_in, rate_out, channels, dtype="float32", quality=quality)
        self.taken = 0
        self.given = 0

    def push(self, block: Block) -> Block:
        """The samples that are complete with `block`."""
        self.taken += len(block)
        return self._give(self._resample(block, last=False))

    def flush(self) -> Block:
        """The rest."""
        rest = self._resample(np.zeros((0, self.channels), np.float32), last=True)
        missing = -(-self.taken * self.rate_out // self.rate_in) - self.given
        rest = rest[:missing]
        return self._give(np.concatenate([rest, np.zeros((missing - len(rest), self.channels), np.float32)]))

    def _resample(self, block: Block, *, last: bool) -> Block:
        block = np.ascontiguousarray(block, np.float32).reshape(-1, self.channels)
        if self._stream is None:
            return block
        out: Block = self._stream.resample_chunk(block, last=last)
        return out.reshape(-1, self.channels)

    def _give(self, block: Block) -> Block:
        self.given += len(block)
        return block
