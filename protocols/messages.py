"""The messages: what the two ends of a stream or a session say to each other, and the limits of each field.

Every message is one msgpack array `[kind, field, ...]` in the order of its dataclass here; `wire` encodes and decodes
them. Kinds 0 to 63 are critical: an unknown one is refused, because what follows could not be understood without it.
Kinds 64 to 127 are optional: unknown ones are skipped. PROTOCOL.md is the specification.
"""

import enum
from dataclasses import dataclass
from typing import Annotated, ClassVar

from .bitpack import bits_for
from .fields import Bin, Int, ListOf, Text

VERSION = 1
SUBPROTOCOL = "v1.streamdac"  # of a websocket
MAX_PAYLOAD = 8192  # bytes; 64 frames of 32 codebooks in stereo take 5120
MAX_MESSAGE = 2 * MAX_PAYLOAD + 256  # bytes; a packet with as much redundancy as payload
MAX_DEPTH = 8  # arrays within arrays, the message itself included
MAX_FRAMES = 64  # in one packet
MAX_FRAME = (1 << 48) - 1  # 119,000 years at 75 frames a second
MAX_SAMPLES = (1 << 53) - 1  # exact in a double, for readers in other languages
MAX_RATE = 768_000  # Hz
MAX_CODEBOOKS = 64
MAX_CHANNELS = 32
MAX_STREAMS = 128  # in one session; the number takes one byte
SEQUENCES = 1 << 16  # sequence numbers count modulo this: two bytes fewer a packet than 32 bits
OPTIONAL = range(64, 128)

Version = Annotated[int, Int(VERSION, VERSION)]
Fingerprint = Annotated[bytes, Bin(32, 32)]  # SHA-256 of what gives the model's codes their meaning
Stream = Annotated[int, Int(0, MAX_STREAMS - 1)]
Codebooks = Annotated[int, Int(1, MAX_CODEBOOKS)]
Frames = Annotated[int, Int(1, MAX_FRAMES)]
FrameIndex = Annotated[int, Int(0, MAX_FRAME)]  # frames since the start of the stream
Micros = Annotated[int, Int(0, 60_000_000)]  # microseconds
Count = Annotated[int, Int(0, 1_000_000)]


class Role(enum.IntEnum):
    """What the client does in a session."""

    SEND = 1
    RECEIVE = 2
    BOTH = 3


class Reason(enum.IntEnum):
    """Why a session is rejected or ends. A number that is not listed means `OTHER`."""

    NORMAL = 0
    OTHER = 1
    VERSION = 2  # no common version
    MODEL = 3  # none of the models offered
    FORMAT = 4  # channels, codebooks or role
    BUSY = 5  # too many sessions
    DENIED = 6
    VIOLATION = 7  # the other side broke the protocol
    TIMEOUT = 8
    LEAVING = 9  # the program ends


@dataclass(frozen=True, slots=True)
class Layout:
    """What gives a payload its shape, besides the packet's own counts."""

    codebooks: int  # the most that a packet may carry
    codebook_size: int
    channels: int

    @property
    def bits(self) -> int:
        """Bits per code."""
        return bits_for(self.codebook_size)


@dataclass(frozen=True, slots=True)
class Header:
    """What the codes of a stream mean: first message of a `.sdac` stream, repeated every 10 s."""

    KIND: ClassVar[int] = 1
    version: Version
    fingerprint: Fingerprint
    model: Annotated[str, Text(64)]  # for display only
    sample_rate: Annotated[int, Int(1, MAX_RATE)]  # Hz, of the model
    hop_length: Annotated[int, Int(1, 32_768)]  # samples a frame
    n_codebooks: Codebooks
    codebook_size: Annotated[int, Int(2, 65_536)]
    channels: Annotated[int, Int(1, MAX_CHANNELS)]
    source_rate: Annotated[int, Int(1, MAX_RATE)]  # Hz, of the audio that went in

    @property
    def layout(self) -> Layout:
        """The shape of the payloads that follow."""
        return Layout(self.n_codebooks, self.codebook_size, self.channels)


@dataclass(frozen=True, slots=True)
class Packet:
    """Codes of a few frames, and perhaps coarse codes of the frames before them."""

    KIND: ClassVar[int] = 2
    stream: Stream  # 0 in a file and from a client
    sequence: Annotated[int, Int(0, SEQUENCES - 1)]  # packets of this stream, modulo SEQUENCES
    first_frame: FrameIndex
    frames: Frames
    codebooks: Codebooks
    payload: Annotated[bytes, Bin(1, MAX_PAYLOAD)]  # see bitpack
    redundancy: Annotated[bytes, Bin(0, MAX_PAYLOAD)] = b""  # see redundancy; empty for none


