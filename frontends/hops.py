"""Audio to the codes of its hops and back: resampling, rows for channels, concealment. No packets, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamdac.config import LOST
from streamdac.convert import Converter
from streamdac.errors import UsageError

if TYPE_CHECKING:
    from streamdac.codec import Codec

Block = npt.NDArray[np.float32]  # [T, C]
CodeArray = npt.NDArray[np.int64]  # [K, C, F]

MAX_CHANNELS = 32
_REPEATS = 3  # frames that a gap repeats before it turns to silence: 40 ms, about one phone
_GAP_FRAMES = 64  # decoded at once, so that a long gap takes no memory


def runs(codes: CodeArray) -> Iterator[CodeArray]:
    """Codes `[K, C, F]`, -1 where unused in all channels, as pieces of one number of codebooks each, as packets have."""
    depths = (codes[:, 0] >= 0).sum(axis=0)
    edges = np.flatnonzero(np.diff(depths)) + 1
    for first, last in zip([0, *edges], [*edges, len(depths)], strict=True):
        if first < last:
            yield codes[: depths[first], :, first:last]


class HopEncoder:
    """Blocks of any length at any rate to codes `[K, C, F]`; each channel is a row.

    With `vbr` hops get `n_codebooks` where any channel is loud and fewer below; codes left out are -1, see `runs`.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        sample_rate: int,
        channels: int,
        n_codebooks: int | None = None,
        quality: str = "HQ",
        vbr: bool = False,
    ) -> None:
        if not 1 <= channels <= MAX_CHANNELS:
            raise UsageError(f"{channels} channels, need 1 to {MAX_CHANNELS}")
        self.codec, self.channels = codec, channels
        self.encoder = codec.encoder(batch=channels, n_codebooks=n_codebooks, vbr=vbr, together=True)
        self._converter = Converter(sample_rate, codec.sample_rate, channels, quality=quality)
        self._held: Block = np.zeros((0, channels), np.float32)
        self._frames = self._codes = 0

    @property
    def kbps(self) -> float:
        """Of the codes so far."""
        seconds = self._frames * self.codec.hop_length / self.codec.sample_rate
        return self._codes * self.codec.config.bits_per_code / seconds / 1000 if seconds else 0.0

    @property
    def taken(self) -> int:
        """Samples so far, at the source's rate."""
        return self._converter.taken

    def push(self, block: Block) -> CodeArray:
        """Codes of the frames now complete."""
        return self._encode(self._converter.push(block))

    def flush(self) -> CodeArray:
        """Codes of the rest; the last hop is filled up with zeros."""
        first = self._encode(self._converter.flush())
        rest = self._held
        self._held = rest[:0]
        if len(rest):
            padded = np.zeros((self.codec.hop_length, self.channels), np.float32)
            padded[: len(rest)] = rest
            first = np.concatenate([first, self._push(padded)], axis=2)
        return np.concatenate([first, self._counted(self.encoder.flush())], axis=2)

    def _encode(self, block: Block) -> CodeArray:
        if len(self._held):
            block = np.concatenate([self._held, block])
        whole = len(block) // self.codec.hop_length * self.codec.hop_length
        self._held = block[whole:].copy()  # the caller may fill its array anew
        return self._push(block[:whole])

    def _push(self, block: Block) -> CodeArray:
        codes: CodeArray = self.encoder.push(np.ascontiguousarray(block.T[:, None]))
        return self._counted(codes)

    def _counted(self, codes: CodeArray) -> CodeArray:
        """Codes `[C, K, F]` as `[K, C, F]`."""
        self._frames += codes.shape[2]
        self._codes += int((codes >= 0).sum())
        return codes.transpose(1, 0, 2)


class HopDecoder:
    """Codes `[K, C, F]` to audio `[T, C]` at the model's rate, with gaps concealed in the code domain."""

    def __init__(self, codec: Codec, *, channels: int) -> None:
        self.codec, self.channels = codec, channels
        self.decoder = codec.decoder(batch=channels)
        self._last: CodeArray | None = None

    def push(self, codes: CodeArray) -> Block:
        """The audio now complete."""
        if codes.shape[2]:
            self._last = codes[:, :, -1:]
        return self._blocks(self.decoder.push(np.ascontiguousarray(codes.transpose(1, 0, 2))))

    def conceal(self, frames: int) -> Iterator[Block]:
        """Audio for `frames` lost frames: the last one repeated a few times (or foretold), then the codes of silence."""
        if self._last is not None and frames:
            repeats = min(frames, _REPEATS)
            last = np.full_like(self._last, LOST) if self.codec.foretells else self._last
            yield self._blocks(self.decoder.push(self._rows(np.repeat(last, repeats, axis=2))))
            frames -= repeats
            self._last = None
        while frames > 0:
            count = min(frames, _GAP_FRAMES)
            yield self._blocks(self.decoder.push(self._rows(np.repeat(self._silence, count, axis=2))))
            frames -= count

    def flush(self) -> Block:
        """The rest."""
        return self._blocks(self.decoder.flush())

    @cached_property
    def _silence(self) -> CodeArray:
        """One frame of silence, once the encoder has settled."""
        # Far from both edges: the encoder of the default model sees 52 frames.
        codes: CodeArray = self.codec.encode(np.zeros(128 * self.codec.hop_length, np.float32))
        return np.repeat(codes.transpose(1, 0, 2)[:, :, 64:65], self.channels, axis=1)

    @staticmethod
    def _rows(codes: CodeArray) -> CodeArray:
        return np.ascontiguousarray(codes.transpose(1, 0, 2))

    @staticmethod
    def _blocks(audio: Block) -> Block:
        return audio[:, 0].T
