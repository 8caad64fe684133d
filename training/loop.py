"""The training loop: batches in, updates, logs, measurements and checkpoints out; resumes exactly where it stopped."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamdac.errors import UsageError
from streamdac.nn import DAC

from . import fastnet
from .adversary import Adversary
from .checkpoint import BEST, LATEST, load_initial, save_checkpoint
from .codebooks import CodebookMeans, CodebookUse
from .data import Mix, SegmentSampler
from .fitting import fit_codebooks, fit_is_due, fit_predictor
from .logs import RunLog, StepMeans
from .objective import Objective, StepResult, check_finite
from .optim import AveragedWeights, Clipper, Optimizers, hold_still, learning_rate_scale
from .processes import Processes
from .recipe import Recipe
from .run_state import restore, run_state
from .start import quiet_start, transform_start
from .validation import HeldOut

_SHOWN = ("mel", "waveform", "commitment", "perplexity")  # on the terminal; the log has all
_APART = 1 << 40  # draws that are no training step: their numbers begin here


@dataclass(frozen=True)
class Budget:
    """When to stop: at a step number, or after so many seconds of training since the run (or branch) began."""

    max_steps: int | None = None
    seconds: float | None = None


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
        if recipe.start != "plain":
            quiet_start(self.network)
        hold_still(self.network, recipe)
        self.dtype = self.processes.first_one(fastnet.choose_dtype(recipe.precision, self.device))
        self.adversary = Adversary(recipe, self.processes, self.dtype) if recipe.adversarial else None
        self.objective = Objective(self.network, recipe, self.dtype, self.adversary).to(self.device)
        self.optimizers = Optimizers(self.network, recipe, self.dtype, self.processes)
        self.average = AveragedWeights(self.network, recipe.ema)
        self.clipper = Clipper(recipe.clip, recipe.clip_norm)
        self.use = CodebookUse(recipe.model.n_codebooks, recipe.model.codebook_size)
        self.means: CodebookMeans | None = None
        if recipe.codebook_decay > 0 and recipe.freeze != "encoder":
            books = recipe.model
            self.means = CodebookMeans(
                books.n_codebooks, books.codebook_size, books.codebook_dim, decay=recipe.codebook_decay
            )
        self.step = 0
        self.audio_seconds = self.elapsed = 0.0
        self.origin = (0, 0.0)
        self.quantising = recipe.quantise_from == 0
        self.best = float("inf")
        """Lowest mel distance on held-out clips so far, with all the codebooks that are measured."""
        self.stop = False
        """Set from outside (a signal): finish the step, write a checkpoint, return."""
        self.begun = False
        """Whether the network is no longer as it was made: a start, other weights or a checkpoint came first."""
        self._wrapped: nn.Module | None = None
        self._sampler: tuple[tuple[int, float], SegmentSampler] | None = None
        self._held_out: HeldOut | None = None
        self._measured = self._shown = -1  # steps of the last measurement, and of the last clips in TensorBoard

    # --- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return run_state(self)

    def load_state_dict(self, state: dict[str, Any], *, branch: bool = False) -> None:
        """Continue from a checkpoint; with `branch` the budget begins anew."""
        restore(self, state, branch=branch)

    def start_from(self, weights: Path) -> None:
        """Begin with other weights: of the same model, with more codebooks or another padding if need be."""
        self.quantising = load_initial(self.network, weights)
        self.average.restart(self.network)
        self.begun = True

    def save(self, name: str = LATEST) -> None:
        """Write a checkpoint into the run's folder (first process only)."""
        if self.processes.first:
            save_checkpoint(self.folder / name, self.state_dict())

    @property
    def precision(self) -> str:
        """Name of the convolutions' type."""
        return str(self.dtype).removeprefix("torch.")

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

    def _draw_apart(self, number: int, step: int) -> Tensor:
        """Audio that no step trains on, in batches of the shape of `step`."""
        return torch.from_numpy(self._sampler_at(step).draw(_APART + number)).to(self.device)

    def _seed(self, step: int) -> None:
        """Random numbers of a step depend on nothing before it, so no generator's state needs saving."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + step) * 4096 + self.processes.rank)

    # --- the loop ------------------------------------------------------------------------------------------------

    def train(self, budget: Budget) -> None:
        """Train until the budget is used or `stop` is set; ends with a checkpoint.

        Raises:
            BadDataError: a loss or gradient is not finite; the last checkpoint is untouched.
            UsageError: the budget is used before it begins, or what is frozen was never trained.
        """
        self._check_before(budget)
        if not self.begun:
            self.begin()
        self.network.train()
        if self.quantising and self._to_predict:
            self.begin_predicting()
        self._wrap()
        if self.processes.first:
            self._clips()  # what is wrong with them is better known now than after hours
        window = StepMeans(self.recipe.model.sample_rate)
        saved = time.monotonic()
        with ThreadPoolExecutor(1) as reader:
            pending = reader.submit(self._draw, self.step)
            while self.progress(budget) < 1 and not self.processes.any(self.stop):
                begun = time.monotonic()
                pending = self._one_step(pending, reader, budget, window)
                self.elapsed += self.processes.shared(time.monotonic() - begun)
                if self.step % self.recipe.log_every == 0:
                    self._report(window, budget)
                measured, shown = (self.step % n == 0 for n in (self.recipe.valid_every, self.recipe.sample_every))
                if measured or shown:
                    begun = time.monotonic()
                    if measured:
                        self.validate()
                    if shown:
                        self.show()
                    self.processes.any(False)  # the others wait for the first
                    self.elapsed += self.processes.shared(time.monotonic() - begun)
                if self.step in self.recipe.keep_steps:
                    self.save(f"checkpoint-{self.step}.pt")
                if time.monotonic() - saved > 60 * self.recipe.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        self.save()

    @property
    def _to_predict(self) -> bool:
        """Whether there is a predictor that was never fitted."""
        predictor = self.network.quantizer.predictor
        return predictor is not None and predictor.without_effect

    def _check_before(self, budget: Budget) -> None:
        for batch in {self.recipe.batch, self.recipe.shape_at(self.step)[0]}:
            if batch % self.processes.count:
                raise UsageError(f"a batch of {batch} cannot be shared out among {self.processes.count} processes")
            mine, dropout = batch // self.processes.count, self.recipe.model.quantizer_dropout
            if dropout > 0 and int(mine * dropout) == 0 and self.log is not None:
                self.log.say(f"of {mine} segments in each process, a quantizer_dropout of {dropout:g} takes none")
        if not self.processes.alike(self.step, self.begun, self.quantising):
            raise UsageError(f"the processes begin at different steps, one at {self.step}: all need the run's folder")
        if self.recipe.freeze and (not self.quantising or self._to_predict):
            raise UsageError(
                f"freeze {self.recipe.freeze}: codebooks {'and a predictor ' if self._to_predict else ''}would have to be "
                "fitted first; start from weights that have them (--init, --from), or set model.predictor_dim=0"
            )
        if self.recipe.freeze and not self.begun:
            raise UsageError(f"freeze {self.recipe.freeze}: it was never trained; start from weights (--init, --from)")
        if budget.max_steps is not None and budget.max_steps <= self.origin[0]:
            raise UsageError(
                f"{budget.max_steps} steps at most, but the run goes on from step {self.origin[0]}: ask for more"
            )
        share = self.recipe.discriminator.from_share
        if self.adversary is not None and not self.adversary.active and share > 0 and budget == Budget():
            raise UsageError(
                f"discriminators from {share:g} of the budget on, but the run has no end (--budget-minutes)"
            )

    def _wrap(self) -> None:
        self._wrapped = self.processes.wrap(self.objective, some_unused=not self.quantising)

    def _one_step(
        self, pending: Future[Tensor], reader: ThreadPoolExecutor, budget: Budget, window: StepMeans
    ) -> Future[Tensor]:
        audio = pending.result().to(self.device)
        pending = reader.submit(self._draw, self.step + 1)
        if fit_is_due(self.recipe, self.step, self.progress(budget), quantising=self.quantising):
            pending.result()  # the sampler serves one caller at a time
            self.begin_quantising()
        scale = learning_rate_scale(self.recipe, self.step, self.progress(budget))
        if self.adversary is not None:
            self.adversary.scale = scale
            if self.adversary.begin_if_due(self.step, self.progress(budget)) and self.log is not None:
                self.log.say(f"step {self.step}: discriminators begin")
        self._seed(self.step)
        assert self._wrapped is not None
        result: StepResult = self._wrapped(audio, self.quantising)
        self.optimizers.zero_grad()
        result.total.backward()
        norm = self.clipper(self.network.parameters())
        check_finite(result, norm, audio, self.step, self.folder / f"bad-batch-{self.step}-{self.processes.rank}.npz")
        self.optimizers.step(scale)
        self.average.update(self.network)
        if result.codes is not None and result.latents is not None:
            self._tend_codebooks(result.codes, result.latents)
        self.step += 1
        samples = audio.shape[0] * audio.shape[-1] * self.processes.count
        self.audio_seconds += samples / self.recipe.model.sample_rate
        parts = {name: float(loss) for name, loss in result.parts.items()}
        window.add({"loss": float(result.total.detach()), **parts, "gradient": norm, "lr_scale": scale}, samples)
        return pending

    def begin_quantising(self) -> None:
        """Start the codebooks, or start them anew, on latents of audio that training does not see otherwise."""
        self._seed(self.step)
        draw = functools.partial(self._draw_apart, step=self.step)
        left = fit_codebooks(self.objective, draw, self.recipe, self.processes, again=self.quantising)
        ends = (self.network.encoder.block[-1], self.network.decoder.model[0])
        self._set_anew(self.network.quantizer, *ends)
        self.quantising = True
        if self.network.quantizer.predictor is not None:
            self.begin_predicting()
        self._wrap()
        if self.log is not None:
            self.log.say(f"step {self.step}: codebooks fitted; variance left {', '.join(f'{v:.3f}' for v in left)}")

    def begin_predicting(self) -> None:
        """Fit the predictor, and the codebooks to what it leaves."""
        self._seed(self.step)
        draw = functools.partial(self._draw_apart, step=self.step)
        if self.log is not None:
            self.log.say(f"step {self.step}: fitting the predictor, which takes a minute or two")
        left = fit_predictor(self.objective, draw, self.recipe, self.processes)
        self._set_anew(self.network.quantizer)
        if self.log is not None:
            self.log.say(f"step {self.step}: predictor fitted; not foreseen {', '.join(f'{v:.3f}' for v in left)}")

    def _set_anew(self, *modules: nn.Module) -> None:
        """These have other weights, the codebooks among them: what was averaged over steps before means nothing any more."""
        self.optimizers.forget(parameter for module in modules for parameter in module.parameters())
        self.average.restart(self.network)
        self.use.restart()
        if self.means is not None:
            self.means.restart()

    def begin(self) -> None:
        """What a new run does before its first step; needs data."""
        self.begun = True
        if self.recipe.start != "transform":
            return
        audio = [self.processes.gather(self._draw_apart(-1 - number, 0)) for number in range(16)]
        share = transform_start(self.network, torch.cat(audio), self.recipe.start_whiten)
        self.processes.agree([p.data for p in self.network.parameters()])
        self.average.restart(self.network)
        if self.log is not None:
            self.log.say(f"starts as a block transform that keeps {100 * share:.2f} % of the energy")

    def _tend_codebooks(self, codes: Tensor, latents: Tensor) -> None:
        codes = self.processes.gather(codes)
        self.use.update(codes)
        if self.means is not None:
            self.means.update(self.network, codes, self.processes.gather(latents.detach()))
        every = self.recipe.restart_every
        if every and (self.step + 1) % every == 0 and self.recipe.freeze != "encoder":
            below = self.recipe.restart_below
            self.use.restart_unused(self.network, latents.detach(), below, self.optimizers, self.average, self.means)
            books = [p.data for name, p in self.network.named_parameters() if name.endswith("codebook.weight")]
            self.processes.agree(books)

    # --- reports -------------------------------------------------------------------------------------------------

    def _report(self, window: StepMeans, budget: Budget) -> None:
        values, rate = window.take()
        if self.log is None:
            return
        if self.quantising:
            values["perplexity"] = float(self.use.perplexity().mean())
        done = self.progress(budget)
        left = (self.elapsed - self.origin[1]) * (1 - done) / done if done > 0 else None
        shown = {key: value for key, value in values.items() if key in _SHOWN}
        self.log.progress(self.step, shown, rate, left)
        facts = {"rate": rate, "audio_seconds": self.audio_seconds, "elapsed": self.elapsed}
        self.log.record("train", self.step, {**values, **facts})

    def _clips(self) -> HeldOut:
        if self._held_out is None:
            self._held_out = HeldOut(self.recipe, self.data)
        return self._held_out

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on held-out clips (first process only), log the result, keep the best so far."""
        if not self.processes.first:
            return {}
        network, counts = self._averaged()
        metrics = self._clips().metrics(network, counts, self.objective.spectral, self.dtype)
        self._measured = self.step
        if self.log is not None:
            facts = {"audio_seconds": self.audio_seconds, "elapsed": self.elapsed}
            self.log.record("valid", self.step, {**metrics, **facts})
            self.log.say(f"step {self.step} held out: " + ", ".join(f"{k} {v:.3f}" for k, v in metrics.items()))
        mel = metrics[f"mel@{max(counts)}"]
        if self.quantising and mel < self.best:
            self.best = mel
            self.save(BEST)
        return metrics

    def show(self) -> None:
        """Held-out clips as the averaged weights code them now, in TensorBoard (first process only)."""
        if self.log is None or not self.log.shows:
            return
        network, counts = self._averaged()
        self._clips().show(network, counts, self.dtype, self.log, self.step)
        self._shown = self.step

    def finish(self) -> None:
        """Measure and show where the run has come to, unless that was just done; ends with a checkpoint."""
        if self._measured != self.step:
            self.validate()
        if self._shown != self.step:
            self.show()
        self.save()  # with the best so far

    def _averaged(self) -> tuple[DAC, tuple[int, ...]]:
        """A network of the averaged weights, and at how many codebooks it is measured."""
        network = DAC(self.recipe.model).to(self.device)
        self.average.copy_to(network)
        return network, self.recipe.measured_codebooks if self.quantising else (0,)
