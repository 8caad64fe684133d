"""The native executor: one C++ call per push, on the CPU.

Results are bit-identical for any chunking, any number of streams and threads, on one instruction set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import native
from .errors import UsageError
from .executor import Depths, State, deepest
from .nn.long_term import FLOOR, KNOTS, SHARPNESS
from .ops import ConvOp, JoinOp, LongTermOp, MemoryOp, Op, Part, SnakeOp, SplitOp, TanhOp, TransposeOp
from .plan import Plan, Prediction, Quantizer


class NativeState:
    """Where streams in step stand, inside the kernels' own memory; `rows`, `put_rows` and `copy` as `State` has them."""

    __slots__ = ("batch", "part", "streams")

    def __init__(self, part: Part, streams: Any, batch: int) -> None:
        self.part = part
        self.streams = streams
        self.batch = batch

    def copy(self) -> NativeState:
        """An independent copy."""
        return self.rows(torch.arange(self.batch, device="cpu"))

    def rows(self, index: Tensor) -> NativeState:
        """The state of some rows; a copy."""
        rows = _integers(index)
        return NativeState(self.part, self.streams.rows(rows), len(rows))

    def put_rows(self, index: Tensor, part: NativeState) -> None:
        """Write back what `rows` gave, run on by whole hops."""
        self.streams.put_rows(_integers(index), part.streams)


class NativeExecutor:
    """Runs a plan with the compiled kernels.

    Args:
        plan: what `build_plan` gives.
        threads: how many may work on one push.
        isa: an instruction set of `native.instruction_sets()`; the widest where None.

    Raises:
        UnavailableError: the kernels are not built.
        ValueError: the plan's shapes disagree.
    """

    name = "native"

    def __init__(self, plan: Plan, threads: int = 1, *, isa: str | None = None) -> None:
        self.plan = plan
        self.threads = threads
        self.device = torch.device("cpu")
        config = plan.config
        self._hop = config.hop_length
        parts = [_operations(plan.encoder), _quantizer(plan.quantizer), _operations(plan.decoder)]
        self._codec = native.kernels().Codec(*parts, config.latent_dim, config.hop_length, threads, isa)

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return str(self._codec.isa)

    @property
    def reads_halves(self) -> bool:
        """Whether weights that half precision holds are kept and read so."""
        return bool(self._codec.reads_halves)

    def fresh_encoder(self, batch: int) -> NativeState:
        """State of `batch` encoders before their first sample."""
        return NativeState(self.plan.encoder, self._codec.streams(False, batch), batch)

    def fresh_decoder(self, batch: int) -> NativeState:
        """State of `batch` decoders before their first frame."""
        return NativeState(self.plan.decoder, self._codec.streams(True, batch), batch)

    def encode(
        self, state: NativeState, audio: Tensor, depths: Depths, *, last: bool, most: int | None = None
    ) -> Tensor:
        """See `Executor.encode`."""
        samples = _array(audio, np.float32)
        if samples.ndim != 3 or samples.shape[2] != 1:
            raise UsageError(f"audio has shape {list(audio.shape)}, need [{state.batch}, T, 1]")
        return torch.from_numpy(
            self.encode_array(state, samples.reshape(samples.shape[:2]), depths, last=last, most=most)
        )

    def encode_array(
        self, state: Any, audio: NDArray[np.float32], depths: Depths, *, last: bool, most: int | None = None
    ) -> NDArray[np.int64]:
        """`encode` without tensors: contiguous audio `[B, T]` -> codes `[B, F, K]`."""
        each = None if isinstance(depths, int) else _integers(depths[:, None] if depths.dim() == 1 else depths)
        frames = self._codec.ready(state.streams, audio.shape[1], last)
        codes = np.empty((state.batch, frames, deepest(depths) if most is None else most), np.int64)
        self._codec.encode(state.streams, audio, each, codes, last)
        return codes

    def decode(self, state: NativeState, codes: Tensor, *, last: bool) -> Tensor:
        """See `Executor.decode`."""
        rows = _array(codes, np.int64)
        if rows.ndim != 3:
            raise UsageError(f"codes have shape {list(codes.shape)}, need [{state.batch}, F, K]")
        return torch.from_numpy(self.decode_array(state, rows, last=last))[:, :, None]

    def decode_array(self, state: Any, codes: NDArray[np.int64], *, last: bool) -> NDArray[np.float32]:
        """`decode` without tensors: contiguous codes `[B, F, K]` -> audio `[B, T]`."""
        audio = np.empty((state.batch, self._codec.ready(state.streams, codes.shape[1], last)), np.float32)
        self._codec.decode(state.streams, codes, audio, last)
        return audio

    def export_state(self, state: NativeState) -> State:
        """The same state as plain tensors, which every executor can import."""
        buffers, drops = [], []
        for slot, (kept, channels, drop) in enumerate(state.streams.slots()):
            buffer = np.empty((state.batch, kept, channels), dtype=np.float32)
            state.streams.read(slot, buffer)
            buffers.append(torch.from_numpy(buffer))
            drops.append(drop)
        return State(buffers, drops)

    def import_state(self, state: State, *, decoder: bool) -> NativeState:
        """What `export_state` gave, here or of another executor; `decoder` says of which part it is.

        Raises:
            ValueError: it is not a state of this plan's part.
        """
        batch = state.buffers[0].shape[0]
        made = self.fresh_decoder(batch) if decoder else self.fresh_encoder(batch)
        slots = len(made.streams.slots())
        if len(state.buffers) != slots or len(state.drops) != slots:
            raise UsageError(f"the state has {len(state.buffers)} buffers and {len(state.drops)} counts, need {slots}")
        for slot, (buffer, drop) in enumerate(zip(state.buffers, state.drops, strict=True)):
            made.streams.write(slot, drop, _array(buffer, np.float32))
        self._codec.ready(made.streams, 0, False)  # a skip path that lacks samples is noticed here
        return made


