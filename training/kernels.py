"""The kernels of kernels.cpp (fused Snake, convolutions, spectra): compiled for this machine at first use, then cached."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
# Not -ffast-math: it switches denormals off for the whole process when the library is loaded.
FLAGS = (
    "-O3",
    "-march=native",
    "-mprefer-vector-width=512",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
)
LINK = ("-std=c++17", "-fopenmp", "-shared", "-fPIC")

_POINTERS_FORWARD = 5
_POINTERS_BACKWARD = 6


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "streamdac"


def _cpu() -> str:
    """What `-march=native` may depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))


def _compile(compiler: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        attempts = [[*FLAGS, *LINK], ["-O3", "-fno-math-errno", "-fno-trapping-math", *LINK]]
        for flags in attempts:
            command = [compiler, *flags, str(SOURCE), "-o", str(made)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode == 0:
                made.replace(target)
                return
        raise OSError(result.stderr.strip().splitlines()[-1] if result.stderr.strip() else "compiler failed")


def _declare(library: ctypes.CDLL) -> None:
    for stem, pointers in (("snake_forward", _POINTERS_FORWARD), ("snake_backward", _POINTERS_BACKWARD)):
        for suffix in ("f32", "bf16"):
            function = getattr(library, f"{stem}_{suffix}")
            function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * 5 + [ctypes.c_int]
            function.restype = None
    for name, pointers in (("magnitude_forward", 2), ("magnitude_backward", 4)):
        function = getattr(library, name)
        function.argtypes = [ctypes.c_void_p] * pointers + [ctypes.c_int64, ctypes.c_int]
        function.restype = None
    for name, lengths in (("log_distance", 1), ("compressed_distance", 2)):
        function = getattr(library, name)
        numbers = [ctypes.c_int64] * lengths + [ctypes.c_float] * 4 + [ctypes.c_int]
        function.argtypes = [ctypes.c_void_p] * 4 + numbers
        function.restype = None
    library.conv_weight_gradient.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 6 + [ctypes.c_int]
    library.conv_weight_gradient.restype = None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there is no compiler or `STREAMDAC_KERNELS=0` (said once, on stderr)."""
    if os.environ.get("STREAMDAC_KERNELS") == "0":
        return None
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        print("note: no C++ compiler found, training uses plain torch (slower)", file=sys.stderr)
        return None
    try:
        identity = SOURCE.read_bytes() + " ".join((compiler, *FLAGS, *LINK, _cpu())).encode()
        target = _cache_folder() / f"kernels-{hashlib.sha256(identity).hexdigest()[:16]}.so"
        if not target.exists():
            _compile(compiler, target)
        loaded = ctypes.CDLL(str(target))
        _declare(loaded)
    except (OSError, AttributeError, RuntimeError) as error:  # RuntimeError: nobody's home
        print(f"note: fused kernels not available ({error}), training uses plain torch (slower)", file=sys.stderr)
        return None
    return loaded
