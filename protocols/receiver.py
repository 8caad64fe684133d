"""The receiving end of one stream: messages in, for each hop codes to decode and a gain out.

Puts together the jitter buffer, concealment, drift and the counts; owns no clock: `now` is passed in.
"""

from dataclasses import dataclass

from .arrivals import Arrivals
from .bitpack import CodeArray
from .conceal import Concealer
from .drift import DriftEstimator
from .jitter import JitterBuffer, Kind
from .messages import End, Layout, Mute, Packet, Stats


@dataclass(frozen=True, slots=True, eq=False)
class Playable:
    """One hop to play: decode `codes` `[K, C]`, ramp the audio from the last hop's gain to this one."""

    kind: Kind
    codes: CodeArray
    gain: float
    frame: int | None  # None while waiting and after the end


class Receiver:
    """One stream's playback. `pop` is called once a hop of audio is wanted, at any speed near 1."""

    def __init__(
        self,
        layout: Layout,
        *,
        frame_seconds: float,
        silence: CodeArray | None = None,
        foretells: bool = False,
        min_delay: float = 0.02,
        max_delay: float = 1.0,
    ) -> None:
        self.jitter = JitterBuffer(layout, frame_seconds=frame_seconds, min_delay=min_delay, max_delay=max_delay)
        self.concealer = Concealer(layout, silence=silence, foretells=foretells)
        self.arrivals = Arrivals(frame_seconds)
        self.drift = DriftEstimator(frame_seconds)

    def push(self, message: Packet | Mute | End, now: float) -> None:
        """Take a message of this stream; RemoteProtocolError if its codes do not fit."""
        match message:
            case Mute():
                self.jitter.mute(message.first_frame)
            case End():
                self.jitter.end(message.frames)
            case _:
                self._packet(message, now)

    def _packet(self, packet: Packet, now: float) -> None:
        if not self.arrivals.observe(packet, now):
            return
        self.drift.observe(packet.first_frame, now)
        if not self.jitter.push(packet, now):
            self.arrivals.late()

    def pop(self, now: float) -> Playable:
        """What to play for the next hop; the decoder is to be pushed with it whatever its kind."""
        slot = self.jitter.pop(now)
        if slot.codes is not None:
            self.concealer.played(slot.codes)
            return Playable(slot.kind, slot.codes, 1.0, slot.frame)
        hole = slot.kind in (Kind.MISSING, Kind.STALLED)
        patch = self.concealer.patch() if hole else self.concealer.silence()
        return Playable(slot.kind, patch.codes, patch.gain, slot.frame)

    def speed(self, now: float) -> float:
        """The playback speed that keeps the delay at its target against drift, within ±1 %."""
        return self.drift.speed(self.jitter.excess(now))

    def stats(self, stream: int, now: float, *, round_trip: float | None = None) -> Stats:
        """The report to the sender on what came since the last one."""
        delay = self.jitter.delay.target + max(0.0, self.jitter.excess(now))
        return self.arrivals.report(stream, buffered=delay, round_trip=round_trip)
