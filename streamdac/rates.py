"""Arithmetic of sample rates, as the official tool does it."""

from __future__ import annotations

import math

import numpy as np

# Phases of the resampling filter that a ratio may need. 11,127 Hz (an old Macintosh) to 44,100 Hz has 14,700; two rates
# without a common divisor would need tens of thousands, and the official tool gigabytes for them.
_MAX_PHASES = 20_000


def resampling_problem(old_rate: int, new_rate: int) -> str | None:
    """Why audio cannot be resampled from one rate to the other (Hz), or None where it can."""
    common = math.gcd(old_rate, new_rate)
    phases = max(old_rate, new_rate) // common
    if phases <= _MAX_PHASES:
        return None
    return f"resampling {old_rate} Hz to {new_rate} Hz needs {phases} filter phases, at most {_MAX_PHASES} are possible"


def resampled_samples(samples: int, old_rate: int, new_rate: int) -> int:
    """Samples that `samples` become: new * samples / old, rounded to float32 and then down as julius does.

    On some clips from about 3 s on that is one more than exact arithmetic gives.
    """
    common = math.gcd(old_rate, new_rate)
    old, new = old_rate // common, new_rate // common
    if old == new:
        return samples
    available = (samples // old + 1) * new
    return min(available, math.floor(np.float32(new * samples / old)))
