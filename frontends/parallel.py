"""Many files at once, in processes: a bad one is reported and the rest done, as in `batch.run_jobs`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import click

from streamdac.errors import StreamdacError, UsageError
from streamdac.frontend import is_spec
from streamdac.signals import ignore_keyboard_and_hang_up
from streamdac.workers import when_parent_ends

from .batch import Job, run_jobs
from .options import progress

_SAFE_PATH: bool = sys.version_info >= (3, 11)  # Python heeds PYTHONSAFEPATH
_TERMINATED = 143
_UNWIND_SECONDS = 5.0  # that a worker has to remove its half-written file

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
    here = os.getcwd()
    with _nothing_from_here():
        pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(here,)
        )
    try:
        with _nothing_from_here():  # the first jobs start the processes
            futures = {pool.submit(_run, work, job): job for job in jobs}
        failed = _report(futures, quiet=quiet)
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()  # unwinds, so that no half-written file stays
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return 1 if failed else 0


@contextmanager
def _nothing_from_here() -> Iterator[None]:
    """Processes that are started meanwhile import no `pickle.py` out of the folder that the user happens to be in."""
    if _SAFE_PATH:
        before = os.environ.get("PYTHONSAFEPATH")
        os.environ["PYTHONSAFEPATH"] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONSAFEPATH"]
            else:
                os.environ["PYTHONSAFEPATH"] = before
        return
    # Started in the standard library's own folder, they find nothing else there; they go back before they do any work.
    here = os.getcwd()
    os.chdir(os.path.dirname(os.__file__))
    try:
        yield
    finally:
        os.chdir(here)


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
    orphan = False


def _begin(folder: str) -> None:
    """Of a worker: in the parent's folder. Ctrl-C and a hang-up are for the parent, which then ends the workers in order."""
    os.chdir(folder)
    ignore_keyboard_and_hang_up()
    signal.signal(signal.SIGTERM, _end)
    when_parent_ends(_end_alone)


def _end_alone() -> None:
    """A parent that was killed sends no SIGTERM, and no job ever after."""
    _Worker.orphan = True
    if hasattr(signal, "pthread_kill"):
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGTERM)  # the one that may be waiting
    time.sleep(_UNWIND_SECONDS)
    os._exit(_TERMINATED)


def _end(*_: object) -> None:
    _Worker.ended = True
    sys.exit(_TERMINATED)


def _run(work: Callable[[Job], None], job: Job) -> None:
    if _Worker.ended:
        sys.exit(_TERMINATED)
    try:
        work(job)
    finally:
        if _Worker.orphan:
            os._exit(_TERMINATED)  # to nobody an answer is sent, and from nobody another job comes
