"""What callers hand in, checked and made into tensors; and given back in the kind it came."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .config import LOST
from .errors import UsageError

Array = Any  # numpy.ndarray or torch.Tensor; what goes in decides what comes out


def audio_tensor(audio: Array, batch: int | None, device: torch.device) -> tuple[Tensor, bool]:
    """Audio `[T]` or `[B, 1, T]` as float32 `[B, T, 1]` on `device`, and whether it came as numpy.

    Raises:
        UsageError: wrong type, shape or batch, or a value that is not finite.
    """
    tensor, is_numpy = _tensor(audio, "audio")
    if not tensor.is_floating_point():
        raise UsageError(f"audio is {tensor.dtype}, need floating point in [-1, 1]")
    if tensor.dim() == 1:
        tensor = tensor[None, None]
    if tensor.dim() != 3 or tensor.shape[1] != 1:
        raise UsageError(f"audio has shape {tuple(tensor.shape)}, need [T] or [B, 1, T]")
    if batch is not None and tensor.shape[0] != batch:
        raise UsageError(f"audio has {tensor.shape[0]} rows, need {batch}")
    tensor = tensor.detach().to(device, torch.float32)
    # One sum says whether all is finite; which sample is to blame is looked up only when it is not.
    if not math.isfinite(float(tensor.sum())) and (bad := int((~torch.isfinite(tensor)).sum())):
        raise UsageError(f"audio holds NaN or infinity in {bad} of {tensor.numel()} samples")
    return tensor.transpose(1, 2), is_numpy


def codes_tensor(
    codes: Array, batch: int | None, n_codebooks: int, size: int, device: torch.device
) -> tuple[Tensor, bool]:
    """Codes `[K, F]` or `[B, K, F]` as int64 `[B, F, K]` on `device`, and whether they came as numpy.

    -1 marks an unused codebook; those come last in a frame. A frame that is `LOST` is so in the first
    codebook and uses no other.

    Raises:
        UsageError: wrong type or shape, or a code out of range.
    """
    tensor, is_numpy = _tensor(codes, "codes")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise UsageError(f"codes are {tensor.dtype}, need integers")
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() != 3 or (batch is not None and tensor.shape[0] != batch):
        wanted = "B" if batch is None else batch
        raise UsageError(f"codes have shape {tuple(tensor.shape)}, need [{wanted}, K, F]")
    if not 1 <= tensor.shape[1] <= n_codebooks:
        raise UsageError(f"codes of {tensor.shape[1]} codebooks, the model has 1 to {n_codebooks}")
    tensor = tensor.to(device, torch.int64)
    if tensor.numel():
        low, high = int(tensor.min()), int(tensor.max())
        if low < LOST or high >= size:
            raise UsageError(f"codes from {low} to {high}, need 0 to {size - 1} (-1 where unused, {LOST} where lost)")
        lost = tensor[:, :1] == LOST
        if low == LOST and bool((((tensor == LOST) & ~lost) | ((tensor >= 0) & lost)).any()):
            raise UsageError("a frame is lost in some codebooks and not in others")
        if low < 0 and bool(((tensor[:, :-1] < 0) & (tensor[:, 1:] >= 0)).any()):
            raise UsageError("a frame uses a codebook after one that it leaves out")
    return tensor.transpose(1, 2), is_numpy


def give_back(tensor: Tensor, as_numpy: bool) -> Array:
    """`tensor` in the kind the caller used; free of inference mode and of any larger buffer."""
    tensor = tensor.clone()
    return tensor.cpu().numpy() if as_numpy else tensor


def plain_samples(audio: Array, batch: int) -> NDArray[np.float32] | None:
    """Audio that needs no conversion and no word of complaint, as `[B, T]` of the caller's own memory; None for any other.

    For what comes hop after hop: `audio_tensor` costs as much as a tenth of the network's work on one.
    """
    samples = _plain(audio, torch.float32, np.float32, 1)
    if samples is None or samples.shape[:-1] not in ((batch, 1), () if batch == 1 else None):
        return None
    return samples.reshape(batch, samples.shape[-1]) if np.isfinite(samples).all() else None


def plain_codes(codes: Array, batch: int, n_codebooks: int, size: int) -> NDArray[np.int64] | None:
    """Codes that need no conversion and no word of complaint, all of them in use, as `[B, F, K]`; None for any other."""
    rows = _plain(codes, torch.int64, np.int64, 2)
    if rows is None or rows.shape[:-2] not in ((batch,), () if batch == 1 else None):
        return None
    if not rows.size or rows.shape[-2] > n_codebooks or rows.view(np.uint64).max() >= size:  # a -1 is the largest there
        return None
    return np.ascontiguousarray(rows.reshape(batch, *rows.shape[-2:]).transpose(0, 2, 1))


def _plain(value: Array, of_tensor: torch.dtype, of_array: type[np.generic], dims: int) -> Any:
    """The caller's memory as a contiguous numpy array of that type and `dims` or 3 dimensions; None where it is not one."""
    if type(value) is Tensor:
        if value.dtype != of_tensor or not value.is_cpu or value.requires_grad:
            return None
        value = value.numpy()
    if type(value) is not np.ndarray or value.dtype != of_array or value.ndim not in (dims, 3):
        return None
    return value if value.flags.c_contiguous else None


def _tensor(value: Array, what: str) -> tuple[Tensor, bool]:
    if isinstance(value, Tensor):
        return value, False
    if not isinstance(value, np.ndarray):
        raise UsageError(f"{what} is a {type(value).__name__}, need a numpy array or a torch tensor")
    if value.dtype == object or value.dtype.kind not in "fiub":
        raise UsageError(f"{what} has dtype {value.dtype}, need numbers")
    if not value.dtype.isnative:
        value = value.astype(value.dtype.newbyteorder("="))
    if value.dtype.kind == "u":
        value = value.astype(np.int64)
    if value.dtype == np.longdouble:
        value = value.astype(np.float64)
    value = np.ascontiguousarray(value)
    # Torch warns of what it may not write.
    return torch.from_numpy(value if value.flags.writeable else value.copy()), True
