"""The command-line shell: finds every command by entry point and imports it only when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from . import frontend
from ._version import __version__
from .errors import FrontendUnavailable, StreamdacError

BROKEN_PIPE = 141
INTERRUPTED = 130
IO_ERROR = 74


class Shell(click.Group):
    """All commands of all installed frontends."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, sorted; a frontend that cannot be loaded is named on stderr and left out."""
        return sorted(_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported."""
        found = _commands().get(cmd_name)
        return found.load() if isinstance(found, frontend.LazyCommand) else found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One line each, without importing any."""
        rows = [
            (name, command.help if isinstance(command, frontend.LazyCommand) else command.get_short_help_str(80))
            for name, command in sorted(_commands().items())
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _commands() -> dict[str, frontend.LazyCommand | click.Command]:
    found: dict[str, frontend.LazyCommand | click.Command] = {}
    for name in frontend.names():
        try:
            found |= frontend.load(name).commands
        except FrontendUnavailable as error:
            click.echo(f"streamdac: {error}", err=True)
    return found


@click.group(cls=Shell, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="streamdac", message="%(prog)s %(version)s")
def shell() -> None:
    """The Descript Audio Codec, streamed frame by frame.

    Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 65 bad data, 66 no input,
    69 unavailable, 74 I/O, 77 denied, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. No traceback ever reaches the user, unless STREAMDAC_TRACEBACK is set."""
    try:
        code = shell.main(args=arguments, prog_name="streamdac", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("streamdac: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return BROKEN_PIPE
    except (StreamdacError, OSError, MemoryError) as error:
        if os.environ.get("STREAMDAC_TRACEBACK"):
            raise
        return _report(error)


def _report(error: Exception) -> int:
    message = " ".join(str(error).split()) or type(error).__name__
    click.echo(f"streamdac: {message}", err=True)
    return error.exit_code if isinstance(error, StreamdacError) else IO_ERROR


def _silence_stdout() -> None:
    """Nobody reads any more: keep the interpreter from complaining when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run() -> None:
    """The console script."""
    sys.exit(main())
