"""Residual sum, Snake and zero padding as one differentiable operation on time-major activations `[B, T, C]`."""

from __future__ import annotations

import ctypes
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


def _call(stem: str, dtype: torch.dtype, pointers: list[Tensor | None], numbers: tuple[int, ...]) -> None:
    kernels = library()
    assert kernels is not None
    addresses = [None if tensor is None else ctypes.c_void_p(tensor.data_ptr()) for tensor in pointers]
    getattr(kernels, f"{stem}_{_SUFFIX[dtype]}")(*addresses, *numbers, torch.get_num_threads())


class _SnakePad(torch.autograd.Function):
    """(x, y or None, alpha) -> (x + y, padded Snake of it); without y the first result is x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor | None, alpha: Tensor, left: int, right: int) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        x = x.contiguous()
        y = None if y is None else y.contiguous()
        batch, steps, channels = x.shape
        alpha = alpha.detach().float().contiguous()
        total = x if y is None else torch.empty_like(x)
        out = x.new_empty(batch, left + steps + right, channels)
        numbers = (batch, steps, channels, left, right)
        _call("snake_forward", x.dtype, [x, y, None if y is None else total, out, alpha], numbers)
        ctx.save_for_backward(total, alpha)
        ctx.numbers, ctx.summed = numbers, y is not None
        if y is None:
            ctx.mark_non_differentiable()
            return x.view_as(x), out
        return total, out

    @staticmethod
    def backward(ctx: Any, grad_total: Tensor | None, grad_out: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None, None]:  # type: ignore[override]  # noqa: ANN401
        total, alpha = ctx.saved_tensors
        grad_x, grad_alpha = torch.empty_like(total), torch.empty_like(alpha)
        skip = None if grad_total is None else grad_total.contiguous()
        _call("snake_backward", total.dtype, [total, grad_out.contiguous(), skip, grad_x, alpha, grad_alpha], ctx.numbers)
        return grad_x, grad_x if ctx.summed else None, grad_alpha, None, None


def snake_pad(x: Tensor, y: Tensor | None, alpha: Tensor, *, left: int = 0, right: int = 0) -> tuple[Tensor, Tensor]:
    """Sum and padded Snake: x `[B, T, C]`, y the same or None, alpha `[C]` -> `[B, T, C]`, `[B, left + T + right, C]`."""
    if usable(x):
        total, out = _SnakePad.apply(x, y, alpha, left, right)
        return total, out
    total = x if y is None else x + y
    wide = total.float()
    snake = wide + torch.sin(alpha * wide).square() / (alpha + SNAKE_EPS)
    return total, F.pad(snake.to(total.dtype), (0, 0, left, right))
