"""Lengths as the official tool has them: its overlapping windows, and what an archive's frames must come to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple, Protocol

from .archive import Archive
from .config import ModelConfig
from .errors import ModelMismatchError, UsageError
from .executor import Executor
from .nn.network import DILATIONS
from .rates import resampled_samples, resampling_problem

# From 10 hours on the official tool resamples by ffmpeg, which may give a few samples more or less.
_FFMPEG_SECONDS = 36_000
_FFMPEG_SLACK = 64


class Engine(Protocol):
    """A model that can be run with and without its padding."""

    @property
    def config(self) -> ModelConfig:
        """The model's geometry."""
        ...

    @property
    def padded(self) -> Executor:
        """The network as it is."""
        ...

    @property
    def unpadded(self) -> Executor:
        """The network without any padding (`build_plan(network, padded=False)`): codes one window of chunked coding."""
        ...


class _Layer(NamedTuple):
    kernel: int
    dilation: int = 1
    stride: int = 1
    transposed: bool = False

    def forward(self, samples: int) -> int:
        """Outputs of `samples` inputs without padding; may be negative."""
        if self.transposed:
            return (samples - 1) * self.stride + self.kernel
        return (samples - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def backward(self, samples: int) -> int:
        """Inputs for `samples` outputs, rounded up, as the official delay is found."""
        if self.transposed:
            return -((self.kernel - samples) // self.stride) + 1
        return (samples - 1) * self.stride + self.dilation * (self.kernel - 1) + 1


_RESIDUALS = [layer for dilation in DILATIONS for layer in (_Layer(7, dilation), _Layer(1))]


def _encoder_layers(config: ModelConfig) -> list[_Layer]:
    stages = [layer for rate in config.encoder_rates for layer in (*_RESIDUALS, _Layer(2 * rate, stride=rate))]
    return [_Layer(7), *stages, _Layer(3)]


def _decoder_layers(config: ModelConfig) -> list[_Layer]:
    stages = [
        layer
        for rate in config.decoder_rates
        for layer in (_Layer(2 * rate, stride=rate, transposed=True), *_RESIDUALS)
    ]
    return [_Layer(7), *stages, _Layer(7)]


def _forward(layers: list[_Layer], samples: int) -> int:
    for layer in layers:
        samples = layer.forward(samples)
    return samples


@dataclass(frozen=True)
class Windows:
    """The official chunked coding. Everything in samples at the model's rate, but `frames`."""

    samples: int
    """Length of a window, a whole number of hops."""
    step: int
    """From one window to the next: what the network without padding leaves of one. Not a whole number of hops."""
    frames: int
    """Of one window: the archive's `chunk_length`."""
    delay: int
    """Zeros before the signal, so that a window's output is in time with the signal."""

    def count(self, samples: int) -> int:
        """Windows that a signal takes."""
        return -(-samples // self.step)


def windows(config: ModelConfig, seconds: float) -> Windows:
    """Windows of `seconds`, rounded up to whole hops.

    Raises:
        UsageError: not a number above 0, too short for the model, or the model is causal.
    """
    if config.causal:
        raise UsageError("a causal model is encoded seamlessly: windows (win_duration) are for official models")
    if not 0 < seconds < math.inf:
        raise UsageError(f"win_duration is {seconds!r}, need a number of seconds above 0")
    hop = config.hop_length
    found = _windows_of(config, -(-int(seconds * config.sample_rate) // hop))
    if found.step <= 0:
        shortest = next(hops for hops in count(1) if _windows_of(config, hops).step > 0)
        needed = ((shortest - 1) * hop + 1) / config.sample_rate
        raise UsageError(
            f"a window of {seconds:g} s ({found.samples} samples) is too short: without padding this model leaves nothing of it; "
            f"need at least {math.ceil(needed * 100) / 100:.2f} s"
        )
    return found


def windows_of_frames(config: ModelConfig, frames: int) -> Windows | None:
    """The windows whose `chunk_length` is `frames`; None if there are none."""
    for hops in count(frames):
        found = _windows_of(config, hops)
        if found.frames >= frames:
            return found if found.frames == frames and found.step > 0 else None
    return None


def _windows_of(config: ModelConfig, hops: int) -> Windows:
    encoder, decoder = _encoder_layers(config), _decoder_layers(config)
    samples = hops * config.hop_length
    frames = _forward(encoder, samples)
    nothing = needed = _forward(encoder + decoder, 0)
    for layer in reversed(encoder + decoder):
        needed = layer.backward(needed)
    return Windows(samples=samples, step=_forward(decoder, frames), frames=frames, delay=(needed - nothing) // 2)


def decoded_samples(config: ModelConfig, frames: int) -> int:
    """Samples that `frames` frames decode to with padding: frames * hop, fewer where an official decoder has an odd stride."""
    samples = frames
    for rate in config.decoder_rates:
        samples = samples * rate if config.causal else (samples + 1) * rate - 2 * math.ceil(rate / 2)
    return samples


def whole_frames(config: ModelConfig, original: int, sample_rate: int) -> int:
    """Frames for a signal coded in one piece, so many that the official decoder does not come out short of `original` samples."""
    frames = -(-resampled_samples(original, sample_rate, config.sample_rate) // config.hop_length)
    while resampled_samples(decoded_samples(config, frames), config.sample_rate, sample_rate) < original:
        frames += 1
    return frames


def check_archive(archive: Archive, config: ModelConfig) -> None:
    """Refuse an archive that this model cannot have made; the official tool decodes such a one to noise.

    Raises:
        ModelMismatchError: more codebooks or larger codes than the model has, or frames that disagree with
            `original_length` at the model's rate and hop.
    """
    if archive.n_codebooks > config.n_codebooks:
        raise ModelMismatchError(f"archive of {archive.n_codebooks} codebooks, the model has {config.n_codebooks}")
    if (highest := int(archive.codes.max())) >= config.codebook_size:
        raise ModelMismatchError(
            f"archive with code {highest}, the model's codebooks have {config.codebook_size} entries"
        )
    if problem := resampling_problem(config.sample_rate, archive.sample_rate):
        raise ModelMismatchError(f"archive of {archive.sample_rate} Hz: {problem}")
    if not archive.padding and config.causal:
        raise ModelMismatchError("archive of an official model coded in windows, this model is causal")
    fewest, most = _frames_expected(archive, config)
    if not fewest <= archive.frames <= most:
        made = "in one piece" if archive.padding else f"in chunks of {archive.chunk_length}"
        expected = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise ModelMismatchError(
            f"archive of {archive.frames} frames {made} for {archive.original_length} samples at {archive.sample_rate} Hz; "
            f"a model of {config.sample_rate} Hz and hop {config.hop_length} makes {expected}: it belongs to another model"
        )


def _frames_expected(archive: Archive, config: ModelConfig) -> tuple[int, int]:
    samples = resampled_samples(archive.original_length, archive.sample_rate, config.sample_rate)
    slack = _FFMPEG_SLACK if archive.seconds >= _FFMPEG_SECONDS else 0
    low, high = max(1, samples - slack), samples + slack
    if archive.padding:
        # The official tool rounds up to whole hops, and we append a frame where its decoder would fail.
        most = max(-(-high // config.hop_length), whole_frames(config, archive.original_length, archive.sample_rate))
        return -(-low // config.hop_length), most
    found = windows_of_frames(config, archive.chunk_length)
    if found is None:
        return 0, 0
    return found.count(low) * found.frames, found.count(high) * found.frames
