"""The torch executor: any device, any batch, time-major.

A streaming convolution is a matrix product over contiguous windows, so one hop costs a handful of operations per layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .executor import Depths, State, deepest
from .nn.long_term import TAPS, choose_lags
from .ops import ConvOp, JoinOp, LongTermOp, MemoryOp, Op, SnakeOp, SplitOp, TanhOp, TransposeOp
from .plan import Plan, Prediction, Quantizer

_BLOCK_SAMPLES = 1 << 15  # PCM samples (all rows) run through the network at once: bounds memory, keeps work in cache


class TorchExecutor:
    """Runs a plan with torch operations.

    Args:
        plan: what `build_plan` gives.
        device: any torch device.
    """

    name = "torch"

    def __init__(self, plan: Plan, device: torch.device | str = "cpu") -> None:
        self.plan = plan
        self.device = torch.device(device)
        self._encoder = [_compiled(op, self.device) for op in plan.encoder.ops]
        self._decoder = [_compiled(op, self.device) for op in plan.decoder.ops]
        self._quantizer = _quantizer_to(plan.quantizer, self.device)

    def fresh_encoder(self, batch: int) -> State:
        """State of `batch` encoders before their first sample."""
        return State.fresh(self.plan.encoder, batch, self.device)

    def fresh_decoder(self, batch: int) -> State:
        """State of `batch` decoders before their first frame."""
        return State.fresh(self.plan.decoder, batch, self.device)

    @torch.inference_mode()
    def encode(self, state: State, audio: Tensor, depths: Depths, *, last: bool, most: int | None = None) -> Tensor:
        """See `Executor.encode`."""
        most = deepest(depths) if most is None else most
        hop = self.plan.config.hop_length
        block = max(1, _BLOCK_SAMPLES // (hop * audio.shape[0])) * hop
        parts = []
        made = 0
        for start in range(0, max(audio.shape[1], 1), block):
            final = last and start + block >= audio.shape[1]
            z = _run(self._encoder, state, audio[:, start : start + block], final)
            parts.append(search(self._quantizer, z, _of_frames(depths, made, z.shape[1]), most, memory=state.buffers))
            made += z.shape[1]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @torch.inference_mode()
    def decode(self, state: State, codes: Tensor, *, last: bool) -> Tensor:
        """See `Executor.decode`."""
        block = max(1, _BLOCK_SAMPLES // (self.plan.config.hop_length * codes.shape[0]))
        parts = []
        for start in range(0, max(codes.shape[1], 1), block):
            final = last and start + block >= codes.shape[1]
            z = lookup(self._quantizer, codes[:, start : start + block], memory=state.buffers)
            parts.append(_run(self._decoder, state, z, final))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def export_state(self, state: State) -> State:
        """See `Executor.export_state`."""
        return State([buffer.cpu().clone() for buffer in state.buffers], list(state.drops))

    def import_state(self, state: State, *, decoder: bool) -> State:
        """See `Executor.import_state`; it is the same for both parts."""
        buffers = [buffer.to(self.device, torch.float32, copy=True) for buffer in state.buffers]
        return State(buffers, list(state.drops))


def _of_frames(depths: Depths, start: int, count: int) -> Depths:
    return depths if isinstance(depths, int) or depths.dim() == 1 else depths[:, start : start + count]


def search(quantizer: Quantizer, z: Tensor, depths: Depths, most: int, *, memory: list[Tensor]) -> Tensor:
    """Latents `[B, F, D]` to codes `[B, F, most]`, -1 beyond the `depths`.

    Where the quantiser predicts, the last of `memory` is what it predicts from, and goes on.
    """
    batch, frames, _ = z.shape
    unused = None
    if not isinstance(depths, int):
        each = depths.to(z.device)[:, None, None] if depths.dim() == 1 else depths.to(z.device)[:, :, None]
        unused = (torch.arange(most, device=z.device) >= each).expand(batch, frames, most)
    left = (z @ quantizer.in_weight).add_(quantizer.in_bias)
    if quantizer.prediction is None:
        codes, _ = _search(quantizer, left.view(batch * frames, left.shape[2]), range(most))
        codes = codes.view(batch, frames, most)
    else:
        codes = _search_on(quantizer, quantizer.prediction, left, unused, most, memory)
    return codes if unused is None else codes.masked_fill_(unused, -1)


def _search_on(
    quantizer: Quantizer, prediction: Prediction, left: Tensor, unused: Tensor | None, most: int, memory: list[Tensor]
) -> Tensor:
    """The first codebooks frame by frame, as each says what the next is coded against; then the others of all together."""
    batch, frames, _ = left.shape
    before = _Before(prediction, memory)
    coarse = min(most, prediction.codebooks)
    first, rest = [], []
    for frame in range(frames):
        expected = before.expected()
        now, after = _search(quantizer, left[:, frame] - expected @ quantizer.in_weight, range(coarse))
        first.append(now)
        rest.append(after)
        said = now if unused is None else now.masked_fill(unused[:, frame, :coarse], -1)
        before.came(expected + _added(quantizer, said))
    before.keep(memory)
    if not frames:
        return left.new_zeros(batch, 0, most, dtype=torch.int64)
    fine, _ = _search(quantizer, torch.stack(rest, dim=1).flatten(0, 1), range(coarse, most))
    return torch.cat([torch.stack(first, dim=1), fine.view(batch, frames, most - coarse)], dim=2)


class _Before:
    """The latents that a prediction is made from, side by side `[B, FRAMES * D]`."""

    def __init__(self, prediction: Prediction, memory: list[Tensor]) -> None:
        self._prediction = prediction
        self._told = memory[-1].flatten(1).to(prediction.first_weight)

    def expected(self) -> Tensor:
        """The next ones `[B, D]`."""
        p = self._prediction
        hidden = torch.addmm(p.first_bias, self._told, p.first_weight).relu_()
        hidden = torch.addmm(p.second_bias, hidden, p.second_weight).relu_()
        return torch.addmm(p.last_bias, torch.cat([self._told, hidden], dim=1), p.last_weight)

    def came(self, latent: Tensor) -> None:
        """The next ones, as far as the first codebooks say."""
        self._told = torch.cat([latent, self._told[:, : -latent.shape[1]]], dim=1)

    def keep(self, memory: list[Tensor]) -> None:
        """For the next push."""
        memory[-1] = self._told.view_as(memory[-1])


def _search(quantizer: Quantizer, left: Tensor, codebooks: range) -> tuple[Tensor, Tensor]:
    """Projections `[N, ...]` from the first of `codebooks` on -> their codes `[N, K]`, and what is left of the others."""
    d = quantizer.rows.shape[2]
    chosen = [left.new_zeros(left.shape[0], 0, dtype=torch.int64)]
    for k in codebooks:
        index = (left[:, :d] @ quantizer.directions[k]).argmax(dim=1, keepdim=True)
        chosen.append(index)
        rows = quantizer.rows[k].index_select(0, index[:, 0])
        left = torch.addmm(left[:, d:], rows, quantizer.cross[k], alpha=-1)
    return torch.cat(chosen, dim=1), left


def lookup(quantizer: Quantizer, codes: Tensor, *, memory: list[Tensor]) -> Tensor:
    """Codes `[B, F, K]`, -1 where unused, to latents `[B, F, D]`; for `memory` see `search`."""
    batch, frames, depth = codes.shape
    latent = quantizer.out_weight.shape[1]
    z = _added(quantizer, codes.reshape(batch * frames, depth)).view(batch, frames, latent)
    if quantizer.prediction is None:
        return z
    first = codes[:, :, : quantizer.prediction.codebooks]
    said = _added(quantizer, first.reshape(batch * frames, first.shape[2])).view(batch, frames, latent)
    before = _Before(quantizer.prediction, memory)
    for frame in range(frames):
        expected = before.expected()
        z[:, frame] += expected
        before.came(expected + said[:, frame])
    before.keep(memory)
    return z


def _added(quantizer: Quantizer, codes: Tensor) -> Tensor:
    """What codes `[N, K]`, -1 where unused, say `[N, D]`."""
    count, depth = codes.shape
    used = codes >= 0
    flat = (codes.clamp(min=0) + torch.arange(depth, device=codes.device) * quantizer.codebook_size).reshape(-1)
    d = quantizer.rows.shape[2]
    rows = quantizer.rows.view(-1, d).index_select(0, flat).view(count, depth, d) * used[..., None]
    z = rows.reshape(count, depth * d) @ quantizer.out_weight[: depth * d]
    return z + quantizer.out_bias[used.sum(dim=1)]


def _run(steps: Sequence[_Step], state: State, x: Tensor, last: bool) -> Tensor:
    cursor = _Cursor()
    for step in steps:
        x = step(state, cursor, x, last)
    return x


class _Cursor:
    """Which buffer of the state comes next, and the splits that wait for their join."""

    __slots__ = ("slot", "splits")

    def __init__(self) -> None:
        self.slot = 0
        self.splits: list[int] = []

    def take(self) -> int:
        self.slot += 1
        return self.slot - 1


_Step = Callable[[State, _Cursor, Tensor, bool], Tensor]


def _compiled(op: Op, device: torch.device) -> _Step:
    """One operation as a function, with weights where and how they are used: little Python is left for each hop."""
    match op:
        case ConvOp():
            return _conv(op, device)
        case TransposeOp():
            return _transpose(op, device)
        case SnakeOp():
            return _snake(op, device)
        case SplitOp():
            return _split
        case JoinOp():
            return _join
        case LongTermOp():
            return _long_term(op, device)
        case TanhOp():
            return lambda state, cursor, x, last: torch.tanh(x)
        case MemoryOp():  # beside the signal
            return lambda state, cursor, x, last: x


def _snake(op: SnakeOp, device: torch.device) -> _Step:
    alpha, inverse = op.alpha.to(device), op.inverse.to(device)
    return lambda state, cursor, x, last: torch.addcmul(x, (x * alpha).sin_().square_(), inverse)


def _conv(op: ConvOp, device: torch.device) -> _Step:
    g = op.geometry
    k, c_in, c_out = op.weight.shape
    weight = op.weight.reshape(k * c_in, c_out).to(device)
    bias = op.bias.to(device)
    across, along = g.stride * c_in, g.dilation * c_in

    def step(state: State, cursor: _Cursor, x: Tensor, last: bool) -> Tensor:
        slot = cursor.take()
        if last and g.right:
            x = torch.cat([x, x.new_zeros(x.shape[0], g.right, c_in)], dim=1)
        kept = state.buffers[slot]
        if kept.shape[1]:
            x = torch.cat([kept, x], dim=1)
        batch, samples, _ = x.shape
        outputs = max(0, (samples - g.window) // g.stride + 1)
        state.buffers[slot] = x[:, outputs * g.stride :]
        if not outputs:
            return x.new_zeros(batch, 0, c_out)
        x = x.contiguous()
        if batch == 1 and g.dilation == 1:  # windows overlap: a view of the buffer is enough
            windows = x.as_strided((outputs, k * c_in), (across, 1))
        else:
            windows = x.as_strided((batch, outputs, k, c_in), (samples * c_in, across, along, 1))
            windows = windows.reshape(batch * outputs, k * c_in)
        return torch.addmm(bias, windows, weight).view(batch, outputs, c_out)

    return step


def _transpose(op: TransposeOp, device: torch.device) -> _Step:
    g = op.geometry
    c_in, width = op.weight.shape[1:]
    weight = op.weight.reshape(2 * c_in, width).to(device)
    bias = op.bias.to(device)

    def step(state: State, cursor: _Cursor, x: Tensor, last: bool) -> Tensor:
        slot = cursor.take()
        parts = [state.buffers[slot], x]
        if last:
            parts.append(x.new_zeros(x.shape[0], 1, c_in))
        x = torch.cat(parts, dim=1)
        batch, frames = x.shape[0], x.shape[1] - 1
        state.buffers[slot] = x[:, frames:]
        if not frames:
            return x.new_zeros(batch, 0, width // g.stride)
        windows = x.as_strided((batch, frames, 2 * c_in), ((frames + 1) * c_in, c_in, 1))
        windows = windows.reshape(batch * frames, 2 * c_in)
        y = torch.addmm(bias, windows, weight).view(batch, frames * g.stride, width // g.stride)
        dropped = min(state.drops[slot], y.shape[1])
        state.drops[slot] -= dropped
        if last:
            return y[:, dropped : max(dropped, y.shape[1] - g.trim_right)]
        return y[:, dropped:] if dropped else y

    return step


def _long_term(op: LongTermOp, device: torch.device) -> _Step:
    g = op.geometry
    own, past = op.own.to(device), op.past.to(device)
    low_pass, fade = g.low_pass.to(own)[None, None], g.fade.to(own)
    exact = device_of_doubles(device)

    def kernels(frames: Tensor) -> Tensor:
        """Smoothed `[N, window + most]` up to the end of a block -> its filter, last tap first `[N, reach + 1]`."""
        product = _correlated(frames, frames[:, g.most :])  # longest lag first, the last is 0
        energy = torch.nn.functional.pad(frames.to(exact).double().square().cumsum(1), (1, 0))
        energy = (energy[:, g.window :] - energy[:, : -g.window]).float().to(frames)
        weights, shares = choose_lags(product[:, : g.lags], energy[:, : g.lags], energy[:, -1:])
        around = _correlated(torch.nn.functional.pad(weights, (TAPS - 1, TAPS - 1)), shares @ past)
        around = torch.nn.functional.pad(around, (0, g.reach + 1 - around.shape[1]))
        around[:, -TAPS:] += (shares @ own).flip(1)
        return around

    def step(state: State, cursor: _Cursor, x: Tensor, last: bool) -> Tensor:
        slot = cursor.take()
        x = torch.cat([state.buffers[slot], x], dim=1)
        batch = x.shape[0]
        blocks = (x.shape[1] - g.left) // g.block
        state.buffers[slot] = x[:, blocks * g.block :]
        if not blocks:
            return x[:, :0]
        x = x[:, : g.left + blocks * g.block, 0]
        smooth = torch.nn.functional.conv1d(x[:, None], low_pass)[:, 0]
        frames = smooth.unfold(1, g.window + g.most, g.block)  # of the block before the first, too
        filters = kernels(frames.reshape(-1, g.window + g.most)).view(batch, blocks + 1, g.reach + 1)
        spans = x[:, g.left - g.reach :].unfold(1, g.reach + g.block, g.block).reshape(batch * blocks, -1)
        falling = _correlated(spans, filters[:, :-1].reshape(batch * blocks, -1))
        rising = _correlated(spans, filters[:, 1:].reshape(batch * blocks, -1))
        change = rising * fade + falling * (1 - fade)
        return (x[:, g.left :] + change.view(batch, -1))[:, :, None]

    return step


def device_of_doubles(device: torch.device) -> torch.device:
    """Where to sum in float64 what is on `device`: Apple's GPUs have no such numbers."""
    return torch.device("cpu") if device.type == "mps" else device


