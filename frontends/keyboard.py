"""Single keys from a terminal, without waiting for Enter; the terminal is as before afterwards."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

_ARROWS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1bOA": "up", b"\x1bOB": "down"}


class Keyboard:
    """`with Keyboard() as keys: keys.wait(0.1)`. Where stdin is no terminal, only time passes."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def __enter__(self) -> Keyboard:
        with suppress(ImportError, OSError, ValueError):
            import termios
            import tty

            descriptor = sys.stdin.fileno() if self._descriptor is None else self._descriptor
            if os.isatty(descriptor):
                self._saved = termios.tcgetattr(descriptor)
                tty.setcbreak(descriptor)
                self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._saved is not None and self._descriptor is not None:
            import termios

            with suppress(termios.error):  # the terminal is gone
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)

    @property
    def active(self) -> bool:
        """Whether there is a terminal to press keys on."""
        return self._saved is not None

    def wait(self, seconds: float) -> str | None:
        """The next key, or None after `seconds`: a character, or up and down."""
        if self._saved is None or self._descriptor is None:
            time.sleep(seconds)
            return None
        import select

        if not select.select([self._descriptor], [], [], seconds)[0]:
            return None
        data = b""
        with suppress(OSError):
            data = os.read(self._descriptor, 16)
        if not data:
            # The terminal is gone: do not spin.
            time.sleep(seconds)
            return None
        return _ARROWS.get(data) or data[:1].decode("latin-1")
