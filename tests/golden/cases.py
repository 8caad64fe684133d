"""The reference files made by the official tool: the whole set where it is at hand, and the part of it that is committed."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from _pytest.mark.structures import ParameterSet

from streamdac.config import ModelConfig, config_from_mapping
from streamdac.executor import Executor
from streamdac.nn import DAC
from streamdac.plan import build_plan
from streamdac.torch_executor import TorchExecutor
from streamdac.weights import load_weights

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]


@dataclass(frozen=True)
class Engine:
    """A model with and without its padding, run by torch."""

    config: ModelConfig
    padded: Executor
    unpadded: Executor


@dataclass(frozen=True)
class Golden:
    """One folder of reference files."""

    name: str
    root: Path

    @cached_property
    def index(self) -> dict[str, Any]:
        index: dict[str, Any] = json.loads((self.root / "index.json").read_text())
        return index

    def config(self, model: str) -> ModelConfig:
        return config_from_mapping(self.index["models"][model]["kwargs"])

    def weights(self, model: str) -> Path:
        path: Path = self.root / self.index["models"][model]["file"]
        return path

    def network(self, model: str) -> DAC:
        return _network(self.weights(model))

    def engine(self, model: str) -> Engine:
        return _engine(self.weights(model))

    def clip(self, name: str) -> tuple[npt.NDArray[np.float32], int]:
        """Samples `[C, T]` and rate."""
        samples, rate = soundfile.read(self.clip_path(name), dtype="float32", always_2d=True)
        return np.ascontiguousarray(samples.T), rate

    def clip_path(self, name: str) -> Path:
        path: Path = self.root / self.index["clips"][name]["file"]
        return path

    def arrays(self, file: str) -> dict[str, npt.NDArray[Any]]:
        with np.load(self.root / file) as arrays:
            return dict(arrays)


@cache
def _network(path: Path) -> DAC:
    return load_weights(path).network()


@cache
def _engine(path: Path) -> Engine:
    network = _network(path)
    padded, unpadded = (TorchExecutor(build_plan(network, padded=padded)) for padded in (True, False))
    return Engine(network.config, padded, unpadded)


def _sets() -> list[Golden]:
    whole = Path(os.environ.get("STREAMDAC_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
    return [Golden("subset", HERE / "data")] + [Golden("whole", whole)] * (whole / "index.json").is_file()


SETS = [golden for golden in _sets() if (golden.root / "index.json").is_file()]


def cases(kind: str, *, weights: bool = True, **wanted: Any) -> list[ParameterSet]:
    """(golden, case) for every case of a kind in `index.json` whose entries are as `wanted`.

    Of some models the committed part has only the geometry; with `weights` their cases are left out.
    """
    return [
        pytest.param(golden, case, id=f"{golden.name}-{case.get('name', number)}")
        for golden in SETS
        for number, case in enumerate(golden.index.get(kind, []))
        if all(case.get(key) == value for key, value in wanted.items())
        and not (weights and "model" in case and "file" not in golden.index["models"][case["model"]])
    ]


def assert_codes(found: npt.NDArray[Any], expected: npt.NDArray[Any], margin: npt.NDArray[Any], limit: float) -> None:
    """Codes `[B, K, F]` equal, up to near ties: in each frame the first codebook that differs has a margin below `limit`."""
    assert found.shape == expected.shape
    differs = found != expected
    first = differs.argmax(axis=1)
    margins = np.take_along_axis(margin, first[:, None], axis=1)[:, 0][differs.any(axis=1)]
    assert (margins < limit).all(), f"{len(margins)} frames differ, margins up to {margins.max()}"
    assert differs.mean() <= 0.005, f"{differs.sum()} of {differs.size} codes differ"
