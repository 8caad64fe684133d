"""What runs a plan, and the streaming state it works on.

State lives here, outside the modules: plain tensors and integers, one record per stream (or batch of streams). An executor may
keep a form of its own while it runs; `State` is the form that every executor exports and imports.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .errors import BadDataError
from .ops import ConvOp, JoinOp, LongTermOp, MemoryOp, Part, SplitOp, TransposeOp


@dataclass
class State:
    """Where a stream through one part stands.

    Attributes:
        buffers: for each operation of the part that keeps anything (convolutions, transposed ones, splits, long-term filters,
            a quantiser's memory, which is last), in order, what is still needed `[B, n, C]`.
        drops: beside each, outputs (transposed convolution) or inputs (split) still to be dropped at the start.
    """

    buffers: list[Tensor]
    drops: list[int]

    @classmethod
    def fresh(cls, part: Part, batch: int, device: torch.device) -> State:
        """The state before the first sample: each convolution's left padding, zeros."""
        zeros = partial(torch.zeros, dtype=torch.float32, device=device)
        buffers, drops = [], []
        for op in part.ops:
            match op:
                case ConvOp():
                    buffers.append(zeros(batch, op.geometry.left, op.weight.shape[1]))
                    drops.append(0)
                case TransposeOp():
                    buffers.append(zeros(batch, 1, op.weight.shape[1]))
                    drops.append(op.geometry.trim_left)
                case SplitOp():
                    buffers.append(zeros(batch, 0, op.channels))
                    drops.append(op.crop)
                case LongTermOp():
                    buffers.append(zeros(batch, op.geometry.left, 1))
                    drops.append(0)
                case MemoryOp(frames, channels):
                    buffers.append(zeros(batch, frames, channels))
                    drops.append(0)
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

    def check(self, part: Part, batch: int, samples: int) -> None:
        """Whether a stream through `part` stands like this after `samples` inputs of each of `batch` rows.

        Raises:
            BadDataError: it cannot.
        """
        wanted = slots_after(part, samples)
        if len(self.buffers) != len(wanted) or len(self.drops) != len(wanted):
            raise BadDataError(
                f"state with {len(self.buffers)} buffers and {len(self.drops)} counts, this model has {len(wanted)}"
            )
        for place, (buffer, drop, slot) in enumerate(zip(self.buffers, self.drops, wanted, strict=True)):
            shape = [batch, slot.rows, slot.channels]
            if not isinstance(buffer, Tensor) or list(buffer.shape) != shape or not buffer.is_floating_point():
                got = list(buffer.shape) if isinstance(buffer, Tensor) else type(buffer).__name__
                raise BadDataError(f"buffer {place} of the state is {got}, need floats {shape}")
            if drop != slot.drop:
                raise BadDataError(f"count {place} of the state is {drop}, need {slot.drop}")


class Slot(NamedTuple):
    """What one slot of a state holds: `rows` samples of `channels`, and how many are still to be dropped."""

    rows: int
    channels: int
    drop: int


def slots_after(part: Part, samples: int) -> list[Slot]:
    """What a state of `part` holds after `samples` inputs, by geometry alone."""
    slots: list[Slot] = []
    splits: list[int] = []
    for op in part.ops:
        match op:
            case ConvOp(g, weight):
                ready = op.ready(samples)
                slots.append(Slot(samples + g.left - ready * g.stride, weight.shape[1], 0))
                samples = ready
            case TransposeOp(g, weight):
                slots.append(Slot(1, weight.shape[1], max(0, g.trim_left - samples * g.stride)))
                samples = op.ready(samples)
            case SplitOp(channels, crop):
                splits.append(len(slots))
                slots.append(Slot(max(0, samples - crop), channels, max(0, crop - samples)))
            case JoinOp():
                place = splits.pop()
                slots[place] = slots[place]._replace(rows=slots[place].rows - samples)
            case LongTermOp(g):
                slots.append(Slot(g.left + samples - op.ready(samples), 1, 0))
                samples = op.ready(samples)
            case MemoryOp(frames, channels):
                slots.append(Slot(frames, channels, 0))
            case _:
                pass
    return slots


Depths = Tensor | int
"""Codebooks in use: of all, of each row `[B]`, or of each row's next frames `[B, F or more]`."""


def deepest(depths: Depths) -> int:
    """The largest of them; 0 of none."""
    return depths if isinstance(depths, int) else int(depths.max()) if depths.numel() else 0


class StreamState(Protocol):
    """What every executor's own state offers. Its other arguments are of the same executor's kind."""

    def copy(self) -> StreamState:
        """An independent copy."""
        ...

    def rows(self, index: Tensor) -> StreamState:
        """The state of some rows; a copy."""
        ...

    def put_rows(self, index: Tensor, part: Any) -> None:
        """Write back what `rows` gave, run on by whole hops."""
        ...


class Executor(Protocol):
    """Runs a plan. Arrays are time-major: audio `[B, T, 1]`, latents inside, codes `[B, F, K]` int64.

    A state is what `fresh_encoder`, `fresh_decoder` or `import_state` of the same executor gave.
    """

    name: str
    device: torch.device

    def fresh_encoder(self, batch: int) -> StreamState:
        """State of `batch` encoders before their first sample."""
        ...

    def fresh_decoder(self, batch: int) -> StreamState:
        """State of `batch` decoders before their first frame."""
        ...

    def encode(self, state: Any, audio: Tensor, depths: Depths, *, last: bool, most: int | None = None) -> Tensor:
        """Push audio `[B, T, 1]`, and flush where `last`: the codes now complete `[B, F, K]`, -1 beyond the `depths`.

        K is `most`, or the largest of the depths.
        """
        ...

    def decode(self, state: Any, codes: Tensor, *, last: bool) -> Tensor:
        """Push codes `[B, F, K]`, -1 where unused, and flush where `last`: the audio now complete `[B, T, 1]`."""
        ...

    def export_state(self, state: Any) -> State:
        """The same state as plain tensors on the CPU; a copy."""
        ...

    def import_state(self, state: State, *, decoder: bool) -> StreamState:
        """What `export_state` of any executor gave; `decoder` says of which part it is."""
        ...