def _correlated(x: Tensor, taps: Tensor) -> Tensor:
    """Row by row, sums of x[n + k] taps[k]: `[N, T]`, `[N, K]` -> `[N, T - K + 1]`."""
    return torch.nn.functional.conv1d(x[None], taps[:, None], groups=x.shape[0])[0]


def _split(state: State, cursor: _Cursor, x: Tensor, last: bool) -> Tensor:
    slot = cursor.take()
    cursor.splits.append(slot)
    kept, skip = state.buffers[slot], x
    if state.drops[slot]:
        dropped = min(state.drops[slot], x.shape[1])
        state.drops[slot] -= dropped
        skip = x[:, dropped:]
    state.buffers[slot] = torch.cat([kept, skip], dim=1) if kept.shape[1] else skip
    return x


def _join(state: State, cursor: _Cursor, x: Tensor, last: bool) -> Tensor:
    slot = cursor.splits.pop()
    kept, samples = state.buffers[slot], x.shape[1]
    if kept.shape[1] == samples:
        state.buffers[slot] = kept[:, samples:]
        return x + kept
    state.buffers[slot] = kept[:, samples:]
    return x + kept[:, :samples]


def _quantizer_to(quantizer: Quantizer, device: torch.device) -> Quantizer:
    prediction = quantizer.prediction
    if prediction is not None:
        moved: dict[str, Any] = {
            name: part.to(device) for name, part in vars(prediction).items() if isinstance(part, Tensor)
        }
        prediction = dataclasses.replace(prediction, **moved)
    return Quantizer(
        quantizer.in_weight.to(device),
        quantizer.in_bias.to(device),
        quantizer.directions.to(device),
        quantizer.rows.to(device),
        tuple(matrix.to(device) for matrix in quantizer.cross),
        quantizer.out_weight.to(device),
        quantizer.out_bias.to(device),
        prediction,
    )
