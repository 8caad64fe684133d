"""The plain way to stream a network, for comparison only: one torch module after another, each with its cached context.

What most streaming ports of convolutional codecs do. It gives the same codes and audio as the plan (a test says so) and serves
as the yardstick of `streamdac bench`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .nn.layers import Conv, ConvTranspose, ResidualUnit
from .nn.network import DAC
from .nn.quantizer import VectorQuantizer


class _CachedConv(nn.Module):
    """`nn.Conv1d` behind a cache of the input it still needs; `[B, C, T]`."""

    def __init__(self, layer: Conv) -> None:
        super().__init__()
        g = layer.geometry
        c_out, c_in, kernel = layer.weight_v.shape
        self.conv = nn.Conv1d(c_in, c_out, kernel, g.stride, dilation=g.dilation)
        self.conv.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
        self.window, self.stride = g.window, g.stride
        self.cache = torch.zeros(1, c_in, g.left)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cache, x], dim=-1)
        outputs = max(0, (x.shape[-1] - self.window) // self.stride + 1)
        self.cache = x[..., outputs * self.stride :]
        if not outputs:
            return x.new_zeros(1, self.conv.out_channels, 0)
        y: Tensor = self.conv(x)
        return y


class _CachedTranspose(nn.Module):
    """`nn.ConvTranspose1d` behind a cache of one input frame; `[B, C, T]`."""

    def __init__(self, layer: ConvTranspose) -> None:
        super().__init__()
        c_in, c_out, kernel = layer.weight_v.shape
        self.stride = layer.geometry.stride
        self.conv = nn.ConvTranspose1d(c_in, c_out, kernel, self.stride)
        self.conv.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
        self.cache = torch.zeros(1, c_in, 1)
        self.drop = layer.geometry.trim_left

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cache, x], dim=-1)
        self.cache = x[..., -1:]
        y: Tensor = self.conv(x)[..., self.stride : -self.stride]
        dropped = min(self.drop, y.shape[-1])
        self.drop -= dropped
        return y[..., dropped:]


class _CachedResidual(nn.Module):
    """A residual unit whose skip path waits for its body."""

    def __init__(self, body: nn.Module, channels: int) -> None:
        super().__init__()
        self.body = body
        self.cache = torch.zeros(1, channels, 0)

    def forward(self, x: Tensor) -> Tensor:
        skip = torch.cat([self.cache, x], dim=-1)
        y: Tensor = self.body(x)
        self.cache = skip[..., y.shape[-1] :]
        return skip[..., : y.shape[-1]] + y


def _cached(layer: nn.Module) -> nn.Module:
    match layer:
        case Conv():
            return _CachedConv(layer)
        case ConvTranspose():
            return _CachedTranspose(layer)
        case ResidualUnit():
            return _CachedResidual(_cached(layer.block), layer.channels)
        case nn.Sequential():
            return nn.Sequential(*(_cached(child) for child in layer))
        case _ if isinstance(getattr(layer, "block", None), nn.Sequential):
            return _cached(layer.block)  # type: ignore[arg-type]
        case _:
            return layer


class _PlainQuantizer(nn.Module):
    """Code search and lookup as the official code has them, weight norm multiplied out."""

    def __init__(self, network: DAC) -> None:
        super().__init__()
        parts = [part for part in network.quantizer.quantizers if isinstance(part, VectorQuantizer)]
        self.in_proj = nn.ModuleList(_CachedConv(part.in_proj).conv for part in parts)
        self.out_proj = nn.ModuleList(_CachedConv(part.out_proj).conv for part in parts)
        self.codebook = nn.ModuleList(part.codebook for part in parts)
        self.directions = [F.normalize(part.codebook.weight.detach(), dim=-1).t() for part in parts]
        self._predictor, self._coarse = network.quantizer.predictor, network.quantizer.predictor_codebooks
        self._before = self._predictor.start(1, self.directions[0]) if self._predictor is not None else None

    def encode(self, z: Tensor) -> Tensor:
        """Latents `[1, D, F]` to codes `[1, K, F]`."""
        if self._predictor is None:
            return self._search(z)
        codes = []
        for frame in z.split(1, dim=2):
            expected = self._predictor(self._before)[:, :, None]
            codes.append(self._search(frame - expected))
            self._came(expected + self._said(codes[-1][:, : self._coarse]))
        return torch.cat(codes, dim=2)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes `[1, K, F]` to latents `[1, D, F]`."""
        z = self._said(codes)
        if self._predictor is None:
            return z
        latents = []
        for frame, surprise in zip(codes.split(1, dim=2), z.split(1, dim=2), strict=True):
            expected = self._predictor(self._before)[:, :, None]
            latents.append(expected + surprise)
            self._came(expected + self._said(frame[:, : self._coarse]))
        return torch.cat(latents, dim=2)

    def _came(self, latent: Tensor) -> None:
        assert self._predictor is not None
        assert self._before is not None
        self._before = self._predictor.after(self._before, latent[:, :, 0])

    def _search(self, residual: Tensor) -> Tensor:
        codes = []
        for index, in_proj in enumerate(self.in_proj):
            z_e = in_proj(residual)
            code = (F.normalize(z_e.transpose(1, 2), dim=-1) @ self.directions[index]).argmax(dim=-1)
            residual = residual - self.out_proj[index](self.codebook[index](code).transpose(1, 2))
            codes.append(code)
        return torch.stack(codes, dim=1)

    def _said(self, codes: Tensor) -> Tensor:
        z: Tensor = self.out_proj[0](self.codebook[0](codes[:, 0]).transpose(1, 2))
        for index in range(1, codes.shape[1]):
            z = z + self.out_proj[index](self.codebook[index](codes[:, index]).transpose(1, 2))
        return z


class BaselineEncoder:
    """PCM `[1, 1, T]` to codes `[1, K, F]`, hop by hop."""

    def __init__(self, network: DAC) -> None:
        self._layers = _cached(network.encoder.block)
        self._quantizer = _PlainQuantizer(network)

    @torch.inference_mode()
    def push(self, audio: Tensor) -> Tensor:
        """The codes now complete."""
        z = self._layers(audio)
        if not z.shape[-1]:
            return torch.zeros(1, len(self._quantizer.in_proj), 0, dtype=torch.int64)
        return self._quantizer.encode(z)


class BaselineDecoder:
    """Codes `[1, K, F]` to PCM `[1, 1, T]`, hop by hop; without the long-term filter of a model that has one."""

    def __init__(self, network: DAC) -> None:
        self._layers = _cached(network.decoder.model)
        self._quantizer = _PlainQuantizer(network)

    @torch.inference_mode()
    def push(self, codes: Tensor) -> Tensor:
        """The audio now complete."""
        audio: Tensor = self._layers(self._quantizer.decode(codes))
        return audio
