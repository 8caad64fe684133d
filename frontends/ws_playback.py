"""From the messages of a session to a sink, in a thread: live through jitter buffers, or exactly as it was sent."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamdac.protocols.messages import End, Layout, Left, Mute, Packet, Stats

from .ws_capture import SILENT_DB, SMOOTH, level_db
from .ws_exact import Exact
from .ws_voices import MIN_DELAY, HeardCounts, Voices, silence_codes
from .ws_worker import Worker

if TYPE_CHECKING:
    from streamdac.codec import Codec
    from streamdac.frontend import Sink

Block = npt.NDArray[np.float32]  # [T, C]
Heard = Packet | Mute | End | Left

CATCH_UP_SECONDS = 2.0  # behind the clock: the machine slept, so what was due is left out
MAX_BACKLOG = 8192  # messages that wait for an exact playback: minutes


class Playback(Worker):
    """What both kinds share. `prepare` is slow and comes first; all but it, `work` and `play` is for the event loop."""

    def __init__(self, sink: Sink, codec: Codec) -> None:
        super().__init__("streamdac-playback")
        self.sink, self.codec = sink, codec
        self.decode_ms = 0.0  # smoothed, of one hop
        self.level = SILENT_DB
        self.written = 0  # samples

    @property
    def ended(self) -> int:
        """Streams that have been played to their end."""
        raise NotImplementedError

    @property
    def left(self) -> int:
        """Streams that are over, but whose End did not come, where that matters."""
        return 0

    @property
    def broken(self) -> int:
        """Streams that a lost session of ours cut off, where that matters."""
        return 0

    @property
    def not_heard(self) -> int:
        """Streams for which there is no room now."""
        return 0

    def prepare(self) -> None:
        """Find the codes of silence, which also warms the codec up."""
        self.silence = silence_codes(self.codec)

    def begin(self, layout: Layout) -> None:
        """A session has opened."""
        raise NotImplementedError

    def hear(self, message: Heard, now: float) -> None:
        """A message of a stream."""
        raise NotImplementedError

    def lost(self, now: float) -> None:
        """The session is gone."""
        raise NotImplementedError

    def reports(self, now: float, round_trip: float | None) -> list[Stats]:
        """To the server."""
        return []

    def totals(self) -> HeardCounts:
        """What became of the frames."""
        raise NotImplementedError

    def delay(self, now: float) -> float:
        """Seconds in the jitter buffer and a decoder that looks ahead."""
        return 0.0

    def speaking(self) -> tuple[int, float]:
        """Streams that are heard, and the drift of the worst clock among their senders'."""
        return 0, 0.0

    async def finish(self) -> None:
        """As `stop`, but what has come is written first, however long that takes; no more of it once cancelled."""
        await self.stop()

    def work(self) -> None:
        """Until told to stop; then the sink is closed, and its file kept unless something failed."""
        complete = False
        try:
            self.play()
            complete = True
        finally:
            self.sink.close(complete=complete)

    def play(self) -> None:
        """Write to the sink until `stopping`."""
        raise NotImplementedError

    def write(self, block: Block) -> None:
        """One block to the sink."""
        self.level = level_db(block)
        self.written += len(block)
        self.sink.write(block)


