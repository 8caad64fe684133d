"""Records: how messages lie in a byte stream, and how to find them again after damage.

    sync DA C5 | length u16 | check u8 = high ^ low ^ 5A | message | CRC32 u32 over length, check and message

All big-endian. The check makes a damaged length known at once, so that the reader never waits for bytes that will not
come; what slips through is bounded by `MAX_MESSAGE` and found by the CRC. A candidate that fails is left one byte after
the start of its sync marker, so no good record behind it is lost. How the bytes were split makes no difference.
"""

import re
import struct
import zlib
from dataclasses import dataclass

from ..errors import LocalProtocolError
from .messages import MAX_MESSAGE

MAGIC = b"\x89SDAC\r\n\x1a\n"
SYNC = b"\xda\xc5"
_HEAD = struct.Struct(">HB")
_CRC = struct.Struct(">I")
_START = re.compile(rb"[\xda\x89]")  # the first bytes of SYNC and MAGIC
_BODY = len(SYNC) + _HEAD.size
OVERHEAD = _BODY + _CRC.size  # bytes a record adds to its message


def pack_record(message: bytes) -> bytes:
    """One record around an encoded message."""
    if not 1 <= len(message) <= MAX_MESSAGE:
        raise LocalProtocolError(f"got a message of {len(message)} bytes, need 1 to {MAX_MESSAGE}")
    body = _HEAD.pack(len(message), _check(len(message))) + message
    return SYNC + body + _CRC.pack(zlib.crc32(body))


def _check(length: int) -> int:
    return (length >> 8) ^ (length & 0xFF) ^ 0x5A


@dataclass(frozen=True, slots=True)
class Record:
    """A whole record with a valid CRC; what its message holds is not checked yet."""

    offset: int  # bytes from the start of the stream
    message: bytes


@dataclass(frozen=True, slots=True)
class Skipped:
    """Bytes from `offset` on are no record; reported once for each run of them."""

    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Magic:
    """The magic of a stream, in the middle of this one."""

    offset: int


class RecordScanner:
    """Bytes in any split in, records out. `offset` is where its first byte lies in the stream."""

    def __init__(self, *, offset: int = 0) -> None:
        self.offset = offset  # of the first byte not yet consumed
        self._buffer = bytearray()
        self._eof = False
        self._lost = False  # within a run of skipped bytes that was reported

    @property
    def pending(self) -> int:
        """Bytes fed and not yet consumed."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """More bytes."""
        self._buffer += data

    def discard(self) -> bool:
        """Drop what is left; whether there was anything."""
        found = bool(self._buffer)
        self._buffer.clear()
        return found

    def feed_eof(self) -> None:
        """No more bytes will come."""
        self._eof = True

    def next_item(self) -> Record | Skipped | Magic | None:
        """The next record, run of damage or magic; None until more bytes are fed."""
        while self._buffer:
            offset, found = self.offset, self._look()
            if found is None:
                return None
            if not isinstance(found, str):
                self._lost = False
                return found
            self._skip()
            if not self._lost:
                self._lost = True
                return Skipped(offset, found)
        return None

    def _look(self) -> Record | Magic | str | None:
        """What the buffer begins with: a record or magic (consumed), the reason why not, None if it may become one."""
        buffer, offset = self._buffer, self.offset
        if buffer.startswith(SYNC):
            return self._candidate()
        if buffer.startswith(MAGIC):
            self._consume(len(MAGIC))
            return Magic(offset)
        if SYNC.startswith(buffer) or MAGIC.startswith(buffer):
            return "cut inside a record" if self._eof else None
        return "no record where one should begin"

    def _candidate(self) -> Record | str | None:
        buffer, offset = self._buffer, self.offset
        if len(buffer) < _BODY:
            return "cut inside a record" if self._eof else None
        length, check = _HEAD.unpack_from(buffer, len(SYNC))
        if check != _check(length):
            return "record length damaged"
        if not 1 <= length <= MAX_MESSAGE:
            return f"record length {length}, need 1 to {MAX_MESSAGE}"
        end = _BODY + length
        if len(buffer) < end + _CRC.size:
            return "cut inside a record" if self._eof else None
        body = bytes(buffer[len(SYNC) : end])
        if _CRC.unpack_from(buffer, end)[0] != zlib.crc32(body):
            return "record CRC wrong"
        self._consume(end + _CRC.size)
        return Record(offset, body[_HEAD.size :])

    def _skip(self) -> None:
        """Go on to the next byte that may begin a record or a magic."""
        match = _START.search(self._buffer, 1)
        self._consume(match.start() if match else len(self._buffer))

    def _consume(self, count: int) -> None:
        del self._buffer[:count]
        self.offset += count
