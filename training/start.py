"""Where training starts from: a random network, or one that is a block transform codec already.

From random weights the mel loss is first met by noise of the right colour, and the waveform is hardly learnt for thousands
of steps. The transform start writes a linear path into otherwise random weights: the strided convolutions move the samples
of a hop into channels, the last layer keeps their leading principal components, and the decoder goes the same way back.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from streamdac.errors import UsageError
from streamdac.nn import DAC
from streamdac.nn.layers import Conv, ConvTranspose, ResidualUnit, Snake
from streamdac.nn.network import DecoderBlock, EncoderBlock

_ALPHA = 0.05  # nearly linear, on the channels of the linear path
_BRANCH = 0.1  # factor on residual branches at the start


@torch.no_grad()
def quiet_start(network: DAC) -> None:
    """Quiet output and a loud first layer: after 75 steps the mel distance is 3.7 with it, 4.6 without."""
    cast(Conv, network.decoder.model[-2]).weight_g.mul_(0.05)
    cast(Conv, network.encoder.block[0]).weight_g.mul_(4.0)


def _set(layer: Conv | ConvTranspose, weight: Tensor) -> None:
    layer.weight_v.copy_(weight)
    layer.weight_g.copy_(weight.norm(dim=(1, 2), keepdim=True))
    layer.bias.zero_()


def _linear(snake: object, channels: int) -> None:
    cast(Snake, snake).alpha[:, :channels] = _ALPHA


def _damp(units: list[object]) -> None:
    for unit in units:
        cast(Conv, cast(ResidualUnit, unit).block[3]).weight_g.mul_(_BRANCH)


def _sample_order(rates: tuple[int, ...]) -> list[int]:
    """Which sample of a hop each channel holds after all strides."""
    order, step = [0], 1
    for rate in rates:
        order = [sample + step * j for sample in order for j in range(rate)]
        step *= rate
    return order


@torch.no_grad()
def transform_start(network: DAC, audio: Tensor) -> float:
    """Write a block transform into a causal network; its principal components are those of `audio` `[B, 1, T]`.

    Returns the share of energy that the kept components hold.

    Raises:
        UsageError: the network is not causal, or has too few channels for the samples of a hop.
    """
    config = network.config
    encoder_channels = [config.encoder_dim << stage for stage in range(len(config.encoder_rates) + 1)]
    decoder_channels = [config.decoder_dim >> stage for stage in range(len(config.decoder_rates) + 1)]
    needed = [math.prod(config.encoder_rates[:stage]) for stage in range(len(config.encoder_rates) + 1)]
    back = [math.prod(config.decoder_rates[stage:]) for stage in range(len(config.decoder_rates) + 1)]
    have, want = encoder_channels + decoder_channels, needed + back
    if not config.causal or any(h < w for h, w in zip(have, want, strict=True)):
        raise UsageError(f"a transform start needs a causal network with channels {want}, this one has {have}")
    hops = audio.flatten().unfold(0, config.hop_length, config.hop_length)
    variances, basis = torch.linalg.eigh(hops.t() @ hops / hops.shape[0])
    kept = min(config.latent_dim, config.hop_length)
    basis = basis.flip(1)[:, :kept]
    _encoder_path(network, basis)
    _decoder_path(network, basis)
    return float(variances[-kept:].sum() / variances.sum())


def _encoder_path(network: DAC, basis: Tensor) -> None:
    config = network.config
    first, *blocks, snake, last = network.encoder.block
    weight = cast(Conv, first).weight.clone()
    weight[0] = 0
    weight[0, 0, -1] = 1
    _set(cast(Conv, first), weight)
    used = 1
    for block, rate in zip(blocks, config.encoder_rates, strict=True):
        *units, snake_down, down = cast(EncoderBlock, block).block
        _damp(list(units))
        _linear(snake_down, used)
        weight = cast(Conv, down).weight.clone()
        weight[: used * rate] = 0
        for channel in range(used):
            for j in range(rate):
                weight[channel * rate + j, channel, rate + j] = 1
        _set(cast(Conv, down), weight)
        used *= rate
    _linear(snake, used)
    weight = 0.1 * cast(Conv, last).weight
    weight[: basis.shape[1]] = 0
    weight[: basis.shape[1], :used, -1] = basis[_sample_order(config.encoder_rates)].t()
    _set(cast(Conv, last), weight)


def _decoder_path(network: DAC, basis: Tensor) -> None:
    config = network.config
    first, *blocks, snake, last, _tanh = network.decoder.model
    used = config.hop_length
    weight = cast(Conv, first).weight.clone()
    weight[:used] = 0
    weight[:used, : basis.shape[1], -1] = basis[_sample_order(config.decoder_rates[::-1])]
    _set(cast(Conv, first), weight)
    for block, rate in zip(blocks, config.decoder_rates, strict=True):
        snake_up, up, *units = cast(DecoderBlock, block).block
        _damp(list(units))
        _linear(snake_up, used)
        used //= rate
        weight = cast(ConvTranspose, up).weight.clone()
        weight[:, :used] = 0
        for channel in range(used):
            for j in range(rate):
                weight[channel * rate + j, channel, j] = 1
        _set(cast(ConvTranspose, up), weight)
    _linear(snake, 1)
    weight = cast(Conv, last).weight.clone()
    weight[:, 0] = 0
    weight[0, 0, -1] = 1
    _set(cast(Conv, last), weight)
