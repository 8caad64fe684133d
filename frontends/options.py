"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .rates import LEAST_RATE, MOST_RATE

if TYPE_CHECKING:
    from streamdac.codec import Codec

F = TypeVar("F", bound=Callable[..., Any])

RAW_NAMES = ("s16le", "f32le")


def model_options(command: F) -> F:
    """--model, --device, --engine, --threads."""
    for option in (
        click.option(
            "--threads", type=click.IntRange(1, 256), default=None, help="CPU threads; small models run best on 1."
        ),
        click.option("--engine", type=click.Choice(["auto", "torch", "native"]), default="auto", show_default=True),
        click.option("--device", default="cpu", show_default=True, help="A torch device: cpu, cuda, cuda:1, mps."),
        click.option(
            "--model", default=None, help="A weights file or a model's name; the embedded causal model by default."
        ),
    ):
        command = option(command)
    return command


def raw_options(command: F) -> F:
    """--raw, --rate, --channels."""
    for option in (
        click.option(
            "--channels",
            type=click.IntRange(1, 32),
            default=None,
            help="Of raw PCM on stdin; a wish for other sources.",
        ),
        click.option(
            "--rate",
            type=click.IntRange(LEAST_RATE, MOST_RATE),
            default=None,
            help="Hz, of raw PCM on stdin; a wish for other sources.",
        ),
        click.option("--raw", type=click.Choice(RAW_NAMES), default=None, help="Headerless PCM in the pipe."),
    ):
        command = option(command)
    return command


vbr_option = click.option(
    "--vbr", is_flag=True, help="Fewer codebooks where it is quieter: more sound for as many bits on average."
)
force_option = click.option("-f", "--force", is_flag=True, help="Overwrite outputs.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")


def load_codec(model: str | None, device: str, engine: str, threads: int | None) -> Codec:
    """The model that the options name."""
    import torch

    import streamdac

    if threads:
        torch.set_num_threads(threads)
    return streamdac.load(model, device=device, engine=engine, threads=threads or 1)


def progress(total: int | None, what: str, *, quiet: bool, unit: str = "s", scale: float = 1.0) -> Any:
    """A tqdm bar on stderr; silent where stderr is no terminal."""
    import sys

    from tqdm import tqdm

    hidden = quiet or not sys.stderr.isatty()
    return tqdm(
        total=None if total is None else total * scale,
        desc=what,
        unit=unit,
        disable=hidden,
        leave=False,
        unit_scale=True,
    )
