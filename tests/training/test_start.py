"""A transform start codes audio before any training."""

from __future__ import annotations

import pytest
import torch

from streamdac.config import CENTRED, ModelConfig
from streamdac.errors import UsageError
from streamdac.nn import DAC
from streamdac.training.losses import si_sdr
from streamdac.training.start import quiet_start, transform_start


def low_noise(samples: int) -> torch.Tensor:
    noise = torch.randn(1, 1, samples + 64)
    return 0.05 * torch.nn.functional.avg_pool1d(noise, 16, 1)[..., :samples]


def model(**changes: object) -> DAC:
    values = {"encoder_dim": 8, "encoder_rates": (4, 3), "decoder_dim": 48, "decoder_rates": (3, 4), "latent_dim": 8}
    return DAC(ModelConfig(**{**values, "n_codebooks": 1, **changes}))  # type: ignore[arg-type]


@pytest.mark.parametrize("widths", [(8, 48), (2, 48), (8, 24), (2, 10)])  # too narrow for all the samples of a hop
def test_a_transform_start_passes_the_waveform_on(widths: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network, audio = model(encoder_dim=widths[0], decoder_dim=widths[1]), low_noise(24_000)
    quiet_start(network)
    with torch.no_grad():
        before = si_sdr(network.decoder(network.encoder(audio)), audio).item()
        share = transform_start(network, audio)
        after = si_sdr(network.decoder(network.encoder(audio)), audio).item()
    assert share > 0.98
    assert before < 0
    assert after > 10


def test_a_transform_start_takes_widths_of_their_own_and_strides_of_one() -> None:
    torch.manual_seed(0)
    network = model(
        encoder_rates=(4, 3, 1), encoder_widths=(4, 16, 24, 16), decoder_rates=(1, 3, 4), decoder_widths=(16, 24, 8, 4)
    )
    audio = low_noise(24_000)
    transform_start(network, audio)
    with torch.no_grad():
        assert si_sdr(network.decoder(network.encoder(audio)), audio).item() > 10


def test_a_whitened_start_passes_the_same_waveform_with_all_frequencies_at_one_size() -> None:
    audio, spreads = low_noise(24_000), []
    for whiten in (0.0, 0.7):
        torch.manual_seed(0)
        network = model(encoder_dim=24)
        quiet_start(network)
        transform_start(network, audio, whiten)
        with torch.no_grad():
            assert si_sdr(network.decoder(network.encoder(audio)), audio).item() > 10
            channels = network.encoder.block[:3](audio)[0, :12].std(1)  # after both strides: the block's components
        spreads.append(float(channels.max() / channels.min()))
    assert spreads[1] < spreads[0] ** 0.5


@pytest.mark.parametrize("widths", [(8, 48), (8, 96)])  # the latter wider than all the latent can fill
@pytest.mark.parametrize("whiten", [0.0, 0.7])
def test_every_parameter_still_gets_a_gradient(widths: tuple[int, int], whiten: float) -> None:
    torch.manual_seed(0)
    network, audio = model(encoder_dim=widths[0], decoder_dim=widths[1], latent_dim=6), low_noise(2400)
    transform_start(network, audio, whiten)
    (network.decoder(network.encoder(audio)) - audio).square().sum().backward()
    for name, parameter in network.named_parameters():
        if not name.startswith("quantizer"):
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().max()) > 0, name


def test_a_network_that_looks_ahead_is_refused() -> None:
    with pytest.raises(UsageError, match="transform start"):
        transform_start(model(padding=CENTRED), low_noise(2400))


def test_no_direction_of_a_started_weight_is_short() -> None:
    """The gradient of a direction grows with the inverse of its length."""
    torch.manual_seed(0)
    network = model(decoder_widths=(10, 24, 12), latent_dim=6)
    transform_start(network, low_noise(24_000))
    for name, parameter in network.named_parameters():
        if name.endswith("weight_v"):
            assert float(parameter.detach().flatten(1).norm(dim=1).min()) > 0.05, name
