"""What runs a plan, and the streaming state it works on.

State lives here, outside the modules: plain tensors and integers, one record per stream (or batch of streams).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .plan import ConvOp, JoinOp, Part, SplitOp, TransposeOp


@dataclass
class State:
    """Where a stream through one part stands.

    Attributes:
        buffers: per convolution, transposed convolution and split of the part, in order: the inputs still needed `[B, n, C]`.
        drops: beside each, outputs (transposed convolution) or inputs (split) still to be dropped at the start.
    """

    buffers: list[Tensor]
    drops: list[int]

    @classmethod
    def fresh(cls, part: Part, batch: int, device: torch.device) -> State:
        """The state before the first sample: each convolution's left padding, zeros."""
        buffers, drops = [], []
        for op in part.ops:
            match op:
                case ConvOp():
                    buffers.append(torch.zeros(batch, op.geometry.left, op.weight.shape[1], device=device))
                    drops.append(0)
                case TransposeOp():
                    buffers.append(torch.zeros(batch, 1, op.weight.shape[1], device=device))
                    drops.append(op.geometry.trim_left)
                case SplitOp():
                    buffers.append(torch.zeros(batch, 0, op.channels, device=device))
                    drops.append(op.crop)
                case _:
                    pass
        return cls(buffers, drops)

    def copy(self) -> State:
        """An independent copy."""
        return State([buffer.clone() for buffer in self.buffers], list(self.drops))

    def rows(self, index: Tensor) -> State:
        """The state of some rows; a copy."""
        return State([buffer.index_select(0, index) for buffer in self.buffers], list(self.drops))

    def put_rows(self, index: Tensor, part: State) -> None:
        """Write back what `rows` gave, run on by whole hops."""
        for position, (buffer, new) in enumerate(zip(self.buffers, part.buffers, strict=True)):
            buffer = buffer.clone()  # a buffer may be a view of a longer one
            buffer[index] = new
            self.buffers[position] = buffer


class Executor(Protocol):
    """Runs a plan. Arrays are time-major: audio `[B, T, 1]`, latents inside, codes `[B, F, K]` int64."""

    name: str
    device: torch.device

    def fresh_encoder(self, batch: int) -> State:
        """State of `batch` encoders before their first sample."""
        ...

    def fresh_decoder(self, batch: int) -> State:
        """State of `batch` decoders before their first frame."""
        ...

    def encode(self, state: State, audio: Tensor, depths: Tensor | int, *, last: bool) -> Tensor:
        """Push audio `[B, T, 1]`, and flush where `last`: the codes now complete `[B, F, K]`, -1 beyond a row's depth."""
        ...

    def decode(self, state: State, codes: Tensor, *, last: bool) -> Tensor:
        """Push codes `[B, F, K]`, -1 where unused, and flush where `last`: the audio now complete `[B, T, 1]`."""
        ...


def check_join(ops: Part) -> None:
    """Every split has its join: an invariant of the plan builder."""
    depth = 0
    for op in ops.ops:
        depth += isinstance(op, SplitOp) - isinstance(op, JoinOp)
        assert depth >= 0
    assert depth == 0
