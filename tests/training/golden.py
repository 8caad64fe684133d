"""Where the stored results of the official package are, and what they hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(os.environ.get("STREAMDAC_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
INDEX: dict[str, Any] | None = json.loads((GOLDEN / "index.json").read_text()) if GOLDEN.is_dir() else None
needs_golden = pytest.mark.skipif(INDEX is None, reason="golden results are not here")


def cases(*keys: str) -> list[Any]:
    """Parameters for a test of every case under these keys of the index; one that skips where there is no index."""
    found: Any = INDEX
    if found is None:
        return [pytest.param(None, marks=needs_golden)]
    for key in keys:
        found = found[key]
    return [pytest.param(case, id=case["name"]) for case in found]


def arrays(name: str) -> dict[str, np.ndarray]:
    """One file's arrays."""
    with np.load(GOLDEN / name) as data:
        return {key: data[key] for key in data}
