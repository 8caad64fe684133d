"""Groups of settings in a recipe: the weights of the losses, and the discriminators."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

from streamdac.errors import UsageError


def _check_factors(what: str, factors: LossWeights | GradientShares) -> None:
    if not all(0 <= factor < math.inf for factor in astuple(factors)):
        raise UsageError(f"{what} must be 0 or more and finite, got {factors}")


@dataclass(frozen=True)
class LossWeights:
    """Factors of the losses in the objective; a loss of weight 0 is only reported.

    Raises:
        UsageError: one is below 0 or not finite.
    """

    mel: float = 15.0
    stft: float = 1.0
    waveform: float = 4.0
    """Of the L1 distance relative to each item's level."""
    commitment: float = 0.25
    codebook: float = 1.0
    scale: float = 0.0
    """Of the squared log of the latent's mean square, of a process's share of the batch: keeps it where codebooks started."""
    prediction: float = 1.0
    """Of the share of the latent that its predictor does not foresee, where there is one; moves the predictor alone."""
    drift: float = 2.0
    """Of how far its predictions go astray where frames were lost; moves the predictor alone, too."""
    compressed: float = 0.0
    """Of the distance of compressed spectra."""
    envelopes: float = 0.0
    """Of what the envelopes' correlation lacks."""
    bands: float = 0.0
    """Of the distance of levels in auditory bands."""
    structure: float = 0.0
    """Of what the similarity of their structure lacks."""
    disturbance: float = 0.0
    """Of loudness that is missing or added, as PESQ counts it."""
    lines: float = 0.0
    """Of tones at multiples of the decoder's lower rates."""
    silence: float = 0.0
    """Of noise where the original is silent, which the other losses leave out of their gradients (`balance`)."""
    l1: float = 0.0
    """Of the plain L1 distance."""
    generator: float = 0.0
    """Of the discriminators' verdicts. With this and `feature` at 0 there are no discriminators."""
    feature: float = 0.0
    """Of the distance of the discriminators' feature maps."""

    def __post_init__(self) -> None:
        _check_factors("weights of losses", self)


@dataclass(frozen=True)
class GradientShares:
    """Sizes of the losses' gradients at the decoded waveform, relative to each other; see `streamdac.training.balance`.

    0: the losses' own gradient, in proportion to their weights. Above 0: the gradient is brought to this size instead, and the
    weights of losses that share it only count among themselves.
    """

    spectral: float = 0.0
    """Of mel and STFT loss together."""
    waveform: float = 0.0
    compressed: float = 0.0
    envelopes: float = 0.0
    bands: float = 0.0
    structure: float = 0.0
    disturbance: float = 0.0
    lines: float = 0.0
    adversarial: float = 0.0
    """Of the discriminators' verdicts and feature maps together."""
    quiet: float = 0.0
    """For losses whose share is 0: power of a gain that takes frames far below their segment's level out of the gradient."""

    def __post_init__(self) -> None:
        _check_factors("gradient shares", self)


@dataclass(frozen=True)
class DiscriminatorSettings:
    """Which discriminators there are, how wide, and how they learn; the defaults are the official ones.

    Raises:
        UsageError: a value is out of range.
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """Samples."""
    rates: tuple[int, ...] = ()
    """Factors by which the sample rate is divided; 1 is the waveform as it is."""
    fft_sizes: tuple[int, ...] = (2048, 1024, 512)
    """Windows of the spectra, in samples."""
    bands: tuple[tuple[float, float], ...] = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
    """Shares of the spectrum that get layers of their own."""
    channels: int = 32
    """Of the discriminators of spectra."""
    width: float = 1.0
    """Factor on the channels of the others (32 to 1024)."""
    lr: float = 1e-4
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = 0.01
    clip_norm: float = 10.0
    """Largest gradient norm."""
    from_step: int = 0
    """They begin at this step ..."""
    from_share: float = 0.0
    """... and not before this share of the budget is used."""
    ramp_steps: int = 0
    """Steps over which their losses then grow to full weight, while they learn."""

    def __post_init__(self) -> None:
        whole = [*self.periods, *self.rates, self.channels]
        if any(type(value) is not int or value < 1 for value in whole) or any(w < 16 or w % 4 for w in self.fft_sizes):
            raise UsageError(
                f"periods {self.periods}, rates {self.rates} and channels {self.channels} must be whole numbers "
                f"above 0, fft sizes {self.fft_sizes} multiples of 4 from 16"
            )
        narrowest = min(self.fft_sizes, default=0) // 2 + 1
        for band in self.bands:
            good = len(band) == 2 and 0 <= band[0] < band[1] <= 1
            if not good or (self.fft_sizes and int(band[1] * narrowest) <= int(band[0] * narrowest)):
                raise UsageError(f"band {band} must be two shares that rise, with a bin of every fft size in it")
        if self.fft_sizes and not self.bands:
            raise UsageError(f"no bands for fft sizes {self.fft_sizes}: need one at least")
        if not all(0 <= beta < 1 for beta in self.betas) or min(self.weight_decay, self.from_step, self.ramp_steps) < 0:
            raise UsageError(
                f"betas {self.betas} must lie in 0..1, weight_decay {self.weight_decay}, from_step {self.from_step} and "
                f"ramp_steps {self.ramp_steps} be 0 or more"
            )
        if not 0 <= self.from_share <= 1 or min(self.width, self.lr, self.clip_norm) <= 0:
            raise UsageError(
                f"from_share {self.from_share} must lie in 0..1, width {self.width}, lr {self.lr} and "
                f"clip_norm {self.clip_norm} above 0"
            )
