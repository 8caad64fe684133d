"""Every message on the wire: there and back, any split, truncation and flipped bit, and every bound of every field."""

import contextlib
import dataclasses
import itertools

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import LocalProtocolError, RemoteProtocolError
from streamdac.protocols import fields, messages, records, wire
from streamdac.protocols.fields import Bin, Int, ListOf, Text

KINDS = list(wire.KINDS.values())


def values_of(field: fields.Field) -> st.SearchStrategy:
    match field:
        case Int(low, high):
            return st.one_of(st.integers(low, high), st.sampled_from([low, high]))
        case Bin(low, high):
            return st.binary(min_size=low, max_size=min(high, low + 40))
        case Text(high):
            printable = st.characters(categories=["L", "N", "P"])
            return st.text(printable, max_size=high).filter(lambda text: len(text.encode()) <= high)
        case ListOf(kind, low, high):
            return st.lists(messages_of(kind), min_size=low, max_size=high).map(tuple)


def messages_of(kind: type) -> st.SearchStrategy:
    return st.builds(kind, **{name: values_of(field) for name, field in fields.declared(kind).items()})


any_message = st.one_of([messages_of(kind) for kind in KINDS])


@settings(max_examples=300, deadline=None)
@given(any_message)
def test_a_message_comes_back_as_it_went(message) -> None:
    data = wire.encode(message)
    assert len(data) <= messages.MAX_MESSAGE
    assert wire.decode(data) == message


@settings(max_examples=150, deadline=None)
@given(any_message, st.data())
def test_a_message_cut_or_extended_is_refused(message, data) -> None:
    whole = wire.encode(message)
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\x00"):
        with pytest.raises(RemoteProtocolError):
            wire.decode(wrong)


@settings(max_examples=400, deadline=None)
@given(any_message, st.data())
def test_flipped_bits_give_a_valid_message_or_are_refused(message, data) -> None:
    whole = bytearray(wire.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, len(whole) * 8 - 1))
        whole[bit // 8] ^= 1 << bit % 8
    try:
        got = wire.decode(bytes(whole))
    except RemoteProtocolError:
        return
    assert isinstance(got, wire.Unknown) or wire.decode(wire.encode(got)) == got


@settings(max_examples=100, deadline=None)
@given(st.lists(any_message, min_size=1, max_size=4), st.data())
def test_messages_in_records_survive_any_split(sent, data) -> None:
    stream = b"".join(records.pack_record(wire.encode(message)) for message in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted))
    scanner, got = records.RecordScanner(), []
    for start, stop in itertools.pairwise([0, *cuts, len(stream)]):
        scanner.feed(stream[start:stop])
        while (item := scanner.next_item()) is not None:
            got.append(wire.decode(item.message))
    assert got == sent
    assert scanner.pending == 0


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_refused(data) -> None:
    with contextlib.suppress(RemoteProtocolError):
        wire.decode(data)


SAMPLES = {
    int: [True, 1.0, "1", None, b"1", [1]],
    bytes: ["a" * 32, 5, None, [1]],
    str: [b"a", 5, None],
    tuple: [5, None, b"", {}, [5]],
}


def example(kind: type) -> object:
    """A message with the smallest value in every field."""
    small = {
        Int: lambda f: f.low,
        Bin: lambda f: bytes(f.low),
        Text: lambda f: "",
        ListOf: lambda f: (example(f.kind),),
    }
    spec = fields.declared(kind)
    return kind(**{name: small[type(field)](field) for name, field in spec.items()})


