"""The training loop: batches in, updates, logs, measurements and checkpoints out; resumes exactly where it stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from streamdac.errors import BadDataError, UsageError
from streamdac.nn import DAC

from . import fastnet
from .checkpoint import LATEST, save_checkpoint
from .codebooks import CodebookUse, normalise_latent, start_codebooks
from .data import Mix, SegmentSampler, held_out_clips
from .logs import RunLog
from .losses import SpectralLosses
from .objective import Objective, StepResult
from .optim import AveragedWeights, Clipper, Optimizers, learning_rate_scale
from .processes import Processes
from .recipe import Recipe
from .start import quiet_start, transform_start
from .validation import held_out_metrics

_FRAMES_PER_ENTRY = 24  # of latents that the codebooks start from
_APART = 1 << 40  # draws that are no training step: their numbers begin here


@dataclass(frozen=True)
class Budget:
    """When to stop: at a step number, or after so many seconds of training since the run (or branch) began."""

    max_steps: int | None = None
    seconds: float | None = None


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Type of the convolutions."""
    if precision == "auto":
        return fastnet.best_cpu_dtype() if device.type == "cpu" else torch.bfloat16
    return torch.bfloat16 if precision == "bf16" else torch.float32


class Trainer:
    """One run: its network, optimisers, averages and place in time."""

    def __init__(
        self,
        recipe: Recipe,
        data: Sequence[Path],
        folder: Path,
        *,
        processes: Processes | None = None,
        log: RunLog | None = None,
    ) -> None:
        self.recipe, self.data, self.folder = recipe, list(data), folder
        self.processes = processes or Processes()
        self.device = self.processes.device
        self.log = log
        torch.manual_seed(recipe.seed)
        self.network = DAC(recipe.model).to(self.device)
        quiet_start(self.network)
        self.dtype = choose_dtype(recipe.precision, self.device)
        self.objective = Objective(self.network, recipe, self.dtype).to(self.device)
        self.optimizers = Optimizers(self.network, recipe, self.dtype)
        self.average = AveragedWeights(self.network, recipe.ema)
        self.clipper = Clipper(recipe.clip, recipe.clip_norm)
        self.use = CodebookUse(recipe.model.n_codebooks, recipe.model.codebook_size)
        self.step = 0
        self.audio_seconds = self.elapsed = 0.0
        self.origin = (0, 0.0)
        self.quantising = recipe.quantise_from == 0
        self.stop = False
        """Set from outside (a signal): finish the step, write a checkpoint, return."""
        self._wrapped: nn.Module | None = None
        self._sampler: tuple[tuple[int, float], SegmentSampler] | None = None
        self._clips: list[np.ndarray[Any, np.dtype[np.float32]]] | None = None

    # --- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "recipe": self.recipe.to_dict(),
            "network": self.network.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "average": {"updates": self.average.updates, "values": self.average.values},
            "clipper": self.clipper.running,
            "use": self.use.shares,
            "step": self.step,
            "audio_seconds": self.audio_seconds,
            "elapsed": self.elapsed,
            "origin": list(self.origin),
            "quantising": self.quantising,
        }

    def load_state_dict(self, state: dict[str, Any], *, branch: bool = False) -> None:
        """Continue from a checkpoint; with `branch` the budget begins anew."""
        if state["recipe"]["model"] != self.recipe.model.to_dict():
            raise UsageError("the checkpoint is of another model than the config")
        self.network.load_state_dict(state["network"])
        self.optimizers.load_state_dict(state["optimizers"])
        self.average.updates = state["average"]["updates"]
        for name, value in state["average"]["values"].items():
            self.average.values[name].copy_(value)
        self.clipper.running = state["clipper"]
        self.use.shares.copy_(state["use"])
        self.step, self.elapsed, self.audio_seconds = state["step"], state["elapsed"], state["audio_seconds"]
        self.origin = (self.step, self.elapsed) if branch else (int(state["origin"][0]), float(state["origin"][1]))
        self.quantising = state["quantising"]

    def save(self, name: str = LATEST) -> None:
        """Write a checkpoint into the run's folder (first process only)."""
        if self.processes.first:
            save_checkpoint(self.folder / name, self.state_dict())

    def progress(self, budget: Budget) -> float:
        """Share of the budget used, 0 to 1."""
        shares = [0.0]
        if budget.max_steps is not None:
            shares.append((self.step - self.origin[0]) / max(1, budget.max_steps - self.origin[0]))
        if budget.seconds is not None:
            shares.append((self.elapsed - self.origin[1]) / max(1e-9, budget.seconds))
        return min(1.0, max(shares))

    # --- data ----------------------------------------------------------------------------------------------------

    def _sampler_at(self, step: int) -> SegmentSampler:
        shape = self.recipe.shape_at(step)
        if self._sampler is None or self._sampler[0] != shape:
            sampler = SegmentSampler(
                self.data,
                self.recipe.model.sample_rate,
                shape[1],
                shape[0],
                self.recipe.seed,
                mix=Mix(**self.recipe.mix),
                rank=self.processes.rank,
                world_size=self.processes.count,
            )
            self._sampler = (shape, sampler)
        return self._sampler[1]

    def _draw(self, step: int) -> Tensor:
        return torch.from_numpy(self._sampler_at(step).draw(step))

    def _seed(self, step: int) -> None:
        """Random numbers of a step depend on nothing before it, so no generator's state needs saving."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + step) * 4096 + self.processes.rank)

    # --- the loop ------------------------------------------------------------------------------------------------

    def train(self, budget: Budget) -> None:
        """Train until the budget is used or `stop` is set; ends with a checkpoint.

        Raises:
            BadDataError: a loss or gradient is not finite; the last checkpoint is untouched.
        """
        if self.step == 0:
            self.begin()
        self.network.train()
        self._wrapped = self.processes.wrap(self.objective)
        window = _Window(self.recipe.model.sample_rate)
        saved = time.monotonic()
        with ThreadPoolExecutor(1) as reader:
            pending = reader.submit(self._draw, self.step)
            while self.progress(budget) < 1 and not self.processes.any(self.stop):
                begun = time.monotonic()
                pending = self._one_step(pending, reader, budget, window)
                self.elapsed += time.monotonic() - begun
                if self.step % self.recipe.log_every == 0:
                    self._report(window, budget)
                if self.step % self.recipe.valid_every == 0:
                    self.validate()
                if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()

    def _one_step(
        self, pending: Future[Tensor], reader: ThreadPoolExecutor, budget: Budget, window: _Window
    ) -> Future[Tensor]:
        audio = pending.result().to(self.device)
        pending = reader.submit(self._draw, self.step + 1)
        if not self.quantising and self.step >= self.recipe.quantise_from:
            pending.result()  # the sampler serves one caller at a time
            self.begin_quantising()
        self._seed(self.step)
        assert self._wrapped is not None
        result: StepResult = self._wrapped(audio, self.quantising)
        self.optimizers.zero_grad()
        result.total.backward()
        norm = self.clipper(self.network.parameters())
        self._check_finite(result, norm, audio)
        scale = learning_rate_scale(self.recipe, self.step, self.progress(budget))
        self.optimizers.step(scale)
        self.average.update(self.network)
        if result.codes is not None and result.latents is not None:
            self._tend_codebooks(result.codes, result.latents)
        self.step += 1
        samples = audio.shape[0] * audio.shape[-1] * self.processes.count
        self.audio_seconds += samples / self.recipe.model.sample_rate
        window.add(result, norm, scale, samples)
        return pending

    def _check_finite(self, result: StepResult, norm: float, audio: Tensor) -> None:
        if np.isfinite(norm) and bool(torch.isfinite(result.total)):
            return
        bad = [name for name, loss in result.parts.items() if not bool(torch.isfinite(loss))]
        path = self.folder / f"bad-batch-{self.step}-{self.processes.rank}.npz"
        np.savez(path, audio=audio.cpu().numpy())
        raise BadDataError(
            f"step {self.step}: {', '.join(bad) or 'the gradient'} is not finite (gradient norm {norm:g}); "
            f"the batch is in {path}, the last checkpoint is kept"
        )

    def begin_quantising(self) -> None:
        """Start the codebooks on latents of audio that training does not see otherwise."""
        self._seed(self.step)
        config, latents, frames = self.recipe.model, [], 0
        while frames < _FRAMES_PER_ENTRY * config.codebook_size:
            audio = torch.from_numpy(self._sampler_at(self.step).draw(_APART + len(latents))).to(self.device)
            with torch.no_grad():
                latent = fastnet.encode(self.network, self.network.preprocess(audio), self.dtype)
            latents.append(self.processes.gather(latent).transpose(1, 2).flatten(0, 1))
            frames += latents[-1].shape[0]
        left = start_codebooks(self.network, normalise_latent(self.network, torch.cat(latents), self.recipe.whiten))
        self.processes.agree([p.data for p in self.network.parameters()])
        changed = [*self.network.quantizer.parameters(), *self.network.encoder.block[-1].parameters()]
        self.optimizers.forget([*changed, *self.network.decoder.model[0].parameters()])
        self.average.restart(self.network)
        self.quantising = True
        if self.log is not None:
            self.log.say(f"step {self.step}: codebooks started; variance left {', '.join(f'{v:.3f}' for v in left)}")

    def begin(self) -> None:
        """What a new run does before its first step; needs data."""
        if self.recipe.start != "transform":
            return
        audio = [self._sampler_at(0).draw(_APART - 1 - number) for number in range(16)]
        share = transform_start(
            self.network, self.processes.gather(torch.from_numpy(np.concatenate(audio)).to(self.device))
        )
        self.processes.agree([p.data for p in self.network.parameters()])
        self.average.restart(self.network)
        if self.log is not None:
            self.log.say(f"starts as a block transform that keeps {100 * share:.2f} % of the energy")

    def _tend_codebooks(self, codes: Tensor, latents: Tensor) -> None:
        self.use.update(self.processes.gather(codes))
        every = self.recipe.restart_every
        if every and (self.step + 1) % every == 0:
            below = self.recipe.restart_below
            self.use.restart_unused(self.network, latents.detach(), below, self.optimizers, self.average)
            books = [p.data for name, p in self.network.named_parameters() if name.endswith("codebook.weight")]
            self.processes.agree(books)

    # --- reports -------------------------------------------------------------------------------------------------

    def _report(self, window: _Window, budget: Budget) -> None:
        values, rate = window.take()
        if self.log is None:
            return
        if self.quantising:
            values["perplexity"] = float(self.use.perplexity().mean())
        done = self.progress(budget)
        left = (self.elapsed - self.origin[1]) * (1 - done) / done if done > 0 else None
        shown = {key: values[key] for key in ("mel", "waveform", "commitment", "perplexity") if key in values}
        self.log.progress(self.step, shown, rate, left)
        facts = {"rate": rate, "audio_seconds": self.audio_seconds, "elapsed": self.elapsed}
        self.log.record("train", self.step, {**values, **facts})

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on held-out clips (first process only) and log the result."""
        if not self.processes.first:
            return {}
        if self._clips is None:
            self._clips = [
                clip.audio
                for clip in held_out_clips(
                    self.data,
                    self.recipe.model.sample_rate,
                    clip_seconds=self.recipe.valid_seconds,
                    clips_per_group=self.recipe.valid_clips,
                )
            ]
        counts = self.recipe.valid_codebooks if self.quantising else (0,)
        network = DAC(self.recipe.model).to(self.device)
        self.average.copy_to(network)
        spectral: SpectralLosses = self.objective.spectral
        metrics = held_out_metrics(network, self._clips, counts, spectral, dtype=self.dtype)
        if self.log is not None:
            self.log.record(
                "valid", self.step, {**metrics, "audio_seconds": self.audio_seconds, "elapsed": self.elapsed}
            )
            self.log.say(f"step {self.step} held out: " + ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        return metrics


class _Window:
    """Means of what happened since the last report."""

    def __init__(self, sample_rate: int) -> None:
        self._sample_rate = sample_rate
        self._reset()

    def _reset(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._samples, self._begun = 0, time.monotonic()

    def add(self, result: StepResult, norm: float, scale: float, samples: int) -> None:
        row = {name: float(loss) for name, loss in result.parts.items()}
        self._rows.append({"loss": float(result.total.detach()), **row, "gradient": norm, "lr_scale": scale})
        self._samples += samples

    def take(self) -> tuple[dict[str, float], float]:
        """Means, and audio-seconds per second of wall time."""
        names = self._rows[-1]
        means = {name: float(np.mean([row[name] for row in self._rows if name in row])) for name in names}
        rate = self._samples / self._sample_rate / max(1e-9, time.monotonic() - self._begun)
        self._reset()
        return means, rate
