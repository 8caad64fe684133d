"""Rooms: what one member sends, the others hear. Packets are forwarded without decoding, thinned for each receiver's link."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from streamdac.protocols.arrivals import Arrivals
from streamdac.protocols.messages import (
    MAX_STREAMS,
    Accept,
    Adapt,
    End,
    Hello,
    Left,
    Message,
    Mute,
    Offer,
    Packet,
    Reason,
    Reject,
    Role,
    Stats,
)
from streamdac.protocols.negotiate import answer
from streamdac.protocols.rate import MAX_FRAMES_PER_PACKET, RateControl
from streamdac.protocols.wire import encode

from .ws_channel import Channel
from .ws_limits import MAX_FRAME_RATE, RateLimit, frame_rate
from .ws_outbox import Forwarded

REPORT_SECONDS = 1.0  # between two Stats to a sender
RATE_SECONDS = 0.25  # between two looks at a receiver's link


@dataclass(slots=True)
class RoomCounts:
    """Packets of all rooms so far."""

    received: int = 0
    forwarded: int = 0  # put into outboxes; what of them was dropped is counted there
    thinned: int = 0


class Room:
    """Members that hear each other. The first one's model is the room's; it goes when the last member goes."""

    def __init__(self, name: str, *, echo: bool = False, counts: RoomCounts | None = None) -> None:
        self.name, self.echo = name, echo
        self.offer: Offer | None = None
        self.channels = 0
        self.members: dict[int, Member] = {}
        self.counts = counts or RoomCounts()

    def join(self, member: Member, hello: Hello) -> Accept | Reject:
        """The answer to a Hello; the member is in the room if it is an Accept."""
        if len(self.members) >= MAX_STREAMS:
            return Reject(Reason.BUSY, f"room {self.name} is full: {MAX_STREAMS} members")
        if self.offer is not None and hello.channels != self.channels:
            return Reject(Reason.FORMAT, f"got {hello.channels} channels, room {self.name} has {self.channels}")
        models = _followed(hello.offers) if self.offer is None else [self.offer]
        if not models:
            rate = min(map(frame_rate, hello.offers))
            return Reject(Reason.FORMAT, f"got {rate:.0f} frames a second, need at most {MAX_FRAME_RATE:.0f}")
        reply = answer(hello, models)
        if isinstance(reply, Accept):
            self.offer = next(offer for offer in hello.offers if offer.fingerprint == reply.fingerprint)
            self.channels = reply.channels
            number = next(number for number in range(MAX_STREAMS) if number not in self.members)
            self.members[number] = member
            member.number = number
        return reply

    def leave(self, member: Member) -> None:
        """The member is gone; who heard it is told, unless its stream has ended already."""
        if self.members.get(member.number) is not member:
            return
        del self.members[member.number]
        if member.heard and not member.ended:
            for other in self.receivers(member):
                other.channel.post(Left(member.number))

    def receivers(self, sender: Member) -> Iterator[Member]:
        """Who hears `sender`: the others, and with `echo` itself."""
        for member in self.members.values():
            if member.role & Role.RECEIVE and (member is not sender or self.echo):
                yield member

    def relay(self, sender: Member, message: Packet | Mute | End) -> None:
        """Forward what `sender` says, under its number."""
        renumbered = replace(message, stream=sender.number)
        forwarded = Forwarded(renumbered) if isinstance(renumbered, Packet) else renumbered
        for member in self.receivers(sender):
            if isinstance(forwarded, Forwarded):
                self.counts.forwarded += 1
            member.channel.post(forwarded)


def _followed(offers: tuple[Offer, ...]) -> list[Offer]:
    """Those of models whose streams a relay follows."""
    return [offer for offer in offers if frame_rate(offer) <= MAX_FRAME_RATE]


class Member:
    """The server's end of one session: joins a room at the Hello, then sends what the room says and hears what it is told."""

    channel: Channel  # set right after both are made

    def __init__(self, room: Room, *, now: float, adapt: bool = True, limit: RateLimit | None = None) -> None:
        self.room = room
        self.number = -1
        self.role = Role.BOTH
        self.heard = self.ended = False
        self.wanted: int | None = None  # codebooks, as the peer asked
        self.rate: RateControl | None = None
        self._adapt, self._limit = adapt, limit
        self._arrivals: Arrivals | None = None
        self._reported = self._looked = now
        self._told: int | None = None  # codebooks that the sender was asked for last

    @property
    def joined(self) -> bool:
        """Whether the session is in its room."""
        return self.rate is not None

    @property
    def codebooks(self) -> int:
        """As many as its link takes."""
        if self.rate is None:
            return 0
        most = self.rate.rate.codebooks
        return most if self.wanted is None else min(most, self.wanted)

    def handle(self, message: Message, now: float) -> None:
        """Take a message of the peer."""
        match message:
            case Hello():
                self._hello(message, now)
            case Packet():
                self._advance(message, now)
                self.heard = True
                self.room.counts.received += 1
                if self._arrivals is not None and self._arrivals.observe(message, now):
                    self.room.relay(self, message)
            case Mute():
                if self._limit is not None:
                    self._limit.mute(now)
                self._advance(message, now)
                self.heard = True
                self.room.relay(self, message)
            case End():
                self._advance(message, now)
                self.ended = True
                self.room.relay(self, message)
            case Adapt():
                self.wanted = message.codebooks
            case _:
                pass

    def cut(self, forwarded: Forwarded | Mute | End) -> bytes | None:
        """What another has sent as this peer's link takes it; None for what the peer could not follow."""
        session = self.channel.session
        if not isinstance(forwarded, Forwarded):
            message = session.forward(forwarded)
            return None if message is None else encode(message)
        if session.forward(forwarded.packet) is None:
            self.channel.outbox.drop_taken()
            return None
        codebooks = self.codebooks
        self.room.counts.thinned += forwarded.packet.codebooks > codebooks
        return forwarded.cut(session.agreement.layout, codebooks)

    def tick(self, now: float) -> None:
        """Look at the link from time to time, and report to a sender."""
        if self.rate is None:
            return
        if self._adapt and now - self._looked >= RATE_SECONDS:
            self._looked = now
            self.rate.queued(self.channel.congestion(now), now)
        if self.role & Role.SEND and now - self._reported >= REPORT_SECONDS:
            self._reported = now
            self._report()

    def _advance(self, message: Packet | Mute | End, now: float) -> None:
        if self._limit is not None:
            self._limit.advance(message, now)

    def _report(self) -> None:
        assert self._arrivals is not None
        session = self.channel.session
        stats: Stats = self._arrivals.report(0, round_trip=session.round_trip)
        self.channel.post(stats)
        wanted = max((member.codebooks for member in self.room.receivers(self)), default=None)
        accept = session.agreement.accept
        if wanted is None or wanted == self._told or accept is None:
            return
        if self._told is not None or wanted < accept.codebooks:
            self._told = wanted
            frames, redundancy = accept.redundancy_frames, accept.redundancy_codebooks
            self.channel.post(Adapt(wanted, accept.frames_per_packet, frames, redundancy))

    def _hello(self, hello: Hello, now: float) -> None:
        self.role = Role(hello.role)
        reply = self.room.join(self, hello)
        self.channel.post(reply)
        if isinstance(reply, Reject):
            return  # that is the last message: the channel ends with it
        offer = self.room.offer
        assert offer is not None
        bits = (offer.codebook_size - 1).bit_length() * reply.channels
        # A relay cannot put more frames into a packet, so the rate control shall begin with codebooks.
        self.rate = RateControl(
            max_codebooks=reply.codebooks,
            min_codebooks=min(reply.codebooks, max(1, reply.redundancy_codebooks)),
            frames_per_packet=MAX_FRAMES_PER_PACKET,
            bits_per_codebook=bits,
        )
        self._arrivals = Arrivals(offer.hop_length / offer.sample_rate)
        if self._limit is not None:
            self._limit.agree(offer, reply, now)
