"""Builds the optional native executor; everything else is declared in setup.cfg."""

import hashlib
from pathlib import Path

from setuptools import Extension, setup

NATIVE = Path("streamdac/native")
SOURCES = sorted(path.as_posix() for path in NATIVE.glob("*.cpp"))
HEADERS = sorted(path.as_posix() for path in NATIVE.glob("*.h"))


def build_stamp() -> str:
    """What the sources are, so that a library left over from others is noticed (streamdac/native/__init__.py)."""
    digest = hashlib.sha256()
    for name in sorted(path.name for pattern in ("*.cpp", "*.h") for path in NATIVE.glob(pattern)):
        digest.update(name.encode() + b"\0" + (NATIVE / name).read_bytes())
    return digest.hexdigest()[:16]


setup(
    ext_modules=[
        Extension(
            "streamdac.native._native",
            SOURCES,
            depends=HEADERS,
            optional=True,  # without a compiler the install succeeds and torch serves
            language="c++",
            define_macros=[("STREAMDAC_BUILD_STAMP", f'"{build_stamp()}"')],
            # Never -march=native nor -ffast-math; sums are fused where the source says so and nowhere else.
            extra_compile_args=[
                "-O3",
                "-std=c++17",
                "-fvisibility=hidden",
                "-ffp-contract=off",
                "-Wno-psabi",
                "-pthread",
            ],
            extra_link_args=["-pthread"],
        )
    ]
)
