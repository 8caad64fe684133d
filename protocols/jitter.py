"""The jitter buffer of one stream: packets in as they come, one frame out for each `pop(now)`.

Frames are kept by their index, so reordering needs nothing. When a frame is due and not there:

* later ones are there: it is MISSING, conceal it and go on (if there is still time, STALLED: conceal and wait);
* none is there: STALLED. What was concealed while stalled is credit: if the hole turns out to be a loss, so many of
  its frames are passed over; if it was a delay, nothing is lost and the delay has grown.

A Mute counts as something later. One that is open plays on as silence; when the packet that ends it comes later than
that, playback goes back into the silence, so that nothing of what follows is lost.

A delay above the target is brought down by the playback speed (see `drift`), during a mute for free, and beyond
`DROP_SECONDS` by leaving out a frame now and then. Hopeless cases, too much kept or nothing but late packets, flush.
"""

import enum
import math
from collections import deque
from dataclasses import dataclass

from .bitpack import CodeArray
from .delay import DelayEstimator
from .messages import Layout, Packet
from .packets import packet_codes
from .redundancy import recover

DROP_SECONDS = 0.08  # above the target
DROP_EVERY = 10  # pops between two frames left out; a third of it when the delay is far too long
FLUSH_SECONDS = 1.0  # above the target
LATE_RUN = 5  # packets in a row that are too late while nothing else is there,
LATE_SECONDS = 0.5  # over so long: a burst after a stall is no reason to go back
MAX_MUTES = 64  # remembered


class Kind(enum.Enum):
    """What a pop gives."""

    PLAYED = enum.auto()
    RECOVERED = enum.auto()  # coarse codes, from another packet's redundancy
    MISSING = enum.auto()
    STALLED = enum.auto()
    MUTED = enum.auto()
    WAITING = enum.auto()  # nothing to play yet
    ENDED = enum.auto()


@dataclass(frozen=True, slots=True, eq=False)
class Slot:
    """One hop of playback; codes `[K, C]` only when PLAYED or RECOVERED."""

    kind: Kind
    frame: int | None = None
    codes: CodeArray | None = None


@dataclass(slots=True)
class _Mute:
    """Frames from `first` up to `end`, None while the mute lasts."""

    first: int
    end: int | None


@dataclass(slots=True)
class JitterCounts:
    """What became of the frames, in frames unless said otherwise."""

    played: int = 0
    recovered: int = 0
    missing: int = 0
    stalled: int = 0
    muted: int = 0
    passed: int = 0  # lost frames whose time was concealed while stalled
    dropped: int = 0  # left out to bring the delay down
    flushed: int = 0  # left out by flushes
    flushes: int = 0
    late: int = 0  # packets that came when all their frames were over


