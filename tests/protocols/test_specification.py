"""PROTOCOL.md against the code: every table and every example on the page, both directions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import streamdac.protocols
from streamdac.errors import RemoteProtocolError
from streamdac.protocols import bitpack, delay, drift, events, fields, messages, rate, records, redundancy, session
from streamdac.protocols.fields import Bin, Int, ListOf, Text
from streamdac.protocols.messages import End, Header, Layout, Message, Reason
from streamdac.protocols.session import NEXT, Session, Side, State
from streamdac.protocols.stream import Codes, Ended, HeaderEvent, StreamReader, StreamWriter
from streamdac.protocols.wire import KINDS, Unknown, UnsupportedError, decode, encode

PAGE = (Path(streamdac.protocols.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##+ |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
OF_MESSAGES = {title: text for title, text in SECTIONS.items() if re.match(r"\d+ ", title)}


def message_of(expression: str) -> Message:
    """A message as the page writes it: `Name(value, ...)`."""
    made = eval(expression, {name: getattr(messages, name) for name in dir(messages)})
    assert type(made) in KINDS.values()
    return made


def table(text: str) -> list[list[str]]:
    """The rows of the first table in a section, without its head."""
    rows = [line.strip()[1:-1].split("|") for line in text.splitlines() if line.startswith("|")]
    assert rows
    return [[cell.strip() for cell in row] for row in rows[2:]]


def examples(text: str) -> list[tuple[str, bytes]]:
    """The messages in a section's plain code blocks, and their bytes."""
    return [
        (block.split("\n", 1)[0], bytes.fromhex(block.split("\n", 1)[1]))
        for block in re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    ]


def described(field: fields.Field) -> tuple[str, str]:
    match field:
        case Int(low, high):
            return "int", f"{low} to {high}"
        case Bin(low, high):
            return "bin", f"{low} to {high}"
        case Text(high):
            return "text", f"0 to {high}"
        case ListOf(_, low, high):
            return "array", f"{low} to {high}"


def test_every_message_has_its_section_in_the_order_of_kinds() -> None:
    assert list(OF_MESSAGES) == [f"{kind} {message.__name__}" for kind, message in sorted(KINDS.items())]


@pytest.mark.parametrize("title", OF_MESSAGES)
def test_a_messages_table_is_its_declaration(title) -> None:
    kind = KINDS[int(title.split()[0])]
    rows = [tuple(row[:3]) for row in table(OF_MESSAGES[title])]
    assert rows == [(name, *described(field)) for name, field in fields.declared(kind).items()]


@pytest.mark.parametrize("title", [*OF_MESSAGES, "Redundancy"])
def test_a_messages_example_is_its_bytes_both_ways(title) -> None:
    found = examples(SECTIONS[title])
    assert found
    for expression, data in found:
        assert encode(message_of(expression)) == data
        assert decode(data) == message_of(expression)
        assert title in OF_MESSAGES or data[1] == messages.Packet.KIND


def test_the_offers_fields_are_those_named() -> None:
    assert "fingerprint, sample_rate, hop_length, n_codebooks and\ncodebook_size" in SECTIONS["4 Hello"]
    assert (
        ", ".join(fields.declared(messages.Offer)) == "fingerprint, sample_rate, hop_length, n_codebooks, codebook_size"
    )
    for name, field in fields.declared(messages.Offer).items():
        assert field == fields.declared(Header)[name]


def test_the_reasons_are_all_there() -> None:
    assert [(int(row[0]), row[1]) for row in table(SECTIONS["Reasons"])] == [(r.value, r.name) for r in Reason]


@pytest.mark.parametrize("row", table(SECTIONS["Refused"]), ids=lambda row: row[1])
def test_what_the_page_refuses_is_refused(row) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(bytes.fromhex(row[0].strip("`")))


def test_what_the_page_skips_is_skipped() -> None:
    skipped = re.findall(r"`([0-9a-f ]+)`", SECTIONS["Refused"].split("skipped:")[1])
    assert len(skipped) == 3
    for data in skipped:
        assert isinstance(decode(bytes.fromhex(data)), Unknown)


@pytest.mark.parametrize("row", table(SECTIONS["Payload"]), ids=lambda row: row[0])
def test_a_payloads_example_is_its_bytes_both_ways(row) -> None:
    codes, size, data = np.array(ast.literal_eval(row[0].strip("`"))), int(row[1]), bytes.fromhex(row[2].strip("`"))
    bits = bitpack.bits_for(size)
    assert bitpack.pack(codes, bits, codebook_size=size) == data
    shape = dict(zip(("codebooks", "channels", "frames"), codes.shape, strict=True))
    assert np.array_equal(bitpack.unpack(data, **shape, bits=bits, codebook_size=size), codes)


def test_the_redundancy_of_the_example_is_frames_0_and_1() -> None:
    ((expression, _),) = examples(SECTIONS["Redundancy"])
    first, codes = redundancy.recover(Layout(1, 1024, 1), message_of(expression))
    assert (first, codes.tolist()) == (0, [[[1, 2]]])


