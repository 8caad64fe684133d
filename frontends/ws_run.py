"""One peer from start to end: source and sink opened, a session kept, everything closed in its turn."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamdac import frontend
from streamdac.errors import BadDataError, OutputError, UnavailableError, UsageError
from streamdac.protocols.messages import Reason, Role

from .places import check_places
from .ws_access import read_token
from .ws_capture import Capture
from .ws_client import Target, Wishes, with_room
from .ws_peer import Peer
from .ws_playback import ExactPlayback, LivePlayback, Playback
from .ws_program import Display, interrupted, introduce, peer_look
from .ws_stats import PeerWatch

if TYPE_CHECKING:
    from streamdac.codec import Codec
    from streamdac.frontend import Sink, Source

INTERRUPTED = 130
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Options:
    """Of a peer, as typed. Raises UsageError where one file is both ends."""

    url: str
    room: str | None = None
    token_file: Path | None = None
    tls_ca: Path | None = None
    source: str | None = None
    sink: str | None = None
    force: bool = False
    channels: int = 1
    codebooks: int | None = None
    vbr: bool = False
    frames_per_packet: int = 1
    redundancy: int = 0
    adapt: bool = True
    correct_drift: bool = True
    delay_ms: float = 20.0
    exact: bool = False
    once: bool = False
    seconds: float | None = None
    retry_seconds: float = 60.0
    as_json: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        check_places([self.source], {"--output": self.sink})

    @property
    def role(self) -> Role:
        """By the ends that there are."""
        return Role.BOTH if self.source and self.sink else Role.SEND if self.source else Role.RECEIVE

    def target(self) -> Target:
        """Where to. Once only: a token may come through a pipe.

        Raises:
            UsageError: the URL or the room is wrong.
            NoInputError, DeniedError, BadDataError: there is no token in its file.
        """
        token = None if self.token_file is None else read_token(self.token_file)
        return Target(with_room(self.url, self.room), token, self.tls_ca)

    def wishes(self, codec: Codec) -> Wishes:
        """What the Hello says.

        Raises:
            UsageError: more codebooks than the model has.
        """
        if self.codebooks is not None and self.codebooks > codec.n_codebooks:
            raise UsageError(f"{self.codebooks} codebooks, model {codec.name} has {codec.n_codebooks}")
        return Wishes(
            role=self.role,
            channels=self.channels,
            codebooks=self.codebooks,
            frames_per_packet=self.frames_per_packet,
            redundancy_frames=self.redundancy,
            adapt=self.adapt,
            retry_seconds=self.retry_seconds,
        )


def run_peer(options: Options, codec: Codec, target: Target) -> int:
    """A peer as a program; the exit code."""
    program = Program(options, codec)
    return run_program(program, lambda: program.run(target))


def run_program(program: Program, run: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Open the ends of `program`, then `run` with it on an event loop; the exit code.

    Opening comes before the loop: a pipe may keep it waiting, and where a loop has taken the signals none ends that.
    """
    try:
        program.open_ends()
        code = asyncio.run(run())
    except BaseException:
        program.abandon()
        raise
    if program.hanging:
        if program.unwritten:
            sink = "stdout" if program.options.sink == "-" else program.options.sink
            click.echo(f"streamdac: {sink} takes no more: not all that was heard is written", err=True)
            code = OutputError.exit_code
        # A thread waits in a pipe or a device that does nothing: the interpreter would wait for it, or abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


