"""Where models are: the one that ships, and official ones in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from ..config import DEFAULT, PRESETS
from ..errors import NoInputError, UnavailableError

EMBEDDED = Path(__file__).parent / f"{DEFAULT}.safetensors"

# preset -> (model type, bitrate, release tag) as the official download names them
OFFICIAL = {
    "dac-44khz": ("44khz", "8kbps", "0.0.1"),
    "dac-44khz-16kbps": ("44khz", "16kbps", "1.0.0"),
    "dac-24khz": ("24khz", "8kbps", "0.0.4"),
    "dac-16khz": ("16khz", "8kbps", "0.0.5"),
}


def cache_path(model_type: str, bitrate: str, tag: str) -> Path:
    """Where the official tool caches these weights, and so do we."""
    return Path.home() / ".cache" / "descript" / "dac" / f"weights_{model_type}_{bitrate}_{tag}.pth"


def find_model(model: str | Path | None) -> Path:
    """The weights file that `model` names: None (the embedded one), a preset's name, or a path.

    Raises:
        UnavailableError: an official model that is not downloaded.
        NoInputError: no such file or name.
    """
    if model is None or str(model) == DEFAULT:
        override = os.environ.get("STREAMDAC_MODEL")
        return Path(override) if override else EMBEDDED
    if str(model) in OFFICIAL and not Path(model).exists():
        path = cache_path(*OFFICIAL[str(model)])
        if not path.is_file():
            kind, bitrate, _ = OFFICIAL[str(model)]
            raise UnavailableError(
                f"{model} is not downloaded: streamdac download --model_type {kind} --model_bitrate {bitrate} (looked for {path})"
            )
        return path
    if not Path(model).exists():
        raise NoInputError(f"no model {str(model)!r}: neither a file nor one of {', '.join(PRESETS)}")
    return Path(model)
