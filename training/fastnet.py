"""The network's forward pass laid out for training on CPUs: time-major activations, bf16 convolutions, fused Snakes.

Same modules and parameters as `streamdac.nn`, another order of the same operations. Time-major `[B, T, C]` makes every
convolution a matrix product over contiguous windows, which oneDNN runs 2-3 times faster than `[B, C, T]`; a strided
convolution becomes a kernel of 2 over frames of `stride` samples, a transposed one a kernel of 2 that emits `stride` samples.

The blocks at the waveform keep float32, but for the products of their gradients: bf16 there is noise some 50 dB below the
speech, which fills what is fainter (EXPERIMENTS.md, "Where bf16 is heard").
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamdac.nn import DAC
from streamdac.nn.layers import Conv, ConvTranspose, ResidualUnit, Snake
from streamdac.nn.network import DecoderBlock, EncoderBlock

from .fused import convolve, snake_pad


def conv(x: Tensor, layer: Conv, gradients: torch.dtype | None = None) -> Tensor:
    """`layer` on x `[B, left + T + right, C_in]`, padded already; with stride 1 its gradients in the type `gradients`."""
    g = layer.geometry
    if g.stride == 1 or x.shape[1] % g.stride or g.kernel != 2 * g.stride:
        return convolve(x, layer.weight, layer.bias, stride=g.stride, dilation=g.dilation, gradients=gradients)
    batch, steps, channels = x.shape
    frames = x.reshape(batch, steps // g.stride, g.stride * channels)
    weight = layer.weight.unflatten(2, (2, g.stride)).permute(0, 3, 1, 2).flatten(1, 2)  # [C_out, stride * C_in, 2]
    return convolve(frames, weight, layer.bias)


def conv_transpose(x: Tensor, layer: ConvTranspose) -> Tensor:
    """`layer` on x `[B, 1 + F + 1, C_in]` (causal: `[B, 1 + F, C_in]`): each frame of output sees two of input."""
    g = layer.geometry
    c_in, c_out, _ = layer.weight_v.shape
    halves = layer.weight.unflatten(2, (2, g.stride)).flip(2)  # the earlier frame gives the second half of its kernel
    weight = halves.permute(3, 1, 0, 2).reshape(g.stride * c_out, c_in, 2)
    y = convolve(x, weight, layer.bias.repeat(g.stride))
    y = y.reshape(y.shape[0], -1, c_out)
    if g.trim_left == 0 and g.trim_right == g.stride:
        return y
    return y[:, g.trim_left : y.shape[1] - g.trim_right].contiguous()


def _alpha(snake: nn.Module) -> Tensor:
    return cast(Snake, snake).alpha.flatten()


class _Stream:
    """A residual stream whose last summand is still to be added: the next Snake adds it in the same pass."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.body = x, cast("Tensor | None", None)

    def snake(self, module: nn.Module, left: int, right: int) -> Tensor:
        self.x, out = snake_pad(self.x, self.body, _alpha(module), left=left, right=right)
        self.body = None
        return out


def _residual_unit(stream: _Stream, unit: ResidualUnit, gradients: torch.dtype) -> None:
    first, wide, second, narrow = unit.block
    wide, narrow = cast(Conv, wide), cast(Conv, narrow)
    inner = _Stream(conv(stream.snake(first, wide.geometry.left, wide.geometry.right), wide, gradients))
    stream.body = conv(inner.snake(second, 0, 0), narrow, gradients)


def _final(stream: _Stream, snake: nn.Module, layer: Conv, dtype: torch.dtype) -> Tensor:
    return conv(stream.snake(snake, layer.geometry.left, layer.geometry.right).to(dtype), layer)


def encode(network: DAC, audio: Tensor, dtype: torch.dtype) -> Tensor:
    """`[B, 1, T]` -> latent before quantisation, float32 `[B, D, F]`; convolutions in `dtype`, of the first block in float32."""
    first, *blocks, snake, last = network.encoder.block
    first, last = cast(Conv, first), cast(Conv, last)
    padded = F.pad(audio, (first.geometry.left, first.geometry.right))
    # One input channel: windows times matrix.
    windows = padded.squeeze(1).unfold(1, first.geometry.kernel, 1)
    stream = _Stream(windows @ first.weight.squeeze(1).t() + first.bias)
    for block in blocks:
        *units, snake_down, down = cast(EncoderBlock, block).block
        for unit in units:
            _residual_unit(stream, cast(ResidualUnit, unit), dtype)
        stream = _Stream(_final(stream, snake_down, cast(Conv, down), dtype))
    return _final(stream, snake, last, torch.float32).transpose(1, 2)


def decode(network: DAC, z: Tensor, dtype: torch.dtype) -> Tensor:
    """Quantised latent `[B, D, F]` -> float32 `[B, 1, T]`; convolutions in `dtype`, of the last block in float32."""
    first, *blocks, snake, last, _tanh = network.decoder.model
    first, last = cast(Conv, first), cast(Conv, last)
    padded = F.pad(z.transpose(1, 2), (0, 0, first.geometry.left, first.geometry.right))
    stream = _Stream(conv(padded.to(dtype), first))
    for block in blocks:
        snake_up, up, *units = cast(DecoderBlock, block).block
        up = cast(ConvTranspose, up)
        causal = up.geometry.trim_left == 0
        raised = conv_transpose(stream.snake(snake_up, 1, 0 if causal else 1), up)
        stream = _Stream(raised.float() if block is blocks[-1] else raised)
        for unit in units:
            _residual_unit(stream, cast(ResidualUnit, unit), dtype)
    out = stream.snake(snake, last.geometry.left, last.geometry.right)
    # One output channel: as a convolution it starves the matrix units.
    taps = out @ last.weight.squeeze(0)  # [B, T + 6, 7]
    steps = out.shape[1] - last.geometry.kernel + 1
    wave = sum((taps[:, k : k + steps, k] for k in range(last.geometry.kernel)), start=last.bias)
    audio = torch.tanh(wave).unsqueeze(1)
    return audio if network.decoder.long_term is None else network.decoder.long_term(audio)


def best_cpu_dtype(candidates: Iterable[torch.dtype] = (torch.bfloat16, torch.float32)) -> torch.dtype:
    """The type whose convolutions run faster here, measured (bf16 is 5 times faster with AMX, 25 times slower without)."""
    taken: dict[torch.dtype, float] = {}
    for dtype in candidates:
        x, weight, bias = torch.randn(2, 600, 48).to(dtype), torch.randn(48, 48, 7), torch.zeros(48)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            convolve(x, weight, bias)
            times.append(time.perf_counter() - start)
        taken[dtype] = min(times)
    return min(taken, key=lambda dtype: taken[dtype])


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Type of the convolutions."""
    if precision == "auto":
        return best_cpu_dtype() if device.type == "cpu" else torch.bfloat16
    return torch.bfloat16 if precision == "bf16" else torch.float32
