"""How many codebooks each hop of a stream is worth: all near the level of what was heard lately, fewer below it.

Coding noise is heard against what is loud. Spent by level, as many bits on average give more: on 21 clips of 7 unseen
speakers 6.4 kbps of the ninth embedded model have PESQ-WB 2.77 and ViSQOL 3.07 instead of 2.65 and 2.99
(`training/EXPERIMENTS.md`, "Bits by level").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import BadDataError

Samples = npt.NDArray[np.float32]  # [R, T]
Classes = npt.NDArray[np.int64]  # [R, F]; codebooks, too

SHARES = (1.0, 0.7, 0.4, 0.1)
"""Of the codebooks, in the hops of each class; at least one."""
BITS_PER_HOP = 2
"""Enough to say which of the four."""
_BELOW_DB = np.array([22.0, 35.0, 48.0])  # under the running peak: where the second class begins, the third, the fourth
_FALL_DB = 3.75  # of the running peak, a second
_FLOOR_DB = -60.0  # of full scale: it falls no further, so that what is quieter than that is never worth much
_HOLD = 2  # hops after one worth more that are worth as much: what fades keeps its codes, and packets grow longer
_TINY = 1e-12


class Allocation:
    """Classes of hops, one after the other, for a number of rows.

    Every hop's level (RMS) is held against the row's running peak. What a hop is worth depends on it and those before it
    alone, not on the chunks in which they come.

    Args:
        rows: of audio.
        hop_length: samples.
        sample_rate: Hz.
        together: all rows are worth what the one that needs most is, as channels that share a packet are.
    """

    def __init__(self, rows: int, hop_length: int, sample_rate: int, *, together: bool = False) -> None:
        self.rows, self.hop_length, self.together = rows, hop_length, together
        self._fall = _FALL_DB * hop_length / sample_rate
        self.reset()

    def reset(self, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Back to the start: all rows, or some."""
        if rows is None:
            self._held: Samples = np.zeros((self.rows, 0), np.float32)
            self._due: Classes = np.zeros((self.rows, 0), np.int64)
            self._peak = np.full(self.rows, _FLOOR_DB)
            self._last: Classes = np.full((self.rows, _HOLD), len(_BELOW_DB))
        else:
            self._peak[rows] = _FLOOR_DB
            self._last[rows] = len(_BELOW_DB)

    def needed(
        self,
        audio: Samples,
        depths: int | npt.NDArray[np.int64],
        rows: npt.NDArray[np.int64] | None = None,
    ) -> Classes:
        """Take audio `[R, T]` of any length; codebooks for every hop that is not `done`, `[R, F]`.

        `depths` are those of the first class, for all rows or `[R]`. With `rows` only those are there, whole hops of them.
        """
        self._take(audio, rows)
        classes = self._due if rows is None else self._due[rows]
        most = np.broadcast_to(np.asarray(depths), (len(classes),))[:, None]
        needed: Classes = np.maximum(1, np.ceil(np.array(SHARES)[classes] * most - 1e-9)).astype(np.int64)
        return needed

    def done(self, frames: int) -> None:
        """So many hops, the oldest, have their codes."""
        self._due = self._due[:, frames:]

    def _take(self, audio: Samples, rows: npt.NDArray[np.int64] | None) -> None:
        if rows is not None:
            every = np.zeros((self.rows, audio.shape[1]), np.float32)
            every[rows] = audio
            audio = every
        joined = np.concatenate([self._held, audio], axis=1)
        hops = joined.shape[1] // self.hop_length
        whole, self._held = np.split(joined, [hops * self.hop_length], axis=1)
        power = np.square(whole.reshape(self.rows, hops, self.hop_length), dtype=np.float64).mean(axis=2)
        fresh = [self._classes(levels, rows) for levels in 10 * np.log10(power.T + _TINY)]
        self._due = np.concatenate([self._due, *(classes[:, None] for classes in fresh)], axis=1)

    def _classes(self, levels: npt.NDArray[np.float64], rows: npt.NDArray[np.int64] | None) -> Classes:
        """Of one hop of every row; `rows` go on, the others stay as they are."""
        peak = np.maximum(np.maximum(levels, self._peak - self._fall), _FLOOR_DB)
        classes = np.searchsorted(_BELOW_DB, peak - levels)
        held: Classes = np.minimum(classes, self._last.min(axis=1))
        last = np.concatenate([self._last[:, 1:], classes[:, None]], axis=1)
        if rows is None:
            self._peak, self._last = peak, last
        else:
            self._peak[rows], self._last[rows] = peak[rows], last[rows]
        there = held if rows is None else held[rows]
        return np.full_like(held, there.min(initial=len(_BELOW_DB))) if self.together else held

    def state_dict(self) -> dict[str, Any]:
        """Arrays and what they mean."""
        return {
            "held": self._held.copy(),
            "due": self._due.copy(),
            "peak": self._peak.copy(),
            "last": self._last.copy(),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `saved` left off.

        Raises:
            BadDataError: not such a state.
        """
        try:
            held, due, peak, last = (np.asarray(saved[name]) for name in ("held", "due", "peak", "last"))
        except (KeyError, TypeError, ValueError) as error:
            raise BadDataError(f"not an allocation's state: {error}") from error
        shapes = held.ndim == due.ndim == 2 and len(held) == len(due) == self.rows
        shapes = shapes and peak.shape == (self.rows,) and last.shape == (self.rows, _HOLD)
        kinds = [array.dtype.kind for array in (held, due, peak, last)] == ["f", "i", "f", "i"]
        if not shapes or not kinds or held.shape[1] >= self.hop_length:
            raise BadDataError(f"an allocation's state of another shape than {self.rows} rows need")
        if not (np.isfinite(held).all() and np.isfinite(peak).all()) or any(
            array.size and not 0 <= array.min() <= array.max() <= len(_BELOW_DB) for array in (due, last)
        ):
            raise BadDataError("an allocation's state holds classes or levels that cannot be")
        self._held, self._due = held.astype(np.float32), due.astype(np.int64)
        self._peak, self._last = peak.astype(np.float64), last.astype(np.int64)
