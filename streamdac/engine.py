"""A codec as archives need it: its network with and without padding, from one set of weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from .config import ModelConfig
from .executor import Executor
from .ops import ConvOp, JoinOp, LongTermOp, Op, Part, SplitOp, TransposeOp
from .plan import Plan


class CodecEngine:
    """What `compress` and `decompress` take (`official.Engine`). The executor without padding is made when it is first used.

    Args:
        plan: with the model's own padding.
        executor: runs it.
        make: gives an executor for the plan without padding.
    """

    def __init__(self, plan: Plan, executor: Executor, make: Callable[[Plan], Executor]) -> None:
        self.plan, self.padded, self._make = plan, executor, make

    @property
    def config(self) -> ModelConfig:
        """The model's geometry."""
        return self.plan.config

    @cached_property
    def unpadded(self) -> Executor:
        """The network without any padding or long-term filter: codes one window of official chunked coding."""
        return self._make(unpadded_plan(self.plan))


def unpadded_plan(plan: Plan) -> Plan:
    """`plan` without padding and long-term filter, as `build_plan(network, padded=False)` gives it; the weights are shared."""
    return replace(plan, encoder=_unpadded(plan.encoder), decoder=_unpadded(plan.decoder))


def _unpadded(part: Part) -> Part:
    ops: list[Op] = []
    lost = 0  # samples that the rest of a residual unit takes away
    for op in reversed(part.ops):
        match op:
            case ConvOp():
                lost += op.geometry.window - 1
                ops.append(replace(op, geometry=op.geometry.unpadded()))
            case TransposeOp():
                ops.append(replace(op, geometry=op.geometry.unpadded()))
            case JoinOp():
                lost = 0
                ops.append(op)
            case SplitOp():
                ops.append(replace(op, crop=lost // 2))
            case LongTermOp():  # needs what was before the window
                pass
            case _:
                ops.append(op)
    return replace(part, ops=tuple(reversed(ops)))
