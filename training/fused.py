"""Differentiable operations on the compiled kernels: residual sum + Snake + padding in one, convolutions, spectral magnitudes."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from streamdac.nn.layers import SNAKE_EPS

from .kernels import library

_IN, _OUT = 4, 24  # kIn and kOut of the kernel
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


def _image(rows: Tensor) -> Tensor:
    """`[B, T, C]` as a channels-last image `[B, C, 1, T]`, without a copy."""
    return rows.transpose(1, 2).unsqueeze(2)


def _kernel(weight: Tensor) -> Tensor:
    """`[C_out, C_in, K]` as a channels-last kernel `[C_out, C_in, 1, K]`."""
    return weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)


class _Convolve(torch.autograd.Function):
    """A dilated convolution whose gradient of the input is a convolution again, and of the weight a compiled kernel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        y = F.conv2d(_image(x), _kernel(weight), bias, dilation=(1, dilation))
        return y.squeeze(2).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        c_out, c_in, taps = weight.shape
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            back = _kernel(weight.flip(2).transpose(0, 1))
            halo = (taps - 1) * ctx.dilation
            grad_x = F.conv2d(_image(grad), back, None, padding=(0, halo), dilation=(1, ctx.dilation))
            grad_x = grad_x.squeeze(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            sums = x.new_zeros(taps, -(-c_in // _IN) * _IN, -(-c_out // _OUT) * _OUT)
            _call("conv_weight_gradient", [x, grad, sums], (*grad.shape[:2], c_in, c_out, taps, ctx.dilation))
            grad_weight = sums[:, :c_in, :c_out].permute(2, 1, 0)
        return grad_x, grad_weight, grad.sum((0, 1)) if ctx.needs_input_grad[2] else None, None


def convolve(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int = 1, dilation: int = 1) -> Tensor:
    """Unpadded convolution, in the type of x.

    With stride 1 its backward takes 0.5 to 0.6 times as long as that of `conv2d` on the same layout.

    Shape: x `[B, T, C_in]`, weight `[C_out, C_in, K]`, bias `[C_out]` -> `[B, T', C_out]`.
    """
    if weight.shape[2] == stride == 1:
        return F.linear(x, weight.squeeze(2).to(x.dtype), bias.to(x.dtype))
    if stride == 1 and x.dtype == torch.float32 and usable(x):
        out: Tensor = _Convolve.apply(x, weight, bias, dilation)  # type: ignore[no-untyped-call]
        return out
    y = F.conv2d(_image(x), _kernel(weight.to(x.dtype)), bias.to(x.dtype), (1, stride), 0, (1, dilation))
    return y.squeeze(2).transpose(1, 2)


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
