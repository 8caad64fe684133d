"""Sound devices by PortAudio: `mic:` and `speaker:`, and the command `streamdac devices`.

`mic:` and `speaker:` mean the default devices; `mic:2` or `mic:USB` one by its number or a part of its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdac.frontend import Frontend, LazyCommand

if TYPE_CHECKING:
    from streamdac.frontend import Sink, Source


def open_source(rest: str, *, sample_rate: int | None = None, channels: int | None = None) -> Source:
    """A microphone, at the rate asked for where the device takes it."""
    from .device_ends import Microphone

    return Microphone(rest, sample_rate=sample_rate or 24_000, channels=channels or 1)


def open_sink(rest: str, *, sample_rate: int, channels: int, force: bool = False) -> Sink:
    """A loudspeaker; another rate is converted."""
    from .device_ends import Loudspeaker

    return Loudspeaker(rest, sample_rate=sample_rate, channels=channels)


microphone = Frontend(
    commands={"devices": LazyCommand("streamdac.frontends.device_list:devices", "Sound devices, numbered.")},
    open_source=open_source,
)
loudspeaker = Frontend(open_sink=open_sink)
