"""Sample-rate conversion of a stream: as many samples as the rates say, in place, however the input was cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.convert import Converter

RATES = st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 44_101])


def converted(audio: np.ndarray, rate_in: int, rate_out: int, sizes: list[int]) -> np.ndarray:
    converter = Converter(rate_in, rate_out, audio.shape[1])
    cuts = np.minimum(np.cumsum([0, *sizes]), len(audio))
    blocks = [converter.push(audio[start:end]) for start, end in zip(cuts, [*cuts[1:], len(audio)], strict=True)]
    blocks.append(converter.flush())
    assert converter.taken == len(audio)
    assert converter.given == sum(map(len, blocks))
    return np.concatenate(blocks)


@given(rate_in=RATES, rate_out=RATES, samples=st.integers(0, 3_000), sizes=st.lists(st.integers(0, 999), max_size=12))
@settings(max_examples=60, deadline=None)
def test_length_follows_the_rates_and_cuts_make_no_difference(
    rate_in: int, rate_out: int, samples: int, sizes: list[int]
) -> None:
    audio = np.random.default_rng(samples).uniform(-1, 1, (samples, 2)).astype(np.float32)
    whole = converted(audio, rate_in, rate_out, [])
    assert whole.shape == (-(-samples * rate_out // rate_in), 2)
    np.testing.assert_allclose(converted(audio, rate_in, rate_out, sizes), whole, atol=1e-5)
    if rate_in == rate_out:
        np.testing.assert_array_equal(whole, audio)


@pytest.mark.parametrize(
    ("rate_in", "rate_out"), [(44_100, 24_000), (24_000, 44_100), (8_000, 48_000), (48_000, 24_000)]
)
def test_a_sine_stays_the_sine_that_it_was(rate_in: int, rate_out: int) -> None:
    """Neither delayed nor louder: 440 Hz in the middle of a second, against the formula."""

    def sine(rate: int) -> np.ndarray:
        return 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate)[:, None] / rate).astype(np.float32)

    found = converted(sine(rate_in), rate_in, rate_out, [1_000] * 40)
    middle = slice(rate_out // 4, -rate_out // 4)
    np.testing.assert_allclose(found[middle], sine(rate_out)[middle], atol=1e-4)
