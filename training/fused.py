"""Differentiable operations on the compiled kernels: residual sum + Snake + padding in one, magnitudes of spectra."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from streamdac.nn.layers import SNAKE_EPS

from .kernels import library

_SUFFIX = {torch.float32: "f32", torch.bfloat16: "bf16"}


def usable(x: Tensor) -> bool:
    """Whether the compiled kernels take `x`."""
    return x.device.type == "cpu" and x.dtype in _SUFFIX and library() is not None


def _call(name: str, tensors: Sequence[Tensor | None], numbers: Sequence[int]) -> None:
    kernels = library()
    assert kernels is not None
    addresses = [None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    getattr(kernels, name)(*addresses, *numbers, torch.get_num_threads())


class _SnakePad(torch.autograd.Function):
    """(x, y or None, alpha) -> (x + y, padded Snake of it); without y the first result is x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, alpha: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:
        x = x.contiguous()
        y = None if y is None else y.contiguous()
        batch, steps, channels = x.shape
        alpha = alpha.detach().float().contiguous()
        total = x if y is None else torch.empty_like(x)
        out = x.new_empty(batch, left + steps + right, channels)
        numbers = (batch, steps, channels, left, right)
        stored = None if y is None else total
        _call(f"snake_forward_{_SUFFIX[x.dtype]}", [x, y, stored, out, alpha], numbers)
        ctx.save_for_backward(total, alpha)
        ctx.numbers, ctx.summed = numbers, y is not None
        if y is None:
            return x.view_as(x), out
        return total, out

    @staticmethod
    def backward(
        ctx: Any, grad_total: Tensor | None, grad_out: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor, None, None]:
        total, alpha = ctx.saved_tensors
        grad_x, grad_alpha = torch.empty_like(total), torch.empty_like(alpha)
        skip = None if grad_total is None else grad_total.contiguous()
        tensors = [total, grad_out.contiguous(), skip, grad_x, alpha, grad_alpha]
        _call(f"snake_backward_{_SUFFIX[total.dtype]}", tensors, ctx.numbers)
        return grad_x, grad_x if ctx.summed else None, grad_alpha, None, None


def snake_pad(x: Tensor, y: Tensor | None, alpha: Tensor, *, left: int = 0, right: int = 0) -> tuple[Tensor, Tensor]:
    """Sum and its padded Snake.

    Shape: x `[B, T, C]`, y the same or None, alpha `[C]` -> `[B, T, C]`, `[B, left + T + right, C]`.
    """
    if usable(x):
        total, out = _SnakePad.apply(x, y, alpha, left, right)  # type: ignore[no-untyped-call]
        return total, out
    total = x if y is None else x + y
    wide = total.float()
    snake = wide + torch.sin(alpha * wide).square() / (alpha + SNAKE_EPS)
    return total, F.pad(snake.to(total.dtype), (0, 0, left, right))


class _Magnitude(torch.autograd.Function):
    """|z| of contiguous complex64."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor) -> Tensor:
        out = torch.empty(spectrum.shape, dtype=torch.float32)
        _call("magnitude_forward", [torch.view_as_real(spectrum), out], [out.numel()])
        ctx.save_for_backward(spectrum, out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        spectrum, out = ctx.saved_tensors
        result = torch.empty_like(spectrum)
        _call("magnitude_backward", [spectrum, out, grad.contiguous(), result], [out.numel()])
        return result


def magnitude(spectrum: Tensor) -> Tensor:
    """|z| of a complex tensor, 5 times faster than `abs` with its gradient."""
    if spectrum.device.type == "cpu" and spectrum.dtype == torch.complex64 and library() is not None:
        out: Tensor = _Magnitude.apply(spectrum.contiguous())  # type: ignore[no-untyped-call]
        return out
    return spectrum.abs()
