"""Files and pipes: the frontend that a bare path or `-` means, and the commands that work on files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from streamdac import frontend as plugins
from streamdac.frontend import Frontend, LazyCommand

if TYPE_CHECKING:
    from streamdac.frontend import Sink, Source


def open_source(rest: str, *, sample_rate: int | None = None, channels: int | None = None) -> Source:
    """A file, or stdin (a WAV; any other format is spooled first) for `-`."""
    return source(rest)


def source(path: str, *, raw: str | None = None, sample_rate: int | None = None, channels: int | None = None) -> Source:
    """A file or stdin; `raw`, with rate and channels, means headerless PCM on stdin. Or any frontend's source."""
    from .audio_files import FileSource, open_file
    from .pipes import open_named, open_stdin

    if plugins.is_spec(path):
        return plugins.open_source(path, sample_rate=sample_rate, channels=channels)
    if path == "-":
        name, opened = "stdin", open_stdin(raw, sample_rate, channels)
    elif Path(path).is_fifo():
        name, opened = path, open_named(Path(path))
    else:
        return open_file(Path(path))
    return FileSource(Path(opened), spool_of=name) if isinstance(opened, str) else opened


def open_sink(rest: str, *, sample_rate: int, channels: int, force: bool = False) -> Sink:
    """A file by its suffix, or WAV on stdout for `-`."""
    return sink(rest, sample_rate=sample_rate, channels=channels, force=force)


def sink(
    path: str, *, sample_rate: int, channels: int, force: bool = False, raw: str | None = None, as_float: bool = False
) -> Sink:
    """A file, or stdout as WAV or (`raw`) headerless PCM. Or any frontend's sink."""
    from .audio_files import FileSink
    from .pipes import PcmSink
    from .wav import RAW_FORMATS, SampleFormat

    if plugins.is_spec(path):
        return plugins.open_sink(path, sample_rate=sample_rate, channels=channels, force=force)
    if path != "-":
        return FileSink(Path(path), sample_rate=sample_rate, channels=channels, force=force, as_float=as_float)
    form = RAW_FORMATS[raw] if raw else SampleFormat(32, is_float=True) if as_float else SampleFormat(16)
    return PcmSink(sys.stdout.buffer, form, wav=raw is None, sample_rate=sample_rate, channels=channels)


frontend = Frontend(
    commands={
        "encode": LazyCommand(
            "streamdac.frontends.encode:encode", "Audio to streams or archives; files, folders, pipes."
        ),
        "decode": LazyCommand(
            "streamdac.frontends.decode:decode", "Streams or archives to audio; files, folders, pipes."
        ),
        "info": LazyCommand("streamdac.frontends.info:info", "What a file or a model is."),
    },
    open_source=open_source,
    open_sink=open_sink,
)
