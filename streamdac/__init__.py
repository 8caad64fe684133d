"""The Descript Audio Codec, streamed frame by frame.

    codec = streamdac.load()
    codes = codec.encode(audio)
    audio = codec.decode(codes)

Importing this loads no torch; the first use of a name does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import StreamdacError

if TYPE_CHECKING:
    from .codec import Codec, load
    from .streaming import StreamDecoder, StreamEncoder

__all__ = ["Codec", "StreamDecoder", "StreamEncoder", "StreamdacError", "__version__", "load"]

_LAZY = {"Codec": "codec", "load": "codec", "StreamDecoder": "streaming", "StreamEncoder": "streaming"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
