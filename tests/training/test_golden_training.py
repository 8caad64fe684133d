"""Quantiser in training mode and one whole training step, against stored results of the official package."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.training import fastnet
from streamdac.training.losses import SpectralLosses
from streamdac.weights import load_weights

from .golden import GOLDEN, INDEX, arrays, cases, needs_whole


def network(model: str, dropout: float) -> DAC:
    weights = load_weights(GOLDEN / "models" / f"{model}.pth")
    made = DAC(ModelConfig(**{**weights.config.__dict__, "quantizer_dropout": dropout}))
    made.load_state_dict({name: tensor.float() for name, tensor in weights.tensors.items()})
    return made.train()


@pytest.mark.parametrize("case", cases("quantizer_train"))
def test_the_quantiser_in_training_equals_the_official_one(case: dict[str, Any]) -> None:
    data = arrays(case["file"])
    quantizer = network(case["model"], case["quantizer_dropout"]).quantizer
    z = torch.from_numpy(data["z"]).requires_grad_()
    if case["torch_manual_seed_just_before"] is not None:
        torch.manual_seed(case["torch_manual_seed_just_before"])
    result = quantizer(z)
    assert torch.equal(result.codes, torch.from_numpy(data["codes"]).long())
    torch.testing.assert_close(result.latents, torch.from_numpy(data["latents"]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.z, torch.from_numpy(data["z_q"]), rtol=1e-4, atol=1e-4)
    assert result.commitment_loss.item() == pytest.approx(case["commitment_loss"], rel=1e-5)
    assert result.codebook_loss.item() == pytest.approx(case["codebook_loss"], rel=1e-5)
    weighted = (result.z * torch.from_numpy(data["w"])).mean()
    (weighted + 0.25 * result.commitment_loss + result.codebook_loss).backward()
    first = quantizer.get_submodule("quantizers.0")
    found = {
        "grad_z": z.grad,
        "grad_codebook0": first.get_parameter("codebook.weight").grad,
        "grad_inproj0_v": first.get_parameter("in_proj.weight_v").grad,
        "grad_inproj0_g": first.get_parameter("in_proj.weight_g").grad,
    }
    for name, gradient in found.items():
        wanted = torch.from_numpy(data[name])
        assert gradient is not None
        assert (gradient - wanted).norm() < 1e-3 * wanted.norm(), name
    norms = {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in quantizer.named_parameters()}
    assert norms == pytest.approx(case["grad_norm_per_parameter"], rel=1e-3, abs=1e-6)


@needs_whole
@pytest.mark.parametrize("fast", [False, True], ids=["modules", "time-major"])
def test_one_training_step_equals_the_official_one(fast: bool) -> None:
    case = INDEX["train_step"]
    file, key = case["input"].split(":")
    audio = torch.from_numpy(arrays(file)[key])
    made = network(case["model"], 0.0)
    padded = made.preprocess(audio)
    latent = fastnet.encode(made, padded, torch.float32) if fast else made.encoder(padded)
    quantised = made.quantizer(latent)
    decoded = fastnet.decode(made, quantised.z, torch.float32) if fast else made.decoder(quantised.z)
    mel, stft = SpectralLosses(made.sample_rate)(decoded[..., : audio.shape[-1]], audio)
    total = 15 * mel + 0.25 * quantised.commitment_loss + quantised.codebook_loss
    total.backward()
    values = {"mel": mel, "stft": stft, "commitment": quantised.commitment_loss, "total": total}
    assert {name: value.item() for name, value in values.items()} == pytest.approx(
        {name: case["values"][name] for name in values}, rel=1e-4
    )
    norms = {name: 0.0 if p.grad is None else p.grad.norm().item() for name, p in made.named_parameters()}
    assert norms == pytest.approx(case["grad_norm_per_parameter"], rel=1e-2, abs=1e-4)
