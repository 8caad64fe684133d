"""Official archives from and to audio files and pipes: what `encode` and `decode` do with `.dac`."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamdac.errors import BadDataError, ModelMismatchError, UsageError

from .options import progress

if TYPE_CHECKING:
    from streamdac.archive import Archive
    from streamdac.codec import Codec
    from streamdac.frontend import Block, Sink, Source

SUFFIX = ".dac"
MAGIC = b"\x93NUMPY"
_BLOCK = 1 << 16  # samples


@dataclass(frozen=True)
class Windows:
    """How an archive is made."""

    win_duration: float | None = None
    """Seconds of the official overlapping windows; None for one seamless piece."""
    n_codebooks: int | None = None


def encode_archive(codec: Codec, opener: Callable[[], Source], how: Windows, *, label: str, quiet: bool) -> Archive:
    """All that `opener` gives, which is called more than once, in constant memory."""
    from streamdac.compress import compress_source

    with _share(label, quiet=quiet) as update:
        return compress_source(
            codec.archive_engine, opener, win_duration=how.win_duration, n_codebooks=how.n_codebooks, progress=update
        )


def save_archive(archive: Archive, target: str, *, force: bool) -> None:
    """To a file, or stdout for `-`.

    Raises:
        UsageError: stdout is a terminal.
    """
    if target != "-":
        archive.save(target, force=force)
        return
    if sys.stdout.isatty():
        raise UsageError("stdout is a terminal: pipe it on, or name a file with -o")
    sys.stdout.buffer.write(archive.to_bytes())
    sys.stdout.buffer.flush()


@contextmanager
def rereadable(source: Source) -> Iterator[Callable[[], Source]]:
    """Opens the audio of a pipe any number of times: it waits in a temporary file, since loudness needs all of it."""
    from .pipes import PcmSource
    from .wav import SampleFormat, WavHeader

    form = SampleFormat(32, is_float=True)
    with tempfile.TemporaryFile() as spool:
        while (block := source.read(_BLOCK)) is not None:
            spool.write(form.encode(block))

        def opener() -> Source:
            spool.seek(0)
            return PcmSource(spool, WavHeader(source.sample_rate, source.channels, form, None))

        yield opener


def read_archive(data: str | bytes, n_codebooks: int | None = None) -> Archive:
    """The archive in a file or in memory; of its codebooks the first `n_codebooks`.

    Raises:
        NoInputError: no such file.
        BadDataError: not an archive.
        UsageError: `n_codebooks` below 1.
    """
    from dataclasses import replace

    from streamdac.archive import Archive

    archive = Archive.load(data)
    if n_codebooks is None:
        return archive
    if n_codebooks < 1:
        raise UsageError(f"{n_codebooks} codebooks, the archive has {archive.n_codebooks}")
    return replace(archive, codes=archive.codes[:, :n_codebooks])


def decode_archive(
    codec: Codec,
    archive: Archive,
    open_sink: Callable[[int, int], Sink],
    *,
    official_stereo: bool,
    seamless: bool,
    label: str,
    quiet: bool,
    folder: Path | None,
) -> None:
    """The audio in `archive` to the sink that `open_sink(rate, channels)` gives, in constant memory.

    Raises:
        ModelMismatchError: another model made it; says which official ones could have.
    """
    from streamdac.decompress import decoded_blocks
    from streamdac.official import check_archive

    try:
        check_archive(archive, codec.config)
    except ModelMismatchError as error:
        raise ModelMismatchError(f"{error}{_fitting(archive)}") from error
    with _share(label, quiet=quiet) as update:
        blocks = decoded_blocks(
            codec.archive_engine,
            archive,
            official_stereo=official_stereo,
            seamless=seamless,
            progress=update,
            folder=folder,
        )
        first = next(blocks)  # what can go wrong does so before there is a sink
        _write(first, blocks, open_sink(archive.sample_rate, archive.channels))


def _write(first: Block, blocks: Iterator[Block], sink: Sink) -> None:
    complete = False
    try:
        sink.write(first)
        for block in blocks:
            sink.write(block)
        complete = True
    finally:
        sink.close(complete=complete)


def _fitting(archive: Archive) -> str:
    """The official models that could have made an archive, for an error message."""
    from streamdac.config import preset
    from streamdac.models import OFFICIAL
    from streamdac.official import check_archive

    fitting = []
    for name, (kind, bitrate, _) in OFFICIAL.items():
        try:
            check_archive(archive, preset(name))
        except BadDataError:
            continue
        fitting.append(f"--model_type {kind}" + ("" if bitrate == "8kbps" else f" --model_bitrate {bitrate}"))
    return f"; it fits {' or '.join(fitting)}" if fitting else ""


@contextmanager
def _share(label: str, *, quiet: bool) -> Iterator[Callable[[float], None]]:
    """A bar that is told the share done, 0 to 1."""
    bar: Any
    with progress(100, label, quiet=quiet, unit="%") as bar:
        yield lambda done: bar.update(max(0.0, 100 * done - bar.n))