class JitterBuffer:
    """Adaptive: plays frames at `delay.target` after the fastest packets of the last seconds would allow."""

    def __init__(
        self, layout: Layout, *, frame_seconds: float, min_delay: float = 0.02, max_delay: float = 1.0
    ) -> None:
        self.delay = DelayEstimator(frame_seconds, minimum=min_delay, maximum=max_delay)
        self.counts = JitterCounts()
        self._layout = layout
        self._hop = frame_seconds
        self._capacity = math.ceil((max_delay + FLUSH_SECONDS) / frame_seconds)
        self._frames: dict[int, tuple[bool, CodeArray]] = {}  # (from redundancy, codes)
        self._next: int | None = None  # None until playback starts
        self._end: int | None = None
        self._mutes: deque[_Mute] = deque(maxlen=MAX_MUTES)
        self._newest = 0  # frame after the newest one that came
        self._credit = 0  # frames concealed while stalled
        self._late_run = 0
        self._late_since = 0.0
        self._since_drop = 0

    @property
    def buffered(self) -> int:
        """Frames kept."""
        return len(self._frames)

    def excess(self, now: float) -> float:
        """Seconds by which playback lags behind the target; 0 before it starts."""
        return 0.0 if self._next is None else self._lag(self._next, now) - self.delay.target

    def push(self, packet: Packet, now: float) -> bool:
        """Take a packet; False if it came too late for all of its frames. Refuses codes that do not fit."""
        codes = packet_codes(self._layout, packet)
        coarse = recover(self._layout, packet)
        self.delay.observe(packet.first_frame, now)
        after = packet.first_frame + packet.frames
        self._return(packet.first_frame, now)
        self._close_mute(packet.first_frame)
        if self._next is not None:
            if after <= self._next and not self._take_late(packet.first_frame, now):
                return False
            if after - self._next > self._capacity:
                self._flush(after - 1, now)
        self._late_run = 0
        start = packet.first_frame if self._next is None else self._next
        if self._next is None and self._frames:
            start = min(start, *self._frames)
        if coarse is not None and coarse[0] < packet.first_frame > self._newest > 0:
            # Lost frames come now, coarse: waiting for them is worth as much as for a late packet.
            self.delay.observe(max(coarse[0], self._newest), now)
        self._newest = max(self._newest, after)
        for i in range(packet.frames):
            if packet.first_frame + i >= start:
                self._frames[packet.first_frame + i] = False, codes[:, :, i]
        if coarse is not None:
            first, codes = coarse
            for i in range(codes.shape[-1]):
                if first + i >= start:
                    self._frames.setdefault(first + i, (True, codes[:, :, i]))
        if self._next is None and len(self._frames) > self._capacity:
            self._forget(max(self._frames) - self._capacity + 1)
        return True

    def mute(self, first_frame: int) -> None:
        """Frames from here to the next packet are silence."""
        if self._mutes and self._mutes[-1].end is None:
            return
        end = None
        if self._newest > first_frame:  # it was overtaken by a packet
            end = min((frame for frame in self._frames if frame >= first_frame), default=self._newest)
        self._mutes.append(_Mute(first_frame, end))

    def end(self, frames: int) -> None:
        """The stream has so many frames."""
        self._end = frames
        self._close_mute(frames)

    def pop(self, now: float) -> Slot:
        """What to play for the next hop."""
        if self._next is None and not self._start(now):
            return Slot(Kind.ENDED if self._end is not None and not self._frames else Kind.WAITING)
        assert self._next is not None
        self._since_drop += 1
        self._catch_up(now)
        self._pass_over(now)
        frame = self._next
        if self._end is not None and frame >= self._end:
            return Slot(Kind.ENDED)
        found = self._frames.pop(frame, None)
        if found is not None:
            self._next += 1
            return self._found(frame, *found)
        if self._muted(frame):
            return self._silent(frame, now)
        return self._hole(frame, now)

    def _found(self, frame: int, coarse: bool, codes: CodeArray) -> Slot:
        self._credit = 0
        if coarse:
            self.counts.recovered += 1
            return Slot(Kind.RECOVERED, frame, codes)
        self.counts.played += 1
        return Slot(Kind.PLAYED, frame, codes)

    def _hole(self, frame: int, now: float) -> Slot:
        """The frame is not there: wait for it if nothing later is there or there is time, else conceal it."""
        later = bool(self._frames) or self._mute_after(frame)
        in_time = self._lag(frame, now) < self.delay.target - self._hop
        if in_time if later else self._end is None:
            self._credit = min(self._credit + 1, self._capacity)
            self.counts.stalled += 1
            return Slot(Kind.STALLED, frame)
        self._next = frame + 1
        self.counts.missing += 1
        return Slot(Kind.MISSING, frame)

    def _pass_over(self, now: float) -> None:
        """Leave out frames that are lost, or came back coarse only, and whose time was concealed while stalled."""
        while self._credit and self._next is not None:
            if not self._frames and self._end is None and not self._mute_after(self._next):
                return
            coarse, _ = self._frames.get(self._next, (True, None))
            over = self._end is not None and self._next >= self._end
            if not coarse or over or self._lag(self._next, now) < self.delay.target + self._hop / 2:
                return
            self._frames.pop(self._next, None)
            self._next += 1
            self._credit -= 1
            self.counts.passed += 1

    def _silent(self, frame: int, now: float) -> Slot:
        """A muted frame: the place to bring the delay to its target without being heard."""
        excess = self._lag(frame, now) - self.delay.target
        if excess > self._hop and self._muted(frame + 1) and frame + 1 not in self._frames:
            self._next = frame + 2
        elif excess >= -self._hop:
            self._next = frame + 1
        self._credit = 0
        self.counts.muted += 1
        return Slot(Kind.MUTED, frame)

    def _start(self, now: float) -> bool:
        """Begin once the first frame is as old as the target wants; frames older than that are not played."""
        own = [frame for frame, (coarse, _) in self._frames.items() if not coarse]
        if not own:
            return False
        first = min(own)
        lag = self._lag(first, now)
        if lag < self.delay.target and self._end is None:
            return False
        skip = int((lag - self.delay.target) / self._hop)
        self._forget(min(first + max(skip, 0), max(own)))
        self._next = min(self._frames)
        return True

    def _catch_up(self, now: float) -> None:
        """Bring a delay that is far too long down: flush, or leave out a frame."""
        assert self._next is not None
        if not self._frames:
            return
        excess = self._lag(self._next, now) - self.delay.target
        if excess > FLUSH_SECONDS:
            self._flush(max(self._frames), now)
            return
        if excess <= DROP_SECONDS:
            return
        every = DROP_EVERY // 3 if excess > 4 * DROP_SECONDS else DROP_EVERY
        if self._since_drop >= every and self._next in self._frames and self._next + 1 in self._frames:
            del self._frames[self._next]
            self._next += 1
            self._since_drop = 0
            self.counts.dropped += 1

    def _flush(self, newest: int, now: float) -> None:
        """Go to the frame that is due at the target delay, at most to the newest one."""
        assert self._next is not None
        self.counts.flushes += 1
        self._jump(min(max(self._due(now), newest - self._capacity + 1), newest))

    def _take_late(self, first_frame: int, now: float) -> bool:
        """Whether a late packet is to be played after all: when only such ones come, playback is in the wrong place."""
        if not self._late_run:
            self._late_since = now
        self._late_run += 1
        if self._late_run < LATE_RUN or now - self._late_since < LATE_SECONDS or self._frames:
            self.counts.late += 1
            return False
        self.counts.flushes += 1
        self._jump(first_frame)
        return True

    def _jump(self, frame: int) -> None:
        assert self._next is not None
        self.counts.flushed += max(0, frame - self._next)
        self._next = frame
        self._credit = 0
        self._late_run = 0
        self._forget(frame)

    def _forget(self, before: int) -> None:
        for frame in [frame for frame in self._frames if frame < before]:
            del self._frames[frame]

    def _lag(self, frame: int, now: float) -> float:
        """How long after the fastest packets a frame would be played now."""
        return now - frame * self._hop - (self.delay.base or 0.0)

    def _due(self, now: float) -> int:
        """The frame to be played now at the target delay."""
        return math.ceil((now - (self.delay.base or 0.0) - self.delay.target) / self._hop)

    def _muted(self, frame: int) -> bool:
        return any(mute.first <= frame and (mute.end is None or frame < mute.end) for mute in self._mutes)

    def _mute_after(self, frame: int) -> bool:
        return any(mute.first > frame for mute in self._mutes)

    def _return(self, frame: int, now: float) -> None:
        """Before the packet at `frame` ends a mute: if silence was played past it, go back to what is due."""
        if self._next is None or not self._mutes or self._mutes[-1].end is not None or self._end is not None:
            return
        silent = max(self._mutes[-1].first, self._newest)  # from here on there was nothing but silence
        if silent <= frame < self._next:
            self._next = min(max(silent, self._due(now)), frame)

    def _close_mute(self, frame: int) -> None:
        if self._mutes and self._mutes[-1].end is None and frame >= self._mutes[-1].first:
            self._mutes[-1].end = frame
