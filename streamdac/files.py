"""Files appear whole or not at all, and never over another unless asked."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DeniedError, NoInputError, OutputError, StreamdacError


@contextmanager
def written_whole(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it if the block ends well and removed if not.

    Raises:
        OutputError: `path` is there already and `force` is off, or it cannot be written.
        DeniedError: access was refused.
    """
    refuse_existing(path, force=force)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Shortened, as a file name has at most 255 bytes.
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=path.suffix[-20:], dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        refuse_existing(path, force=force)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename not in (None, name) or isinstance(error, BrokenPipeError):
            raise  # about another file
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise unless `path` is free, or may be overwritten."""
    if path.is_dir():
        raise OutputError(f"{path} is a directory")
    if not force and path.exists():
        raise OutputError(f"{path} is there already (-f overwrites)")


def unreadable(path: str | Path, error: OSError) -> StreamdacError:
    """What to raise where `path` could not be opened or read."""
    kind = DeniedError if isinstance(error, PermissionError) else NoInputError
    return kind(f"cannot read {path}: {error.strerror or error}")


def unwritable(path: str | Path, error: OSError) -> StreamdacError:
    """What to raise where `path` could not be written."""
    kind = DeniedError if isinstance(error, PermissionError) else OutputError
    return kind(f"cannot write {path}: {error.strerror or error}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
