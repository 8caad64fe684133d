"""The training forward pass computes the network's own function."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamdac.config import CAUSAL, CENTRED, ModelConfig
from streamdac.nn import DAC
from streamdac.nn.network import randomize
from streamdac.training import fastnet


def network(padding: str, rates: tuple[int, ...]) -> DAC:
    config = ModelConfig(
        encoder_dim=4,
        encoder_rates=rates,
        latent_dim=12,
        decoder_dim=24,
        decoder_rates=rates[::-1],
        n_codebooks=2,
        codebook_size=16,
        padding=padding,
    )
    made = DAC(config)
    randomize(made)
    return made


def test_a_long_term_filter_is_part_of_the_fast_forward() -> None:
    config = replace(network(CAUSAL, (5, 2)).config, sample_rate=8000, long_term=True)
    net, z = DAC(config), torch.randn(2, 12, 60)
    randomize(net)
    wave = fastnet.decode(net, z, torch.float32)
    torch.testing.assert_close(wave, net.decoder(z), rtol=1e-3, atol=1e-3)
    assert (wave - net.decoder.model(z)).abs().max() > 0.01
    wave.square().sum().backward()
    assert net.decoder.long_term is not None
    assert net.decoder.long_term.past.grad is not None
    assert net.decoder.long_term.past.grad.abs().max() > 0


@pytest.mark.parametrize("padding", [CAUSAL, CENTRED])
@pytest.mark.parametrize("rates", [(2, 4), (5, 2), (3,), (4, 1)])
def test_fast_forward_and_gradients_equal_the_plain_ones(padding: str, rates: tuple[int, ...]) -> None:
    net = network(padding, rates)
    audio = 0.1 * torch.randn(2, 1, 40 * net.hop_length)
    latent, fast_latent = net.encoder(audio), fastnet.encode(net, audio, torch.float32)
    torch.testing.assert_close(fast_latent, latent, rtol=1e-4, atol=1e-4 * latent.abs().max().item())
    z = torch.randn(2, 12, 30)
    wave, fast_wave = net.decoder(z), fastnet.decode(net, z, torch.float32)
    torch.testing.assert_close(fast_wave, wave, rtol=1e-3, atol=1e-3)
    for plain, fast in ((latent, fast_latent), (wave, fast_wave)):
        weight = torch.randn(plain.shape)
        parameters = [p for p in net.parameters() if p.requires_grad]
        wanted = torch.autograd.grad((plain * weight).sum(), parameters, allow_unused=True)
        got = torch.autograd.grad((fast * weight).sum(), parameters, allow_unused=True)
        for w, g in zip(wanted, got, strict=True):
            assert (w is None) == (g is None)
            if w is not None and g is not None:
                assert (g - w).norm() <= 2e-3 * w.norm()


def test_bf16_forward_stays_near_float32() -> None:
    torch.manual_seed(0)
    net = DAC(ModelConfig(encoder_dim=8, decoder_dim=64, n_codebooks=2, latent_dim=16))
    audio = 0.1 * torch.randn(1, 1, 6400)
    wanted, got = (fastnet.encode(net, audio, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert got.dtype == torch.float32
    assert (got - wanted).norm() < 0.05 * wanted.norm()


def test_convolutions_at_the_waveform_stay_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    net, types = network(CAUSAL, (2, 4)), set()
    convolve = fastnet.convolve

    def recorded(x: torch.Tensor, weight: torch.Tensor, *rest: object, **options: object) -> torch.Tensor:
        y = convolve(x, weight, *rest, **options)
        types.add((y.shape[1], x.dtype))
        return y

    monkeypatch.setattr(fastnet, "convolve", recorded)
    fastnet.decode(net, fastnet.encode(net, 0.1 * torch.randn(1, 1, 160), torch.bfloat16), torch.bfloat16)
    at_waveform = {dtype for steps, dtype in types if steps == 160}
    assert at_waveform == {torch.float32}
    assert (80, torch.bfloat16) in types


def test_the_chosen_type_is_the_faster_one() -> None:
    assert fastnet.best_cpu_dtype() in (torch.bfloat16, torch.float32)
    assert fastnet.best_cpu_dtype([torch.float32]) == torch.float32
