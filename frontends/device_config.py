"""What the two sides of the device process tell each other, and the shared memory between them."""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from .rings import ring_bytes


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device as PortAudio lists it."""

    index: int
    name: str
    api: str
    inputs: int
    """Channels, at most."""
    outputs: int
    rate: int
    """Hz, its own."""
    input_latency_ms: float
    output_latency_ms: float
    default_input: bool
    default_output: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What to open. A device is an index, a part of a name, or empty for the default; None for no such end."""

    input: str | None
    output: str | None
    rate: int
    """Hz, asked of the devices first."""
    channels: int
    memory: str
    """Path of the file that both sides map."""
    latency: str | float = "low"
    """A hint to PortAudio: low, high or seconds."""
    block: int = 0
    """Samples per callback; 0 leaves it to the device."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What was opened."""

    input: str | None
    output: str | None
    api: str
    input_rate: int
    output_rate: int
    input_latency_ms: float
    output_latency_ms: float
    one_clock: bool
    """Both ends are one device: nothing drifts."""
    output_api: str = ""


def memory_bytes(channels: int) -> int:
    """Of both rings."""
    return 2 * ring_bytes(channels)


def ring_memory(memory: mmap.mmap, channels: int) -> tuple[memoryview, memoryview]:
    """Capture's part and playback's."""
    size = ring_bytes(channels)
    view = memoryview(memory)
    return view[:size], view[size : 2 * size]
