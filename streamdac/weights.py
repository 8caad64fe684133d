"""Weights on disk: safetensors with the config in the metadata, and official `.pth` files read without executing anything."""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .config import CENTRED, ModelConfig, config_from_mapping
from .errors import BadDataError, NoInputError, OutputError
from .files import unreadable, written_whole
from .nn.network import DAC

FORMAT = "streamdac-1"
_MAX_FILE_BYTES = 4 << 30
_MOST_UNPACKED = 2  # times a zip's own size: torch.save compresses nothing, and weights hardly shrink
_ZIP_MAGIC = b"PK\x03\x04"  # torch takes what begins otherwise for its older format
_SAVED_ENTRY = re.compile(r"[^/]+/(data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment)")
_MAX_PICKLE_BYTES = 16 << 20  # of names, shapes and settings; tensors lie beside it
# What weights and checkpoints are made of. torch allows more, such as bytearrays of any size.
_SAVED_NAMES = frozenset(
    (
        "collections OrderedDict",
        "torch Size",
        "torch device",
        *(f"torch._utils _rebuild_{what}" for what in ("tensor", "tensor_v2", "parameter")),
        *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16")),
        *(f"torch {kind}Storage" for kind in ("Long", "Int", "Short", "Char", "Byte", "Bool")),
    )
)


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
        network = self.check()
        network.load_state_dict({name: self.tensors[name].float() for name in network.state_dict()}, assign=True)
        return network.eval()

    def check(self) -> DAC:
        """A network of this config without memory for parameters (on torch's "meta"), to which these belong.

        Raises:
            BadDataError: a tensor is missing, unknown, of the wrong shape or not finite.
        """
        with torch.device("meta"):
            network = DAC(self.config)
        _check_tensors(network.state_dict(), self.tensors)
        return network


def load_weights(path: str | Path) -> Weights:
    """Read a `.safetensors` file, or an official `.pth` (`{"state_dict", "metadata": {"kwargs"}}`).

    Raises:
        NoInputError: no such file.
        DeniedError: it may not be read.
        BadDataError: not such a file, or its config or tensors are wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise NoInputError(f"no weights file {path}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise unreadable(path, error) from error
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise BadDataError(f"{path}: {path.stat().st_size} bytes, the limit is {_MAX_FILE_BYTES}")
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_official(path)


def save_weights(
    path: str | Path, weights: Weights, *, dtype: torch.dtype = torch.float16, force: bool = False
) -> None:
    """Write safetensors whole or not at all; fp16 unless asked otherwise, but for a quantiser that fp16 does not hold.

    What its codes mean, and with it the fingerprint, is the same in either.

    Raises:
        OutputError: the file is there already and `force` is off, or it cannot be written.
    """
    whole = {name: tensor.detach().cpu() for name, tensor in weights.tensors.items()}
    books = [tensor for name, tensor in whole.items() if name.startswith("quantizer.")]
    exact = all(torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) for tensor in books)
    tensors = {
        name: (tensor if name.startswith("quantizer.") and not exact else tensor.to(dtype)).contiguous()
        for name, tensor in whole.items()
    }
    metadata = {**weights.metadata, "format": FORMAT, "config": json.dumps(weights.config.to_dict())}
    try:
        with written_whole(Path(path), force=force) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except SafetensorError as error:  # so it reports a full disk
        raise OutputError(f"{path}: cannot write the weights: {error}") from error


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
    except (KeyError, ValueError, RecursionError) as error:
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
    with path.open("rb") as file:
        begins = file.read(len(_ZIP_MAGIC))
    if begins != _ZIP_MAGIC or not zipfile.is_zipfile(path):
        raise BadDataError(
            f"{path}: not {what}: {path.stat().st_size} bytes that are not the zip which torch.save writes"
        )
    try:
        content = torch.load(_checked(path, what), map_location="cpu", weights_only=True)
        # A view may be of more than there is.
        size = sum(Tensor.numel(tensor) * Tensor.element_size(tensor) for tensor in _tensors(content))
    except BadDataError:
        raise
    except Exception as error:  # damaged content makes the readers fail in any way they like
        reason = (str(error).strip().splitlines() or [""])[0][:160]
        raise BadDataError(f"{path}: not {what}: {type(error).__name__} {reason}") from error
    if size > _MOST_UNPACKED * (whole := path.stat().st_size):
        raise BadDataError(f"{path}: not {what}: {whole} bytes whose tensors have {size}")
    return content


def _checked(path: Path, what: str) -> io.BytesIO:
    """What the zip at `path` holds, as a zip with nothing else: torch finds entries in ways of its own.

    Refuses what runs code, unpacks to more than it should, or names anything but tensors and plain types.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith(("/.data/extern_modules", "/constants.pkl")) for entry in entries):
            raise BadDataError(f"{path}: a torch.package or TorchScript file runs code when loaded; need {what}")
        size, whole = sum(entry.file_size for entry in entries), path.stat().st_size
        if size > _MOST_UNPACKED * whole:
            raise BadDataError(f"{path}: not {what}: {whole} bytes that claim to hold {size}")
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as plain:
            for entry in entries:
                if found := _SAVED_ENTRY.fullmatch(entry.filename):
                    data = archive.read(entry)
                    if found[1] == "data.pkl":
                        _check_names(path, data, what)
                    plain.writestr(f"saved/{found[1]}", data)
    made.seek(0)
    return made


def _check_names(path: Path, pickled: bytes, what: str) -> None:
    if len(pickled) > _MAX_PICKLE_BYTES:
        raise BadDataError(f"{path}: not {what}: {len(pickled)} bytes beside its tensors")
    for code, argument, _ in pickletools.genops(pickled):
        if code.name == "STACK_GLOBAL" or (code.name in ("GLOBAL", "INST") and argument not in _SAVED_NAMES):
            raise BadDataError(f"{path}: not {what}: it names {str(argument or 'a function')[:60]!r}")


def _tensors(content: object) -> Iterator[Tensor]:
    """Every tensor in dicts and lists, each of these once."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(dict.values(value) if isinstance(value, dict) else value)


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
