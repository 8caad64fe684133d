"""Random and mutated input for everything that reads bytes of others; whatever is no error on purpose is a failure.

    python -m tests.protocols.fuzz --count 1000000 --seed 0

Each input has a seed of its own, so a failure is repeated with `--seed SEED --count 1`.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import msgpack
import numpy as np

from streamdac.errors import BadDataError, LocalProtocolError, ProtocolError, RemoteProtocolError
from streamdac.protocols import bitpack, fields, packets, records, redundancy, wire
from streamdac.protocols.fields import Bin, Int, ListOf, Text
from streamdac.protocols.messages import Accept, End, Header, Hello, Layout, Message, Mute, Offer, Packet, Role
from streamdac.protocols.receiver import Receiver
from streamdac.protocols.session import Session, Side
from streamdac.protocols.stream import MAGIC, Codes, Gap, StreamReader, StreamWriter

LAYOUT = Layout(4, 1000, 2)
HEADER = Header(1, bytes(32), "fuzz", 640, 320, 4, 1000, 2, 640)
MODEL = Offer(bytes(32), 640, 320, 4, 1000)
KINDS = list(wire.KINDS.values())
INTERESTING = [
    b"",
    b"\x00",
    b"\xff" * 4,
    b"\xda\xc5",
    MAGIC,
    b"\xc0",
    b"\x90",
    b"\xdd\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
]


def a_value(rand: random.Random, field: fields.Field) -> object:
    """A value within a field's bounds, often at one of them."""
    match field:
        case Int(low, high):
            return rand.choice([low, high, rand.randint(low, high), min(high, low + rand.randrange(300))])
        case Bin(low, high):
            return rand.randbytes(rand.choice([low, min(high, low + rand.randrange(60))]))
        case Text(high):
            return "".join(rand.choice("aZ 9é€") for _ in range(rand.randrange(high // 4)))
        case ListOf(kind, low, high):
            return tuple(a_message(rand, kind) for _ in range(rand.randint(low, min(high, 3))))


def a_message(rand: random.Random, kind: type) -> object:
    """A message, or an Offer, with every field in its bounds."""
    return kind(**{name: a_value(rand, field) for name, field in fields.declared(kind).items()})


def mutated(rand: random.Random, data: bytes) -> bytes:
    """Some bytes flipped, cut, doubled, put in or moved."""
    made = bytearray(data)
    for _ in range(rand.randint(1, 4)):
        at = rand.randrange(len(made) + 1)
        match rand.randrange(6):
            case 0 if made:
                made[at % len(made)] ^= 1 << rand.randrange(8)
            case 1:
                del made[at : at + rand.randrange(1, 20)]
            case 2:
                made[at:at] = rand.choice(INTERESTING)
            case 3:
                made[at:at] = made[at : at + rand.randrange(1, 40)]
            case 4:
                made[at:at] = rand.randbytes(rand.randrange(1, 8))
            case _:
                made[at:] = made[at:][::-1] if rand.random() < 0.2 else made[at : max(at, len(made) - 1)]
    return bytes(made)


def a_stream(rand: random.Random) -> bytes:
    """A whole stream of a few packets."""
    writer = StreamWriter(HEADER, frames_per_packet=rand.randint(1, 5))
    codes = np.random.default_rng(rand.getrandbits(32)).integers(0, 1000, (rand.randint(1, 4), 2, rand.randrange(30)))
    return writer.start() + writer.write(codes) + writer.end(writer.frames)


def random_messages(rand: random.Random) -> None:
    """Bytes that are nothing."""
    wire.decode(rand.randbytes(rand.randrange(40)))


def mutated_messages(rand: random.Random) -> None:
    """Valid messages with a few bytes changed; what is still accepted must be one that we could send."""
    message = a_message(rand, rand.choice(KINDS))
    data = mutated(rand, wire.encode(message))  # type: ignore[arg-type]
    got = wire.decode(data)
    if not isinstance(got, wire.Unknown):
        assert wire.decode(wire.encode(got)) == got


def random_arrays(rand: random.Random) -> None:
    """Valid msgpack with the wrong things in it."""
    atoms = [None, True, -1, 0, 1, 2**63, 1.5, "", "x" * 70, b"", bytes(40), [], [[]], {}, {1: 2}, msgpack.Timestamp(1)]
    kind = rand.choice([*range(-1, 14), 64, 65, 127, 128])
    wire.decode(msgpack.packb([kind, *(rand.choice(atoms) for _ in range(rand.randrange(12)))]))


def streams(rand: random.Random) -> None:
    """A damaged stream in any split: time runs on without holes, and it ends."""
    data = mutated(rand, a_stream(rand)) if rand.random() < 0.9 else rand.randbytes(rand.randrange(200))
    reader, position = StreamReader(join=rand.random() < 0.2), None
    at = 0
    while at < len(data):
        step = rand.randint(1, 200)
        reader.feed(data[at : at + step])
        position = drained(reader, position)
        at += step
    reader.feed_eof()
    drained(reader, position)
    assert reader.next_event() is None


def drained(reader: StreamReader, position: int | None) -> int | None:
    """All events that are ready."""
    while (event := reader.next_event()) is not None:
        if isinstance(event, Codes | Gap):
            assert position in (None, event.first_frame)
            count = event.codes.shape[-1] if isinstance(event, Codes) else event.frames
            assert count > 0
            position = event.first_frame + count
            if isinstance(event, Codes):
                assert 0 <= event.codes.min() <= event.codes.max() < 1000
    return position


def false_records(rand: random.Random) -> None:
    """Whole records, CRC and all, around messages that are damaged."""
    parts = [MAGIC, records.pack_record(wire.encode(HEADER))]
    for _ in range(rand.randrange(6)):
        data = wire.encode(a_message(rand, rand.choice(KINDS)))  # type: ignore[arg-type]
        data = mutated(rand, data) if rand.random() < 0.5 else data
        parts.append(records.pack_record(data[: records.MAX_MESSAGE] or b"\xc0"))
    reader = StreamReader()
    reader.feed(b"".join(parts))
    reader.feed_eof()
    drained(reader, None)


def payloads(rand: random.Random) -> None:
    """Packets whose payload and redundancy are anything, against a random layout; then thinned as a relay does."""
    layout = Layout(rand.randint(1, 8), rand.choice([2, 3, 1000, 1024, 65_536]), rand.randint(1, 3))
    frames, codebooks = rand.randint(1, 8), rand.randint(1, 8)
    codes = np.random.default_rng(rand.getrandbits(32)).integers(
        0, layout.codebook_size, (codebooks, layout.channels, frames)
    )
    payload = bitpack.pack(codes, layout.bits)
    payload = mutated(rand, payload) if rand.random() < 0.5 else payload
    field = bytes([rand.randrange(5), rand.randrange(5)]) + rand.randbytes(rand.randrange(30))
    field = rand.choice([b"", field, field[: rand.randrange(3)]])
    packet = Packet(0, 0, rand.randrange(6), frames, codebooks, payload, field)
    packets.check_packet(layout, packet)
    thinned = packets.thin(layout, packet, rand.randint(1, 8))
    packets.check_packet(layout, thinned)
    codes = packets.packet_codes(layout, thinned)
    assert codes.shape[1:] == (layout.channels, frames)
    assert codes.max() < layout.codebook_size
    redundancy.recover(layout, packet)


def sessions(rand: random.Random) -> None:
    """An end of a session, opened or not, that hears anything; after an error it hears nothing more."""
    side, now = rand.choice(list(Side)), 0.0
    end = opened(side) if rand.random() < 0.8 else Session(side, now=0.0)
    for _ in range(rand.randrange(1, 12)):
        now += rand.choice([0.0, 0.1, 2.0, 11.0])
        if rand.random() < 0.3:
            end.tick(now)
            end.take_outgoing()
        data = wire.encode(a_session_message(rand))
        data = mutated(rand, data) if rand.random() < 0.1 else data
        try:
            end.receive(data, now)
        except RemoteProtocolError as error:
            farewell = end.farewell(error)
            assert farewell is None or wire.decode(farewell)
            raise


def opened(side: Side) -> Session:
    """An end of an open session."""
    end, hello = Session(side, now=0.0), Hello(1, Role.BOTH, (MODEL,), 2, 4, 1, 0, 0)
    for message in (hello, Accept(1, MODEL.fingerprint, 2, 4, 1, 0, 0)):
        if (side is Side.CLIENT) == (message is hello):
            end.send(message)
        else:
            end.receive(wire.encode(message), 0.0)
    return end


def a_session_message(rand: random.Random) -> Message:
    """Mostly what an open session takes, near the frame 100."""
    first = rand.randrange(200)
    codes = np.full((rand.randint(1, 4), 2, 1), rand.randrange(1000))
    match rand.randrange(8):
        case 0 | 1 | 2 | 3:
            return packets.make_packet(LAYOUT, codes, sequence=rand.randrange(65_536), first_frame=first)
        case 4:
            return Mute(0, first)
        case 5:
            return End(0, first * 320, rand.randrange(300))
        case _:
            made: Message = a_message(rand, rand.choice(KINDS))  # type: ignore[assignment]
            return made


def receivers(rand: random.Random) -> None:
    """A receiver that gets whatever a session lets through: every pop gives something to decode."""
    receiver, now = Receiver(LAYOUT, frame_seconds=0.01, max_delay=0.2), 0.0
    for _ in range(rand.randrange(1, 30)):
        now += rand.choice([0.0, 0.005, 0.01, 0.3])
        message = a_session_message(rand)
        if isinstance(message, Packet | Mute | End):
            message = replace(message, stream=0)
            if isinstance(message, Packet) and rand.random() < 0.3:
                field = bytes([rand.randrange(4), rand.randrange(4)]) + bytes(rand.randrange(12))
                message = replace(message, redundancy=field)
            with contextlib.suppress(RemoteProtocolError):
                receiver.push(message, now)
        for _ in range(rand.randrange(4)):
            playable = receiver.pop(now)
            assert playable.codes.shape[1] == 2
            assert 0 <= playable.gain <= 1
            now += 0.01 / receiver.speed(now)
    assert wire.decode(wire.encode(receiver.stats(0, now)))


TARGETS: list[Callable[[random.Random], None]] = [
    random_messages,
    mutated_messages,
    mutated_messages,
    random_arrays,
    streams,
    false_records,
    payloads,
    sessions,
    receivers,
]


def run(count: int, seed: int, *, report: Callable[[str], None] = print) -> tuple[Counter[str], list[str]]:
    """Try so many inputs: how often each target accepted or refused, and the tracebacks of what is neither."""
    outcomes: Counter[str] = Counter()
    stray: list[str] = []
    start = time.monotonic()
    for number in range(seed, seed + count):
        rand = random.Random(number)
        target = TARGETS[number % len(TARGETS)]
        try:
            target(rand)
            outcomes[f"{target.__name__} accepted"] += 1
        except LocalProtocolError:  # our own fault is never the peer's doing
            stray.append(f"seed {number}, {target.__name__}\n{traceback.format_exc()}")
        except (ProtocolError, BadDataError):
            outcomes[f"{target.__name__} refused"] += 1
        except Exception:
            stray.append(f"seed {number}, {target.__name__}\n{traceback.format_exc()}")
        if (number - seed + 1) % 50_000 == 0:
            report(f"{number - seed + 1} inputs, {time.monotonic() - start:.0f} s, {len(stray)} stray exceptions")
    return outcomes, stray


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    outcomes, stray = run(arguments.count, arguments.seed)
    for name, number in sorted(outcomes.items()):
        print(f"{number:9d}  {name}")
    for text in stray[:10]:
        print(text, file=sys.stderr)
    print(f"{arguments.count} inputs from seed {arguments.seed}: {len(stray)} stray exceptions")
    return 1 if stray else 0


if __name__ == "__main__":
    sys.exit(main())
