"""The official tool's options: which of its models is meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from streamdac.models import DEFAULT_OFFICIAL, LATEST, OFFICIAL, downloaded, official_name

F = TypeVar("F", bound=Callable[..., Any])

TYPES = tuple(dict.fromkeys(kind for kind, _, _ in OFFICIAL.values()))
BITRATES = tuple(dict.fromkeys(bitrate for _, bitrate, _ in OFFICIAL.values()))


def type_options(command: F) -> F:
    """--model_type, --model_bitrate, --model_tag."""
    for option in (
        click.option(
            "--model_tag", default=None, metavar="TAG", help="Release of an official model; latest by default."
        ),
        click.option("--model_bitrate", type=click.Choice(BITRATES), default=None, help="8kbps by default."),
        click.option("--model_type", type=click.Choice(TYPES), default=None, help="Official model; 44khz by default."),
    ):
        command = option(command)
    return command


def official_options(command: F) -> F:
    """As `type_options`, with --weights_path and --verbose."""
    for option in (
        click.option("--verbose", is_flag=True, help="Name each file that is written."),
        click.option("--weights_path", default=None, metavar="FILE", help="Weights of an official model."),
    ):
        command = option(command)
    return type_options(command)


def named_model(model_type: str | None, model_bitrate: str | None) -> str:
    """The preset's name of the official model that the options name.

    Raises:
        UsageError: there is none.
    """
    return official_name(model_type or OFFICIAL[DEFAULT_OFFICIAL][0], model_bitrate or OFFICIAL[DEFAULT_OFFICIAL][1])


def official_model(
    weights_path: str | None,
    model_type: str | None,
    model_bitrate: str | None,
    model_tag: str | None,
    *,
    instead: str | None = None,
) -> str | None:
    """The weights that the official options name; None where none of them is given. A path goes before the others.

    Args:
        instead: --model, which goes before all of them: what they name need not be there then.

    Raises:
        UsageError: no such model.
        UnavailableError: not downloaded.
    """
    if not (weights_path or model_type or model_bitrate or model_tag):
        return None
    if chosen := instead or weights_path:
        return chosen
    return str(downloaded(named_model(model_type, model_bitrate), model_tag or LATEST))
