"""A network flattened once into lists of windowed operations: what every executor runs.

Weights are folded (weight norm multiplied out, in float32) and laid out time-major.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .nn.layers import (
    SNAKE_EPS,
    Conv,
    ConvTranspose,
    ResidualUnit,
    Snake,
    fold_weight_norm,
    weight_norm_factors,
)
from .nn.long_term import TAP_SCALE, LongTermFilter
from .nn.network import DAC
from .nn.prediction import FRAMES, Predictor
from .nn.quantizer import ResidualQuantizer, VectorQuantizer
from .ops import ConvOp, Halves, JoinOp, LongTermOp, MemoryOp, Op, Part, SnakeOp, SplitOp, TanhOp, TransposeOp

_UNITY = 2.0**-20  # as far from 1 as the rounding of a norm may bring a factor
_UNHEARD = 2.0**-25  # smaller numbers are zero in half precision


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the next latent is expected to be (`streamdac.nn.prediction`): two hidden layers, rectified, beside a linear map."""

    first_weight: Tensor
    """`[FRAMES * D, H]`, of the newest frame first."""
    first_bias: Tensor
    second_weight: Tensor
    """`[H, H]`."""
    second_bias: Tensor
    last_weight: Tensor
    """`[FRAMES * D + H, D]`: of the frames themselves, then of the second hidden layer."""
    last_bias: Tensor
    codebooks: int
    """The first ones: what they say is remembered."""


