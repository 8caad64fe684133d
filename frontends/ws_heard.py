"""A sink from which a coroutine reads what the playback thread writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

import numpy as np
import numpy.typing as npt

Block = npt.NDArray[np.float32]  # [T, C]


class Heard:
    """A sink from which the event loop reads: bounded, the oldest block goes first and is counted."""

    live = False

    def __init__(self, blocks: int) -> None:
        self.dropped = 0  # blocks
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._blocks: deque[Block] = deque()
        self._most = blocks
        self._there = asyncio.Event()

    def write(self, block: Block) -> None:
        """From the playback thread."""
        self._post(block)

    def close(self, *, complete: bool = True) -> None:
        """Nothing more comes."""
        self._post(None)

    async def read(self) -> Block | None:
        """The next block; None after the last one."""
        while not self._blocks and not self.closed:
            self._there.clear()
            await self._there.wait()
        return self._blocks.popleft() if self._blocks else None

    def _post(self, block: Block | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has gone
            self._loop.call_soon_threadsafe(self._take, block)

    def _take(self, block: Block | None) -> None:
        if block is None:
            self.closed = True
        elif not self.closed:  # a live playback goes on with silence
            self._blocks.append(block)
            if len(self._blocks) > self._most:
                self._blocks.popleft()
                self.dropped += 1
        self._there.set()
