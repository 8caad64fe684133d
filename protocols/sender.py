"""The sending end of one stream: codes in, messages out, with sequence numbers, redundancy and mute.

Frames are gathered until a packet is full. What the receiver asked for (`Adapt`) or the rate control decided comes in
through `adjust` and holds from the next packet on.
"""

import numpy as np
import numpy.typing as npt

from ..errors import LocalProtocolError, UsageError
from .bitpack import CodeArray
from .messages import End, Layout, Message, Mute, Packet
from .packets import make_packet, max_frames
from .redundancy import Redundancy


class Sender:
    """Makes the packets of one stream of a session. While muted, a Mute is said again every `mute_frames` frames."""

    def __init__(
        self,
        layout: Layout,
        *,
        frames_per_packet: int = 1,
        redundancy_frames: int = 0,
        redundancy_codebooks: int = 1,
        stream: int = 0,
        mute_frames: int = 75,
    ) -> None:
        self.layout = layout
        self.stream = stream
        self.frames = 0  # taken so far, muted ones included
        self.packets = 0
        self.codebooks = layout.codebooks
        self.mute_frames = mute_frames
        self._redundancy = Redundancy(layout)
        self._wanted = redundancy_frames, redundancy_codebooks  # what fits may be less
        self._kept: CodeArray | None = None
        self._unsaid: int | None = None  # muted frames since the last Mute; None while not muted
        self._ended = False
        self.adjust(frames_per_packet=frames_per_packet)

    def adjust(
        self,
        *,
        codebooks: int | None = None,
        frames_per_packet: int | None = None,
        redundancy_frames: int | None = None,
        redundancy_codebooks: int | None = None,
    ) -> None:
        """Change what packets hold, within what the session and one packet allow; None leaves a value as it is."""
        if any(count is not None and count < 1 for count in (codebooks, frames_per_packet)):
            raise UsageError(f"got {codebooks} codebooks, {frames_per_packet} frames a packet, need at least 1")
        if codebooks is not None:
            self.codebooks = min(codebooks, self.layout.codebooks)
        if frames_per_packet is not None:
            self.frames_per_packet = min(frames_per_packet, max_frames(self.layout, self.layout.codebooks))
        frames, coarse = self._wanted
        frames = frames if redundancy_frames is None else redundancy_frames
        coarse = coarse if redundancy_codebooks is None else redundancy_codebooks
        self._redundancy.adjust(frames=frames, codebooks=coarse)
        self._wanted = frames, coarse

    def push(self, codes: npt.NDArray[np.integer]) -> list[Packet]:
        """The packets that codes `[K, C, F]` complete; codebooks beyond `self.codebooks` are left out."""
        self._check_open()
        self._unsaid = None
        fresh = np.asarray(codes[: self.codebooks], dtype=np.int64)
        packets = []
        if self._kept is not None and fresh.shape[:2] != self._kept.shape[:2]:
            packets += self.flush()
        frames = fresh if self._kept is None else np.concatenate([self._kept, fresh], axis=-1)
        self._kept = None
        while frames.shape[-1] >= self.frames_per_packet:
            packets.append(self._packet(frames[..., : self.frames_per_packet]))
            frames = frames[..., self.frames_per_packet :]
        self._kept = frames.copy() if frames.shape[-1] else None
        return packets

    def flush(self) -> list[Packet]:
        """A packet of the frames kept, if there are any."""
        self._check_open()
        kept, self._kept = self._kept, None
        return [] if kept is None else [self._packet(kept)]

    def mute(self, frames: int) -> list[Message]:
        """Let so many silent frames pass without sending them."""
        messages: list[Message] = [*self.flush()]
        if not frames:
            return messages
        if self._unsaid is None or self._unsaid >= self.mute_frames:
            messages.append(Mute(self.stream, self.frames))
            self._unsaid = 0
        self._unsaid = (self._unsaid or 0) + frames
        self._redundancy.clear()
        self.frames += frames
        return messages

    def end(self, samples: int) -> list[Message]:
        """The frames kept and the End."""
        messages: list[Message] = [*self.flush(), End(self.stream, samples, self.frames)]
        self._ended = True
        return messages

    def _check_open(self) -> None:
        if self._ended:
            raise LocalProtocolError("the stream has ended")

    def _packet(self, codes: CodeArray) -> Packet:
        packet = make_packet(
            self.layout,
            codes,
            sequence=self.packets,
            first_frame=self.frames,
            redundancy=self._redundancy.field(),
            stream=self.stream,
        )
        self._redundancy.add(codes)
        self.packets += 1
        self.frames += packet.frames
        return packet
