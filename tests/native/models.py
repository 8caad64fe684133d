"""Random small models, pushes in random pieces, and a float64 reference."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from streamdac import native
from streamdac.codec import make_executor
from streamdac.config import CAUSAL, CENTRED, ModelConfig
from streamdac.executor import Executor
from streamdac.native_executor import NativeExecutor
from streamdac.nn.layers import Conv, ConvTranspose
from streamdac.nn.network import DAC, randomize
from streamdac.plan import Plan, build_plan
from streamdac.torch_executor import TorchExecutor, _added, _run, lookup

needs_native = pytest.mark.skipif(not native.available(), reason=native.why_not() or "")
every_engine = pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=needs_native)])
every_isa = pytest.mark.parametrize("isa", native.instruction_sets() or ["none"])

# Where running them is slow (sanitize.sh), fewer will do.
MOST_EXAMPLES = int(os.environ.get("STREAMDAC_MOST_EXAMPLES", "1000"))


def examples(count: int) -> settings:
    """How many examples a claim is tried on; no deadline, machines differ."""
    return settings(max_examples=min(count, MOST_EXAMPLES), deadline=None)


LONG_TERM = "long-term"  # causal, with a filter behind the decoder
PREDICTED = "predicted"  # causal, with a predictor in the quantiser
HALVED = "halved"  # causal, with weights that half precision holds
GEOMETRIES = (CAUSAL, CENTRED, "unpadded", LONG_TERM, PREDICTED, HALVED)
every_geometry = pytest.mark.parametrize("geometry", GEOMETRIES)


def settings_of(geometry: str) -> dict[str, Any]:
    """What a config of that geometry says of itself. Small signals are long beside the lags at a low rate."""
    padding = CAUSAL if geometry in (CAUSAL, LONG_TERM, PREDICTED, HALVED) else CENTRED
    extras: dict[str, dict[str, Any]] = {
        LONG_TERM: {"long_term": True, "sample_rate": 8000},
        PREDICTED: {"predictor_dim": 11, "predictor_codebooks": 2},
    }
    return {"padding": padding, **extras.get(geometry, {})}


def configs(geometry: str = CAUSAL) -> st.SearchStrategy[ModelConfig]:
    """Odd widths, odd strides, odd codebooks."""
    rates = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
    widths = st.none() | st.lists(st.integers(1, 40), min_size=4, max_size=4).map(tuple)

    def made(rates: tuple[int, ...], widths: tuple[int, ...] | None, **rest: Any) -> ModelConfig:
        mine = () if widths is None else widths[: len(rates) + 1]
        both = {"encoder_widths": mine, "decoder_widths": mine[::-1]}
        if geometry == LONG_TERM:
            rates = (*rates[:-1], 2 * rates[-1])  # an even hop
        return ModelConfig(encoder_rates=rates, decoder_rates=rates[::-1], **settings_of(geometry), **both, **rest)

    return st.builds(
        made,
        rates,
        widths,
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
    return make_plan(ModelConfig(**SMALL, **settings_of(geometry)), geometry, seed)  # type: ignore[arg-type]


def make_plan(config: ModelConfig, geometry: str, seed: int = 0) -> Plan:
    network = DAC(config)
    randomize(network, seed)
    return _plan(network, geometry)


def _plan(network: DAC, geometry: str) -> Plan:
    if geometry == HALVED:
        halve(network)
    return build_plan(network, padded=geometry != "unpadded")


@torch.no_grad()
def halve(network: DAC) -> None:
    """Directions that half precision holds; those of transposed convolutions are the weights themselves."""
    for layer in network.modules():
        if isinstance(layer, ConvTranspose):
            layer.weight_v.copy_(layer.weight.half())
            layer.weight_g.copy_(layer.weight_v.norm(dim=(1, 2), keepdim=True))
        elif isinstance(layer, Conv):
            layer.weight_v.copy_(layer.weight_v.half())


@functools.cache
def gentle_plan(geometry: str, seed: int = 0) -> Plan:
    """As a network begins its training: rounding is not amplified as random weights amplify it."""
    torch.manual_seed(seed)
    network = DAC(ModelConfig(**SMALL, **settings_of(geometry)))  # type: ignore[arg-type]
    if network.decoder.long_term is not None:  # begins without an effect
        for taps in network.decoder.long_term.parameters():
            nn.init.uniform_(taps, -0.02, 0.02)
    if network.quantizer.predictor is not None:  # so does it
        nn.init.uniform_(network.quantizer.predictor.last.weight, -0.1, 0.1)
        nn.init.uniform_(network.quantizer.predictor.linear.weight, -0.05, 0.05)
    return _plan(network, geometry)


@functools.cache
def small_executor(geometry: str, engine: str) -> Executor:
    return make_executor(small_plan(geometry), engine=engine)


def native_executor(geometry: str) -> NativeExecutor:
    executor = small_executor(geometry, "native")
    assert isinstance(executor, NativeExecutor)
    return executor


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


NEAR_TIE = 1e-4  # cosine of the best entry less that of the second


def assert_same_codes(plan: Plan, audio: Tensor, got: Tensor, wanted: Tensor) -> None:
    """Codes `[B, F, K]` of `audio` agree in each frame up to the first codebook where two entries are nearly as good."""
    assert got.shape == wanted.shape
    sure = sure_codes(plan, audio, wanted)
    assert sure.any(), "nothing to compare"
    assert torch.equal(got[sure], wanted[sure])


def sure_codes(plan: Plan, audio: Tensor, codes: Tensor) -> Tensor:
    """Which codes `[B, F, K]` no rounding can change: bool, false from the first near tie of a frame on.

    With a predictor from the first of all frames on, as all that follow depend on it.
    """
    wide = exact(plan)
    z = _latents(wide, audio)
    q = wide.plan.quantizer
    if q.prediction is not None:
        z = z - _expected(wide, codes)
    d = q.rows.shape[2]
    left = z @ q.in_weight + q.in_bias
    sure = torch.ones(codes.shape[:2], dtype=torch.bool)
    out = []
    for k in range(codes.shape[2]):
        scores = torch.nn.functional.normalize(left[..., :d], dim=-1) @ q.directions[k]
        best = scores.topk(2, dim=-1).values
        sure &= best[..., 0] - best[..., 1] > NEAR_TIE
        out.append(sure | (codes[..., k] < 0))
        left = left[..., d:] - q.rows[k][codes[..., k].clamp(min=0)] @ q.cross[k]
    if q.prediction is not None:
        before = torch.cat([torch.ones_like(sure[:, :1]), sure[:, :-1]], dim=1).cumprod(dim=1).bool()
        out = [known & before for known in out]
    return torch.stack(out, dim=-1)


def _expected(wide: TorchExecutor, codes: Tensor) -> Tensor:
    """Of the frames with these codes, `[B, F, D]`."""
    q = wide.plan.quantizer
    batch, frames, depth = codes.shape
    added = _added(q, codes.reshape(-1, depth)).view(batch, frames, -1)
    return lookup(q, codes, memory=wide.fresh_decoder(batch).buffers) - added


def _latents(wide: TorchExecutor, audio: Tensor) -> Tensor:
    """The encoder's output in float64."""
    return _run(wide._encoder, wide.fresh_encoder(audio.shape[0]), audio.double(), True)


@functools.cache
def exact(plan: Plan) -> TorchExecutor:
    """The torch executor in float64: what both executors round."""
    from dataclasses import fields, is_dataclass, replace

    def wide(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double()
        if isinstance(value, tuple):
            return tuple(wide(item) for item in value)
        if is_dataclass(value) and not isinstance(value, (type, ModelConfig)):
            made = replace(value, **{field.name: wide(getattr(value, field.name)) for field in fields(value)})
            halves = getattr(made, "halves", None)
            return made if halves is None else replace(made, weight=halves.numbers * halves.factors)
        return value

    return TorchExecutor(wide(plan))
