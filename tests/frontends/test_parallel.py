"""`--jobs`: what its processes import, and when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from streamdac.frontends.parallel import _nothing_from_here

from ..processes import alive

DRIVER = """
import os, pathlib, sys, time
from streamdac.frontends import parallel
from streamdac.frontends.batch import Job
from streamdac.signals import end_in_order

def work(job):
    pathlib.Path(job.target).write_text(str(os.getpid()))
    if job.source == "long":
        try:
            time.sleep(600)
        finally:
            os.unlink(job.target)

if __name__ == "__main__":
    if sys.argv[1] == "old":
        parallel._SAFE_PATH = False
    if sys.argv[1] == "program":
        end_in_order()
    jobs = [Job(source, str(number)) for number, source in enumerate(sys.argv[2:])]
    sys.exit(parallel.run_all(jobs, work, processes=2, quiet=True))
"""
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The current folder of a driver beside it."""
    (tmp_path / "driver.py").write_text(DRIVER)
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(folder.parent / "driver.py"), *arguments]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, start_new_session=True)


def working(folder: Path) -> list[int]:
    """The processes of the first two jobs, once both have begun."""
    end, names = time.monotonic() + 60, [folder / "0", folder / "1"]
    while not all(name.exists() and name.read_text() for name in names):
        assert time.monotonic() < end
        time.sleep(0.02)
    return [int(name.read_text()) for name in names]


@pytest.mark.parametrize("python", ["new", "old"])
def test_processes_import_nothing_out_of_the_current_folder_and_work_in_it(folder: Path, python: str) -> None:
    (folder / "pickle.py").write_text("import os; open('caught', 'w').close(); os._exit(9)")
    assert start(folder, python, "short", "short", "short").wait(60) == 0
    assert sorted(os.listdir(folder)) == ["0", "1", "2", "pickle.py"]


@pytest.mark.parametrize("before", [None, "x"])
def test_the_environment_is_left_as_it_was(before: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    with _nothing_from_here():
        pass
    assert os.environ.get("PYTHONSAFEPATH") == before


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_end_in_order_with_a_parent_that_was_killed(folder: Path) -> None:
    parent = start(folder, "new", "short", "long")
    workers, end = working(folder), time.monotonic() + 60
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(map(alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert not (folder / "1").exists()  # half-written


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
def test_processes_end_in_order_where_all_of_them_are_hung_up(folder: Path) -> None:
    parent = start(folder, "program", "short", "long")
    working(folder)
    os.killpg(parent.pid, signal.SIGHUP)
    assert parent.wait(60) == 143
    assert not (folder / "1").exists()  # half-written
