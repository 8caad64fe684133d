"""The DAC network (Kumar et al. 2023, section 3), one class for the official and the causal geometry."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from .layers import Conv, ConvTranspose, ResidualUnit, Snake, conv_geometry, transpose_geometry
from .long_term import LongTermFilter
from .quantizer import Quantized, ResidualQuantizer

DILATIONS = (1, 3, 9)


class EncoderBlock(nn.Module):
    """Three residual units, then a strided convolution (officially to 2 C channels): `[B, C, T]` -> `[B, C', T / stride]`."""

    def __init__(self, channels: int, c_out: int, stride: int, *, causal: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(ResidualUnit(channels, dilation, causal=causal) for dilation in DILATIONS),
            Snake(channels),
            Conv(channels, c_out, conv_geometry(2 * stride, stride=stride, causal=causal)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Offline."""
        y: Tensor = self.block(x)
        return y


class Encoder(nn.Module):
    """Waveform `[B, 1, T]` -> latent `[B, D, T / hop]`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        causal, channels = config.causal, config.encoder_channels
        layers: list[nn.Module] = [Conv(1, channels[0], conv_geometry(7, causal=causal))]
        for stride, c_in, c_out in zip(config.encoder_rates, channels, channels[1:], strict=False):
            layers.append(EncoderBlock(c_in, c_out, stride, causal=causal))
        layers += [Snake(channels[-1]), Conv(channels[-1], config.latent_dim, conv_geometry(3, causal=causal))]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Offline."""
        y: Tensor = self.block(x)
        return y


class DecoderBlock(nn.Module):
    """A transposed convolution (officially to C / 2 channels), three residual units: `[B, C, T]` -> `[B, C', T * stride]`."""

    def __init__(self, c_in: int, c_out: int, stride: int, *, causal: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(
            Snake(c_in),
            ConvTranspose(c_in, c_out, transpose_geometry(stride, causal=causal)),
            *(ResidualUnit(c_out, dilation, causal=causal) for dilation in DILATIONS),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Offline."""
        y: Tensor = self.block(x)
        return y


class Decoder(nn.Module):
    """Latent `[B, D, F]` -> waveform `[B, 1, F * hop]` in [-1, 1]."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        causal, channels = config.causal, config.decoder_channels
        layers: list[nn.Module] = [Conv(config.latent_dim, channels[0], conv_geometry(7, causal=causal))]
        for stride, c_in, c_out in zip(config.decoder_rates, channels, channels[1:], strict=False):
            layers.append(DecoderBlock(c_in, c_out, stride, causal=causal))
        layers += [Snake(channels[-1]), Conv(channels[-1], 1, conv_geometry(7, causal=causal)), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.long_term = LongTermFilter(config) if config.long_term else None

    def forward(self, x: Tensor) -> Tensor:
        """Offline."""
        y: Tensor = self.model(x)
        return y if self.long_term is None else self.long_term(y)


class DAC(nn.Module):
    """Encoder, quantiser and decoder; offline, with gradients. `streamdac.Codec` is the streaming one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = ResidualQuantizer(config)
        self.decoder = Decoder(config)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    def preprocess(self, audio: Tensor, sample_rate: int | None = None) -> Tensor:
        """Zero-pad `[B, 1, T]` on the right to whole hops."""
        if sample_rate is not None and sample_rate != self.sample_rate:
            from ..errors import UsageError

            raise UsageError(f"audio at {sample_rate} Hz, the model is for {self.sample_rate} Hz")
        return F.pad(audio, (0, math.ceil(audio.shape[-1] / self.hop_length) * self.hop_length - audio.shape[-1]))

    def encode(self, audio: Tensor, n_quantizers: int | None = None) -> Quantized:
        """`[B, 1, T]`, T a whole number of hops -> (z, codes, latents, commitment loss, codebook loss)."""
        quantized: Quantized = self.quantizer(self.encoder(audio), n_quantizers)
        return quantized

    def decode(self, z: Tensor) -> Tensor:
        """Quantised latent `[B, D, F]` -> `[B, 1, T]`."""
        y: Tensor = self.decoder(z)
        return y

    def forward(
        self, audio: Tensor, sample_rate: int | None = None, n_quantizers: int | None = None
    ) -> dict[str, Tensor]:
        """The official forward: `audio` decoded and cut to the input's length, and everything `encode` gives by name."""
        samples = audio.shape[-1]
        quantized = self.encode(self.preprocess(audio, sample_rate), n_quantizers)
        return {
            "audio": self.decode(quantized.z)[..., :samples],
            "z": quantized.z,
            "codes": quantized.codes,
            "latents": quantized.latents,
            "vq/commitment_loss": quantized.commitment_loss,
            "vq/codebook_loss": quantized.codebook_loss,
        }


def count_parameters(network: nn.Module) -> int:
    """Trained numbers in `network`."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def randomize(network: nn.Module, seed: int = 0) -> None:
    """Give every parameter a random value far from its initial one, keeping activations near 1: for tests."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        noise = torch.rand(parameter.shape, generator=generator)
        if name.endswith("alpha"):
            parameter.copy_(0.3 + 2.7 * noise)
        elif name.endswith("weight_g"):
            parameter.copy_(0.5 + noise)
        elif name.endswith("bias"):
            parameter.copy_(0.4 * (noise - 0.5))
        elif ".predictor." in name and name.endswith("weight"):  # what it predicts must not grow from frame to frame
            parameter.copy_(2 * (noise - 0.5) / parameter.shape[1] ** 0.5)
        elif ".long_term." in name:
            parameter.copy_(0.04 * (noise - 0.5))
        else:
            parameter.copy_(2 * (noise - 0.5))
