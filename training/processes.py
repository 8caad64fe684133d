"""One process or several under torchrun: who this one is, and what all must agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from streamdac.errors import UnavailableError, UsageError


@dataclass(frozen=True)
class Processes:
    """This process's place among all. Alone: rank 0 of 1."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks."""
        return self.rank == 0

    def mean(self, value: Tensor) -> Tensor:
        """The mean over processes."""
        if self.count > 1:
            torch.distributed.all_reduce(value)
            value /= self.count
        return value

    def shared(self, value: float) -> float:
        """The mean over processes of a number, the same in all."""
        return value if self.count == 1 else float(self.mean(torch.tensor(value, device=self.device)))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.count == 1:
            return flag
        value = torch.tensor(int(flag), device=self.device)
        torch.distributed.all_reduce(value, torch.distributed.ReduceOp.MAX)
        return bool(value.item())

    def alike(self, *values: float) -> bool:
        """Whether all processes give the same numbers."""
        if self.count == 1:
            return True
        both = torch.tensor([*values, *(-value for value in values)], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(both, torch.distributed.ReduceOp.MAX)
        most, least = both.split(len(values))
        return bool((most == -least).all())

    def agree(self, values: list[Tensor]) -> None:
        """Everybody takes the first process's values, in place."""
        if self.count > 1:
            for value in values:
                torch.distributed.broadcast(value, 0)

    def first_one(self, dtype: torch.dtype) -> torch.dtype:
        """The first process's type, float32 or bfloat16: what is measured may differ."""
        half = torch.tensor(float(dtype == torch.bfloat16), device=self.device)
        self.agree([half])
        return torch.bfloat16 if half > 0 else torch.float32

    def gather(self, value: Tensor) -> Tensor:
        """All processes' `[B, ...]`, joined along the batch."""
        if self.count == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.count)]
        torch.distributed.all_gather(parts, value.contiguous())
        return torch.cat(parts)

    def exchange(self, values: list[Tensor], owners: list[int]) -> None:
        """Everybody takes each value from the process that owns it, in place."""
        if self.count == 1:
            return
        for rank in range(self.count):
            mine = [value for value, owner in zip(values, owners, strict=True) if owner == rank]
            if not mine:
                continue
            flat = torch.cat([value.flatten() for value in mine])
            torch.distributed.broadcast(flat, rank)
            if rank != self.rank:
                for value, part in zip(mine, flat.split([value.numel() for value in mine]), strict=True):
                    value.copy_(part.view_as(value))

    def wrap(self, module: nn.Module, *, some_unused: bool) -> nn.Module:
        """For gradients averaged over processes; `some_unused`: as yet not every parameter gets one."""
        if self.count == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=some_unused)


def join_processes(device: str) -> Processes:
    """Join the other processes if torchrun started this one; `device` is cpu, cuda (each rank takes its own), cuda:0 ...

    Raises:
        UsageError: there is no such device, or several processes are to share one.
        UnavailableError: it is CUDA, and there is none here, or not so many.
    """
    try:
        mine = torch.device(device)
    except RuntimeError:
        mine = None
    if mine is None or mine.type not in ("cpu", "cuda"):
        raise UsageError(f"no device {device!r}: need cpu, cuda, cuda:0, ...")
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if mine.type == "cuda":
        if not torch.cuda.is_available():
            raise UnavailableError(f"device {device}: torch {torch.__version__} finds no CUDA here")
        if not alone and mine.index is not None:
            raise UsageError(f"device {device} for several processes: say cuda, and each takes its own")
        mine = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if not alone else mine
        if (mine.index or 0) >= torch.cuda.device_count():
            raise UnavailableError(f"device {mine}: there are {torch.cuda.device_count()} here")
    if alone:
        return Processes(device=mine)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if mine.type == "cuda" else "gloo")
    return Processes(torch.distributed.get_rank(), torch.distributed.get_world_size(), mine)