def _array(tensor: Tensor, dtype: type[np.generic]) -> Any:
    return np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=dtype)


def _integers(tensor: Tensor) -> Any:
    return _array(tensor, np.int64)


def _floats(tensor: Tensor) -> Any:
    return _array(tensor, np.float32)


def _weight(op: ConvOp | TransposeOp) -> tuple[Any, Any]:
    """float32 and None, or float16 and its factors."""
    if op.halves is None:
        return _floats(op.weight), None
    return _array(op.halves.numbers, np.float16), _floats(op.halves.factors)


def _operation(op: Op) -> tuple[Any, ...]:
    match op:
        case ConvOp(g, bias=bias):
            return "conv", g.kernel, g.dilation, g.stride, g.left, g.right, *_weight(op), _floats(bias)
        case TransposeOp(g, bias=bias):
            return "transpose", g.stride, g.trim_left, g.trim_right, *_weight(op), _floats(bias)
        case SnakeOp(alpha, inverse):
            return "snake", _floats(alpha), _floats(inverse)
        case SplitOp(channels, crop):
            return "split", channels, crop
        case JoinOp():
            return ("join",)
        case TanhOp():
            return ("tanh",)
        case MemoryOp(frames, channels):
            return "memory", frames, channels
        case LongTermOp(g, own, past):
            sizes, knots = (g.block, g.window, g.least, g.most), torch.tensor(KNOTS)
            rest = (g.low_pass, knots, own, past)
            return "long_term", *sizes, SHARPNESS, FLOOR, *(_floats(values) for values in rest)


def _operations(part: Part) -> list[tuple[Any, ...]]:
    return [_operation(op) for op in part.ops]


def _quantizer(q: Quantizer) -> tuple[Any, ...]:
    cross = tuple(_floats(matrix) for matrix in q.cross)
    return (
        _floats(q.in_weight),
        _floats(q.in_bias),
        _floats(q.directions),
        _floats(q.rows),
        cross,
        _floats(q.out_weight),
        _floats(q.out_bias),
        None if q.prediction is None else _prediction(q.prediction),
    )


def _prediction(p: Prediction) -> tuple[Any, ...]:
    layers = (p.first_weight, p.first_bias, p.second_weight, p.second_bias, p.last_weight, p.last_bias)
    return p.codebooks, *(_floats(tensor) for tensor in layers)
