"""What the reader of a stream gives, what it refuses, and the limits it shares with the writer."""

from dataclasses import dataclass

from ..errors import BadDataError
from .bitpack import CodeArray
from .messages import Header

HEADER_SECONDS = 10  # a header is repeated this often, so that a reader can join
MAX_GAP_SECONDS = 600  # the longest gap that a reader conceals; a packet further ahead is taken for damage


class NotAStreamError(BadDataError):
    """The data does not begin with the magic of a stream."""


class NoHeaderError(BadDataError):
    """The stream has no readable header, so its codes have no meaning."""


@dataclass(frozen=True, slots=True)
class HeaderEvent:
    """The stream's header; the first event but for damage before it, and given once."""

    header: Header


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Codes `[K, C, F]` of the frames from `first_frame` on."""

    first_frame: int
    codes: CodeArray


@dataclass(frozen=True, slots=True)
class Gap:
    """Frames that are lost: conceal so many, so that time stays right."""

    first_frame: int
    frames: int
    reason: str


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes from `offset` on could not be read; once for each run of them."""

    offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The last frame was given. `complete` is False when the stream was cut; its sample count is then unknown."""

    samples: int | None  # of the source, at its own rate, per channel
    complete: bool
    frames: int  # of the whole stream, gaps included


Event = HeaderEvent | Codes | Gap | Damage | Ended


def frames_in(header: Header, seconds: int) -> int:
    """Frames in so many seconds, at least 1."""
    return max(1, seconds * header.sample_rate // header.hop_length)


def max_samples(header: Header, frames: int) -> int:
    """The most source samples that so many frames can come from: a hop more for a resampler's rounding."""
    return (frames + 1) * header.hop_length * header.source_rate // header.sample_rate + 1
