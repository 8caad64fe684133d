"""A trained network inside a wider one that computes the same: more room to learn, from where the narrow one came to.

As in Net2Net (Chen et al. 2016), but new channels are not copies: they hear what old channels say through the wider network's own
random weights, and old channels do not hear them yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.nn.layers import Conv, ConvTranspose, fold_weight_norm

WIDTHS = ("encoder_dim", "decoder_dim", "encoder_widths", "decoder_widths")


def holds(wide: ModelConfig, narrow: ModelConfig) -> bool:
    """Whether each layer of `wide` has at least the channels of `narrow`."""
    pairs = [(wide.encoder_channels, narrow.encoder_channels), (wide.decoder_channels, narrow.decoder_channels)]
    return all(len(a) == len(b) and all(x >= y for x, y in zip(a, b, strict=True)) for a, b in pairs)


def widened(network: DAC, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of `network` in which the narrower network of `tensors`, float32, is contained, and alone decides the output."""
    fresh = network.state_dict()
    made = {name: _in_corner(fresh[name], value) for name, value in tensors.items()}
    for name, layer in network.named_modules():
        if not isinstance(layer, Conv | ConvTranspose):
            continue
        v, g = f"{name}.weight_v", f"{name}.weight_g"
        if fresh[v].shape != tensors[v].shape:
            inner = fold_weight_norm(tensors[v], tensors[g])
            weight = _contained(fresh[v], inner, transposed=isinstance(layer, ConvTranspose))
            made[v], made[g] = _direction(weight, fresh[v])
    return made


def _in_corner(wide: Tensor, narrow: Tensor) -> Tensor:
    made = wide.clone()
    made[tuple(slice(size) for size in narrow.shape)] = narrow
    return made


def _contained(fresh: Tensor, inner: Tensor, *, transposed: bool) -> Tensor:
    """`inner` and random weights, but none from new inputs to old outputs; transposed weights have inputs first."""
    weight = _in_corner(fresh, inner)
    inputs, outputs = (0, 1) if transposed else (1, 0)
    heard = weight.narrow(outputs, 0, inner.shape[outputs])
    heard.narrow(inputs, inner.shape[inputs], weight.shape[inputs] - inner.shape[inputs]).zero_()
    return weight


def _direction(weight: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
    """`weight_v` and `weight_g`; a row of zeros keeps the fresh direction, with length 0."""
    norms = torch.linalg.vector_norm(weight, dim=(1, 2), keepdim=True)
    return torch.where(norms == 0, fresh, weight), norms
