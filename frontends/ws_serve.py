"""`streamdac serve`: a relay, and with --input or --output a peer of its own in it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamdac.errors import UnavailableError, UsageError

from .options import force_option, load_codec, model_options, quiet_option

if TYPE_CHECKING:
    from .ws_access import Settings
    from .ws_run import Program


@click.command(short_help="Let peers talk: a relay of rooms over websockets.")
@click.option("--host", default="127.0.0.1", show_default=True, help="An address of this machine; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8765, show_default=True, help="0 for any that is free.")
@click.option("--tls-cert", type=click.Path(path_type=Path), default=None, help="PEM; with --tls-key: wss:// only.")
@click.option("--tls-key", type=click.Path(path_type=Path), default=None)
@click.option("--token-file", type=click.Path(path_type=Path), default=None, help="Only who knows the token is let in.")
@click.option("--max-sessions", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--room", "rooms", multiple=True, help="Only this room; may be repeated. Any by default.")
@click.option("--origin", "origins", multiple=True, help="A web page's origin that may connect; may be repeated.")
@click.option("--echo", is_flag=True, help="Everybody hears itself too, for a test.")
@click.option("--adapt/--no-adapt", default=True, help="Fewer codebooks to who is on a slow link.  [default: on]")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without TLS and token.")
@click.option("-i", "--input", "source", default=None, help="Take part: talk from a file, - or a source such as mic:.")
@click.option("-o", "--output", "sink", default=None, help="Take part: hear with a file, - or a sink such as speaker:.")
@click.option("--json", "as_json", is_flag=True, help="One object a second on stdout.")
@model_options
@force_option
@quiet_option
def serve(
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    max_sessions: int,
    rooms: tuple[str, ...],
    origins: tuple[str, ...],
    echo: bool,
    adapt: bool,
    insecure: bool,
    source: str | None,
    sink: str | None,
    as_json: bool,
    model: str | None,
    device: str,
    engine: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> int:
    """Run a server, until interrupted or until its --input has ended: what one peer in a room says, the others hear.

    Packets are forwarded without decoding, so it needs no model, unless it takes part by --input or --output. With a
    pipe as --input it listens from when audio has begun to come.
    GET /healthz on the same port says how it is; the numbers are only for who has the token.
    """
    try:
        from .ws_access import Settings, check_exposure, check_rooms, read_token
        from .ws_run import Options, Program, run_program
    except ImportError as error:
        raise UnavailableError(f"needs the package {error.name}: pip install 'streamdac[websocket]'") from error
    token = None if token_file is None else read_token(token_file)
    settings = Settings(
        host, port, tls_cert, tls_key, token, max_sessions, rooms, origins, echo, adapt, insecure
    )  # fmt: skip
    if source is None and sink is None:
        return asyncio.run(run_server(settings, as_json=as_json, quiet=quiet))
    if tls_cert is not None:
        raise UsageError("--input and --output with TLS: run a second program, `streamdac call wss://...`")
    check_rooms(settings)  # said before a model is loaded and a pipe waited for
    check_exposure(settings)
    options = Options("", source=source, sink=sink, force=force, adapt=adapt, quiet=quiet)
    program = Program(options, load_codec(model, device, engine, threads or 1))
    return run_program(program, lambda: run_server(settings, as_json=as_json, quiet=quiet, own=program))


async def run_server(settings: Settings, *, as_json: bool, quiet: bool, own: Program | None = None) -> int:
    """Until interrupted, or until the peer of its own ends; the exit code."""
    from .ws_program import Display, interrupted
    from .ws_server import RelayServer
    from .ws_stats import as_object, server_line

    display = Display(as_json=as_json, quiet=quiet, err=own is not None and own.options.sink == "-")
    server = RelayServer(settings)
    with interrupted() as stop:
        await server.start()
        scheme = "ws" if settings.tls_cert is None else "wss"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        display.note(f"listening on {scheme}://{host}:{server.port}")

        def look() -> tuple[dict[str, object], str]:
            stats = server.look()
            return as_object(stats), server_line(stats)

        async with display.showing(look, stop):
            try:
                if own is None:
                    await stop.wait()
                    return 0
                return await take_part(settings, server.port, own, stop)
            finally:
                await server.stop()


async def take_part(settings: Settings, port: int, own: Program, stop: asyncio.Event) -> int:
    """A peer in our own server, in its first room; the exit code."""
    from .ws_client import Target, with_room

    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    url = f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
    room = settings.rooms[0] if settings.rooms else None
    return await own.run_until(stop, Target(with_room(url, room), settings.token))
