"""The operations that a network is flattened into, and what they need of a signal: geometry and folded weights, time-major.

Each operation keeps the input samples that it still needs; how many outputs are complete after n inputs follows from its geometry
alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .nn.layers import ConvGeometry, TransposeGeometry
from .nn.long_term import LongTermGeometry


@dataclass(frozen=True, eq=False)
class Halves:
    """A weight that is half-precision numbers times one factor for each output, but for what rounding does (2^-20)."""

    numbers: Tensor
    """float16, shaped as the weight."""
    factors: Tensor
    """float32, shaped as the operation's bias."""


@dataclass(frozen=True, eq=False)
class ConvOp:
    """A convolution: weight `[K, C_in, C_out]` (tap, in, out), bias `[C_out]`."""

    geometry: ConvGeometry
    weight: Tensor
    bias: Tensor
    halves: Halves | None = None
    """The weight once more, where it is such."""

    def ready(self, samples: int) -> int:
        """Outputs complete after `samples` inputs, without the right padding."""
        g = self.geometry
        return max(0, (samples + g.left - g.window) // g.stride + 1)

    def total(self, samples: int) -> int:
        """Outputs of the whole signal, right padding included."""
        return self.ready(samples + self.geometry.right)


@dataclass(frozen=True, eq=False)
class TransposeOp:
    """A transposed convolution as a window of two input frames.

    Weight `[2, C_in, stride * C_out]`: row 0 for the frame before, row 1 for the current one; bias `[stride * C_out]`.
    """

    geometry: TransposeGeometry
    weight: Tensor
    bias: Tensor
    halves: Halves | None = None

    def ready(self, samples: int) -> int:
        """Outputs complete after `samples` inputs: each gives one block of `stride`."""
        return max(0, samples * self.geometry.stride - self.geometry.trim_left)

    def total(self, samples: int) -> int:
        """Outputs of the whole signal: one block more, trimmed."""
        g = self.geometry
        return max(0, (samples + 1) * g.stride - g.trim_left - g.trim_right)


@dataclass(frozen=True, eq=False)
class SnakeOp:
    """x + sin(alpha x)^2 * inverse, element by element; both `[C]`."""

    alpha: Tensor
    inverse: Tensor


@dataclass(frozen=True)
class TanhOp:
    """tanh, element by element."""


@dataclass(frozen=True)
class SplitOp:
    """Start of a residual unit: keep the input for the join, less `crop` samples at the start."""

    channels: int
    crop: int


@dataclass(frozen=True)
class JoinOp:
    """End of a residual unit: add what the last split kept, as far as the body has come."""


@dataclass(frozen=True, eq=False)
class LongTermOp:
    """A long-term postfilter, one block of outputs for each block of inputs; taps `[filters, taps]` ready for use."""

    geometry: LongTermGeometry
    own: Tensor
    past: Tensor

    def ready(self, samples: int) -> int:
        """Outputs complete after `samples` inputs: whole blocks."""
        return samples // self.geometry.block * self.geometry.block

    def total(self, samples: int) -> int:
        """The same: a causal decoder makes whole hops."""
        return self.ready(samples)


@dataclass(frozen=True)
class MemoryOp:
    """The quantised latents of the last `frames` frames, newest first, beside the signal: what the quantiser predicts from."""

    frames: int
    channels: int


Op = ConvOp | TransposeOp | SnakeOp | TanhOp | SplitOp | JoinOp | LongTermOp | MemoryOp


@dataclass(frozen=True, eq=False)
class Part:
    """Encoder or decoder: operations in order."""

    ops: tuple[Op, ...]
    c_in: int
    c_out: int

    def ready(self, samples: int) -> int:
        """Outputs complete after `samples` inputs, before a flush."""
        for op in self.ops:
            if isinstance(op, ConvOp | TransposeOp | LongTermOp):
                samples = op.ready(samples)
        return samples

    def total(self, samples: int) -> int:
        """Outputs of a whole signal of `samples` inputs."""
        for op in self.ops:
            if isinstance(op, ConvOp | TransposeOp | LongTermOp):
                samples = op.total(samples)
        return samples

    def needed(self, outputs: int) -> int:
        """Fewest inputs after which `outputs` outputs are complete."""
        for op in reversed(self.ops):
            if isinstance(op, ConvOp):
                g = op.geometry
                outputs = max(0, (outputs - 1) * g.stride + g.window - g.left)
            elif isinstance(op, TransposeOp):
                outputs = -(-(outputs + op.geometry.trim_left) // op.geometry.stride)
            elif isinstance(op, LongTermOp):
                outputs = -(-outputs // op.geometry.block) * op.geometry.block
        return outputs

    def first_seen(self, output: int) -> int:
        """The first input that `output` depends on; negative where the signal would have to begin earlier."""
        for op in reversed(self.ops):
            if isinstance(op, ConvOp):
                output = output * op.geometry.stride - op.geometry.left
            elif isinstance(op, TransposeOp):
                output = (output + op.geometry.trim_left) // op.geometry.stride - 1
            elif isinstance(op, LongTermOp):
                output = output // op.geometry.block * op.geometry.block - op.geometry.left
        return output
