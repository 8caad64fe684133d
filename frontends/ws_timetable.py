"""When audio that no device paces has been spoken, and how much silence stands for what a source has lost."""

from __future__ import annotations

LATE_SECONDS = 0.1  # that a source may be late for good: a rate control takes it for a queue from 0.15 s on
# Late by so much at once, or later than the above for so long: lost. At most four Mutes a second, a server takes eight.
LOST_SECONDS = 0.25
SLOW_CLOCK = 5e-4  # of the time: a source so much slower is followed without silence, for its hearers can do so too


class Timetable:
    """`due` is when all the audio so far has been spoken, in s on the caller's clock.

    What a source lets pass is lost. What this side is late for, on a busy machine say, is made up for: none of its audio is.
    """

    def __init__(self, frame_seconds: float, now: float) -> None:
        self.due = now
        self._frame_seconds = frame_seconds
        self._late_since: float | None = None
        self._lost = 0.0  # of what is late now, what the source let pass

    def add(self, seconds: float, asked: float, came: float) -> int:
        """So much audio is there to be spoken since it came, after a source was asked for it; frames of silence before it."""
        late, before = (max(0.0, at - self.due) for at in (came, asked))
        self._lost = min(self._lost + max(0.0, late - before), late)
        now = min(came, self.due + self._lost)
        late, frames = now - self.due, 0
        if late <= LATE_SECONDS:
            self._late_since = None
        elif self._late_since is None:
            self._late_since = now
        since = now if self._late_since is None else self._late_since
        if late >= LOST_SECONDS or now - since >= LOST_SECONDS:
            frames = self.silence(now)
        self.due += seconds + min(max(0.0, now - self.due), SLOW_CLOCK * seconds)
        return frames

    def silence(self, now: float) -> int:
        """Whole frames that pass in silence up to now."""
        frames = max(0, int((now - self.due) / self._frame_seconds))
        self.due += frames * self._frame_seconds
        self._lost = max(0.0, self._lost - frames * self._frame_seconds)
        self._late_since = None
        return frames
