"""Audio files as sources and sinks, by libsndfile: every format that it reads and writes."""

from __future__ import annotations

import contextlib
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from streamdac.errors import BadDataError, DeniedError, NoInputError, OutputError, UsageError
from streamdac.files import linked, refuse_existing, soundfile_name, unreadable, unwritable, written_whole

if TYPE_CHECKING:
    import soundfile

    from streamdac.frontend import Block

    from .pipes import PcmSource

# What libsndfile reads, by suffix; a directory is searched for these.
SUFFIXES = frozenset(
    (".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64",
     ".rf64", ".voc", ".sd2")
)  # fmt: skip
_WRITTEN = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".w64": "W64", ".rf64": "RF64", ".aiff": "AIFF",
            ".aif": "AIFF", ".au": "AU", ".caf": "CAF", ".opus": "OGG", ".mp3": "MP3"}  # fmt: skip
_SUBTYPES = {"OGG": "VORBIS", "MP3": "MPEG_LAYER_III"}
_SIZES_OF_32_BITS = ("WAV", "AIFF")  # libsndfile writes beyond that without a word, and nobody can read it
_MOST_BYTES = (1 << 32) - 4096  # of samples in those
_BYTES = {"PCM_16": 2, "FLOAT": 4}
_UNKNOWN = 1 << 60  # libsndfile's frame count where a file does not say


