"""Neighbouring windows of an archive, cross-faded.

The official tool decodes each window without padding and joins the outputs hard. Their frames are not on one grid, so at a
join the quantisation changes from one sample to the next: a click. The padded network decodes the same codes to the same
samples (but within about a hop of the ends, where either lacks codes) and some more on either side; there two neighbours
overlap, and one fades into the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from .config import ModelConfig
from .levels import Rows
from .nn.layers import conv_geometry, transpose_geometry
from .nn.network import DILATIONS
from .official import Windows, decoded_samples


def stitched(chunks: Iterable[Iterable[Rows]], count: int, config: ModelConfig, found: Windows) -> Iterator[Rows]:
    """The signal, from `count` chunks that the padded network decoded, each in pieces `[R, T]`: `count * step` samples."""
    lead = unpadded_start(config)
    surplus = decoded_samples(config, found.frames) - lead - found.step
    # Half of a fade: up to half a hop, since each sample further out lacks more of the codes that the network would see.
    half = max(0, min(config.hop_length // 2, found.step // 2, lead, surplus))
    rising = (0.5 - 0.5 * np.cos(math.pi * (np.arange(2 * half) + 0.5) / max(1, 2 * half))).astype(np.float32)
    tail: Rows | None = None
    for index, pieces in enumerate(chunks):
        first, last = index == 0, index == count - 1
        start, end = lead - (0 if first else half), lead + found.step + (0 if last else half)
        kept = end - start - (0 if last else 2 * half)  # what follows waits for the next chunk
        held: list[Rows] = []
        position = 0
        for x in _between(pieces, start, end):
            if tail is not None:
                x = _faded(tail[:, position:], x, rising[position:])
            now = min(max(0, kept - position), x.shape[1])
            yield x[:, :now]
            held.append(x[:, now:])
            position += x.shape[1]
        tail = np.concatenate(held, axis=1)


def unpadded_start(config: ModelConfig) -> int:
    """Where, in the output of the padded decoder, that of the unpadded one begins; samples."""

    def left(kernel: int, dilation: int = 1) -> int:
        return conv_geometry(kernel, dilation=dilation, causal=config.causal).left

    position = left(7)
    for rate in config.decoder_rates:
        position = position * rate - transpose_geometry(rate, causal=config.causal).trim_left
        position += sum(left(7, dilation) for dilation in DILATIONS)
    return position + left(7)


def _faded(before: Rows, after: Rows, rising: Rows) -> Rows:
    """`after`, its beginning mixed with `before` by the weights `rising`."""
    samples = min(before.shape[1], after.shape[1])
    weights = rising[:samples]
    mixed = before[:, :samples] * (1 - weights) + after[:, :samples] * weights
    return np.concatenate([mixed, after[:, samples:]], axis=1)


def _between(pieces: Iterable[Rows], start: int, end: int) -> Iterator[Rows]:
    """Samples `start` to `end` of a signal in pieces."""
    position = 0
    for x in pieces:
        yield x[:, max(0, start - position) : max(0, end - position)]
        position += x.shape[1]
