"""The layers a DAC is made of, with their geometry explicit.

Parameters carry the official names (old-style weight norm: `weight_g`, `weight_v`), so official state dicts load as they are.
Each layer pads its own input, on both sides (centred) or on the left only (causal).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SNAKE_EPS = 1e-9  # the official guard against alpha = 0


@dataclass(frozen=True)
class ConvGeometry:
    """Kernel, dilation and stride in taps and samples; zeros padded on the left and right, in input samples."""

    kernel: int
    dilation: int = 1
    stride: int = 1
    left: int = 0
    right: int = 0

    @property
    def window(self) -> int:
        """Input samples that one output sample sees."""
        return (self.kernel - 1) * self.dilation + 1

    def unpadded(self) -> ConvGeometry:
        """The same convolution without padding, as in the official tool's chunks."""
        return ConvGeometry(self.kernel, self.dilation, self.stride)


@dataclass(frozen=True)
class TransposeGeometry:
    """A transposed convolution with kernel 2 * stride; output samples trimmed at either end."""

    stride: int
    trim_left: int = 0
    trim_right: int = 0

    @property
    def kernel(self) -> int:
        """Taps."""
        return 2 * self.stride

    def unpadded(self) -> TransposeGeometry:
        """Nothing trimmed."""
        return TransposeGeometry(self.stride)


def conv_geometry(kernel: int, *, dilation: int = 1, stride: int = 1, causal: bool) -> ConvGeometry:
    """Padding of one convolution: causal maps L to exactly L / stride, centred does as the official network does."""
    if causal:
        return ConvGeometry(kernel, dilation, stride, left=(kernel - 1) * dilation + 1 - stride)
    side = math.ceil(stride / 2) if stride > 1 or kernel == 2 * stride else (kernel - 1) * dilation // 2
    return ConvGeometry(kernel, dilation, stride, left=side, right=side)


def transpose_geometry(stride: int, *, causal: bool) -> TransposeGeometry:
    """Trim of one transposed convolution: causal gives exactly L * stride, centred loses a sample at odd strides."""
    if causal:
        return TransposeGeometry(stride, trim_right=stride)
    side = math.ceil(stride / 2)
    return TransposeGeometry(stride, trim_left=side, trim_right=side)


def fold_weight_norm(v: Tensor, g: Tensor) -> Tensor:
    """`v` scaled so that each slice along the first axis has norm `g`: `[C, ...]`, `[C, 1, 1]` -> `[C, ...]`."""
    return v * weight_norm_factors(v, g)


def weight_norm_factors(v: Tensor, g: Tensor) -> Tensor:
    """What `fold_weight_norm` multiplies each slice by: `[C, ...]`, `[C, 1, 1]` -> `[C, 1, 1]`."""
    factors: Tensor = g / torch.linalg.vector_norm(v, dim=tuple(range(1, v.dim())), keepdim=True)
    return factors


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha, one alpha a channel (Ziyin et al. 2020, used by BigVGAN and DAC).

    Shape: x `[B, C, T]` -> `[B, C, T]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return x + torch.sin(self.alpha * x).square() / (self.alpha + SNAKE_EPS)


class _WeightNormed(nn.Module):
    """A weight held as direction `weight_v` and length `weight_g` along the first axis."""

    def __init__(self, shape: tuple[int, int, int], bias: int, fan_in: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan_in)
        v = torch.empty(shape).uniform_(-bound, bound)
        # The meta device computes no norm, and trying to would import seconds' worth of torch.
        self.weight_g = nn.Parameter(torch.empty(shape[0], 1, 1) if v.is_meta else v.norm(dim=(1, 2), keepdim=True))
        self.weight_v = nn.Parameter(v)
        self.bias = nn.Parameter(torch.zeros(bias))

    @property
    def weight(self) -> Tensor:
        """The folded weight."""
        weight: Tensor = torch._weight_norm(self.weight_v, self.weight_g, 0)
        return weight


class Conv(_WeightNormed):
    """Weight-normed convolution that pads its own input.

    Shape: x `[B, C_in, T]` -> `[B, C_out, floor((T + left + right - window) / stride) + 1]`.
    """

    def __init__(self, c_in: int, c_out: int, geometry: ConvGeometry) -> None:
        super().__init__((c_out, c_in, geometry.kernel), c_out, c_in * geometry.kernel)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        """Offline: the whole signal at once."""
        g = self.geometry
        if g.left or g.right:
            x = F.pad(x, (g.left, g.right))
        return F.conv1d(x, self.weight, self.bias, g.stride, 0, g.dilation)


class ConvTranspose(_WeightNormed):
    """Weight-normed transposed convolution that trims its own output.

    Shape: x `[B, C_in, T]` -> `[B, C_out, (T + 1) * stride - trim_left - trim_right]`.
    """

    def __init__(self, c_in: int, c_out: int, geometry: TransposeGeometry) -> None:
        super().__init__((c_in, c_out, geometry.kernel), c_out, c_out * geometry.kernel)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        """Offline: the whole signal at once."""
        g = self.geometry
        y = F.conv_transpose1d(x, self.weight, self.bias, g.stride)
        return y[..., g.trim_left : y.shape[-1] - g.trim_right]


class ResidualUnit(nn.Module):
    """Snake, dilated convolution of 7, Snake, convolution of 1, added to the input.

    Shape: x `[B, C, T]` -> `[B, C, T]` (shorter where unpadded: the skip path is cropped).
    """

    def __init__(self, channels: int, dilation: int, *, causal: bool) -> None:
        super().__init__()
        self.channels = channels
        self.block = nn.Sequential(
            Snake(channels),
            Conv(channels, channels, conv_geometry(7, dilation=dilation, causal=causal)),
            Snake(channels),
            Conv(channels, channels, conv_geometry(1, causal=causal)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Skip and body, summed."""
        y: Tensor = self.block(x)
        crop = (x.shape[-1] - y.shape[-1]) // 2
        return (x[..., crop : x.shape[-1] - crop] if crop else x) + y
