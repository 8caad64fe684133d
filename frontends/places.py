"""The files that a command reads and writes: none of them is two things at once, or `-f` would destroy it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from streamdac.errors import UsageError
from streamdac.frontend import file_of

End = str | Path | None
"""A source or sink, a file whatever it is called, or nothing."""


def as_path(name: str | None) -> Path | None:
    """The name of a file, as typed."""
    return None if name is None else Path(name)


def check_places(sources: Iterable[End], targets: Mapping[str, End]) -> None:
    """Refuse what would overwrite itself. Links are followed; `-` and what is no file (`mic:`) may come twice.

    Args:
        sources: what is read.
        targets: what is written, by the option that names it.

    Raises:
        UsageError: a target is a source, or another target.
    """
    read = {_place(source) for source in sources}
    written: dict[Path, str] = {}
    for option, target in targets.items():
        place = _place(target)
        if place is None:
            continue
        if place in read:
            raise UsageError(f"{target} would become itself")
        if place in written:
            raise UsageError(f"{written[place]} and {option} are both {target}")
        written[place] = option


def _place(end: End) -> Path | None:
    return Path(os.path.realpath(end)) if isinstance(end, Path) else file_of(end)
