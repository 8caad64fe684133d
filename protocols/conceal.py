"""Concealment in the code domain: what the decoder is given for a frame that did not come.

The last frame's codes are repeated (or the frame is marked as lost, where the model foretells it), faded out by a gain,
and then replaced by the codes of silence; the decoder is pushed all the while, so its state stays continuous. The gain
belongs to the end of its frame: whoever plays ramps linearly from the gain of the frame before to this one.
"""

from dataclasses import dataclass

import numpy as np

from ..config import LOST
from ..errors import UsageError
from .bitpack import CodeArray
from .messages import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """Codes `[K, C]` in place of a frame, and the gain (1 to 0) that its audio ends with."""

    codes: CodeArray
    gain: float


@dataclass(slots=True)
class ConcealCounts:
    """Frames concealed so far, by how, and how they fell."""

    repeated: int = 0
    faded: int = 0
    silent: int = 0
    runs: int = 0
    longest: int = 0  # frames in the longest run


class Concealer:
    """Remembers the last frame played and makes patches for those missing after it.

    `silence` holds the codes `[K, C]` that the model gives for digital silence; without it the last codes go on, at gain
    0. A model that `foretells` fills in a frame that is marked as lost, so that nothing is repeated. The defaults are for
    hops of about 13 ms: 40 ms at full level, gone after 120 ms.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        silence: CodeArray | None = None,
        foretells: bool = False,
        repeat_frames: int = 3,
        fade_frames: int = 6,
    ) -> None:
        if silence is not None and (
            silence.ndim != 2 or not 1 <= len(silence) <= layout.codebooks or silence.shape[1] != layout.channels
        ):
            raise UsageError(
                f"got silence of shape {silence.shape}, need [1 to {layout.codebooks} codebooks, {layout.channels} "
                "channels]"
            )
        if min(repeat_frames, fade_frames) < 0:
            raise UsageError(f"got {repeat_frames} frames to repeat and {fade_frames} to fade, need at least 0")
        self.counts = ConcealCounts()
        self._silence = silence
        self._lost = np.full((1, layout.channels), LOST, dtype=np.int64) if foretells else None
        self._last = np.zeros((1, layout.channels), dtype=np.int64) if silence is None else silence
        self._repeat, self._fade = repeat_frames, fade_frames
        self._run = repeat_frames + fade_frames  # nothing to repeat before the first frame
        self._in_run = False
        self._length = 0  # of the run

    def played(self, codes: CodeArray) -> None:
        """Codes `[K, C]` of a frame that came."""
        self._last = codes
        self._run = 0
        self._in_run = False

    def silence(self) -> Patch:
        """What to play where silence is meant (mute, before the start): not concealment, so not counted."""
        self._run = self._repeat + self._fade
        self._in_run = False
        return Patch(self._last if self._silence is None else self._silence, 0.0)

    def patch(self) -> Patch:
        """What to play for one missing frame."""
        self._run += 1
        counts = self.counts
        if not self._in_run:
            self._in_run = True
            self._length = 0
            counts.runs += 1
        self._length += 1
        counts.longest = max(counts.longest, self._length)
        if self._run <= self._repeat:
            counts.repeated += 1
            return Patch(self._filled(), 1.0)
        if self._run <= self._repeat + self._fade:
            counts.faded += 1
            return Patch(self._filled(), 1.0 - (self._run - self._repeat) / (self._fade + 1))
        counts.silent += 1
        return Patch(self._last if self._silence is None else self._silence, 0.0)

    def _filled(self) -> CodeArray:
        return self._last if self._lost is None else self._lost
