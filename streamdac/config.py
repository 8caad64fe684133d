"""What a model is made of: its geometry as one frozen record, and the named presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import BadDataError, UsageError

CENTRED = "centred"  # the official network: padding on both sides
CAUSAL = "causal"  # all padding on the left
PADDINGS = (CENTRED, CAUSAL)

LOST = -2
"""In place of the codes of a frame that did not come: its latent is what a predictor expects, or zeros without one."""

# Bounds on what a weights file may ask for, checked before anything is allocated.
_LIMITS = {
    "sample_rate": (1_000, 384_000),
    "encoder_dim": (1, 1_024),
    "decoder_dim": (1, 8_192),
    "latent_dim": (1, 8_192),
    "n_codebooks": (1, 64),
    "codebook_size": (2, 65_536),
    "codebook_dim": (1, 1_024),
    "predictor_dim": (0, 4_096),
    "predictor_codebooks": (1, 64),
}
_LONG_TERM_RATE = 8_000  # Hz; below it the taps around the shortest lag would reach the present
_MAX_STAGES = 8
_MAX_STRIDE = 64
_MAX_HOP = 32_768  # samples; a stream's header can say no more


@dataclass(frozen=True)
class ModelConfig:
    """Geometry of one codec model; the field names are those of the official constructor.

    Raises:
        UsageError: a value is of the wrong type or out of range.
    """

    sample_rate: int = 24_000
    """Hz."""
    encoder_dim: int = 24
    """Channels after the first convolution; they double at every stride."""
    encoder_rates: tuple[int, ...] = (8, 5, 4, 2)
    """Strides of the encoder, from the waveform inwards. Their product is the hop."""
    latent_dim: int = 128
    """Channels between encoder and quantiser."""
    decoder_dim: int = 384
    """Channels after the decoder's first convolution; they halve at every stride."""
    decoder_rates: tuple[int, ...] = (2, 4, 5, 8)
    encoder_widths: tuple[int, ...] = ()
    """Channels after the first convolution and after each stride, where they do not double from `encoder_dim`."""
    decoder_widths: tuple[int, ...] = ()
    """The same from the latent outwards, where they do not halve from `decoder_dim`."""
    n_codebooks: int = 16
    codebook_size: int = 1024
    codebook_dim: int = 8
    quantizer_dropout: float = 0.5
    """Share of a training batch that uses a random number of codebooks."""
    padding: str = CAUSAL
    predictor_dim: int = 0
    """Width of the network that predicts a latent from those before it (`streamdac.nn.prediction`); 0: none."""
    predictor_codebooks: int = 4
    """The first ones, from which it predicts: fewer of them must not get lost on the way to a decoder."""
    long_term: bool = False
    """Whether the decoder ends with a long-term postfilter (`streamdac.nn.long_term`)."""

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"{name} is {value!r}, need an integer from {low} to {high}")
        for name in ("encoder_rates", "decoder_rates"):
            rates = getattr(self, name)
            good = type(rates) is tuple and all(type(rate) is int and 1 <= rate <= _MAX_STRIDE for rate in rates)
            if not good or not 1 <= len(rates) <= _MAX_STAGES:
                raise UsageError(f"{name} is {rates!r}, need 1 to {_MAX_STAGES} integers from 1 to {_MAX_STRIDE}")
        if math.prod(self.encoder_rates) != math.prod(self.decoder_rates):
            raise UsageError(
                f"encoder hop {math.prod(self.encoder_rates)} != decoder hop {math.prod(self.decoder_rates)}"
            )
        if self.hop_length > _MAX_HOP:
            raise UsageError(f"a hop of {self.hop_length} samples, need at most {_MAX_HOP}")
        if not self.decoder_widths and self.decoder_dim >> len(self.decoder_rates) < 1:
            raise UsageError(f"decoder_dim {self.decoder_dim} cannot be halved {len(self.decoder_rates)} times")
        self._check_widths()
        if not 0.0 <= self.quantizer_dropout <= 1.0:
            raise UsageError(f"quantizer_dropout is {self.quantizer_dropout!r}, need 0 to 1")
        if self.padding not in PADDINGS:
            raise UsageError(f"padding is {self.padding!r}, need one of {', '.join(PADDINGS)}")
        self._check_long_term()

    def _check_long_term(self) -> None:
        if type(self.long_term) is not bool:
            raise UsageError(f"long_term is {self.long_term!r}, need true or false")
        if self.long_term and not (self.causal and self.hop_length % 2 == 0 and self.sample_rate >= _LONG_TERM_RATE):
            raise UsageError(
                f"long_term needs causal padding, an even hop and at least {_LONG_TERM_RATE} Hz, "
                f"not {self.padding}, {self.hop_length}, {self.sample_rate} Hz"
            )

    def _check_widths(self) -> None:
        most = _LIMITS["decoder_dim"][1]
        for name, rates in (("encoder_widths", self.encoder_rates), ("decoder_widths", self.decoder_rates)):
            widths = getattr(self, name)
            good = type(widths) is tuple and all(type(width) is int and 1 <= width <= most for width in widths)
            if not good or len(widths) not in (0, len(rates) + 1):
                raise UsageError(f"{name} is {widths!r}, need {len(rates) + 1} integers from 1 to {most}, or none")

    @property
    def encoder_channels(self) -> tuple[int, ...]:
        """After the first convolution, and after each stride."""
        doubled = (self.encoder_dim << stage for stage in range(len(self.encoder_rates) + 1))
        return self.encoder_widths or tuple(doubled)

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """After the first convolution, and after each transposed one."""
        halved = (self.decoder_dim >> stage for stage in range(len(self.decoder_rates) + 1))
        return self.decoder_widths or tuple(halved)

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.encoder_rates)

    @property
    def frame_rate(self) -> float:
        """Frames (hops) per second."""
        return self.sample_rate / self.hop_length

    @property
    def bits_per_code(self) -> int:
        """Bits one code takes on the wire."""
        return (self.codebook_size - 1).bit_length()

    @property
    def causal(self) -> bool:
        """Whether all padding is on the left."""
        return self.padding == CAUSAL

    def bitrate(self, n_codebooks: int | None = None) -> float:
        """Bits per second of the codes alone, for one channel."""
        return self.frame_rate * self.bits_per_code * (self.n_codebooks if n_codebooks is None else n_codebooks)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, for JSON and weights metadata; without what is not there (widths, predictor, filter)."""
        left_out = () if self.predictor_dim else ("predictor_dim", "predictor_codebooks")
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
            if value != () and value is not False and key not in left_out
        }


def config_from_mapping(values: Mapping[str, Any], *, default_padding: str = CENTRED) -> ModelConfig:
    """The config that a weights file names; every value is checked.

    Args:
        values: official constructor arguments, with `padding` where it is one of ours.
        default_padding: what a file without `padding` is (official files have none).

    Raises:
        BadDataError: an unknown key, or a value of the wrong type or range.
    """
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    if unknown := sorted(str(key) for key in set(values) - known):
        raise BadDataError(f"unknown model setting{'s' * (len(unknown) > 1)}: {', '.join(unknown[:5])}")
    official = {"encoder_dim": 64, "encoder_rates": (2, 4, 8, 8), "decoder_dim": 1536, "decoder_rates": (8, 8, 4, 2)}
    official |= {"n_codebooks": 9, "sample_rate": 44_100}
    merged: dict[str, Any] = {**official, "padding": default_padding, "quantizer_dropout": 0.0, **values}
    for key in ("encoder_rates", "decoder_rates", "encoder_widths", "decoder_widths"):
        if isinstance(merged.get(key), list):
            merged[key] = tuple(merged[key])
    if merged.get("latent_dim") is None:
        # The official rule: as wide as the encoder's last stage. What is wrong with that stage is said below.
        dim, rates = merged["encoder_dim"], merged["encoder_rates"]
        sound = type(dim) is int and type(rates) is tuple and len(rates) <= _MAX_STAGES
        merged["latent_dim"] = dim << len(rates) if sound else 1
    try:
        merged["quantizer_dropout"] = float(merged["quantizer_dropout"])
        return ModelConfig(**merged)
    except (UsageError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise BadDataError(f"model settings: {error}") from error


def _official(sample_rate: int, rates: tuple[int, ...], n_codebooks: int, latent_dim: int = 1024) -> ModelConfig:
    return ModelConfig(
        sample_rate=sample_rate,
        encoder_dim=64,
        encoder_rates=rates,
        latent_dim=latent_dim,
        decoder_dim=1536,
        decoder_rates=rates[::-1],
        n_codebooks=n_codebooks,
        padding=CENTRED,
    )


DEFAULT = "causal-24khz"

PRESETS: dict[str, ModelConfig] = {
    DEFAULT: ModelConfig(decoder_widths=(512, 320, 160, 64, 24), predictor_dim=256, long_term=True),
    "dac-44khz": _official(44_100, (2, 4, 8, 8), 9),
    "dac-44khz-16kbps": _official(44_100, (2, 4, 8, 8), 18, latent_dim=128),
    "dac-24khz": _official(24_000, (2, 4, 5, 8), 32),
    "dac-16khz": _official(16_000, (2, 4, 5, 8), 12),
}


def preset(name: str) -> ModelConfig:
    """The preset of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]
