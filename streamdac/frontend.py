"""What a frontend is, and how to find one.

A frontend is a plug-in: an entry point `name = module:object` in the group `streamdac.frontends`, whose object is a `Frontend`.
Built-in frontends register exactly as an outsider's do. Importing a frontend's module should be cheap: the command line
imports all of them to list their commands.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

from .errors import FrontendUnavailable, UsageError

if TYPE_CHECKING:
    import click
    import numpy as np
    import numpy.typing as npt

    from .peers import Connector

    Block = npt.NDArray[np.float32]  # [T, C], in [-1, 1]

GROUP = "streamdac.frontends"
Opener = TypeVar("Opener")
Result = TypeVar("Result")


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
        """Import it.

        Raises:
            FrontendUnavailable: it cannot be imported.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return cast("click.Command", getattr(import_module(module), attribute))
        except (Exception, SystemExit) as error:  # an outsider's module may fail in any way
            raise FrontendUnavailable(f"command {self.target} {_why(error)}") from error


@dataclass(frozen=True)
class Frontend:
    """What a plug-in offers; any part may be left out."""

    commands: Mapping[str, LazyCommand | click.Command] = field(default_factory=dict)
    """Appear under `streamdac`."""
    open_source: OpenSource | None = None
    open_sink: OpenSink | None = None
    connectors: Mapping[str, Connector] = field(default_factory=dict)
    """By the scheme of a URL: how to reach a peer, for `streamdac.connect`."""


@cache
def _entries() -> dict[str, tuple[EntryPoint, ...]]:
    """Entry points by name; streamdac's own keep their names to themselves."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=GROUP):
        if entry not in found.get(entry.name, ()):
            found[entry.name] = (*found.get(entry.name, ()), entry)
    own = {name: tuple(filter(_is_own, entries))[:1] for name, entries in found.items()}
    _taken.extend(entry for name, entries in found.items() if own[name] for entry in entries if not _is_own(entry))
    return {name: own[name] or entries for name, entries in found.items()}


_taken: list[EntryPoint] = []  # outsiders' that have the name of one of ours


def _is_own(entry: EntryPoint) -> bool:
    return entry.module.startswith(f"{GROUP}.")


def names() -> list[str]:
    """Names of the installed frontends, the built-in ones first. Imports none of them."""
    return sorted(_entries(), key=lambda name: (not _is_own(_entries()[name][0]), name))


def clashes() -> list[str]:
    """What is wrong with names: an outsider's frontend that is called as one of ours is left out."""
    _entries()
    return [f"frontend {entry.name!r} is built in: {entry.value} is left out" for entry in _taken]


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
    except (Exception, SystemExit) as error:  # an outsider's module may fail in any way
        raise FrontendUnavailable(f"frontend {name!r} {_why(error)} (entry point {found[0].value})") from error
    if not isinstance(frontend, Frontend):
        raise FrontendUnavailable(
            f"frontend {name!r} is a {type(frontend).__name__}, need a streamdac.frontend.Frontend"
        )
    commands: object = frontend.commands
    if not isinstance(commands, Mapping):
        raise FrontendUnavailable(f"frontend {name!r} has its commands in a {type(commands).__name__}, need a dict")
    return frontend


def _why(error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"needs {error.name}"
    return f"cannot be loaded: {' '.join(str(error).split()) or type(error).__name__}"


def is_spec(text: str) -> bool:
    """Whether `text` names a source or sink of an installed frontend (`tone:440`), and no path."""
    name, colon, _ = text.partition(":")
    return bool(colon) and name in _entries()


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
    rest, opener = _sink_opener(spec)
    return opener(rest, sample_rate=sample_rate, channels=channels, force=force)


def check_takes_audio(spec: str) -> None:
    """Refuse what is no sink, before the work is done that is to go there; opens nothing.

    Raises:
        FrontendUnavailable: the frontend cannot be loaded.
        UsageError: it offers no sink.
    """
    _sink_opener(spec)


def _sink_opener(spec: str) -> tuple[str, OpenSink]:
    name, rest, opener = _resolve(spec, lambda frontend: frontend.open_sink)
    if opener is None:
        raise UsageError(f"{name}: takes no audio (in {spec!r})")
    return rest, opener


def file_of(spec: str | None) -> Path | None:
    """The file that `spec` names, links followed; None for `-`, what other frontends offer, and no spec at all."""
    if spec is None:
        return None
    name, rest = _split(spec)
    if name != "file" or rest == "-":
        return None
    return file_of(rest) if is_spec(rest) else Path(os.path.realpath(rest))


def _resolve(spec: str, part: Callable[[Frontend], Opener | None]) -> tuple[str, str, Opener | None]:
    name, rest = _split(spec)
    return name, rest, part(load(name))


def _split(spec: str) -> tuple[str, str]:
    """The frontend that is meant, and what is for it."""
    name, _, rest = spec.partition(":")
    # `null` is `null:`, unless there is a file of that name.
    if is_spec(spec) or (name in _entries() and name != "file" and not Path(spec).exists()):
        return name, rest
    return "file", spec


async def _in_thread(call: Callable[..., Result], *arguments: object) -> Result:
    import asyncio  # slow to import, and no command line needs it

    return await asyncio.to_thread(call, *arguments)


class AsyncSource:
    """A source for asyncio: each read runs in a thread."""

    def __init__(self, source: Source) -> None:
        self.source = source

    async def read(self, samples: int) -> Block | None:
        """As `Source.read`."""
        return await _in_thread(self.source.read, samples)

    async def blocks(self, samples: int) -> AsyncIterator[Block]:
        """Every block until the end, then closed."""
        try:
            while (block := await self.read(samples)) is not None:
                yield block
        finally:
            await _in_thread(self.source.close)


class AsyncSink:
    """A sink for asyncio: each write runs in a thread."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink

    async def write(self, block: Block) -> None:
        """As `Sink.write`."""
        await _in_thread(self.sink.write, block)

    async def close(self) -> None:
        """As `Sink.close`."""
        await _in_thread(self.sink.close)
