"""What is left of a process, and one in a terminal of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path


def alive(pid: int) -> bool:
    """Not counting one that nobody has waited for."""
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def in_terminal(command: Sequence[str], folder: Path, *, nohup: bool = False) -> tuple[subprocess.Popen[bytes], int]:
    """A program that leads a new terminal's session, and the other end of that; closing this hangs it up."""
    import fcntl
    import termios

    def begin() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)

    near, far = os.openpty()
    process = subprocess.Popen(
        command, cwd=folder, stdin=far, stdout=far, stderr=far, start_new_session=True, preexec_fn=begin
    )
    os.close(far)
    return process, near
