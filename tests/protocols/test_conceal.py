"""Concealment: repeat, fade, silence, and the count of it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.config import LOST
from streamdac.errors import UsageError
from streamdac.protocols.conceal import ConcealCounts, Concealer

from .streams import LAYOUT, codes

FRAME = codes(1)[:, :, 0]
SILENCE = np.full((2, 1), 7)


def test_a_gap_repeats_then_fades_then_is_silent() -> None:
    made = Concealer(LAYOUT, silence=SILENCE)
    made.played(FRAME)
    patches = [made.patch() for _ in range(12)]
    assert [patch.gain for patch in patches] == pytest.approx([1] * 3 + [n / 7 for n in range(6, 0, -1)] + [0] * 3)
    assert all(patch.codes is FRAME for patch in patches[:9])
    assert all(patch.codes is SILENCE for patch in patches[9:])
    assert made.counts == ConcealCounts(repeated=3, faded=6, silent=3, runs=1, longest=12)


def test_a_model_that_foretells_is_told_what_was_lost() -> None:
    made = Concealer(LAYOUT, silence=SILENCE, foretells=True)
    made.played(FRAME)
    patches = [made.patch() for _ in range(10)]
    assert all(patch.codes.shape[1] == FRAME.shape[1] for patch in patches)
    assert all((patch.codes == LOST).all() for patch in patches[:9])
    assert patches[9].codes is SILENCE


def test_a_frame_that_comes_starts_the_next_gap_afresh() -> None:
    made = Concealer(LAYOUT)
    made.played(FRAME)
    made.patch()
    made.played(FRAME + 0)
    assert made.patch().gain == 1
    made.patch()
    assert made.counts == ConcealCounts(repeated=3, runs=2, longest=2)


def test_before_the_first_frame_there_is_silence() -> None:
    assert Concealer(LAYOUT, silence=SILENCE).patch().codes is SILENCE
    patch = Concealer(LAYOUT).patch()
    assert (patch.gain, patch.codes.shape) == (0, (1, 1))


def test_silence_that_is_meant_is_not_counted_and_a_gap_after_it_stays_silent() -> None:
    made = Concealer(LAYOUT, silence=SILENCE)
    made.played(FRAME)
    assert (made.silence().gain, made.counts) == (0, ConcealCounts())
    patch = made.patch()
    assert patch.gain == 0
    assert patch.codes is SILENCE


def test_silence_may_have_fewer_codebooks_than_the_stream() -> None:
    assert Concealer(LAYOUT, silence=SILENCE[:1]).silence().codes.shape == (1, 1)


def test_without_codes_of_silence_the_last_ones_go_on_unheard() -> None:
    made = Concealer(LAYOUT, repeat_frames=0, fade_frames=0)
    made.played(FRAME)
    for patch in (made.patch(), made.silence()):
        assert patch.gain == 0
        assert patch.codes is FRAME


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=60), st.integers(0, 4), st.integers(0, 6))
def test_gains_only_fall_within_a_gap_and_all_is_counted(comes, repeat, fade) -> None:
    made = Concealer(LAYOUT, repeat_frames=repeat, fade_frames=fade)
    made.played(FRAME)
    gains = [1.0]
    for came in comes:
        if came:
            made.played(FRAME)
        gain = 1.0 if came else made.patch().gain
        assert came or 0 <= gain <= gains[-1]
        assert came or gain == 1 or gains[-1] - gain <= 1 / (fade + 1) + 1e-9
        gains.append(gain)
    counts = made.counts
    assert counts.repeated + counts.faded + counts.silent == comes.count(False)
    runs = "".join("1" if came else "0" for came in comes).split("1")
    assert counts.longest == max(len(run) for run in runs)
    assert counts.runs == sum(bool(run) for run in runs)


@pytest.mark.parametrize("shape", [(4,), (0, 1), (5, 1), (2, 2)])
def test_silence_of_another_shape_is_a_mistake(shape) -> None:
    with pytest.raises(UsageError, match=r"got silence of shape .* need \[1 to 4 codebooks, 1 channels\]"):
        Concealer(LAYOUT, silence=np.zeros(shape, dtype=np.int64))


@pytest.mark.parametrize(("repeat", "fade"), [(-1, 0), (0, -1)])
def test_negative_counts_are_a_mistake(repeat, fade) -> None:
    with pytest.raises(UsageError, match=f"got {repeat} frames to repeat and {fade} to fade"):
        Concealer(LAYOUT, repeat_frames=repeat, fade_frames=fade)
