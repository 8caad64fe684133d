"""The `.sdac` stream: any split, any cut, any flipped byte; what is refused, and by which name."""

import dataclasses
import hashlib
import itertools
import zlib
from collections.abc import Iterator

import msgpack
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from streamdac.errors import BadDataError, LocalProtocolError, RemoteProtocolError, UsageError
from streamdac.protocols import messages, records, wire
from streamdac.protocols.messages import End, Header, Packet
from streamdac.protocols.packets import make_packet
from streamdac.protocols.records import MAGIC, pack_record
from streamdac.protocols.stream import (
    Codes,
    Damage,
    Ended,
    Event,
    Gap,
    HeaderEvent,
    NoHeaderError,
    NotAStreamError,
    StreamReader,
    StreamWriter,
)
from streamdac.protocols.wire import UnsupportedError, encode

# 2 frames a second, so that the header comes again every 20 frames.
HEADER = Header(1, hashlib.sha256(b"m").digest(), "toy", 640, 320, 3, 1000, 2, 1280)
CODES = np.random.default_rng(1).integers(0, 1000, (3, 2, 50))


def write(codes=CODES, *, header=HEADER, frames_per_packet=4, samples=None) -> bytes:
    writer = StreamWriter(header, frames_per_packet=frames_per_packet)
    samples = codes.shape[-1] * header.hop_length * 2 - 7 if samples is None else samples
    return writer.start() + writer.write(codes) + writer.end(samples)


STREAM = write()


def pieces(data=STREAM) -> Iterator[tuple[int, int, messages.Message]]:
    """Offset, byte count and message of every record."""
    scanner = records.RecordScanner(offset=len(MAGIC))
    scanner.feed(data[len(MAGIC) :])
    while (item := scanner.next_item()) is not None:
        yield item.offset, scanner.offset - item.offset, wire.decode(item.message)


RECORDS = list(pieces())
AFTER_HEADER = RECORDS[0][0] + RECORDS[0][1]
RECORD_OF_HEADER = STREAM[len(MAGIC) : AFTER_HEADER]


def read(*parts, join=False, eof=True) -> tuple[list[Event], BadDataError | None]:
    """Every event of the parts, fed one after the other, and the error that ended the reading, if one did."""
    reader, events = StreamReader(join=join), []

    def drain() -> None:
        while (event := reader.next_event()) is not None:
            events.append(event)

    try:
        for part in parts:
            reader.feed(part)
            drain()
        if eof:
            reader.feed_eof()
            drain()
    except BadDataError as error:
        return events, error
    return events, None


def frames_of(events) -> list[np.ndarray | None]:
    """Frame index to codes `[K, C]`, None in a gap; asserts that time runs without holes or overlap."""
    frames, position = [], None
    for event in events:
        if isinstance(event, Codes | Gap):
            assert position in (None, event.first_frame)
            count = event.codes.shape[-1] if isinstance(event, Codes) else event.frames
            assert count > 0
            position = event.first_frame + count
            frames += list(event.codes.transpose(2, 0, 1)) if isinstance(event, Codes) else [None] * count
    return frames


def same(left, right) -> bool:
    return len(left) == len(right) and all(
        (a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b))
        for a, b in zip(left, right, strict=True)
    )


def plain(events) -> list[object]:
    """Events that can be compared."""
    return [(e.first_frame, e.codes.tolist()) if isinstance(e, Codes) else e for e in events]


def expected(bad) -> list[np.ndarray | None]:
    """The frames to be given when the records whose index is in `bad` are gone."""
    frames = []
    for index, (_, _, message) in enumerate(RECORDS):
        if isinstance(message, Packet):
            lost = index in bad
            first = message.first_frame
            frames += [None if lost else CODES[:, :, first + i] for i in range(message.frames)]
    return frames


def test_a_whole_stream_is_read_back() -> None:
    events, error = read(STREAM)
    assert error is None
    assert events[0] == HeaderEvent(HEADER)
    assert events[-1] == Ended(50 * 640 - 7, True, 50)
    assert same(frames_of(events), list(CODES.transpose(2, 0, 1)))
    assert not any(isinstance(event, Gap | Damage) for event in events)
    assert sum(isinstance(message, Header) for _, _, message in RECORDS) == 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_events_do_not_depend_on_the_split(cuts) -> None:
    cuts = [0, *sorted(cuts), len(STREAM)]
    events, error = read(*[STREAM[a:b] for a, b in itertools.pairwise(cuts)])
    assert error is None
    assert plain(events) == plain(read(STREAM)[0])


