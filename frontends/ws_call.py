"""`streamdac call`, `send` and `listen`: a peer with audio ends of any frontend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from streamdac.errors import UnavailableError, UsageError
from streamdac.numbers import FiniteRange

from .options import force_option, load_codec, model_options, quiet_option, vbr_option

F = TypeVar("F", bound=Callable[..., Any])


def peer_options(command: F) -> F:
    """What every peer has."""
    for option in reversed(
        (
            click.argument("url"),
            click.option("--room", default=None, help="The room, where the URL does not name it."),
            click.option("--token-file", type=click.Path(path_type=Path), default=None, help="Holds the server's token."),
            click.option(
                "--tls-ca", type=click.Path(path_type=Path), default=None, help="Certificates to trust, not the system's."
            ),
            click.option(
                "--channels", type=click.IntRange(1, 32), default=1, show_default=True, help="Of what is sent and heard."
            ),
            click.option("-n", "--codebooks", type=click.IntRange(1), default=None, help="At most so many."),
            click.option("--seconds", type=FiniteRange(0, min_open=True), default=None, help="End after so long."),
            click.option(
                "--retry", "retry_seconds", type=FiniteRange(0), default=60.0, show_default=True,
                help="Seconds that a lost connection is tried again.",
            ),
            click.option("--json", "as_json", is_flag=True, help="One object a second on stdout."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def send_options(command: F) -> F:
    """What a peer that sends has."""
    for option in reversed(
        (
            vbr_option,
            click.option(
                "--frames-per-packet", type=click.IntRange(1, 64), default=1, show_default=True, help="More cost delay."
            ),
            click.option(
                "--redundancy", type=click.IntRange(0, 64), default=0, show_default=True,
                help="Frames repeated in each packet by the codebooks that matter most; more are where packets are lost.",
            ),
            click.option("--adapt/--no-adapt", default=True, help="Fewer codebooks where the link is slow.  [default: on]"),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def hear_options(command: F) -> F:
    """What a peer that hears has."""
    for option in reversed(
        (
            click.option(
                "--delay", "delay_ms", type=FiniteRange(0, 900), default=20.0, show_default=True,
                help="ms that the jitter buffer holds at least.",
            ),
            click.option(
                "--drift/--no-drift", "correct_drift", default=True,
                help="Play up to 1 % faster or slower, so that the delay stays.  [default: on]",
            ),
        )
    ):  # fmt: skip
        command = option(command)
    return command


@click.command(short_help="Talk and listen in a room of a server.")
@peer_options
@click.option("-i", "--input", "source", default="mic:", show_default=True, help="A file, - or a source.")
@click.option("-o", "--output", "sink", default="speaker:", show_default=True, help="A file, - or a sink.")
@send_options
@hear_options
@model_options
@force_option
@quiet_option
def call(model: str | None, device: str, engine: str, threads: int | None, **options: Any) -> int:
    """Talk and listen, until interrupted: what one says, the others in the room hear.

    URL is ws://HOST[:PORT][/ROOM], or wss:// with TLS.
    """
    return _run(model, device, engine, threads, options)


@click.command(short_help="Send audio to a room of a server.")
@peer_options
@click.option("-i", "--input", "source", default="mic:", show_default=True, help="A file, - or a source.")
@send_options
@model_options
@quiet_option
def send(model: str | None, device: str, engine: str, threads: int | None, **options: Any) -> int:
    """Send audio in real time, until it ends. URL is ws://HOST[:PORT][/ROOM], or wss:// with TLS."""
    return _run(model, device, engine, threads, options)


@click.command(short_help="Hear what is said in a room of a server.")
@peer_options
@click.option("-o", "--output", "sink", default="speaker:", show_default=True, help="A file, - or a sink.")
@hear_options
@click.option(
    "--exact",
    is_flag=True,
    help="Every frame as it was sent: no jitter buffer, no silence between; one sender at a time.",
)
@click.option("--once", is_flag=True, help="End when the first stream has ended.")
@model_options
@force_option
@quiet_option
def listen(model: str | None, device: str, engine: str, threads: int | None, **options: Any) -> int:
    """Hear a room, until interrupted. URL is ws://HOST[:PORT][/ROOM], or wss:// with TLS."""
    return _run(model, device, engine, threads, options)


def _run(model: str | None, device: str, engine: str, threads: int | None, options: dict[str, Any]) -> int:
    """Imports what is slow, or may be missing, only now."""
    try:
        from .ws_run import Options, run_peer
    except ImportError as error:
        raise UnavailableError(f"needs the package {error.name}: pip install 'streamdac[websocket]'") from error
    typed = Options(**options)
    if not typed.retry_seconds >= 0:
        raise UsageError(f"--retry is {typed.retry_seconds:g}, need 0 or more seconds")
    target = typed.target()  # what is wrong with it is said before a model is loaded
    # One hop is too little work to share: one thread is fastest.
    return run_peer(typed, load_codec(model, device, engine, threads or 1), target)
