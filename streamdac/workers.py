"""Processes that work for another one."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable


def when_parent_ends(act: Callable[[], None]) -> None:
    """In a process that `multiprocessing` has started: call `act` once the parent is gone, in a thread of its own.

    A parent that was killed tells its processes nothing, and they would wait for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        act()

    threading.Thread(target=wait, name="parent", daemon=True).start()
