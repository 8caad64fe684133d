"""The discriminators of DAC (Kumar et al. 2023, section 3.4): by period, by rate, and of complex spectra in bands.

Structure and parameter names are the official ones, so that its state dicts load; the widths are settings, because at the
official ones they cost a CPU far more than the codec that they teach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamdac.errors import UsageError

from .settings import DiscriminatorSettings

_SLOPE = 0.1  # of the leaky ReLUs
_LEVEL = 0.8  # peak of what the discriminators see
_PERIOD_WIDTHS = (32, 128, 512, 1024, 1024)
# channels, kernel, stride, groups
_RATE_LAYERS = (
    (16, 15, 1, 1),
    (64, 41, 4, 4),
    (256, 41, 4, 16),
    (1024, 41, 4, 64),
    (1024, 41, 4, 256),
    (1024, 5, 1, 1),
)
_ZEROS, _ROLLOFF = 24, 0.945  # of the sinc that resamples, as in the official package's julius

Maps = list[Tensor]  # of one discriminator, from the first layer to its verdict


class _Conv(nn.Module):
    """A weight-normed convolution over one or two dimensions, with PyTorch's usual start."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: tuple[int, ...],
        *,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
        groups: int = 1,
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(c_in // groups * math.prod(kernel))
        v = torch.empty(c_out, c_in // groups, *kernel).uniform_(-bound, bound)
        self.weight_g = nn.Parameter(v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1)))
        self.weight_v = nn.Parameter(v)
        self.bias = nn.Parameter(torch.empty(c_out).uniform_(-bound, bound))
        self.stride, self.padding, self.groups = stride, padding, groups

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C_in, ...]` -> `[B, C_out, ...]`."""
        weight = torch._weight_norm(self.weight_v, self.weight_g, 0)
        convolve = F.conv1d if len(self.stride) == 1 else F.conv2d
        y: Tensor = convolve(x, weight, self.bias, self.stride, self.padding, 1, self.groups)
        return y


def _layer(conv: _Conv) -> nn.Sequential:
    return nn.Sequential(conv, nn.LeakyReLU(_SLOPE))


def _scaled(channels: int, width: float, groups: int = 1) -> int:
    """`channels` times `width`, still a multiple of the groups."""
    return max(1, round(channels * width / groups)) * groups


class PeriodDiscriminator(nn.Module):
    """The waveform folded into rows of `period` samples, each column judged by itself."""

    def __init__(self, period: int, width: float) -> None:
        super().__init__()
        self.period = period
        layers, c_in = [], 1
        for number, channels in enumerate(_PERIOD_WIDTHS):
            c_out, stride = _scaled(channels, width), 3 if number < 4 else 1
            layers.append(_layer(_Conv(c_in, c_out, (5, 1), stride=(stride, 1), padding=(2, 0))))
            c_in = c_out
        self.convs = nn.ModuleList(layers)
        self.conv_post = _Conv(c_in, 1, (3, 1), stride=(1, 1), padding=(1, 0))

    def forward(self, x: Tensor) -> Maps:
        """`[B, 1, T]` -> maps `[B, C, T', period]`; whole periods get one more, as officially."""
        x = F.pad(x, (0, self.period - x.shape[-1] % self.period), mode="reflect")
        return _through(x.unflatten(-1, (-1, self.period)), self.convs, self.conv_post)


class RateDiscriminator(nn.Module):
    """The waveform at a rate divided by `factor`."""

    def __init__(self, factor: int, width: float) -> None:
        super().__init__()
        self.factor = factor
        layers, c_in = [], 1
        for channels, kernel, stride, groups in _RATE_LAYERS:
            groups = math.gcd(max(1, round(groups * width)), c_in)
            c_out, padding = _scaled(channels, width, groups), kernel // 2
            layers.append(_layer(_Conv(c_in, c_out, (kernel,), stride=(stride,), padding=(padding,), groups=groups)))
            c_in = c_out
        self.convs = nn.ModuleList(layers)
        self.conv_post = _Conv(c_in, 1, (3,), stride=(1,), padding=(1,))

    def forward(self, x: Tensor) -> Maps:
        """`[B, 1, T]` -> maps `[B, C, T']`."""
        return _through(decimated(x, self.factor), self.convs, self.conv_post)


class SpectrumDiscriminator(nn.Module):
    """Real and imaginary part of an STFT, cut into bands with layers of their own; `bands` are shares of the spectrum."""

    hann: Tensor

    def __init__(self, window: int, bands: Sequence[Sequence[float]], channels: int) -> None:
        super().__init__()
        bins = window // 2 + 1
        self.window, self.hop = window, window // 4
        self.edges = [(int(low * bins), int(high * bins)) for low, high in bands]
        shapes = [(2, (3, 9), (1, 1)), *[(channels, (3, 9), (1, 2))] * 3, (channels, (3, 3), (1, 1))]
        self.band_convs = nn.ModuleList(
            nn.ModuleList(
                _layer(_Conv(c_in, channels, kernel, stride=stride, padding=(1, kernel[1] // 2)))
                for c_in, kernel, stride in shapes
            )
            for _ in self.edges
        )
        self.conv_post = _Conv(channels, 1, (3, 3), stride=(1, 1), padding=(1, 1))
        self.register_buffer("hann", torch.hann_window(window), persistent=False)

    def spectrum(self, x: Tensor) -> Tensor:
        """`[B, 1, T]` -> `[B, 2, T / hop, bins]`: as many frames as hops, the last one completed by reflection."""
        side = (self.window - self.hop) // 2
        x = F.pad(x, (side, side - x.shape[-1] % -self.hop), mode="reflect").squeeze(1)
        z = torch.stft(x, self.window, self.hop, window=self.hann, return_complex=True)[..., 2:-2]
        return torch.view_as_real(z).permute(0, 3, 2, 1)

    def forward(self, x: Tensor) -> Maps:
        """`[B, 1, T]` -> maps `[B, C, frames, bins']` of all bands, and one verdict over the bands side by side."""
        spectrum, maps, ends = self.spectrum(x), [], []
        for (low, high), layers in zip(self.edges, self.band_convs, strict=True):
            band = spectrum[..., low:high]
            assert isinstance(layers, nn.ModuleList)
            for layer in layers:
                band = layer(band)
                maps.append(band)
            ends.append(band)
        return [*maps, self.conv_post(torch.cat(ends, dim=-1))]


def _through(x: Tensor, layers: nn.ModuleList, last: nn.Module) -> Maps:
    maps = []
    for layer in (*layers, last):
        x = layer(x)
        maps.append(x)
    return maps


def decimated(x: Tensor, factor: int) -> Tensor:
    """`[B, 1, T]` at 1 / `factor` of its rate, `[B, 1, floor(T / factor)]`: windowed sinc, edges repeated, with gradient."""
    if factor == 1:
        return x
    width = math.ceil(_ZEROS * factor / _ROLLOFF)
    taps = torch.arange(-width, width + factor, device=x.device).float() * (_ROLLOFF / factor)
    t = taps.clamp(-_ZEROS, _ZEROS) * math.pi
    kernel = torch.where(t == 0, torch.ones_like(t), torch.sin(t) / t) * torch.cos(t / _ZEROS / 2).square()
    padded = F.pad(x, (width, width + factor), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None], stride=factor)[..., : x.shape[-1] // factor]


class Discriminator(nn.Module):
    """All discriminators of the settings, each with maps of its own.

    Raises:
        UsageError: there is none, or a band holds no bin of the narrowest window.
    """

    def __init__(self, settings: DiscriminatorSettings) -> None:
        super().__init__()
        s = settings
        self.discriminators = nn.ModuleList(
            [
                *(PeriodDiscriminator(period, s.width) for period in s.periods),
                *(RateDiscriminator(factor, s.width) for factor in s.rates),
                *(SpectrumDiscriminator(window, s.bands, s.channels) for window in s.fft_sizes),
            ]
        )
        if not len(self.discriminators):
            raise UsageError("the discriminator settings name no period, rate or fft size")

    def forward(self, x: Tensor) -> list[Maps]:
        """`[B, 1, T]` of any level -> every discriminator's maps."""
        x = x - x.mean(dim=-1, keepdim=True)
        x = _LEVEL * x / (x.abs().amax(dim=-1, keepdim=True) + 1e-9)
        return [discriminator(x) for discriminator in self.discriminators]


def discriminator_loss(fake: Sequence[Maps], real: Sequence[Maps]) -> Tensor:
    """Least squares (Mao et al. 2017): verdicts towards 0 on what is coded, towards 1 on the original."""
    terms = [f[-1].square().mean() + (1 - r[-1]).square().mean() for f, r in zip(fake, real, strict=True)]
    return torch.stack(terms).sum()


def generator_loss(fake: Sequence[Maps]) -> Tensor:
    """The coded signal's verdicts towards 1."""
    return torch.stack([(1 - f[-1]).square().mean() for f in fake]).sum()


def feature_loss(fake: Sequence[Maps], real: Sequence[Maps]) -> Tensor:
    """L1 distance of all maps but the verdicts, summed; no gradient for the original."""
    pairs = [pair for f, r in zip(fake, real, strict=True) for pair in zip(f[:-1], r[:-1], strict=True)]
    return torch.stack([F.l1_loss(f, r.detach()) for f, r in pairs]).sum()
