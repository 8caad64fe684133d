"""What one step minimises."""

from __future__ import annotations

import math

import pytest
import torch

from streamdac.nn import DAC
from streamdac.training import fastnet
from streamdac.training.adversary import Adversary
from streamdac.training.objective import Objective
from streamdac.training.processes import Processes
from streamdac.training.recipe import Recipe, recipe_from_mapping

MODEL = {
    "encoder_dim": 4,
    "encoder_rates": [2, 2],
    "latent_dim": 8,
    "decoder_dim": 16,
    "decoder_rates": [2, 2],
    "n_codebooks": 2,
    "codebook_size": 16,
}


def recipe(**losses: float) -> Recipe:
    return recipe_from_mapping({"model": MODEL, "losses": losses})


def test_the_scale_loss_is_the_squared_log_of_the_latents_mean_square() -> None:
    torch.manual_seed(0)
    network, audio = DAC(recipe().model), 0.1 * torch.randn(2, 1, 4096)
    with torch.no_grad():
        latent = fastnet.encode(network, audio, torch.float32)
        plain = Objective(network.eval(), recipe(), torch.float32)(audio, True)
        scaled = Objective(network, recipe(scale=2.0), torch.float32)(audio, True)
    wanted = math.log(float(latent.square().mean())) ** 2
    assert "scale" not in plain.parts
    assert float(scaled.parts["scale"]) == pytest.approx(wanted, rel=1e-4)
    assert float(scaled.total - plain.total) == pytest.approx(2 * wanted, rel=1e-3)


def test_the_total_is_the_weighted_sum_of_the_parts() -> None:
    torch.manual_seed(0)
    asked = recipe(mel=3.0, stft=0.5, waveform=2.0, commitment=0.1, codebook=0.7)
    network = DAC(asked.model).eval()
    result = Objective(network, asked, torch.float32)(0.1 * torch.randn(2, 1, 4096), True)
    wanted = sum(getattr(asked.losses, name) * float(loss) for name, loss in result.parts.items())
    assert float(result.total.detach()) == pytest.approx(wanted, rel=1e-5)


def test_a_bypassed_segment_is_decoded_from_its_latent_and_teaches_the_codebooks_all_the_same() -> None:
    torch.manual_seed(0)
    asked = recipe_from_mapping({"model": MODEL, "bypass": 1.0})
    network, audio = DAC(asked.model), 0.1 * torch.randn(2, 1, 4096)
    with torch.no_grad():
        wanted = fastnet.decode(network, fastnet.encode(network, audio, torch.float32), torch.float32)
        result = Objective(network, asked, torch.float32)(audio, True)
    torch.testing.assert_close(result.estimate, wanted)
    assert result.codes is not None
    assert float(result.parts["commitment"]) > 0


@pytest.mark.parametrize("shares", [{"spectral": 1.0}, {"waveform": 1.0}, {"spectral": 1.0, "waveform": 0.1}])
def test_gradient_shares_change_the_gradient_and_no_loss(shares: dict[str, float]) -> None:
    torch.manual_seed(0)
    network, audio = DAC(recipe().model).eval(), 0.1 * torch.randn(2, 1, 4096)
    totals, gradients = [], []
    for balance in ({}, shares):
        asked = recipe_from_mapping({"model": MODEL, "balance": balance})
        result = Objective(network, asked, torch.float32)(audio, True)
        gradients.append(torch.autograd.grad(result.total, network.decoder.model[0].weight_v)[0])
        totals.append(float(result.total.detach()))
    assert totals[0] == totals[1]
    assert not torch.allclose(*gradients, rtol=0.1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_what_discriminators_tell_the_codec_grows_over_the_ramp_with_a_share_and_without(share: float) -> None:
    torch.manual_seed(0)
    none = dict.fromkeys(("mel", "stft", "waveform", "commitment", "codebook"), 0.0)
    asked = recipe_from_mapping(
        {
            "model": MODEL,
            "losses": {**none, "generator": 1.0, "feature": 2.0},
            "balance": {"adversarial": share},
            "discriminator": {"periods": [], "fft_sizes": [64], "channels": 4, "ramp_steps": 4},
        }
    )
    adversary = Adversary(asked, Processes(), torch.float32)
    adversary.active, adversary.scale = True, 0.0  # they stay what they are
    network, audio = DAC(asked.model).eval(), 0.1 * torch.randn(2, 1, 4096)
    objective = Objective(network, asked, torch.float32, adversary)
    gradients = []
    for _ in range(5):
        total = objective(audio, False).total
        gradients.append(torch.autograd.grad(total, network.decoder.model[0].weight_v)[0])
    for gradient, ramp in zip(gradients, (0.25, 0.5, 0.75, 1.0), strict=False):
        torch.testing.assert_close(
            gradient, ramp * gradients[4], rtol=1e-3, atol=1e-6 * float(gradients[4].abs().max())
        )
