"""Reads a `.sdac` byte stream, damaged or not: bytes in any split in, events out.

After damage the reader goes on at the next whole record; frames that are missing become a `Gap`, so that time stays
right. A stream without magic, without any readable header, of a later version or with another header in its middle
is refused; what came before is given first.
"""

from collections import deque
from dataclasses import dataclass

from ..errors import BadDataError, LocalProtocolError, RemoteProtocolError
from .events import (
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
from .messages import End, Header, Packet
from .packets import packet_codes
from .records import MAGIC, Magic, Record, RecordScanner, Skipped
from .wire import Unknown, UnsupportedError, decode


@dataclass(slots=True)
class Counts:
    """What a reader has met so far."""

    packets: int = 0  # whose frames were given
    frames: int = 0
    duplicates: int = 0  # packets with no new frame, ignored
    damages: int = 0
    gaps: int = 0
    gap_frames: int = 0
    skipped: int = 0  # optional messages that we do not know


class StreamReader:
    """Events of one stream. With `join` it may begin anywhere: frames are counted from the first packet after a header.

    `feed` takes any split; `feed_eof` says that no more comes; `next_event` gives None when it needs more, and again
    None after the end. `decode` is called for one record at a time, so little is kept: at most one unfinished record.
    """

    def __init__(self, *, join: bool = False) -> None:
        self.header: Header | None = None
        self.counts = Counts()
        self._join = join
        self._start: bytearray | None = None if join else bytearray()  # what may become the magic
        self._scanner = RecordScanner(offset=0 if join else len(MAGIC))
        self._events: deque[Event] = deque()
        self._failure: BadDataError | None = None
        self._eof = False
        self._ended = False
        self._more = False  # data after the end
        self._expected: int | None = None if join else 0  # the next frame
        self._reason = "packets missing"  # of the next gap
        self._after_magic = False  # a header now is that of another stream
        self._reported = False  # damage of whole records since the last good packet

    @property
    def damaged(self) -> bool:
        """Whether anything was lost or unreadable so far."""
        return bool(self.counts.damages or self.counts.gaps)

    def feed(self, data: bytes) -> None:
        """More bytes of the stream."""
        if self._eof:
            raise LocalProtocolError("fed bytes after the end of the data")
        if self._ended:
            self._more = self._more or bool(data)
            return
        if self._start is None:
            self._scanner.feed(data)
            return
        self._start += data
        if len(self._start) >= len(MAGIC):
            self._take_magic(bytes(self._start))

    def feed_eof(self) -> None:
        """No more bytes will come."""
        self._eof = True
        self._scanner.feed_eof()
        if self._start is not None:
            self._take_magic(bytes(self._start))

    def next_event(self) -> Event | None:
        """The next event; None when more bytes are needed, or after the end. Raises what ends the reading."""
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if not self._advance():
                return None
        return self._events.popleft()

    def _take_magic(self, start: bytes) -> None:
        self._start = None
        if start.startswith(MAGIC):
            self._scanner.feed(start[len(MAGIC) :])
        elif not start:
            self._failure = NotAStreamError("the stream is empty")
        elif start.startswith((b"\x89SDAC\n", b"\x89SDAC\r\r", b"\tSDAC")):
            self._failure = NotAStreamError("the stream was changed on its way by a transfer in text mode")
        else:
            got = start[: len(MAGIC)].hex(" ")
            self._failure = NotAStreamError(f"not a streamdac stream: it begins with {got}, need {MAGIC.hex(' ')}")

    def _advance(self) -> bool:
        """Take one item from the scanner; False if there is none and nothing more to say."""
        if self._ended:
            return self._after_end()
        match self._scanner.next_item():
            case Record(offset, message):
                self._on_record(offset, message)
                self._after_magic = False
            case Skipped(offset, reason):
                self._damage(offset, reason)
                self._after_magic = False
            case Magic(offset):
                self._on_magic(offset)
            case _:
                return self._on_nothing()
        return True

    def _after_end(self) -> bool:
        if not self._more or self._reported:
            return False
        self._damage(self._scanner.offset, "data after the end of the stream")
        self._reported = True
        return True

    def _on_nothing(self) -> bool:
        if not self._eof:
            return False
        if self.header is None:
            self._failure = NoHeaderError(f"no readable header in a stream of {self._scanner.offset} bytes")
        else:
            self._end(Ended(None, False, self._expected or 0))
        return True

    def _on_magic(self, offset: int) -> None:
        self._damage(offset, "the magic of a stream inside this one")
        self._after_magic = True

    def _on_record(self, offset: int, data: bytes) -> None:
        try:
            message = decode(data)
        except UnsupportedError as error:
            self._failure = UnsupportedError(f"record at byte {offset}: {error}")
            return
        except RemoteProtocolError as error:
            self._damage(offset, str(error))
            return
        match message:
            case Packet() | End():
                self._on_content(offset, message)
            case Header():
                self._on_header(offset, message)
            case Unknown():
                self.counts.skipped += 1
            case _:
                self._damage(offset, f"{type(message).__name__} has no place in a stream")

    def _on_content(self, offset: int, message: Packet | End) -> None:
        if message.stream:
            self._damage(offset, f"{type(message).__name__} of stream {message.stream} has no place in a file")
        elif self.header is None:
            self._damage_once(offset, "no readable header before this record")
        elif isinstance(message, Packet):
            self._on_packet(offset, message, self.header)
        else:
            self._on_end(offset, message, self.header)

    def _on_header(self, offset: int, header: Header) -> None:
        if self.header is None:
            self.header = header
            self._reported = False
            self._events.append(HeaderEvent(header))
        elif self._after_magic:
            self._damage(offset, "another stream begins here; only the first is read")
            self._end(Ended(None, False, self._expected or 0))
        elif header != self.header:
            self._failure = RemoteProtocolError(
                f"the header at byte {offset} disagrees with the first: {header}, before {self.header}"
            )

    def _on_packet(self, offset: int, packet: Packet, header: Header) -> None:
        expected = packet.first_frame if self._expected is None else self._expected
        after = packet.first_frame + packet.frames
        if after <= expected:
            self.counts.duplicates += 1
            return
        ahead = packet.first_frame - expected
        if ahead > frames_in(header, MAX_GAP_SECONDS):
            self._too_far(offset, packet.first_frame, expected)
            return
        try:
            codes = packet_codes(header.layout, packet)
        except RemoteProtocolError as error:
            self._damage(offset, str(error))
            return
        self._fill(expected, ahead)
        first = max(expected, packet.first_frame)
        self.counts.packets += 1
        self.counts.frames += after - first
        self._expected, self._reported = after, False
        self._events.append(Codes(first, codes[:, :, first - packet.first_frame :]))

    def _on_end(self, offset: int, end: End, header: Header) -> None:
        expected = end.frames if self._expected is None else self._expected
        if end.frames < expected:
            self._damage(offset, f"an End after {end.frames} frames, but {expected} came")
        elif end.frames - expected > frames_in(header, MAX_GAP_SECONDS):
            self._too_far(offset, end.frames, expected)
        elif end.samples > max_samples(header, end.frames):
            self._damage(offset, f"an End with {end.samples} samples in {end.frames} frames")
        else:
            self._fill(expected, end.frames - expected)
            self._end(Ended(end.samples, True, end.frames))

    def _end(self, event: Ended) -> None:
        self._ended = True
        self._more = self._scanner.discard()
        self._reported = not event.complete  # a cut, or another stream, has been reported already
        self._events.append(event)

    def _fill(self, first: int, frames: int) -> None:
        if frames > 0:
            self.counts.gaps += 1
            self.counts.gap_frames += frames
            self._events.append(Gap(first, frames, self._reason))
        self._reason = "packets missing"

    def _too_far(self, offset: int, frame: int, expected: int) -> None:
        ahead = f"frame {frame} is {frame - expected} frames ahead, need at most {MAX_GAP_SECONDS} s"
        self._damage_once(offset, ahead)

    def _damage_once(self, offset: int, reason: str) -> None:
        """Damage of which many records in a row may suffer: reported until the next good one only once."""
        if not self._reported:
            self._damage(offset, reason)
        self._reported = True

    def _damage(self, offset: int, reason: str) -> None:
        if self._join and self.header is None:
            return  # joining in the middle of a record or before a header is no damage
        self.counts.damages += 1
        self._reason = reason
        self._events.append(Damage(offset, reason))
