"""What encoder and decoder streams share: their rows, reset, saving and restoring, and the checks on what is given per row."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .arrays import Array
from .errors import BadDataError, ModelMismatchError, UsageError
from .executor import Executor, State, StreamState
from .ops import Part
from .plan import Plan

Depths = int | Sequence[int] | None
"""Codebooks: one number for all rows, one per row, or the model's own."""


class Stream:
    """What encoder and decoder share: rows, reset, saving and restoring."""

    kind: str
    counted: str
    """What has been pushed into the state: samples or frames; the key of that number in a saved state."""

    def __init__(self, plan: Plan, executor: Executor, batch: int) -> None:
        if type(batch) is not int or batch < 1:
            raise UsageError(f"batch is {batch!r}, need 1 or more")
        self.plan = plan
        self.batch = batch
        self._executor = executor
        self._state = self._fresh()
        self._as_numpy = False
        self._ended = False

    def _fresh(self, batch: int | None = None) -> StreamState:
        raise NotImplementedError

    def _part(self) -> Part:
        raise NotImplementedError

    def reset(self, rows: Iterable[int] | None = None) -> None:
        """Back to the start of a stream: all rows, or (causal models) some.

        Raises:
            UsageError: no such row, or rows of a centred model reset apart.
        """
        chosen = list(range(self.batch)) if rows is None else [int(row) for row in rows]
        if bad := [row for row in chosen if not 0 <= row < self.batch]:
            raise UsageError(f"row {bad[0]} of {self.batch}")
        if len(set(chosen)) == self.batch:
            self._state = self._fresh()
            self._restart()
        elif chosen:
            if not self.plan.config.causal:
                raise UsageError(f"{len(set(chosen))} of {self.batch} rows: a centred model resets all rows together")
            index = torch.tensor(sorted(set(chosen)), device=self._executor.device)
            self._state.put_rows(index, self._fresh(len(index)))

    def _restart(self) -> None:
        """Forget what is beside the state."""

    def _active_index(self, active: Tensor) -> Tensor | None:
        """Indices of the rows that take part; None for all of them."""
        if bool(active.all()):
            return None
        if not self.plan.config.causal:
            raise UsageError(
                f"{int((~active).sum())} of {self.batch} rows idle: a centred model steps all rows together"
            )
        return active.nonzero()[:, 0].to(self._executor.device)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on elsewhere: tensors, integers, strings, in lists."""
        state = self._executor.export_state(self._state)
        return {
            "kind": self.kind,
            "batch": self.batch,
            "fingerprint": self.plan.fingerprint.hex(),
            "buffers": state.buffers,
            "drops": state.drops,
            "numpy": self._as_numpy,
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `saved` left off; from another process or executor.

        Raises:
            ModelMismatchError: saved by another model.
            BadDataError: not such a state.
        """
        try:
            if saved["fingerprint"] != self.plan.fingerprint.hex():
                raise ModelMismatchError(
                    f"state of model {saved['fingerprint'][:16]}, this is {self.plan.fingerprint.hex()[:16]}"
                )
            if saved["kind"] != self.kind or saved["batch"] != self.batch:
                raise BadDataError(
                    f"state of a {saved['kind']} of {saved['batch']} rows, this is a {self.kind} of {self.batch}"
                )
            state = State(list(saved["buffers"]), [int(drop) for drop in saved["drops"]])
            pushed, as_numpy = int(saved[self.counted]), bool(saved.get("numpy", False))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadDataError(f"not a stream's state: {error}") from error
        if pushed < 0:
            raise BadDataError(f"state after {pushed} {self.counted}")
        state.check(self._part(), self.batch, pushed)
        self._state = self._executor.import_state(state, decoder=self.kind == "decoder")
        self._as_numpy = as_numpy


def check_depths(value: Depths, most: int, batch: int) -> int | Tensor:
    """`n_codebooks` as one number or a tensor `[B]`.

    Raises:
        UsageError: out of range, or not one per row.
    """
    if value is None:
        return most
    one = _integer(value)
    numbers = [_integer(n) for n in value] if one is None and isinstance(value, Iterable) else [one]
    if any(n is None or not 1 <= n <= most for n in numbers):
        raise UsageError(f"n_codebooks is {value!r}, the model has 1 to {most}")
    if one is not None:
        return one
    if len(numbers) != batch:
        raise UsageError(f"n_codebooks for {len(numbers)} rows, there are {batch}")
    return torch.tensor(numbers, device="cpu")


def _integer(value: object) -> int | None:
    """`value` where it is an integer of any type, numpy's too; None otherwise."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def active_mask(active: Array | None, batch: int) -> Tensor:
    """Which rows take part, bool `[B]`: all where None.

    Raises:
        UsageError: another type or shape.
    """
    if active is None:
        return torch.ones(batch, dtype=torch.bool, device="cpu")
    mask = active if isinstance(active, Tensor) else torch.as_tensor(active, device="cpu")
    if mask.dtype != torch.bool or mask.shape != (batch,):
        raise UsageError(f"active is {mask.dtype} {tuple(mask.shape)}, need bool [{batch}]")
    return mask
