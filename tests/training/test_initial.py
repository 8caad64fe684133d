"""Starting from other weights, training the decoder alone, and the checkpoints that are kept."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from streamdac.codec import load
from streamdac.config import CENTRED, ModelConfig
from streamdac.errors import BadDataError, NoInputError, UsageError
from streamdac.nn import DAC
from streamdac.nn.network import randomize
from streamdac.training.checkpoint import BEST, export_weights, exported, load_checkpoint
from streamdac.training.logs import RunLog
from streamdac.training.loop import Budget, Trainer
from streamdac.training.recipe import load_recipe
from streamdac.training.train import train_command
from streamdac.weights import Weights, save_weights

from .conftest import TINY
from .golden import GOLDEN
from .test_loop import trainer


def offline_weights(path: Path, like: ModelConfig, *, n_codebooks: int, dtype: torch.dtype = torch.float32) -> DAC:
    """Random weights of a centred model, saved."""
    config = ModelConfig(
        **{
            **like.__dict__,
            "padding": CENTRED,
            "long_term": False,
            "predictor_dim": 0,
            "n_codebooks": n_codebooks,
            "quantizer_dropout": 0.0,
        }
    )
    network = DAC(config)
    randomize(network)
    save_weights(path, Weights(config, network.state_dict(), {"name": "other"}), dtype=dtype)
    return network


def test_a_causal_model_with_fewer_codebooks_starts_from_an_offline_one(audio_folder: Path, tmp_path: Path) -> None:
    # By gradient, so that one step moves an entry only a little.
    made = trainer(audio_folder, tmp_path / "run", "codebook_decay=0", "losses.codebook=1")
    other = offline_weights(tmp_path / "other.safetensors", made.recipe.model, n_codebooks=3)
    made.start_from(tmp_path / "other.safetensors")
    wanted = other.state_dict()
    assert made.network.config.causal
    for name, value in made.network.state_dict().items():
        start = torch.zeros_like(value) if ".long_term." in name else wanted[name]
        assert torch.equal(value, start), name
        assert torch.equal(made.average.values[name], start), name
    made.train(Budget(max_steps=1))
    assert made.use.shares.std() > 0  # it quantises from the first step, with the codebooks it was given
    book = "quantizer.quantizers.0.codebook.weight"
    assert (made.network.state_dict()[book] - wanted[book]).abs().max() < 0.01


def test_a_causal_model_starts_from_an_official_file(audio_folder: Path, tmp_path: Path) -> None:
    # A small model of the official package: encoder 6, decoder 80, 8 codebooks.
    changes = ["model.preset=dac-24khz", "model.padding=causal", "model.encoder_dim=6", "model.decoder_dim=80"]
    changes += ["model.latent_dim=96", "model.n_codebooks=4", "start=plain", "batch=1", "valid_codebooks=[4]"]
    made = Trainer(load_recipe("causal-24khz", changes), [audio_folder], tmp_path)
    made.start_from(GOLDEN / "models" / "m24.pth")
    made.train(Budget(max_steps=1))
    assert made.quantising


def test_a_run_starts_from_what_another_run_would_export(audio_folder: Path, tmp_path: Path) -> None:
    first = trainer(audio_folder, tmp_path / "first", "quantise_from=0")
    first.train(Budget(max_steps=3))
    second = trainer(audio_folder, tmp_path / "second", "model.n_codebooks=1", "valid_codebooks=[1]")
    second.start_from(tmp_path / "first")
    wanted = exported(first.state_dict())
    for name, value in second.network.state_dict().items():
        assert torch.equal(value, wanted[name].float()), name


def test_a_long_term_filter_begins_behind_weights_that_had_none(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", "model.long_term=true", "model.sample_rate=8000")
    other = offline_weights(tmp_path / "other.safetensors", made.recipe.model, n_codebooks=2)
    made.start_from(tmp_path / "other.safetensors")
    assert torch.equal(made.network.decoder.model[0].weight_v, other.decoder.model[0].weight_v)
    made.train(Budget(max_steps=2))
    assert made.network.decoder.long_term is not None
    assert made.network.decoder.long_term.own.any()  # and is trained


def test_weights_of_another_model_are_refused(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    path = tmp_path / "other.safetensors"
    offline_weights(path, ModelConfig(**{**made.recipe.model.__dict__, "sample_rate": 16_000}), n_codebooks=2)
    with pytest.raises(UsageError, match="sample_rate 16000 against 8000"):
        made.start_from(path)
    offline_weights(tmp_path / "fewer.safetensors", made.recipe.model, n_codebooks=1)
    with pytest.raises(UsageError, match="n_codebooks 1 against 2"):
        made.start_from(tmp_path / "fewer.safetensors")
    predicting = trainer(audio_folder, tmp_path / "predicting", "model.predictor_dim=4")
    predicting.save()
    with pytest.raises(UsageError, match="predictor_dim 4 against None"):
        made.start_from(tmp_path / "predicting")
    path.write_bytes(b"junk")
    with pytest.raises(BadDataError, match="not a safetensors file"):
        made.start_from(path)
    with pytest.raises(NoInputError):
        made.start_from(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_with_the_encoder_frozen_old_codes_stay_decodable(
    audio_folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    made = trainer(audio_folder, tmp_path / "run", "freeze=encoder", "valid_every=2", "restart_below=10")
    path = tmp_path / "old.safetensors"
    offline_weights(path, made.recipe.model, n_codebooks=2, dtype=dtype)
    made.start_from(path)
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    made.train(Budget(max_steps=6))
    export_weights(load_checkpoint(tmp_path / "run"), tmp_path / "new.safetensors")
    for name, value in made.network.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("decoder.")), name
    old, new = load(save_causal(path, dtype)), load(tmp_path / "new.safetensors")
    assert new.fingerprint == old.fingerprint
    audio = 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    assert not np.array_equal(new.decode(old.encode(audio)), old.decode(old.encode(audio)))


@pytest.mark.parametrize("how", ["from", "init"])
def test_streams_of_a_run_stay_decodable_when_its_decoder_alone_goes_on(
    audio_folder: Path, tmp_path: Path, how: str
) -> None:
    trunk = trainer(audio_folder, tmp_path / "trunk", "quantise_from=0")
    trunk.train(Budget(max_steps=4))
    state = load_checkpoint(tmp_path / "trunk")
    branch = trainer(audio_folder, tmp_path / "branch", "quantise_from=0", "freeze=encoder")
    if how == "from":
        branch.load_state_dict(state, branch=True)
    else:
        branch.start_from(tmp_path / "trunk")
    branch.train(Budget(max_steps=8))
    export_weights(state, tmp_path / "old.safetensors")
    export_weights(load_checkpoint(tmp_path / "branch"), tmp_path / "new.safetensors")
    old, new = load(tmp_path / "old.safetensors"), load(tmp_path / "new.safetensors")
    assert new.fingerprint == old.fingerprint
    audio = 0.1 * np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    assert np.array_equal(new.encode(audio), old.encode(audio))
    assert not np.array_equal(new.decode(old.encode(audio)), old.decode(old.encode(audio)))


@pytest.mark.parametrize("change", ["quantise_from=3", "model.predictor_dim=4"])
def test_what_was_never_fitted_cannot_be_frozen(audio_folder: Path, tmp_path: Path, change: str) -> None:
    made = trainer(audio_folder, tmp_path / "run", "freeze=encoder", "quantise_from=0", change)
    with pytest.raises(UsageError, match=r"fitted first; start from weights.*--init"):
        made.train(Budget(max_steps=4))
    assert not list((tmp_path / "run").iterdir())


def test_a_run_without_codebooks_as_yet_begins_another_one_without(audio_folder: Path, tmp_path: Path) -> None:
    first = trainer(audio_folder, tmp_path / "first")
    first.train(Budget(max_steps=2))
    with pytest.raises(UsageError, match="at step 2 there is no codebook yet: they are fitted at 3"):
        export_weights(load_checkpoint(tmp_path / "first"), tmp_path / "w.safetensors")
    second = trainer(audio_folder, tmp_path / "second")
    second.start_from(tmp_path / "first")
    assert not second.quantising
    second.train(Budget(max_steps=4))
    assert second.quantising


@pytest.mark.parametrize("damage", [lambda value: value[:3], lambda value: value * float("nan")])
def test_damaged_weights_are_refused(audio_folder: Path, tmp_path: Path, damage) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    other = offline_weights(tmp_path / "good.safetensors", made.recipe.model, n_codebooks=2)
    name, tensors = "decoder.model.0.weight_v", other.state_dict()
    tensors[name] = damage(tensors[name])
    save_weights(tmp_path / "bad.safetensors", Weights(other.config, tensors))
    with pytest.raises(BadDataError, match=name):
        made.start_from(tmp_path / "bad.safetensors")


def test_discriminators_of_a_run_are_not_dropped_without_a_word(audio_folder: Path, tmp_path: Path) -> None:
    first = trainer(
        audio_folder, tmp_path / "run", "losses.generator=1", "losses.feature=2", "discriminator.channels=2"
    )
    first.train(Budget(max_steps=1))
    second = trainer(audio_folder, tmp_path / "run")
    state = load_checkpoint(tmp_path / "run")
    with pytest.raises(UsageError, match="the run has discriminators, the config has none"):
        second.load_state_dict(state)
    second.load_state_dict(state, branch=True)


def test_what_was_never_trained_cannot_be_frozen(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", "freeze=encoder", "quantise_from=0", "start=plain")
    with pytest.raises(UsageError, match="never trained; start from weights"):
        made.train(Budget(max_steps=4))


def test_other_projections_are_refused(audio_folder: Path, tmp_path: Path) -> None:
    state = trainer(audio_folder, tmp_path / "run").state_dict()
    with pytest.raises(UsageError, match="optimizer has other parameters"):
        trainer(audio_folder, tmp_path / "other", "projections=fitted").load_state_dict(state, branch=True)


def test_a_branch_keeps_a_best_of_its_own(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    made.best = 0.1
    for branch, best in ((False, 0.1), (True, float("inf"))):
        other = trainer(audio_folder, tmp_path / "other")
        other.load_state_dict(made.state_dict(), branch=branch)
        assert other.best == best


def save_causal(path: Path, dtype: torch.dtype) -> Path:
    """The same weights, called causal: what the run began with."""
    from streamdac.weights import load_weights

    weights = load_weights(path)
    config = ModelConfig(**{**weights.config.__dict__, "padding": "causal"})
    target = path.with_name("causal.safetensors")
    save_weights(target, Weights(config, weights.tensors, {"name": "old"}), dtype=dtype)
    return target


def test_what_is_frozen_cannot_change_within_a_run_but_in_a_branch(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", "quantise_from=0")
    made.train(Budget(max_steps=2))
    frozen = trainer(audio_folder, tmp_path / "frozen", "quantise_from=0", "freeze=encoder")
    state = load_checkpoint(tmp_path / "run")
    with pytest.raises(UsageError, match="freeze"):
        frozen.load_state_dict(state)
    frozen.load_state_dict(state, branch=True)
    frozen.train(Budget(max_steps=4))
    assert frozen.step == 4


def test_another_optimizer_is_refused(audio_folder: Path, tmp_path: Path) -> None:
    state = trainer(audio_folder, tmp_path / "run", "optimizer=adamw").state_dict()
    with pytest.raises(UsageError, match="optimizer adamw"):
        trainer(audio_folder, tmp_path / "other").load_state_dict(state)


def test_a_checkpoint_of_an_older_version_loads(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    state = made.state_dict()
    del state["best"], state["adversary"]
    recipe = {"name": "old", "model": state["recipe"]["model"], "optimizer": "muon"}
    made.load_state_dict({**state, "recipe": recipe})
    assert made.best == float("inf")


def test_the_best_and_the_tagged_checkpoints_are_kept(audio_folder: Path, tmp_path: Path) -> None:
    changes = ["quantise_from=0", "valid_every=2", "keep_steps=[3, 5]"]
    made = trainer(audio_folder, tmp_path / "run", *changes)
    found = iter([5.0, 3.0, 4.0])
    measured = made.validate

    def scripted() -> dict[str, float]:
        made._clips().metrics = lambda *_: {"mel@2": next(found)}  # type: ignore[method-assign]
        return measured()

    made.validate = scripted  # type: ignore[method-assign]
    made.train(Budget(max_steps=6))
    names = sorted(path.name for path in (tmp_path / "run").glob("*.pt"))
    assert names == ["checkpoint-3.pt", "checkpoint-5.pt", BEST, "checkpoint-latest.pt"]
    steps = [load_checkpoint(tmp_path / "run" / name)["step"] for name in names]
    assert steps == [3, 5, 4, 6]
    assert load_checkpoint(tmp_path / "run")["best"] == 3.0


def test_tensorboard_gets_samples_and_spectrograms(audio_folder: Path, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = trainer(audio_folder, tmp_path, "quantise_from=0", "valid_every=2", "sample_every=4", "valid_codebooks=[2]")
    made.log = RunLog(tmp_path)
    made.train(Budget(max_steps=9))
    made.finish()
    made.finish()  # nothing more
    made.log.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"train/mel", "valid/mel_at_2"} <= set(tags["scalars"])
    assert tags["audio"] == ["clip-0/original", "clip-0/2-codebooks"]
    assert tags["images"] == ["clip-0/original-spectrogram", "clip-0/2-codebooks-spectrogram"]
    assert [event.step for event in events.Audio("clip-0/original")] == [4]
    assert [event.step for event in events.Audio("clip-0/2-codebooks")] == [4, 8, 9]
    picture = events.Images("clip-0/original-spectrogram")[0]
    assert (picture.height, picture.width) == (257, 32)
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(picture.encoded_image_string))
    rows = np.asarray(image.convert("L")).mean(axis=1)
    assert rows.argmax() > 128  # a tone of some hundred Hz: light far down
    assert rows.max() > 2 * np.median(rows)


def test_the_command_starts_from_weights_and_freezes(audio_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    offline_weights(path, load_recipe("causal-24khz", TINY).model, n_codebooks=2)
    changes = [f"--set={change}" for change in TINY]
    line = [f"--data={audio_folder}", f"-r{tmp_path / 'run'}", "--max-steps=2", "--no-tensorboard", *changes]
    options = [f"--init={path}", "--freeze=encoder"]
    result = CliRunner().invoke(train_command, [*line, *options], catch_exceptions=False)
    assert result.exit_code == 0
    state = load_checkpoint(tmp_path / "run")
    assert state["recipe"]["freeze"] == "encoder"
    assert state["quantising"] is True
    again = CliRunner().invoke(train_command, [*line, *options, "--max-steps=3"], catch_exceptions=False)
    assert f"goes on with the run in {tmp_path / 'run'}: --init is for a new one" in again.stderr
    with pytest.raises(UsageError, match="not both"):
        CliRunner().invoke(train_command, [*line, *options, f"--from={path}"], catch_exceptions=False)


def test_weights_with_wider_layers_are_refused(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    other = DAC(ModelConfig(**{**made.recipe.model.__dict__, "encoder_widths": (40, 60, 80)}))
    save_weights(tmp_path / "other.safetensors", Weights(other.config, other.state_dict()))
    with pytest.raises(UsageError, match=r"of another model: encoder_widths \[40, 60, 80\] against None"):
        made.start_from(tmp_path / "other.safetensors")
