"""Windows cross-faded: the official decoder's audio but at the joins, where nothing jumps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamdac.archive import Archive
from streamdac.codec import Codec
from streamdac.official import Windows, windows
from streamdac.stitch import stitched, unpadded_start
from tests.golden.cases import Golden

from .models import codec, models

Rows = npt.NDArray[np.float32]  # [R, T]
TOLERANCE = 5e-5


def audio(samples: int, rate: int) -> Rows:
    t = np.arange(samples) / rate
    return (0.2 * np.sin(2 * np.pi * 220 * t) + 0.1 * np.sin(2 * np.pi * 1_370 * t)).astype(np.float32)


def windowed(found: Codec, seconds: float = 1.5) -> tuple[Archive, Windows]:
    """An archive of three windows."""
    how = windows(found.config, seconds)
    archive = found.compress(audio(3 * how.step - 1_000, found.sample_rate), win_duration=seconds)
    assert archive.frames == 3 * how.frames
    return archive, how


def chunks(found: Codec, archive: Archive, *, padded: bool) -> list[Rows]:
    executor = found.archive_engine.padded if padded else found.archive_engine.unpadded
    out = []
    for start in range(0, archive.frames, archive.chunk_length):
        codes = archive.codes[:, :, start : start + archive.chunk_length].astype(np.int64).transpose(0, 2, 1)
        part = torch.from_numpy(np.ascontiguousarray(codes))
        out.append(executor.decode(executor.fresh_decoder(1), part, last=True)[:, :, 0].numpy())
    return out


@pytest.mark.parametrize(("golden", "model"), models())
def test_between_the_joins_it_is_the_official_audio(golden: Golden, model: str) -> None:
    found = codec(golden, model, "torch")
    archive, how = windowed(found)
    hard = np.concatenate(chunks(found, archive, padded=False), axis=1)
    pieces = [np.array_split(part, 7, axis=1) for part in chunks(found, archive, padded=True)]
    soft = np.concatenate(list(stitched(pieces, 3, found.config, how)), axis=1)
    assert soft.shape == hard.shape == (1, 3 * how.step)
    near = 2 * found.hop_length  # where either network lacks codes
    away = np.ones(3 * how.step, bool)
    for join in range(0, 4 * how.step, how.step):
        away[max(0, join - near) : join + near] = False
    np.testing.assert_allclose(soft[:, away], hard[:, away], rtol=0, atol=TOLERANCE)
    assert np.abs(soft[:, ~away] - hard[:, ~away]).max() > 1e-3


@pytest.mark.parametrize(("golden", "model"), models())
def test_join_begins_and_ends_in_the_neighbours(golden: Golden, model: str) -> None:
    """One fades into the other: at the edges of the fade there is one alone, in its middle half of each."""
    found = codec(golden, model, "torch")
    archive, how = windowed(found)
    parts = chunks(found, archive, padded=True)
    soft = np.concatenate(list(stitched([[part] for part in parts], 3, found.config, how)), axis=1)[0]
    lead, half, join = unpadded_start(found.config), found.hop_length // 2, how.step
    before = parts[0][0, lead + join - half : lead + join + half]
    after = parts[1][0, lead - half : lead + half]
    faded = soft[join - half : join + half]
    weights = 0.5 - 0.5 * np.cos(np.pi * (np.arange(2 * half) + 0.5) / (2 * half))
    np.testing.assert_allclose(faded, before * (1 - weights) + after * weights, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("golden", "model"), models())
def test_seamless_decoding_gives_length_and_loudness(golden: Golden, model: str) -> None:
    found = codec(golden, model, "auto")
    archive, _ = windowed(found)
    hard, soft = found.decompress(archive), found.decompress(archive, seamless=True)
    assert soft.shape == hard.shape == (1, 1, archive.original_length)
    assert not np.array_equal(soft, hard)
    rms = [float(np.sqrt(np.square(x).mean())) for x in (hard, soft)]
    assert rms[0] == pytest.approx(rms[1], rel=0.02)
    whole = found.compress(audio(9_000, found.sample_rate))
    np.testing.assert_array_equal(found.decompress(whole, seamless=True), found.decompress(whole))
