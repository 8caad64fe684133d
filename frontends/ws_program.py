"""What the websocket commands share: running until interrupted, and one line or object a second."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .ws_peer import Peer
    from .ws_stats import PeerStats, PeerWatch

SHOW_SECONDS = 1.0

Look = Callable[[], tuple[dict[str, Any], str]]


@contextlib.contextmanager
def interrupted() -> Iterator[asyncio.Event]:
    """An event that SIGINT or SIGTERM sets; a second one ends the program as ever."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    chosen = (signal.SIGINT, signal.SIGTERM)

    def stop() -> None:
        event.set()
        for number in chosen:
            loop.remove_signal_handler(number)

    added = []
    for number in chosen:
        # Not on every platform, and in the main thread only.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.add_signal_handler(number, stop)
            added.append(number)
    try:
        yield event
    finally:
        for number in added:
            loop.remove_signal_handler(number)


class Display:
    """Shows something every second: `--json` objects on stdout, else a line on a terminal's stderr."""

    def __init__(self, *, as_json: bool, quiet: bool, err: bool = False) -> None:
        self.as_json = as_json
        self._err = err  # stdout is taken by audio
        self._terminal = not quiet and not as_json and sys.stderr.isatty()
        self._quiet = quiet
        self._width = 0

    def note(self, text: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._clear()
            with contextlib.suppress(OSError):  # nobody is there to read it
                click.echo(f"streamdac: {text}", err=True)

    def show(self, thing: dict[str, Any], line: str) -> None:
        """The state now."""
        if self.as_json:
            click.echo(json.dumps(thing), err=self._err)
        elif self._terminal:
            columns = _columns()
            self._width = min(len(line), columns)
            self._draw("\r\x1b[K" + line[:columns])

    async def keep(self, look: Look) -> None:
        """Show every second, until cancelled; then once more.

        Raises:
            OSError: it cannot be written.
        """
        if not self.as_json and not self._terminal:
            return
        try:
            while True:
                await asyncio.sleep(SHOW_SECONDS)
                self.show(*look())
        finally:
            self.show(*look())
            if self._terminal:
                self._draw("\n")
                self._width = 0

    @contextlib.asynccontextmanager
    async def showing(self, look: Look, stop: asyncio.Event) -> AsyncIterator[None]:
        """Keep showing meanwhile; where that fails, `stop` is set.

        Raises:
            OSError: it could not be written.
        """
        task = asyncio.ensure_future(self.keep(look))
        task.add_done_callback(lambda task: stop.set() if not task.cancelled() and task.exception() else None)
        try:
            yield
        finally:
            task.cancel()
            (error,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(error, Exception):
            raise error

    def _clear(self) -> None:
        if self._width:
            self._draw("\r\x1b[K")
            self._width = 0

    def _draw(self, text: str) -> None:
        """On the terminal, as long as there is one: who works in the background goes on without."""
        try:
            click.echo(text, nl=False, err=True)
        except OSError:
            self._terminal = False


def _columns() -> int:
    import shutil

    return max(20, shutil.get_terminal_size().columns - 1)


def peer_look(watch: PeerWatch) -> Look:
    """For `Display.keep`."""
    from .ws_stats import as_object, peer_line

    def look() -> tuple[dict[str, Any], str]:
        stats: PeerStats = watch.look()
        return as_object(stats), peer_line(stats)

    return look


def introduce(peer: Peer) -> str:
    """What was agreed."""
    channel = peer.channel
    accept = channel.session.agreement.accept if channel else None
    if accept is None:
        return "no session"
    codec = peer.codec
    kbps = codec.config.bitrate(accept.codebooks) * accept.channels / 1000
    return (
        f"{peer.target.url}: model {codec.name}, {codec.sample_rate} Hz, {accept.channels} channel(s), {accept.codebooks} "
        f"codebooks ({kbps:.1f} kbps)"
    )
