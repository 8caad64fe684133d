"""A peer: one stream of ours to a server, the streams of others from it, and a new session whenever the old one is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamdac.errors import StreamdacError, UnavailableError
from streamdac.protocols.messages import Accept, Adapt, End, Left, Message, Mute, Packet, Reason, Role, Stats
from streamdac.protocols.rate import RateControl
from streamdac.protocols.sender import Sender
from streamdac.protocols.session import Side

from .ws_channel import Channel
from .ws_client import Target, Wishes, final_error, open_socket
from .ws_ending import GOING_AWAY, Ending

if TYPE_CHECKING:
    from streamdac.codec import Codec

    from .ws_playback import Playback

CodeArray = npt.NDArray[np.int64]  # [K, C, F]

FIRST_RETRY = 0.25  # s
SLOWEST_RETRY = 10.0
REPORT_SECONDS = 1.0
RATE_SECONDS = 0.25


@dataclass(slots=True)
class PeerCounts:
    """Since the start, over all sessions."""

    sessions: int = 0
    gap_seconds: float = 0.0  # without a session
    lost_frames: int = 0  # of ours, encoded while there was no session
    frames: int = 0  # of ours, sent
    muted_frames: int = 0  # of ours, passed in silence
    packets: int = 0
    dropped: int = 0  # packets of ours that waited too long, or still waited when a session was lost
    received_bytes: int = 0
    sent_bytes: int = 0


class Peer:
    """Used on one event loop. `push` takes the codes to send; what is heard goes to `playback`."""

    def __init__(self, codec: Codec, target: Target, wishes: Wishes, *, playback: Playback | None = None) -> None:
        self.codec, self.target, self.wishes, self.playback = codec, target, wishes, playback
        self.counts = PeerCounts()
        self.channel: Channel | None = None
        self.sender: Sender | None = None
        self.notice: Callable[[str], None] = lambda text: None  # told of losses and returns
        self._rate: RateControl | None = None
        self._asked: Adapt | None = None
        self._redundancy = 0, 0  # frames and codebooks that were agreed
        self._running: asyncio.Future[Ending] | None = None
        self._answer: asyncio.Future[Accept] | None = None
        self._reported = self._looked = 0.0
        self._frames_before = 0  # of ours, before this session
        self._closing = asyncio.Event()

    @property
    def codebooks(self) -> int:
        """In use for what we send."""
        return self.sender.codebooks if self.sender else 0

    async def open(self) -> None:
        """The first session.

        Raises:
            StreamdacError: why there is none.
        """
        if self.playback is not None:
            await asyncio.to_thread(self.playback.prepare)
        await self._open()

    async def run(self) -> None:
        """Keep a session open until `close`.

        Raises:
            StreamdacError: the server ended it for good, or could not be reached again in time.
        """
        while True:
            assert self._running is not None
            ending = await asyncio.shield(self._running)
            self._settle()
            if self._closing.is_set():
                return
            error = final_error(ending)
            if error is not None:
                raise error
            await self._reopen(ending)
            if self._closing.is_set():
                await self.close()  # the session that has just opened
                return

    def push(self, codes: CodeArray) -> None:
        """Send codes `[K, C, F]`; they are counted as lost where there is no session."""
        if self.sender is None or self.channel is None or not self.channel.open:
            self.counts.lost_frames += codes.shape[2]
            return
        self._post(self.sender.push(codes))
        self.counts.frames += codes.shape[2]

    def mute(self, frames: int) -> None:
        """Let so many frames pass in silence."""
        if self.sender is not None and self.sender.frames and self.channel is not None and self.channel.open:
            self._post(self.sender.mute(frames))
            self.counts.muted_frames += frames

    def end(self, samples: int) -> bool:
        """Our stream has so many samples per channel beside the muted frames, at the model's rate, and has ended.

        False where there is no session to say it in.
        """
        if self.sender is None or self.channel is None or not self.channel.open:
            return False
        # Where sessions were lost, this one's stream began later.
        frames = self.counts.muted_frames - self._frames_before
        self._post(self.sender.end(max(0, samples + frames * self.codec.hop_length)))
        self.sender = None
        return True

    async def close(self, reason: Reason = Reason.NORMAL) -> bool:
        """Say what still waits, then Bye; whether the server has taken all of it."""
        self._closing.set()
        answered = False
        if self.channel is not None and self._running is not None:
            self.channel.leave(reason)
            with contextlib.suppress(StreamdacError, OSError):
                answered = (await self._running).answered
            self._settle()
        return answered

    async def _open(self) -> None:
        socket = await open_socket(self.target)
        channel = Channel(socket, Side.CLIENT, handle=self._handle, tick=self._tick)
        self.channel = channel
        self._answer = asyncio.get_running_loop().create_future()
        self._running = asyncio.ensure_future(channel.run())
        self._reported = self._looked = time.monotonic()
        channel.post(self.wishes.hello(self.codec))
        either: list[asyncio.Future[Any]] = [self._answer, self._running]
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await self._abandon(self._running)
            raise
        if not self._answer.done():
            ending = await self._running
            self._answer.cancel()
            self._settle()
            raise final_error(ending) or UnavailableError(f"{self.target.url}: {ending.text or 'closed'}")

    async def _abandon(self, running: asyncio.Future[Ending]) -> None:
        """Leave a session that nobody waits for any more, whether it has opened or not."""
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if self._answer is not None:
            self._answer.cancel()
        self._settle()

    def _begin(self, channel: Channel, accept: Accept) -> None:
        layout = channel.session.agreement.layout
        if self.playback is not None:
            self.playback.begin(layout)
        if self.wishes.role & Role.SEND:
            self.sender = Sender(
                layout,
                frames_per_packet=accept.frames_per_packet,
                redundancy_frames=accept.redundancy_frames,
                redundancy_codebooks=accept.redundancy_codebooks,
                mute_frames=max(1, round(self.codec.config.frame_rate)),
            )
            self._frames_before = self.counts.frames + self.counts.lost_frames + self.counts.muted_frames
        self._asked = None
        self._redundancy = accept.redundancy_frames, accept.redundancy_codebooks
        coarse = max(1, accept.redundancy_codebooks)
        self._rate = RateControl(
            max_codebooks=layout.codebooks,
            min_codebooks=min(coarse, layout.codebooks),
            frames_per_packet=accept.frames_per_packet,
            redundancy_codebooks=coarse,
            bits_per_codebook=layout.bits * layout.channels,
        )
        self.counts.sessions += 1

    def _settle(self) -> None:
        """The channel is gone: keep its counts, let what was heard play out."""
        if self.channel is None:
            return
        if self.sender is not None:  # its frames that do not yet fill a packet
            self.counts.dropped += len(self.sender.flush())
        self.channel.outbox.abandon()
        self.counts.dropped += self.channel.outbox.counts.dropped
        self.counts.received_bytes += self.channel.counts.received_bytes
        self.counts.sent_bytes += self.channel.counts.sent_bytes
        self.channel = None
        self.sender = None
        if self.playback is not None:
            self.playback.lost(time.monotonic())

    async def _reopen(self, ending: Ending) -> None:
        """Try again, more and more slowly, until there is a new session.

        Raises:
            UnavailableError: there was none in time.
        """
        lost = time.monotonic()
        what = ending.text or ("the server has left" if ending.code == GOING_AWAY else "connection lost")
        self.notice(f"{what}; trying again")
        delay = FIRST_RETRY
        while not self._closing.is_set():
            left = lost + self.wishes.retry_seconds - time.monotonic()
            if left <= 0:
                raise UnavailableError(
                    f"{self.target.url}: {what}, and no new session for {self.wishes.retry_seconds:g} s"
                )
            with contextlib.suppress(asyncio.TimeoutError):
                # A share by chance, so that the peers of a server that restarts do not all come at once.
                await asyncio.wait_for(self._closing.wait(), min(left, delay * random.uniform(0.75, 1.25)))
                return
            delay = min(2 * delay, SLOWEST_RETRY)
            try:
                await self._open()
            except UnavailableError:
                continue
            finally:
                gap = time.monotonic() - lost
            self.counts.gap_seconds += gap
            self.notice(f"a new session after {gap:.1f} s")
            return

    def _post(self, messages: list[Message] | list[Packet]) -> None:
        assert self.channel is not None
        for message in messages:
            self.counts.packets += isinstance(message, Packet)
            self.channel.post(message)

    def _handle(self, message: Message, now: float) -> None:
        match message:
            case Accept():
                if self._answer is not None and self.channel is not None and not self._answer.done():
                    self._begin(self.channel, message)
                    self._answer.set_result(message)
            case Packet() | Mute() | End() | Left():
                if self.playback is not None:
                    self.playback.hear(message, now)
            case Stats():
                if self._rate is not None and self.wishes.adapt:
                    self._rate.report(message, now)
                    self._adjust()
            case Adapt():
                self._asked = message
                self._adjust()
            case _:
                pass

    def _tick(self, now: float) -> None:
        channel = self.channel
        if channel is None or not channel.open:
            return
        if self._rate is not None and self.wishes.adapt and now - self._looked >= RATE_SECONDS:
            self._looked = now
            self._rate.queued(channel.congestion(now), now)
            self._adjust()
        if self.playback is not None and now - self._reported >= REPORT_SECONDS:
            self._reported = now
            for stats in self.playback.reports(now, channel.session.round_trip):
                channel.post(stats)

    def _adjust(self) -> None:
        """Send as the rate control and the other side want it, the more careful of the two."""
        if self.sender is None or self._rate is None:
            return
        rate, asked = self._rate.rate, self._asked
        wanted = [self._redundancy, (rate.redundancy_frames, rate.redundancy_codebooks)]
        if asked:
            wanted.append((asked.redundancy_frames, asked.redundancy_codebooks))
        frames, coarse = max(wanted)  # most frames first
        self.sender.adjust(
            codebooks=min(rate.codebooks, asked.codebooks if asked else rate.codebooks),
            frames_per_packet=max(rate.frames_per_packet, asked.frames_per_packet if asked else 1),
            redundancy_frames=frames,
            redundancy_codebooks=coarse,
        )
