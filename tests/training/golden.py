"""Where the stored results of the official package are, and what they hold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_PART = Path(__file__).parents[1] / "golden" / "data"
_WHOLE = Path(os.environ.get("STREAMDAC_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
GOLDEN = _WHOLE if (_WHOLE / "index.json").is_file() else _PART
INDEX: dict[str, Any] = json.loads((GOLDEN / "index.json").read_text())
needs_whole = pytest.mark.skipif(GOLDEN == _PART, reason="only a part of the golden results is here")


def cases(*keys: str) -> list[Any]:
    """Parameters for a test of every case under these keys of the index."""
    found: Any = INDEX
    for key in keys:
        found = found[key]
    return [pytest.param(case, id=case["name"]) for case in found]


def arrays(name: str) -> dict[str, np.ndarray]:
    """One file's arrays."""
    with np.load(GOLDEN / name) as data:
        return {key: data[key] for key in data}
