"""The discriminators against stored results of the official package, and at other widths."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from streamdac.errors import UsageError
from streamdac.resample import Resampler
from streamdac.training.discriminators import (
    Discriminator,
    decimated,
    discriminator_loss,
    feature_loss,
    generator_loss,
)
from streamdac.training.settings import DiscriminatorSettings

from .golden import INDEX, arrays, cases

ALL = DiscriminatorSettings(periods=(2, 3), rates=(1, 2), fft_sizes=(256, 128), channels=4, width=1 / 16)


@functools.cache
def official() -> Discriminator:
    kwargs = {k: v for k, v in INDEX["gan"]["kwargs"].items() if k != "sample_rate"}
    made = Discriminator(DiscriminatorSettings(**kwargs))
    made.load_state_dict({k: torch.from_numpy(v) for k, v in arrays(INDEX["gan"]["state"]).items()})
    return made


def test_every_official_parameter_has_its_place() -> None:
    assert len(official().state_dict()) == INDEX["gan"]["state_keys"]


@pytest.mark.parametrize("case", cases("gan", "cases"))
def test_losses_maps_and_gradients_equal_the_official_ones(case: dict[str, Any]) -> None:
    data, stored = arrays(case["inputs"]), arrays(case["file"])
    fake = torch.from_numpy(data[case["fake"]]).requires_grad_()
    fakes, reals = official()(fake), official()(torch.from_numpy(data[case["real"]]))
    for index, (a, b) in enumerate(zip(fakes, reals, strict=True)):
        torch.testing.assert_close(a[-1], torch.from_numpy(stored[f"fake_out_{index}"]), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(b[-1], torch.from_numpy(stored[f"real_out_{index}"]), rtol=1e-3, atol=1e-4)
        figures = case["feature_maps"][index]
        assert [list(one.shape) for one in a] == [figure["shape"] for figure in figures]
        for one, other, figure in zip(a, b, figures, strict=True):
            found = [one.mean(), one.std(), other.mean(), (one - other).abs().mean()]
            wanted = [figure[key] for key in ("fake_mean", "fake_std", "real_mean", "l1")]
            assert [value.item() for value in found] == pytest.approx(wanted, rel=1e-3, abs=1e-5)
    generator, feature = generator_loss(fakes), feature_loss(fakes, reals)
    assert discriminator_loss(fakes, reals).item() == pytest.approx(case["discriminator_loss"], rel=1e-5)
    assert generator.item() == pytest.approx(case["generator_loss"], rel=1e-5)
    assert feature.item() == pytest.approx(case["feature_loss"], rel=1e-5)
    (gradient,) = torch.autograd.grad(generator + 2 * feature, fake)
    wanted = torch.from_numpy(stored["grad_fake"])
    assert (gradient - wanted).norm() < 1e-3 * wanted.norm()


@pytest.mark.parametrize("case", cases("gan", "cases")[-1:])  # the short one: its backward pass is slow
def test_the_discriminators_own_gradient_equals_the_official_one(case: dict[str, Any]) -> None:
    data = arrays(case["inputs"])
    fake, real = (torch.from_numpy(data[case[name]]) for name in ("fake", "real"))
    loss = discriminator_loss(official()(fake), official()(real))
    gradients = torch.autograd.grad(loss, list(official().parameters()))
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    assert norm.item() == pytest.approx(case["grad_norm_discriminator_loss"], rel=1e-3)


def test_level_and_offset_do_not_matter() -> None:
    made, x = Discriminator(ALL), torch.randn(2, 1, 2000)
    for a, b in zip(made(x), made(0.01 * x + 3.0), strict=True):
        torch.testing.assert_close(a[-1], b[-1], rtol=1e-3, atol=1e-4)


def test_every_parameter_learns_and_the_codec_gets_a_gradient() -> None:
    made = Discriminator(ALL)
    assert len(made.discriminators) == 6
    fake, real = torch.randn(2, 1, 2001, requires_grad=True), torch.randn(2, 1, 2001)
    discriminator_loss(made(fake), made(real)).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert fake.grad is not None
    assert torch.isfinite(fake.grad).all()


def test_the_original_gets_no_gradient_from_the_feature_loss() -> None:
    made, real = Discriminator(ALL), torch.randn(1, 1, 1500, requires_grad=True)
    loss = feature_loss(made(torch.randn(1, 1, 1500)), made(real))
    assert not loss.requires_grad or torch.autograd.grad(loss, real, allow_unused=True) == (None,)
    assert loss > 0


@pytest.mark.parametrize("factor", [2, 3])
def test_decimation_equals_the_official_resampling(factor: int) -> None:
    x = torch.randn(1, 3001)
    stream = Resampler(factor, 1, 1)
    wanted = torch.cat([stream.push(x), stream.flush()], dim=1)
    torch.testing.assert_close(decimated(x[:, None], factor)[:, 0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"periods": (0,)}, "whole numbers"),
        ({"fft_sizes": (510,)}, "multiples of 4"),
        ({"bands": ((0.5, 0.5),)}, "two shares that rise"),
        ({"bands": ((0.0, 0.001),)}, "with a bin"),
        ({"width": 0.0}, "width 0.0"),
        ({"from_share": 1.5}, r"from_share 1\.5"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        DiscriminatorSettings(**settings)


def test_no_discriminator_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="name no period"):
        Discriminator(DiscriminatorSettings(periods=(), rates=(), fft_sizes=()))
