"""What the next latent will be, told the quantised ones before it: a quantiser then codes what it did not foresee.

Predictive coding in the latent domain (Jiang et al. 2022, "Latent-Domain Predictive Neural Speech Coding"), in a closed
loop: the encoder predicts from what the decoder has, so that its errors do not add up. Only the first codebooks (the config's
`predictor_codebooks`) are predicted from: a stream that loses later ones on its way still has what its encoder predicted from.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FRAMES = 2
"""That it is told: as much is foreseen from 2 as from 4 (`training/EXPERIMENTS.md`, "A predictor")."""


_BEGINS, _GOES_ON = 0.05, 0.6  # chance that a loss begins with a frame, and that one more follows
_LATE = 0.005  # chance that all before a frame was lost


class Predictor(nn.Module):
    """A linear map and two hidden layers, side by side. It begins without an effect: predicts zeros."""

    def __init__(self, latent_dim: int, width: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.first = nn.Linear(FRAMES * latent_dim, width)
        self.second = nn.Linear(width, width)
        self.linear = nn.Linear(FRAMES * latent_dim, latent_dim, bias=False)
        self.last = nn.Linear(width, latent_dim)
        for layer in (self.linear, self.last):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.last.bias)

    @property
    def without_effect(self) -> bool:
        """Whether it predicts nothing yet."""
        return not any(bool(p.any()) for p in (self.linear.weight, self.last.weight, self.last.bias))

    def forward(self, before: Tensor) -> Tensor:
        """`before` `[..., FRAMES * D]`, the newest frame first -> `[..., D]`."""
        hidden = F.relu(self.second(F.relu(self.first(before))))
        y: Tensor = self.last(hidden) + self.linear(before)
        return y

    def start(self, rows: int, like: Tensor) -> Tensor:
        """`before` of the first frame: zeros, `[rows, FRAMES * D]`."""
        return like.new_zeros(rows, FRAMES * self.latent_dim)

    def after(self, before: Tensor, z: Tensor) -> Tensor:
        """`before` of the frame after `z` `[B, D]`."""
        return torch.cat([z, before[:, : -self.latent_dim]], dim=1)

    @torch.no_grad()
    def told_with_losses(self, added: Tensor) -> Tensor:
        """What a decoder tells it that does not get all of what the first codebooks `added` `[B, T, D]`: `[B, T, FRAMES * D]`.

        Frames are lost at random, some of a few at once, and now and then all before one, as for who comes late.
        """
        batch, frames, _ = added.shape
        random = torch.rand(2, frames, batch, 1).to(added.device)
        lost = torch.zeros_like(random[0, 0], dtype=torch.bool)
        told = [self.start(batch, added)]
        for frame, fate, begin in zip(added.unbind(dim=1), random[0], random[1], strict=True):
            lost = fate < torch.where(lost, _GOES_ON, _BEGINS)
            coarse = self(told[-1]) + frame * ~lost
            told.append(self.after(told[-1], coarse) * (begin >= _LATE))
        return torch.stack(told[:frames], dim=1) if frames else added.new_zeros(batch, 0, told[0].shape[1])

    def expected(self, added: Tensor) -> Tensor:
        """Of all frames `[B, D, T]`, from what the first codebooks add to each."""
        before, frames = self.start(added.shape[0], added), []
        for more in added.unbind(dim=2):
            frames.append(self(before))
            before = self.after(before, frames[-1] + more)
        return torch.stack(frames, dim=2) if frames else added
