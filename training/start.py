"""Where training starts from: a random network, or one that is a block transform codec already.

From random weights the mel loss is first met by noise of the right colour, and the waveform is hardly learnt for thousands
of steps. The transform start writes a linear path into otherwise random weights: the strided convolutions move the samples
of a hop into channels (where these are fewer, their leading principal components), the last layer keeps the leading components
of a hop, and the decoder goes the same way back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from streamdac.errors import UsageError
from streamdac.nn import DAC
from streamdac.nn.layers import Conv, ConvTranspose, ResidualUnit, Snake
from streamdac.nn.network import DecoderBlock, EncoderBlock

_ALPHA = 0.05  # nearly linear, on the channels of the linear path
_SIZE = 0.3  # of channels once whitened: their deviation
_FAINTEST = 1e-5  # variances are not taken below this, relative to the largest
_LEAST_NORM = 1e-3  # of a weight's longest row
_BRANCH = 0.1  # factor on residual branches at the start


@torch.no_grad()
def quiet_start(network: DAC) -> None:
    """Quiet output and a loud first layer: after 75 steps the mel distance is 3.7 with it, 4.6 without."""
    cast(Conv, network.decoder.model[-2]).weight_g.mul_(0.05)
    cast(Conv, network.encoder.block[0]).weight_g.mul_(4.0)


def _set(layer: Conv | ConvTranspose, weight: Tensor) -> None:
    """`weight` in a layer; where a row of it is (nearly) zero, the layer's own row, damped.

    A direction must not be short: its gradient grows with the inverse of its length, and a few such rows drown all others.
    """
    norms = weight.norm(dim=(1, 2), keepdim=True)
    empty = norms < _LEAST_NORM * norms.max()
    layer.weight_v.copy_(torch.where(empty, layer.weight_v, weight))
    layer.weight_g.copy_(torch.where(empty, _BRANCH * layer.weight_g, norms))
    layer.bias.zero_()


def _linear(snake: object, channels: int) -> None:
    cast(Snake, snake).alpha[:, :channels] = _ALPHA


def _damp(units: list[object]) -> None:
    for unit in units:
        cast(Conv, cast(ResidualUnit, unit).block[3]).weight_g.mul_(_BRANCH)


@dataclass(frozen=True)
class _Basis:
    """How channels hold a block of samples: `analysis` turns it into channels, `synthesis` back; `[length, channels]` each."""

    analysis: Tensor
    synthesis: Tensor

    @property
    def length(self) -> int:
        """Samples."""
        return self.analysis.shape[0]

    @property
    def count(self) -> int:
        """Channels."""
        return self.analysis.shape[1]


def _leading(audio: Tensor, length: int, count: int, whiten: float = 0.0) -> tuple[_Basis, float]:
    """Leading principal components of blocks of `audio` `[B, 1, T]`, and the share of energy they hold.

    With `whiten` their deviations are brought towards one size, by this power of themselves.
    """
    blocks = audio.flatten().unfold(0, length, length)
    variances, vectors = torch.linalg.eigh(blocks.t() @ blocks / blocks.shape[0])
    leading = variances.flip(0)[:count]
    deviations = leading.clamp_min(_FAINTEST * float(leading[0])).sqrt()
    gains = (_SIZE / deviations) ** whiten
    basis = vectors.flip(1)[:, :count]
    return _Basis(basis * gains, basis / gains), float(leading.sum() / variances.sum())


def _bases(audio: Tensor, rates: tuple[int, ...], channels: tuple[int, ...], whiten: float) -> list[_Basis]:
    """What the channels of each stage hold of its block of samples.

    Args:
        audio: `[B, 1, T]`, for components.
        rates: strides from the waveform inwards.
        channels: of the stage before the first stride, and after each.
        whiten: see `_leading`.
    """
    sample = torch.eye(1, device=audio.device)
    bases, length = [_Basis(sample, sample)], 1
    for rate, have in zip(rates, channels[1:], strict=True):
        length *= rate
        bases.append(_leading(audio, length, min(have, length), whiten)[0])
    return bases


@torch.no_grad()
def transform_start(network: DAC, audio: Tensor, whiten: float = 0.0) -> float:
    """Write a block transform into a causal network; its principal components are those of `audio` `[B, 1, T]`.

    With `whiten` above 0 high frequencies, which are faint in speech, are as large in its channels as low ones: Snakes are
    nearly linear for what is small, so nothing nonlinear would be learnt of them.

    Returns the share of energy that the latent's components hold.

    Raises:
        UsageError: the network is not causal.
    """
    config = network.config
    if not config.causal:
        raise UsageError("a transform start needs a causal network, this one looks ahead")
    latent, share = _leading(audio, config.hop_length, min(config.latent_dim, config.hop_length))
    _encoder_path(network, _bases(audio, config.encoder_rates, config.encoder_channels, whiten), latent)
    decoder_bases = _bases(audio, config.decoder_rates[::-1], config.decoder_channels[::-1], whiten)
    _decoder_path(network, decoder_bases[::-1], latent)
    return share


def _split(wide: Tensor, narrow: Tensor) -> Tensor:
    """How blocks that `wide` `[r * L, W]` describes are made of r blocks that `narrow` `[L, N]` does: `[W, N, r]`."""
    parts = wide.unflatten(0, (-1, narrow.shape[0]))
    return torch.einsum("jlw,ln->wnj", parts, narrow)


def _encoder_path(network: DAC, bases: list[_Basis], latent: _Basis) -> None:
    first, *blocks, snake, last = network.encoder.block
    weight = cast(Conv, first).weight.clone()
    weight[0] = 0
    weight[0, 0, -1] = 1
    _set(cast(Conv, first), weight)
    for block, narrow, wide in zip(blocks, bases, bases[1:], strict=False):
        *units, snake_down, down = cast(EncoderBlock, block).block
        _damp(list(units))
        _linear(snake_down, narrow.count)
        weight = cast(Conv, down).weight.clone()
        weight[: wide.count] = 0
        weight[: wide.count, : narrow.count, -(wide.length // narrow.length) :] = _split(
            wide.analysis, narrow.synthesis
        )
        _set(cast(Conv, down), weight)
    used = bases[-1].count
    _linear(snake, used)
    weight = 0.1 * cast(Conv, last).weight
    weight[: latent.count] = 0
    weight[: latent.count, :used, -1] = latent.analysis.t() @ bases[-1].synthesis
    _set(cast(Conv, last), weight)


def _decoder_path(network: DAC, bases: list[_Basis], latent: _Basis) -> None:
    first, *blocks, snake, last, _tanh = network.decoder.model
    used = bases[0].count
    weight = cast(Conv, first).weight.clone()
    weight[:used] = 0
    weight[:used, : latent.count, -1] = bases[0].analysis.t() @ latent.synthesis
    _set(cast(Conv, first), weight)
    for block, wide, narrow in zip(blocks, bases, bases[1:], strict=False):
        snake_up, up, *units = cast(DecoderBlock, block).block
        _damp(list(units))
        _linear(snake_up, wide.count)
        weight = cast(ConvTranspose, up).weight.clone()
        weight[:, : narrow.count] = 0
        weight[: wide.count, : narrow.count, : wide.length // narrow.length] = _split(wide.synthesis, narrow.analysis)
        _set(cast(ConvTranspose, up), weight)
    _linear(snake, 1)
    weight = cast(Conv, last).weight.clone()
    weight[:, 0] = 0
    weight[0, 0, -1] = 1
    _set(cast(Conv, last), weight)
