"""The training loop: it learns, resumes exactly, stops cleanly, and gives up on numbers that are not finite."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from torch import Tensor

from streamdac.config import config_from_mapping
from streamdac.errors import BadDataError, NoInputError, OutputError, UsageError
from streamdac.nn import DAC
from streamdac.nn.layers import Conv, ConvTranspose
from streamdac.ops import ConvOp, TransposeOp
from streamdac.plan import build_plan
from streamdac.training.checkpoint import LATEST, export_weights, load_checkpoint, save_checkpoint
from streamdac.training.logs import RunLog
from streamdac.training.loop import Budget, Trainer
from streamdac.training.recipe import load_recipe
from streamdac.training.train import train_command
from streamdac.weights import load_weights

from .conftest import TINY


def trainer(audio: Path, folder: Path, *changes: str) -> Trainer:
    folder.mkdir(exist_ok=True)
    return Trainer(load_recipe("causal-24khz", [*TINY, *changes]), [audio], folder)


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("stop_at", [2, 5])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(
    audio_folder: Path, tmp_path: Path, stop_at: int, optimizer: str
) -> None:
    changes = [f"optimizer={optimizer}", "cooldown=0.5", "early_steps=4", "early_batch=1"]
    whole = trainer(audio_folder, tmp_path / "whole", *changes)
    whole.train(Budget(max_steps=8))
    first = trainer(audio_folder, tmp_path / "parts", *changes)
    first.progress = lambda _budget: 1.0 if first.step >= stop_at else first.step / 8  # type: ignore[method-assign]
    first.train(Budget(max_steps=8))
    torch.rand(17)  # whatever else the new process does with random numbers
    second = trainer(audio_folder, tmp_path / "parts", *changes)
    second.load_state_dict(load_checkpoint(tmp_path / "parts"))
    assert second.step == stop_at
    second.train(Budget(max_steps=8))
    states = [{**t.state_dict(), "elapsed": 0} for t in (whole, second)]
    assert states[0]["step"] == 8
    assert same(*states)


def test_a_run_stopped_before_its_first_step_does_not_start_anew(audio_folder: Path, tmp_path: Path) -> None:
    other = trainer(audio_folder, tmp_path / "other", "quantise_from=0")
    export_weights(other.state_dict(), tmp_path / "w.safetensors")
    made = trainer(audio_folder, tmp_path / "run")
    made.start_from(tmp_path / "w.safetensors")
    made.stop = True
    made.train(Budget(max_steps=4))
    assert made.step == 0
    again = trainer(audio_folder, tmp_path / "run")
    again.load_state_dict(load_checkpoint(tmp_path / "run"))
    again.stop = True
    again.train(Budget(max_steps=4))
    assert same(again.network.state_dict(), made.network.state_dict())


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_other_decays_hold_for_a_run_that_goes_on(audio_folder: Path, tmp_path: Path, optimizer: str) -> None:
    adversarial = [
        "losses.feature=1",
        "discriminator.periods=[2]",
        "discriminator.fft_sizes=[]",
        "discriminator.width=0.0625",
    ]
    made = trainer(audio_folder, tmp_path / "run", f"optimizer={optimizer}", *adversarial)
    made.train(Budget(max_steps=1))
    changes = [
        "betas=[0.7, 0.8]",
        "weight_decay=0.3",
        "discriminator.betas=[0.1, 0.2]",
        "discriminator.weight_decay=0.4",
    ]
    other = trainer(audio_folder, tmp_path / "run", f"optimizer={optimizer}", *adversarial, *changes)
    other.load_state_dict(load_checkpoint(tmp_path / "run"))
    decays = [(group["betas"], group["weight_decay"]) for group in other.optimizers.adamw.param_groups]
    assert decays == [((0.7, 0.8), 0.3), ((0.7, 0.8), 0.0)]
    assert other.adversary is not None
    assert [(g["betas"], g["weight_decay"]) for g in other.adversary.optimizer.param_groups] == [((0.1, 0.2), 0.4)]


def test_a_branch_with_fewer_steps_than_its_trunk_has_is_refused(audio_folder: Path, tmp_path: Path) -> None:
    trunk = trainer(audio_folder, tmp_path / "trunk")
    trunk.train(Budget(max_steps=4))
    branch = trainer(audio_folder, tmp_path / "branch")
    branch.load_state_dict(load_checkpoint(tmp_path / "trunk"), branch=True)
    with pytest.raises(UsageError, match="4 steps at most, but the run goes on from step 4"):
        branch.train(Budget(max_steps=4))


def test_losses_fall(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", "quantise_from=30")
    before = made.validate()
    made.train(Budget(max_steps=60))
    after = made.validate()
    assert after["mel@2"] < 0.7 * before["mel@0"]
    assert after["perplexity"] > 1


def test_a_branch_cools_down_and_its_trunk_goes_on(audio_folder: Path, tmp_path: Path) -> None:
    trunk = trainer(audio_folder, tmp_path / "trunk")
    trunk.train(Budget(max_steps=4))
    branch = trainer(audio_folder, tmp_path / "branch", "cooldown=1.0")
    branch.load_state_dict(load_checkpoint(tmp_path / "trunk"), branch=True)
    assert branch.progress(Budget(max_steps=8)) == 0
    branch.train(Budget(max_steps=8))
    assert branch.step == 8
    trunk.train(Budget(max_steps=6))
    assert trunk.step == 6


def test_a_time_budget_ends_the_run_and_is_counted_from_its_start(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    made.train(Budget(seconds=0.3))
    assert 0.3 <= made.elapsed < 10
    assert made.progress(Budget(seconds=2 * made.elapsed)) == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    audio_folder: Path, tmp_path: Path
) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    made.train(Budget(max_steps=2))
    good = (tmp_path / "run" / LATEST).read_bytes()
    with torch.no_grad():
        made.network.decoder.model[0].bias[0] = float("nan")  # type: ignore[index,union-attr]
    with pytest.raises(BadDataError, match=r"step 2: .*mel.*bad-batch-2"):
        made.train(Budget(max_steps=4))
    assert (tmp_path / "run" / LATEST).read_bytes() == good
    assert np.load(tmp_path / "run" / "bad-batch-2-0.npz")["audio"].shape == (2, 1, 2400)


def test_logs_are_json_lines_with_losses_and_held_out_metrics(audio_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    made = trainer(audio_folder, folder, "valid_every=4")
    made.log = RunLog(folder, tensorboard=False)
    made.train(Budget(max_steps=4))
    made.log.close()
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "train", "valid"]
    assert {"loss", "mel", "stft", "waveform", "commitment", "codebook", "perplexity", "rate"} <= lines[1].keys()
    assert {"mel@1", "mel@2", "stft@2", "si_sdr@2", "perplexity"} <= lines[2].keys()


def test_an_end_that_was_just_measured_is_not_measured_again(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path, "valid_every=2")
    made.log = RunLog(tmp_path, tensorboard=False)
    for steps in (2, 3):
        made.train(Budget(max_steps=steps))
        made.finish()
    made.log.close()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "valid"] == [2, 3]


def test_other_precision_than_before_is_said(audio_folder: Path, tmp_path: Path) -> None:
    line = [f"--data={audio_folder}", f"-r{tmp_path / 'run'}", "--no-tensorboard", *(f"--set={c}" for c in TINY)]
    for steps, precision in ((1, "fp32"), (2, "bf16")):
        changes = [f"--max-steps={steps}", f"--set=precision={precision}"]
        result = CliRunner().invoke(train_command, [*line, *changes], catch_exceptions=False)
        said = "convolutions were in float32 until here, now in bfloat16" in result.stderr
        assert said == (steps == 2)


def test_a_checkpoint_of_another_model_is_refused(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    other = trainer(audio_folder, tmp_path / "other", "model.latent_dim=12")
    with pytest.raises(UsageError, match="another model"):
        other.load_state_dict(made.state_dict())


def test_how_often_codebooks_are_left_out_may_change_within_a_run(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    made.train(Budget(max_steps=1))
    other = trainer(audio_folder, tmp_path / "run", "model.quantizer_dropout=1.0")
    other.load_state_dict(load_checkpoint(tmp_path / "run"))
    other.train(Budget(max_steps=2))
    assert load_checkpoint(tmp_path / "run")["recipe"]["model"]["quantizer_dropout"] == 1.0


def test_checkpoints_appear_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / LATEST
    save_checkpoint(path, {"step": 1})

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(path, {"step": 2})
    monkeypatch.setattr(torch, "save", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    assert load_checkpoint(tmp_path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == [LATEST]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadDataError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path)
    with pytest.raises(NoInputError):
        load_checkpoint(tmp_path / "nothing.pt")


@pytest.mark.parametrize("average", [True, False])
def test_exported_weights_load_into_the_network_they_name(audio_folder: Path, tmp_path: Path, average: bool) -> None:
    made = trainer(audio_folder, tmp_path / "run")
    made.train(Budget(max_steps=5))
    path = tmp_path / "model.safetensors"
    export_weights(load_checkpoint(tmp_path / "run"), path, average=average, name="tiny")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert path.stat().st_mode & 0o777 == (tmp_path / "run" / LATEST).stat().st_mode & 0o777
    assert (metadata["format"], metadata["name"], metadata["step"]) == ("streamdac-1", "tiny", "5")
    assert metadata["audio_seconds"] == "3"
    network = DAC(config_from_mapping(json.loads(metadata["config"])))
    assert all((value.dtype == torch.float32) == key.endswith("weight_g") for key, value in weights.items())
    network.load_state_dict({key: value.float() for key, value in weights.items()})
    wanted = DAC(network.config)
    wanted.load_state_dict(made.average.values if average else made.network.state_dict())
    for whole in (False, True):
        ours, theirs = (weights_of(each, folded=whole) for each in (network, wanted))
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-3, atol=1e-6)
    plan = build_plan(network)
    layers = [op for part in (plan.encoder, plan.decoder) for op in part.ops if isinstance(op, ConvOp | TransposeOp)]
    assert all(layer.halves is not None for layer in layers)


def weights_of(network: DAC, *, folded: bool) -> dict[str, Tensor]:
    """Convolutions' weights, or all else but their directions and norms."""
    if folded:
        return {key: layer.weight for key, layer in network.named_modules() if isinstance(layer, Conv | ConvTranspose)}
    return {key: value for key, value in network.state_dict().items() if not key.endswith(("weight_v", "weight_g"))}


