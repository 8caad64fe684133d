"""Runs `live` between a microphone and a loudspeaker: display, keys, JSON lines, the report."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamdac.errors import UnavailableError
from streamdac.files import written_whole

from .chain import Settings
from .device_names import may_feed_back
from .display import Display, press
from .keyboard import Keyboard
from .latency_probe import Probe
from .live_loop import LiveLoop, Options
from .live_status import latency_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdac.codec import Codec

    from .bridge import Process

_DRAW_SECONDS = 0.1
_SAY_SECONDS = 1.0
_CLICKS = 8
_FEEDBACK = (
    "microphone and loudspeaker look like those of one case: wear headphones, or it will howl (m mutes, Ctrl-C ends)"
)


@dataclass(frozen=True)
class Wishes:
    """What is to come of a run beside the sound."""

    seconds: float | None = None
    record: str | None = None
    as_json: bool = False
    force: bool = False


def run(codec: Codec, options: Options, settings: Settings, wishes: Wishes) -> None:
    """Until Ctrl-C, `q`, or so many seconds.

    Raises:
        UnavailableError: a device is gone and nobody is to wait for it; what was recorded until then is kept.
    """
    display = Display(sys.stderr)
    lost: UnavailableError | None = None
    with ExitStack() as stack:
        record = None
        if wishes.record:
            path = stack.enter_context(written_whole(Path(wishes.record), force=wishes.force))
            record = stack.enter_context(path.open("wb"))
        loop = LiveLoop(codec, options, settings, record=record, notify=display.say)
        with running(loop), Keyboard() as keys:
            opened = loop.stream.opened
            if may_feed_back(opened.input, opened.output):
                display.say(_FEEDBACK)
            try:
                _watch(loop, keys, display, wishes)
            except KeyboardInterrupt:
                pass
            except UnavailableError as error:
                if not loop.chain.frames:
                    raise
                lost = error
            display.clear()
    if lost is not None:
        raise lost
    status = loop.status()
    if wishes.as_json:
        click.echo(json.dumps({**status.to_dict(), "final": True}))
    else:
        click.echo("\n".join(status.lines()))


def measure(codec: Codec, options: Options, settings: Settings, *, as_json: bool) -> None:
    """Send clicks round and print how long they took, beside the parts that add up to it."""
    probes: list[Probe] = []

    def wrap(chain: Process) -> Process:
        probes.append(Probe(chain, sample_rate=codec.sample_rate, clicks=_CLICKS, channels=options.channels))
        return probes[0]

    settings.original = True
    loop = LiveLoop(
        codec, replace(options, ramp=False, reconnect=False), settings, wrap=wrap,
        notify=lambda line: click.echo(line, err=True),
    )  # fmt: skip
    with running(loop):
        while not probes[0].done:
            time.sleep(_DRAW_SECONDS)
            loop.check()
        loop.check()
    found, status = probes[0].result(), loop.status()
    unexplained = found.round_trip_ms - status.total_ms
    if as_json:
        click.echo(json.dumps({**asdict(found), "unexplained_ms": unexplained, **status.to_dict()}))
        return
    click.echo(
        f"round trip   {found.round_trip_ms:.1f} ms measured, {found.least_ms:.1f} to {found.most_ms:.1f}, "
        f"{found.found} of {found.sent} clicks"
    )
    click.echo(f"parts        {status.total_ms:.1f} ms = {latency_line(status.latency)}")
    click.echo(f"difference   {unexplained:+.1f} ms: what the devices take beyond what they claim")
    click.echo("\n".join(status.lines()[-1:]))


@contextmanager
def running(loop: LiveLoop) -> Iterator[None]:
    """Started, and stopped in order whatever happens; SIGTERM ends it as Ctrl-C does."""
    loop.start()
    before: Any = signal.getsignal(signal.SIGTERM)
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGTERM, before)
        loop.stop()


def _watch(loop: LiveLoop, keys: Keyboard, display: Display, wishes: Wishes) -> None:
    end = None if wishes.seconds is None else time.perf_counter() + wishes.seconds
    said = time.perf_counter()
    going = True
    while going and (end is None or time.perf_counter() < end):
        loop.check()
        key = keys.wait(_DRAW_SECONDS if end is None else max(0.0, min(_DRAW_SECONDS, end - time.perf_counter())))
        going = key is None or press(key, loop.settings, loop.codec.n_codebooks)
        now = time.perf_counter()
        if wishes.as_json and now - said >= _SAY_SECONDS:
            said += _SAY_SECONDS
            click.echo(json.dumps(loop.status().to_dict()))
            sys.stdout.flush()
        elif not wishes.as_json:
            display.draw(loop.status())
