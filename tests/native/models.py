"""Random small models, pushes in random pieces, and a float64 reference."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from streamdac import native
from streamdac.config import CAUSAL, CENTRED, ModelConfig
from streamdac.executor import Executor
from streamdac.native_executor import NativeExecutor
from streamdac.nn.network import DAC, randomize
from streamdac.plan import Plan, build_plan
from streamdac.torch_executor import TorchExecutor

needs_native = pytest.mark.skipif(not native.available(), reason=native.why_not() or "")
every_isa = pytest.mark.parametrize("isa", native.instruction_sets() or ["none"])

GEOMETRIES = (CAUSAL, CENTRED, "unpadded")
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


def configs(padding: str = CAUSAL) -> st.SearchStrategy[ModelConfig]:
    """Odd widths, odd strides, odd codebooks."""
    rates = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
    return st.builds(
        lambda rates, **rest: ModelConfig(encoder_rates=rates, decoder_rates=rates[::-1], padding=padding, **rest),
        rates,
        encoder_dim=st.integers(1, 20),
        decoder_dim=st.integers(8, 70),
        latent_dim=st.integers(1, 40),
        n_codebooks=st.integers(1, 5),
        codebook_size=st.integers(2, 200),
        codebook_dim=st.integers(1, 10),
    )


SMALL = {
    "encoder_dim": 6,
    "encoder_rates": (3, 2),
    "latent_dim": 10,
    "decoder_dim": 52,
    "decoder_rates": (2, 3),
    "n_codebooks": 4,
    "codebook_size": 50,
    "codebook_dim": 5,
}


@functools.cache
def small_plan(geometry: str, seed: int = 0) -> Plan:
    return make_plan(ModelConfig(**SMALL, padding=CAUSAL if geometry == CAUSAL else CENTRED), geometry, seed)  # type: ignore[arg-type]


def make_plan(config: ModelConfig, geometry: str, seed: int = 0) -> Plan:
    network = DAC(config)
    randomize(network, seed)
    return build_plan(network, padded=geometry != "unpadded")


@functools.cache
def executors(geometry: str) -> tuple[TorchExecutor, NativeExecutor]:
    return TorchExecutor(small_plan(geometry)), NativeExecutor(small_plan(geometry))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_codes(plan: Plan, batch: int, frames: int, seed: int = 0) -> Tensor:
    shape = (batch, frames, plan.quantizer.n_codebooks)
    return torch.randint(0, plan.quantizer.codebook_size, shape, generator=torch.Generator().manual_seed(seed))


def encode(executor: Executor, audio: Tensor, pieces: list[int], depths: Any = None) -> Tensor:
    """Encode pushed in pieces, the last of which takes the rest."""
    state = executor.fresh_encoder(audio.shape[0])
    depths = executor.plan.config.n_codebooks if depths is None else depths
    parts = list(cut(audio, pieces))
    out = [executor.encode(state, part, depths, last=i + 1 == len(parts)) for i, part in enumerate(parts)]
    return torch.cat(out, dim=1)


def decode(executor: Executor, codes: Tensor, pieces: list[int]) -> Tensor:
    state = executor.fresh_decoder(codes.shape[0])
    parts = list(cut(codes, pieces))
    out = [executor.decode(state, part, last=i + 1 == len(parts)) for i, part in enumerate(parts)]
    return torch.cat(out, dim=1)


def cut(x: Tensor, pieces: list[int]) -> list[Tensor]:
    """`[B, T, C]` cut along T."""
    sizes, left = [], x.shape[1]
    for piece in pieces:
        sizes.append(min(piece, left))
        left -= sizes[-1]
    return list(x.split([*sizes, left], dim=1))


def exact(plan: Plan) -> TorchExecutor:
    """The torch executor in float64: what both executors round."""
    from dataclasses import fields, is_dataclass, replace

    def wide(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double()
        if isinstance(value, tuple):
            return tuple(wide(item) for item in value)
        if is_dataclass(value) and not isinstance(value, (type, ModelConfig)):
            return replace(value, **{field.name: wide(getattr(value, field.name)) for field in fields(value)})
        return value

    return TorchExecutor(wide(plan))
