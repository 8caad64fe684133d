"""`streamdac decode`: `.sdac` streams to audio."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from streamdac.errors import BadDataError, NoInputError, UsageError

from .audio_files import SUFFIXES, check_output
from .batch import Job, plan_jobs, run_jobs
from .options import RAW_NAMES, force_option, load_codec, model_options, progress, quiet_option
from .pipes import read_some

if TYPE_CHECKING:
    from streamdac.frontend import Sink

    from .coding import Block, StreamDecoding

STREAM = ".sdac"
_READ = 1 << 14  # bytes
_SHOWN = 5  # problems named one by one


class DamagedError(BadDataError):
    """What could be read was decoded; the rest was not."""


@click.command(short_help="Streams or archives to audio; files, folders, pipes.")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", default=None, help="A file with a known suffix, else a folder; - is stdout (WAV).")
@click.option("--raw", type=click.Choice(RAW_NAMES), default=None, help="Headerless PCM to stdout.")
@click.option(
    "--rate", type=click.IntRange(1_000, 768_000), default=None, help="Hz of the output; the source's by default."
)
@click.option("--float", "as_float", is_flag=True, help="32-bit float samples instead of 16-bit.")
@click.option("--join", is_flag=True, help="Begin in the middle of a stream, at its next header.")
@model_options
@force_option
@quiet_option
def decode(
    inputs: tuple[str, ...],
    output: str | None,
    raw: str | None,
    rate: int | None,
    as_float: bool,
    join: bool,
    model: str | None,
    device: str,
    engine: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> int:
    """Decode streams: files, folders (their tree is kept) or - for stdin.

    The output has the source's rate, channels and length. Damage is concealed and reported, with exit code 65.
    """
    jobs = plan_jobs(inputs, output, read=(STREAM,), made=".wav", known=SUFFIXES)
    if raw and any(job.target != "-" for job in jobs):
        raise UsageError("--raw is for stdout: the output must be -")
    codec = load_codec(model, device, engine, threads)

    def work(job: Job) -> None:
        from .coding import StreamDecoding

        if job.target != "-":
            check_output(Path(job.target), force=force)
        elif sys.stdout.isatty():
            raise UsageError("stdout is a terminal: pipe it on, or name a file with -o")
        decoding = StreamDecoding(codec, join=join, rate=rate)
        blocks = _read_all(job.source, decoding, quiet=quiet)
        write_all(blocks, decoding, job.target, force=force, raw=raw, as_float=as_float)
        report(decoding, job.source)

    return run_jobs(jobs, work)


def _read_all(source: str, decoding: StreamDecoding, *, quiet: bool) -> Iterator[Block]:
    """Every block of audio that the stream gives."""
    stream, size = _open(source)
    with stream, progress(size, source, quiet=quiet, unit="B") as bar:
        while data := read_some(stream, _READ):
            bar.update(len(data))
            yield from decoding.feed(data)
        yield from decoding.finish()


def _open(source: str) -> tuple[BinaryIO, int | None]:
    if source == "-":
        if sys.stdin.isatty():
            raise UsageError("stdin is a terminal: pipe a stream into it")
        # A copy of the descriptor, so that closing it leaves stdin alone.
        return open(sys.stdin.fileno(), "rb", closefd=False), None
    try:
        path = Path(source)
        return path.open("rb"), path.stat().st_size
    except OSError as error:
        raise NoInputError(f"cannot read {source}: {error.strerror}") from error


def write_all(
    blocks: Iterator[Block], decoding: StreamDecoding, target: str, *, force: bool, raw: str | None, as_float: bool
) -> None:
    """Blocks to a file or stdout, which is opened once the stream's header is known."""
    first = next(blocks, None)
    header = decoding.header
    if header is None:
        raise BadDataError("the stream has no header")
    sink = _sink(target, decoding.rate, header.channels, force=force, raw=raw, as_float=as_float)
    complete = False
    try:
        if first is not None:
            sink.write(first)
        for block in blocks:
            sink.write(block)
        complete = True
    finally:
        sink.close(complete=complete)


def _sink(target: str, rate: int, channels: int, *, force: bool, raw: str | None, as_float: bool) -> Sink:
    from . import file

    return file.sink(target, sample_rate=rate, channels=channels, force=force, raw=raw, as_float=as_float)


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