def test_one_byte_at_a_time_gives_each_packet_with_its_last_byte() -> None:
    reader, given_at = StreamReader(), {}
    for offset, byte in enumerate(STREAM):
        reader.feed(bytes([byte]))
        while (event := reader.next_event()) is not None:
            if isinstance(event, Codes):
                given_at[event.first_frame] = offset + 1
    assert given_at == {m.first_frame: o + n for o, n, m in RECORDS if isinstance(m, Packet)}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 7), max_size=20))
def test_written_bytes_do_not_depend_on_how_codes_came(counts) -> None:
    writer, data, first = StreamWriter(HEADER), b"", 0
    data += writer.start()
    for count in counts:
        data += writer.write(CODES[:, :, first : first + count])
        first = min(50, first + count)
    data += writer.write(CODES[:, :, first:])
    assert data + writer.end(50 * 640 - 7) == STREAM


def test_a_cut_at_any_byte_gives_what_was_whole() -> None:
    for cut in range(len(STREAM)):
        events, error = read(STREAM[:cut])
        if cut < AFTER_HEADER:
            assert isinstance(error, NotAStreamError if cut < len(MAGIC) else NoHeaderError)
            assert not frames_of(events)
            continue
        assert error is None
        whole = [m for o, n, m in RECORDS if o + n <= cut and isinstance(m, Packet)]
        count = sum(packet.frames for packet in whole)
        assert same(frames_of(events), list(CODES[:, :, :count].transpose(2, 0, 1)))
        assert events[-1] == Ended(None, False, count)
        inside = not any(o + n == cut for o, n, _ in RECORDS)
        assert sum(isinstance(event, Damage) for event in events) == inside


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_a_flipped_byte_after_the_header_costs_its_record_only(flip) -> None:
    for offset in range(AFTER_HEADER, len(STREAM)):
        data = bytearray(STREAM)
        data[offset] ^= flip
        events, error = read(bytes(data))
        assert error is None
        bad = max(i for i, (start, _, _) in enumerate(RECORDS) if start <= offset)
        last = bad == len(RECORDS) - 1
        assert same(frames_of(events), expected({bad}))
        assert [e.offset for e in events if isinstance(e, Damage)] == [RECORDS[bad][0]]
        assert events[-1] == (Ended(None, False, 50) if last else Ended(50 * 640 - 7, True, 50))


@pytest.mark.parametrize("offset", range(AFTER_HEADER))
def test_a_flipped_byte_before_the_packets_is_refused_or_joined_later(offset) -> None:
    data = bytearray(STREAM)
    data[offset] ^= 0x10
    events, error = read(bytes(data))
    if offset < len(MAGIC):
        assert isinstance(error, NotAStreamError)
        assert not events
        return
    assert error is None
    assert [type(event) for event in events[:3]] == [Damage, Damage, HeaderEvent]
    assert events[3] == Gap(0, 20, "no readable header before this record")
    assert same(frames_of(events)[20:], list(CODES.transpose(2, 0, 1))[20:])


def test_damage_to_the_only_header_is_refused() -> None:
    data = bytearray(write(CODES[:, :, :12]))
    data[len(MAGIC) + 10] ^= 1
    events, error = read(bytes(data))
    assert all(isinstance(event, Damage) for event in events)
    assert isinstance(error, NoHeaderError)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_damage_never_escapes_and_keeps_time_right(data) -> None:
    damaged = bytearray(STREAM)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(AFTER_HEADER, len(damaged)))
        stop = data.draw(st.integers(start, min(len(damaged), start + 80)))
        damaged[start:stop] = data.draw(st.binary(max_size=60))
    assume(MAGIC + RECORD_OF_HEADER not in damaged[1:])  # that would be another stream
    events, error = read(bytes(damaged))
    assert error is None
    for frame, codes in enumerate(frames_of(events)):
        assert codes is None or np.array_equal(codes, CODES[:, :, frame])
    whole = [m for o, n, m in RECORDS if STREAM[o : o + n] in damaged and isinstance(m, Packet)]
    given_frames = sum(codes is not None for codes in frames_of(events))
    assert given_frames == sum(packet.frames for packet in whole)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_garbage_is_refused_without_a_stray_exception(data, join) -> None:
    _, error = read(data, join=join)
    assert isinstance(error, NoHeaderError if join or data.startswith(MAGIC) else NotAStreamError)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([records.SYNC, MAGIC, STREAM[9:200]]))))
