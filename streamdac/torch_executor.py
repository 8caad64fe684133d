"""The torch executor: any device, any batch, time-major.

A streaming convolution is a matrix product over contiguous windows, so one hop costs a handful of operations per layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .executor import State
from .plan import ConvOp, JoinOp, Op, Part, Plan, Quantizer, SnakeOp, SplitOp, TanhOp, TransposeOp

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
        self._encoder = _to_device(plan.encoder, self.device)
        self._decoder = _to_device(plan.decoder, self.device)
        self._quantizer = _quantizer_to(plan.quantizer, self.device)

    def fresh_encoder(self, batch: int) -> State:
        """State of `batch` encoders before their first sample."""
        return State.fresh(self.plan.encoder, batch, self.device)

    def fresh_decoder(self, batch: int) -> State:
        """State of `batch` decoders before their first frame."""
        return State.fresh(self.plan.decoder, batch, self.device)

    @torch.inference_mode()
    def encode(self, state: State, audio: Tensor, depths: Tensor | int, *, last: bool) -> Tensor:
        """See `Executor.encode`."""
        hop = self.plan.config.hop_length
        block = max(1, _BLOCK_SAMPLES // (hop * audio.shape[0])) * hop
        parts = []
        for start in range(0, max(audio.shape[1], 1), block):
            final = last and start + block >= audio.shape[1]
            z = _run(self._encoder, state, audio[:, start : start + block], final)
            parts.append(search(self._quantizer, z, depths))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @torch.inference_mode()
    def decode(self, state: State, codes: Tensor, *, last: bool) -> Tensor:
        """See `Executor.decode`."""
        block = max(1, _BLOCK_SAMPLES // (self.plan.config.hop_length * codes.shape[0]))
        parts = []
        for start in range(0, max(codes.shape[1], 1), block):
            final = last and start + block >= codes.shape[1]
            z = lookup(self._quantizer, codes[:, start : start + block])
            parts.append(_run(self._decoder, state, z, final))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def search(quantizer: Quantizer, z: Tensor, depths: Tensor | int) -> Tensor:
    """Latents `[B, F, D]` to codes `[B, F, K]`: K the deepest of `depths` (one for all or `[B]`), -1 beyond a row's own."""
    batch, frames, _ = z.shape
    deepest = depths if isinstance(depths, int) else int(depths.max())
    codes = torch.empty(batch * frames, deepest, dtype=torch.int64, device=z.device)
    d = quantizer.rows.shape[2]
    left = torch.addmm(quantizer.in_bias, z.reshape(batch * frames, z.shape[2]), quantizer.in_weight)
    for k in range(deepest):
        index = (left[:, :d] @ quantizer.directions[k]).argmax(dim=1)
        codes[:, k] = index
        if k + 1 < deepest:
            left = torch.addmm(left[:, d:], quantizer.rows[k].index_select(0, index), quantizer.cross[k], alpha=-1)
    codes = codes.view(batch, frames, deepest)
    if not isinstance(depths, int):
        codes.masked_fill_(torch.arange(deepest, device=z.device) >= depths.to(z.device)[:, None, None], -1)
    return codes


def lookup(quantizer: Quantizer, codes: Tensor) -> Tensor:
    """Codes `[B, F, K]`, -1 where unused, to latents `[B, F, D]`."""
    batch, frames, depth = codes.shape
    used = codes >= 0
    flat = (codes.clamp(min=0) + torch.arange(depth, device=codes.device) * quantizer.codebook_size).reshape(-1)
    rows = quantizer.rows.view(-1, quantizer.rows.shape[2]).index_select(0, flat).view(batch * frames, depth, quantizer.rows.shape[2])
    rows = rows * used.reshape(batch * frames, depth, 1)
    z = rows.reshape(batch * frames, depth * rows.shape[2]) @ quantizer.out_weight[: depth * rows.shape[2]]
    z += quantizer.out_bias.index_select(0, used.sum(dim=2).reshape(-1))
    return z.view(batch, frames, z.shape[1])


