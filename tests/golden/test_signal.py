"""Loudness and resampling."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamdac.loudness import LoudnessMeter
from streamdac.rates import resampled_samples
from streamdac.resample import Resampler

from .cases import SETS, Golden, cases

Rows = npt.NDArray[np.float32]


def loudness(x: Rows, rate: int, cuts: tuple[int, ...] = ()) -> float:
    meter = LoudnessMeter(rate, len(x))
    for part in np.split(x, cuts, axis=1):
        meter.push(part)
    return meter.finish()


def resample(x: Rows, old: int, new: int, cuts: tuple[int, ...] = ()) -> Rows:
    resampler = Resampler(old, new, len(x))
    parts = [resampler.push(torch.from_numpy(part)) for part in np.split(x, cuts, axis=1)]
    y: Rows = torch.cat([*parts, resampler.flush()], dim=1).numpy()
    return y


def loudness_by_clip() -> list[Any]:
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for golden in SETS:
        for case in golden.index["loudness"]:
            grouped[golden.name, case["clip"]].append(case)
    sets = {golden.name: golden for golden in SETS}
    return [pytest.param(sets[name], clip, group, id=f"{name}-{clip}") for (name, clip), group in grouped.items()]


@pytest.mark.parametrize(("golden", "clip", "group"), loudness_by_clip())
def test_loudness(golden: Golden, clip: str, group: list[dict[str, Any]]) -> None:
    samples, rate = golden.clip(clip)
    for case in group:
        offset = case.get("offset", 0)
        if case["resampled"]:
            x = resample(samples, rate, case["sample_rate"])
            # Below 0.5 s the resampled samples differ in their last bits, and the float32 filter carries them on.
            tolerance = 5e-4 if samples.shape[1] < rate / 2 else 2e-5
        else:
            x, tolerance = samples[:, offset : offset + case["samples"]], 1e-5
        assert x.shape[1] == case["samples"]
        assert loudness(x, case["sample_rate"]) == pytest.approx(case["db"], abs=tolerance)
        if len(alone := case["db_per_channel_alone"]) == len(x):
            found = [loudness(row[None], case["sample_rate"]) for row in x]
            assert found == pytest.approx(alone, abs=tolerance)


@pytest.mark.parametrize(("golden", "case"), cases("resample"))
def test_resampling(golden: Golden, case: dict[str, Any]) -> None:
    arrays = golden.arrays(case["file"])
    x, y = arrays[case["x"]][0], arrays[case["y"]][0]
    found = resample(x, case["old_sr"], case["new_sr"])
    np.testing.assert_allclose(found, y, rtol=0, atol=5e-7)


@pytest.mark.parametrize("golden", SETS, ids=lambda golden: golden.name)
def test_resampled_lengths(golden: Golden) -> None:
    for case in golden.index["resample_lengths"]:
        assert resampled_samples(case["samples"], case["old_sr"], case["new_sr"]) == case["official"], case
