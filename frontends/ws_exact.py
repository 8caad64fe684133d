"""One stream after another exactly as it was sent: no clock, nothing skipped, holes concealed so that time stays right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamdac.protocols.conceal import Concealer
from streamdac.protocols.messages import SEQUENCES, End, Layout, Left, Mute, Packet
from streamdac.protocols.packets import packet_codes
from streamdac.protocols.redundancy import recover

from .ws_voices import HeardCounts, Renderer, end_frames, silence_for

if TYPE_CHECKING:
    from streamdac.codec import Codec

Block = npt.NDArray[np.float32]  # [T, C]
CodeArray = npt.NDArray[np.int64]  # [K, C, F]


class Exact:
    """Follows the first stream that speaks until it ends, then the next one; what others say meanwhile is not heard."""

    def __init__(self, codec: Codec, *, layout: Layout, silence: CodeArray, counts: HeardCounts) -> None:
        self.codec, self.layout, self.counts = codec, layout, counts
        self.ended = 0  # streams that came to their End
        self.left = 0  # streams whose sender went before
        self.broken = 0  # streams that a lost session of ours cut off
        self._silence = silence_for(layout, silence)
        self._stream: int | None = None
        self._mute_from: int | None = None
        self._others: set[int] = set()
        # The last hop is partly padding; how much is known at the End only.
        self._held: Block = np.zeros((0, layout.channels), np.float32)

    def hear(self, message: Packet | Mute | End | Left) -> Iterator[Block]:
        """The audio now complete."""
        if self._stream is None and isinstance(message, Packet):
            self._begin(message)
        if message.stream != self._stream:
            if message.stream not in self._others and isinstance(message, Packet):
                self._others.add(message.stream)
                self.counts.refused_streams += 1
            return
        match message:
            case Packet():
                yield from self._packet(message)
            case Mute():
                if self._mute_from is None:  # it is said again all the while
                    self._mute_from = message.first_frame
            case End():
                yield from self._fill(self._last(message.frames))
                yield from self._finish(message.samples - self._first * self.codec.hop_length)
                self.ended += 1
            case Left():
                yield from self._finish(None)
                self.left += 1

    def lost(self) -> Iterator[Block]:
        """The session is gone."""
        if self._stream is not None:
            yield from self._finish(None)
            self.broken += 1

    def _begin(self, packet: Packet) -> None:
        self._stream = packet.stream
        self._first = self._next = packet.first_frame
        self._mute_from = None
        self._sequence = packet.sequence - 1  # of the newest packet
        self._silent = 0  # frames, muted
        self._samples = 0  # given out
        self._renderer = Renderer(self.codec, self.layout.channels)
        self._concealer = Concealer(self.layout, silence=self._silence, foretells=self.codec.foretells)
        self._others.discard(packet.stream)

    def _packet(self, packet: Packet) -> Iterator[Block]:
        silent, known = self._silent, self.counts.concealed + self.counts.recovered
        coarse = recover(self.layout, packet)
        if coarse is not None:
            first, codes = coarse
            yield from self._fill(first)
            for i in range(max(0, self._next - first), codes.shape[2]):
                self.counts.recovered += 1
                yield from self._play(codes[:, :, i])
        yield from self._fill(packet.first_frame)
        codes = packet_codes(self.layout, packet)
        for i in range(max(0, self._next - packet.first_frame), packet.frames):
            self.counts.played += 1
            yield from self._play(codes[:, :, i])
        known = self.counts.concealed + self.counts.recovered - known
        self._end_mute(packet, silent=self._silent - silent, known=known)

    def _end_mute(self, packet: Packet, *, silent: int, known: int) -> None:
        """Count the packets lost after a Mute: their frames are taken for silence, only their numbers are missing.

        Before this packet `silent` frames were muted and `known` ones were counted as lost already.
        """
        further = (packet.sequence - self._sequence) % SEQUENCES
        if not 0 < further < SEQUENCES // 2:
            return  # an old one
        self.counts.concealed += max(0, min(further - 1 - known, silent))
        self._sequence = packet.sequence
        self._mute_from = None

    def _play(self, codes: CodeArray) -> Iterator[Block]:
        self._concealer.played(codes)
        self._next += 1
        yield from self._give(self._renderer.push(codes))

    def _fill(self, frame: int) -> Iterator[Block]:
        """Silence that was meant and concealment of what was not, up to `frame`."""
        while self._next < frame:
            muted = self._mute_from is not None and self._next >= self._mute_from
            patch = self._concealer.silence() if muted else self._concealer.patch()
            self.counts.concealed += not muted
            self._silent += muted
            self._next += 1
            yield from self._give(self._renderer.push(patch.codes, patch.gain))

    def _last(self, frames: int) -> int:
        """How far an End of so many frames is followed: what did not come is concealed for a while only."""
        if self._mute_from is not None:
            return frames
        return min(frames, self._next + end_frames(self.codec.hop_length / self.codec.sample_rate))

    def _give(self, block: Block) -> Iterator[Block]:
        if not len(block):
            return
        ready, self._held = self._held, block
        if len(ready):
            self._samples += len(ready)
            yield ready

    def _finish(self, samples: int | None) -> Iterator[Block]:
        """The rest, cut to the number of samples of the whole where that is known."""
        yield from self._give(self._renderer.flush())
        last = self._held
        self._held = last[:0]
        if samples is not None:
            last = last[: max(0, samples - self._samples)]
        if len(last):
            yield last
        self._stream = None
