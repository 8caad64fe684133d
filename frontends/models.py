"""`streamdac download` and `convert`: official weights into the cache and into safetensors."""

from __future__ import annotations

from streamdac.frontend import Frontend, LazyCommand

frontend = Frontend(
    commands={
        "download": LazyCommand("streamdac.frontends.download:download", "Official weights into the user's cache."),
        "convert": LazyCommand("streamdac.frontends.convert_weights:convert", "Official weights to safetensors."),
    }
)