class FileSource:
    """A file of any format that libsndfile reads. `spool_of`: it is a copy of that pipe, and removed at the end."""

    def __init__(self, path: Path, *, spool_of: str | None = None) -> None:
        import soundfile

        self.path, self._spooled = path, spool_of is not None
        self._name = spool_of or str(path)
        _check_readable(path)
        try:
            self._file: soundfile.SoundFile = soundfile.SoundFile(soundfile_name(path))
        except (soundfile.LibsndfileError, TypeError, ValueError, RuntimeError) as error:
            self.close()
            reason = getattr(error, "error_string", str(error))
            raise BadDataError(f"{self._name}: not an audio file that can be read: {reason}") from error
        self.sample_rate, self.channels = self._file.samplerate, self._file.channels
        self.samples: int | None = self._file.frames if self._file.frames < _UNKNOWN else None
        if self.samples is None:
            # A FLAC out of a pipe: soundfile would seek after each read, which fails at such a file's end.
            self._file.seekable = lambda: False

    def read(self, samples: int) -> Block | None:
        """The next samples."""
        import numpy as np
        import soundfile

        try:
            block = self._file.read(samples, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise BadDataError(f"{self._name}: damaged at sample {self._file.tell()}: {error.error_string}") from error
        if len(block) and not np.isfinite(block).all():
            raise BadDataError(f"{self._name}: holds NaN or infinity before sample {self._file.tell()}")
        return block if len(block) else None

    def close(self) -> None:
        """Close, and remove a spooled file."""
        if hasattr(self, "_file"):
            self._file.close()
        if self._spooled:
            self.path.unlink(missing_ok=True)


def open_file(path: Path) -> FileSource | PcmSource:
    """The audio file at `path`, however long it is."""
    from .pipes import open_long

    _check_readable(path)
    return open_long(path) or FileSource(path)


def _check_readable(path: Path) -> None:
    """libsndfile does not say why it cannot open a file: find out first."""
    if path.is_dir():
        raise UsageError(f"{path} is a directory, need a file")
    try:
        path.open("rb").close()
    except FileNotFoundError as error:
        raise NoInputError(f"no file {path}") from error
    except OSError as error:
        raise unreadable(path, error) from error


class FileSink:
    """A file that appears whole or not at all; 16-bit where the format has a choice, 32-bit float on request.

    One that would become longer than its format can say ends there, and is kept.
    """

    def __init__(self, path: Path, *, sample_rate: int, channels: int, force: bool, as_float: bool = False) -> None:
        import soundfile

        _check_suffix(path)
        form, subtype = _format(path, as_float=as_float)
        self._path, self._form, self._rate = path, form, sample_rate
        self._most, self._written = _most_samples(form, subtype, channels), 0
        self._stack = ExitStack()
        self._pcm = subtype == "PCM_16"
        temporary = self._stack.enter_context(written_whole(path, force=force))
        try:
            self._file = soundfile.SoundFile(
                soundfile_name(temporary), "w", samplerate=sample_rate, channels=channels, format=form, subtype=subtype
            )
        except (soundfile.LibsndfileError, TypeError, ValueError) as error:
            self._abandon()
            raise UsageError(f"{path}: {form} {subtype} of {channels} channels at {sample_rate} Hz: {error}") from error

    def write(self, block: Block) -> None:
        """Out to the file; what does not fit into 16 bits is clipped.

        Raises:
            OutputError: the disk is full, or the file is as long as it can be.
        """
        room = len(block) if self._most is None else self._most - self._written
        self._put(block[:room])
        if len(block) > room:
            self.close()
            seconds = self._written / self._rate
            raise OutputError(f"{self._path} is full and has the first {seconds:.0f} s: {_ends(self._form)}")

    def _put(self, block: Block) -> None:
        import soundfile

        from .wav import pcm16

        try:
            # Rounded as in a pipe, so that both ways give the same samples.
            self._file.write(pcm16(block) if self._pcm else block)
            self._written += len(block)
        except soundfile.LibsndfileError as error:
            raise OutputError(f"cannot write {self._path}: {error.error_string} (disk full?)") from error

    def close(self, *, complete: bool = True) -> None:
        """Rename it into place, or remove it."""
        import soundfile

        try:
            self._file.close()
        except soundfile.LibsndfileError as error:
            self._abandon()
            raise OutputError(f"cannot finish {self._path}: {error.error_string} (disk full?)") from error
        self._stack.close() if complete else self._abandon()

    def _abandon(self) -> None:
        with contextlib.suppress(_Abandoned):
            self._stack.__exit__(_Abandoned, _Abandoned(), None)


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in _WRITTEN:
        raise UsageError(f"{path}: no format for suffix {path.suffix!r}; there are {', '.join(sorted(_WRITTEN))}")


def _format(path: Path, *, as_float: bool) -> tuple[str, str]:
    """libsndfile's names."""
    suffix = path.suffix.lower()
    form = _WRITTEN[suffix]
    return form, "OPUS" if suffix == ".opus" else _SUBTYPES.get(form, "FLOAT" if as_float else "PCM_16")


def _most_samples(form: str, subtype: str, channels: int) -> int | None:
    """That a file can hold; None where nobody will reach it."""
    return _MOST_BYTES // (_BYTES[subtype] * channels) if form in _SIZES_OF_32_BITS else None


def _ends(form: str) -> str:
    return f"a {form} file ends at 4 GiB; .w64, .rf64 or .caf hold more"


def check_length(path: Path, samples: int, *, sample_rate: int, channels: int, as_float: bool = False) -> None:
    """Refuse early what would not fit.

    Raises:
        OutputError: the format at `path` cannot hold so many samples.
    """
    if path.suffix.lower() not in _WRITTEN:
        return  # said by the sink
    form, subtype = _format(path, as_float=as_float)
    most = _most_samples(form, subtype, channels)
    if most is not None and samples > most:
        seconds, room = samples / sample_rate, most / sample_rate
        raise OutputError(f"{path}: {seconds:.0f} s, there is room for {room:.0f} s: {_ends(form)}")


class _Abandoned(Exception):
    """Carries an unfinished file out of its context."""


def check_output(path: Path, *, force: bool) -> None:
    """Refuse early what could not be written later.

    Raises:
        OutputError: it is there already, or would lie in something that is no folder.
        DeniedError: its folder may not be written to.
    """
    refuse_existing(path, force=force)
    folder = linked(path).absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"cannot write {path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK):
        raise DeniedError(f"cannot write into {folder}: permission denied")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:  # /proc, or a disk that is mounted for reading, which root is not told
        raise unwritable(path, error) from error


def check_sink(path: Path, *, force: bool) -> None:
    """As `check_output`, for a file of audio.

    Raises:
        UsageError: no format for its suffix.
        OutputError, DeniedError: as `check_output`.
    """
    _check_suffix(path)
    check_output(path, force=force)
