"""Audio to official archives: resampled, brought to one loudness, limited, encoded; in constant memory.

Loudness needs the whole signal before the first code, so the source is read twice. Steps and their order are the
official ones; what differs is that, unless windows are asked for, a signal of any length is encoded in one piece.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import frontend
from .archive import RATES, Archive
from .arrays import Array
from .errors import UsageError
from .executor import Executor
from .levels import Progress, Rows, Signal, levelled, measure
from .loudness import MAX_CHANNELS
from .official import Engine, Windows, whole_frames, windows

NORMALIZE_DB = -16.0
BLOCK = 1 << 16  # samples read at once

Codes = npt.NDArray[np.uint16]  # [R, K, F]


def compress(
    engine: Engine,
    audio: Array,
    sample_rate: int,
    *,
    win_duration: float | None = None,
    n_codebooks: int | None = None,
    normalize_db: float | None = NORMALIZE_DB,
    progress: Progress | None = None,
) -> Archive:
    """Audio `[T]`, `[C, T]` or `[B, C, T]`, floating point in [-1, 1] at `sample_rate` Hz, as an official archive.

    Args:
        engine: the model.
        audio: numpy or torch.
        sample_rate: Hz.
        win_duration: seconds; gives the official archive code for code: windows of that length, or one piece where the
            signal is no longer (`math.inf`: always). None: one seamless piece, with a frame more where the official
            decoder would come out short and fail.
        n_codebooks: the first of the model's; all where None or more than there are.
        normalize_db: loudness to encode at, dB LUFS; None leaves the level as it is.
        progress: called now and then.

    Raises:
        UsageError: wrong shape, type or rate, more than 5 channels, no codebooks, or windows too short for the model.
        BadDataError: samples that are not finite.
    """
    rows = _rows(audio)
    batch, channels, samples = rows.shape
    flat = rows.reshape(batch * channels, samples)

    def open_rows() -> Iterator[Rows]:
        return (flat[:, start : start + BLOCK] for start in range(0, samples, BLOCK))

    signal = Signal(open_rows, _rate(sample_rate), channels, batch)
    return _compress(engine, signal, win_duration, n_codebooks, normalize_db, progress)


def compress_source(
    engine: Engine,
    open_source: Callable[[], frontend.Source],
    *,
    win_duration: float | None = None,
    n_codebooks: int | None = None,
    normalize_db: float | None = NORMALIZE_DB,
    progress: Progress | None = None,
) -> Archive:
    """As `compress`, in constant memory: `open_source` is called for each reading and must give the same samples each time.

    Raises:
        UsageError: see `compress`.
        BadDataError: the source cannot be read, is empty, or differs from one reading to the next.
    """
    source = open_source()
    sample_rate, channels = source.sample_rate, source.channels
    source.close()
    sample_rate = _rate(sample_rate)

    def open_rows() -> Iterator[Rows]:
        source = open_source()
        try:
            while (block := source.read(BLOCK)) is not None:
                yield np.ascontiguousarray(block.T)
        finally:
            source.close()

    return _compress(
        engine, Signal(open_rows, sample_rate, channels), win_duration, n_codebooks, normalize_db, progress
    )


def compress_file(
    engine: Engine,
    path: str | os.PathLike[str],
    *,
    win_duration: float | None = None,
    n_codebooks: int | None = None,
    normalize_db: float | None = NORMALIZE_DB,
    progress: Progress | None = None,
) -> Archive:
    """As `compress_source`, from an audio file of any format that the file frontend reads.

    Raises:
        NoInputError: no such file.
        BadDataError: not an audio file.
        UsageError: see `compress`.
    """
    opener = frontend.load("file").open_source
    assert opener is not None
    spec = os.path.abspath(path)  # so that no name means stdin
    return compress_source(
        engine,
        lambda: opener(spec),
        win_duration=win_duration,
        n_codebooks=n_codebooks,
        normalize_db=normalize_db,
        progress=progress,
    )


def _rows(audio: Array) -> Rows:
    """Audio of any kind and up to three axes as float32 `[B, C, T]`."""
    if isinstance(audio, Tensor):
        audio = (audio.float() if audio.is_floating_point() else audio).detach().cpu().numpy()  # numpy has no bfloat16
    array: npt.NDArray[Any] = np.asarray(audio)
    if array.dtype.kind != "f":
        raise UsageError(f"audio is {array.dtype}, need floating point in [-1, 1]")
    if not 1 <= array.ndim <= 3 or array.size == 0:
        raise UsageError(f"audio has shape {array.shape}, need [T], [C, T] or [B, C, T] with at least one sample")
    rows = np.ascontiguousarray(array, np.float32).reshape((1,) * (3 - array.ndim) + array.shape)
    return rows if rows.flags.writeable else rows.copy()  # torch warns of what it may not write


def _rate(sample_rate: int) -> int:
    """A rate in Hz that an archive can have, as a plain integer."""
    least, most = RATES
    try:
        rate = operator.index(sample_rate)
    except TypeError:
        rate = 0
    if not least <= rate <= most:
        raise UsageError(f"sample_rate is {sample_rate!r}, need an integer from {least} to {most} Hz")
    return rate


def _compress(
    engine: Engine,
    signal: Signal,
    win_duration: float | None,
    n_codebooks: int | None,
    normalize_db: float | None,
    progress: Progress | None,
) -> Archive:
    config = engine.config
    depth = _depth(n_codebooks, config.n_codebooks)
    if signal.channels > MAX_CHANNELS:
        raise UsageError(
            f"{signal.channels} channels: loudness, which archives need, is defined for up to {MAX_CHANNELS}"
        )
    if normalize_db is not None and not -100 <= normalize_db <= 0:
        raise UsageError(f"normalize_db is {normalize_db!r}, need -100 to 0 dB, or None")
    if win_duration is not None and not win_duration > 0:
        raise UsageError(f"win_duration is {win_duration!r}, need a number of seconds above 0")
    levels = measure(signal, config.sample_rate, normalize_db)
    blocks = levelled(signal, config.sample_rate, levels, progress)
    if whole := win_duration is None or levels.samples / config.sample_rate <= win_duration:
        official = -(-levels.samples // config.hop_length)
        frames = chunk = (
            official if win_duration is not None else whole_frames(config, levels.original, signal.sample_rate)
        )
        parts = list(_encode_whole(engine.padded, blocks, frames * config.hop_length, depth))
    else:
        assert win_duration is not None
        found = windows(config, win_duration)
        frames, chunk = found.count(levels.samples) * found.frames, found.frames
        parts = list(_encode_windows(engine.unpadded, blocks, found, found.count(levels.samples), depth))
    codes = np.concatenate(parts, axis=2)
    assert codes.shape == (signal.rows, depth, frames)
    return Archive(
        codes=codes,
        input_db=levels.input_db,
        original_length=levels.original,
        sample_rate=signal.sample_rate,
        chunk_length=chunk,
        channels=signal.channels,
        padding=whole,
    )


def _depth(n_codebooks: int | None, most: int) -> int:
    if n_codebooks is None:
        return most
    try:
        depth = 0 if isinstance(n_codebooks, bool) else operator.index(n_codebooks)
    except TypeError:
        depth = 0
    if depth < 1:
        raise UsageError(f"n_codebooks is {n_codebooks!r}, the model has 1 to {most}")
    return min(depth, most)  # the official tool takes more for all


def _encode_whole(executor: Executor, blocks: Iterator[Rows], samples: int, depth: int) -> Iterator[Codes]:
    """One stream, zero-padded on the right to `samples`."""
    state = None
    for x in blocks:
        state = state or executor.fresh_encoder(len(x))
        samples -= x.shape[1]
        yield _codes(executor.encode(state, _audio(executor, x), depth, last=False))
    assert state is not None
    rest = np.zeros((len(x), samples), np.float32)
    yield _codes(executor.encode(state, _audio(executor, rest), depth, last=True))


def _encode_windows(
    executor: Executor, blocks: Iterator[Rows], found: Windows, count: int, depth: int
) -> Iterator[Codes]:
    """Overlapping windows, each encoded on its own without padding; zeros before and after the signal."""
    buffer: Rows | None = None
    done = 0
    for x in blocks:
        buffer = np.concatenate([np.zeros((len(x), found.delay), np.float32) if buffer is None else buffer, x], axis=1)
        while done < count and buffer.shape[1] >= found.samples:
            yield _encode_window(executor, buffer[:, : found.samples], depth)
            buffer = buffer[:, found.step :]
            done += 1
    assert buffer is not None
    for _ in range(count - done):
        missing = max(0, found.samples - buffer.shape[1])
        buffer = np.pad(buffer, ((0, 0), (0, missing)))
        yield _encode_window(executor, buffer[:, : found.samples], depth)
        buffer = buffer[:, found.step :]


def _encode_window(executor: Executor, x: Rows, depth: int) -> Codes:
    state = executor.fresh_encoder(len(x))
    return _codes(executor.encode(state, _audio(executor, x), depth, last=True))


def _audio(executor: Executor, x: Rows) -> Tensor:
    """`[R, T]` -> `[R, T, 1]` on the executor's device."""
    return torch.from_numpy(np.ascontiguousarray(x))[:, :, None].to(executor.device)


def _codes(codes: Tensor) -> Codes:
    """`[R, F, K]` -> `[R, K, F]`."""
    return codes.cpu().numpy().astype(np.uint16).transpose(0, 2, 1)
