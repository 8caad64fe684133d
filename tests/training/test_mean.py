"""`average`: the mean of runs is one of their weights, and a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from streamdac.codec import load
from streamdac.errors import NoInputError, OutputError, UsageError
from streamdac.nn.layers import fold_weight_norm
from streamdac.training.checkpoint import LATEST, export_weights, load_checkpoint
from streamdac.training.loop import Budget
from streamdac.training.mean import average_command, mean_of_runs, mean_of_weights

from .test_loop import trainer


@pytest.fixture
def runs(audio_folder: Path, tmp_path: Path) -> list[Path]:
    """Two runs of other seeds, quantised."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for seed, folder in enumerate(folders):
        trainer(audio_folder, folder, f"seed={seed}", "quantise_from=0").train(Budget(max_steps=2))
    return folders


def called(*arguments: object) -> Any:
    return CliRunner().invoke(average_command, [str(argument) for argument in arguments], catch_exceptions=False)


def whole(values: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return fold_weight_norm(values[f"{name}.weight_v"], values[f"{name}.weight_g"])


def test_whole_weights_are_averaged_not_directions(runs: list[Path]) -> None:
    first, second = (load_checkpoint(run)["average"]["values"] for run in runs)
    mean = mean_of_weights([first, second])
    assert mean.keys() == first.keys()
    for name in ("encoder.block.0", "decoder.model.0", "quantizer.quantizers.0.in_proj"):
        expected = (whole(first, name) + whole(second, name)) / 2
        torch.testing.assert_close(whole(mean, name), expected)
        lengths = torch.linalg.vector_norm(expected, dim=(1, 2), keepdim=True)
        torch.testing.assert_close(mean[f"{name}.weight_g"], lengths)
    name = "quantizer.quantizers.0.codebook.weight"
    torch.testing.assert_close(mean[name], (first[name] + second[name]) / 2)


def test_a_file_of_weights_is_averaged_with_a_run_that_goes_on(
    runs: list[Path], audio_folder: Path, tmp_path: Path
) -> None:
    first, second = runs
    export_weights(load_checkpoint(first), tmp_path / "first.safetensors")
    assert called(tmp_path / "first.safetensors", second, "-o", tmp_path / "mean").exit_code == 0
    assert called(first, second, "-o", tmp_path / "wanted").exit_code == 0
    made, wanted = (load_checkpoint(tmp_path / name) for name in ("mean", "wanted"))
    assert made["step"] == wanted["step"]
    assert made["average"]["values"].keys() == wanted["average"]["values"].keys()
    for name, value in wanted["average"]["values"].items():
        torch.testing.assert_close(made["average"]["values"][name], value, rtol=2e-3, atol=1e-3)
    going_on = trainer(
        audio_folder, tmp_path / "on", "seed=1", "quantise_from=0", "codebook_decay=0.98", "lr=1e-9", "muon_lr=1e-9"
    )
    going_on.load_state_dict(made, branch=True)
    before = made["network"]["quantizer.quantizers.0.codebook.weight"]
    going_on.train(Budget(max_steps=made["step"] + 1))
    after = going_on.network.state_dict()["quantizer.quantizers.0.codebook.weight"]
    assert (after - before).norm() < 0.1 * before.norm()


def test_the_last_must_be_a_run(runs: list[Path], tmp_path: Path) -> None:
    export_weights(load_checkpoint(runs[0]), tmp_path / "first.safetensors")
    with pytest.raises(UsageError, match="the last of them is a file of weights"):
        called(runs[1], tmp_path / "first.safetensors", "-o", tmp_path / "mean")


def test_a_run_is_its_own_mean(runs: list[Path]) -> None:
    state = load_checkpoint(runs[0])
    mean = mean_of_weights([state["average"]["values"]] * 3)
    for name in ("encoder.block.0", "decoder.model.0"):
        torch.testing.assert_close(whole(mean, name), whole(state["average"]["values"], name))


def test_rows_of_no_length_stay_so() -> None:
    weights = {
        "a.weight_v": torch.eye(3)[:, :, None].clone(),
        "a.weight_g": torch.tensor([1.0, 0.0, 2.0])[:, None, None],
    }
    mean = mean_of_weights([weights, weights])
    torch.testing.assert_close(mean["a.weight_g"], weights["a.weight_g"])
    torch.testing.assert_close(whole(mean, "a"), whole(weights, "a"))


def test_what_is_the_same_in_all_stays_so_to_the_bit() -> None:
    torch.manual_seed(0)
    v = torch.randn(64, 8, 1)
    frozen = {"a.weight_v": v, "a.weight_g": torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True), "b": torch.rand(5)}
    runs = [{**frozen, "c": torch.randn(3)} for _ in range(3)]
    mean = mean_of_weights(runs)
    assert all(torch.equal(mean[name], value) for name, value in frozen.items())


