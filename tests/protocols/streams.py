"""A stream's packets and layout for the tests of its receiving end."""

from __future__ import annotations

import numpy as np

from streamdac.protocols.bitpack import CodeArray
from streamdac.protocols.messages import Layout, Packet
from streamdac.protocols.sender import Sender

LAYOUT = Layout(4, 1024, 1)
HOP = 0.01  # s a frame, for times that are easily read


def codes(frames: int, *, layout: Layout = LAYOUT, seed: int = 0) -> CodeArray:
    """Random codes `[K, C, F]`."""
    shape = layout.codebooks, layout.channels, frames
    return np.random.default_rng(seed).integers(0, layout.codebook_size, shape)


def packets(
    frames: int, *, per_packet: int = 1, redundancy: int = 0, coarse: int = 1, layout: Layout = LAYOUT
) -> list[Packet]:
    """The packets of `codes(frames)`."""
    sender = Sender(layout, frames_per_packet=per_packet, redundancy_frames=redundancy, redundancy_codebooks=coarse)
    return [*sender.push(codes(frames, layout=layout)), *sender.flush()]
