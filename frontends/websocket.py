"""`streamdac serve`, `call`, `send`, `listen`: audio between peers over websockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamdac.frontend import Frontend, LazyCommand

if TYPE_CHECKING:
    from streamdac.peers import PeerOptions

    from .ws_api import Connection


def connect(url: str, options: PeerOptions) -> Connection:
    """See `streamdac.connect`."""
    from . import ws_api

    return ws_api.connect(url, options)


frontend = Frontend(
    commands={
        "serve": LazyCommand("streamdac.frontends.ws_serve:serve", "Let peers talk: a relay of rooms over websockets."),
        "call": LazyCommand("streamdac.frontends.ws_call:call", "Talk and listen in a room of a server."),
        "send": LazyCommand("streamdac.frontends.ws_call:send", "Send audio to a room of a server."),
        "listen": LazyCommand("streamdac.frontends.ws_call:listen", "Hear what is said in a room of a server."),
    },
    connectors={"ws": connect, "wss": connect},
)
