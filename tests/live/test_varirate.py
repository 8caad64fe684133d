from __future__ import annotations

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.errors import UsageError
from streamdac.frontends.varirate import LiveConverter, VariableResampler

RATES = [(48_000, 24_000), (24_000, 48_000), (44_100, 24_000), (24_000, 44_100), (16_000, 24_000), (24_000, 24_000)]


def tone(hertz: float, rate: int, samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(samples) / rate).astype(np.float32)[:, None]


def in_hops(resampler: VariableResampler, audio: np.ndarray, rate: int) -> tuple[np.ndarray, float]:
    """The whole output, and the most seconds that a sample waited in it."""
    parts, given, held, ratio = [], 0, 0.0, 0.0
    hop = rate // 75
    for first in range(0, len(audio) - hop, hop):
        out = resampler.push(audio[first : first + hop])
        given += len(out)
        ratio = resampler.position
        held = max(held, (first + hop - ratio) / rate)
        parts.append(out)
    return np.concatenate(parts), held


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
def test_a_tone_comes_out_as_itself_within_a_millisecond_and_a_half(rate_in: int, rate_out: int) -> None:
    hertz = 0.8 * min(rate_in, rate_out) / 2
    out, held = in_hops(VariableResampler(rate_in, rate_out, 1), tone(hertz, rate_in, rate_in), rate_in)
    wanted = tone(hertz, rate_out, len(out))
    error = (out - wanted)[200:]
    assert 10 * np.log10(np.mean(error**2) / 0.5) < -80
    assert 1000 * held <= 32 / min(rate_in, rate_out) * 1000 + 0.1
    assert 1000 * held < 2.1


def test_what_the_lower_rate_cannot_hold_is_gone() -> None:
    for hertz in (12_700, 15_000, 20_000):
        out, _ = in_hops(VariableResampler(48_000, 24_000, 1), tone(hertz, 48_000, 48_000), 48_000)
        assert 20 * np.log10(np.abs(out[200:]).max()) < -80


def test_soxr_holds_back_more_or_lets_aliases_through() -> None:
    """Why there is a resampler of our own."""
    held = {}
    for quality in ("QQ", "LQ", "MQ", "HQ"):
        stream = soxr.ResampleStream(48_000, 24_000, 1, quality=quality)
        given, most = 0, 0.0
        for hop in range(75):
            given += len(stream.resample_chunk(np.zeros((640, 1), np.float32)))
            most = max(most, (hop + 1) / 75 - given / 24_000)
        held[quality] = 1000 * most
    assert min(held["LQ"], held["MQ"], held["HQ"]) > 5
    aliased = soxr.resample(tone(15_000, 48_000, 48_000), 48_000, 24_000, quality="QQ")
    assert np.abs(aliased).max() > 0.5


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 700), min_size=1, max_size=30), st.sampled_from(RATES), st.integers(1, 2))
def test_any_blocks_give_the_same(blocks: list[int], rates: tuple[int, int], channels: int) -> None:
    audio = np.random.default_rng(0).standard_normal((sum(blocks), channels)).astype(np.float32)
    whole = VariableResampler(*rates, channels).push(audio)
    resampler, parts, at = VariableResampler(*rates, channels), [np.zeros((0, channels), np.float32)], 0
    for samples in blocks:
        parts.append(resampler.push(audio[at : at + samples]))
        at += samples
    pieces = np.concatenate(parts)
    assert len(pieces) == len(whole)
    assert np.allclose(pieces, whole, atol=1e-5)


@pytest.mark.parametrize("speed", [0.99, 0.9997, 1.0003, 1.01])
def test_speed_changes_length_and_pitch_and_nothing_else(speed: float) -> None:
    resampler = VariableResampler(24_000, 24_000, 1)
    resampler.speed = speed
    out, _ = in_hops(resampler, tone(1000, 24_000, 48_000), 24_000)
    assert len(out) == pytest.approx(resampler.position / speed, abs=1)
    error = (out - tone(1000 * speed, 24_000, len(out)))[100:]
    assert 10 * np.log10(np.mean(error**2) / 0.5) < -70


@pytest.mark.parametrize(("rate_in", "rate_out"), RATES)
@pytest.mark.parametrize("samples", [0, 1, 31, 5000])
def test_a_converted_stream_has_its_length(rate_in: int, rate_out: int, samples: int) -> None:
    converter = LiveConverter(rate_in, rate_out, 1)
    out = np.concatenate([converter.push(tone(100, rate_in, samples)), converter.flush()])
    assert len(out) == -(-samples * rate_out // rate_in)


@pytest.mark.parametrize("rates", [(1, 24_000), (24_000, 1), (2_000_000_000, 24_000), (24_000, 999), (768_000, 11_999)])
def test_what_no_audio_needs_is_refused_with_the_numbers(rates: tuple[int, int]) -> None:
    """The filters would take gigabytes."""
    with pytest.raises(UsageError, match=f"cannot convert {rates[0]} Hz to {rates[1]} Hz: need 1000 to 768000 Hz"):
        VariableResampler(*rates, 1)
