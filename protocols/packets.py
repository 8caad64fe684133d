"""Packets made from codes, opened into codes, and thinned by a relay that decodes nothing."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..errors import RemoteProtocolError, UsageError
from . import bitpack
from .messages import MAX_FRAMES, MAX_PAYLOAD, SEQUENCES, Layout, Packet


def make_packet(
    layout: Layout,
    codes: npt.NDArray[np.integer],
    *,
    sequence: int,
    first_frame: int,
    redundancy: bytes = b"",
    stream: int = 0,
) -> Packet:
    """One packet of codes `[K, C, F]`; `sequence` is taken modulo the sequence space."""
    if codes.ndim != 3 or codes.shape[1] != layout.channels or not 1 <= codes.shape[0] <= layout.codebooks:
        raise UsageError(
            f"got codes of shape {codes.shape}, need [1 to {layout.codebooks} codebooks, {layout.channels} channels, "
            "frames]"
        )
    codebooks, _, frames = codes.shape
    if not 1 <= frames <= max_frames(layout, codebooks):
        raise UsageError(f"got {frames} frames for one packet, need 1 to {max_frames(layout, codebooks)}")
    payload = bitpack.pack(codes, layout.bits, codebook_size=layout.codebook_size)
    return Packet(stream, sequence % SEQUENCES, first_frame, frames, codebooks, payload, redundancy)


def max_frames(layout: Layout, codebooks: int) -> int:
    """Frames of so many codebooks that fit into one packet; at least 1 within every limit of a header."""
    return min(MAX_FRAMES, MAX_PAYLOAD * 8 // (codebooks * layout.channels * layout.bits))


def check_packet(layout: Layout, packet: Packet) -> None:
    """Refuse what does not fit the layout, without decoding: codebooks, byte count, spare bits."""
    if packet.codebooks > layout.codebooks:
        raise RemoteProtocolError(f"got a packet of {packet.codebooks} codebooks, need at most {layout.codebooks}")
    bitpack.check(packet.payload, **_shape(layout, packet))


def packet_codes(layout: Layout, packet: Packet) -> bitpack.CodeArray:
    """The codes `[K, C, F]` of a packet; whatever does not fit the layout is the sender's fault."""
    check_packet(layout, packet)
    return bitpack.unpack(packet.payload, **_shape(layout, packet), codebook_size=layout.codebook_size)


def _shape(layout: Layout, packet: Packet) -> dict[str, int]:
    return {
        "codebooks": packet.codebooks,
        "channels": layout.channels,
        "frames": packet.frames,
        "bits": layout.bits,
    }


def thin(layout: Layout, packet: Packet, codebooks: int) -> Packet:
    """The packet with at most `codebooks` codebooks; its redundancy, coarse already, stays."""
    if codebooks >= packet.codebooks:
        return packet
    payload = bitpack.keep(packet.payload, **_shape(layout, packet) | {"codebooks": codebooks})
    return replace(packet, codebooks=codebooks, payload=payload)
