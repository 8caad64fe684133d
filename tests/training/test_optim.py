"""Optimisers, schedule, clipping and averages."""

from __future__ import annotations

import pytest
import torch

from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.nn.layers import Conv, conv_geometry
from streamdac.training.optim import (
    AveragedWeights,
    Clipper,
    Muon,
    Optimizers,
    hold_still,
    learning_rate_scale,
    orthogonalised,
    shared_out,
)
from streamdac.training.recipe import Recipe, load_recipe

MODEL = ModelConfig(
    encoder_dim=4,
    encoder_rates=(2, 2),
    latent_dim=8,
    decoder_dim=16,
    decoder_rates=(2, 2),
    n_codebooks=2,
    codebook_size=16,
)


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))
    assert values.min() > 0.3
    assert values.max() < 1.3


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24)])
def test_iterating_on_the_small_matrix_gives_what_iterating_on_the_whole_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape).double()
    torch.testing.assert_close(
        orthogonalised(matrix.float()), orthogonalised(matrix, dtype=torch.float64).float(), rtol=1e-3, atol=1e-3
    )


def test_work_is_shared_out_evenly() -> None:
    costs = [7, 1, 5, 5, 3, 3]
    owners = shared_out(costs, 2)
    assert [sum(c for c, o in zip(costs, owners, strict=True) if o == share) for share in (0, 1)] == [13, 11]


def test_muon_keeps_the_norm_of_every_row() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(8, 4, 7))
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.1)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert not torch.allclose(weight, before)
    torch.testing.assert_close(weight.norm(dim=(1, 2)), before.norm(dim=(1, 2)))


def test_every_parameter_has_exactly_one_optimizer_and_only_matrices_decay() -> None:
    network = DAC(MODEL)
    optimizers = Optimizers(network, Recipe(model=MODEL, weight_decay=0.1))
    assert optimizers.muon is not None
    groups = [*optimizers.adamw.param_groups, *optimizers.muon.param_groups]
    owned = [id(p) for group in groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in network.parameters())
    decayed = {id(p) for group in optimizers.adamw.param_groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in network.named_parameters():
        if name.endswith(("alpha", "bias", "weight_g")):
            assert id(parameter) not in decayed, name


def test_fitted_projections_have_no_gradient_and_no_optimizer() -> None:
    network, recipe = DAC(MODEL), Recipe(model=MODEL, projections="fitted")
    hold_still(network, recipe)
    optimizers = Optimizers(network, recipe)
    assert optimizers.muon is not None
    groups = [*optimizers.adamw.param_groups, *optimizers.muon.param_groups]
    owned = {id(p) for group in groups for p in group["params"]}
    held = [name for name, p in network.named_parameters() if id(p) not in owned]
    assert len(held) == 6 * MODEL.n_codebooks
    assert all("_proj." in name for name in held)


def test_learning_rate_warms_up_holds_and_falls_to_zero() -> None:
    recipe = Recipe(warmup_steps=10, cooldown=0.25)
    assert learning_rate_scale(recipe, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate_scale(recipe, 50, 0.5) == 1
    assert learning_rate_scale(recipe, 50, 0.875) == pytest.approx(0.5)
    assert learning_rate_scale(recipe, 50, 1.0) == 0
    assert learning_rate_scale(Recipe(warmup_steps=0), 50, 1.0) == 1
    assert learning_rate_scale(Recipe(warmup_steps=0, gamma=0.5), 2, 0.0) == 0.25


def test_learning_rate_falls_with_the_root_of_the_step() -> None:
    recipe = load_recipe("causal-24khz", ["warmup_steps=0", "decay_from=100", "cooldown=0"])
    assert [learning_rate_scale(recipe, step, 0.0) for step in (0, 100, 400, 10_000)] == [1.0, 1.0, 0.5, 0.1]


def test_the_clipper_follows_the_running_norm() -> None:
    weight = torch.nn.Parameter(torch.zeros(4))
    clipper = Clipper(1.5, 0.0)
    for _ in range(5):
        weight.grad = torch.full((4,), 0.5)
        assert clipper([weight]) == pytest.approx(1.0)
        assert weight.grad.norm() == pytest.approx(1.0)
    weight.grad = torch.full((4,), 50.0)
    assert clipper([weight]) == pytest.approx(100.0)
    assert weight.grad.norm() == pytest.approx(1.5)


def test_averaged_weights_approach_constant_weights_and_can_restart() -> None:
    layer = torch.nn.Linear(3, 3)
    average = AveragedWeights(layer, 0.9)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    for _ in range(200):
        average.update(layer)
    torch.testing.assert_close(average.values["weight"], torch.ones(3, 3))
    with torch.no_grad():
        layer.weight.fill_(7.0)
    average.restart(layer)
    assert float(average.values["weight"].max()) == 7.0


def test_averaged_weights_are_means_of_whole_weights_not_of_directions() -> None:
    """Two directions at a right angle, in turn: their mean is shorter than either by the root of two."""
    torch.manual_seed(0)
    layer = Conv(1, 1, conv_geometry(2, causal=True))
    average = AveragedWeights(layer, 0.99)
    with torch.no_grad():
        layer.weight_g.fill_(3.0)
        for turn in range(2000):
            layer.weight_v.copy_(torch.tensor([[[5.0, 0.0]]]) if turn % 2 else torch.tensor([[[0.0, 0.1]]]))
            average.update(layer)
    copy = Conv(1, 1, conv_geometry(2, causal=True))
    average.copy_to(copy)
    torch.testing.assert_close(copy.weight.detach(), torch.tensor([[[1.5, 1.5]]]), rtol=0.01, atol=0)


def test_what_is_not_trained_stays_as_it_is_in_the_average() -> None:
    network = DAC(MODEL)
    hold_still(network, Recipe(model=MODEL, freeze="encoder"))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    average = AveragedWeights(network, 0.9)
    for _ in range(3):
        average.update(network)
    for name, value in average.values.items():
        if not name.startswith("decoder"):
            assert torch.equal(value, before[name]), name


def test_a_step_at_scale_zero_changes_nothing() -> None:
    network = DAC(MODEL)
    optimizers = Optimizers(network, Recipe(model=MODEL))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for p in network.parameters():
        p.grad = torch.randn_like(p)
    optimizers.step(0.0)
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), before[name])
