"""Optimisers, schedule, clipping and averages."""

from __future__ import annotations

import pytest
import torch

from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.nn.layers import Conv, conv_geometry, fold_weight_norm
from streamdac.training.optim import (
    AveragedWeights,
    Clipper,
    Muon,
    Optimizers,
    hold_still,
    learning_rate_scale,
    orthogonalised,
    shared_out,
    weight_gradient,
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


def _layer(weight: torch.Tensor, lengths: float) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """`weight` as a direction of these lengths, and its norms."""
    norms = weight.norm(dim=(1, 2), keepdim=True)
    return torch.nn.Parameter(weight * lengths / norms), torch.nn.Parameter(norms)


def _backward(v: torch.Tensor, g: torch.Tensor, gradient: torch.Tensor) -> None:
    """What the weight that `v` and `g` stand for has as its gradient."""
    v.grad = g.grad = None
    (fold_weight_norm(v, g) * gradient).sum().backward()


@pytest.mark.parametrize("lengths", [0.01, 1.0, 30.0])
def test_the_gradient_of_a_weight_follows_from_those_of_its_two_parts(lengths: float) -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 4, 7), torch.randn(8, 4, 7)
    v, g = _layer(weight, lengths)
    _backward(v, g, gradient)
    torch.testing.assert_close(weight_gradient(v, g), gradient)


def test_muon_moves_a_weight_along_its_orthogonalised_gradient() -> None:
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 4, 7), torch.randn(8, 4, 7)
    v, g = _layer(weight, 3.0)
    _backward(v, g, gradient)
    Muon([(v, g)], lr=0.1).step()
    step = 0.1 * 0.2 * 28**0.5 * orthogonalised(gradient.flatten(1)).view(8, 4, 7)
    torch.testing.assert_close(fold_weight_norm(v, g), weight - step, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(v, weight - step, rtol=1e-4, atol=1e-4)  # the direction is the weight from now on


@pytest.mark.parametrize("asleep", [0.0, 1e-7])
def test_muon_wakes_a_row_that_had_no_length(asleep: float) -> None:
    torch.manual_seed(0)
    wanted = torch.randn(8, 16, 1)
    v, g = _layer(torch.randn(8, 16, 1), 1.0)
    with torch.no_grad():
        g[3] = asleep
    optimizer = Muon([(v, g)], lr=0.02)
    for _ in range(600):
        _backward(v, g, fold_weight_norm(v, g).detach() - wanted)
        optimizer.step()
    assert float((fold_weight_norm(v, g).detach() - wanted)[3].norm()) < 0.1 * float(wanted[3].norm())


def test_muon_leaves_a_weight_without_a_gradient_as_it_is() -> None:
    v, g = torch.nn.Parameter(torch.randn(4, 4, 1)), torch.nn.Parameter(torch.zeros(4, 1, 1))
    _backward(v, g, torch.zeros(4, 4, 1))
    Muon([(v, g)], lr=0.1).step()
    assert not fold_weight_norm(v, g).any()
    assert v.all()


def test_a_checkpoint_from_when_adamw_held_the_norms_is_read() -> None:
    torch.manual_seed(0)
    network = DAC(MODEL)
    optimizers = Optimizers(network, Recipe(model=MODEL))
    assert optimizers.muon is not None
    directions = [
        p
        for name, p in network.named_parameters()
        if any(p is v for v in optimizers.muon.param_groups[0]["params"][::2])
    ]
    norms = {id(g) for g in optimizers.muon.param_groups[0]["params"][1::2]}
    others = [(name, p) for name, p in network.named_parameters() if not any(p is v for v in directions)]
    matrices = [p for name, p in others if name.endswith(("weight_v", "codebook.weight"))]
    free = [p for name, p in others if not name.endswith(("weight_v", "codebook.weight"))]
    was = torch.optim.AdamW([{"params": matrices}, {"params": free}])
    for p in matrices + free:
        p.grad = torch.randn_like(p)
    was.step()
    momentum = {i: {"momentum": torch.randn_like(v)} for i, v in enumerate(directions)}
    muon = {"state": momentum, "param_groups": [{"lr": 1.0, "momentum": 0.95, "params": list(range(len(directions)))}]}
    optimizers.load_state_dict({"adamw": was.state_dict(), "muon": muon})
    for p in matrices + free:
        if id(p) in norms:
            assert p not in optimizers.adamw.state
        else:
            torch.testing.assert_close(optimizers.adamw.state[p]["exp_avg"], was.state[p]["exp_avg"])
    for i, v in enumerate(directions):
        torch.testing.assert_close(optimizers.muon.state[v]["momentum"], momentum[i]["momentum"])


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


def test_officially_everything_decays() -> None:
    network = DAC(MODEL)
    optimizers = Optimizers(network, Recipe(model=MODEL, weight_decay=0.1, decay_all=True, optimizer="adamw"))
    decayed = {id(p) for group in optimizers.adamw.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {id(p) for p in network.parameters()}


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
