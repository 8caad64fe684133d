"""The native executor against torch, and one instruction set against another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamdac import native
from streamdac.config import CAUSAL
from streamdac.native_executor import NativeExecutor
from streamdac.nn import DAC
from streamdac.nn.layers import ConvTranspose
from streamdac.ops import TransposeOp
from streamdac.plan import build_plan
from streamdac.torch_executor import TorchExecutor

from . import models
from .models import assert_same_codes, every_geometry, every_isa, needs_native, noise, random_codes

pytestmark = needs_native


@every_isa
@every_geometry
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_those_of_torch_up_to_near_ties(isa: str, geometry: str, seed: int) -> None:
    plan = models.small_plan(geometry, seed)
    audio = noise(3, 100 * plan.config.hop_length, 1, seed=seed)
    wanted = models.encode(TorchExecutor(plan), audio, [])
    assert_same_codes(plan, audio, models.encode(NativeExecutor(plan, isa=isa), audio, [77]), wanted)


@every_isa
@every_geometry
@pytest.mark.parametrize("seed", range(3))
def test_audio_is_that_of_torch_within_1e_5(isa: str, geometry: str, seed: int) -> None:
    plan = models.gentle_plan(geometry, seed)
    codes = random_codes(plan, 3, 100, seed)
    wanted = models.decode(TorchExecutor(plan), codes, [])
    assert wanted.std() > 1e-3
    got = models.decode(NativeExecutor(plan, isa=isa), codes, [13])
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0.0)


@every_isa
@every_geometry
@pytest.mark.parametrize("seed", range(3))
def test_audio_is_as_near_to_the_truth_as_that_of_torch(isa: str, geometry: str, seed: int) -> None:
    plan = models.small_plan(geometry, seed)
    codes = random_codes(plan, 2, 200, seed)
    truth = models.decode(models.exact(plan), codes, [])
    ours, theirs = (models.decode(made, codes, []) for made in (NativeExecutor(plan, isa=isa), TorchExecutor(plan)))
    assert (ours - truth).square().mean().sqrt() <= 2 * (theirs - truth).square().mean().sqrt()
    assert (ours - truth).square().mean().sqrt() < 1e-4


@every_isa
@models.examples(15)
@given(data=st.data())
def test_any_network_agrees_with_torch(isa: str, data: st.DataObject) -> None:
    geometry = data.draw(st.sampled_from(models.GEOMETRIES))
    config = data.draw(models.configs(geometry))
    plan = models.make_plan(config, geometry, data.draw(st.integers(0, 99)))
    ours, theirs = NativeExecutor(plan, isa=isa), TorchExecutor(plan)
    audio = noise(2, min(4000, 60 * config.hop_length), 1)
    codes = models.encode(theirs, audio, [])
    sure = models.sure_codes(plan, audio, codes)
    assert torch.equal(models.encode(ours, audio, [9])[sure], codes[sure])
    codes = random_codes(plan, 2, 40)
    wanted = models.decode(theirs, codes, [])
    torch.testing.assert_close(models.decode(ours, codes, [1]), wanted, atol=4e-3, rtol=0.0)


def test_the_widest_instruction_set_is_used_and_any_can_be_asked_for() -> None:
    plan = models.small_plan(CAUSAL)
    assert NativeExecutor(plan).isa == native.instruction_sets()[0]
    assert native.instruction_sets()[-1] == "baseline"
    for isa in native.instruction_sets():
        assert NativeExecutor(plan, isa=isa).isa == isa
    with pytest.raises(ValueError, match="no instruction set mmx"):
        NativeExecutor(plan, isa="mmx")


@every_isa
@pytest.mark.parametrize("value", [1e6, 1e9, 1e12])
def test_values_too_large_for_a_snake_to_turn_are_coded_as_by_torch(isa: str, value: float) -> None:
    plan = models.gentle_plan(CAUSAL)
    audio = value * noise(1, 30 * plan.config.hop_length, 1)
    codes = [models.encode(executor, audio, []) for executor in (NativeExecutor(plan, isa=isa), TorchExecutor(plan))]
    assert len(codes[1].unique()) > 20
    assert (codes[0] == codes[1]).float().mean() > 0.98


def test_an_input_that_half_precision_does_not_hear_leaves_a_layer_its_halves() -> None:
    network = DAC(models.gentle_plan(CAUSAL).config)
    models.halve(network)
    layer = next(module for module in network.decoder.modules() if isinstance(module, ConvTranspose))
    with torch.no_grad():
        layer.weight_g[0] = 1e-9
    op = next(op for op in build_plan(network).decoder.ops if isinstance(op, TransposeOp))
    assert op.halves is not None
    torch.testing.assert_close(op.halves.numbers.float(), op.weight, atol=1e-8, rtol=2e-6)
    with torch.no_grad():
        layer.weight_g[0] = 1.01 * layer.weight_v[0].norm()
    op = next(op for op in build_plan(network).decoder.ops if isinstance(op, TransposeOp))
    assert op.halves is None


@every_isa
@pytest.mark.parametrize("value", [1e-30, 1e4, 1e30])
def test_values_of_any_size_stay_finite_where_torch_does(isa: str, value: float) -> None:
    plan = models.gentle_plan(CAUSAL)
    audio = value * noise(1, 30 * plan.config.hop_length, 1)
    ours, theirs = NativeExecutor(plan, isa=isa), TorchExecutor(plan)
    codes = models.encode(ours, audio, [])
    assert int(codes.min()) >= 0
    assert int(codes.max()) < plan.config.codebook_size
    torch.testing.assert_close(models.decode(ours, codes, []), models.decode(theirs, codes, []), atol=1e-5, rtol=0.0)
