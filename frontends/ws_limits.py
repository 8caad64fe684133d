"""How much a peer may send: token buckets for messages and bytes, sized by what was agreed."""

from __future__ import annotations

from functools import partial

from streamdac.protocols.bitpack import payload_bytes
from streamdac.protocols.messages import MAX_PAYLOAD, Accept, Layout, Offer
from streamdac.protocols.rate import MAX_REDUNDANCY

BURST_SECONDS = 10.0  # of real time at once: what piles up while a link stands still
SPEED = 1.5  # times real time in the long run
CONTROLS = 50.0  # messages a second beside the packets
MUTES, MUTES_AT_ONCE = 8.0, 40.0  # a second, and after a pause: none may be left out on its way to the others of a room
HANDSHAKE_MESSAGES = 8  # before anything is agreed
OVERHEAD = 64  # bytes of a message beside its payload
HANDSHAKE_BYTES = 4096


class RateExceeded(Exception):
    """The peer sends more than real time needs."""


class Bucket:
    """Fills with `rate` a second up to `burst`; whoever takes more than is in it is too fast."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate, self.burst = rate, burst
        self._level, self._at = burst, now

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

    def agree(self, offer: Offer, accept: Accept, now: float) -> None:
        """From now on as much as one stream of this kind needs, in packets of one frame.

        Each may carry the redundancy agreed, and where that is less, what a rate control adds: as much of it as codes, or one
        codebook of as many frames as may be repeated.
        """
        frames = offer.sample_rate / offer.hop_length
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
