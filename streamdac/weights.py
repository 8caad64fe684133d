"""Weights on disk: safetensors with the config in the metadata, and official `.pth` files read without executing anything."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import CENTRED, ModelConfig, config_from_mapping
from .errors import BadDataError, NoInputError
from .files import written_whole
from .nn.network import DAC

FORMAT = "streamdac-1"
_MAX_FILE_BYTES = 4 << 30
_MOST_UNPACKED = 2  # times a zip's own size: torch.save compresses nothing, and weights hardly shrink


@dataclass(frozen=True)
class Weights:
    """A network's parameters, its config, and what else the file says (`name`, `step`, ...)."""

    config: ModelConfig
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def network(self) -> DAC:
        """The network with these parameters, as float32, in eval mode.

        Raises:
            BadDataError: a tensor is missing, unknown, of the wrong shape or not finite.
        """
        with torch.device("meta"):
            network = DAC(self.config)
        expected = network.state_dict()
        _check_tensors(expected, self.tensors)
        network.load_state_dict({name: self.tensors[name].float() for name in expected}, assign=True)
        return network.eval()


def load_weights(path: str | Path) -> Weights:
    """Read a `.safetensors` file, or an official `.pth` (`{"state_dict", "metadata": {"kwargs"}}`).

    Raises:
        NoInputError: no such file.
        BadDataError: not such a file, or its config or tensors are wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise NoInputError(f"no weights file {path}")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise BadDataError(f"{path}: {path.stat().st_size} bytes, the limit is {_MAX_FILE_BYTES}")
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_official(path)


def save_weights(
    path: str | Path, weights: Weights, *, dtype: torch.dtype = torch.float16, force: bool = False
) -> None:
    """Write safetensors whole or not at all; fp16 unless asked otherwise.

    Raises:
        OutputError: the file is there already and `force` is off, or it cannot be written.
    """
    tensors = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in weights.tensors.items()}
    metadata = {**weights.metadata, "format": FORMAT, "config": json.dumps(weights.config.to_dict())}
    with written_whole(Path(path), force=force) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _load_safetensors(path: Path) -> Weights:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise BadDataError(f"{path}: not a safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise BadDataError(f"{path}: format {metadata.get('format')!r}, need {FORMAT!r}")
    try:
        settings = json.loads(metadata["config"])
    except (KeyError, ValueError) as error:
        raise BadDataError(f"{path}: no readable config in its metadata") from error
    if not isinstance(settings, dict):
        raise BadDataError(f"{path}: config is a {type(settings).__name__}, need an object")
    return Weights(config_from_mapping(settings), tensors, metadata)


def _load_official(path: Path) -> Weights:
    content = read_saved(path, "a plain weights file")
    if not (isinstance(content, dict) and isinstance(content.get("state_dict"), Mapping)):
        raise BadDataError(f"{path}: no state_dict in it; need an official weights file or safetensors")
    metadata = content.get("metadata")
    kwargs = metadata.get("kwargs") if isinstance(metadata, Mapping) else None
    if not isinstance(kwargs, Mapping):
        raise BadDataError(f"{path}: no metadata.kwargs in it; need an official weights file")
    tensors = content["state_dict"]
    if not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()):
        raise BadDataError(f"{path}: state_dict holds something that is not a tensor")
    return Weights(config_from_mapping(kwargs, default_padding=CENTRED), tensors, {"name": path.stem})


def read_saved(path: Path, what: str) -> Any:
    """What `torch.save` wrote to a file: tensors and plain types only, nothing is executed. `what` it should be, for errors.

    Raises:
        BadDataError: it is not such a file, is damaged, or holds anything else.
    """
    if not zipfile.is_zipfile(path):
        raise BadDataError(
            f"{path}: not {what}: {path.stat().st_size} bytes that are not the zip which torch.save writes"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise BadDataError(f"{path}: not {what}: {error}") from error
    if any(
        name.endswith(("/.data/extern_modules", "/constants.pkl")) for name in (entry.filename for entry in entries)
    ):
        raise BadDataError(f"{path}: a torch.package or TorchScript file runs code when loaded; need {what}")
    size, whole = sum(entry.file_size for entry in entries), path.stat().st_size
    if size > _MOST_UNPACKED * whole:
        raise BadDataError(f"{path}: not {what}: {whole} bytes that claim to hold {size}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged content makes the reader fail in any way it likes
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise BadDataError(f"{path}: not {what}: {type(error).__name__} {reason}") from error


def _check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    if missing := sorted(set(expected) - set(found)):
        raise BadDataError(f"{len(missing)} of {len(expected)} tensors are missing, the first is {missing[0]}")
    if unknown := sorted(set(found) - set(expected)):
        raise BadDataError(f"{len(unknown)} unknown tensors, the first is {unknown[0]}")
    for name, tensor in expected.items():
        given = found[name]
        if given.shape != tensor.shape:
            raise BadDataError(f"{name} is {tuple(given.shape)}, need {tuple(tensor.shape)}")
        if not given.is_floating_point() or not bool(torch.isfinite(given).all()):
            raise BadDataError(f"{name} holds values that are not finite numbers")
