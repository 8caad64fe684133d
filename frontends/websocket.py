"""`streamdac serve`, `call`, `send`, `listen`: audio between peers over websockets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamdac.frontend import Frontend, LazyCommand

if TYPE_CHECKING:
    from streamdac.codec import Codec

    from .ws_api import Connection


def connect(
    url: str,
    *,
    model: Codec | str | None = None,
    room: str | None = None,
    token: str | None = None,
    tls_ca: Path | None = None,
    role: str = "both",
    channels: int = 1,
    codebooks: int | None = None,
    frames_per_packet: int = 1,
    redundancy_frames: int = 0,
    adapt: bool = True,
    exact: bool = False,
    correct_drift: bool = True,
    delay: float = 0.02,
    retry_seconds: float = 60.0,
) -> Connection:
    """See `streamdac.connect`."""
    from . import ws_api

    return ws_api.connect(
        url,
        model=model,
        room=room,
        token=token,
        tls_ca=tls_ca,
        role=role,
        channels=channels,
        codebooks=codebooks,
        frames_per_packet=frames_per_packet,
        redundancy_frames=redundancy_frames,
        adapt=adapt,
        exact=exact,
        correct_drift=correct_drift,
        delay=delay,
        retry_seconds=retry_seconds,
    )


frontend = Frontend(
    commands={
        "serve": LazyCommand("streamdac.frontends.ws_serve:serve", "Let peers talk: a relay of rooms over websockets."),
        "call": LazyCommand("streamdac.frontends.ws_call:call", "Talk and listen in a room of a server."),
        "send": LazyCommand("streamdac.frontends.ws_call:send", "Send audio to a room of a server."),
        "listen": LazyCommand("streamdac.frontends.ws_call:listen", "Hear what is said in a room of a server."),
    },
    connectors={"ws": connect, "wss": connect},
)
