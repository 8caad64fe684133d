"""Plays packets through a jitter buffer, one pop a hop, for its tests."""

from __future__ import annotations

from streamdac.protocols.jitter import JitterBuffer, Kind, Slot
from streamdac.protocols.messages import Packet

from .streams import HOP, LAYOUT, packets

DELAY = 0.05  # s of the network


def buffer(*, min_delay=0.02, max_delay=1.0) -> JitterBuffer:
    return JitterBuffer(LAYOUT, frame_seconds=HOP, min_delay=min_delay, max_delay=max_delay)


def play(made: JitterBuffer, arrivals, *, until: float, start=0.0, mutes=(), end=None) -> list[Slot]:
    """Pop once a hop from `start` to `until`; `arrivals` are (time, packet), `mutes` (time, frame), `end` the same."""
    waiting = sorted(arrivals, key=lambda arrival: arrival[0])
    quiet = sorted(mutes)
    slots, hops = [], round((until - start) / HOP)
    for hop in range(hops):
        now = start + hop * HOP + HOP / 2
        while waiting and waiting[0][0] <= now:
            time, packet = waiting.pop(0)
            made.push(packet, time)
        while quiet and quiet[0][0] <= now:
            made.mute(quiet.pop(0)[1])
        if end is not None and end[0] <= now:
            made.end(end[1])
            end = None
        slots.append(made.pop(now))
    return slots


def sent(count, *, late=None, lost=(), delay=DELAY, **kwargs) -> list[tuple[float, Packet]]:
    """Arrivals of a stream sent in real time; `late` maps a packet's number to more delay."""
    made = packets(count, **kwargs)
    return [
        ((p.first_frame + p.frames) * HOP + delay + (late or {}).get(i, 0.0), p)
        for i, p in enumerate(made)
        if i not in lost
    ]


def kinds(slots, *, waiting=False) -> list[Kind]:
    return [slot.kind for slot in slots if waiting or slot.kind is not Kind.WAITING]


def frames(slots, *which: Kind) -> list[int]:
    return [slot.frame for slot in slots if slot.kind in (which or (Kind.PLAYED,))]
