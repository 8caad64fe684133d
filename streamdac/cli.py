"""The command-line shell: finds every command by entry point and imports it only when it is called."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache

import click

from . import frontend
from ._version import __version__
from .errors import DeniedError, FrontendUnavailable, StreamdacError
from .signals import end_in_order

BROKEN_PIPE = 141
INTERRUPTED = 130
IO_ERROR = 74
FAILED = 1
NAME = "streamdac"
TRACEBACK = "STREAMDAC_TRACEBACK"
COMPLETE = "_STREAMDAC_COMPLETE"

Command = frontend.LazyCommand | click.Command


class Shell(click.Group):
    """All commands of all installed frontends."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, sorted; a frontend that cannot be loaded is named on stderr and left out."""
        return sorted(_commands())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported.

        Raises:
            FrontendUnavailable: an outsider's command cannot be imported.
        """
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


@cache
def _commands() -> dict[str, Command]:
    """Every command. What is wrong with a frontend is said once, and harms no other."""
    found: dict[str, Command] = {}
    for problem in frontend.clashes():
        click.echo(f"streamdac: {problem}", err=True)
    for name in frontend.names():
        try:
            offered = frontend.load(name).commands
        except FrontendUnavailable as error:
            click.echo(f"streamdac: {_one_line(error)}", err=True)
            continue
        for command in sorted(offered):
            if command in found:
                click.echo(f"streamdac: frontend {name!r} offers a second command {command!r}: left out", err=True)
            found.setdefault(command, offered[command])
    return found


@click.group(cls=Shell, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name=NAME, message="%(prog)s %(version)s")
def shell() -> None:
    """The Descript Audio Codec, streamed frame by frame.

    Results go to stdout, everything else to stderr. Exit codes: 0 ok, 1 failed, 2 usage, 65 bad data, 66 no input,
    69 unavailable, 74 I/O, 77 denied, 130 interrupted, 141 closed pipe, 143 terminated.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. No traceback ever reaches the user, unless STREAMDAC_TRACEBACK is set."""
    try:
        code = _invoke(sys.argv[1:] if arguments is None else list(arguments))
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("streamdac: interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        click.echo(f"streamdac: {_one_line(error)}", err=True)
        return exit_code(error)


def _invoke(arguments: list[str]) -> int:
    """What click's own `main` does, less its ideas of a closed pipe (exit 1) and of an interrupt."""
    if instruction := os.environ.get(COMPLETE):
        from click.shell_completion import shell_complete

        return shell_complete(shell, {}, NAME, COMPLETE, instruction)
    with shell.make_context(NAME, arguments) as context:
        code = shell.invoke(context)
    return code if isinstance(code, int) else 0


def exit_code(error: Exception) -> int:
    """What a command that fails with `error` exits with."""
    if isinstance(error, StreamdacError):
        return error.exit_code
    if isinstance(error, PermissionError):
        return DeniedError.exit_code
    return IO_ERROR if isinstance(error, OSError) else FAILED


def _one_line(error: Exception) -> str:
    if isinstance(error, StreamdacError):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    # A bug, ours or a plug-in's, or the machine's limits (torch says so by a RuntimeError of many lines).
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first} ({TRACEBACK}=1 shows where)"


def run() -> None:
    """The console script."""
    _open_closed_streams()
    end_in_order()
    code = main()
    _let_go_of_stdout()
    sys.exit(code)


def _open_closed_streams() -> None:
    """Put something in the place of standard streams that were closed: else the next file opened takes that place.

    Reading gives the end at once, writing fails as it should.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 (for the rest of the process)


def _let_go_of_stdout() -> None:
    """What could not be written was reported; keep the interpreter from trying again, and complaining, at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
