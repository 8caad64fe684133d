"""Files appear whole or not at all, and never over another unless asked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError


@contextmanager
def written_whole(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it if the block ends well and removed if not.

    Raises:
        OutputError: `path` is there already and `force` is off, or it cannot be written.
    """
    refuse_existing(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        refuse_existing(path, force=force)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise unless `path` is free, or may be overwritten."""
    if path.is_dir():
        raise OutputError(f"{path} is a directory")
    if not force and path.exists():
        raise OutputError(f"{path} is there already (-f overwrites)")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
