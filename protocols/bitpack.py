"""Codes to bytes and back: fixed-width, MSB first, ordered codebook, then channel, then frame, without alignment.

Codebook comes first so that a relay keeps the coarse K' codebooks by cutting bytes (`keep`), without decoding. The bits
left over in the last byte are zero; anything else is refused.
"""

import numpy as np
import numpy.typing as npt

from ..errors import RemoteProtocolError, UsageError

CodeArray = npt.NDArray[np.int64]

MAX_BITS = 16


def bits_for(codebook_size: int) -> int:
    """Bits per code: ceil(log2(codebook_size)), 10 for 1024 entries."""
    if not 2 <= codebook_size <= 1 << MAX_BITS:
        raise UsageError(f"got a codebook of {codebook_size} entries, need 2 to {1 << MAX_BITS}")
    return (codebook_size - 1).bit_length()


def payload_bytes(*, codebooks: int, channels: int, frames: int, bits: int) -> int:
    """Bytes that so many codes take."""
    return (codebooks * channels * frames * bits + 7) // 8


def pack(codes: npt.NDArray[np.integer], bits: int, *, codebook_size: int | None = None) -> bytes:
    """Pack codes `[K, C, F]` of `bits` bits each; every code is below `codebook_size` (2**bits unless given)."""
    if codes.ndim != 3:
        raise UsageError(f"got codes of shape {codes.shape}, need [codebooks, channels, frames]")
    if not np.issubdtype(codes.dtype, np.integer):
        raise UsageError(f"got codes of type {codes.dtype}, need integers")
    if not 1 <= bits <= MAX_BITS:
        raise UsageError(f"got {bits} bits a code, need 1 to {MAX_BITS}")
    limit = codebook_size or 1 << bits
    if codes.size and (codes.min() < 0 or codes.max() >= limit):
        raise UsageError(f"got codes from {codes.min()} to {codes.max()}, need 0 to {limit - 1}")
    words = np.ascontiguousarray(codes, dtype=">u2").view(np.uint8).reshape(-1, 2)
    return np.packbits(np.unpackbits(words, axis=1)[:, 16 - bits :]).tobytes()


def check(payload: bytes, *, codebooks: int, channels: int, frames: int, bits: int) -> None:
    """Refuse a payload whose byte count is not that of so many codes, or whose spare bits are not zero."""
    need = payload_bytes(codebooks=codebooks, channels=channels, frames=frames, bits=bits)
    if len(payload) != need:
        raise RemoteProtocolError(
            f"got {len(payload)} payload bytes, need {need} for {codebooks} codebooks, {channels} channels, "
            f"{frames} frames of {bits} bits"
        )
    spare = need * 8 - codebooks * channels * frames * bits
    if payload and payload[-1] & (1 << spare) - 1:
        raise RemoteProtocolError(f"the {spare} spare bits of the payload are not zero")


def unpack(
    payload: bytes, *, codebooks: int, channels: int, frames: int, bits: int, codebook_size: int | None = None
) -> CodeArray:
    """The codes `[K, C, F]` of a payload of exactly the bytes they take, with zero spare bits and no code too large."""
    check(payload, codebooks=codebooks, channels=channels, frames=frames, bits=bits)
    count = codebooks * channels * frames
    stream = np.unpackbits(np.frombuffer(payload, dtype=np.uint8))
    words = np.zeros((count, 16), dtype=np.uint8)
    words[:, 16 - bits :] = stream[: count * bits].reshape(count, bits)
    codes = np.packbits(words, axis=1).view(">u2").astype(np.int64).reshape(codebooks, channels, frames)
    limit = codebook_size or 1 << bits
    if codes.size and codes.max() >= limit:
        raise RemoteProtocolError(f"got code {codes.max()}, need 0 to {limit - 1}")
    return codes


def keep(payload: bytes, *, codebooks: int, channels: int, frames: int, bits: int) -> bytes:
    """The payload of the first `codebooks` codebooks only: bytes cut, spare bits zeroed, nothing decoded."""
    need = payload_bytes(codebooks=codebooks, channels=channels, frames=frames, bits=bits)
    if codebooks < 1 or need > len(payload):
        raise UsageError(f"cannot keep {codebooks} codebooks ({need} bytes) of a payload of {len(payload)} bytes")
    spare = need * 8 - codebooks * channels * frames * bits
    return payload[: need - 1] + bytes([payload[need - 1] & 0xFF << spare & 0xFF])