def out_of_bounds(field: fields.Field) -> list[object]:
    match field:
        case Int(low, high):
            return [low - 1, high + 1, *SAMPLES[int]]
        case Bin(low, high):
            return [bytes(high + 1), *([bytes(low - 1)] if low else []), *SAMPLES[bytes]]
        case Text(high):
            return ["a" * (high + 1), "ä" * (high // 2 + 1), "a\x1b[31m", "\n", *SAMPLES[str]]
        case ListOf():
            return [[], [[]] * (field.high + 1), [[1]], *SAMPLES[tuple]]


CASES = [
    (kind, name, value) for kind in KINDS for name, f in fields.declared(kind).items() for value in out_of_bounds(f)
]


@pytest.mark.parametrize(("kind", "name", "value"), CASES, ids=lambda v: str(getattr(v, "__name__", v))[:20])
def test_a_field_out_of_bounds_is_refused_both_ways(kind, name, value) -> None:
    names = list(fields.declared(kind))
    array = [kind.KIND, *fields.wire_values(example(kind))]
    array[1 + names.index(name)] = value
    with pytest.raises(RemoteProtocolError):
        wire.decode(msgpack.packb(array))
    with pytest.raises(LocalProtocolError, match=f"{kind.__name__}: {name}"):
        wire.encode(dataclasses.replace(example(kind), **{name: value}))


@pytest.mark.parametrize("kind", KINDS)
def test_another_arity_is_refused(kind) -> None:
    array = [kind.KIND, *fields.wire_values(example(kind))]
    for wrong in (array[:-1], [*array, 0]):
        with pytest.raises(RemoteProtocolError, match=f"got {len(wrong) - 1} fields, need {len(array) - 1}"):
            wire.decode(msgpack.packb(wrong))


@pytest.mark.parametrize("kind", [messages.Header, messages.Hello, messages.Accept])
def test_another_version_is_named_whatever_follows(kind) -> None:
    with pytest.raises(wire.UnsupportedError, match=f"{kind.__name__} of version 2, this program speaks 1"):
        wire.decode(msgpack.packb([kind.KIND, 2, "new"]))
    with pytest.raises(RemoteProtocolError, match="got 0 fields"):
        wire.decode(msgpack.packb([kind.KIND]))


@pytest.mark.parametrize("kind", [64 + 1, 127])
def test_unknown_optional_kinds_are_skipped_whatever_they_hold(kind) -> None:
    assert wire.decode(msgpack.packb([kind, [["x"], b"y", {}], None, 1.5])) == wire.Unknown(kind)


@pytest.mark.parametrize("kind", [0, 13, 63, 128, -1, 2**40])
def test_unknown_critical_kinds_are_refused(kind) -> None:
    with pytest.raises(wire.UnsupportedError, match=f"unknown critical kind {kind}"):
        wire.decode(msgpack.packb([kind]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x90",
        msgpack.packb({"kind": 1}),
        msgpack.packb("text"),
        msgpack.packb([True, 0]),
        msgpack.packb(["9", 0]),
        msgpack.packb([None]),
        msgpack.packb([9, {"a": 1}]),
        msgpack.packb([65, list(range(33))]),
        msgpack.packb([65, bytes(messages.MAX_PAYLOAD + 1)]),
        msgpack.packb([65, "a" * 257]),
        msgpack.packb([65, msgpack.ExtType(1, b"x")]),
        msgpack.packb([65, msgpack.Timestamp(1)]),
        b"\x92\x41\xc7\x00\x01",  # an extension without data
        b"\x92\x41\x91\xc7\x00\xff",  # a timestamp without data
        b"\x92\x41\xa1\xff",  # not UTF-8
        b"\x92\x41\xd9\x03\xed\xa0\x80",  # a lone surrogate
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
        b"\x92\x41\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\x91" * 2000,
        b"\x92\x41" + b"\x91" * 600 + b"\x01",  # deep nesting
        b"\x91" + b"\x93" * 3,
        bytes(messages.MAX_MESSAGE + 1),
    ],
    ids=range(24),
)
def test_what_is_no_message_is_refused(data) -> None:
    with pytest.raises(RemoteProtocolError):
        wire.decode(data)


def test_the_largest_packet_fits_into_a_message() -> None:
    largest = {name: field.high for name, field in fields.declared(messages.Packet).items()}
    largest |= {"payload": bytes(messages.MAX_PAYLOAD), "redundancy": bytes(messages.MAX_PAYLOAD)}
    assert len(wire.encode(messages.Packet(**largest))) <= messages.MAX_MESSAGE


def test_kinds_are_distinct_and_only_stats_is_optional() -> None:
    assert len(wire.KINDS) == len(set(KINDS)) == 13
    assert [kind for kind in KINDS if kind.KIND in messages.OPTIONAL] == [messages.Stats]
