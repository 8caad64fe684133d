"""A narrow network inside a wider one: the same output, and room that can be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamdac.config import ModelConfig
from streamdac.errors import UsageError
from streamdac.nn import DAC
from streamdac.nn.layers import Conv, ConvTranspose
from streamdac.nn.network import randomize
from streamdac.training.checkpoint import load_initial
from streamdac.weights import Weights, save_weights

NARROW = {
    "encoder_dim": 2,
    "encoder_rates": (4, 2),
    "decoder_rates": (2, 4),
    "decoder_dim": 8,
    "latent_dim": 6,
    "n_codebooks": 2,
    "codebook_size": 16,
    "codebook_dim": 3,
}


def model(**changes: object) -> DAC:
    return DAC(ModelConfig(**{**NARROW, **changes}))  # type: ignore[arg-type]


@pytest.fixture
def narrow(tmp_path: Path) -> tuple[DAC, Path]:
    """Random weights, and the file they are in."""
    network, path = model(), tmp_path / "narrow.safetensors"
    randomize(network)
    save_weights(path, Weights(network.config, network.state_dict(), {"name": "narrow"}), dtype=torch.float32)
    return network, path


@pytest.mark.parametrize(
    "wider",
    [
        {"decoder_widths": (8, 6, 2)},  # the last stride's new inputs have no new outputs to speak to
        {"decoder_widths": (12, 6, 3)},
        {"encoder_widths": (3, 7, 8)},
        {"encoder_dim": 4, "decoder_dim": 16},
        {},
    ],
    ids=str,
)
def test_a_wider_network_computes_the_same(narrow: tuple[DAC, Path], wider: dict[str, object]) -> None:
    wide = model(**wider)
    randomize(wide, seed=1)
    load_initial(wide, narrow[1])
    audio = 0.3 * torch.randn(2, 1, 320, generator=torch.Generator().manual_seed(2))
    latent = 0.3 * torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        torch.testing.assert_close(wide.encoder(audio), narrow[0].encoder(audio), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(wide.decoder(latent), narrow[0].decoder(latent), rtol=1e-4, atol=1e-4)


def test_what_is_new_can_be_learnt(narrow: tuple[DAC, Path]) -> None:
    wide = model(decoder_widths=(12, 6, 3))
    load_initial(wide, narrow[1])
    wide.decoder(torch.randn(2, 6, 40)).square().sum().backward()
    inner = dict(narrow[0].named_parameters())
    for name, layer in wide.decoder.named_modules():
        if not isinstance(layer, Conv | ConvTranspose):
            continue
        was = inner[f"decoder.{name}.weight_v"].shape
        assert layer.weight_v.grad is not None
        inputs, outputs = (0, 1) if isinstance(layer, ConvTranspose) else (1, 0)
        if layer.weight_v.shape[inputs] > was[inputs]:  # from new channels to old ones
            heard = layer.weight_v.grad.narrow(outputs, 0, was[outputs])
            assert heard.narrow(inputs, was[inputs], layer.weight_v.shape[inputs] - was[inputs]).abs().min() > 0, name


@pytest.mark.parametrize("narrower", [{"decoder_widths": (8, 3, 2)}, {"decoder_dim": 4}, {"encoder_dim": 1}], ids=str)
def test_a_narrower_network_is_refused(narrow: tuple[DAC, Path], narrower: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(narrower))):
        load_initial(model(**narrower), narrow[1])