def cells(cell: str) -> dict[str, str]:
    """The messages that a cell of the state table allows, and the state after each."""
    entries = [entry.strip().split(" → ") for entry in cell.split(",") if entry.strip()]
    return {entry[0]: entry[1] if len(entry) > 1 else "" for entry in entries}


def test_the_state_table_is_the_codes() -> None:
    rows = table(SECTIONS["Sessions"])
    assert [row[0] for row in rows] == [state.name for state in State]
    for name, client, server in rows:
        for side, cell in ((Side.CLIENT, client), (Side.SERVER, server)):
            allowed = NEXT[State[name], side]
            said = {kind: State[after or name] for kind, after in cells(cell).items()}
            assert said == {kind.__name__: state for kind, state in allowed.items()}


def test_the_session_of_the_example_goes_as_written() -> None:
    (block,) = re.findall(r"^```session\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    ends = {"C": Session(Side.CLIENT, now=0.0), "S": Session(Side.SERVER, now=0.0)}
    steps = re.findall(r"^([CS]) (.+)\n((?:  .+\n)+)", block, flags=re.MULTILINE)
    assert len(steps) == 7
    for who, expression, data in steps:
        message = message_of(expression)
        assert ends[who].send(message) == bytes.fromhex(data)
        assert ends["S" if who == "C" else "C"].receive(bytes.fromhex(data), 0.0) == message
    assert ends["C"].state is ends["S"].state is State.CLOSED


def test_the_stream_of_the_example_is_its_bytes_both_ways() -> None:
    (block,) = re.findall(r"^```stream\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    data = bytes.fromhex(block)
    header = Header(1, bytes(32), "toy", 24_000, 320, 1, 1024, 1, 24_000)
    writer = StreamWriter(header, frames_per_packet=2)
    assert writer.start() + writer.write(np.array([[[1, 2]]])) + writer.end(600) == data
    reader = StreamReader()
    reader.feed(data)
    reader.feed_eof()
    assert reader.next_event() == HeaderEvent(header)
    event = reader.next_event()
    assert isinstance(event, Codes)
    assert event.codes.tolist() == [[[1, 2]]]
    assert reader.next_event() == Ended(600, True, 2)
    assert not reader.damaged


def test_magic_and_record_are_those_of_the_page() -> None:
    text = SECTIONS["Streams"]
    assert f"`{records.MAGIC.hex(' ')}`" in text
    assert f"`{records.SYNC.hex(' ')}`" in text
    rows = table(text)
    fixed = [
        len(bytes.fromhex(row[1].strip("`"))) if "`" in row[1] else int(row[1]) for row in rows if row[0] != "message"
    ]
    assert sum(fixed) == records.OVERHEAD
    assert len(records.pack_record(encode(End(0, 0, 0)))) == records.OVERHEAD + len(encode(End(0, 0, 0)))


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("Messages", f"at most {messages.MAX_MESSAGE} bytes"),
        ("Messages", f"a bin at most {messages.MAX_PAYLOAD} bytes"),
        ("Messages", f"nested at most {messages.MAX_DEPTH} arrays deep"),
        ("Messages", "Kinds 64 to 127 are **optional**"),
        ("Sessions", f"`{messages.SUBPROTOCOL}`"),
        ("Sessions", f"more than {events.MAX_GAP_SECONDS} s of frames"),
        ("Sessions", f"due {session.HANDSHAKE_SECONDS:.0f} s after"),
        ("Sessions", f"a Ping every {session.PING_SECONDS:.0f} s"),
        ("Sessions", f"nothing came for {session.SILENCE_SECONDS:.0f} s"),
        ("Streams", f"repeated every {events.HEADER_SECONDS} s"),
        ("Streams", f"1 to {messages.MAX_MESSAGE}"),
        ("Streams", f"at most {events.MAX_GAP_SECONDS} s"),
        ("Playback", f"{delay.QUANTILE:.0%}".replace("%", " %") + " quantile"),
        ("Playback", f"fastest packet of {delay.WINDOW:.0f} s"),
        ("Playback", f"within {drift.LIMIT:.0%}".replace("%", " %")),
        ("Playback", f"more than {rate.HEAVY_LOSS:.0%}".replace("%", " %")),
        ("Playback", f"more than {1000 * rate.QUEUE_SECONDS:.0f} ms"),
        ("Playback", f"a step every {rate.RAISE_SECONDS:.0f} s"),
        ("Playback", f"up to {rate.MAX_RAISE_SECONDS:.0f} s"),
        ("Playback", f"above {100 * rate.ANY_LOSS:g} %"),
    ],
)
def test_numbers_in_the_text_are_the_codes(section, words) -> None:
    assert words in " ".join(SECTIONS[section].split())


def test_optional_kinds_and_versions_are_as_said() -> None:
    assert range(64, 128) == messages.OPTIONAL
    for title in ("1 Header", "4 Hello", "5 Accept"):
        kind = int(title.split()[0])
        with pytest.raises(UnsupportedError):
            decode(bytes([0x92, kind, 2]))
