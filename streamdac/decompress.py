"""Official archives to audio: decoded, brought back to the source's loudness, rate and length; in constant memory.

Loudness is known only once everything is decoded, and decoding costs far more than a disk: decoded samples wait in a
temporary file.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from .archive import Archive
from .compress import BLOCK
from .errors import UsageError
from .executor import Executor
from .levels import Progress, Rows, gain_between
from .loudness import LoudnessMeter
from .official import Engine, check_archive, windows_of_frames
from .resample import Resampler
from .stitch import stitched

if TYPE_CHECKING:
    from .frontend import Block

_FRAMES = 128  # decoded at once
_IN_MEMORY = 1 << 25  # bytes of decoded audio that are kept off the disk


def decompress(engine: Engine, archive: Archive, *, official_stereo: bool = False, seamless: bool = False) -> Rows:
    """The audio in an archive, float32 `[B, C, T]` at `archive.sample_rate`, T its `original_length`.

    Args:
        engine: the model that made it.
        archive: whole or in windows.
        official_stereo: bring each channel by itself to the loudness of the whole source, as the official tool does,
            which makes all channels equally loud; by default they keep their balance.
        seamless: cross-fade neighbouring windows where the official tool joins them hard.

    Raises:
        ModelMismatchError: another model made it.
    """
    rows = np.concatenate(list(_levelled(engine, archive, official_stereo, seamless, None, None)), axis=1)
    return rows.reshape(archive.batch, archive.channels, archive.original_length)


def decoded_blocks(
    engine: Engine,
    archive: Archive,
    *,
    official_stereo: bool = False,
    seamless: bool = False,
    progress: Progress | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> Iterator[Block]:
    """As `decompress`, in blocks `[T, C]` and constant memory.

    Args:
        engine: see `decompress`.
        archive: of one signal.
        official_stereo: see `decompress`.
        seamless: see `decompress`.
        progress: called now and then.
        folder: for the temporary file; the system's own where None.

    Raises:
        UsageError: the archive holds more than one signal.
        ModelMismatchError: another model made it.
    """
    if archive.batch != 1:
        raise UsageError(f"the archive holds {archive.batch} signals, an audio file holds one")
    for x in _levelled(engine, archive, official_stereo, seamless, progress, folder):
        yield np.ascontiguousarray(x.T)


def _levelled(
    engine: Engine,
    archive: Archive,
    official_stereo: bool,
    seamless: bool,
    progress: Progress | None,
    folder: str | os.PathLike[str] | None,
) -> Iterator[Rows]:
    """Rows at the source's rate, loudness and length."""
    check_archive(archive, engine.config)
    rows, rate = archive.codes.shape[0], engine.config.sample_rate
    together = 1 if official_stereo else archive.channels
    meters = [LoudnessMeter(rate, together) for _ in range(rows // together)]
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY, dir=None if folder is None else os.fspath(folder)) as spool:
        for x in _decoded(engine, archive, seamless, progress):
            for meter, part in zip(meters, x.reshape(len(meters), together, -1), strict=True):
                meter.push(part)
            spool.write(np.ascontiguousarray(x.T).tobytes())
        found = np.array([meter.finish() for meter in meters], np.float32)
        gains = gain_between(found, np.repeat(archive.input_db, len(meters) // archive.batch))
        gains = np.repeat(gains, together)[:, None]
        spool.seek(0)
        left = archive.original_length
        for x in _resampled(spool, Resampler(rate, archive.sample_rate, rows), gains):
            yield x[:, :left]
            left -= min(left, x.shape[1])
        # An official decoder of odd stride, or two roundings of the length, come out short.
        yield np.zeros((rows, left), np.float32)


def _resampled(spool: tempfile.SpooledTemporaryFile[bytes], resampler: Resampler, gains: Rows) -> Iterator[Rows]:
    rows = len(gains)
    while data := spool.read(BLOCK * rows * 4):
        x = np.ascontiguousarray(np.frombuffer(data, np.float32).reshape(-1, rows).T) * gains
        yield resampler.push(torch.from_numpy(x)).numpy()
    yield resampler.flush().numpy()


def _decoded(engine: Engine, archive: Archive, seamless: bool, progress: Progress | None) -> Iterator[Rows]:
    """Rows at the model's rate."""
    chunk, frames = archive.chunk_length, archive.frames
    found = None if archive.padding else windows_of_frames(engine.config, chunk)
    seams = seamless and found is not None and frames > chunk
    executor = engine.padded if archive.padding or seams else engine.unpadded
    chunks = (_decode(executor, archive.codes[:, :, start : start + chunk]) for start in range(0, frames, chunk))
    pieces = (
        stitched(chunks, frames // chunk, engine.config, found)
        if seams and found
        else (x for part in chunks for x in part)
    )
    expected = frames * (engine.config.hop_length if found is None else found.step / found.frames)
    done = 0
    for x in pieces:
        done += x.shape[1]
        if progress is not None:
            progress(min(1.0, done / expected))
        yield x


def _decode(executor: Executor, codes: npt.NDArray[np.uint16]) -> Iterator[Rows]:
    """One chunk `[R, K, F]`, a stream of its own."""
    state = executor.fresh_decoder(len(codes))
    frames = codes.shape[2]
    for start in range(0, frames, _FRAMES):
        part = codes[:, :, start : start + _FRAMES].astype(np.int64).transpose(0, 2, 1)
        x = torch.from_numpy(np.ascontiguousarray(part)).to(executor.device)
        yield executor.decode(state, x, last=start + _FRAMES >= frames)[:, :, 0].cpu().numpy()