def test_a_weight_too_small_for_half_precision_is_exported_without_effect(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", "quantise_from=0")
    state = made.state_dict()
    name = "decoder.model.1.block.2.block.3.weight"
    state["network"][f"{name}_v"][0], state["network"][f"{name}_g"][0] = 1e-12, 3e-12
    export_weights(state, tmp_path / "model.safetensors", average=False)
    layer = load_weights(tmp_path / "model.safetensors").network().get_submodule(name.removesuffix(".weight"))
    assert isinstance(layer, Conv)
    assert 0 < float(layer.weight[0].detach().norm()) < 1e-11


def program(*arguments: str, launcher: tuple[str, ...] = ("-m",)) -> list[str]:
    return [sys.executable, *launcher, "streamdac.training", *arguments]


def command(audio: Path, run: Path, *arguments: str) -> list[str]:
    changes = [f"--set={change}" for change in TINY]
    return program("train", f"--data={audio}", "-r", str(run), "--threads=1", "--no-tensorboard", *changes, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_the_program_with_a_checkpoint_and_it_resumes(
    audio_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(command(audio_folder, run), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").exists() or not (run / "log.jsonl").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "stopped at step" in errors
    step = load_checkpoint(run)["step"]
    assert step > 0
    subprocess.run(command(audio_folder, run, f"--max-steps={step + 2}"), check=True, capture_output=True)
    assert load_checkpoint(run)["step"] == step + 2
