"""Optimisers, learning-rate schedule, gradient clipping and averaged weights."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor, nn

from streamdac.nn import DAC
from streamdac.nn.layers import fold_weight_norm

from .processes import Processes
from .recipe import Recipe

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic, singular values to about 1 in 5 steps (Jordan et al. 2024)


def orthogonalised(matrix: Tensor, *, steps: int = 5, dtype: torch.dtype = torch.float32) -> Tensor:
    """`matrix` `[M, N]` with all its singular values moved to about 1, by Newton-Schulz iteration in `dtype`."""
    x: Tensor = (matrix / (matrix.norm() + 1e-12)).to(dtype)
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.t()
    x = _by_gram(x, steps) if dtype == torch.float32 else _by_steps(x, steps)
    return (x.t() if tall else x).to(matrix.dtype)


def _by_steps(x: Tensor, steps: int) -> Tensor:
    a, b, c = _NEWTON_SCHULZ
    for _ in range(steps):
        gram = x @ x.t()
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _by_gram(x: Tensor, steps: int) -> Tensor:
    """The same on the small matrix x x' alone: every factor commutes with it. Equal to 3e-4, 1.1 to 2.5 times faster."""
    a, b, c = _NEWTON_SCHULZ
    gram = x @ x.t()
    product: Tensor | None = None
    for step in range(steps):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < steps:
            gram = factor @ gram @ factor
    assert product is not None
    return product @ x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024) for the weights of weight-normed convolutions.

    `layers` are pairs of `weight_v` `[C, ...]` and `weight_g` `[C, 1, 1]`. What is updated is the weight that they stand for,
    as a matrix of C rows; `weight_v` then holds it and `weight_g` its norms. Directions alone would not do: a row that once was
    short has no gradient of its direction, so nothing that it could learn brings it back (see EXPERIMENTS.md, "Rows asleep").
    """

    def __init__(
        self,
        layers: Iterable[tuple[nn.Parameter, nn.Parameter]],
        lr: float,
        *,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
        processes: Processes | None = None,
    ) -> None:
        super().__init__([p for layer in layers for p in layer], {"lr": lr, "momentum": momentum})
        self.dtype = dtype
        self.processes = processes or Processes()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every weight that has a gradient; of several processes each orthogonalises its share."""
        assert closure is None
        for group in self.param_groups:
            pairs = zip(group["params"][::2], group["params"][1::2], strict=True)
            layers = [(v, g) for v, g in pairs if v.grad is not None]
            updates = [self._direction(v, g, group["momentum"]) for v, g in layers]
            owners = shared_out([_cost(update) for update in updates], self.processes.count)
            for update, owner in zip(updates, owners, strict=True):
                if owner == self.processes.rank:
                    update.copy_(orthogonalised(update, dtype=self.dtype))
            self.processes.exchange(updates, owners)
            for (v, g), update in zip(layers, updates, strict=True):
                _move(v, g, update, group["lr"])
        return None

    def _direction(self, v: Tensor, g: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of the weight, as a matrix of C rows."""
        gradient = weight_gradient(v, g)
        state = self.state[v]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(v)
        buffer = state["momentum"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum).flatten(1)


def weight_gradient(v: Tensor, g: Tensor) -> Tensor:
    """Gradient of the weight that `v` and `g` stand for, out of theirs; where a length is 0, along the direction only."""
    assert v.grad is not None
    assert g.grad is not None
    norms = torch.linalg.vector_norm(v, dim=(1, 2), keepdim=True)
    across = torch.where(g == 0, 0, norms / g)
    gradient: Tensor = v.grad * across + v * (g.grad / norms)
    return gradient


def _move(v: Tensor, g: Tensor, update: Tensor, lr: float) -> None:
    """A step against `update`; `v` becomes the weight and `g` its norms. A row of zeros keeps its direction."""
    weight = fold_weight_norm(v, g)
    weight.view_as(update).add_(update, alpha=-lr * 0.2 * max(update.shape) ** 0.5)
    torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True, out=g)
    v.copy_(torch.where(g == 0, v, weight))


def _cost(matrix: Tensor) -> int:
    """Of orthogonalising it, in multiplications but for a factor."""
    short, long = sorted(matrix.shape)
    return short * short * (7 * short + long)


def shared_out(costs: Sequence[int], shares: int) -> list[int]:
    """Which share each item goes to, so that all shares cost about the same: the dearest first, to the cheapest share."""
    totals, owners = [0] * shares, [0] * len(costs)
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        owners[item] = totals.index(min(totals))
        totals[owners[item]] += costs[item]
    return owners


def hold_still(network: DAC, recipe: Recipe) -> None:
    """No gradient for what the recipe does not train."""
    if recipe.freeze == "encoder":
        network.encoder.requires_grad_(False)
        network.quantizer.requires_grad_(False)
    if recipe.projections == "fitted":
        for name, parameter in network.quantizer.named_parameters():
            if "_proj." in name:
                parameter.requires_grad_(False)


def _by_muon(name: str, parameter: Tensor) -> bool:
    """Convolutions between features; those from and to the waveform and the quantiser's go to AdamW."""
    inner = name.endswith("weight_v") and not name.startswith("quantizer")
    return inner and min(parameter.shape[0], parameter[0].numel()) >= 8


class Optimizers:
    """All the optimisers of a recipe, stepped and saved as one."""

    def __init__(
        self, network: DAC, recipe: Recipe, dtype: torch.dtype = torch.float32, processes: Processes | None = None
    ) -> None:
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        muon = [name for name, p in named.items() if recipe.optimizer == "muon" and _by_muon(name, p)]
        norms = {name.removesuffix("_v") + "_g" for name in muon}
        rest = [name for name in named if name not in muon]
        # Decay only means something for plain matrices; alpha, bias and the norms of weight norm are kept free unless asked for.
        decayed = [name for name in rest if name.endswith(("weight_v", "codebook.weight"))]
        free = [name for name in rest if name not in decayed]
        # Older checkpoints: what AdamW had when it had Muon's norms too, and whether it still has it.
        self._kept = [name not in norms for name in decayed + free]
        groups = [
            {"params": [named[name] for name in decayed], "weight_decay": recipe.weight_decay},
            {
                "params": [named[name] for name in free if name not in norms],
                "weight_decay": recipe.weight_decay if recipe.decay_all else 0.0,
            },
        ]
        self.adamw = torch.optim.AdamW([g for g in groups if g["params"]], lr=recipe.lr, betas=recipe.betas)
        layers = [(named[name], named[name.removesuffix("_v") + "_g"]) for name in muon]
        self.muon = Muon(layers, recipe.muon_lr, dtype=dtype, processes=processes) if muon else None
        self._peaks = [recipe.lr, recipe.muon_lr]

    def _all(self) -> list[torch.optim.Optimizer]:
        return [self.adamw] + ([self.muon] if self.muon is not None else [])

    def step(self, scale: float) -> None:
        """One update with every learning rate at `scale` times its peak."""
        for optimizer, peak in zip(self._all(), self._peaks, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = peak * scale
            optimizer.step()

    def zero_grad(self) -> None:
        """Drop the gradients."""
        for optimizer in self._all():
            optimizer.zero_grad(set_to_none=True)

    def forget_rows(self, parameter: nn.Parameter, rows: Tensor) -> None:
        """Clear AdamW's averages of some rows, after these were set anew."""
        for value in self.adamw.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value[rows] = 0

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Clear all averages of parameters that were set anew."""
        for parameter in parameters:
            for optimizer in self._all():
                optimizer.state.pop(parameter, None)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"adamw": self.adamw.state_dict(), "muon": None if self.muon is None else self.muon.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        state = self._present(state)
        load_averages(self.adamw, state["adamw"])
        if self.muon is not None:
            load_averages(self.muon, state["muon"])

    def _present(self, state: dict[str, Any]) -> dict[str, Any]:
        """`state` as it is written now; in older checkpoints AdamW held the norms, and Muon directions alone."""
        adamw, muon = state["adamw"], state["muon"]
        if muon is None or sum(len(group["params"]) for group in adamw["param_groups"]) != len(self._kept):
            return state
        places = list(itertools.accumulate(self._kept, initial=0))
        moved = {places[i]: values for i, values in adamw["state"].items() if self._kept[i]}
        groups = [
            {**group, "params": [places[i] for i in group["params"] if self._kept[i]]}
            for group in adamw["param_groups"]
        ]
        pairs = [{**group, "params": list(range(2 * len(group["params"])))} for group in muon["param_groups"]]
        directions = {2 * i: values for i, values in muon["state"].items()}
        return {
            "adamw": {"state": moved, "param_groups": groups},
            "muon": {"state": directions, "param_groups": pairs},
        }


def load_averages(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict(state)`, but decay rates and the like stay those that `optimizer` was made with."""
    settings = [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, mine in zip(optimizer.param_groups, settings, strict=True):
        group.update(mine)


def learning_rate_scale(recipe: Recipe, step: int, progress: float) -> float:
    """Factor on the peak learning rate: linear warm-up, constant, falling with the root of the step, linear to zero at last.

    Args:
        recipe: warm-up, cooldown and decay.
        step: updates made so far.
        progress: share of the budget used, 0 to 1, in steps or in time.
    """
    scale = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.decay_from > 0:
        scale *= (recipe.decay_from / max(step, recipe.decay_from)) ** 0.5
    if recipe.cooldown > 0:
        scale *= min(1.0, max(0.0, 1.0 - progress) / recipe.cooldown)
    return scale * recipe.gamma**step


class Clipper:
    """Limits the gradient norm to a multiple of its running mean, to an absolute value, or both."""

    def __init__(self, factor: float, norm: float, *, decay: float = 0.98) -> None:
        self.factor, self.norm, self.decay = factor, norm, decay
        self.running = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter]) -> float:
        """Scale the gradients in place; returns the norm they had."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        limits = [self.norm] if self.norm > 0 else []
        if self.factor > 0 and self.running > 0:
            limits.append(self.factor * self.running)
        limit = min(limits, default=float("inf"))
        if norm > limit:
            torch._foreach_mul_(gradients, limit / norm)
        seen = min(norm, limit)
        self.running = seen if self.running == 0 else self.decay * self.running + (1 - self.decay) * seen
        return norm


class AveragedWeights:
    """Exponential moving average of all parameters, with a decay that starts low.

    A weight-normed weight is averaged as the whole that it stands for. Averaged directions would get their full length back:
    while the learning rate is large, what directions share is then louder in the average than in any network it is made of.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: p.detach().clone() for name, p in network.named_parameters()}
        trained = [name for name, p in network.named_parameters() if p.requires_grad]
        self._stems = [name.removesuffix("_v") for name in trained if name.endswith("weight_v")]
        self._whole = False
        """Whether `weight_v` in `values` is the weight itself, and `weight_g` its norms."""

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        present = {name: p.detach() for name, p in network.named_parameters()}
        for stem in self._stems:
            v, g = f"{stem}_v", f"{stem}_g"
            present[v] = fold_weight_norm(present[v], present[g])
            if not self._whole:
                self.values[v].copy_(fold_weight_norm(self.values[v], self.values[g]))
        self._whole = True
        torch._foreach_lerp_(list(self.values.values()), [present[name] for name in self.values], 1 - decay)
        for stem in self._stems:
            torch.linalg.vector_norm(self.values[f"{stem}_v"], dim=(1, 2), keepdim=True, out=self.values[f"{stem}_g"])

    @torch.no_grad()
    def restart(self, network: nn.Module) -> None:
        """Forget the past: the average is the present weights."""
        self.restore(0, dict(network.named_parameters()))

    @torch.no_grad()
    def restore(self, updates: int, values: Mapping[str, Tensor]) -> None:
        """Continue from a checkpoint's average."""
        self.updates, self._whole = updates, False
        for name, value in values.items():
            self.values[name].copy_(value)

    @torch.no_grad()
    def copy_to(self, network: nn.Module) -> None:
        """Overwrite the parameters of `network` with the averages."""
        for name, parameter in network.named_parameters():
            parameter.copy_(self.values[name])
