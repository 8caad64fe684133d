"""The `.sdac` byte stream, for files and pipes: the magic, then a header, packets and an End in records.

`StreamWriter`, on this page, makes it; `StreamReader` takes it apart again, damaged or not, and gives the events.
"""

import numpy as np
import numpy.typing as npt

from ..errors import LocalProtocolError, UsageError
from .bitpack import CodeArray
from .events import (
    HEADER_SECONDS,
    MAX_GAP_SECONDS,
    Codes,
    Damage,
    Ended,
    Event,
    Gap,
    HeaderEvent,
    NoHeaderError,
    NotAStreamError,
    frames_in,
    max_samples,
)
from .messages import End, Header
from .packets import make_packet, max_frames
from .reader import Counts, StreamReader
from .records import MAGIC, pack_record
from .wire import encode

__all__ = [
    "HEADER_SECONDS",
    "MAGIC",
    "MAX_GAP_SECONDS",
    "Codes",
    "Counts",
    "Damage",
    "Ended",
    "Event",
    "Gap",
    "Header",
    "HeaderEvent",
    "NoHeaderError",
    "NotAStreamError",
    "StreamReader",
    "StreamWriter",
]


class StreamWriter:
    """CodeArray in, bytes of a stream out.

    `packet` makes one packet of what it is given. `write` cuts codes of any frame count into packets of
    `frames_per_packet` and keeps the rest, so that the bytes do not depend on how the codes came; `flush` and `end`
    give that rest.
    """

    def __init__(self, header: Header, *, frames_per_packet: int = 4) -> None:
        most = max_frames(header.layout, header.n_codebooks)
        if not 1 <= frames_per_packet <= most:
            raise UsageError(f"got {frames_per_packet} frames a packet, need 1 to {most}")
        self.header = header
        self.frames_per_packet = frames_per_packet
        self.frames = 0  # written so far
        self.packets = 0
        self._record = pack_record(encode(header))
        self._until_header = frames_in(header, HEADER_SECONDS)
        self._kept: CodeArray | None = None
        self._open = False
        self._ended = False

    def start(self) -> bytes:
        """The magic and the header: the first bytes of the stream."""
        if self._open or self._ended:
            raise LocalProtocolError("the stream has started already")
        self._open = True
        return MAGIC + self._record

    def packet(self, codes: npt.NDArray[np.integer]) -> bytes:
        """One packet of codes `[K, C, F]`, after a repeated header where one is due; nothing for no frames."""
        return self.flush() + self._packet(codes)

    def write(self, codes: npt.NDArray[np.integer]) -> bytes:
        """The packets that codes `[K, C, F]` complete; may be none."""
        self._check_open()
        parts = []
        if self._kept is not None and codes.shape[:2] != self._kept.shape[:2]:
            parts.append(self.flush())
        fresh = np.asarray(codes, dtype=np.int64)
        frames = fresh if self._kept is None else np.concatenate([self._kept, fresh], axis=-1)
        whole = frames.shape[-1] // self.frames_per_packet * self.frames_per_packet
        for first in range(0, whole, self.frames_per_packet):
            parts.append(self._packet(frames[..., first : first + self.frames_per_packet]))
        self._kept = frames[..., whole:].copy() if whole < frames.shape[-1] else None
        return b"".join(parts)

    def flush(self) -> bytes:
        """A packet of the frames that `write` kept; nothing if there are none."""
        self._check_open()
        kept, self._kept = self._kept, None
        return b"" if kept is None else self._packet(kept)

    def end(self, samples: int) -> bytes:
        """The frames kept and the End, with the sample count of the source at its own rate."""
        data = self.flush()
        if samples > max_samples(self.header, self.frames):
            raise UsageError(
                f"got {samples} source samples for {self.frames} frames, need at most "
                f"{max_samples(self.header, self.frames)}"
            )
        data += pack_record(encode(End(0, samples, self.frames)))
        self._open, self._ended = False, True
        return data

    def _check_open(self) -> None:
        if not self._open:
            raise LocalProtocolError("the stream has ended" if self._ended else "the stream has not started")

    def _packet(self, codes: npt.NDArray[np.integer]) -> bytes:
        self._check_open()
        if codes.ndim == 3 and codes.shape[-1] == 0:
            return b""
        packet = make_packet(self.header.layout, codes, sequence=self.packets, first_frame=self.frames)
        data = pack_record(encode(packet))
        if self._until_header <= 0:
            data = self._record + data
            self._until_header += frames_in(self.header, HEADER_SECONDS)
        self.packets += 1
        self.frames += packet.frames
        self._until_header -= packet.frames
        return data
