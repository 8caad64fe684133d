"""Checkpoints that appear whole or not at all, and the weights exported from them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from streamdac.config import ModelConfig
from streamdac.errors import BadDataError, NoInputError, OutputError, UsageError
from streamdac.files import written_whole
from streamdac.models import find_model
from streamdac.nn import DAC
from streamdac.nn.layers import fold_weight_norm
from streamdac.weights import FORMAT as WEIGHTS_FORMAT
from streamdac.weights import load_weights, read_saved

from .widen import WIDTHS, holds, widened

LATEST = "checkpoint-latest.pt"
BEST = "checkpoint-best.pt"
FORMAT = 1
SUFFIX = ".safetensors"
_MAY_DIFFER = ("padding", "n_codebooks", "quantizer_dropout", "long_term")


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain types) beside `path` and rename it into place.

    Raises:
        OutputError: it cannot be written; a file that was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OutputError(f"{path}: cannot write the checkpoint: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint; a run's folder means its latest.

    Raises:
        NoInputError: there is none.
        BadDataError: it is damaged, or of another version.
    """
    path = path / LATEST if path.is_dir() else path
    if not path.exists():
        raise NoInputError(f"{path}: no checkpoint")
    state = read_saved(path, "a readable checkpoint")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise BadDataError(f"{path}: not a checkpoint of this version")
    return cast("dict[str, Any]", state)


def export_weights(checkpoint: dict[str, Any], path: Path, *, average: bool = True, name: str | None = None) -> None:
    """Write a checkpoint's weights as fp16 safetensors (norms as fp32), with what inference needs in the metadata.

    Args:
        checkpoint: what `load_checkpoint` gave.
        path: of the new file.
        average: the averaged weights rather than the last ones.
        name: of the model; the recipe's by default.

    Raises:
        OutputError: it cannot be written.
        UsageError: its codebooks were never fitted, or `path` has another suffix than readers go by.
    """
    recipe = checkpoint["recipe"]
    if path.suffix != SUFFIX:
        raise UsageError(f"{path}: weights are written as {SUFFIX}")
    if not checkpoint["quantising"]:
        raise UsageError(
            f"at step {checkpoint['step']} there is no codebook yet: they are fitted at {recipe['quantise_from']}"
        )
    metadata = {
        "format": WEIGHTS_FORMAT,
        "name": name or str(recipe["name"]),
        "config": json.dumps(recipe["model"], sort_keys=True),
        "step": str(checkpoint["step"]),
        "audio_seconds": str(round(checkpoint["audio_seconds"])),
    }
    tensors = exported(checkpoint, average=average)
    try:
        with written_whole(path, force=True) as temporary:
            save_file(tensors, temporary, metadata)
    except SafetensorError as error:
        raise OutputError(f"{path}: cannot write the weights: {error}") from error


def exported(checkpoint: dict[str, Any], *, average: bool = True) -> dict[str, Tensor]:
    """A checkpoint's weights as `export_weights` writes them: what streams that are made with them depend on."""
    weights = cast("dict[str, Tensor]", checkpoint["average"]["values"] if average else checkpoint["network"])
    # Rounded, a quantiser has another fingerprint: where it was frozen to keep its streams decodable, it is left as it is.
    exact = "quantizer." if checkpoint["recipe"].get("freeze") == "encoder" else "no such name"
    tensors: dict[str, Tensor] = {}
    for key, value in sorted(weights.items()):
        if key.startswith(exact):
            tensors[key] = value.cpu().contiguous()
        elif key.endswith("weight_g"):
            direction = f"{key.removesuffix('g')}v"
            tensors[key], tensors[direction] = _whole(value, weights[direction])
        elif not key.endswith("weight_v"):
            tensors[key] = half_precision(value)
    return tensors


def _whole(g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Norms as they are, and the weight in half precision as its own direction: `fold_weight_norm` then changes nothing."""
    v, g = v.cpu(), g.cpu()
    weight = half_precision(fold_weight_norm(v, g))
    norms = torch.linalg.vector_norm(weight.double(), dim=(1, 2), keepdim=True)
    empty = norms == 0  # a direction needs a length
    direction = half_precision(v / torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True))
    return torch.where(empty, g, norms).float().contiguous(), torch.where(empty, direction, weight).contiguous()


def half_precision(value: Tensor) -> Tensor:
    """fp16, refused where a value does not fit."""
    half = value.detach().cpu().to(torch.float16).contiguous()
    if not bool(torch.isfinite(half).all()):
        raise BadDataError(f"a weight of {float(value.abs().max()):g} does not fit fp16")
    return half


def model_config(checkpoint: dict[str, Any]) -> ModelConfig:
    """Geometry of the checkpoint's network."""
    from streamdac.config import config_from_mapping

    return config_from_mapping(checkpoint["recipe"]["model"])


def is_run(path: Path) -> bool:
    """Whether `path` names a run or a checkpoint of one, not a file of weights."""
    return path.is_dir() or path.suffix == ".pt"


def load_initial(network: DAC, path: Path) -> bool:
    """Start `network` from a weights file, or from what would be exported of a checkpoint or run.

    Whether codebooks came with it: a run may have been left before it had any.

    They may be of the other padding, have narrower layers, more codebooks, another quantiser dropout, no predictor and no
    long-term filter; all else must be the same.

    Raises:
        NoInputError: there is no such file.
        BadDataError: it is damaged.
        UsageError: it is of another model.
    """
    quantising = True
    if is_run(path):
        checkpoint = load_checkpoint(path)
        config, tensors, quantising = model_config(checkpoint), exported(checkpoint), bool(checkpoint["quantising"])
    else:
        weights = load_weights(find_model(path))
        weights.check()
        config, tensors = weights.config, dict(weights.tensors)
    mine, theirs = network.config.to_dict(), config.to_dict()
    wider = holds(network.config, config)
    begins = () if config.predictor_dim else ("predictor_dim", "predictor_codebooks")
    keys = sorted({*mine, *theirs} - {*_MAY_DIFFER, *begins, *(WIDTHS if wider else ())})
    other = [key for key in keys if mine.get(key) != theirs.get(key)]
    if other or mine["n_codebooks"] > theirs["n_codebooks"]:
        differs = ", ".join(f"{key} {theirs.get(key)} against {mine.get(key)}" for key in [*other, "n_codebooks"])
        raise UsageError(
            f"{path} is of another model: {differs} "
            "(it may have narrower layers, more codebooks, another padding, no predictor and no long-term filter)"
        )
    wanted = network.state_dict()
    if not config.long_term:  # a filter that is new begins without an effect
        tensors |= {name: value for name, value in wanted.items() if name.startswith("decoder.long_term.")}
    if not config.predictor_dim:  # so does a predictor
        tensors |= {name: value for name, value in wanted.items() if name.startswith("quantizer.predictor.")}
    if missing := sorted(set(wanted) - set(tensors)):
        raise BadDataError(f"{path}: {len(missing)} of {len(wanted)} tensors are missing, the first is {missing[0]}")
    state = {name: tensors[name].float() for name in wanted}
    if any(mine.get(key) != theirs.get(key) for key in WIDTHS):
        state = widened(network, state)
    network.load_state_dict(state)
    return quantising
