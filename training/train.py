"""The commands `train` and `export` of `python -m streamdac.training`."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from streamdac.numbers import FiniteRange

if TYPE_CHECKING:
    from .loop import Trainer
    from .processes import Processes
    from .recipe import Recipe


_INSISTS_AFTER = 3.0  # seconds
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # of glibc's mallopt


@click.command("train")
@click.option("--config", default="causal-24khz", show_default=True, help="A built-in config, or a JSON file.")
@click.option(
    "--data", multiple=True, required=True, type=click.Path(path_type=Path), help="Corpus or folder of audio."
)
@click.option(
    "-r", "--run", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of this run."
)
@click.option("--resume", type=click.Choice(["auto", "never", "must"]), default="auto", show_default=True)
@click.option("--from", "branch", type=click.Path(path_type=Path), help="Branch off another run or checkpoint.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="Start from these weights: same model, other padding, more codebooks, narrower layers.",
)
@click.option("--freeze", type=click.Choice(["encoder"]), help="Train only the decoder; old streams stay decodable.")
@click.option("--max-steps", type=click.IntRange(1), help="Stop at this step.")
@click.option("--budget-minutes", type=FiniteRange(0, min_open=True), help="Stop after so long.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of the config.")
@click.option("--tensorboard/--no-tensorboard", default=True, show_default=True)
def train_command(
    config: str,
    data: tuple[Path, ...],
    run: Path,
    resume: str,
    branch: Path | None,
    init: Path | None,
    freeze: str | None,
    max_steps: int | None,
    budget_minutes: float | None,
    threads: int | None,
    device: str,
    changes: tuple[str, ...],
    tensorboard: bool,
) -> None:
    """Train a codec. Stopped (Ctrl-C) or ended, it leaves a checkpoint that the same command continues from."""
    import torch

    from .logs import RunLog
    from .loop import Budget, Trainer
    from .processes import join_processes
    from .recipe import load_recipe

    recipe = load_recipe(config, [*changes, *([f"freeze={freeze}"] if freeze else [])])
    if threads is not None:
        torch.set_num_threads(threads)
    processes = join_processes(device)
    _keep_freed_memory()
    run.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(recipe, data, run, processes=processes)
    notes = _continue(trainer, run, resume, branch, init)
    log = trainer.log = RunLog(run, tensorboard=tensorboard) if processes.first else None
    try:
        if log is not None:
            _announce(log.say, trainer, recipe, processes)
            for note in notes:
                log.say(note)
        _stop_on_signals(trainer)
        seconds = None if budget_minutes is None else 60 * budget_minutes
        trainer.train(Budget(max_steps or recipe.steps or None, seconds))
        trainer.finish()
    finally:
        if log is not None:
            log.say(f"stopped at step {trainer.step}, {trainer.audio_seconds / 3600:.2f} hours of audio seen")
            log.close()


def _keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next step: fresh pages for every activation cost 4 to 8 % of the time."""
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20)):
            mallopt(option, value)


def _continue(trainer: Trainer, run: Path, resume: str, branch: Path | None, init: Path | None) -> list[str]:
    """Take the trainer to where it goes on from; what is to be said about it."""
    from streamdac.errors import NoInputError, UsageError

    from .checkpoint import LATEST, load_checkpoint

    if branch is not None and init is not None:
        raise UsageError("--from goes on with a run, --init starts one from other weights: not both")
    notes: list[str] = []
    exists = (run / LATEST).exists()
    if exists and resume == "never":
        raise UsageError(f"{run} holds a run already; choose another folder or --resume auto")
    if exists:
        state = load_checkpoint(run)
        trainer.load_state_dict(state)
        if branch is not None or init is not None:
            notes.append(f"goes on with the run in {run}: {'--init' if branch is None else '--from'} is for a new one")
        was, now = state.get("precision"), trainer.precision
        if was not in (None, now):  # by the recipe, or measured on another CPU
            notes.append(f"convolutions were in {was} until here, now in {now}")
    elif resume == "must":
        raise NoInputError(f"{run}: nothing to resume")
    elif branch is not None:
        trainer.load_state_dict(load_checkpoint(branch), branch=True)
    elif init is not None:
        trainer.start_from(init)
    return notes


def _announce(say: Callable[[str], None], trainer: Trainer, recipe: Recipe, processes: Processes) -> None:
    import json

    import torch

    from streamdac.nn.network import count_parameters

    (trainer.folder / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1) + "\n", encoding="utf-8")
    say(
        f"{recipe.name}: {count_parameters(trainer.network) / 1e6:.2f} M parameters, convolutions in {trainer.precision}, "
        f"{processes.count} process(es) of {torch.get_num_threads()} thread(s), from step {trainer.step}"
    )


def _stop_on_signals(trainer: Trainer) -> None:
    """The first signal ends the run with a checkpoint; one that comes later (torchrun sends each twice) ends it at once."""
    first = math.inf

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal first
        trainer.stop = True
        if time.monotonic() - first > _INSISTS_AFTER:
            raise KeyboardInterrupt
        first = min(first, time.monotonic())

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--ema/--last", default=True, show_default=True, help="Averaged weights, or those of the last step.")
@click.option("--name", help="Name in the file; the config's by default.")
@click.option("-f", "--force", is_flag=True, help="Overwrite.")
def export_command(run: Path, output: Path, ema: bool, name: str | None, force: bool) -> None:
    """Write the weights of a run (or checkpoint) for inference: fp16 safetensors."""
    from streamdac.errors import OutputError

    from .checkpoint import export_weights, load_checkpoint

    if output.exists() and not force:
        raise OutputError(f"{output} exists; -f overwrites it")
    export_weights(load_checkpoint(run), output, average=ema, name=name)
    click.echo(f"{output}: {output.stat().st_size / 1e6:.1f} MB", err=True)
