"""`streamdac live`: source -> encoder -> packets -> decoder -> sink, paced hop by hop."""

from __future__ import annotations

from streamdac.frontend import Frontend, LazyCommand

frontend = Frontend(
    commands={
        "live": LazyCommand(
            "streamdac.frontends.live_command:live", "The codec in real time: microphone to loudspeaker."
        )
    }
)