@dataclass(frozen=True, eq=False)
class Quantizer:
    """Codebook search and lookup, folded so that a search needs the latent once.

    A code's residual is never formed: every projection is taken of the latent at once, and each chosen row takes its share
    off the projections still to come.
    """

    in_weight: Tensor
    """`[D, K * d]`: every projection beside the other."""
    in_bias: Tensor
    """`[K * d]`: less what the output biases of earlier codebooks add."""
    directions: Tensor
    """`[K, d, size]`: codebook rows, L2-normalised, for the search."""
    rows: Tensor
    """`[K, size, d]`: codebook rows as they are, for the lookup."""
    cross: tuple[Tensor, ...]
    """Per codebook `[d, (K - 1 - k) * d]`: what one row takes off the later projections."""
    out_weight: Tensor
    """`[K * d, D]`."""
    out_bias: Tensor
    """`[K + 1, D]`: sum of the output biases of the first k codebooks."""
    prediction: Prediction | None = None
    """Where there is one, codes say what it did not foresee."""

    @property
    def n_codebooks(self) -> int:
        """Codebooks in all."""
        return self.rows.shape[0]

    @property
    def codebook_size(self) -> int:
        """Entries per codebook."""
        return self.rows.shape[1]


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything an executor needs to turn PCM into codes and codes into PCM."""

    config: ModelConfig
    encoder: Part
    quantizer: Quantizer
    decoder: Part
    fingerprint: bytes
    """32 bytes: streams of models with the same one are interchangeable."""

    @cached_property
    def encoder_lookahead(self) -> int:
        """Samples past the end of its hop that a code needs."""
        return self.encoder.needed(1) - self.config.hop_length

    @cached_property
    def decoder_lookahead(self) -> int:
        """Samples by which decoded audio lags behind the end of the newest frame, once the stream runs."""
        frames = 1_000  # enough that every left edge is past
        return frames * self.config.hop_length - self.decoder.ready(frames)

    @cached_property
    def decoder_context(self) -> int:
        """Frames before its own that audio depends on: after so many, a decoder that joined a running stream is exact.

        With a predictor it comes ever closer instead, and never is.
        """
        return -self.decoder.first_seen(0)

    @cached_property
    def lookahead(self) -> int:
        """Samples that a round trip waits for beyond the hop itself; 0 for a causal model."""
        return self.encoder_lookahead + self.decoder_lookahead


def build_plan(network: DAC, *, padded: bool = True) -> Plan:
    """Flatten `network`, with its own padding or (as in the official tool's chunks) without any, and without long-term filter."""
    encoder = _flatten(network.encoder.block, padded)
    decoder = _flatten(network.decoder.model, padded)
    if padded and network.decoder.long_term is not None:
        decoder.append(_long_term_op(network.decoder.long_term))
    config = network.config
    if config.predictor_dim:  # both ends remember what the codes have said
        encoder.append(MemoryOp(FRAMES, config.latent_dim))
        decoder.append(MemoryOp(FRAMES, config.latent_dim))
    return Plan(
        config=config,
        encoder=Part(tuple(encoder), 1, config.latent_dim),
        quantizer=fold_quantizer(network.quantizer),
        decoder=Part(tuple(decoder), config.latent_dim, 1),
        fingerprint=fingerprint(network),
    )


def fingerprint(network: DAC) -> bytes:
    """SHA-256 over what gives codes their meaning: geometry and the quantiser's tensors as float32."""
    config = network.config
    names = ["sample_rate", "hop_length", "latent_dim", "n_codebooks", "codebook_size", "codebook_dim"]
    if config.predictor_dim:
        names.append("predictor_codebooks")
    digest = hashlib.sha256(json.dumps({name: getattr(config, name) for name in names}, sort_keys=True).encode())
    for name, tensor in sorted(network.quantizer.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().float().cpu().contiguous().numpy().astype("<f4").tobytes())
    return digest.digest()


def _flatten(layers: nn.Module, padded: bool) -> list[Op]:
    ops: list[Op] = []
    for layer in layers.children():
        match layer:
            case Conv():
                ops.append(_conv_op(layer, padded))
            case ConvTranspose():
                ops.append(_transpose_op(layer, padded))
            case Snake():
                alpha = _folded(layer.alpha).flatten()
                ops.append(SnakeOp(alpha, 1 / (alpha + SNAKE_EPS)))
            case nn.Tanh():
                ops.append(TanhOp())
            case ResidualUnit():
                body = _flatten(layer.block, padded)
                convs = [op.geometry for op in body if isinstance(op, ConvOp)]
                lost = sum(g.window - 1 - g.left - g.right for g in convs)
                ops += [SplitOp(layer.channels, lost // 2), *body, JoinOp()]
            case _:  # a block: its layers in order
                ops += _flatten(layer, padded)
    return ops


def _folded(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()


def _conv_op(layer: Conv, padded: bool) -> ConvOp:
    v, g = _folded(layer.weight_v), _folded(layer.weight_g)
    geometry = layer.geometry if padded else layer.geometry.unpadded()
    numbers = _as_halves(v)
    halves = None if numbers is None else Halves(_taps_first(numbers), weight_norm_factors(v, g).flatten())
    return ConvOp(geometry, _taps_first(fold_weight_norm(v, g)), _folded(layer.bias).clone(), halves)


def _transpose_op(layer: ConvTranspose, padded: bool) -> TransposeOp:
    v, g = _folded(layer.weight_v), _folded(layer.weight_g)  # [C_in, C_out, 2 * stride]
    geometry = layer.geometry if padded else layer.geometry.unpadded()
    bias = _folded(layer.bias).repeat(geometry.stride)
    weight = fold_weight_norm(v, g)
    # These factors are of inputs: only where there are none in effect, halves will do.
    unheard = weight.abs().amax((1, 2), keepdim=True) <= _UNHEARD
    near = (weight_norm_factors(v.double(), g.double()) - 1).abs() <= _UNITY
    numbers = _as_halves(v.masked_fill(unheard, 0.0)) if bool((near | unheard).all()) else None
    halves = None if numbers is None else Halves(_window(numbers, geometry.stride), torch.ones_like(bias))
    return TransposeOp(geometry, _window(weight, geometry.stride), bias, halves)


def _as_halves(weight: Tensor) -> Tensor | None:
    """`weight` in half precision; None where that would change it."""
    halves = weight.half()
    return halves if torch.equal(halves.float(), weight) else None


def _taps_first(weight: Tensor) -> Tensor:
    return weight.permute(2, 1, 0).contiguous()


def _window(weight: Tensor, stride: int) -> Tensor:
    """`[C_in, C_out, 2 * stride]` -> `[2, C_in, stride * C_out]`."""
    c_in, c_out, _ = weight.shape
    current, before = weight.permute(0, 2, 1).split(stride, dim=1)  # [C_in, stride, C_out] each
    return torch.stack([before, current]).reshape(2, c_in, stride * c_out).contiguous()


def _long_term_op(layer: LongTermFilter) -> LongTermOp:
    return LongTermOp(layer.geometry, TAP_SCALE * _folded(layer.own), TAP_SCALE * _folded(layer.past))


def fold_quantizer(quantizer: ResidualQuantizer) -> Quantizer:
    """Projections multiplied into each other in float64, kept in float32."""
    parts = [part for part in quantizer.quantizers if isinstance(part, VectorQuantizer)]
    w_in, b_in = _projections([part.in_proj for part in parts])  # [K][D, d], [K][d]
    w_out, b_out = _projections([part.out_proj for part in parts])  # [K][d, D], [K][D]
    rows = torch.stack([_folded(part.codebook.weight) for part in parts])
    cumulative = torch.cat([torch.zeros_like(b_out[:1]), b_out.cumsum(0)])
    bias = [b_in[k] - cumulative[k] @ w_in[k] for k in range(len(parts))]
    cross = [_beside([w_out[j] @ w_in[k] for k in range(j + 1, len(parts))], rows.shape[2]) for j in range(len(parts))]
    return Quantizer(
        in_weight=torch.cat(list(w_in), dim=1).float().contiguous(),
        in_bias=torch.cat(bias).float(),
        directions=nn.functional.normalize(rows, dim=-1).transpose(1, 2).contiguous(),
        rows=rows.contiguous(),
        cross=tuple(matrix.float().contiguous() for matrix in cross),
        out_weight=torch.cat(list(w_out)).float().contiguous(),
        out_bias=cumulative.float(),
        prediction=_prediction(quantizer.predictor, quantizer.predictor_codebooks) if quantizer.predictor else None,
    )


def _prediction(predictor: Predictor, codebooks: int) -> Prediction:
    return Prediction(
        first_weight=_folded(predictor.first.weight).t().contiguous(),
        first_bias=_folded(predictor.first.bias).clone(),
        second_weight=_folded(predictor.second.weight).t().contiguous(),
        second_bias=_folded(predictor.second.bias).clone(),
        last_weight=torch.cat([_folded(predictor.linear.weight).t(), _folded(predictor.last.weight).t()]).contiguous(),
        last_bias=_folded(predictor.last.bias).clone(),
        codebooks=codebooks,
    )


def _beside(matrices: Sequence[Tensor], d: int) -> Tensor:
    return torch.cat(list(matrices), dim=1) if matrices else torch.zeros(d, 0, dtype=torch.float64)


def _projections(convs: Sequence[Conv]) -> tuple[Tensor, Tensor]:
    """Kernel-1 convolutions as stacked matrices `[K, C_in, C_out]` and biases `[K, C_out]`, in float64."""
    weights = [fold_weight_norm(_folded(conv.weight_v), _folded(conv.weight_g))[:, :, 0].t() for conv in convs]
    return torch.stack(weights).double(), torch.stack([_folded(conv.bias) for conv in convs]).double()