class LivePlayback(Playback):
    """All streams mixed, in real time: a device keeps the time, or the clock where the sink is none."""

    def __init__(
        self,
        sink: Sink,
        codec: Codec,
        *,
        channels: int,
        correct_drift: bool = True,
        min_delay: float = MIN_DELAY,
    ) -> None:
        super().__init__(sink, codec)
        self.voices = Voices(codec, channels=channels, correct_drift=correct_drift, min_delay=min_delay)
        self.skipped = 0.0  # s left out because the machine slept

    @property
    def not_heard(self) -> int:
        """See `Playback`."""
        return self.voices.refused

    @property
    def ended(self) -> int:
        """See `Playback`."""
        return self.voices.ended

    def begin(self, layout: Layout) -> None:
        """See `Playback`."""
        self.voices.begin(layout, self.silence)

    def hear(self, message: Heard, now: float) -> None:
        """See `Playback`."""
        self.voices.hear(message, now)

    def lost(self, now: float) -> None:
        """See `Playback`."""
        self.voices.lost(now)

    def reports(self, now: float, round_trip: float | None) -> list[Stats]:
        """See `Playback`."""
        return self.voices.reports(now, round_trip)

    def totals(self) -> HeardCounts:
        """See `Playback`."""
        return self.voices.totals()

    def delay(self, now: float) -> float:
        """See `Playback`."""
        return self.voices.delay(now)

    def speaking(self) -> tuple[int, float]:
        """See `Playback`."""
        return self.voices.speaking, self.voices.drift()

    def play(self) -> None:
        """See `Playback`."""
        live = bool(getattr(self.sink, "live", False))
        hop = self.codec.hop_length / self.codec.sample_rate
        due = time.monotonic()
        while not self.stopping.is_set():
            now = time.monotonic()
            if live:  # the last write has waited until there was room
                due = now
            elif now < due:
                self.stopping.wait(due - now)
                continue
            elif now - due > CATCH_UP_SECONDS:
                self.skipped += now - due
                due = now
            # When the thread wakes late, the buffers are still asked for what was due: lateness of ours is no jitter.
            block = self.voices.mix(due)
            self.decode_ms += SMOOTH * (1000 * (time.monotonic() - now) - self.decode_ms)
            self.write(block)
            due += hop


class ExactPlayback(Playback):
    """One stream after another, every frame, as fast as it comes."""

    def __init__(self, sink: Sink, codec: Codec) -> None:
        super().__init__(sink, codec)
        self.backlog_dropped = 0
        self._messages: queue.Queue[Heard | Layout | None] = queue.Queue()
        self._exact: Exact | None = None
        self._counts = HeardCounts()
        self._ended = self._left = self._broken = 0
        self._hurried = threading.Event()

    @property
    def ended(self) -> int:
        """See `Playback`."""
        return self._ended

    @property
    def left(self) -> int:
        """See `Playback`."""
        return self._left

    @property
    def broken(self) -> int:
        """See `Playback`."""
        return self._broken

    def begin(self, layout: Layout) -> None:
        """See `Playback`."""
        self._messages.put(layout)

    def hear(self, message: Heard, now: float) -> None:
        """See `Playback`. A packet that finds too many waiting is dropped, and concealed in its turn."""
        if isinstance(message, Packet) and self._messages.qsize() >= MAX_BACKLOG:
            self.backlog_dropped += 1
        else:
            self._messages.put(message)

    def lost(self, now: float) -> None:
        """See `Playback`."""
        self._messages.put(None)

    def totals(self) -> HeardCounts:
        """See `Playback`."""
        return self._counts

    async def finish(self) -> None:
        """See `Playback`; given up once nothing is written any more."""
        before = -1
        try:
            while before < self.written:
                before = self.written
                await self.stop()
                if self.done.done():
                    break
        except asyncio.CancelledError:
            self._hurried.set()
            await self.stop()
            raise

    def play(self) -> None:
        """See `Playback`; what has come is written before the end."""
        while not self._hurried.is_set():
            try:
                message = self._messages.get(timeout=0.05)
            except queue.Empty:
                if self.stopping.is_set():
                    break
                continue
            start = time.monotonic()
            for block in self._blocks(message):
                self.write(block)
                if self._hurried.is_set():
                    break
            self.decode_ms += SMOOTH * (1000 * (time.monotonic() - start) - self.decode_ms)
        if self._exact is not None:
            for block in self._exact.lost():
                self.write(block)

    def _blocks(self, message: Heard | Layout | None) -> Iterator[Block]:
        if isinstance(message, Layout):
            self._exact = Exact(self.codec, layout=message, silence=self.silence, counts=self._counts)
        elif self._exact is not None:
            exact = self._exact
            ended, left, broken = exact.ended, exact.left, exact.broken
            yield from exact.lost() if message is None else exact.hear(message)
            self._ended += exact.ended - ended
            self._left += exact.left - left
            self._broken += exact.broken - broken
