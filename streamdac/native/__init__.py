"""The native executor's compiled kernels, or the reason why they are missing.

The kernels are an optional part of the build: without a compiler the package works all the same, on torch alone.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from types import ModuleType


def _source_stamp() -> str | None:
    """What the sources beside this file are; None where they are not installed."""
    here = Path(__file__).parent
    files = sorted(path for pattern in ("*.cpp", "*.h") for path in here.glob(pattern))
    if not files:
        return None
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _load() -> tuple[ModuleType | None, str | None]:
    try:
        module = import_module("._native", __name__)
    except ImportError as error:
        return (
            None,
            f"the native kernels are not built ({error}); install again where a C++ compiler (GCC 12, Clang) and Python's "
            "headers (python3-dev) are",
        )
    stamp = _source_stamp()
    if stamp is not None and module.build_stamp != stamp:
        return (
            None,
            f"the native kernels were built from other sources ({module.build_stamp}, now {stamp}): install again",
        )
    return module, None


_module, _reason = _load()


def available() -> bool:
    """Whether the kernels can be used."""
    return _module is not None


def why_not() -> str | None:
    """Why the kernels are missing; None where they are there."""
    return _reason


def kernels() -> ModuleType:
    """The compiled module.

    Raises:
        UnavailableError: it is missing.
    """
    if _module is None:
        from ..errors import UnavailableError

        raise UnavailableError(_reason)
    return _module


def instruction_sets() -> list[str]:
    """Those the kernels were built for and this machine has, the one in use first; empty where the kernels are missing."""
    return list(_module.instruction_sets()) if _module is not None else []
