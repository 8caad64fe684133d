"""Times of things taken in turn, and the two limits of the machine: its matrix product and its memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

BURST_SECONDS = (
    0.02  # long enough that weights are where a running stream has them, short beside the noise of a machine
)
BURST_STEPS = 16
SGEMM_EDGE = 384  # in cache, as the layers are
READ_EDGE = 4096  # 64 MB: larger than any cache


@dataclass(frozen=True)
class Step:
    """Something to be timed."""

    run: Callable[[], object]
    threads: int = 1
    """Of torch, while it runs."""
    amount: float = 0.0
    """What one run handles: operations or bytes."""


@dataclass
class Timed:
    """Seconds of each run, burst by burst."""

    amount: float = 0.0
    bursts: list[list[float]] = field(default_factory=list)

    def all(self) -> list[float]:
        """Every run."""
        return [seconds for burst in self.bursts for seconds in burst]

    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.all())

    def rate(self) -> float:
        """Amount per second, by the median."""
        return self.amount / self.median()

    def faster_than(self, other: Timed) -> float:
        """How many times as fast: the median over bursts taken in turn."""
        pairs = zip(self.bursts, other.bursts, strict=False)
        return statistics.median(statistics.median(theirs) / statistics.median(own) for own, theirs in pairs)


Times = Mapping[str, Timed]


def in_turn(steps: Mapping[str, Step], seconds: float, *, warm_up: int = 3, least: int = 20) -> dict[str, Timed]:
    """Run all `steps` in turn, a burst of each, for `seconds` in all and each at least `least` times."""
    times = {name: Timed(step.amount) for name, step in steps.items()}
    before = torch.get_num_threads()
    try:
        for step in steps.values():
            torch.set_num_threads(step.threads)
            for _ in range(warm_up):
                step.run()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or min(len(timed.all()) for timed in times.values()) < least:
            for name, step in steps.items():
                torch.set_num_threads(step.threads)
                times[name].bursts.append(_burst(step.run))
    finally:
        torch.set_num_threads(before)
    return times


def _burst(run: Callable[[], object]) -> list[float]:
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < BURST_STEPS and time.perf_counter() - begin < BURST_SECONDS:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def sgemm_step(threads: int = 1) -> Step:
    """A product of matrices that fit the cache; the amount is operations."""
    a, b = torch.randn(SGEMM_EDGE, SGEMM_EDGE), torch.randn(SGEMM_EDGE, SGEMM_EDGE)
    return Step(lambda: a @ b, threads, 2.0 * SGEMM_EDGE**3)


def bandwidth_step(threads: int = 1) -> Step:
    """A matrix read once, as the weights of a wide model are each hop; the amount is bytes."""
    matrix, vector = torch.ones(READ_EDGE, READ_EDGE), torch.ones(READ_EDGE)
    return Step(lambda: matrix @ vector, threads, 4.0 * READ_EDGE**2)


def rounded(row: DataclassInstance) -> dict[str, Any]:
    """A record for JSON, figures rounded to what they are worth."""
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(row).items()}
