"""What a listener hears of a stream that went over a simulated network, and how close it is to what was sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamdac import frontend
from streamdac.errors import BadDataError
from streamdac.protocols.messages import Layout
from streamdac.protocols.simulate import Outcome, source_frames

from .hops import Block, CodeArray, HopEncoder

if TYPE_CHECKING:
    from streamdac.codec import Codec

_BLOCK = 256  # frames decoded at once
_SETTLED = 32  # frames after which a model's codes of silence no longer depend on its start
_PESQ_RATE = 16_000  # Hz, of ITU-T P.862.2


@dataclass(frozen=True, eq=False)
class Material:
    """A stream before it is sent."""

    codec: Codec
    codes: CodeArray
    """`[K, C, F]`"""
    clean: Block
    """`[F * hop, C]`: what is played if all of it arrives."""
    silence: CodeArray
    """`[K, C]`: a frame of silence."""

    @property
    def layout(self) -> Layout:
        """The shape of its packets."""
        return Layout(len(self.codes), self.codec.codebook_size, self.codes.shape[1])

    @property
    def frame_seconds(self) -> float:
        """Seconds a frame."""
        return self.codec.hop_length / self.codec.sample_rate


def prepare(codec: Codec, spec: str, *, n_codebooks: int | None, seconds: float) -> Material:
    """Encode the first `seconds` of a source.

    Raises:
        BadDataError: the source gave no audio.
    """
    source = frontend.open_source(spec)
    try:
        encoder = HopEncoder(codec, sample_rate=source.sample_rate, channels=source.channels, n_codebooks=n_codebooks)
        left, parts = round(seconds * source.sample_rate), []
        while left and (block := source.read(min(left, source.sample_rate))) is not None:
            left -= len(block)
            parts.append(encoder.push(block))
        channels = source.channels
    finally:
        source.close()
    codes = np.concatenate([*parts, encoder.flush()], axis=2)
    if not codes.shape[2]:
        raise BadDataError(f"{spec} gave no audio")
    clean = decoded(codec, codes.transpose(2, 0, 1))
    return Material(codec, codes, clean, silence(codec, channels, len(codes)))


def silence(codec: Codec, channels: int, codebooks: int) -> CodeArray:
    """The codes `[K, C]` of a frame of silence."""
    codes = codec.encode(np.zeros(2 * _SETTLED * codec.hop_length, np.float32), codebooks)
    frame: CodeArray = codes[0, :, _SETTLED : _SETTLED + 1]
    return np.repeat(frame, channels, axis=1)


def decoded(codec: Codec, frames: Sequence[CodeArray] | CodeArray) -> Block:
    """The audio `[F * hop, C]` of frames `[k, C]` each, of which k may differ."""
    depth, channels = max(len(frame) for frame in frames), frames[0].shape[1]
    codes = np.full((channels, depth, len(frames)), -1, dtype=np.int64)
    for index, frame in enumerate(frames):
        codes[:, : len(frame), index] = frame.T
    decoder = codec.decoder(batch=channels)
    blocks = [
        decoder.push(np.ascontiguousarray(codes[:, :, first : first + _BLOCK]))
        for first in range(0, len(frames), _BLOCK)
    ]
    audio: Block = np.concatenate([*blocks, decoder.flush()], axis=2)[:, 0].T
    missing = len(frames) * codec.hop_length - len(audio)  # the official 24 and 16 kHz models give 8 samples fewer
    return np.pad(audio, ((0, missing), (0, 0)))


def played(material: Material, outcome: Outcome) -> Block:
    """The audio `[T, C]` of every hop played, gains applied: each ramps from the hop before it to its own."""
    if not outcome.played:
        return np.zeros((0, material.codes.shape[1]), np.float32)
    hop = material.codec.hop_length
    audio = decoded(material.codec, [playable.codes for playable in outcome.played])
    gains = np.array([playable.gain for playable in outcome.played], np.float32)
    before = np.concatenate([gains[:1], gains[:-1]])
    ramp = np.arange(1, hop + 1, dtype=np.float32) / hop
    gain: Block = (before[:, None] + (gains - before)[:, None] * ramp).reshape(-1, 1)
    return audio * gain


def paired(material: Material, outcome: Outcome, audio: Block) -> tuple[Block, Block]:
    """What was sent and what was played in its place, `[T, C]` each.

    Time that the source has not (a delay that became longer) and frames that were left out are in neither.
    """
    hop, channels = material.codec.hop_length, material.codes.shape[1]
    places = source_frames(outcome.played)
    hops = [index for index, place in enumerate(places) if place is not None]
    frames = [place for place in places if place is not None]
    sent = material.clean.reshape(-1, hop, channels)[frames].reshape(-1, channels)
    return sent, audio.reshape(-1, hop, channels)[hops].reshape(-1, channels)


def si_sdr_db(sent: Block, heard: Block) -> float | None:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019), dB; None where there is no distortion.

    Where nothing of the signal is heard it is -inf.
    """
    reference, signal = (block.astype(np.float64).ravel() for block in (sent, heard))
    if len(signal) and np.array_equal(reference, signal):
        return None
    energy, common = float(reference @ reference), float(reference @ signal)
    if not energy or not common:
        return float("-inf")
    target = common / energy * reference
    error = signal - target
    return float(10 * np.log10((target @ target) / (error @ error)))


def pesq_wb(sent: Block, heard: Block, rate: int) -> float | None:
    """PESQ wide-band (ITU-T P.862.2), mean over the channels; None without the package `pesq`, or without speech."""
    try:
        import pesq
    except ImportError:
        return None
    if not (sent.any() and heard.any()):
        return None
    import soxr

    scores = []
    for channel in range(sent.shape[1]):
        pair: list[npt.NDArray[np.float32]] = [
            soxr.resample(np.ascontiguousarray(block[:, channel]), rate, _PESQ_RATE) for block in (sent, heard)
        ]
        try:
            scores.append(float(pesq.pesq(_PESQ_RATE, pair[0], pair[1], "wb")))
        except pesq.PesqError:
            return None
    return float(np.mean(scores))
