"""Pictures: what they show and that they appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamdac.errors import OutputError
from streamdac.frontends.plots import _decibels, spectrograms

from .models import RATE

TONE = 0.5 * np.sin(2 * np.pi * 3_000 * np.arange(RATE) / RATE).astype(np.float32)


def test_a_tone_is_a_line_at_its_pitch_and_level() -> None:
    shown = _decibels(TONE)
    middle = shown[:, shown.shape[1] // 2]
    assert np.argmax(middle) == 3_000 * 512 // RATE
    assert middle.max() == pytest.approx(20 * np.log10(0.25), abs=0.1)  # a sine's power lies half at -f
    assert np.median(middle) < -100


def test_a_picture_is_a_png_and_replaces_another_only_when_forced(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "deep" / "a.png"
    spectrograms(target, TONE, TONE[:100], RATE, title="a\ntone")
    assert target.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(OutputError, match="is there already"):
        spectrograms(target, TONE, TONE, RATE, title="again")
    spectrograms(target, TONE, TONE, RATE, title="again", force=True)
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]
