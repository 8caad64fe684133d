"""What a checkpoint holds of a run, and how a run continues from it. Checkpoints of older versions stay loadable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from streamdac.errors import UsageError

from .checkpoint import exported

if TYPE_CHECKING:
    from .loop import Trainer


_HELD_OUT = 2  # how files of a plain folder are chosen to be held out: the second way


def run_state(run: Trainer) -> dict[str, Any]:
    """Everything that the next step depends on, as tensors and plain types."""
    return {
        "recipe": run.recipe.to_dict(),
        "network": run.network.state_dict(),
        "optimizers": run.optimizers.state_dict(),
        "average": {"updates": run.average.updates, "values": run.average.values},
        "clipper": run.clipper.running,
        "use": run.use.shares,
        "means": None if run.means is None else {"counts": run.means.counts, "sums": run.means.sums},
        "step": run.step,
        "audio_seconds": run.audio_seconds,
        "elapsed": run.elapsed,
        "origin": list(run.origin),
        "quantising": run.quantising,
        "precision": run.precision,
        "best": run.best,
        "held_out": _HELD_OUT,
        "adversary": None if run.adversary is None else run.adversary.state_dict(),
    }


def restore(run: Trainer, state: dict[str, Any], *, branch: bool) -> None:
    """Continue from `state`; with `branch` the budget begins anew, and what is trained may be another part.

    Raises:
        UsageError: the state is of another model, optimiser or discriminators.
    """
    dropout = {"quantizer_dropout": run.recipe.model.quantizer_dropout}  # may change as the learning rate may
    if state["recipe"]["model"] | dropout != run.recipe.model.to_dict():
        raise UsageError("the checkpoint is of another model than the config")
    frozen = state["recipe"].get("freeze", "")
    if frozen == run.recipe.freeze:
        _restore_optimizers(run, state)
    elif not branch:
        raise UsageError(f"the run has freeze {frozen!r}, the config {run.recipe.freeze!r}: branch off it with --from")
    run.network.load_state_dict(state["network"])
    run.average.restore(state["average"]["updates"], state["average"]["values"])
    if run.recipe.freeze and frozen != run.recipe.freeze:
        _freeze_as_exported(run, state)
    run.clipper.running = state["clipper"]
    run.use.shares.copy_(state["use"])
    if run.means is not None and state.get("means") is not None:
        run.means.counts.copy_(state["means"]["counts"])
        run.means.sums.copy_(state["means"]["sums"])
    run.step, run.elapsed, run.audio_seconds = state["step"], state["elapsed"], state["audio_seconds"]
    run.origin = (run.step, run.elapsed) if branch else (int(state["origin"][0]), float(state["origin"][1]))
    run.quantising, run.begun = state["quantising"], True
    measured_alike = not branch and state.get("held_out") == _HELD_OUT  # else of other data or losses, perhaps
    run.best = state.get("best", float("inf")) if measured_alike else float("inf")
    if run.adversary is None and state.get("adversary") is not None and not branch:
        raise UsageError(
            "the run has discriminators, the config has none: branch off it with --from, or set losses.generator"
        )
    if run.adversary is not None and state.get("adversary") is not None:
        try:
            run.adversary.load_state_dict(state["adversary"])
        except (RuntimeError, ValueError) as error:
            raise UsageError("the checkpoint is of other discriminators than the config") from error


def _freeze_as_exported(run: Trainer, state: dict[str, Any]) -> None:
    """What is trained no more stays what streams were made with: the averages, rounded as an export rounds them."""
    tensors = exported(state)
    with torch.no_grad():
        for name, parameter in run.network.named_parameters():
            if not parameter.requires_grad:
                parameter.copy_(tensors[name])
                run.average.values[name].copy_(tensors[name])


def _restore_optimizers(run: Trainer, state: dict[str, Any]) -> None:
    if (state["optimizers"]["muon"] is None) != (run.optimizers.muon is None):
        was = state["recipe"]["optimizer"]
        raise UsageError(f"the checkpoint is of optimizer {was}, the config says {run.recipe.optimizer}")
    try:
        run.optimizers.load_state_dict(state["optimizers"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise UsageError(
            "the checkpoint's optimizer has other parameters than the config's (projections, decay_all)"
        ) from error
