"""Codebooks fitted to the latents as the encoder gives them now, in the directions that the losses feel.

Projections learn far slower than the encoder moves: after 2300 steps a new fit took the held-out mel distance from 2.50 to 2.40
at 8 codebooks and from 2.18 to 2.04 at 16, before any further training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import fastnet
from .codebooks import CodebookMeans, normalise_latent, start_codebooks
from .objective import Objective
from .processes import Processes
from .recipe import Recipe

_FRAMES_PER_ENTRY = 24  # of latents that codebooks are fitted to
_BATCHES = 12  # that the losses' gradient is taken of
_FRAMES_TO_PREDICT = 30  # that a predictor is fitted to, for each entry of a codebook
_ROUNDS = 4  # of a predictor and of the entries that code what it leaves
_STEPS = 600  # of a predictor in each
_ROWS, _RATE = 1024, 2e-3  # of a step, and its learning rate at first
_LEAST = 1e-3  # of the mean: no direction weighs less before the power is taken


def fit_is_due(recipe: Recipe, step: int, progress: float, *, quantising: bool) -> bool:
    """Whether codebooks are fitted before this step; `progress` is the share of the budget used."""
    if not quantising:
        return step >= recipe.quantise_from
    again = recipe.refit_every > 0 and step > 0 and step % recipe.refit_every == 0
    return again and recipe.freeze != "encoder" and progress <= 1 - recipe.cooldown


def fit_codebooks(
    objective: Objective, draw: Callable[[int], Tensor], recipe: Recipe, processes: Processes, *, again: bool
) -> list[float]:
    """Set every codebook and its projections; changes the scale of the latent too, and nothing else of the network.

    Args:
        objective: its network, in training mode, and the losses that directions are weighed by.
        draw: gives audio `[B, 1, T]` by number.
        recipe: what is to be done.
        processes: all fit to the audio of all.
        again: there were codebooks before.

    Returns the share of the latents' (weighted) variance that is left after each codebook.
    """
    network = objective.network
    latents = _latents(objective, draw, processes, _FRAMES_PER_ENTRY * recipe.model.codebook_size)
    weighting = None
    if again and recipe.sensitivity:  # an untrained decoder says little about what is heard
        deepest = recipe.model.n_codebooks
        depths = (max(1, deepest // 4), max(1, deepest // 2), deepest)
        gradients = [objective.latent_gradients(draw(number), depths[number % 3]) for number in range(_BATCHES)]
        weighting = directions_felt(processes.mean(_covariance(torch.cat(gradients))), recipe.sensitivity)
    # After the gradients: the codebooks that were fit what is normalised no more. Neither a shift nor one factor turns them.
    rows = normalise_latent(network, latents.transpose(1, 2).flatten(0, 1), 0.0 if again else recipe.whiten)
    left = start_codebooks(network, rows, lift=recipe.lift, weighting=weighting)
    processes.agree([p.data for p in network.parameters()])
    return left


def fit_predictor(
    objective: Objective, draw: Callable[[int], Tensor], recipe: Recipe, processes: Processes
) -> list[float]:
    """Teach the predictor what is to be foreseen, and the codebooks what it leaves; changes nothing else of the network.

    Predictor and entries are fitted in turn, as each decides what the other sees. Arguments as for `fit_codebooks`.

    Returns the share of the latents' energy that is not foreseen, after each round.
    """
    network = objective.network
    quantizer, predictor = network.quantizer, network.quantizer.predictor
    assert predictor is not None
    z, left = _latents(objective, draw, processes, _FRAMES_TO_PREDICT * recipe.model.codebook_size), []
    wanted = z.transpose(1, 2).flatten(0, 1)
    energy = wanted.square().mean()
    means = CodebookMeans(quantizer.n_codebooks, quantizer.codebook_size, quantizer.codebook_dim, decay=0.3)
    optimizer = torch.optim.AdamW(predictor.parameters(), weight_decay=0.01)
    everything = torch.full((len(z),), quantizer.n_codebooks, device=z.device)
    for _ in range(_ROUNDS):
        with torch.no_grad():
            quantized = quantizer(z)
        means.update(network, quantized.codes, quantized.latents)
        told = quantizer.told(z, everything)[:, :-1].flatten(0, 1)
        for step in range(_STEPS):
            chosen = torch.randint(len(wanted), (_ROWS,)).to(z.device)
            loss = (predictor(told[chosen]) - wanted[chosen]).square().mean() / energy
            optimizer.param_groups[0]["lr"] = _RATE * (1 - step / _STEPS)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            left.append(float((predictor(told) - wanted).square().mean() / energy))
    with torch.no_grad():
        quantized = quantizer(z)
    means.update(network, quantized.codes, quantized.latents)
    processes.agree([p.data for p in quantizer.parameters()])
    return left


@torch.no_grad()
def _latents(objective: Objective, draw: Callable[[int], Tensor], processes: Processes, frames: int) -> Tensor:
    """Of so many frames at least, of the audio of all processes, before quantisation: `[B, D, T]`."""
    network, seen = objective.network, 0
    latents: list[Tensor] = []
    while seen < frames:
        latent = fastnet.encode(network, network.preprocess(draw(len(latents))), objective.dtype)
        latents.append(processes.gather(latent))
        seen += latents[-1].shape[0] * latents[-1].shape[2]
    return torch.cat(latents)


def _covariance(rows: Tensor) -> Tensor:
    return rows.t() @ rows / rows.shape[0]


def directions_felt(covariance: Tensor, power: float) -> Tensor:
    """A gradient's covariance `[D, D]` as a weighting of latents: raised to `power`, the mean direction at 1."""
    values, vectors = torch.linalg.eigh(covariance)
    mean = values.mean().clamp_min(1e-20)
    weighting: Tensor = (vectors * (values / mean + _LEAST) ** power) @ vectors.t()
    return weighting
