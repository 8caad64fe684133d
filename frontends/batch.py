"""Many files in one command: which input becomes which output, and what happens when one of them is bad."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from streamdac.errors import NoInputError, StreamdacError, UsageError


@dataclass(frozen=True)
class Job:
    """One input and its output; `-` is a pipe."""

    source: str
    target: str


def plan_jobs(
    inputs: Sequence[str], output: str | None, *, read: Collection[str], made: str, known: Collection[str]
) -> list[Job]:
    """Which input becomes which output.

    Args:
        inputs: files, folders (walked, hidden files left out) and `-`.
        output: a file where its suffix is in `known`, `-`, or a folder; beside the inputs where None.
        read: suffixes, in lower case, that a folder is searched for.
        made: suffix of the outputs.
        known: suffixes that say that `output` is a file.

    Raises:
        NoInputError: an input is missing, or a folder holds nothing to read.
        UsageError: two inputs would become one output, or many inputs one file.
    """
    found = [pair for name in inputs for pair in _expand(name, read)]
    to_file = (
        output is not None and (output == "-" or Path(output).suffix.lower() in known) and not Path(output).is_dir()
    )
    if to_file and (len(found) != 1 or Path(inputs[0]).is_dir()):
        raise UsageError(f"{len(found)} inputs cannot become the one file {output}: name a folder")
    jobs = [
        Job(source, output if to_file and output else _target(source, relative, output, made))
        for source, relative in found
    ]
    by_target: dict[str, str] = {}
    for job in jobs:
        if job.target != "-" and job.target in by_target:
            raise UsageError(f"{by_target[job.target]} and {job.source} would both become {job.target}")
        if job.target != "-" and os.path.realpath(job.target) == os.path.realpath(job.source):
            raise UsageError(f"{job.source} would become itself")
        by_target[job.target] = job.source
    return jobs


def _expand(name: str, read: Collection[str]) -> list[tuple[str, Path]]:
    """The files that `name` stands for, each with its path below the folder."""
    path = Path(name)
    if name == "-":
        return [("-", Path("stdin"))]
    if not path.exists():
        raise NoInputError(f"no file or folder {name}")
    if not path.is_dir():
        return [(name, Path(path.name))]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in read
        and file.is_file()
        and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    if not files:
        raise NoInputError(f"no file with suffix {', '.join(sorted(read))} in {name}")
    return [(str(file), file.relative_to(path)) for file in files]


def _target(source: str, relative: Path, output: str | None, made: str) -> str:
    if source == "-" and output is None:
        return "-"
    if output is None:
        return str(Path(source).with_suffix(made))
    return str(Path(output) / relative.with_suffix(made))


def run_jobs(jobs: Sequence[Job], work: Callable[[Job], None]) -> int:
    """Do all jobs; a bad one is reported and the rest done. The exit code: its own for one job, 1 for some of many."""
    failed = 0
    for job in jobs:
        try:
            work(job)
        except (StreamdacError, OSError) as error:
            if len(jobs) == 1 or isinstance(error, BrokenPipeError):
                raise
            failed += 1
            click.echo(f"streamdac: {job.source}: {' '.join(str(error).split())}", err=True)
    if failed:
        click.echo(f"streamdac: {failed} of {len(jobs)} files failed", err=True)
    return 1 if failed else 0
