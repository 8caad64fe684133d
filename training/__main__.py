"""`python -m streamdac.training`: corpus, train, average, evaluate, export."""

from __future__ import annotations

import importlib
import os
import sys

import click

from streamdac.errors import OutputError, StreamdacError
from streamdac.signals import end_in_order

# Idle threads sleep instead of spinning: a run shares the machine with other work. Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_COMMANDS = {
    "corpus": ("streamdac.training.corpus", "corpus_command"),
    "train": ("streamdac.training.train", "train_command"),
    "average": ("streamdac.training.mean", "average_command"),
    "evaluate": ("streamdac.training.evaluate", "evaluate_command"),
    "export": ("streamdac.training.train", "export_command"),
}


class _Lazy(click.Group):
    """Commands are imported when called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=_Lazy)
def main() -> None:
    """Train streamdac models: fetch a corpus, train, export weights."""


def run() -> int:
    """Run the program; errors become one line and an exit code."""
    try:
        main.main(standalone_mode=False)
    except StreamdacError as error:
        click.echo(f"error: {error}", err=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {name}{error.strerror or error}", err=True)
        return OutputError.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    return 0


if __name__ == "__main__":
    end_in_order()
    sys.exit(run())