class Program:
    """The parts of a peer, put together."""

    def __init__(self, options: Options, codec: Codec) -> None:
        self.options, self.codec = options, codec
        self.hanging = self.unwritten = False
        self._cut = False  # the user interrupted before all was sent
        self._end_said = self._answered = False  # the End of what we send, and our Bye
        self.peer: Peer
        self._wishes = options.wishes(codec)
        self._source: Source | None = None
        self._sink: Sink | None = None
        self._capture: Capture | None = None
        self._playback: Playback | None = None
        self._sent = asyncio.Event()  # the source has ended, and all of it is in the outbox
        self._display = Display(as_json=options.as_json, quiet=options.quiet, err=options.sink == "-")

    async def run(self, target: Target) -> int:
        """Until the source has ended, the time is up, the user interrupts or something fails; the exit code."""
        with interrupted() as stop:
            return await self.run_until(stop, target)

    async def run_until(self, stop: asyncio.Event, target: Target) -> int:
        """As `run`, in a session with `target` and until `stop` is set."""
        self._make_workers()
        self.peer = Peer(self.codec, target, self._wishes, playback=self._playback)
        self.peer.notice = self._display.note
        opening = asyncio.ensure_future(self.peer.open())
        await self._first(opening, asyncio.ensure_future(stop.wait()))
        if not opening.done() or opening.cancelled():
            self.abandon()
            return INTERRUPTED
        self._display.note(introduce(self.peer))
        if self._source is not None and self._source.channels > self.options.channels:
            self._display.note(f"{self._source.channels} channels are mixed down to {self.options.channels}")
        watch = PeerWatch(self.peer, self._capture, self._playback)
        async with self._display.showing(peer_look(watch), stop):
            await self._talk(stop)
        if not stop.is_set():
            self._check_whole()
        return INTERRUPTED if self._cut else 0

    def _check_whole(self) -> None:
        """Refuse to call a transfer done that was not."""
        url = self.peer.target.url
        if self._sent.is_set() and self.options.role is Role.SEND:
            self._check_sent(url)
        if self.options.once and isinstance(self._playback, ExactPlayback):
            self._check_recorded(url, self._playback)

    def _check_sent(self, url: str) -> None:
        counts = self.peer.counts
        if not self._end_said:
            raise UnavailableError(f"{url}: no session when the input ended: its last part is not sent")
        if not self._answered:
            raise UnavailableError(f"{url}: no answer to the Bye: what was sent last may not have come")
        if counts.lost_frames:
            seconds = counts.lost_frames * self.codec.hop_length / self.codec.sample_rate
            raise UnavailableError(
                f"{url}: not all was sent: {seconds:.1f} s are missing, of when there was no session"
            )
        # A device's audio that is late is of no use to anybody: that no more waits than half a second is as it should be.
        if counts.dropped and self._capture is not None and not self._capture.live:
            raise UnavailableError(f"{url}: not all was sent: {counts.dropped} packets were not taken in time")

    def _check_recorded(self, url: str, playback: ExactPlayback) -> None:
        seconds, totals = playback.written / self.codec.sample_rate, playback.totals()
        if playback.left:
            raise BadDataError(f"{url}: the sender left before its end: {seconds:.1f} s are written")
        if playback.broken:
            raise BadDataError(f"{url}: the connection was lost meanwhile: {seconds:.1f} s are written, with a gap")
        if wrong := totals.concealed + totals.recovered:
            raise BadDataError(f"{url}: {seconds:.1f} s are written, but {wrong} frames did not come as they were sent")

    def abandon(self) -> None:
        """Close the ends whose threads have not begun: they would have done so."""
        if self._source is not None and (self._capture is None or not self._capture.started):
            self._source.close()
        if self._sink is not None and (self._playback is None or not self._playback.started):
            self._sink.close(complete=False)
        self._source = self._sink = None

    async def _talk(self, stop: asyncio.Event) -> None:
        if self._playback is not None:
            self._playback.start()
        if self._capture is not None:
            self._capture.start()
        running = asyncio.ensure_future(self.peer.run())
        ends: list[asyncio.Future[Any]] = [
            running,
            asyncio.ensure_future(stop.wait()),
            asyncio.ensure_future(self._until()),
        ]
        ends += [worker.done for worker in (self._playback,) if worker is not None]
        try:
            await self._first(*ends, keep=self._playback.done if self._playback else None)
        finally:
            self._cut = stop.is_set() and self.options.role is Role.SEND and not self._sent.is_set()
            await self._close(running, Reason.LEAVING if stop.is_set() else Reason.NORMAL)

    async def _close(self, running: asyncio.Future[None], reason: Reason) -> None:
        """Everything in its turn, whatever fails: no more is captured, Bye, and what was heard is written."""
        results: list[BaseException | None] = []
        if self._capture is not None:
            results += await asyncio.gather(self._capture.stop(), return_exceptions=True)
        closed = await asyncio.gather(self.peer.close(reason), return_exceptions=True)
        self._answered = closed[0] is True
        results += [error for error in closed if isinstance(error, BaseException)]
        await asyncio.gather(running, return_exceptions=True)
        if self._playback is not None:
            results += await asyncio.gather(self._playback.finish(), return_exceptions=True)
            self.unwritten = not self._playback.done.done()
        workers = [worker for worker in (self._capture, self._playback) if worker is not None]
        self.hanging = any(not worker.done.done() for worker in workers)
        for error in results:
            if error is not None:
                raise error

    async def _until(self) -> None:
        """Until the time is up, or what was to be sent or heard once is over."""
        options, loop = self.options, asyncio.get_running_loop()
        end = None if options.seconds is None else loop.time() + options.seconds
        while end is None or loop.time() < end:
            if self._capture is not None and self._capture.done.done():
                self._capture.done.result()
                if self._sent.is_set() and options.role is Role.SEND:
                    return
            if options.once and self._playback is not None and (self._playback.ended or self._playback.left):
                return
            await asyncio.sleep(POLL_SECONDS if end is None else min(POLL_SECONDS, max(0.0, end - loop.time())))

    def open_ends(self) -> None:
        """Source and sink, before `run`."""
        options, rate = self.options, self.codec.sample_rate
        if options.source is not None:
            self._source = frontend.open_source(options.source, sample_rate=rate, channels=options.channels)
        if options.sink is not None:
            self._sink = frontend.open_sink(
                options.sink, sample_rate=rate, channels=options.channels, force=options.force
            )

    def _make_workers(self) -> None:
        options, codec = self.options, self.codec
        if self._source is not None:
            self._capture = Capture(
                codec,
                self._source,
                channels=options.channels,
                codebooks=options.codebooks or codec.n_codebooks,
                vbr=options.vbr,
                deliver=lambda codes: self.peer.push(codes),
                mute=lambda frames: self.peer.mute(frames),
                ended=self._ended,
            )
        if self._sink is not None:
            self._playback = (
                ExactPlayback(self._sink, codec)
                if options.exact
                else LivePlayback(
                    self._sink,
                    codec,
                    channels=options.channels,
                    correct_drift=options.correct_drift,
                    min_delay=options.delay_ms / 1000,
                )
            )

    def _ended(self, samples: int) -> None:
        self._end_said = self.peer.end(samples)
        self._sent.set()

    @staticmethod
    async def _first(*ends: asyncio.Future[Any], keep: asyncio.Future[Any] | None = None) -> None:
        """Until one of them is done; its error is raised. The others are cancelled, but for `keep`."""
        done, rest = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in rest:
            if end is not keep:
                end.cancel()
        for end in done:
            end.result()
