"""The losses against stored results of the official package, and their own properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from streamdac.training.losses import (
    CompressedSpectra,
    Lines,
    MelSettings,
    SpectralLosses,
    level_normalised_l1,
    mel_filters,
    noise_in_silence,
    si_sdr,
    waveform_l1,
)

from .golden import arrays, cases


@pytest.mark.parametrize("case", cases("losses", "cases"))
def test_losses_equal_the_official_ones(case: dict) -> None:
    data = arrays(case["file"])
    x, y = torch.from_numpy(data["x"]).requires_grad_(), torch.from_numpy(data["y"])
    losses = SpectralLosses(case["sample_rate"])
    mel, stft = losses(x, y)
    assert waveform_l1(x, y).item() == pytest.approx(case["l1"], rel=1e-5)
    assert stft.item() == pytest.approx(case["stft"], rel=1e-5)
    assert mel.item() == pytest.approx(case["mel"], rel=1e-5)
    for name, loss in (("grad_mel_x", mel), ("grad_stft_x", stft)):
        if name not in data:
            continue
        (grad,) = torch.autograd.grad(loss, x, retain_graph=True)
        wanted = torch.from_numpy(data[name])
        assert (grad - wanted).norm() < 1e-3 * wanted.norm(), name


@pytest.mark.parametrize("case", cases("losses", "cases"))
def test_each_window_equals_the_official_one(case: dict) -> None:
    data = arrays(case["file"])
    x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
    mel, stft = SpectralLosses(case["sample_rate"]).per_window(x, y)
    assert {str(w): v.item() for w, v in mel.items()} == pytest.approx(case["mel_per_window"], rel=1e-5)
    assert {str(w): v.item() for w, v in stft.items()} == pytest.approx(case["stft_per_window"], rel=1e-5)


def test_mel_filters_equal_the_official_ones() -> None:
    wanted = arrays("losses/mel_filters.npz")
    for key in wanted:
        rate, window, n_mels = (int("".join(filter(str.isdigit, part))) for part in key.split("_"))
        np.testing.assert_allclose(mel_filters(rate, window, n_mels), wanted[key], atol=1e-6 * wanted[key].max())


def test_losses_of_equal_signals_are_zero() -> None:
    x = 0.1 * torch.randn(2, 1, 4000)
    mel, stft = SpectralLosses(24_000)(x, x)
    assert mel.item() == stft.item() == waveform_l1(x, x).item() == level_normalised_l1(x, x).item() == 0


def test_noise_in_silence_counts_only_where_the_original_is_silent() -> None:
    target = torch.zeros(1, 1, 3200)
    target[..., :640] = 0.1  # two of ten frames; the three after it may ring out
    noise = 1e-3 * torch.ones(1, 1, 3200)  # -60 dB: 40 dB above nothing
    assert noise_in_silence(noise, target, 320).item() == pytest.approx(0.5 * 2.0, rel=1e-4)
    noise[..., 5 * 320 :] = 0
    assert noise_in_silence(noise, target, 320).item() == 0
    assert noise_in_silence(target, target, 320).item() == 0


@pytest.mark.parametrize("samples", [100, 3200, 4000])
def test_noise_in_silence_has_finite_gradients(samples: int) -> None:
    nothing, noise = torch.zeros(2, 1, samples), 1e-4 * torch.randn(2, 1, samples)
    for estimate in (nothing.clone(), noise):
        estimate.requires_grad_()
        noise_in_silence(estimate, nothing, 320).backward()
        assert estimate.grad is not None
        assert torch.isfinite(estimate.grad).all()
    assert noise.grad is not None
    assert (noise.grad * noise).sum() > 0


def test_silence_gives_finite_losses_and_gradients() -> None:
    x = torch.zeros(1, 1, 4000, requires_grad=True)
    mel, stft = SpectralLosses(24_000)(x, torch.zeros(1, 1, 4000))
    (mel + stft + level_normalised_l1(x, torch.zeros(1, 1, 4000))).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_level_normalised_l1_counts_quiet_and_loud_alike() -> None:
    y = torch.randn(1, 1, 4000)
    x = y + 0.1 * torch.randn(1, 1, 4000)
    loud, quiet = level_normalised_l1(x, y, floor=0.0), level_normalised_l1(0.01 * x, 0.01 * y, floor=0.0)
    assert loud.item() == pytest.approx(quiet.item(), rel=1e-4)


def test_si_sdr_ignores_gain_and_measures_noise() -> None:
    y = torch.randn(1, 1, 24_000)
    noisy = y + 0.1 * torch.randn(1, 1, 24_000)
    assert si_sdr(noisy, y).item() == pytest.approx(20, abs=0.5)
    assert si_sdr(3 * noisy, y).item() == pytest.approx(si_sdr(noisy, y).item(), abs=1e-3)


def test_a_mel_scale_can_be_restricted_to_a_band() -> None:
    full = mel_filters(24_000, 512, 20)
    band = mel_filters(24_000, 512, 20, fmin=500, fmax=4000)
    bins = np.linspace(0, 12_000, 257)
    assert band[:, (bins < 500) | (bins > 4000)].max() == 0
    assert full[:, bins > 8000].max() > 0
    assert math.isclose(MelSettings().log_weight, 1)


def test_compressed_spectra_of_equal_signals_have_no_distance_and_silence_has_gradients() -> None:
    distance = CompressedSpectra((256, 1024))
    x = torch.randn(2, 1, 4800)
    assert float(distance(x, x)) == 0.0
    silence = torch.zeros(1, 1, 4800, requires_grad=True)
    distance(silence, x[:1]).backward()
    assert silence.grad is not None
    assert bool(torch.isfinite(silence.grad).all())


def test_compression_makes_a_faint_tone_count() -> None:
    time = torch.arange(4800) / 24_000
    loud, faint = (level * torch.sin(2 * math.pi * hz * time)[None, None] for level, hz in ((0.3, 500), (0.003, 5000)))
    plain, compressed = (CompressedSpectra((1024,), power=power) for power in (1.0, 0.3))
    assert float(compressed(loud, loud + faint)) > 100 * float(plain(loud, loud + faint))


def test_a_wrong_phase_counts_by_its_share() -> None:
    x = torch.randn(1, 1, 4800)
    alike, apart = (CompressedSpectra((1024,), phase=phase) for phase in (0.0, 0.3))
    assert float(alike(-x, x)) == pytest.approx(0, abs=1e-6)
    assert float(apart(-x, x)) == pytest.approx(4 * 0.3, rel=0.02)


def test_added_energy_weighs_as_much_more_in_log_spectra_as_asked() -> None:
    x, spectral = torch.randn(1, 1, 9600), SpectralLosses(24_000)
    (added, _), (missing, _), (plain, _) = spectral(2 * x, x, 3.0), spectral(x, 2 * x, 3.0), spectral(2 * x, x)
    assert float(added / missing) == pytest.approx(3.0, rel=0.01)
    assert float(added / plain) == pytest.approx(1.5, rel=0.01)


def test_added_energy_weighs_as_much_more_in_compressed_spectra_as_asked() -> None:
    x = torch.randn(1, 1, 9600)
    even, uneven = (CompressedSpectra((1024,), phase=0, excess=excess) for excess in (1.0, 3.0))
    assert float(uneven(2 * x, x) / even(2 * x, x)) == pytest.approx(1.5, rel=0.01)
    assert float(uneven(x, 2 * x) / even(x, 2 * x)) == pytest.approx(0.5, rel=0.01)


def tone(hertz: float, samples: int = 9600) -> Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(samples) / 24_000)[None, None]


def test_lines_counts_tones_at_multiples_and_not_between() -> None:
    noise = torch.randn(2, 1, 9600, generator=torch.Generator().manual_seed(0))
    lines, nothing = Lines(80), torch.zeros(2, 1, 9600)
    plain = float(lines(noise, nothing))
    assert plain == pytest.approx(0.9, abs=0.1)
    assert float(lines(noise + sum(tone(k * 300.0) for k in (3, 8, 14)), nothing)) > 1.5 * plain
    assert float(lines(noise + sum(tone(k * 300.0 + 130.0) for k in (3, 8, 14)), nothing)) < 1.02 * plain


def test_lines_of_the_original_are_its_own() -> None:
    noise = 0.1 * torch.randn(2, 1, 9600, generator=torch.Generator().manual_seed(0))
    wanted = tone(2400.0).expand(2, -1, -1)
    lines = Lines(80)
    assert float(lines(wanted + noise, wanted)) == pytest.approx(float(lines(noise, 0 * noise)), rel=1e-3)


@pytest.mark.parametrize("samples", [500, 9600])
def test_lines_of_silence_have_finite_gradients(samples: int) -> None:
    silence = torch.zeros(2, 1, samples, requires_grad=True)
    distance = Lines(80)(silence, torch.zeros(2, 1, samples))
    distance.backward()
    assert silence.grad is not None
    assert torch.isfinite(distance)
    assert torch.isfinite(silence.grad).all()
