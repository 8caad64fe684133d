"""`streamdac encode`: audio to `.sdac` streams."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from streamdac.errors import UsageError
from streamdac.files import refuse_existing, written_whole

from .audio_files import SUFFIXES
from .batch import Job, plan_jobs, run_jobs
from .options import force_option, load_codec, model_options, progress, quiet_option, raw_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamdac.codec import Codec
    from streamdac.frontend import Source

STREAM = ".sdac"
_BLOCK_SECONDS = 0.5  # read at once from files; a pipe gives what it has


@click.command(short_help="Audio to streams or archives; files, folders, pipes.")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", default=None, help="A file with a known suffix, else a folder; - is stdout.")
@click.option(
    "-n", "--codebooks", "--n_quantizers", type=int, default=None, help="Codebooks in use; fewer take fewer bits."
)
@click.option("--frames-per-packet", type=click.IntRange(1, 64), default=4, show_default=True, help="Fewer wait less.")
@raw_options
@model_options
@force_option
@quiet_option
def encode(
    inputs: tuple[str, ...],
    output: str | None,
    codebooks: int | None,
    frames_per_packet: int,
    raw: str | None,
    rate: int | None,
    channels: int | None,
    model: str | None,
    device: str,
    engine: str,
    threads: int | None,
    force: bool,
    quiet: bool,
) -> int:
    """Encode audio: files, folders (their tree is kept) or - for stdin.

    Any rate and channel count is converted. Each channel is a row of the stream.
    """
    from . import file

    if raw and inputs != ("-",):
        raise UsageError("--raw is for stdin: the input must be -")
    jobs = plan_jobs(inputs, output, read=SUFFIXES, made=STREAM, known=(STREAM,))
    codec = load_codec(model, device, engine, threads)

    def work(job: Job) -> None:
        if job.target != "-":
            refuse_existing(Path(job.target), force=force)
        source = file.source(job.source, raw=raw, sample_rate=rate, channels=channels)
        try:
            with output_stream(job.target, force=force) as out:
                encode_stream(codec, source, out, codebooks, frames_per_packet, label=job.source, quiet=quiet)
        finally:
            source.close()

    return run_jobs(jobs, work)


def encode_stream(
    codec: Codec,
    source: Source,
    out: BinaryIO,
    codebooks: int | None,
    frames_per_packet: int,
    *,
    label: str,
    quiet: bool,
) -> None:
    """All of `source` as a stream to `out`, in constant memory; each packet is out as soon as it is complete."""
    from .coding import StreamEncoding

    coding = StreamEncoding(
        codec,
        sample_rate=source.sample_rate,
        channels=source.channels,
        n_codebooks=codebooks,
        frames_per_packet=frames_per_packet,
    )
    block_samples = max(1, round(_BLOCK_SECONDS * source.sample_rate))
    _send(out, coding.start())
    with progress(source.samples, label, quiet=quiet, scale=1 / source.sample_rate) as bar:
        while (block := source.read(block_samples)) is not None:
            _send(out, coding.push(block))
            bar.update(len(block) / source.sample_rate)
    _send(out, coding.finish())


def _send(out: BinaryIO, data: bytes) -> None:
    if data:
        out.write(data)
        out.flush()


@contextmanager
def output_stream(target: str, *, force: bool) -> Iterator[BinaryIO]:
    """stdout for `-`, else a file that appears whole or not at all.

    Raises:
        UsageError: stdout is a terminal.
    """
    if target == "-":
        if sys.stdout.isatty():
            raise UsageError("stdout is a terminal: pipe it on, or name a file with -o")
        yield sys.stdout.buffer
        return
    with ExitStack() as stack:
        temporary = stack.enter_context(written_whole(Path(target), force=force))
        yield stack.enter_context(temporary.open("wb"))
