"""For asyncio programs: `async with streamdac.connect(url) as peer: await peer.send(pcm)`, `async for pcm in peer: ...`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamdac.errors import UsageError
from streamdac.protocols.messages import MAX_CHANNELS, MAX_CODEBOOKS, MAX_FRAMES, Role

from .hops import HopEncoder, runs
from .ws_client import Target, Wishes, with_room
from .ws_heard import Heard
from .ws_peer import Peer
from .ws_playback import ExactPlayback, LivePlayback, Playback
from .ws_stats import PeerStats, PeerWatch
from .ws_timetable import Timetable
from .ws_voices import MAX_DELAY

if TYPE_CHECKING:
    from streamdac.codec import Codec
    from streamdac.peers import PeerOptions

Block = npt.NDArray[np.float32]  # [T, C]

AHEAD_SECONDS = 0.1  # by which `send` may run ahead of real time
HEARD_SECONDS = 2.0  # of audio kept for a program that does not read; then the oldest goes
EXACT_SECONDS = 600.0  # the same where nothing is to be skipped
PAUSE_SECONDS = 0.2  # without a `send`, after which the others are told of silence
ROLES = {"send": Role.SEND, "receive": Role.RECEIVE, "both": Role.BOTH}


class Connection:
    """A peer in a room of a server; made by `connect`, used with `async with`."""

    def __init__(
        self,
        target: Target,
        model: Codec | str | None,
        wishes: Wishes,
        *,
        vbr: bool,
        exact: bool,
        correct_drift: bool,
        delay: float,
    ) -> None:
        self._target, self._model, self._wishes = target, model, wishes
        self._vbr = vbr
        self._exact, self._correct_drift, self._delay = exact, correct_drift, delay
        self._table: Timetable | None = None  # of what was sent so far
        self._sending = 0  # calls of `send` that run
        self._sent = 0.0  # when the last one ended
        self._paused = False  # the others have been told that it is silent
        self._pause = asyncio.Lock()  # held while they are told

    async def __aenter__(self) -> Connection:
        from streamdac.codec import Codec

        model = self._model
        self.codec = model if isinstance(model, Codec) else await asyncio.to_thread(_load, model)
        if self._wishes.codebooks is not None:
            _check_count("codebooks", self._wishes.codebooks, 1, self.codec.n_codebooks)
        self._thread = ThreadPoolExecutor(1, "streamdac-encode")
        self._heard: Heard | None = None
        playback = self._make_playback() if self._wishes.role & Role.RECEIVE else None
        self.peer = Peer(self.codec, self._target, self._wishes, playback=playback)
        self._watch = PeerWatch(self.peer, None, playback)
        self._hops: HopEncoder | None = None
        try:
            await self.peer.open()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        if playback is not None:
            playback.start()
        self._playback = playback
        self._running = asyncio.ensure_future(self.peer.run())
        self._running.add_done_callback(self._ended)
        self._pausing = asyncio.ensure_future(self._tell_of_pauses())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End our stream, say Bye, and let go of everything; raises what ended the session, if something did."""
        async with self._pause:
            self._pausing.cancel()
        if kind is None and not self._running.done():
            await self._finish()
        await self.peer.close()
        results = await asyncio.gather(self._running, return_exceptions=True)
        if self._playback is not None:
            await self._playback.stop()
        self._thread.shutdown()
        if kind is None and isinstance(results[0], BaseException):
            raise results[0]

    @property
    def sample_rate(self) -> int:
        """Hz, of what is sent and heard."""
        return self.codec.sample_rate

    async def send(self, pcm: Any) -> None:
        """Send audio `[T]` or `[T, C]` float32 at the model's rate, of any length.

        Waits while it runs ahead of real time by more than a tenth of a second, so a whole file may be given at once.

        Raises:
            StreamdacError: the wrong shape, or what ended the session.
        """
        block = _block(pcm, self._wishes.channels)
        if not self._wishes.role & Role.SEND:
            raise UsageError("send on a connection that only receives")
        self._sending += 1
        try:
            if self._paused:
                async with self._pause:
                    self._mute()
                    self._paused = False
            await self._send(block)
        finally:
            self._sending -= 1
            self._sent = time.monotonic()

    async def _send(self, block: Block) -> None:
        hop = self.codec.hop_length
        for start in range(0, len(block), hop):
            self._check()
            part = block[start : start + hop]
            now = time.monotonic()
            await self._pace(len(part), now if start else min(self._sent, now))
            encoding = asyncio.ensure_future(self._encode_and_push(part))
            try:
                await asyncio.shield(encoding)
            except asyncio.CancelledError:
                await asyncio.wait([encoding])  # its samples count, and the array is the caller's again
                raise

    async def _encode_and_push(self, part: Block) -> None:
        self._push(await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, part))

    def _push(self, codes: npt.NDArray[np.int64]) -> None:
        for run in runs(codes):
            self.peer.push(run)

    async def __aiter__(self) -> AsyncIterator[Block]:
        """Blocks `[T, C]` float32 of what the others say, mixed, in real time: silence where nobody speaks."""
        if self._heard is None:
            raise UsageError("nothing is heard on a connection that only sends")
        while (block := await self._heard.read()) is not None:
            yield block
        self._check()

    def stats(self) -> PeerStats:
        """The state now."""
        return self._watch.look()

    def _make_playback(self) -> Playback:
        seconds = EXACT_SECONDS if self._exact else HEARD_SECONDS
        self._heard = Heard(max(1, round(seconds * self.codec.sample_rate / self.codec.hop_length)))
        if self._exact:
            return ExactPlayback(self._heard, self.codec)
        return LivePlayback(
            self._heard,
            self.codec,
            channels=self._wishes.channels,
            correct_drift=self._correct_drift,
            min_delay=self._delay,
        )

    def _encode(self, block: Block) -> npt.NDArray[np.int64]:
        if self._hops is None:
            self._hops = HopEncoder(
                self.codec,
                sample_rate=self.codec.sample_rate,
                channels=self._wishes.channels,
                n_codebooks=self._wishes.codebooks,
                vbr=self._vbr,
            )
        return self._hops.push(block)

    async def _finish(self) -> None:
        if self._hops is None:
            return
        codes = await asyncio.get_running_loop().run_in_executor(self._thread, self._hops.flush)
        self._push(codes)
        self.peer.end(self._hops.taken)

    async def _tell_of_pauses(self) -> None:
        """While the program sends nothing, let frames pass in silence, so that nobody waits for them or takes them for lost."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS / 2)
            if self._table is not None and not self._sending and time.monotonic() - self._table.due > PAUSE_SECONDS:
                async with self._pause:
                    if not self._paused:
                        self._paused = True
                        await self._complete()
                    self._mute()

    async def _complete(self) -> None:
        """Send what the encoder still holds: silence goes after it until its frames are out."""
        assert self._table is not None
        if self._hops is None:
            return
        hop, ahead = self.codec.hop_length, self.codec.plan.encoder_lookahead
        samples = -self._hops.taken % hop + -(-ahead // hop) * hop
        if samples:
            self._table.due += samples / self.codec.sample_rate
            silence = np.zeros((samples, self._wishes.channels), np.float32)
            self._push(await asyncio.get_running_loop().run_in_executor(self._thread, self._encode, silence))

    def _mute(self) -> None:
        """Let the stream's frames come up to the present."""
        assert self._table is not None
        self.peer.mute(self._table.silence(time.monotonic()))

    async def _pace(self, samples: int, asked: float) -> None:
        """`asked`: since when the program could have sent them."""
        now, rate = time.monotonic(), self.codec.sample_rate
        if self._table is None:
            self._table = Timetable(self.codec.hop_length / rate, now)
        if frames := self._table.add(samples / rate, asked, now):
            self.peer.mute(frames)
        ahead = self._table.due - now
        if ahead > AHEAD_SECONDS:
            try:
                await asyncio.sleep(ahead - AHEAD_SECONDS)
            except asyncio.CancelledError:
                self._table.due -= samples / rate  # they are not sent
                raise

    def _check(self) -> None:
        if self._running.done() and not self._running.cancelled() and (error := self._running.exception()):
            raise error

    def _ended(self, running: asyncio.Future[None]) -> None:
        """The session is over: whoever reads is told after what has come."""
        if not running.cancelled():
            running.exception()
        if self._playback is not None:
            self._playback.stopping.set()


