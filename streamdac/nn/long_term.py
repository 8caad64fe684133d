"""A long-term postfilter: sharpens voiced speech with what it was one pitch period before.

Chen and Gersho (1995) put such a comb behind CELP decoders, Opus (RFC 6716, section 4.3.7.1) behind its MDCT. Here the pitch is a
soft choice among all lags, so that the output depends on the input continuously, and how much of the past is used at which
frequency is learnt with the network before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig

TAPS = 15
"""Of every learnt filter."""
KNOTS = (0.4, 0.55, 0.75, 0.9)
"""Correlations between which one filter fades into the next; below the first there is none."""
SHARPNESS = 40.0
"""How much a larger correlation is preferred: weights of lags are `softmax(SHARPNESS * correlation)`."""
TAP_SCALE = 10.0
"""Taps are parameters times this: an optimiser moves them at the pace of the weights around them."""
FLOOR = 1e-8
"""Added to the product of two energies (full scale 1): what is quieter than about -70 dB has no pitch."""
N_FILTERS = len(KNOTS) - 1


@dataclass(frozen=True)
class LongTermGeometry:
    """Sizes in samples."""

    block: int
    """Samples that share one pitch analysis; two to a hop."""
    window: int
    """Compared with the past: 20 ms up to the end of the block."""
    least: int
    """Shortest lag, 2 ms."""
    most: int
    """Longest lag, 1/60 s."""
    smooth: int
    """Taps of the Hann low-pass before the comparison, 0.7 ms."""

    @classmethod
    def of(cls, config: ModelConfig) -> LongTermGeometry:
        """For a causal model with an even hop."""
        rate = config.sample_rate
        smooth = round(0.0007 * rate) // 2 * 2 + 1
        return cls(config.hop_length // 2, round(0.02 * rate), round(0.002 * rate), round(rate / 60), smooth)

    @property
    def lags(self) -> int:
        """How many there are."""
        return self.most - self.least + 1

    @property
    def reach(self) -> int:
        """Longest lag of the whole filter: its taps around the longest lag."""
        return self.most + TAPS // 2

    @property
    def left(self) -> int:
        """Samples before its own that a block depends on: the analysis of the block before."""
        return self.window + self.most + self.smooth - 1

    @cached_property
    def low_pass(self) -> Tensor:
        """Hann window of sum 1 `[smooth]`."""
        taps = torch.hann_window(self.smooth + 2, periodic=False, dtype=torch.float64)[1:-1]
        return (taps / taps.sum()).float()

    @cached_property
    def fade(self) -> Tensor:
        """Weight of a block's filter over its own samples `[block]`; over the next block's it is 1 minus that."""
        return torch.arange(self.block) / self.block


def filter_shares(correlation: Tensor) -> Tensor:
    """How much of each filter is used: correlation `[...]` -> `[..., N_FILTERS]`, piecewise linear between the knots."""
    low, *knots = KNOTS
    shares = []
    for index, knot in enumerate(knots):
        share = (correlation - low) / (knot - low)
        if index + 1 < len(knots):
            share = torch.minimum(share, (knots[index + 1] - correlation) / (knots[index + 1] - knot))
        shares.append(share.clamp(0, 1))
        low = knot
    return torch.stack(shares, dim=-1)


def choose_lags(product: Tensor, energy: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the lags `[..., lags]` and shares of the filters `[..., N_FILTERS]`.

    Args:
        product: of the present with the past at each lag `[..., lags]`, in any order.
        energy: of the past at each lag `[..., lags]`.
        own: energy of the present `[..., 1]`.
    """
    correlation = product * torch.rsqrt(energy * own + FLOOR)
    weights = torch.softmax(SHARPNESS * correlation, dim=-1)
    return weights, filter_shares((weights * correlation).sum(-1))


class LongTermFilter(nn.Module):
    """x -> x + h * x, where h, for each block, is a few learnt taps on the present and a few around the lags of its pitch.

    The shape of the taps depends on how well the past fits (its correlation over 20 ms). All taps are zero at first.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.geometry = LongTermGeometry.of(config)
        self.own = nn.Parameter(torch.zeros(N_FILTERS, TAPS))
        self.past = nn.Parameter(torch.zeros(N_FILTERS, TAPS))

    @torch.no_grad()
    def analyse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T]` -> for each whole block the weights of all lags `[B, N, lags]` and the shares of the filters."""
        g = self.geometry
        padded = F.pad(x, (g.left, 0))[:, None]
        smooth = F.conv1d(padded, g.low_pass.to(x)[None, None])[:, 0]  # [B, window + most + T]
        frames = smooth[:, g.block :].unfold(1, g.window + g.most, g.block)  # each ends with its block
        size = _fast(g.window + g.most)
        spectrum = torch.fft.rfft(frames, size)
        present = torch.fft.rfft(frames[..., g.most :], size)
        product = torch.fft.irfft(present.conj() * spectrum, size)[..., : g.lags].flip(-1)  # least lag first
        energy = F.pad(smooth.double().square().cumsum(1), (1, 0))
        energy = (energy[:, g.window :] - energy[:, : -g.window]).float()  # of the window from each sample on
        energies = energy[:, g.block :].unfold(1, g.most + 1, g.block)  # the last is the present's own
        return choose_lags(product, energies[..., : g.lags].flip(-1), energies[..., -1:])

    def forward(self, audio: Tensor) -> Tensor:
        """`[B, 1, T]`, T a whole number of blocks -> the same shape."""
        g, x = self.geometry, audio[:, 0].float()
        weights, shares = self.analyse(x)
        blocks = weights.shape[1]
        span = g.reach + 2 * g.block  # a block, the next, and their past
        size = _fast(span)
        lags = torch.fft.rfft(F.pad(weights, (g.least - TAPS // 2, 0)), size)
        own, past = (torch.fft.rfft(TAP_SCALE * taps, size) for taps in (self.own, self.past))
        mixed = shares.to(own.dtype)
        spans = F.pad(x, (g.reach, g.block)).unfold(1, span, g.block)
        changed = torch.fft.irfft(torch.fft.rfft(spans, size) * (mixed @ own + lags * (mixed @ past)), size)
        changed = changed[..., g.reach : span]
        fade = g.fade.to(x)
        rising = changed[..., : g.block] * fade
        falling = changed[..., g.block :] * (1 - fade)
        change = rising + F.pad(falling[:, :-1], (0, 0, 1, 0))
        filtered: Tensor = audio + change.reshape(audio.shape[0], 1, blocks * g.block)
        return filtered


def _fast(length: int) -> int:
    """The next length that an FFT is quick at."""
    return -(-length // 64) * 64
