"""Coarse codebooks of the previous frames ride in each packet, so that a lost packet comes back at lower quality.

The redundancy field of a packet that begins at frame f: a byte n (frames, 1 to 64), a byte k (codebooks, 1 to 64), the
codes `[k, C, n]` of the frames f - n to f - 1, packed as a payload is. An empty field means none. Residual codebooks
make this cheap: the first one or two alone are a coarser version of the same sound. To make up for one lost packet, n
must be at least its frames.
"""

from collections import deque

import numpy as np
import numpy.typing as npt

from ..errors import RemoteProtocolError, UsageError
from . import bitpack
from .bitpack import CodeArray
from .messages import MAX_CODEBOOKS, MAX_FRAMES, MAX_PAYLOAD, Layout, Packet

_HEAD = 2  # bytes


def most_frames(layout: Layout, codebooks: int) -> int:
    """Frames of so many codebooks that fit into a redundancy field."""
    return min(MAX_FRAMES, (MAX_PAYLOAD - _HEAD) * 8 // (codebooks * layout.channels * layout.bits))


class Redundancy:
    """The sender's memory: fields for packets, with coarse codes of up to `frames` frames before each.

    `frames` and `codebooks` may be changed at any time; 0 of either is none.
    """

    def __init__(self, layout: Layout, *, frames: int = 0, codebooks: int = 1) -> None:
        self.layout = layout
        self._past: deque[CodeArray] = deque(maxlen=MAX_FRAMES)  # [K, C] each, newest last
        self.adjust(frames=frames, codebooks=codebooks)

    def adjust(self, *, frames: int, codebooks: int) -> None:
        """Carry so many codebooks of so many frames from now on; bounded by the model and by what fits."""
        if not (0 <= frames <= MAX_FRAMES and 0 <= codebooks <= MAX_CODEBOOKS):
            raise UsageError(
                f"got redundancy of {frames} frames, {codebooks} codebooks, need 0 to {MAX_FRAMES} and {MAX_CODEBOOKS}"
            )
        self.codebooks = min(codebooks, self.layout.codebooks)
        self.frames = min(frames, most_frames(self.layout, self.codebooks)) if self.codebooks else 0

    def add(self, codes: npt.NDArray[np.integer]) -> None:
        """Remember codes `[K, C, F]` that were just sent."""
        self._past.extend(np.asarray(codes[:, :, i], dtype=np.int64) for i in range(codes.shape[-1]))

    def clear(self) -> None:
        """Forget: the next packet does not follow what was sent last."""
        self._past.clear()

    def field(self) -> bytes:
        """The redundancy of a packet that follows what was added; empty if there is none."""
        frames = min(self.frames, len(self._past))
        if not frames:
            return b""
        past = list(self._past)[-frames:]
        codebooks = min(self.codebooks, *(len(codes) for codes in past))
        codes = np.stack([frame[:codebooks] for frame in past], axis=-1)
        return bytes([frames, codebooks]) + bitpack.pack(
            codes, self.layout.bits, codebook_size=self.layout.codebook_size
        )


def check_field(layout: Layout, packet: Packet) -> tuple[int, int]:
    """Frames and codebooks of a packet's redundancy, (0, 0) if there is none; refused if its bytes do not fit."""
    field = packet.redundancy
    if not field:
        return 0, 0
    if len(field) < _HEAD:
        raise RemoteProtocolError(f"got a redundancy field of {len(field)} bytes, need at least {_HEAD}")
    frames, codebooks = field[0], field[1]
    if not 1 <= frames <= min(MAX_FRAMES, packet.first_frame):
        raise RemoteProtocolError(
            f"got redundancy of {frames} frames before frame {packet.first_frame}, need 1 to "
            f"{min(MAX_FRAMES, packet.first_frame)}"
        )
    if not 1 <= codebooks <= layout.codebooks:
        raise RemoteProtocolError(f"got redundancy of {codebooks} codebooks, need 1 to {layout.codebooks}")
    bitpack.check(field[_HEAD:], codebooks=codebooks, channels=layout.channels, frames=frames, bits=layout.bits)
    return frames, codebooks


def recover(layout: Layout, packet: Packet) -> tuple[int, CodeArray] | None:
    """First frame and codes `[k, C, n]` of the frames before a packet, from its redundancy; None if it has none."""
    frames, codebooks = check_field(layout, packet)
    if not frames:
        return None
    codes = bitpack.unpack(
        packet.redundancy[_HEAD:],
        codebooks=codebooks,
        channels=layout.channels,
        frames=frames,
        bits=layout.bits,
        codebook_size=layout.codebook_size,
    )
    return packet.first_frame - frames, codes
