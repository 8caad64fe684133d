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
    from .archive import Archive
    from .codec import Codec, load, load_network
    from .peers import connect
    from .streaming import StreamDecoder, StreamEncoder

__all__ = [
    "Archive",
    "Codec",
    "StreamDecoder",
    "StreamEncoder",
    "StreamdacError",
    "__version__",
    "connect",
    "load",
    "load_network",
]

_LAZY = {
    "Archive": "archive",
    "Codec": "codec",
    "StreamDecoder": "streaming",
    "StreamEncoder": "streaming",
    "connect": "peers",
    "load": "codec",
    "load_network": "codec",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
