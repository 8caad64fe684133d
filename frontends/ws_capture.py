"""From a source to codes, hop by hop in a thread: read, paced where the source is no device, encode, hand over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamdac.errors import UsageError

from .hops import HopEncoder, runs
from .rates import check_rate
from .varirate import VariableResampler
from .ws_limits import MUTES
from .ws_timetable import Timetable
from .ws_worker import Worker

if TYPE_CHECKING:
    from streamdac.codec import Codec
    from streamdac.frontend import Source

Block = npt.NDArray[np.float32]  # [T, C]
CodeArray = npt.NDArray[np.int64]  # [K, C, F]

PAUSE_SECONDS = 1.0  # without audio from a source, after which the others are told of silence
SMOOTH = 0.05  # of the running averages that are displayed
SILENT_DB = -120.0


def level_db(block: Block) -> float:
    """RMS of a block in dB of full scale."""
    power = float(np.mean(np.square(block))) if block.size else 0.0
    return max(SILENT_DB, 10 * float(np.log10(max(power, 1e-12))))


def to_channels(block: Block, channels: int) -> Block:
    """Another channel count: mixed down to one, or one copied to all.

    Raises:
        UsageError: neither of the two.
    """
    have = block.shape[1]
    if have == channels:
        return block
    if channels == 1:
        return np.asarray(block.mean(axis=1, keepdims=True), np.float32)
    if have == 1:
        return np.repeat(block, channels, axis=1)
    raise UsageError(f"the source has {have} channels, the session {channels}")


class Capture(Worker):
    """Reads `source` to its end and closes it.

    Args:
        deliver: takes codes `[K, C, F]`, on the event loop.
        mute: takes a count of frames that pass in silence because the source was late, on the event loop.
        ended: takes the whole number of samples, at the model's rate, on the event loop.
    """

    def __init__(
        self,
        codec: Codec,
        source: Source,
        *,
        channels: int,
        codebooks: int,
        vbr: bool = False,
        deliver: Callable[[CodeArray], None],
        mute: Callable[[int], None],
        ended: Callable[[int], None],
    ) -> None:
        super().__init__("streamdac-capture")
        if source.channels != channels and 1 not in (source.channels, channels):
            raise UsageError(f"the source has {source.channels} channels, the session {channels}")
        self.source, self.codec = source, codec
        self.live = bool(getattr(source, "live", False))
        self.encode_ms = 0.0  # smoothed, of one hop
        self.level = SILENT_DB
        self._deliver, self._mute, self._ended = deliver, mute, ended
        self._channels = channels
        self._table = Timetable(codec.hop_length / codec.sample_rate, time.monotonic())
        # While the thread waits in a read, table and encoder belong to who tells of the pause, under the lock.
        self._lock = threading.Lock()
        self._asked: float | None = None  # since when it waits; None while it does not
        self._paused = False  # the others have been told of silence since then
        self._telling: asyncio.Future[None] | None = None
        rate, model_rate = source.sample_rate, codec.sample_rate
        # What is live is converted with little delay, what is not with the best filter there is.
        self._resampler = VariableResampler(rate, model_rate, channels) if self.live and rate != model_rate else None
        self._hops = HopEncoder(
            codec,
            sample_rate=model_rate if self._resampler else rate,
            channels=channels,
            n_codebooks=codebooks,
            vbr=vbr,
        )

    def start(self) -> None:
        """Begin."""
        super().start()
        if not self.live:  # what a device has lost it says itself
            telling = self._telling = asyncio.ensure_future(self._tell_of_pauses())
            self.done.add_done_callback(lambda _: telling.cancel())

    async def stop(self) -> None:
        """See `Worker`."""
        if self._telling is not None:
            self._telling.cancel()
        await super().stop()

    def work(self) -> None:
        """Until the source ends or the program does."""
        try:
            self._read_all()
        finally:
            self.source.close()

    def _read_all(self) -> None:
        rate = self.source.sample_rate
        check_rate(rate, "the source")
        hop = self.codec.hop_length / self.codec.sample_rate * rate  # samples of the source
        table, hops = self._table, 0
        table.due = time.monotonic()
        lost = 0  # samples of the source
        while not self.stopping.is_set():
            lost = self._pass_over(lost, hop)
            asked = time.monotonic()
            block = self._wait_for(round((hops + 1) * hop) - round(hops * hop))
            if block is None:
                break
            hops += 1
            if not self.live:
                # As a device would, it gives a hop once all of it is spoken.
                now, seconds = time.monotonic(), len(block) / rate
                if self._paused:
                    self._paused = False
                    self._be_silent(now - seconds)
                if frames := table.add(seconds, asked - seconds, now - seconds):
                    self.call(self._mute, frames)
                self.stopping.wait(max(0.0, table.due - now))
            self._give(block)
        self._hand_over(self._hops.flush())
        hops_rate = self.codec.sample_rate if self._resampler else rate
        self.call(self._ended, -(-self._hops.taken * self.codec.sample_rate // hops_rate))

    def _pass_over(self, lost: int, hop: float) -> int:
        """Mute what a device has lost, and what it had before, once that is worth a Mute; the samples that are left of it."""
        tell = getattr(self.source, "take_lost", None)  # a microphone has it
        lost += tell() if tell else 0
        if lost * MUTES < self.source.sample_rate:  # a server takes no more Mutes than so many a second
            return lost
        frames = int(lost / hop)
        self.call(self._mute, frames)
        return lost - round(frames * hop)

    def _wait_for(self, samples: int) -> Block | None:
        """As `_next`, and others may tell of the pause meanwhile."""
        with self._lock:
            self._asked = time.monotonic()
        try:
            return self._next(samples)
        finally:
            with self._lock:
                self._asked = None

    async def _tell_of_pauses(self) -> None:
        """While the source gives nothing, let frames pass in silence, so that nobody waits for them or takes them for lost."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS / 2)
            await asyncio.to_thread(self._tell_of_pause)

    def _tell_of_pause(self) -> None:
        with self._lock:
            now = time.monotonic()
            if self._asked is None or now - max(self._asked, self._table.due) < (0 if self._paused else PAUSE_SECONDS):
                return
            if not self._paused:
                self._paused = True
                self._complete()
            self._be_silent(now)

    def _complete(self) -> None:
        """Send what a model that looks ahead still holds: silence goes after it until its frames are out."""
        hop, ahead = self.codec.hop_length, self.codec.plan.encoder_lookahead
        if ahead and self._hops.taken:
            seconds = -(-ahead // hop) * hop / self.codec.sample_rate
            self._table.due += seconds
            self._give(np.zeros((round(seconds * self.source.sample_rate), self.source.channels), np.float32))

    def _be_silent(self, now: float) -> None:
        """Let the stream's frames come up to the present."""
        if frames := self._table.silence(now):
            self.call(self._mute, frames)

    def _next(self, samples: int) -> Block | None:
        """One hop of the source, put together from what it gives."""
        parts: list[Block] = []
        while samples and (block := self.source.read(samples)) is not None:
            parts.append(block)
            samples -= len(block)
        return np.concatenate(parts) if parts else None

    def _give(self, block: Block) -> None:
        start = time.monotonic()
        block = to_channels(block, self._channels)
        codes = self._hops.push(self._resampler.push(block) if self._resampler else block)
        self.encode_ms += SMOOTH * (1000 * (time.monotonic() - start) - self.encode_ms)
        self.level = level_db(block)
        self._hand_over(codes)

    def _hand_over(self, codes: CodeArray) -> None:
        for run in runs(codes):
            self.call(self._deliver, run)
