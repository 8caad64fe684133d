"""`streamdac completion SHELL`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click

from streamdac.frontend import Frontend, LazyCommand

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Print a completion script.")
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script for a shell, e.g. `eval "$(streamdac completion bash)"`."""
    from click.shell_completion import get_completion_class

    from streamdac.cli import COMPLETE, NAME
    from streamdac.cli import shell as program

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(program, {}, NAME, COMPLETE).source())


frontend = Frontend(
    commands={"completion": LazyCommand("streamdac.frontends.completion:completion", "Print a completion script.")}
)
