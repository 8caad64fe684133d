"""The gradients of several losses brought to chosen sizes, item by item and over time, before they enter the network.

A log-spectral loss pulls on each frame with the inverse of its level: measured on speech, 80 % of its gradient's energy came
from the 11 % of frames that are near digital silence, and the waveform's own loss had a thousandth of its size. Balanced as in
EnCodec (Defossez et al. 2022, section 3.4), but for each item, and with a gain over time that takes the level out.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_QUIET = 10 ** (-35 / 20)  # of an item's level: frames at this level weigh half
_LEAST = 1e-3  # level below which an item counts as one of this level
_UNIT = 36.0  # leaves the other losses' weights their meaning: about what mel x 15 has on speech


class _Shaped(torch.autograd.Function):
    """The same tensor; its gradient is multiplied by `gain` `[B, 1, T]` and then, if given, gets norm `size` `[B]` per item."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, size: Tensor | None) -> Tensor:
        ctx.save_for_backward(gain, size)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        gain, size = ctx.saved_tensors
        shaped = grad * gain
        if size is None:
            return shaped, None, None
        norm = shaped.flatten(1).norm(dim=1).clamp_min(1e-20)
        return shaped * (size / norm)[:, None, None], None, None


class Balance:
    """How the gradients for a batch of estimates of `target` `[B, 1, T]` are shaped.

    Args:
        target: the original audio.
        frame: samples over which the level is taken for the gain.
        quiet: power of that gain for losses without a share; 0 leaves their gradients as they are.
    """

    def __init__(self, target: Tensor, frame: int, quiet: float = 0.0) -> None:
        self._target, self._frame, self._quiet = target, frame, quiet

    @cached_property
    def _shape(self) -> tuple[Tensor, Tensor]:
        """Gain `[B, 1, T]` and size `[B]`; only where some loss needs them."""
        target, frame = self._target.detach(), self._frame
        level = target.square().mean((1, 2)).sqrt().clamp_min(_LEAST)
        padded = F.pad(target, (0, -target.shape[2] % frame))
        frames = padded.unflatten(2, (-1, frame)).square().mean(3).sqrt()  # [B, 1, F]
        quiet = _QUIET * level[:, None, None]
        gain = (frames / (frames + quiet) + 1e-4).repeat_interleave(frame, 2)[..., : target.shape[2]]
        # To learn as much from quiet items, a path that is linear in the audio wants 1 / level, a constant one no factor.
        return gain, _UNIT / (level.sqrt() * target.shape[0])

    def __call__(self, estimate: Tensor, share: float) -> Tensor:
        """`estimate`, for a loss whose gradient is to have `share`; 0: its own, as it is or with less from quiet frames."""
        if not share and not self._quiet:
            return estimate
        gain, size = self._shape
        how = (gain, share * size) if share else (gain**self._quiet, None)
        shaped: Tensor = _Shaped.apply(estimate, *how)  # type: ignore[no-untyped-call]
        return shaped
