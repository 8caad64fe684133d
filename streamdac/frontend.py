"""What a frontend is, and how to find one.

A frontend is a plug-in: an entry point `name = module:object` in the group `streamdac.frontends`, whose object is a `Frontend`.
Built-in frontends register exactly as an outsider's do. Importing a frontend's module should be cheap: the command line
imports all of them to list their commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from .errors import FrontendUnavailable, UsageError

if TYPE_CHECKING:
    import click
    import numpy as np
    import numpy.typing as npt

    Block = npt.NDArray[np.float32]  # [T, C], in [-1, 1]

GROUP = "streamdac.frontends"
Opener = TypeVar("Opener")


class Source(Protocol):
    """Gives audio in blocks. Blocking, and used from one thread."""

    @property
    def sample_rate(self) -> int:
        """Hz."""
        ...

    @property
    def channels(self) -> int:
        """Columns of every block."""
        ...

    @property
    def samples(self) -> int | None:
        """How many there will be in all; None if that is not known."""
        ...

    def read(self, samples: int) -> Block | None:
        """The next block `[T, C]` float32, T up to `samples` and at least 1; None once there is no more."""
        ...

    def close(self) -> None:
        """Let go of file or device."""
        ...


class Sink(Protocol):
    """Takes audio in blocks. Blocking, and used from one thread."""

    def write(self, block: Block) -> None:
        """The next block `[T, C]` float32."""
        ...

    def close(self, *, complete: bool = True) -> None:
        """The end; what was written is kept where `complete`, else a file is removed."""
        ...


class OpenSource(Protocol):
    """Opens what stands after `name:` in a spec."""

    def __call__(self, rest: str, *, sample_rate: int | None = None, channels: int | None = None) -> Source:
        """`sample_rate` and `channels` are wishes: the source says what it gives."""
        ...


class OpenSink(Protocol):
    """Opens what stands after `name:` in a spec."""

    def __call__(self, rest: str, *, sample_rate: int, channels: int, force: bool = False) -> Sink:
        """The sink takes blocks at that rate with so many channels; `force` overwrites a file."""
        ...


@dataclass(frozen=True)
class LazyCommand:
    """A click command that is imported when it is called: `target` is `module:attribute`, `help` one line."""

    target: str
    help: str

    def load(self) -> click.Command:
        """Import it."""
        module, _, attribute = self.target.partition(":")
        return cast("click.Command", getattr(import_module(module), attribute))


@dataclass(frozen=True)
class Frontend:
    """What a plug-in offers; any part may be left out."""

    commands: Mapping[str, LazyCommand | click.Command] = field(default_factory=dict)
    """Appear under `streamdac`."""
    open_source: OpenSource | None = None
    open_sink: OpenSink | None = None


@cache
def _entries() -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        if entry not in found.get(entry.name, ()):
            found[entry.name] = (*found.get(entry.name, ()), entry)
    return found


def names() -> list[str]:
    """Names of the installed frontends. Imports none of them."""
    return sorted(_entries())


def load(name: str) -> Frontend:
    """The frontend of that name.

    Raises:
        FrontendUnavailable: there is none, or more than one, or it cannot be imported.
    """
    found = _entries().get(name, ())
    if len(found) != 1:
        raise FrontendUnavailable(f"{len(found)} frontends are called {name!r}; installed: {', '.join(names())}")
    try:
        frontend = found[0].load()
    except Exception as error:  # an outsider's module may fail in any way
        missing = (
            f"needs {error.name}" if isinstance(error, ImportError) and error.name else f"cannot be loaded: {error}"
        )
        raise FrontendUnavailable(f"frontend {name!r} {missing} (entry point {found[0].value})") from error
    if not isinstance(frontend, Frontend):
        raise FrontendUnavailable(
            f"frontend {name!r} is a {type(frontend).__name__}, need a streamdac.frontend.Frontend"
        )
    return frontend


def open_source(spec: str, *, sample_rate: int | None = None, channels: int | None = None) -> Source:
    """The source that `spec` names: `name:rest` of an installed frontend, or a path or `-` for the file frontend.

    Raises:
        FrontendUnavailable: the frontend cannot be loaded.
        UsageError: it offers no source.
    """
    name, rest, opener = _resolve(spec, lambda frontend: frontend.open_source)
    if opener is None:
        raise UsageError(f"{name}: is no source of audio (in {spec!r})")
    return opener(rest, sample_rate=sample_rate, channels=channels)


def open_sink(spec: str, *, sample_rate: int, channels: int, force: bool = False) -> Sink:
    """The sink that `spec` names; as `open_source`."""
    name, rest, opener = _resolve(spec, lambda frontend: frontend.open_sink)
    if opener is None:
        raise UsageError(f"{name}: takes no audio (in {spec!r})")
    return opener(rest, sample_rate=sample_rate, channels=channels, force=force)


def _resolve(spec: str, part: Callable[[Frontend], Opener | None]) -> tuple[str, str, Opener | None]:
    name, colon, rest = spec.partition(":")
    if spec in _entries() and spec != "file":  # `null` as well as `null:`
        return spec, "", part(load(spec))
    if colon and name in _entries():
        return name, rest, part(load(name))
    return "file", spec, part(load("file"))


class AsyncSource:
    """A source for asyncio: each read runs in a thread."""

    def __init__(self, source: Source) -> None:
        self.source = source

    async def read(self, samples: int) -> Block | None:
        """As `Source.read`."""
        return await asyncio.to_thread(self.source.read, samples)

    async def blocks(self, samples: int) -> AsyncIterator[Block]:
        """Every block until the end, then closed."""
        try:
            while (block := await self.read(samples)) is not None:
                yield block
        finally:
            await asyncio.to_thread(self.source.close)


class AsyncSink:
    """A sink for asyncio: each write runs in a thread."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    async def write(self, block: Block) -> None:
        """As `Sink.write`."""
        await asyncio.to_thread(self.sink.write, block)

    async def close(self) -> None:
        """As `Sink.close`."""
        await asyncio.to_thread(self.sink.close)
