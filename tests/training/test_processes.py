"""Several processes under torchrun train the model that one process trains on the same batches."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from streamdac.errors import UsageError
from streamdac.training.checkpoint import load_checkpoint
from streamdac.training.loop import Budget, Trainer
from streamdac.training.processes import Processes
from streamdac.training.recipe import load_recipe

from .conftest import TINY
from .test_adversary import LIGHT
from .test_loop import command, same, trainer

# Random depths, bypasses, k-means and restarted entries depend on each process's own random numbers: they alone cannot be equal.
SAME = [
    *LIGHT,
    "losses.scale=0",  # of each process's own share
    "losses.codebook=1",
    "codebook_decay=0",
    "bypass=0",
    "model.quantizer_dropout=0",
    "balance.spectral=0.6",  # log spectra of near silence would turn rounding into another run: 6e-7 after a step, 0.016 after 4
    "balance.waveform=0.1",
    "restart_every=0",
    "batch=4",
    "precision=fp32",
    "discriminator.from_step=4",
]
# What turns rounding into another run within steps: faint frequencies made loud, envelopes of near silence brought to one size,
# and gradients that all but vanish, whose sign is rounding and decides over AdamW's first step: of one weight with excess, of
# others on some machines. These are left out, and have no effect on the rest where the first steps are small.
CALM = [
    "start_whiten=0",
    "losses.envelopes=0",
    "losses.bands=0",
    "losses.structure=0",
    "losses.disturbance=0",
    "excess=1",
    "compressed_excess=1",
    "warmup_steps=50",
    "model.long_term=false",  # its choice of lags: after four steps 0.4 % apart instead of 0.004 %, its own taps alike
]


def run(audio: Path, folder: Path, processes: int, steps: int, *changes: str) -> dict[str, Any]:
    """Train by the command line, alone or under torchrun, and read the checkpoint."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    settings = [f"--set={change}" for change in changes]
    line = [sys.executable, *launcher, *command(audio, folder, *settings, f"--max-steps={steps}")[1:]]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(line, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    return load_checkpoint(folder)


def apart(a: Any, b: Any, start: dict[str, torch.Tensor]) -> float:
    """Distance of two states as a share of how far the first has come from where both began, but for four numbers (`CALM`)."""

    def squares(x: Any, y: Any) -> torch.Tensor:
        return torch.cat([(x[key] - y[key]).square().flatten() for key in start]).sort().values

    return math.sqrt(float(squares(a, b)[:-4].sum()) / float(squares(a, start).sum()))


# Rounding differs with the order of sums. Muon moves the smallest singular values as far as the largest, so it soon shows.
@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "steps"), [("adamw", 8), ("muon", 1)])
def test_two_processes_train_the_model_that_one_trains(
    audio_folder: Path, tmp_path: Path, optimizer: str, steps: int
) -> None:
    changes = [*SAME, f"optimizer={optimizer}", *(CALM if steps > 1 else [])]
    one, two = (run(audio_folder, tmp_path / str(count), count, steps, *changes) for count in (1, 2))
    begin = trainer(audio_folder, tmp_path / "begin", *changes)
    begin.begin()
    assert one["step"] == two["step"] == steps
    assert one["audio_seconds"] == two["audio_seconds"] == pytest.approx(steps * 4 * 0.3)
    assert apart(one["network"], two["network"], begin.network.state_dict()) < 2e-3
    if steps > 4:
        assert one["adversary"]["updates"] == two["adversary"]["updates"] == steps - 4
        assert begin.adversary is not None
        states = [state["adversary"]["network"] for state in (one, two)]
        assert apart(*states, begin.adversary.network.state_dict()) < 2e-3


@pytest.mark.slow
def test_two_processes_resume_where_they_stopped(audio_folder: Path, tmp_path: Path) -> None:
    changes = [*LIGHT, "discriminator.from_step=2"]  # with random depths, restarts and all
    whole = run(audio_folder, tmp_path / "whole", 2, 8, *changes)
    run(audio_folder, tmp_path / "parts", 2, 5, *changes)
    parts = run(audio_folder, tmp_path / "parts", 2, 8, *changes)
    assert same({**whole, "elapsed": 0}, {**parts, "elapsed": 0})


@pytest.mark.slow
def test_processes_that_do_not_share_the_runs_folder_are_told(audio_folder: Path, tmp_path: Path) -> None:
    run(audio_folder, tmp_path / "0", 1, 2, *LIGHT)
    words = command(audio_folder, tmp_path / "RANK", *(f"--set={change}" for change in LIGHT), "--max-steps=4")[3:]
    script = tmp_path / "apart.py"
    script.write_text(
        "import os, sys\nfrom streamdac.training.__main__ import run\n"
        f"sys.argv[1:] = [word.replace('RANK', os.environ['RANK']) for word in {words!r}]\nsys.exit(run())\n"
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    result = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode != 0
    assert "the processes begin at different steps" in result.stderr


def test_a_batch_that_cannot_be_shared_out_is_refused_at_once(audio_folder: Path, tmp_path: Path) -> None:
    for changes in (["batch=4"], ["batch=3", "early_steps=5", "early_batch=4"]):
        made = Trainer(load_recipe("causal-24khz", [*TINY, *changes]), [audio_folder], tmp_path)
        made.processes = Processes(0, 3)
        with pytest.raises(UsageError, match="a batch of 4 cannot be shared out among 3 processes"):
            made.train(Budget())