def test_garbage_after_a_header_is_only_ever_damage(parts) -> None:
    _, error = read(STREAM[:AFTER_HEADER] + b"".join(parts))
    assert error is None


@pytest.mark.parametrize("length", [0, records.MAX_MESSAGE + 1, 65_535])
def test_a_length_out_of_bounds_does_not_hold_back_what_follows(length) -> None:
    bad = records.SYNC + length.to_bytes(2, "big") + bytes([records._check(length)])
    packet = STREAM[AFTER_HEADER : RECORDS[1][0] + RECORDS[1][1]]
    events, _ = read(STREAM[:AFTER_HEADER] + bad + packet, eof=False)
    assert [type(event) for event in events] == [HeaderEvent, Damage, Codes]


def test_a_false_record_swallows_no_good_one() -> None:
    long = records.SYNC + b"\x02\x00" + bytes([records._check(0x200)])
    events, _ = read(STREAM[:AFTER_HEADER] + long + STREAM[AFTER_HEADER:])
    assert same(frames_of(events), list(CODES.transpose(2, 0, 1)))
    assert events[-1].complete


def record(message) -> bytes:
    return pack_record(message if isinstance(message, bytes) else encode(message))


def packet_at(first, count=4, *, sequence=0, header=HEADER) -> bytes:
    codes = CODES[:, :, first % 40 : first % 40 + count]
    return record(make_packet(header.layout, codes, sequence=sequence, first_frame=first))


START = MAGIC + record(HEADER)


def test_duplicates_and_old_packets_are_ignored_and_counted() -> None:
    reader = StreamReader()
    reader.feed(START + packet_at(0) + packet_at(4) + packet_at(4) + packet_at(0) + packet_at(8))
    events = [reader.next_event() for _ in range(5)]
    assert [e.first_frame for e in events[1:4]] == [0, 4, 8]
    assert events[4] is None
    assert reader.counts.duplicates == 2
    assert not reader.damaged


def test_of_a_packet_that_overlaps_only_the_new_frames_are_given() -> None:
    events, _ = read(START + packet_at(0) + packet_at(2))
    assert same(frames_of(events), [CODES[:, :, i] for i in range(6)])


def test_a_missing_packet_is_a_gap() -> None:
    reader = StreamReader()
    reader.feed(START + packet_at(0) + packet_at(10))
    events = [reader.next_event() for _ in range(4)]
    assert events[2] == Gap(4, 6, "packets missing")
    assert (reader.counts.gaps, reader.counts.gap_frames, reader.counts.frames) == (1, 6, 8)
    assert reader.damaged


def test_a_gap_is_at_most_ten_minutes() -> None:
    limit = 600 * 2
    events, _ = read(START + packet_at(0) + packet_at(4 + limit))
    assert events[2] == Gap(4, limit, "packets missing")
    far = [packet_at(5 + limit), packet_at(9 + limit), packet_at(messages.MAX_FRAME)]
    events, error = read(START + packet_at(0) + b"".join(far) + packet_at(4))
    assert error is None
    assert [type(event) for event in events[1:]] == [Codes, Damage, Codes, Ended]
    assert "frame 1205 is 1201 frames ahead" in events[2].reason


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (End(0, 0, 3), "an End after 3 frames, but 4 came"),
        (End(0, 0, 4 + 1201), "1201 frames ahead"),
        (End(0, 4 * 640 + 642, 4), "an End with 3202 samples in 4 frames"),
    ],
)
def test_an_end_that_contradicts_the_packets_is_damage(end, reason) -> None:
    events, error = read(START + packet_at(0) + record(end))
    assert error is None
    assert reason in events[2].reason
    assert events[3] == Ended(None, False, 4)


