"""Where models are: the one that ships, and official ones in the user's cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..config import DEFAULT, PRESETS
from ..errors import NoInputError, UnavailableError, UsageError

EMBEDDED = Path(__file__).parent / f"{DEFAULT}.safetensors"

# preset -> (model type, bitrate, release tag) as the official download names them
OFFICIAL = {
    "dac-44khz": ("44khz", "8kbps", "0.0.1"),
    "dac-44khz-16kbps": ("44khz", "16kbps", "1.0.0"),
    "dac-24khz": ("24khz", "8kbps", "0.0.4"),
    "dac-16khz": ("16khz", "8kbps", "0.0.5"),
}


DEFAULT_OFFICIAL = "dac-44khz"
LATEST = "latest"
_RELEASES = "https://github.com/descriptinc/descript-audio-codec/releases/download"
_ASSETS = {
    "dac-44khz": "weights.pth",
    "dac-44khz-16kbps": "weights_44khz_16kbps.pth",
    "dac-24khz": "weights_24khz.pth",
    "dac-16khz": "weights_16khz.pth",
}


def official_name(model_type: str, bitrate: str) -> str:
    """The preset of the official model of that type and bitrate.

    Raises:
        UsageError: there is none.
    """
    for name, (kind, rate, _) in OFFICIAL.items():
        if (kind, rate) == (model_type, bitrate):
            return name
    known = ", ".join(f"{kind} {rate}" for kind, rate, _ in OFFICIAL.values())
    raise UsageError(f"no official model {model_type} {bitrate}; there are {known}")


def official_path(name: str, tag: str = LATEST) -> Path:
    """Where the official model of that name and release tag is cached.

    Raises:
        UsageError: the tag could not be one.
    """
    kind, bitrate, latest = OFFICIAL[name]
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.-]{0,30}", tag):
        raise UsageError(f"model tag {tag!r} is none; the latest of {name} is {latest}")
    return cache_path(kind, bitrate, latest if tag == LATEST else tag)


def official_url(name: str, tag: str = LATEST) -> str:
    """Where to fetch it; STREAMDAC_DOWNLOAD_URL names a mirror of the official releases."""
    base = os.environ.get("STREAMDAC_DOWNLOAD_URL", _RELEASES).rstrip("/")
    return f"{base}/{OFFICIAL[name][2] if tag == LATEST else tag}/{_ASSETS[name]}"


def downloaded(name: str, tag: str = LATEST) -> Path:
    """The cached file of an official model.

    Raises:
        UnavailableError: it is not downloaded.
    """
    path = official_path(name, tag)
    if not path.is_file():
        kind, bitrate, _ = OFFICIAL[name]
        wanted = "" if tag == LATEST else f" --model_tag {tag}"
        raise UnavailableError(
            f"{name} is not downloaded: streamdac download --model_type {kind} --model_bitrate {bitrate}{wanted} "
            f"(looked for {path})"
        )
    return path


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
        return downloaded(str(model))
    if not Path(model).exists():
        raise NoInputError(f"no model {str(model)!r}: neither a file nor one of {', '.join(PRESETS)}")
    return Path(model)
