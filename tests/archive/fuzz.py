"""Many mutants of good archives through the reader: `python -m tests.archive.fuzz --count 200000`.

Each is read or refused with BadDataError; what is read is written and read again. Reports how many, the slowest and the largest.
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc
from collections import Counter

from streamdac.archive import Archive
from streamdac.errors import BadDataError

from .forge import mutant

MAX_SECONDS = 0.1
MAX_BYTES = 50 << 20
_TRACED = 50  # one in so many is run again with its memory traced


def outcome(data: bytes) -> str:
    """`read`, or why not, without what differs from one mutant to the next."""
    try:
        archive = Archive.load(data)
    except BadDataError as error:
        return str(error).split(":")[0][:20]
    assert Archive.load(archive.to_bytes()) == archive
    return "read"


def peak_bytes(data: bytes) -> int:
    """Memory that reading takes at most."""
    tracemalloc.start()
    try:
        outcome(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _seconds(data: bytes) -> float:
    start = time.perf_counter()
    outcome(data)
    return time.perf_counter() - start


def run(count: int, seed: int) -> None:
    """Fails with the mutant's number where one is neither read nor refused, or takes too long or too much."""
    outcomes: Counter[str] = Counter()
    slowest = largest = 0.0
    for number in range(count):
        data = mutant(random.Random(f"{seed}-{number}"))
        start = time.perf_counter()
        try:
            outcomes[outcome(data)] += 1
        except Exception as error:
            raise SystemExit(f"mutant {number} of seed {seed}: {type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - start
        if seconds > MAX_SECONDS:  # a busy machine may hold one up
            seconds = min(_seconds(data) for _ in range(5))
        slowest = max(slowest, seconds)
        if number % _TRACED == 0:
            largest = max(largest, peak_bytes(data))
        if slowest > MAX_SECONDS or largest > MAX_BYTES:
            raise SystemExit(f"mutant {number} of seed {seed}: {1000 * slowest:.1f} ms, {largest / 1e6:.1f} MB")
    print(f"{count} mutants, {outcomes['read']} read, the others refused; slowest {1000 * slowest:.2f} ms, "
          f"largest {largest / 1e6:.2f} MB of every {_TRACED}th")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run(arguments.count, arguments.seed)
