"""Codebooks are fitted to latents as they are, and to what the losses feel of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamdac.errors import UsageError
from streamdac.nn.quantizer import VectorQuantizer
from streamdac.training import fitting
from streamdac.training.checkpoint import load_checkpoint
from streamdac.training.codebooks import start_codebooks
from streamdac.training.fitting import directions_felt, fit_is_due
from streamdac.training.loop import Budget, Trainer
from streamdac.training.recipe import Recipe, load_recipe

from .test_codebooks import MODEL, made
from .test_initial import offline_weights
from .test_loop import trainer


def test_a_weighting_decides_which_directions_the_first_codebook_takes() -> None:
    network, _ = made()
    latents = torch.randn(4000, MODEL.latent_dim)
    for loud in (0, 9):
        weights = torch.full((MODEL.latent_dim,), 0.01)
        weights[loud : loud + MODEL.codebook_dim] = 1.0
        left = start_codebooks(network, latents, weighting=torch.diag(weights))
        first = network.quantizer.quantizers[0]
        assert isinstance(first, VectorQuantizer)
        energy = first.in_proj.weight.detach().square().sum((0, 2))
        assert float(energy[loud : loud + MODEL.codebook_dim].sum() / energy.sum()) > 0.99
        assert left[-1] < 0.1
        network.eval()
        with torch.no_grad():
            error = (network.quantizer(latents.t()[None]).z[0].t() - latents) * weights
        assert float(error.square().sum() / (latents * weights).square().sum()) == pytest.approx(left[-1], rel=0.01)


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_what_the_losses_feel_is_a_symmetric_weighting_of_that_power(power: float) -> None:
    torch.manual_seed(0)
    rows = torch.randn(500, 6) * torch.tensor([4.0, 1, 1, 1, 1, 0])
    covariance = rows.t() @ rows / 500
    weighting = directions_felt(covariance, power)
    torch.testing.assert_close(weighting, weighting.t())
    values = torch.linalg.eigvalsh(covariance)
    wanted = (values / values.mean() + 1e-3) ** power
    torch.testing.assert_close(torch.linalg.eigvalsh(weighting), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("step", "progress", "due"), [(0, 0.0, False), (4, 0.1, False), (5, 0.1, True), (10, 0.7, True), (10, 0.71, False)]
)
def test_fits_come_again_until_the_cooldown(step: int, progress: float, due: bool) -> None:
    recipe = Recipe(refit_every=5, cooldown=0.3)
    assert fit_is_due(recipe, step, progress, quantising=True) == due
    assert not fit_is_due(Recipe(refit_every=5, freeze="encoder"), step, 0.0, quantising=True)


def test_what_the_losses_feel_is_measured_with_the_codebooks_that_there_are(
    audio_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["quantise_from=0", "refit_every=5", "sensitivity=0.5"]
    made, seen = trainer(audio_folder, tmp_path / "run", *changes), []
    with torch.no_grad():
        made.network.encoder.block[-1].bias += 3  # type: ignore[union-attr,operator]
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    measured = made.objective.latent_gradients

    def watched(audio: torch.Tensor, depth: int) -> torch.Tensor:
        seen.append(all(torch.equal(value, before[name]) for name, value in made.network.state_dict().items()))
        return measured(audio, depth)

    monkeypatch.setattr(made.objective, "latent_gradients", watched)
    fitting.fit_codebooks(made.objective, lambda n: made._draw_apart(n, 0), made.recipe, made.processes, again=True)
    assert len(seen) > 1
    assert all(seen)
    assert not torch.equal(made.network.state_dict()["encoder.block.4.bias"], before["encoder.block.4.bias"])


PREDICTED = ["model.predictor_dim=8", "model.predictor_codebooks=1"]


@pytest.fixture
def quick_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "_STEPS", 100)


@pytest.mark.usefixtures("quick_fits")
def test_a_predictor_is_fitted_before_the_first_step_with_codebooks(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", *PREDICTED, "quantise_from=2")
    predictor = made.network.quantizer.predictor
    assert predictor is not None
    made.train(Budget(max_steps=2))
    assert predictor.without_effect
    made.train(Budget(max_steps=3))
    assert not predictor.without_effect


@pytest.mark.usefixtures("quick_fits")
def test_every_round_leaves_less_unforeseen(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", *PREDICTED, "quantise_from=0")
    made.start_from(_other(made, tmp_path))
    left = fitting.fit_predictor(made.objective, lambda n: made._draw_apart(n, 0), made.recipe, made.processes)
    assert len(left) == 4
    assert 1 > left[0] > left[-1]


def _other(made: Trainer, folder: Path) -> Path:
    path = folder / "other.safetensors"
    offline_weights(path, made.recipe.model, n_codebooks=2)
    return path


@pytest.mark.usefixtures("quick_fits")
def test_entries_follow_what_the_predictor_leaves(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", *PREDICTED, "quantise_from=0")
    other = offline_weights(tmp_path / "other.safetensors", made.recipe.model, n_codebooks=2)
    made.start_from(tmp_path / "other.safetensors")
    book = "quantizer.quantizers.0.codebook.weight"
    made.begin_predicting()
    assert not torch.equal(made.network.state_dict()[book], other.state_dict()[book])
    assert torch.equal(made.average.values[book], made.network.state_dict()[book])
    assert torch.equal(made.network.encoder.block[0].weight_v, other.encoder.block[0].weight_v)


@pytest.mark.usefixtures("quick_fits")
def test_a_run_with_a_predictor_resumes_as_if_it_had_not_stopped(audio_folder: Path, tmp_path: Path) -> None:
    changes = [*PREDICTED, "quantise_from=1"]
    whole = trainer(audio_folder, tmp_path / "whole", *changes)
    whole.train(Budget(max_steps=4))
    first = trainer(audio_folder, tmp_path / "parts", *changes)
    first.train(Budget(max_steps=2))
    second = trainer(audio_folder, tmp_path / "parts", *changes)
    second.load_state_dict(load_checkpoint(tmp_path / "parts"))
    second.train(Budget(max_steps=4))
    for name, value in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], value), name


def test_a_run_that_stopped_fits_again_as_one_that_did_not(audio_folder: Path, tmp_path: Path) -> None:
    changes = ["refit_every=4", "sensitivity=0.25", "codebook_decay=0.9"]
    whole = trainer(audio_folder, tmp_path / "whole", *changes)
    whole.train(Budget(max_steps=4))
    before = [p.detach().clone() for p in whole.network.quantizer.parameters()]
    whole.train(Budget(max_steps=6))
    parts = trainer(audio_folder, tmp_path / "parts", *changes)
    parts.train(Budget(max_steps=4))
    assert all(map(torch.equal, before, parts.network.quantizer.parameters()))
    parts.train(Budget(max_steps=6))
    assert all(map(torch.equal, whole.network.parameters(), parts.network.parameters()))
    after = [p.detach() for p in whole.network.quantizer.parameters()]
    assert max(float((a - b).norm() / b.norm()) for a, b in zip(after, before, strict=True)) > 0.5


def test_settings_out_of_range_are_refused() -> None:
    for change in ("refit_every=-1", "sensitivity=2"):
        with pytest.raises(UsageError, match=r"refit_every is -1|sensitivity 2"):
            load_recipe("causal-24khz", [change])
