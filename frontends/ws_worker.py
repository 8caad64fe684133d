"""A thread of its own for blocking work beside the event loop: started, told to stop, and its failure seen by the loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading

STOP_SECONDS = 5.0  # that a worker has to finish; a device that hangs must not hang the program


class Worker:
    """Runs `work` in a daemon thread; `done` is its end, with its exception if there was one."""

    def __init__(self, name: str) -> None:
        self.stopping = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()
        # Nobody may be waiting when it fails during the end of a program.
        self.done.add_done_callback(lambda done: None if done.cancelled() else done.exception())
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def started(self) -> bool:
        """Whether the thread has begun."""
        return self._thread.ident is not None

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    async def stop(self) -> None:
        """Ask it to finish, and wait for it; raises what it raised."""
        self.stopping.set()
        if self.started:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.done), STOP_SECONDS)

    def work(self) -> None:
        """What the thread does, until `stopping` is set."""
        raise NotImplementedError

    def call(self, function: object, *arguments: object) -> None:
        """Run a function on the event loop; nothing if that has gone."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *arguments)  # type: ignore[arg-type]

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self.work()
        except BaseException as raised:
            error = raised
        self.call(self._finish, error)

    def _finish(self, error: BaseException | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)
