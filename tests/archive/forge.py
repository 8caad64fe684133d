"""Archives that nobody should make: every field forged, and mutants of good ones."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np

SEEDS = tuple(path.read_bytes() for path in sorted((Path(__file__).parents[1] / "golden/data/archives").glob("*.dac")))
SMALLEST = min(SEEDS, key=len)
_HEADER = 128  # bytes of .npy before the pickle
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1)


def forged(codes: Any = None, *, drop: str | None = None, **changes: Any) -> bytes:
    """What the official `save()` would write of a dictionary with these changes; numpy pickles it."""
    metadata: dict[str, Any] = {
        "input_db": np.array([-20.0], np.float32),
        "original_length": 3_000,
        "sample_rate": 44_100,
        "chunk_length": 6,
        "channels": 1,
        "padding": True,
        "dac_version": "1.0.0",
    }
    metadata |= changes
    if drop is not None:
        del metadata[drop]
    return saved({"codes": np.zeros((1, 9, 6), np.uint16) if codes is None else codes, "metadata": metadata})


def saved(value: object) -> bytes:
    """Any object in a 0-dimensional array in a .npy file."""
    file = io.BytesIO()
    array = np.empty((), object)
    array[()] = value
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def pickled(data: bytes) -> bytes:
    """A .npy file with this pickle in it."""
    return SMALLEST[:_HEADER] + data


def mutant(rng: random.Random) -> bytes:
    """A good archive with one to four places changed, mostly in its structure rather than in its codes."""
    data = bytearray(rng.choice(SEEDS))
    for _ in range(rng.randint(1, 4)):
        if not data:
            break
        _MUTATIONS[rng.randrange(len(_MUTATIONS))](rng, data)
    return bytes(data)


def _place(rng: random.Random, data: bytearray) -> int:
    """Anywhere; four times in five in the first or last 400 bytes."""
    where = rng.randrange(5)
    if where == 0 or len(data) <= 800:
        return rng.randrange(len(data))
    return rng.randrange(400) if where < 3 else len(data) - 1 - rng.randrange(400)


def _flip(rng: random.Random, data: bytearray) -> None:
    data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _replace(rng: random.Random, data: bytearray) -> None:
    data[_place(rng, data)] = rng.randrange(256)


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[_place(rng, data) :]


def _remove(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    del data[at : at + rng.randint(1, 8)]


def _insert(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = rng.randbytes(rng.randint(1, 8))


def _repeat(rng: random.Random, data: bytearray) -> None:
    at = _place(rng, data)
    data[at:at] = data[at : at + rng.randint(1, 64)] * rng.randint(1, 20)


def _extreme(rng: random.Random, data: bytearray) -> None:
    at, width = _place(rng, data), rng.choice((1, 2, 4, 8))
    data[at : at + width] = (rng.choice(_EXTREMES) & ((1 << 8 * width) - 1)).to_bytes(width, "little")


def _splice(rng: random.Random, data: bytearray) -> None:
    other = rng.choice(SEEDS)
    data[_place(rng, data) :] = other[rng.randrange(len(other)) :]


_MUTATIONS = (_flip, _replace, _cut, _remove, _insert, _repeat, _extreme, _splice)
