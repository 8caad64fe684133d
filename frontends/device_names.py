"""Choosing a device by index or by a part of its name."""

from __future__ import annotations

from collections.abc import Sequence

from streamdac.errors import UnavailableError, UsageError

from .device_config import DeviceInfo

# What built-in sound chips call themselves; with both ends on one of these, the loudspeaker is heard by the microphone.
_BUILT_IN = ("built-in", "builtin", "internal", "macbook", "imac", "hda intel", "realtek", "alc", "array", "laptop")


def choose(rows: Sequence[DeviceInfo], wanted: str, direction: str) -> DeviceInfo:
    """The `direction` ("input" or "output") device that `wanted` names: an index, a part of `name, API`, or "" for the default.

    Raises:
        UnavailableError: there is none.
        UsageError: more than one fits, or the index is one of the other direction.
    """
    able = [row for row in rows if (row.inputs if direction == "input" else row.outputs) > 0]
    if not able:
        raise UnavailableError(
            f"no {direction} device: plug one in or start a sound server, then see `streamdac devices`"
        )
    if not wanted:
        defaults = [row for row in able if (row.default_input if direction == "input" else row.default_output)]
        return (defaults or able)[0]
    if wanted.isdecimal():
        found = [row for row in able if row.index == int(wanted)]
    else:
        found = [row for row in able if row.name == wanted]
        found = found or [row for row in able if full_name(row.name, row.api) == wanted]
        found = found or [row for row in able if wanted.casefold() in full_name(row.name, row.api).casefold()]
    if not found:
        there = ", ".join(f"{row.index} {row.name!r}" for row in able[:8])
        raise UnavailableError(f"no {direction} device {wanted!r}; there are {there} (see `streamdac devices`)")
    if len(found) > 1:
        there = ", ".join(f"{row.index} {row.name!r} of {row.api}" for row in found[:8])
        raise UsageError(f"{wanted!r} fits {len(found)} {direction} devices: {there}; name it by its number")
    return found[0]


def full_name(name: str | None, api: str) -> str:
    """What `choose` tells a device by from one of the same name in another sound system; "" for no device."""
    return f"{name}, {api}" if name else ""


def may_feed_back(source: str | None, target: str | None) -> bool:
    """Whether microphone and loudspeaker look like those of one case."""
    if source is None or target is None:
        return False
    return all(any(word in name.casefold() for word in _BUILT_IN) for name in (source, target))
