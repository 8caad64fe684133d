"""`streamdac encode`: audio to `.sdac` streams and official `.dac` archives."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from streamdac.errors import UsageError
from streamdac.files import written_whole
from streamdac.frontend import is_spec
from streamdac.models import DEFAULT_OFFICIAL, find_model

from . import archives
from .audio_files import SUFFIXES, check_output
from .batch import Job, plan_jobs
from .official_options import official_model, official_options
from .options import force_option, load_codec, model_options, progress, quiet_option, raw_options, vbr_option
from .parallel import jobs_option, run_all, threads_each
from .recording import recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from streamdac.codec import Codec
    from streamdac.frontend import Source

STREAM = ".sdac"
_BLOCK_SECONDS = 0.5  # read at once from files; a pipe gives what it has


@dataclass(frozen=True)
class Settings:
    """How every file of one command is encoded."""

    model: str | None
    device: str
    engine: str
    threads: int | None
    archive: archives.Windows | None
    """None: a stream."""
    codebooks: int | None
    vbr: bool
    frames_per_packet: int
    raw: str | None
    rate: int | None
    channels: int | None
    force: bool
    quiet: bool
    verbose: bool


@click.command(short_help="Audio to streams or archives; files, folders, pipes.")
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option("-o", "--output", default=None, help="A file with a known suffix, else a folder; - is stdout.")
@click.option(
    "-n", "--codebooks", "--n_quantizers", type=int, default=None, help="Codebooks in use; fewer take fewer bits."
)
@vbr_option
@click.option("--frames-per-packet", type=click.IntRange(1, 64), default=4, show_default=True, help="Fewer wait less.")
@click.option(
    "--win_duration",
    type=float,
    default=None,
    metavar="SECONDS",
    help="Archives in the official tool's windows, code for code (it takes 5); one seamless piece by default.",
)
@jobs_option
@raw_options
@official_options
@model_options
@force_option
@quiet_option
def encode(
    inputs: tuple[str, ...],
    output: str | None,
    codebooks: int | None,
    vbr: bool,
    frames_per_packet: int,
    win_duration: float | None,
    processes: int,
    raw: str | None,
    rate: int | None,
    channels: int | None,
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
    """Encode audio: files, folders (their tree is kept) or - for stdin.

    An output in .sdac, or stdout, is a stream of the embedded causal model. An output in .dac, or an official option
    (--weights_path, --model_type, --model_bitrate, --model_tag, --win_duration), means the official archive and an
    official model, 44khz unless another is named; with an official option and no output it goes into the current
    folder, as the official tool has it. --model overrides the model.

    Any rate and channel count is converted. Each channel is a row of the stream.
    """
    if raw and inputs != ("-",):
        raise UsageError("--raw is for stdin: the input must be -")
    if raw is None and (rate or channels) and not all(is_spec(name) for name in inputs):
        raise UsageError("--rate and --channels are for --raw: a file says its own")
    official = official_model(weights_path, model_type, model_bitrate, model_tag, instead=model)
    to_archive = _means_archive(output, official is not None or win_duration is not None)
    if win_duration is not None and not to_archive:
        raise UsageError(f"--win_duration is for archives, {output} is a stream")
    if vbr and to_archive:
        raise UsageError("--vbr is for streams: an archive has one number of codebooks")
    made = archives.SUFFIX if to_archive else STREAM
    if output is None and to_archive and "-" not in inputs:
        output = "."
    jobs = plan_jobs(inputs, output, read=SUFFIXES, made=made, known=(STREAM, archives.SUFFIX))
    settings = Settings(
        model=model or official or (DEFAULT_OFFICIAL if to_archive else None),
        device=device,
        engine=engine,
        threads=threads_each(threads, processes) if to_archive or processes > 1 else threads,
        archive=archives.Windows(win_duration, codebooks) if to_archive else None,
        codebooks=codebooks,
        vbr=vbr,
        frames_per_packet=frames_per_packet,
        raw=raw,
        rate=rate,
        channels=channels,
        force=force,
        quiet=quiet or processes > 1,
        verbose=verbose,
    )
    find_model(settings.model)  # a missing one is said once, not for each file
    return run_all(jobs, partial(_work, settings), processes=processes, quiet=quiet)


def _means_archive(output: str | None, official: bool) -> bool:
    suffix = "" if output is None else Path(output).suffix.lower()
    return suffix == archives.SUFFIX or (official and suffix != STREAM)


@cache
def _codec(model: str | None, device: str, engine: str, threads: int | None) -> Codec:
    """Loaded once in each process."""
    return load_codec(model, device, engine, threads)


def _work(settings: Settings, job: Job) -> None:
    """One file."""
    from . import file

    if job.target != "-":
        check_output(Path(job.target), force=settings.force)
    codec = _codec(settings.model, settings.device, settings.engine, settings.threads)
    opener = partial(file.source, job.source, raw=settings.raw, sample_rate=settings.rate, channels=settings.channels)
    if settings.archive is not None:
        _to_archive(codec, opener, settings, job)
    else:
        _to_stream(codec, opener, settings, job)
    if settings.verbose:
        click.echo(f"{job.source} -> {job.target}", err=True)


def _to_stream(codec: Codec, opener: Callable[[], Source], settings: Settings, job: Job) -> None:
    source = opener()
    try:
        with recorded(source) as recording, output_stream(job.target, force=settings.force) as out:
            encode_stream(
                codec,
                recording,
                out,
                settings.codebooks,
                settings.frames_per_packet,
                vbr=settings.vbr,
                label=job.source,
                quiet=settings.quiet,
            )
    finally:
        source.close()


def _to_archive(codec: Codec, opener: Callable[[], Source], settings: Settings, job: Job) -> None:
    how = settings.archive
    assert how is not None
    with ExitStack() as stack:
        if job.source == "-" or is_spec(job.source) or Path(job.source).is_fifo():
            source = opener()
            stack.callback(source.close)
            opener = stack.enter_context(archives.rereadable(stack.enter_context(recorded(source))))
        archive = archives.encode_archive(codec, opener, how, label=job.source, quiet=settings.quiet)
        archives.save_archive(archive, job.target, force=settings.force)


def encode_stream(
    codec: Codec,
    source: Source,
    out: BinaryIO,
    codebooks: int | None,
    frames_per_packet: int,
    *,
    vbr: bool = False,
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
        vbr=vbr,
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