def test_the_mean_of_runs_with_a_frozen_encoder_keeps_their_fingerprint(audio_folder: Path, tmp_path: Path) -> None:
    trainer(audio_folder, tmp_path / "trunk", "quantise_from=0").train(Budget(max_steps=2))
    for seed in (1, 2):
        branch = trainer(audio_folder, tmp_path / str(seed), f"seed={seed}", "quantise_from=0", "freeze=encoder")
        branch.load_state_dict(load_checkpoint(tmp_path / "trunk"), branch=True)
        branch.train(Budget(max_steps=4))
    called(tmp_path / "1", tmp_path / "2", "-o", tmp_path / "mean")
    for name in ("1", "mean"):
        export_weights(load_checkpoint(tmp_path / name), tmp_path / f"{name}.safetensors")
    assert load(tmp_path / "mean.safetensors").fingerprint == load(tmp_path / "1.safetensors").fingerprint


def test_the_mean_goes_on_as_the_last_run_would(audio_folder: Path, tmp_path: Path, runs: list[Path]) -> None:
    assert called(*runs, "-o", tmp_path / "mean").output.endswith("the mean of 2 runs at step 2\n")
    made, last = load_checkpoint(tmp_path / "mean"), load_checkpoint(runs[1])
    assert (made["step"], made["audio_seconds"]) == (last["step"], last["audio_seconds"])
    name = "decoder.model.0.weight_v"
    torch.testing.assert_close(made["network"][name], made["average"]["values"][name])
    assert not torch.equal(made["network"][name], last["network"][name])
    further = trainer(audio_folder, tmp_path / "further", "seed=1", "quantise_from=0")
    further.load_state_dict(made, branch=True)
    further.train(Budget(max_steps=4))
    assert further.step == 4
    assert load_checkpoint(tmp_path / "further")["step"] == 4


def test_runs_of_other_models_have_no_mean(audio_folder: Path, tmp_path: Path, runs: list[Path]) -> None:
    trainer(audio_folder, tmp_path / "wide", "quantise_from=0", "model.decoder_dim=32").train(Budget(max_steps=1))
    with pytest.raises(UsageError, match="run 2 is of another model than the first"):
        called(runs[0], tmp_path / "wide", "-o", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_one_run_has_no_mean(runs: list[Path]) -> None:
    with pytest.raises(UsageError, match="the mean of 1 run: need two or more"):
        mean_of_runs([load_checkpoint(runs[0])])


def test_what_is_not_there_or_there_already_is_said(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(NoInputError, match=r"no model .*three.*neither a file"):
        called(*runs, tmp_path / "three", "-o", tmp_path / "mean")
    before = (runs[0] / LATEST).read_bytes()
    with pytest.raises(OutputError, match="exists; -f overwrites it"):
        called(*runs, "-o", runs[0])
    assert (runs[0] / LATEST).read_bytes() == before
    called(*runs, "-o", runs[0], "-f")
    assert (runs[0] / LATEST).read_bytes() != before