@dataclass(frozen=True, slots=True)
class End:
    """No more packets of this stream follow."""

    KIND: ClassVar[int] = 3
    stream: Stream
    samples: Annotated[int, Int(0, MAX_SAMPLES)]  # per channel, at the header's source rate or the model's in a session
    frames: FrameIndex  # of the whole stream


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that the client has."""

    fingerprint: Fingerprint
    sample_rate: Annotated[int, Int(1, MAX_RATE)]
    hop_length: Annotated[int, Int(1, 32_768)]
    n_codebooks: Codebooks
    codebook_size: Annotated[int, Int(2, 65_536)]


@dataclass(frozen=True, slots=True)
class Hello:
    """The client opens a session: its models, best first, and what it would send and like to receive."""

    KIND: ClassVar[int] = 4
    version: Version
    role: Annotated[int, Int(1, 3)]
    offers: Annotated[tuple[Offer, ...], ListOf(Offer, 1, 8)]
    channels: Annotated[int, Int(1, MAX_CHANNELS)]
    codebooks: Codebooks  # that it would use in each direction
    frames_per_packet: Frames
    redundancy_frames: Annotated[int, Int(0, MAX_FRAMES)]
    redundancy_codebooks: Annotated[int, Int(0, MAX_CODEBOOKS)]


@dataclass(frozen=True, slots=True)
class Accept:
    """The server takes one of the offers; both sides send and receive with it."""

    KIND: ClassVar[int] = 5
    version: Version
    fingerprint: Fingerprint
    channels: Annotated[int, Int(1, MAX_CHANNELS)]  # those of the Hello
    codebooks: Codebooks  # the most that either side sends
    frames_per_packet: Frames
    redundancy_frames: Annotated[int, Int(0, MAX_FRAMES)]
    redundancy_codebooks: Annotated[int, Int(0, MAX_CODEBOOKS)]


@dataclass(frozen=True, slots=True)
class Reject:
    """The server does not take the session."""

    KIND: ClassVar[int] = 6
    reason: Annotated[int, Int(0, 255)]
    text: Annotated[str, Text(200)]


@dataclass(frozen=True, slots=True)
class Adapt:
    """A receiver asks the sender for packets of this kind from now on. None is wrong: packets describe themselves."""

    KIND: ClassVar[int] = 7
    codebooks: Codebooks
    frames_per_packet: Frames
    redundancy_frames: Annotated[int, Int(0, MAX_FRAMES)]
    redundancy_codebooks: Annotated[int, Int(0, MAX_CODEBOOKS)]


@dataclass(frozen=True, slots=True)
class Mute:
    """Frames from here to the next packet are silence and are not sent (DTX)."""

    KIND: ClassVar[int] = 8
    stream: Stream
    first_frame: FrameIndex


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered at once with a Pong of the same token."""

    KIND: ClassVar[int] = 9
    token: Annotated[int, Int(0, 0xFFFF_FFFF)]


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a Ping."""

    KIND: ClassVar[int] = 10
    token: Annotated[int, Int(0, 0xFFFF_FFFF)]


@dataclass(frozen=True, slots=True)
class Bye:
    """The last message of its sender."""

    KIND: ClassVar[int] = 11
    reason: Annotated[int, Int(0, 255)]
    text: Annotated[str, Text(200)]


@dataclass(frozen=True, slots=True)
class Left:
    """Who sent this stream is gone without an End; its number may be used again. From a server only."""

    KIND: ClassVar[int] = 12
    stream: Stream


@dataclass(frozen=True, slots=True)
class Stats:
    """What a receiver saw of a stream since its last Stats. The counts are of packets."""

    KIND: ClassVar[int] = 64
    stream: Stream
    highest: Annotated[int, Int(0, SEQUENCES - 1)]  # sequence number
    received: Count
    lost: Count  # did not come, whether or not redundancy made up for it
    burst: Count  # the longest run of lost packets
    late: Count  # came too late to be played
    jitter: Micros  # RFC 3550's interarrival jitter
    queued: Micros  # by which the fastest of these packets was slower than the fastest of the last minute
    buffered: Micros  # delay of the jitter buffer
    round_trip: Micros  # 0 while unknown


Message = (
    # In the order of their kinds.
    Header | Packet | End | Hello | Accept | Reject | Adapt | Mute | Ping | Pong | Bye | Left | Stats
)