def test_frames_missing_before_the_end_are_a_gap() -> None:
    events, _ = read(START + packet_at(0) + record(End(0, 10 * 640, 10)))
    assert events[2:] == [Gap(4, 6, "packets missing"), Ended(6400, True, 10)]


def test_data_after_the_end_is_reported_once_and_not_read() -> None:
    events, error = read(STREAM, b"abc", packet_at(60))
    assert error is None
    assert events[-2:] == [Ended(50 * 640 - 7, True, 50), Damage(len(STREAM), "data after the end of the stream")]


@pytest.mark.parametrize("with_the_end", [0, 4096])
def test_what_follows_the_end_is_not_kept(with_the_end) -> None:
    reader, rest = StreamReader(), bytes(4096)
    reader.feed(STREAM + rest[:with_the_end])
    while not isinstance(event := reader.next_event(), Ended):
        assert event is not None
    for _ in range(100):
        reader.feed(rest)
        reader.feed(b"")
    assert reader._scanner.pending == 0
    assert reader.next_event() == Damage(len(STREAM), "data after the end of the stream")
    assert reader.next_event() is None


def test_a_second_stream_is_not_read() -> None:
    cut = RECORDS[4][0] + 3
    events, error = read(STREAM[:cut] + STREAM)
    assert error is None
    assert events[-1] == Ended(None, False, 12)
    assert events[-2] == Damage(cut + len(MAGIC), "another stream begins here; only the first is read")


@pytest.mark.parametrize("at", [0, AFTER_HEADER, RECORDS[3][0], RECORDS[3][0] + 7])
def test_a_stray_magic_is_only_damage(at) -> None:
    data = STREAM[:at] + MAGIC + STREAM[at:]
    events, error = read(data)
    assert error is None
    assert same(frames_of(events), expected({3} if at > RECORDS[3][0] else set()))
    assert events[-1].complete
    assert any(isinstance(event, Damage) for event in events)


def test_another_header_in_the_middle_is_refused_after_what_came_before() -> None:
    other = dataclasses.replace(HEADER, hop_length=321)
    events, error = read(START + packet_at(0) + record(other) + packet_at(4))
    assert [type(event) for event in events] == [HeaderEvent, Codes]
    assert isinstance(error, RemoteProtocolError)
    assert "disagrees with the first" in str(error)


def test_a_later_version_is_refused_by_its_number() -> None:
    later = msgpack.packb([1, 2, b"", "and", "more"])
    events, error = read(MAGIC + record(later))
    assert isinstance(error, UnsupportedError)
    assert "Header of version 2, this program speaks 1" in str(error)
    assert not events


def test_optional_messages_are_skipped_and_critical_ones_refused() -> None:
    reader = StreamReader()
    reader.feed(START + record(msgpack.packb([127, {}, [1]])) + packet_at(0) + record(msgpack.packb([63])))
    assert isinstance(reader.next_event(), HeaderEvent)
    assert isinstance(reader.next_event(), Codes)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="unknown critical kind 63"):
            reader.next_event()
    assert reader.counts.skipped == 1


@pytest.mark.parametrize(
    "message",
    [
        msgpack.packb([2, 0, 0, 0, 4, 3, bytes(29), b""]),
        msgpack.packb([2, 0, 0, 0, 4, 4, bytes(40), b""]),
        msgpack.packb([2, 0, 0, 0, 4, 3, b"\xff" * 30, b""]),
        msgpack.packb([2, 0]),
        encode(End(1, 0, 0)),
        encode(messages.Ping(3)),
        b"\x00",
    ],
)
def test_a_whole_record_with_a_bad_message_is_damage(message) -> None:
    events, error = read(START + record(message) + packet_at(0))
    assert error is None
    assert [type(event) for event in events] == [HeaderEvent, Damage, Codes, Ended]


@pytest.mark.parametrize("data", [b"\x89SDAC\n\x1a\n" + START, b"\x89SDAC\r\r\n\x1a\r\n" + START])
def test_a_text_mode_transfer_is_named(data) -> None:
    assert "text mode" in str(read(data)[1])


