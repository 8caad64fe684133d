"""How a program is asked to end."""

from __future__ import annotations

import os
import signal
from types import FrameType

TERMINATED = 143


def end_in_order() -> None:
    """Let SIGTERM end the program by way of every `finally`, so that no unfinished file is left behind, and a hang-up too.

    A hang-up (a closed terminal, the end of a session) is as SIGTERM, whatever is made of that; not where it is ignored
    (`nohup`).
    """
    signal.signal(signal.SIGTERM, _terminate)
    if not hasattr(signal, "SIGHUP") or signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
        return
    terminals = [number for number in (0, 1, 2) if os.isatty(number)]

    def hang_up(number: int, frame: FrameType | None) -> None:
        # The kernel sends one and a shell another, and a second SIGTERM would break the orderly end off.
        signal.signal(number, signal.SIG_IGN)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for terminal in terminals:  # it gives only EIO from now on
            os.dup2(nowhere, terminal)
        os.close(nowhere)
        signal.raise_signal(signal.SIGTERM)

    signal.signal(signal.SIGHUP, hang_up)


def ignore_keyboard_and_hang_up() -> None:
    """Of a process that works for another: both are sent to the whole group, and it is for the other to end this one."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(TERMINATED)
