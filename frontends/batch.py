"""Many files in one command: which input becomes which output, and what happens when one of them is bad."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from streamdac.errors import BadDataError, NoInputError, StreamdacError, UsageError
from streamdac.frontend import file_of, is_spec

from .audio_files import SUFFIXES

# Audio that is not read here.
_UNREAD = frozenset((".m4a", ".aac", ".mp4", ".wma", ".webm", ".mka", ".raw", ".pcm"))
# Suffixes that nobody gives a folder: an output in one of them, where it is not made, is a mistake.
_FILES = SUFFIXES | _UNREAD | {".sdac", ".dac"}


@dataclass(frozen=True)
class Job:
    """One input and its output; `-` is a pipe, `name:...` another frontend's source or sink."""

    source: str
    target: str


def plan_jobs(
    inputs: Sequence[str],
    output: str | None,
    *,
    read: Collection[str],
    made: str,
    known: Collection[str],
    sinks: bool = False,
) -> list[Job]:
    """Which input becomes which output.

    Args:
        inputs: files, folders (walked, hidden files left out), sources of other frontends (`tone:440,5`) and `-`.
        output: a file where its suffix is in `known`, `-`, or a folder; beside the inputs where None.
        read: suffixes, in lower case, that a folder is searched for.
        made: suffix of the outputs.
        known: suffixes that say that `output` is a file.
        sinks: whether `output` may be a sink of another frontend (`null:`).

    Raises:
        NoInputError: an input is missing, or a folder holds nothing to read.
        UsageError: two inputs would become one output, or many inputs one file, or an output of another kind is meant.
    """
    found = [pair for name in inputs for pair in _expand(name, read)]
    single = output is not None and _is_single(output, known, sinks)
    if single and (len(found) != 1 or found[0][0] != inputs[0]):  # not a folder of one file either
        raise UsageError(f"{len(found)} inputs cannot become the one file {output}: name a folder")
    jobs = [
        Job(source, output if single and output else _target(source, relative, output, made))
        for source, relative in found
    ]
    _check_targets(jobs)
    return jobs


def _is_single(output: str, known: Collection[str], sinks: bool) -> bool:
    """Whether `output` is one place, rather than a folder."""
    if output == "-":
        return True
    if is_spec(output):
        if not sinks:
            raise UsageError(f"{output} takes audio, need a file or a folder")
        return True
    suffix = Path(output).suffix.lower()
    if Path(output).is_dir():
        return False
    if suffix in known:
        return True
    if suffix in _FILES:
        raise UsageError(f"{output}: not made here; name a folder, or a file in {', '.join(sorted(known))}")
    return False


def _check_targets(jobs: Sequence[Job]) -> None:
    by_target: dict[Path, str] = {}
    for job in jobs:
        place = file_of(job.target)
        if place is None:
            continue
        if place in by_target:
            raise UsageError(f"{by_target[place]} and {job.source} would both become {job.target}")
        if place == file_of(job.source):
            raise UsageError(f"{job.source} would become itself")
        by_target[place] = job.source


def _expand(name: str, read: Collection[str]) -> list[tuple[str, Path]]:
    """The files that `name` stands for, each with its path below the folder. Audio left out is said on stderr."""
    path = Path(name)
    if name == "-":
        return [("-", Path("stdin"))]
    if is_spec(name):
        return [(name, Path(name.partition(":")[0]))]
    if not path.exists():
        raise NoInputError(f"no file or folder {name}")
    if not path.is_dir():
        return [(name, Path(path.name))]
    wanted = {*read, *_UNREAD} if set(read) >= SUFFIXES else read
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in wanted
        and file.is_file()
        and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    files = [file for file in found if file.suffix.lower() in read]
    if left := [file.suffix.lower() for file in found if file.suffix.lower() not in read]:
        kinds = ", ".join(sorted(set(left)))
        click.echo(f"streamdac: left out in {name}: {len(left)} files of a kind that is not read ({kinds})", err=True)
    if not files:
        raise NoInputError(f"no file with suffix {', '.join(sorted(read))} in {name}")
    return [(_as_file(file), file.relative_to(path)) for file in files]


def _target(source: str, relative: Path, output: str | None, made: str) -> str:
    if source == "-" and output is None:
        return "-"
    if output is None:
        return _as_file((relative if is_spec(source) else Path(source)).with_suffix(made))
    return _as_file(Path(output) / relative.with_suffix(made))


def _as_file(path: Path) -> str:
    """`path` so that nobody takes it for a source or sink of a frontend: a file may be called `live:x.wav`."""
    return os.path.join(os.curdir, path) if is_spec(str(path)) else str(path)


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], None]) -> int:
    """Do all jobs; a bad one is reported and the rest done. The exit code: its own for one job, 1 for some of many."""
    failed = 0
    for job in jobs:
        try:
            work(job)
        except (StreamdacError, OSError) as error:
            if len(jobs) == 1 and isinstance(error, BadDataError):
                error.args = (failure(job, error),)  # which file is bad is said there too
            if len(jobs) == 1 or isinstance(error, BrokenPipeError):
                raise
            failed += 1
            click.echo(f"streamdac: {failure(job, error)}", err=True)
    if failed:
        click.echo(f"streamdac: {failed} of {len(jobs)} files failed", err=True)
    return 1 if failed else 0


def failure(job: Job, error: Exception) -> str:
    """What went wrong, in one line that begins with the input's name."""
    name = "stdin" if job.source == "-" else job.source
    text = " ".join(str(error).split())
    return text if text.startswith(name) else f"{name}: {text}"
