"""The discriminators in training: when they begin, their own updates, and what they tell the codec."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from .discriminators import Discriminator, Maps, discriminator_loss, feature_loss, generator_loss
from .optim import load_averages
from .processes import Processes
from .recipe import Recipe


class Adversary:
    """Discriminators and their optimiser; not a module, so that the codec's own wrappers do not see them.

    Every process has the same: gradients are averaged before each update.
    """

    def __init__(self, recipe: Recipe, processes: Processes, dtype: torch.dtype) -> None:
        settings = recipe.discriminator
        self.settings, self.processes = settings, processes
        self.network = Discriminator(settings).to(processes.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.active = False
        self.updates = 0
        self.scale = 1.0
        """Factor on the learning rate, set before each step."""
        self._mixed = dtype if processes.device.type == "cuda" and dtype != torch.float32 else None

    def begin_if_due(self, step: int, progress: float) -> bool:
        """Whether this step is the first with discriminators; `progress` is the share of the budget used, 0 to 1."""
        due = step >= self.settings.from_step and progress >= self.settings.from_share
        begins = due and not self.active
        self.active = self.active or due
        return begins

    @property
    def ramp(self) -> float:
        """Factor on what the codec is told, 0 to 1."""
        return min(1.0, self.updates / self.settings.ramp_steps) if self.settings.ramp_steps else 1.0

    def learn(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """One update on a batch `[B, 1, T]` of coded and original audio; figures for the log.

        A gradient that is not finite is reported and not followed.
        """
        with self._precision():
            loss = discriminator_loss(*self._judge(estimate.detach(), target))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        for gradient in gradients:
            self.processes.mean(gradient)
        total = torch.nn.utils.get_total_norm(gradients)
        torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.settings.clip_norm, total)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * self.scale
        if bool(torch.isfinite(total)):
            self.optimizer.step()
        self.updates += 1
        return {"discriminator": loss.detach(), "discriminator_gradient": total.detach()}

    def generator_losses(self, estimate: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Losses of the codec by name, before their weights; `[B, 1, T]` each."""
        self.network.requires_grad_(False)  # their gradient would be thrown away
        with self._precision():
            with torch.no_grad():
                real = self.network(target)
            fake = self.network(estimate)
            losses = {"generator": generator_loss(fake), "feature": feature_loss(fake, real)}
        self.network.requires_grad_(True)
        return {name: self.ramp * loss for name, loss in losses.items()}

    def _judge(self, fake: Tensor, real: Tensor) -> tuple[list[Maps], list[Maps]]:
        """Maps of both, from one pass over one batch: half the overhead of two."""
        both = self.network(torch.cat([fake, real]))
        rows = fake.shape[0]
        return [[m[:rows] for m in maps] for maps in both], [[m[rows:] for m in maps] for maps in both]

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast("cuda", self._mixed or torch.bfloat16, enabled=self._mixed is not None)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "active": self.active,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.network.load_state_dict(state["network"])
        load_averages(self.optimizer, state["optimizer"])
        self.active, self.updates = state["active"], state["updates"]
