"""`streamdac decode`: `.sdac` streams and official `.dac` archives to audio."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from streamdac.errors import BadDataError, UsageError
from streamdac.files import unreadable
from streamdac.frontend import is_spec
from streamdac.models import DEFAULT_OFFICIAL, find_model

from . import archives
from .audio_files import SUFFIXES, check_length, check_output
from .batch import Job, plan_jobs
from .official_options import official_model, official_options
from .options import RAW_NAMES, force_option, load_codec, model_options, progress, quiet_option
from .parallel import jobs_option, run_all, threads_each
from .pipes import read_some
from .rates import LEAST_RATE, MOST_RATE

if TYPE_CHECKING:
    from io import BufferedReader

    from streamdac.codec import Codec
    from streamdac.frontend import Sink

    from .coding import StreamDecoding
    from .hops import Block

STREAM = ".sdac"
_READ = 1 << 14  # bytes
_MOST = 1 << 30  # bytes of an archive in a pipe
_SHOWN = 5  # problems named one by one


class DamagedError(BadDataError):
    """What could be read was decoded; the rest was not."""


@dataclass(frozen=True)
class Settings:
    """How every file of one command is decoded."""

    model: str | None
    """None: the embedded one for streams, the default official one for archives."""
    device: str
    engine: str
    threads: int | None
    processes: int
    n_codebooks: int | None
    official_stereo: bool
    seamless: bool
    raw: str | None
    rate: int | None
    as_float: bool
    join: bool
    force: bool
    quiet: bool
    verbose: bool


@click.command(short_help="Streams or archives to audio; files, folders, pipes.")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", default=None, help="A file with a known suffix, else a folder; - is stdout (WAV).")
@click.option(
    "-n",
    "--codebooks",
    "--n_quantizers",
    type=click.IntRange(min=1),
    default=None,
    help="Of archives: the first ones only.",
)
@click.option(
    "--official-stereo", is_flag=True, help="Archives: all channels equally loud, as the official tool has them."
)
@click.option("--seamless", is_flag=True, help="Archives in windows: cross-fade them.")
@click.option("--win_duration", type=float, default=None, hidden=True)
@click.option("--raw", type=click.Choice(RAW_NAMES), default=None, help="Headerless PCM to stdout.")
@click.option(
    "--rate",
    type=click.IntRange(LEAST_RATE, MOST_RATE),
    default=None,
    help="Streams: Hz of the output; the source's by default.",
)
@click.option("--float", "as_float", is_flag=True, help="32-bit float samples instead of 16-bit.")
@click.option("--join", is_flag=True, help="Begin in the middle of a stream, at its next header.")
@jobs_option
@official_options
@model_options
@force_option
@quiet_option
def decode(
    inputs: tuple[str, ...],
    output: str | None,
    codebooks: int | None,
    official_stereo: bool,
    seamless: bool,
    win_duration: float | None,  # the official option; an archive says it by itself
    raw: str | None,
    rate: int | None,
    as_float: bool,
    join: bool,
    processes: int,
    weights_path: str | None,
    model_type: str | None,
    model_bitrate: str | None,
    model_tag: str | None,
    verbose: bool,
    model: str | None,
    device: str,
    engine: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> int:
    """Decode streams and archives: files, folders (their tree is kept) or - for stdin.

    The output has the source's rate, channels and length. Damage to a stream is concealed and reported, with exit code
    65. A stream is decoded by the embedded causal model and an archive by an official one, 44khz unless another is
    named; with an official option and no output it goes into the current folder, as the official tool has it.
    """
    official = official_model(weights_path, model_type, model_bitrate, model_tag, instead=model)
    if output is None and official is not None and "-" not in inputs:
        output = "."
    jobs = plan_jobs(inputs, output, read=(STREAM, archives.SUFFIX), made=".wav", known=SUFFIXES, sinks=True)
    if raw and any(job.target != "-" for job in jobs):
        raise UsageError("--raw is for stdout: the output must be -")
    settings = Settings(
        model=model or official,
        device=device,
        engine=engine,
        threads=threads,
        processes=processes,
        n_codebooks=codebooks,
        official_stereo=official_stereo,
        seamless=seamless,
        raw=raw,
        rate=rate,
        as_float=as_float,
        join=join,
        force=force,
        quiet=quiet or processes > 1,
        verbose=verbose,
    )
    if settings.model is not None:
        find_model(settings.model)  # a missing one is said once, not for each file
    return run_all(jobs, partial(_work, settings), processes=processes, quiet=quiet)


@cache
def _codec(model: str | None, device: str, engine: str, threads: int | None) -> Codec:
    """Loaded once in each process."""
    return load_codec(model, device, engine, threads)


def _work(settings: Settings, job: Job) -> None:
    """One file."""
    if job.target != "-" and not is_spec(job.target):
        check_output(Path(job.target), force=settings.force)
    elif job.target == "-" and sys.stdout.isatty():
        raise UsageError("stdout is a terminal: pipe it on, or name a file with -o")
    stream, size = _open(job.source)
    with stream:
        if _is_archive(stream, job.source):
            _from_archive(settings, job, stream)
        else:
            _from_stream(settings, job, stream, size)
    if settings.verbose:
        click.echo(f"{job.source} -> {job.target}", err=True)


def _is_archive(stream: BufferedReader, source: str) -> bool:
    """By its first bytes; a broken file by its name."""
    start = stream.peek(len(archives.MAGIC))[:1]
    return start == archives.MAGIC[:1] or (start != b"\x89" and Path(source).suffix.lower() == archives.SUFFIX)


def _from_archive(settings: Settings, job: Job, stream: BinaryIO) -> None:
    if settings.rate is not None or settings.join:
        raise UsageError(f"{job.source} is an archive: --rate and --join are for streams")
    in_file = job.source != "-" and Path(job.source).is_file()  # not a pipe
    archive = archives.read_archive(job.source if in_file else stream.read(_MOST), settings.n_codebooks)
    if job.target != "-" and not is_spec(job.target):
        check_length(
            Path(job.target),
            archive.original_length,
            sample_rate=archive.sample_rate,
            channels=archive.channels,
            as_float=settings.as_float,
        )
    threads = threads_each(settings.threads, settings.processes)
    codec = _codec(settings.model or DEFAULT_OFFICIAL, settings.device, settings.engine, threads)
    archives.decode_archive(
        codec,
        archive,
        lambda rate, channels: _sink(settings, job, rate, channels),
        official_stereo=settings.official_stereo,
        seamless=settings.seamless,
        label=job.source,
        quiet=settings.quiet,
        folder=_existing_folder(job.target),
    )


def _from_stream(settings: Settings, job: Job, stream: BinaryIO, size: int | None) -> None:
    from .coding import StreamDecoding

    if settings.n_codebooks is not None or settings.official_stereo or settings.seamless:
        raise UsageError(f"{job.source} is a stream: --codebooks, --official-stereo and --seamless are for archives")
    codec = _codec(settings.model, settings.device, settings.engine, settings.threads)
    decoding = StreamDecoding(codec, join=settings.join, rate=settings.rate)
    blocks = _read_all(stream, size, job.source, decoding, quiet=settings.quiet)
    write_all(blocks, decoding, lambda rate, channels: _sink(settings, job, rate, channels))
    report(decoding, job.source)


def _read_all(
    stream: BinaryIO, size: int | None, source: str, decoding: StreamDecoding, *, quiet: bool
) -> Iterator[Block]:
    """Every block of audio that the stream gives."""
    with progress(size, source, quiet=quiet, unit="B") as bar:
        while data := read_some(stream, _READ):
            bar.update(len(data))
            yield from decoding.feed(data)
        yield from decoding.finish()


def _open(source: str) -> tuple[BufferedReader, int | None]:
    if source == "-":
        if sys.stdin.isatty():
            raise UsageError("stdin is a terminal: pipe a stream into it")
        # A copy of the descriptor, so that closing it leaves stdin alone.
        return open(sys.stdin.fileno(), "rb", closefd=False), None
    try:
        path = Path(source)
        return path.open("rb"), path.stat().st_size
    except OSError as error:
        raise unreadable(source, error) from error


def write_all(blocks: Iterator[Block], decoding: StreamDecoding, open_sink: Callable[[int, int], Sink]) -> None:
    """Blocks to a file or stdout, which is opened once the stream's header is known."""
    first = next(blocks, None)
    header = decoding.header
    if header is None:
        raise BadDataError("the stream has no header")
    sink = open_sink(decoding.rate, header.channels)
    complete = False
    try:
        if first is not None:
            sink.write(first)
        for block in blocks:
            sink.write(block)
        complete = True
    finally:
        sink.close(complete=complete)


def _sink(settings: Settings, job: Job, rate: int, channels: int) -> Sink:
    from . import file

    return file.sink(
        job.target,
        sample_rate=rate,
        channels=channels,
        force=settings.force,
        raw=settings.raw,
        as_float=settings.as_float,
    )


def _existing_folder(target: str) -> Path | None:
    """Where a temporary file can be that may grow as large as the output: beside it. None, the system's own, for no file."""
    if target == "-" or is_spec(target):
        return None
    return next(folder for folder in Path(target).absolute().parents if folder.is_dir())


def report(decoding: StreamDecoding, source: str) -> None:
    """Say what was lost.

    Raises:
        DamagedError: anything was.
    """
    if not decoding.problems:
        return
    name = "stdin" if source == "-" else source
    for problem in decoding.problems[:_SHOWN]:
        click.echo(f"streamdac: {name}: {problem}", err=True)
    more = len(decoding.problems) - _SHOWN
    counts = decoding.reader.counts
    what = f"{counts.damages} damaged places, {counts.gap_frames} frames concealed, {counts.frames} decoded"
    raise DamagedError(f"{name}: {what}" + (f" ({more} more problems)" if more > 0 else ""))
