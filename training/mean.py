"""`average`: the mean of runs that branched off one another, as a run to go on from, to export or to measure.

Runs that end in one valley of the loss differ by noise, and their mean has less of it (Wortsman et al. 2022). What each run
gives is its averaged weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from streamdac.errors import OutputError, UsageError
from streamdac.models import find_model
from streamdac.nn.layers import fold_weight_norm
from streamdac.weights import load_weights

from .checkpoint import LATEST, is_run, load_checkpoint, save_checkpoint


def mean_of_weights(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each tensor; of whole weights, not of their directions, where a weight norm takes them apart.

    What is the same in all stays as it is, to the bit: a frozen quantiser keeps its fingerprint.
    """
    whole = [_folded(tensors) for tensors in weights]
    mean = {name: torch.stack([tensors[name].float() for tensors in whole]).mean(0) for name in whole[0]}
    for name in [name for name in mean if name.endswith(".weight_v")]:
        lengths = torch.linalg.vector_norm(mean[name], dim=(1, 2), keepdim=True)
        mean[_length(name)] = lengths
        mean[name] = torch.where(
            lengths == 0, weights[0][name].float(), mean[name]
        )  # a row without length has a direction
    for name in mean:
        pair = (name, _length(name)) if name.endswith(".weight_v") else (name,)
        if not name.endswith(".weight_g") and all(_alike(weights, part) for part in pair):
            mean |= {part: weights[0][part].clone() for part in pair}
    return mean


def _alike(weights: Sequence[Mapping[str, Tensor]], name: str) -> bool:
    return all(torch.equal(tensors[name], weights[0][name]) for tensors in weights[1:])


def _length(name: str) -> str:
    return name.removesuffix("_v") + "_g"


def _folded(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    directions = {name for name in tensors if name.endswith(".weight_v")}
    return {
        name: fold_weight_norm(value, tensors[_length(name)]) if name in directions else value
        for name, value in tensors.items()
    }


def mean_of_runs(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A checkpoint with the mean of the weights of `states`; the optimiser, the step and all else are the last one's.

    Raises:
        UsageError: fewer than two, of different models, or the last is nothing but weights.
    """
    if len(states) < 2:
        raise UsageError(f"the mean of {len(states)} run: need two or more")
    if "optimizers" not in states[-1]:
        raise UsageError("the last of them is a file of weights, need a run: its optimiser is the mean's")
    models = [{**state["recipe"]["model"], "quantizer_dropout": 0.0} for state in states]
    names = [sorted(state["average"]["values"]) for state in states]
    for number in range(1, len(states)):
        if models[number] != models[0] or names[number] != names[0]:
            raise UsageError(f"run {number + 1} is of another model than the first")
        if states[number]["quantising"] != states[0]["quantising"]:
            raise UsageError(f"of run {number + 1} and the first only one has codebooks yet")
    mean = mean_of_weights([state["average"]["values"] for state in states])
    made = dict(states[-1])
    made["average"] = {**made["average"], "values": mean}
    made["network"] = {name: mean[name].clone() if name in mean else t for name, t in made["network"].items()}
    if all(state.get("means") is not None for state in states):
        sums = {key: torch.stack([state["means"][key] for state in states]).mean(0) for key in ("counts", "sums")}
        made["means"] = {**made["means"], **sums}
    elif made.get("means") is not None:  # the codebooks' running means begin anew where the codebooks are
        made["means"] = {**made["means"], "counts": torch.zeros_like(made["means"]["counts"])}
    return made


def _state(path: Path) -> dict[str, Any]:
    """A run's checkpoint, or what it would have of a file of weights."""
    if is_run(path):
        return load_checkpoint(path)
    weights = load_weights(find_model(path))
    weights.check()
    values = {name: tensor.float() for name, tensor in weights.tensors.items()}
    return {"recipe": {"model": weights.config.to_dict()}, "average": {"values": values}, "quantising": True}


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the mean."
)
@click.option("-f", "--force", is_flag=True, help="Overwrite its checkpoint.")
def average_command(runs: tuple[Path, ...], output: Path, force: bool) -> None:
    """The mean of RUNS (folders, checkpoints or files of weights), to go on from with `train --from`.

    The last must be a run: its optimiser and its step are the mean's.
    """
    target = output / LATEST
    if target.exists() and not force:
        raise OutputError(f"{target} exists; -f overwrites it")
    made = mean_of_runs([_state(run) for run in runs])
    output.mkdir(parents=True, exist_ok=True)
    save_checkpoint(target, made)
    click.echo(f"{target}: the mean of {len(runs)} runs at step {made['step']}")
