"""Recipes: changes by key=value, and what is refused. The built-in files are in test_configs.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamdac.errors import UsageError
from streamdac.training.recipe import Recipe, load_recipe


def test_settings_change_by_key_and_value() -> None:
    changes = [
        "lr=5e-4",
        "batch=2",
        "model.encoder_dim=16",
        "losses.mel=3",
        "optimizer=adamw",
        "valid_codebooks=[1, 2]",
    ]
    recipe = load_recipe("causal-24khz", changes)
    assert (recipe.lr, recipe.batch, recipe.model.encoder_dim, recipe.losses.mel) == (5e-4, 2, 16, 3.0)
    assert (recipe.optimizer, recipe.valid_codebooks) == ("adamw", (1, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("lr", "key=value"),
        ("learning_rate=1", "learning_rate"),
        ("losses.gan=1", "gan"),
        ("model.width=3", "width"),
        ("model.encoder_dim=0", "encoder_dim"),
        ("batch=many", "batch"),
        ("batch=0", "batch"),
        ("batch=1.5", "batch"),
        ("lr.x=1", "lr"),
        ("optimizer=sgd", "optimizer"),
        ("precision=fp8", "precision"),
        ("cooldown=2", "cooldown"),
        ("segment_seconds=0.01", "2048"),
        ("model.preset=dac-8khz", "dac-8khz"),
        ("discriminator.layers=3", "layers"),
        ("discriminator.channels=0", "channels 0"),
        ("mel_windows=[512]", "as many mel_bins"),
        ("freeze=decoder", "freeze"),
        ("projections=held", "projections"),
        ("compressed_windows=[]", "compressed_windows"),
        ("compressed_windows=[4096]", "compressed_windows"),
        ("lines_period=81", "lines_period"),
        ("lines_period=2048", "lines_period"),
        ("decay_from=-1", "decay_from"),
        ("excess=0", "excess 0"),
        ("compressed_excess=Infinity", "compressed_excess is inf"),
        ("losses.bands=-1", "bands=-1"),
        ("losses.structure=Infinity", "structure is inf"),
        ("balance.structure=NaN", "structure is nan"),
        ("model=3", "model is 3, need settings"),
        ("losses=1", "losses is 1, need settings"),
        ("mix=3", "mix is 3, need settings"),
        ("mix.foo=1", "mix of .*foo"),
        ("mix.tries=many", "tries is 'many', need int"),
        ("mix.level_db=[1]", r"level_db is \[1\], need a list of 2 x a finite number"),
        ("mix.noise_probability=2", "probabilities"),
        ("betas=0.9", "betas is 0.9, need a list of 2 x a finite number"),
        ("betas=[0.9, 1]", "betas"),
        ("valid_codebooks=8", "valid_codebooks is 8, need a list of any number of x int"),
        ("valid_codebooks=[]", "valid_codebooks"),
        ("valid_codebooks=[0]", "valid_codebooks"),
        ("valid_seconds=0", "valid_seconds 0 are less than 2048 samples"),
        ("keep_steps=5000", "keep_steps"),
        ("codebook_decay=2", "codebook_decay"),
        ("discriminator.periods=2", "periods is 2"),
        ("discriminator.bands=[0.5, 1]", "bands"),
        ("discriminator.bands=[]", "no bands"),
        ("discriminator.ramp_steps=-5", "ramp_steps -5"),
        ("discriminator.betas=[2, 1]", "betas"),
        ("warmup_steps=-5", "warmup_steps is -5"),
        ("lr=-1", "lr is -1"),
        ("muon_lr=-1e-4", "muon_lr is -0.0001"),
        ("weight_decay=-1", "weight_decay is -1"),
        ("mix.kind_weights.music=x", "kind weights must be numbers"),
        ("mix.kind_weights.music=NaN", "kind weights must be numbers"),
        ("segment_seconds=NaN", "segment_seconds is nan, need a finite number"),
        ("segment_seconds=Infinity", "segment_seconds is inf"),
        ("valid_seconds=NaN", "valid_seconds is nan"),
        ("mel_windows=[3, 64, 128, 256, 512, 1024, 2048]", "mel_windows"),
        ("mel_windows=[32, 64, 128, 256, 512, 1024, 4096]", "mel_windows"),
        ("mel_bins=[0, 10, 20, 40, 80, 160, 320]", "mel_bins"),
        ("mix.group_cap_minutes=0", "group_cap_minutes"),
        ("mix.lowpass_hz=[0, 0]", "lowpass_hz"),
        ("seed=9999999999", "seed 9999999999 must lie in 0..2147483647"),
        ("seed=-1", "seed -1"),
    ],
)
def test_a_wrong_change_is_refused_by_name(change: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_recipe("causal-24khz", [change])


def test_the_weight_of_one_kind_leaves_the_others_theirs() -> None:
    assert load_recipe("causal-24khz", ["mix.kind_weights.music=0.3"]).mix["kind_weights"] == {
        "speech": 0.85,
        "music": 0.3,
        "effects": 0.05,
    }
    assert load_recipe("causal-24khz", ['mix.kind_weights={"music": 1}']).mix["kind_weights"] == {"music": 1}


def test_an_unknown_or_broken_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="causal-24khz"):
        load_recipe("nonsense")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(UsageError, match="not JSON"):
        load_recipe(broken)


def test_codebooks_that_the_model_lacks_are_not_measured() -> None:
    assert load_recipe("causal-24khz", ["model.n_codebooks=6"]).measured_codebooks == (4, 6)
    assert load_recipe("causal-24khz").measured_codebooks == (4, 8, 16)


def test_early_steps_use_the_small_batches() -> None:
    recipe = Recipe(early_steps=10, early_batch=2, early_segment_seconds=0.3, batch=6, segment_seconds=0.9)
    assert recipe.shape_at(9) == (2, 0.3)
    assert recipe.shape_at(10) == (6, 0.9)


def test_a_base_is_looked_for_beside_the_config_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.json").write_text('{"base": "causal-24khz", "seed": 5}')
    (tmp_path / "other.json").write_text('{"base": "mine.json", "batch": 3}')
    monkeypatch.chdir(tmp_path.parent)
    made = load_recipe(tmp_path / "other.json")
    assert (made.seed, made.batch) == (5, 3)
