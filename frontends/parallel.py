"""Many files at once, in processes: a bad one is reported and the rest done, as in `batch.run_jobs`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import click

from streamdac.errors import StreamdacError, UsageError
from streamdac.frontend import is_spec

from .batch import Job, run_jobs
from .options import progress

_TERMINATED = 143

jobs_option = click.option(
    "-j", "--jobs", "processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Files done at once."
)


def cores() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_each(threads: int | None, processes: int) -> int:
    """`threads` where given, else this process's share of the cores."""
    return threads or max(1, cores() // processes)


def run_all(jobs: Sequence[Job], work: Callable[[Job], None], *, processes: int, quiet: bool) -> int:
    """Do all jobs, up to `processes` at once; the exit code. `work` must be picklable if there is more than one process.

    Raises:
        StreamdacError: what went wrong with the only job, or a process died.
        UsageError: stdin among many inputs, which no other process can read, or a source of another frontend, which a
            process that is ended with the others could not keep.
    """
    processes = min(processes, len(jobs))
    if processes <= 1:
        return run_jobs(jobs, work)
    for job in jobs:
        if job.source == "-" or is_spec(job.source):
            name = "stdin" if job.source == "-" else job.source
            raise UsageError(f"{name} among {len(jobs)} inputs is read by one process only: leave out --jobs")
    # Forking after torch has started threads may hang: spawn.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        futures = {pool.submit(_run, work, job): job for job in jobs}
        failed = _report(futures, quiet=quiet)
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()  # unwinds, so that no half-written file stays
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return 1 if failed else 0


def _report(futures: dict[Future[None], Job], *, quiet: bool) -> int:
    failed = 0
    with progress(len(futures), "files", quiet=quiet, unit="file") as bar:
        for future in as_completed(futures):
            try:
                future.result()
            except BrokenProcessPool as error:
                raise StreamdacError("a process died, perhaps for want of memory: try fewer --jobs") from error
            except (StreamdacError, OSError) as error:
                failed += 1
                bar.clear()
                source, message = futures[future].source, " ".join(str(error).split())
                click.echo(f"streamdac: {message if message.startswith(source) else f'{source}: {message}'}", err=True)
            bar.update()
    if failed:
        click.echo(f"streamdac: {failed} of {len(futures)} files failed", err=True)
    return failed


class _Worker:
    """Of one process."""

    ended = False  # terminated: a job that waits in the queue is not begun


def _begin() -> None:
    """Of a worker: Ctrl-C is for the parent, which then ends the workers in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    _Worker.ended = True
    sys.exit(_TERMINATED)


def _run(work: Callable[[Job], None], job: Job) -> None:
    if _Worker.ended:
        sys.exit(_TERMINATED)
    work(job)
