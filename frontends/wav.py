"""WAV as a stream: a header of unknown length read from a pipe, and one written to it.

libsndfile wants to seek; these few lines do not. Formats: PCM of 8 to 32 bits, float of 32 and 64 bits.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from streamdac.errors import BadDataError

from .rates import MOST_RATE

Block = npt.NDArray[np.float32]
UNKNOWN = 0xFFFFFFFF  # a length that the writer did not know
SOX_UNKNOWN = 0x7FFFF000  # SoX's, in whole blocks
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MAX_CHANNELS = 32
_MAX_HEADER = 1 << 26  # bytes before the samples, in all


@dataclass(frozen=True)
class SampleFormat:
    """How one sample is stored, little-endian."""

    bits: int
    is_float: bool = False

    @property
    def width(self) -> int:
        """Bytes per sample."""
        return self.bits // 8

    def decode(self, data: bytes, channels: int) -> Block:
        """Interleaved samples to `[T, C]` in [-1, 1]."""
        if self.is_float:
            samples: npt.NDArray[np.float32] = np.frombuffer(data, f"<f{self.width}").astype(np.float32)
        elif self.bits == 8:
            samples = (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
        elif self.bits == 24:
            parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
            wide = np.zeros((len(parts), 4), np.uint8)
            wide[:, 1:] = parts
            samples = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2.0**31)
        else:
            samples = np.frombuffer(data, f"<i{self.width}").astype(np.float32) / np.float32(2.0 ** (self.bits - 1))
        return samples.reshape(-1, channels)

    def encode(self, block: Block) -> bytes:
        """`[T, C]` in [-1, 1] to interleaved samples; PCM is rounded and clipped."""
        if self.is_float:
            return block.astype(f"<f{self.width}").tobytes()
        assert self.bits == 16
        return pcm16(block).astype("<i2").tobytes()


def pcm16(block: Block) -> npt.NDArray[np.int16]:
    """Rounded and clipped to 16 bits: the one way in which files and pipes are written."""
    rounded: npt.NDArray[np.int16] = np.clip(np.rint(block * np.float32(32768)), -32768, 32767).astype(np.int16)
    return rounded


RAW_FORMATS = {"s16le": SampleFormat(16), "f32le": SampleFormat(32, is_float=True)}


class UnreadWavError(BadDataError):
    """A WAV of a kind that is not read here; libsndfile may read it from a file. `start`: the bytes taken so far."""

    def __init__(self, message: str, start: bytes = b"") -> None:
        super().__init__(message)
        self.start = start


@dataclass(frozen=True)
class WavHeader:
    """What the header of a WAV says."""

    sample_rate: int
    channels: int
    format: SampleFormat
    samples: int | None
    """None where the writer did not know."""


def read_header(stream: BinaryIO, *, start: bytes = b"") -> WavHeader:
    """Read up to the first sample. `start`: bytes already taken off the stream.

    Raises:
        BadDataError: not a WAV.
        UnreadWavError: of a kind that is not read here.
    """
    reader = _Exact(stream, start)
    try:
        return _read_header(reader)
    except UnreadWavError as error:
        raise UnreadWavError(str(error), bytes(reader.taken)) from None


def _read_header(reader: _Exact) -> WavHeader:
    riff, _, wave = struct.unpack("<4sI4s", reader.take(12))
    if riff != b"RIFF" or wave != b"WAVE":
        raise BadDataError(f"not a WAV: it begins with {riff!r} ... {wave!r}")
    found: tuple[int, int, SampleFormat] | None = None
    while True:
        name, size = struct.unpack("<4sI", reader.take(8))
        if name == b"data":
            break
        if (taken := len(reader.taken)) + size > _MAX_HEADER:
            raise BadDataError(
                f"WAV: chunk {name!r} of {size} bytes after {taken} others before the samples, at most {_MAX_HEADER} are read"
            )
        body = reader.take(size + size % 2)
        if name == b"fmt ":
            found = _parse_format(body)
    if found is None:
        raise BadDataError("WAV: no fmt chunk before the samples")
    rate, channels, form = found
    samples = size // (form.width * channels)
    # Pipes are written with 0 or the largest number for a length that is not known yet.
    unknown = size == 0 or size >= UNKNOWN - 64 or samples == SOX_UNKNOWN // (form.width * channels)
    return WavHeader(rate, channels, form, None if unknown else samples)


def _parse_format(body: bytes) -> tuple[int, int, SampleFormat]:
    if len(body) < 16:
        raise BadDataError(f"WAV: fmt chunk of {len(body)} bytes, need 16")
    kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if kind == _EXTENSIBLE and len(body) >= 26:
        (kind,) = struct.unpack_from("<H", body, 24)
    allowed = {_PCM: (8, 16, 24, 32), _FLOAT: (32, 64)}.get(kind, ())
    if bits not in allowed:
        raise UnreadWavError(f"WAV: format {kind} with {bits} bits; need PCM of 8, 16, 24, 32 or float of 32, 64 bits")
    if not 1 <= channels <= _MAX_CHANNELS or not 1 <= rate <= MOST_RATE:
        raise BadDataError(f"WAV: {channels} channels at {rate} Hz; need 1 to {_MAX_CHANNELS} and up to {MOST_RATE} Hz")
    return rate, channels, SampleFormat(bits, is_float=kind == _FLOAT)


def header(sample_rate: int, channels: int, form: SampleFormat, samples: int | None) -> bytes:
    """The 44 bytes before the first sample; lengths are `UNKNOWN` where `samples` is None or does not fit."""
    frame = channels * form.width
    data = UNKNOWN if samples is None or samples * frame + 36 >= UNKNOWN else samples * frame
    riff = UNKNOWN if data == UNKNOWN else data + 36
    kind = _FLOAT if form.is_float else _PCM
    fields = (b"RIFF", riff, b"WAVE", b"fmt ", 16, kind, channels, sample_rate, sample_rate * frame, frame, form.bits)
    return struct.pack("<4sI4s4sIHHIIHH4sI", *fields, b"data", data)


class _Exact:
    """Exactly so many bytes, or an error."""

    def __init__(self, stream: BinaryIO, start: bytes) -> None:
        self._stream, self._start = stream, start
        self.taken = bytearray()

    def take(self, count: int) -> bytes:
        parts, missing = [self._start[:count]], count
        self._start = self._start[count:]
        missing -= len(parts[0])
        while missing:
            data = self._stream.read(missing)
            if not data:
                raise BadDataError("WAV: the header is cut")
            parts.append(data)
            missing -= len(data)
        self.taken += b"".join(parts)
        return b"".join(parts)