@pytest.mark.parametrize("start", range(0, len(STREAM), 13))
def test_a_reader_can_join_anywhere(start) -> None:
    events, error = read(STREAM[start:], join=True)
    at = next((i for i, (o, _, m) in enumerate(RECORDS) if o >= start and isinstance(m, Header)), None)
    if at is None:
        assert isinstance(error, NoHeaderError)
        return
    first = next((m.first_frame for _, _, m in RECORDS[at:] if isinstance(m, Packet)))
    assert error is None
    assert not any(isinstance(event, Damage | Gap) for event in events)
    assert same(frames_of(events), list(CODES.transpose(2, 0, 1))[first:])
    assert events[-1] == Ended(50 * 640 - 7, True, 50)


def test_a_joined_stream_may_end_at_once() -> None:
    assert read(START, join=True)[0][1:] == [Ended(None, False, 0)]
    assert read(START + record(End(0, 0, 5)), join=True)[0][1:] == [Ended(0, True, 5)]


def test_codebooks_may_change_between_writes() -> None:
    writer = StreamWriter(HEADER)
    data = writer.start() + writer.write(CODES[:, :, :6]) + writer.write(CODES[:1, :, 6:9]) + writer.end(0)
    shapes = [e.codes.shape for e in read(data)[0] if isinstance(e, Codes)]
    assert shapes == [(3, 2, 4), (3, 2, 2), (1, 2, 3)]


def test_packet_makes_one_packet_of_what_it_is_given() -> None:
    writer = StreamWriter(HEADER)
    data = writer.start() + writer.packet(CODES[:, :, :7]) + writer.packet(CODES[:, :, :0]) + writer.end(0)
    assert [e.codes.shape for e in read(data)[0] if isinstance(e, Codes)] == [(3, 2, 7)]


def test_writing_out_of_turn_is_our_fault() -> None:
    writer = StreamWriter(HEADER)
    with pytest.raises(LocalProtocolError, match="has not started"):
        writer.packet(CODES[:, :, :1])
    writer.start()
    with pytest.raises(LocalProtocolError, match="has started already"):
        writer.start()
    writer.end(0)
    with pytest.raises(LocalProtocolError, match="has ended"):
        writer.write(CODES)
    reader = StreamReader()
    reader.feed_eof()
    with pytest.raises(LocalProtocolError, match="after the end of the data"):
        reader.feed(b"")


def test_an_end_with_more_samples_than_frames_hold_is_refused() -> None:
    writer = StreamWriter(HEADER)
    writer.start()
    writer.packet(CODES[:, :, :2])
    with pytest.raises(UsageError, match="got 5000 source samples for 2 frames, need at most 1921"):
        writer.end(5000)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 2), "got codes of shape"),
        ((4, 2, 1), "need \\[1 to 3 codebooks, 2 channels"),
        ((3, 1, 1), "need \\[1 to 3 codebooks, 2 channels"),
        ((0, 2, 1), "need \\[1 to 3 codebooks, 2 channels"),
        ((3, 2, 65), "got 65 frames for one packet, need 1 to 64"),
    ],
)
def test_codes_that_do_not_fit_the_header_are_refused(shape, message) -> None:
    writer = StreamWriter(HEADER)
    writer.start()
    with pytest.raises(UsageError, match=message):
        writer.packet(np.zeros(shape, dtype=np.int64))


@pytest.mark.parametrize("frames", [0, 65])
def test_frames_per_packet_are_bounded(frames) -> None:
    with pytest.raises(UsageError, match=f"got {frames} frames a packet, need 1 to 64"):
        StreamWriter(HEADER, frames_per_packet=frames)


def test_every_flip_of_a_length_field_is_seen_by_its_check() -> None:
    for length in range(0, 65_536, 251):
        for byte in (0, 8):
            for flip in range(1, 256):
                assert records._check(length ^ flip << byte) != records._check(length)


def test_a_record_is_sync_length_check_message_crc() -> None:
    body = b"\x00\x02\x58" + b"hi"
    assert pack_record(b"hi") == b"\xda\xc5" + body + zlib.crc32(body).to_bytes(4, "big")


@pytest.mark.parametrize("length", [0, records.MAX_MESSAGE + 1])
def test_records_hold_no_message_out_of_bounds(length) -> None:
    with pytest.raises(LocalProtocolError, match=f"got a message of {length} bytes"):
        pack_record(bytes(length))
