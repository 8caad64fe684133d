"""`streamdac convert`: official weights to safetensors."""

from __future__ import annotations

from pathlib import Path

import click

from .options import force_option
from .places import check_places

_SUFFIX = ".safetensors"


@click.command(short_help="Official weights to safetensors.")
@click.argument("weights", metavar="WEIGHTS")
@click.option("-o", "--output", default=None, metavar="FILE", help="Beside the input by default.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="float16 is half the size; it reads the same streams, and its own codes differ a little.",
)
@force_option
def convert(weights: str, output: str | None, dtype: str, force: bool) -> None:
    """Write WEIGHTS (a .pth file, or the name of a downloaded model) as safetensors and print where.

    Nothing in the file is executed. With float32 the model is the same to the last bit.
    """
    from streamdac.errors import UsageError
    from streamdac.files import refuse_existing
    from streamdac.models import find_model

    path = find_model(weights)
    target = Path(output) if output else path.with_suffix(_SUFFIX)
    if target.suffix != _SUFFIX:
        raise UsageError(f"{target}: the output must end in {_SUFFIX}")
    check_places([path], {"--output": target})
    refuse_existing(target, force=force)

    import torch

    from streamdac.weights import load_weights, save_weights

    found = load_weights(path)
    found.network()  # refuses tensors that do not fit
    save_weights(target, found, dtype=getattr(torch, dtype), force=force)
    click.echo(target)
