"""How much a peer may send: token buckets for messages, bytes, Mutes and frames, sized by what was agreed."""

from __future__ import annotations

from functools import partial

from streamdac.protocols.bitpack import payload_bytes
from streamdac.protocols.events import MAX_GAP_SECONDS
from streamdac.protocols.messages import MAX_PAYLOAD, Accept, End, Layout, Mute, Offer, Packet
from streamdac.protocols.rate import MAX_REDUNDANCY

BURST_SECONDS = 10.0  # of real time at once: what piles up while a link stands still
SPEED = 1.5  # times real time in the long run
CONTROLS = 50.0  # messages a second beside the packets
MUTES, MUTES_AT_ONCE = 8.0, 40.0  # a second, and after a pause: a source that loses something all the time says four
MAX_FRAME_RATE = 1000.0  # frames a second of a model; all other limits follow from it
HANDSHAKE_MESSAGES = 8  # before anything is agreed
OVERHEAD = 64  # bytes of a message beside its payload
HANDSHAKE_BYTES = 4096


def frame_rate(offer: Offer) -> float:
    """Frames a second of a model."""
    return offer.sample_rate / offer.hop_length


class RateExceeded(Exception):
    """The peer sends more than real time needs."""


class Bucket:
    """Fills with `rate` a second up to `burst`; whoever takes more than is in it is too fast."""

    def __init__(self, rate: float, burst: float, now: float, *, level: float | None = None) -> None:
        self.rate, self.burst = rate, burst
        self._level, self._at = burst if level is None else level, now

    def take(self, amount: float, now: float) -> bool:
        """Whether so much may pass."""
        self._level = min(self.burst, self._level + (now - self._at) * self.rate) - amount
        self._at = now
        return self._level >= 0


class RateLimit:
    """Of one peer."""

    def __init__(self, now: float) -> None:
        self._messages = Bucket(HANDSHAKE_MESSAGES, HANDSHAKE_MESSAGES, now)
        self._bytes = Bucket(HANDSHAKE_BYTES, HANDSHAKE_BYTES, now)
        self._mutes = Bucket(MUTES, MUTES_AT_ONCE, now)
        self._frames: Bucket | None = None  # none are sent before anything is agreed
        self._span: tuple[int, int] | None = None  # of the frames that the stream has named

    def agree(self, offer: Offer, accept: Accept, now: float) -> None:
        """From now on as much as one stream of this kind needs, in packets of one frame.

        Each may carry the redundancy agreed, and where that is less, what a rate control adds: as much of it as codes, or one
        codebook of as many frames as may be repeated.
        """
        frames = frame_rate(offer)
        layout = Layout(accept.codebooks, offer.codebook_size, accept.channels)
        packed = partial(payload_bytes, channels=layout.channels, bits=layout.bits)
        payload = packed(codebooks=layout.codebooks, frames=1)
        coarse = min(accept.redundancy_codebooks, layout.codebooks)
        redundancy = packed(codebooks=coarse, frames=accept.redundancy_frames)
        messages = SPEED * frames + CONTROLS
        added = max(payload, packed(codebooks=1, frames=MAX_REDUNDANCY))
        size = messages * (OVERHEAD + payload + min(max(added, redundancy), MAX_PAYLOAD))
        self._messages = Bucket(messages, messages * BURST_SECONDS, now)
        self._bytes = Bucket(size, size * BURST_SECONDS, now)
        # After a long silence of its source a stream is where the time is, far beyond a burst; no jump is longer than that.
        most, burst = frames * MAX_GAP_SECONDS, SPEED * frames * BURST_SECONDS
        self._frames = Bucket(SPEED * frames, most, now, level=min(most, burst))

    def take(self, size: int, now: float) -> None:
        """A message of `size` bytes has come.

        Raises:
            RateExceeded: one too many.
        """
        if not self._messages.take(1, now):
            raise RateExceeded(f"more than {self._messages.rate:.0f} messages a second")
        if not self._bytes.take(size, now):
            raise RateExceeded(f"more than {self._bytes.rate:.0f} bytes a second")

    def mute(self, now: float) -> None:
        """A Mute has come.

        Raises:
            RateExceeded: one too many.
        """
        if not self._mutes.take(1, now):
            raise RateExceeded(f"more than {MUTES:.0f} Mutes a second")

    def advance(self, message: Packet | Mute | End, now: float) -> None:
        """The stream names frames: who hears it exactly decodes all of them, sent or not. Where it begins is free.

        Raises:
            RateExceeded: further from each other than the time allows.
        """
        first, last = _frames_of(message)
        before = self._span or (first, last)
        self._span = min(first, before[0]), max(last, before[1])
        grown = self._span[1] - self._span[0] - (before[1] - before[0])
        if self._frames is not None and grown and not self._frames.take(grown, now):
            raise RateExceeded(f"{grown} frames at once, more than {self._frames.rate:.0f} a second")


def _frames_of(message: Packet | Mute | End) -> tuple[int, int]:
    """From where to where a message says that its stream goes."""
    match message:
        case Packet():
            return message.first_frame, message.first_frame + message.frames
        case Mute():
            return message.first_frame, message.first_frame
        case _:
            return message.frames, message.frames
