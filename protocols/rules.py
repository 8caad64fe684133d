"""What a session's messages must agree with besides the table: the Hello and Accept, and the streams so far.

The rules are the same for what we send and for what we receive; the session knows whose fault a broken one is.
"""

from dataclasses import dataclass, field

from ..errors import RemoteProtocolError
from .events import MAX_GAP_SECONDS
from .messages import Accept, Adapt, End, Hello, Layout, Left, Message, Mute, Offer, Packet, Role, Stats
from .packets import check_packet, packet_codes
from .redundancy import check_field, recover


class BrokenRule(Exception):
    """A message contradicts what was agreed or sent before. Never leaves the package."""


@dataclass(slots=True)
class Agreement:
    """What the two ends have agreed on, and how far each stream has come."""

    hello: Hello | None = None
    accept: Accept | None = None
    offer: Offer | None = None  # the one accepted
    # Frames after the newest packet of each stream, by (from the client, stream); None after the client's End.
    positions: dict[tuple[bool, int], int | None] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """The shape of this session's payloads; only once it is open."""
        assert self.accept is not None
        assert self.offer is not None
        return Layout(self.accept.codebooks, self.offer.codebook_size, self.accept.channels)

    @property
    def window(self) -> int:
        """How many frames a stream may jump, either way: those of `MAX_GAP_SECONDS`."""
        assert self.offer is not None
        return max(1, MAX_GAP_SECONDS * self.offer.sample_rate // self.offer.hop_length)

    def check(self, message: Message, *, from_client: bool) -> None:
        """Take a message that the table allows, or raise BrokenRule and change nothing."""
        match message:
            case Hello():
                self._hello(message)
            case Accept():
                self._accept(message)
            case Packet() | Mute() | End() | Left():
                self._needs_role(message, Role.SEND if from_client else Role.RECEIVE)
                if isinstance(message, Packet):
                    self._packet(message)
                self._stream(message, from_client)
            case Stats() | Adapt():
                self._needs_role(message, Role.RECEIVE if from_client else Role.SEND)
            case _:
                pass

    def follows(self, message: Packet | Mute | End) -> bool:
        """Take a message that a server forwards, checked when it came, if the client can follow its frames."""
        try:
            self._needs_role(message, Role.RECEIVE)
            self._stream(message, from_client=False)
        except BrokenRule:
            return False
        return True

    def _hello(self, hello: Hello) -> None:
        if self.hello is not None:
            raise BrokenRule("a second Hello")
        if len({offer.fingerprint for offer in hello.offers}) < len(hello.offers):
            raise BrokenRule("a Hello that offers one model twice")
        self.hello = hello

    def _accept(self, accept: Accept) -> None:
        if self.accept is not None:
            raise BrokenRule("a second Accept")
        assert self.hello is not None
        offers = {offer.fingerprint: offer for offer in self.hello.offers}
        offer = offers.get(accept.fingerprint)
        if offer is None:
            raise BrokenRule(f"an Accept of model {accept.fingerprint.hex()[:16]}, which was not offered")
        if accept.channels != self.hello.channels:
            raise BrokenRule(f"an Accept of {accept.channels} channels, offered were {self.hello.channels}")
        if accept.codebooks > offer.n_codebooks:
            raise BrokenRule(f"an Accept of {accept.codebooks} codebooks of a model that has {offer.n_codebooks}")
        self.accept, self.offer = accept, offer

    def _needs_role(self, message: Message, role: Role) -> None:
        if self.accept is None or self.hello is None:
            raise BrokenRule(f"{type(message).__name__} before an Accept")
        if not self.hello.role & role:
            raise BrokenRule(f"{type(message).__name__} against the client's role {Role(self.hello.role).name}")

    def _stream(self, message: Packet | Mute | End | Left, from_client: bool) -> None:
        if from_client and message.stream:
            raise BrokenRule(f"stream {message.stream} from the client, need 0")
        key = from_client, message.stream
        if self.positions.get(key, 0) is None:
            raise BrokenRule(f"{type(message).__name__} after the End of its stream")
        match message:
            case Packet():
                self._move(key, message.first_frame, message.frames)
            case Mute():
                self._move(key, message.first_frame, 0)
            case End():
                self._end(key, message)
            case _:  # Left
                self.positions.pop(key, None)

    def _packet(self, packet: Packet) -> None:
        layout = self.layout
        try:
            if layout.codebook_size == 1 << layout.bits:  # all codes that fit are in range, so they need no unpacking
                check_packet(layout, packet)
                check_field(layout, packet)
            else:
                packet_codes(layout, packet)
                recover(layout, packet)
        except RemoteProtocolError as error:
            raise BrokenRule(str(error)) from None

    def _move(self, key: tuple[bool, int], first_frame: int, frames: int) -> None:
        position = self.positions.get(key)
        if position is not None and abs(first_frame - position) > self.window:
            raise BrokenRule(f"frame {first_frame} after frame {position}, need at most {self.window} apart")
        self.positions[key] = max(position or 0, first_frame + frames)

    def _end(self, key: tuple[bool, int], end: End) -> None:
        position = self.positions.get(key)
        if position is not None and not 0 <= end.frames - position <= self.window:
            raise BrokenRule(f"an End after {end.frames} frames, but {position} came")
        assert self.offer is not None
        most = (end.frames + 1) * self.offer.hop_length + 1
        if end.samples > most:
            raise BrokenRule(f"an End with {end.samples} samples in {end.frames} frames, need at most {most}")
        if key[0]:
            self.positions[key] = None
        else:
            self.positions.pop(key, None)
