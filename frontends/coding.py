"""Audio to a stream of packets and back. No I/O: blocks and bytes in and out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from streamdac.convert import Converter
from streamdac.errors import BadDataError, ModelMismatchError
from streamdac.protocols.messages import VERSION, Header
from streamdac.protocols.stream import Codes, Damage, Ended, Event, Gap, HeaderEvent, StreamReader, StreamWriter

from .hops import Block, CodeArray, HopDecoder, HopEncoder, runs

if TYPE_CHECKING:
    from streamdac.codec import Codec


class StreamEncoding:
    """Blocks in, bytes of a `.sdac` stream out."""

    def __init__(
        self,
        codec: Codec,
        *,
        sample_rate: int,
        channels: int,
        n_codebooks: int | None = None,
        frames_per_packet: int = 4,
        quality: str = "HQ",
        vbr: bool = False,
    ) -> None:
        self.hops = HopEncoder(
            codec, sample_rate=sample_rate, channels=channels, n_codebooks=n_codebooks, quality=quality, vbr=vbr
        )
        self.writer = StreamWriter(stream_header(codec, channels, sample_rate), frames_per_packet=frames_per_packet)

    def start(self) -> bytes:
        """Magic and header."""
        return self.writer.start()

    def push(self, block: Block) -> bytes:
        """The packets that `block` completes."""
        return written(self.writer, self.hops.push(block))

    def finish(self) -> bytes:
        """The remaining packets and the End."""
        return written(self.writer, self.hops.flush()) + self.writer.end(self.hops.taken)


def written(writer: StreamWriter, codes: CodeArray) -> bytes:
    """The packets of `writer` that codes `[K, C, F]`, -1 where unused, complete."""
    return b"".join(writer.write(run) for run in runs(codes))


def stream_header(codec: Codec, channels: int, source_rate: int) -> Header:
    """The header of a stream made by `codec`."""
    return Header(
        version=VERSION,
        fingerprint=codec.fingerprint,
        model=_model_name(codec.name),
        sample_rate=codec.sample_rate,
        hop_length=codec.hop_length,
        n_codebooks=codec.n_codebooks,
        codebook_size=codec.codebook_size,
        channels=channels,
        source_rate=source_rate,
    )


def check_header(header: Header, codec: Codec) -> None:
    """Refuse a stream of another model.

    Raises:
        ModelMismatchError: its fingerprint is another one.
        BadDataError: the fingerprint is right and the rest disagrees.
    """
    if header.fingerprint != codec.fingerprint:
        theirs, ours = header.fingerprint.hex(), codec.fingerprint.hex()
        raise ModelMismatchError(
            f"a stream of model {header.model!r} ({theirs[:16]}), not {codec.name!r} ({ours[:16]}); --model names another"
        )
    if stream_header(codec, header.channels, header.source_rate) != _renamed(header, codec.name):
        raise BadDataError(f"the header disagrees with model {codec.name!r}: {header}")


def _renamed(header: Header, name: str) -> Header:
    from dataclasses import replace

    return replace(header, model=_model_name(name))


def _model_name(name: str) -> str:
    """As much of a name as a header takes: 64 bytes, printable."""
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable.encode()[:64].decode(errors="ignore")


class StreamDecoding:
    """Bytes of a `.sdac` stream in, audio `[T, C]` at the source's own rate out, of the source's own length.

    Args:
        codec: the model that the stream was made with.
        join: begin in mid-stream, at the next header.
        rate: of the output, in Hz; the source's where None.
        live: give every sample at once. Otherwise a hop is held back, so that an End that comes by itself can cut it.
    """

    def __init__(
        self, codec: Codec, *, join: bool = False, rate: int | None = None, live: bool = False, quality: str = "HQ"
    ) -> None:
        self.codec = codec
        self.reader = StreamReader(join=join)
        self.problems: list[str] = []
        self.ended: Ended | None = None
        self._rate = rate
        self._live = live
        self._quality = quality
        self._given = 0
        self._first_frame: int | None = None if join else 0

    @property
    def header(self) -> Header | None:
        """None until it was read."""
        return self.reader.header

    @property
    def rate(self) -> int:
        """Hz, of the output."""
        assert self.header is not None
        return self._rate or self.header.source_rate

    def feed(self, data: bytes) -> Iterator[Block]:
        """The audio now complete.

        Raises:
            BadDataError: not a stream, or one of another model.
        """
        self.reader.feed(data)
        yield from self._events()

    def finish(self) -> Iterator[Block]:
        """The data has ended: the rest of the audio."""
        self.reader.feed_eof()
        yield from self._events()
        if self.header is not None:
            yield from self._cut(self._converted(self._hops.flush()))
            yield from self._last(self._converter.flush())

    def _events(self) -> Iterator[Block]:
        for event in self._ready():
            match event:
                case HeaderEvent(header):
                    self._begin(header)
                case Codes(first, codes):
                    if self._first_frame is None:
                        self._first_frame = first  # where a reader that joined came in
                    yield from self._cut(self._converted(self._hops.push(codes)))
                case Gap(first, frames, reason):
                    self._problem(f"{frames} frames lost from {self._time(first)}: {reason}")
                    for block in self._hops.conceal(frames):
                        yield from self._cut(self._converted(block))
                case Damage(offset, reason):
                    self._problem(f"damaged at byte {offset}: {reason}")
                case Ended(complete=False, frames=frames):
                    self._problem(f"cut at {self._time(frames)}: the stream has no end")

    def _ready(self) -> Iterator[Event]:
        """The events of what was fed. An End is noted before anything is given, as it says where to cut."""
        events: list[Event] = []
        try:
            while (event := self.reader.next_event()) is not None:
                events.append(event)
                if isinstance(event, Ended):
                    self.ended = event
        finally:
            yield from events

    def _begin(self, header: Header) -> None:
        check_header(header, self.codec)
        self._hops = HopDecoder(self.codec, channels=header.channels)
        self._converter = Converter(self.codec.sample_rate, self.rate, header.channels, quality=self._quality)
        # The last hop may be partly padding; how much is known at the End only.
        self._keep = 0 if self._live else -(-(header.hop_length + 2) * self.rate // header.sample_rate) + 2
        self._tail: Block = np.zeros((0, header.channels), np.float32)

    def _converted(self, block: Block) -> Block:
        return self._converter.push(block)

    def _cut(self, block: Block) -> Iterator[Block]:
        """`block`, less what may have to be cut off the end."""
        joined = np.concatenate([self._tail, block])
        ready = max(0, len(joined) - self._keep)
        if (samples := self._samples_wanted()) is not None:
            ready = min(ready, max(0, samples - self._given))
        self._tail = joined[ready:]
        if ready:
            self._given += ready
            yield joined[:ready]

    def _last(self, block: Block) -> Iterator[Block]:
        joined = np.concatenate([self._tail, block])
        samples = self._samples_wanted()
        if samples is not None:
            missing = max(0, samples - self._given - len(joined))
            joined = np.pad(joined, ((0, missing), (0, 0)))[: max(0, samples - self._given)]
        self._given += len(joined)
        if len(joined):
            yield joined

    def _samples_wanted(self) -> int | None:
        """Samples of the whole output; None where the stream was cut."""
        header = self.header
        assert header is not None
        if self.ended is None or self.ended.samples is None:
            return None
        if self._first_frame is None:
            return 0
        samples = -(-self.ended.samples * self.rate // header.source_rate)
        return max(0, samples - self._first_frame * header.hop_length * self.rate // header.sample_rate)

    def _time(self, frame: int) -> str:
        assert self.header is not None
        return f"{frame * self.header.hop_length / self.header.sample_rate:.2f} s"

    def _problem(self, text: str) -> None:
        if len(self.problems) < 1000:
            self.problems.append(text)


def conversion_delay(rate_in: int, rate_out: int, quality: str) -> float:
    """Seconds by which a running converter's output lags: found by running one."""
    if rate_in == rate_out:
        return 0.0
    converter = Converter(rate_in, rate_out, 1, quality=quality)
    block = np.zeros((max(1, rate_in // 100), 1), np.float32)
    for _ in range(100):
        converter.push(block)
    return max(0.0, converter.taken / rate_in - converter.given / rate_out)
