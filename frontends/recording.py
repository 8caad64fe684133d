"""A live source that is recorded: Ctrl-C or SIGTERM ends it as the end of a file would, and so does the loss of its device."""

from __future__ import annotations

import signal
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from streamdac.errors import StreamdacError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from streamdac.frontend import Block, Source


class Recording:
    """The source, until it ends, the user interrupts or it fails."""

    live = True

    def __init__(self, source: Source) -> None:
        self._source = source
        self.sample_rate, self.channels, self.samples = source.sample_rate, source.channels, source.samples
        self.lost: Exception | None = None
        """What it failed with, after some audio."""
        self._heard = self._interrupted = False
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def read(self, samples: int) -> Block | None:
        """As the source's; None also after an interrupt or a failure, once there is something to keep."""
        block = None
        try:
            if not self._interrupted and self.lost is None:
                block = self._source.read(samples)
        except KeyboardInterrupt:
            self._interrupted = True
        except (StreamdacError, OSError) as error:
            if not self._heard:
                raise
            self.lost = error
        if block is not None:
            self._heard = True
            return block
        self.release()
        if self._interrupted and not self._heard:
            raise KeyboardInterrupt
        return None

    def close(self) -> None:
        """Let go of the source."""
        self._source.close()

    def watch(self) -> None:
        """From now on these signals are noticed between two blocks, so that they tear nothing; not where they are ignored."""
        with suppress(ValueError):  # not in the main thread
            for number, before in self._before.items():
                if before not in (None, signal.SIG_IGN):
                    signal.signal(number, self._interrupt)

    def release(self) -> None:
        """From now on they are what they were before."""
        with suppress(ValueError):
            for number, before in self._before.items():
                if signal.getsignal(number) == self._interrupt:
                    signal.signal(number, before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        self.release()  # a second one ends the program as ever


@contextmanager
def recorded(source: Source) -> Iterator[Source]:
    """A live source for as long as its audio is written; any other as it is. Around the file, so that this is kept.

    Raises:
        StreamdacError: at the end, what the source failed with.
        OSError: the same.
    """
    if not getattr(source, "live", False):
        yield source
        return
    recording = Recording(source)
    recording.watch()
    try:
        yield recording
    finally:
        recording.release()
    if recording.lost is not None:
        raise recording.lost