def connect(url: str, options: PeerOptions) -> Connection:
    """See `streamdac.connect`."""
    _check(options)
    wishes = Wishes(
        role=ROLES[options.role],
        channels=options.channels,
        codebooks=options.codebooks,
        frames_per_packet=options.frames_per_packet,
        redundancy_frames=options.redundancy_frames,
        adapt=options.adapt,
        retry_seconds=options.retry_seconds,
    )
    target = Target(with_room(url, options.room), options.token, options.tls_ca)
    return Connection(
        target,
        options.model,
        wishes,
        vbr=options.vbr,
        exact=options.exact,
        correct_drift=options.correct_drift,
        delay=options.delay,
    )


def _check(options: PeerOptions) -> None:
    """Refuse what is out of range."""
    if options.role not in ROLES:
        raise UsageError(f"role is {options.role!r}, need one of {', '.join(ROLES)}")
    _check_count("channels", options.channels, 1, MAX_CHANNELS)
    _check_count("frames_per_packet", options.frames_per_packet, 1, MAX_FRAMES)
    _check_count("redundancy_frames", options.redundancy_frames, 0, MAX_FRAMES)
    if options.codebooks is not None:
        _check_count("codebooks", options.codebooks, 1, MAX_CODEBOOKS)
    if not 0 <= options.delay <= MAX_DELAY:
        raise UsageError(f"delay is {options.delay:g} s, need 0 to {MAX_DELAY:g}")
    if not options.retry_seconds >= 0:
        raise UsageError(f"retry_seconds is {options.retry_seconds:g}, need 0 or more")


def _check_count(name: str, count: int, low: int, high: int) -> None:
    if not isinstance(count, int) or not low <= count <= high:
        raise UsageError(f"{name} is {count!r}, need a whole number from {low} to {high}")


def _load(model: str | None) -> Codec:
    from streamdac.codec import load

    return load(model)


def _block(pcm: Any, channels: int) -> Block:
    """Audio as `[T, C]`; numpy, or a torch tensor."""
    block = np.asarray(pcm)
    if block.ndim == 1:
        block = block[:, None]
    if block.ndim != 2 or block.shape[1] != channels or not np.issubdtype(block.dtype, np.floating):
        raise UsageError(f"got audio {block.dtype} of shape {np.shape(pcm)}, need floats [T] or [T, {channels}]")
    if not np.isfinite(block).all():
        raise UsageError("got samples that are not finite")
    return block.astype(np.float32, copy=False)
