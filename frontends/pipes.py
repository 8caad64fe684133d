"""Sources and sinks on stdin and stdout, or any stream of bytes: raw PCM or WAV, hop by hop."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from streamdac.errors import BadDataError, UsageError

from .wav import RAW_FORMATS, SOX_UNKNOWN, Block, SampleFormat, UnreadWavError, WavHeader, header, read_header


class PcmSource:
    """Interleaved samples from a stream that need not seek. Gives what has arrived, so that a live pipe is not held up.

    `owned`: the stream is closed with the source.
    """

    def __init__(self, stream: BinaryIO, form: WavHeader, *, name: str = "stdin", owned: bool = False) -> None:
        self._stream, self._name, self._owned = stream, name, owned
        self.sample_rate, self.channels, self.samples = form.sample_rate, form.channels, form.samples
        self._format = form.format
        self._left = form.samples
        self._rest = b""
        self._given = 0

    def read(self, samples: int) -> Block | None:
        """Up to `samples`, as many as one read of the pipe gives."""
        frame = self.channels * self._format.width
        if self._left is not None:
            samples = min(samples, self._left)
        while samples > 0:
            data = self._rest + (read_some(self._stream, samples * frame - len(self._rest)) or b"")
            if len(data) == len(self._rest):
                break  # the end; a torn last sample is dropped
            whole = len(data) // frame * frame
            self._rest = data[whole:]
            if whole:
                block = self._format.decode(data[:whole], self.channels)
                if self._format.is_float and not np.isfinite(block).all():
                    raise BadDataError(
                        f"{self._name}: holds NaN or infinity among the {len(block)} samples from {self._given}"
                    )
                self._given += len(block)
                self._left = None if self._left is None else self._left - len(block)
                return block
        return None

    def close(self) -> None:
        """stdin stays open."""
        if self._owned:
            self._stream.close()


def read_some(stream: BinaryIO, count: int) -> bytes:
    """What one read gives, up to `count` bytes; empty only at the end."""
    read1 = getattr(stream, "read1", None)
    return cast(bytes, read1(count) if read1 is not None else stream.read(count))


def open_stdin(raw: str | None, sample_rate: int | None, channels: int | None) -> PcmSource | str:
    """stdin as a source: raw PCM where `raw` names a format, else a WAV; any other file is spooled and its path given.

    Raises:
        UsageError: raw without a rate, or stdin is a terminal.
        BadDataError: nothing there.
    """
    stream = _stdin()
    if raw is not None:
        if not sample_rate:
            raise UsageError(f"--raw {raw} needs --rate, the sample rate in Hz")
        return PcmSource(stream, WavHeader(sample_rate, channels or 1, RAW_FORMATS[raw], None))
    if stream.isatty():
        raise UsageError("stdin is a terminal: pipe audio into it")
    return _open(stream, "stdin", owned=False)


def _stdin() -> BinaryIO:
    """By a reader of its own: the interpreter ends badly where a thread still waits in sys.stdin's."""
    try:
        return open(sys.stdin.fileno(), "rb", closefd=False)
    except (AttributeError, OSError):  # a program has put something else in its place
        return sys.stdin.buffer


def open_named(path: Path) -> PcmSource | str:
    """A named pipe (also a shell's `<(...)`) as stdin would be; it can be opened only once.

    Raises:
        BadDataError: nothing there.
    """
    stream = path.open("rb")
    try:
        opened = _open(stream, str(path), owned=True)
    except BaseException:
        stream.close()
        raise
    if isinstance(opened, str):
        stream.close()
    return opened


def _open(stream: BinaryIO, name: str, *, owned: bool) -> PcmSource | str:
    start = stream.read(12)
    if not start:
        raise BadDataError(f"{name} is empty")
    if start[:4] != b"RIFF":
        return _spool(start, stream)
    try:
        return PcmSource(stream, read_header(stream, start=start), name=name, owned=owned)
    except UnreadWavError as error:
        return _spool(error.start, stream)


def _spool(start: bytes, stream: BinaryIO) -> str:
    """All of the stream in a temporary file, whose path is given."""
    with tempfile.NamedTemporaryFile(prefix="streamdac-", delete=False) as file:
        try:
            file.write(start)
            while data := stream.read(1 << 20):
                file.write(data)
        except BaseException:
            os.unlink(file.name)
            raise
    return file.name


def open_long(path: Path) -> PcmSource | None:
    """A WAV that is longer than its header can say, to its end: libsndfile stops at 4 GiB. None for any other file."""
    size = path.stat().st_size
    if size < SOX_UNKNOWN:
        return None
    stream = path.open("rb")
    found: WavHeader | None = None
    with suppress(BadDataError):  # another format, or a kind of WAV that is not read here
        found = read_header(stream)
    if found is None or found.samples is not None:
        stream.close()
        return None
    samples = (size - stream.tell()) // (found.channels * found.format.width)
    return PcmSource(stream, replace(found, samples=samples), name=str(path), owned=True)


class PcmSink:
    """Raw PCM or WAV to a stream, flushed at every block."""

    def __init__(self, stream: BinaryIO, form: SampleFormat, *, wav: bool, sample_rate: int, channels: int) -> None:
        self._stream, self._format, self._wav = stream, form, wav
        self._rate, self._channels = sample_rate, channels
        self._written = 0
        self._start = _position(stream)
        if wav:
            stream.write(header(sample_rate, channels, form, None))
            stream.flush()

    def write(self, block: Block) -> None:
        """One block, out at once."""
        self._stream.write(self._format.encode(block))
        self._stream.flush()
        self._written += len(block)

    def close(self, *, complete: bool = True) -> None:
        """Where stdout is a file, its header gets the true length."""
        if self._wav and self._start is not None:
            end = self._stream.tell()
            self._stream.seek(self._start)
            self._stream.write(header(self._rate, self._channels, self._format, self._written))
            self._stream.seek(end)
            self._stream.flush()


def _position(stream: BinaryIO) -> int | None:
    """Where a regular file that may be rewritten stands; None for pipes and files opened to append."""
    try:
        info = os.fstat(stream.fileno())
        if not stat.S_ISREG(info.st_mode) or not stream.seekable():
            return None
        import fcntl

        appending = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL) & os.O_APPEND
        return None if appending else stream.tell()
    except (OSError, ImportError, AttributeError):
        return None
