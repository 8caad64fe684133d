"""Files appear whole or not at all, and never over another unless asked."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import DeniedError, NoInputError, OutputError, StreamdacError


@contextmanager
def written_whole(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, renamed onto it if the block ends well and removed if not.

    A link stays one, and what it points to is written; a file that is overwritten keeps its permissions.

    Raises:
        OutputError: `path` is there already and `force` is off, it is no regular file, or it cannot be written.
        DeniedError: access was refused.
    """
    refuse_existing(path, force=force)
    target = linked(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Shortened, as a file name has at most 255 bytes.
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=target.suffix[-20:], dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error
    temporary = Path(name)
    try:
        yield temporary
        with suppress(OSError):  # shares and some disks have no permissions to set
            os.chmod(temporary, _mode(target))
        refuse_existing(path, force=force)
        os.replace(temporary, target)
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
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is no regular file; into a pipe or a device write by way of stdout")
    if not force and path.exists():
        raise OutputError(f"{path} is there already (-f overwrites)")


def linked(path: Path) -> Path:
    """Where a link points to in the end; any other path as it is."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def soundfile_name(path: Path) -> str | bytes:
    """`path` as soundfile takes it: a name that is not UTF-8 as its bytes."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def unreadable(path: str | Path, error: OSError) -> StreamdacError:
    """What to raise where `path` could not be opened or read."""
    kind = DeniedError if isinstance(error, PermissionError) else NoInputError
    return kind(f"cannot read {path}: {error.strerror or error}")


def unwritable(path: str | Path, error: OSError) -> StreamdacError:
    """What to raise where `path` could not be written."""
    kind = DeniedError if isinstance(error, PermissionError) else OutputError
    return kind(f"cannot write {path}: {error.strerror or error}")


def _mode(path: Path) -> int:
    """Permissions of the file that is there, or of a new one."""
    with suppress(FileNotFoundError):
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