def _run(part: Part, state: State, x: Tensor, last: bool) -> Tensor:
    slot = 0
    splits: list[int] = []
    for op in part.ops:
        match op:
            case ConvOp():
                x = _conv(op, state, slot, x, last)
                slot += 1
            case SnakeOp():
                x = torch.addcmul(x, torch.sin(x * op.alpha).square_(), op.inverse)
            case SplitOp():
                _split(state, slot, x)
                splits.append(slot)
                slot += 1
            case JoinOp():
                x = _join(state, splits.pop(), x)
            case TransposeOp():
                x = _transpose(op, state, slot, x, last)
                slot += 1
            case TanhOp():
                x = torch.tanh(x)
    return x


def _conv(op: ConvOp, state: State, slot: int, x: Tensor, last: bool) -> Tensor:
    g = op.geometry
    k, c_in, c_out = op.weight.shape
    if last and g.right:
        x = torch.cat([x, x.new_zeros(x.shape[0], g.right, c_in)], dim=1)
    if state.buffers[slot].shape[1]:
        x = torch.cat([state.buffers[slot], x], dim=1)
    batch, samples, _ = x.shape
    outputs = max(0, (samples - g.window) // g.stride + 1)
    state.buffers[slot] = x[:, outputs * g.stride :]
    if not outputs:
        return x.new_zeros(batch, 0, c_out)
    if k == 1 and g.stride == 1:
        return torch.addmm(op.bias, x.reshape(-1, c_in), op.weight[0]).view(batch, outputs, c_out)
    x = x.contiguous()
    shape, step = (batch, outputs, k, c_in), (x.stride(0), g.stride * c_in, g.dilation * c_in, 1)
    windows = x.as_strided(shape, step).reshape(batch * outputs, k * c_in)
    return torch.addmm(op.bias, windows, op.weight.view(k * c_in, c_out)).view(batch, outputs, c_out)


def _transpose(op: TransposeOp, state: State, slot: int, x: Tensor, last: bool) -> Tensor:
    g = op.geometry
    c_in, width = op.weight.shape[1:]
    if last:
        x = torch.cat([x, x.new_zeros(x.shape[0], 1, c_in)], dim=1)
    x = torch.cat([state.buffers[slot], x], dim=1)
    batch, frames = x.shape[0], x.shape[1] - 1
    state.buffers[slot] = x[:, frames:]
    if not frames:
        return x.new_zeros(batch, 0, width // g.stride)
    windows = x.as_strided((batch, frames, 2 * c_in), (x.stride(0), c_in, 1)).reshape(batch * frames, 2 * c_in)
    y = torch.addmm(op.bias, windows, op.weight.view(2 * c_in, width)).view(batch, frames * g.stride, width // g.stride)
    dropped = min(state.drops[slot], y.shape[1])
    state.drops[slot] -= dropped
    if last:
        return y[:, dropped : max(dropped, y.shape[1] - g.trim_right)]
    return y[:, dropped:] if dropped else y


def _split(state: State, slot: int, x: Tensor) -> None:
    dropped = min(state.drops[slot], x.shape[1])
    state.drops[slot] -= dropped
    x = x[:, dropped:]
    kept = state.buffers[slot]
    state.buffers[slot] = torch.cat([kept, x], dim=1) if kept.shape[1] else x


def _join(state: State, slot: int, x: Tensor) -> Tensor:
    kept = state.buffers[slot]
    state.buffers[slot] = kept[:, x.shape[1] :]
    return x + kept[:, : x.shape[1]]


def _to_device(part: Part, device: torch.device) -> Part:
    def moved(op: Op) -> Op:
        match op:
            case ConvOp():
                return ConvOp(op.geometry, op.weight.to(device), op.bias.to(device))
            case TransposeOp():
                return TransposeOp(op.geometry, op.weight.to(device), op.bias.to(device))
            case SnakeOp():
                return SnakeOp(op.alpha.to(device), op.inverse.to(device))
            case _:
                return op

    return Part(tuple(moved(op) for op in part.ops), part.c_in, part.c_out)


def _quantizer_to(quantizer: Quantizer, device: torch.device) -> Quantizer:
    return Quantizer(
        quantizer.in_weight.to(device),
        quantizer.in_bias.to(device),
        quantizer.directions.to(device),
        quantizer.rows.to(device),
        tuple(matrix.to(device) for matrix in quantizer.cross),
        quantizer.out_weight.to(device),
        quantizer.out_bias.to(device),
    )
