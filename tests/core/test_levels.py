"""The first pass over a signal: what is no audio is refused there, before anything is encoded."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from streamdac.errors import BadDataError
from streamdac.levels import Levels, Rows, Signal, measure

RATE = 24_000


def levels(*blocks: Rows, normalize_db: float | None = -24.0) -> Levels:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return measure(Signal(lambda: iter(blocks), RATE, 1), RATE, normalize_db)


def noise(scale: float) -> Rows:
    audio = np.random.default_rng(0).uniform(-scale, scale, (1, 2 * RATE))
    return audio.astype(np.float32)


def spike(value: float) -> Rows:
    audio = noise(0.1)
    audio[0, RATE // 2] = value
    return audio


@pytest.mark.parametrize("normalize_db", [-24.0, None])
@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (spike(1e30), r"samples up to 1e\+30 \(inf dB LUFS\), need about -1 to 1"),
        (spike(-3e38), r"samples up to 3e\+38 \(inf dB LUFS\), need"),
        (spike(1e15), r"samples up to 1e\+15 \(2..\.. dB LUFS\), need"),
        (noise(2.0**31), r"samples up to 2\.15e\+09 \(18.\.. dB LUFS\), need"),
    ],
)
def test_what_is_far_too_loud_is_refused_with_its_numbers(audio: Rows, said: str, normalize_db: float | None) -> None:
    with pytest.raises(BadDataError, match=said):
        levels(noise(0.1), audio, noise(0.1), normalize_db=normalize_db)


def test_audio_at_the_scale_of_16_bits_is_taken() -> None:
    found = levels(noise(32_768.0))
    assert float((found.gains * 10 ** (found.input_db / 20))[0, 0]) == pytest.approx(10 ** (-24 / 20))


def test_no_audio_is_said_to_be_none() -> None:
    with pytest.raises(BadDataError, match="holds no audio: 0 samples"):
        levels()
