"""What the quantiser foresees: encoder and decoder predict from the same, whatever was left out on the way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamdac.config import LOST, ModelConfig
from streamdac.errors import UsageError
from streamdac.nn import DAC
from streamdac.nn.network import randomize

from .models import GEOMETRIES, codec, network, noise
from .test_allocation import with_pauses

KIND = "causal-predicted"
CONFIG = GEOMETRIES[KIND]
HOP = CONFIG.hop_length
few = settings(max_examples=25, deadline=None)


def foreseen(codes: Tensor) -> Tensor:
    """What the network expects of each frame with these codes `[B, K, F]`, -1 where unused: `[B, D, F]`."""
    quantizer = network(KIND).quantizer
    assert quantizer.predictor is not None
    said = torch.zeros(codes.shape[0], CONFIG.latent_dim, codes.shape[2])
    for k in range(min(CONFIG.predictor_codebooks, codes.shape[1])):
        book = quantizer.quantizers[k]
        used = (codes[:, k] >= 0)[:, None]
        said += book.out_proj(book.lookup(codes[:, k].clamp(min=0))) * used
    return quantizer.predictor.expected(said)


@few
@given(samples=st.integers(1, 900))
@torch.no_grad()
def test_codes_say_what_was_not_foreseen_from_those_sent_before(samples: int) -> None:
    audio = with_pauses(samples, HOP)
    codes = codec(KIND).encode(audio, vbr=True)
    z = network(KIND).encoder(network(KIND).preprocess(audio[None, None]))
    wanted = network(KIND).quantizer._quantize(z - foreseen(codes), torch.tensor([4]), None).codes
    assert torch.equal(torch.where(codes < 0, wanted, codes), wanted)


@pytest.mark.parametrize("depth", [2, 3])
def test_codes_of_fewer_codebooks_are_the_first_of_those_of_all(depth: int) -> None:
    audio = noise(40 * HOP)
    assert torch.equal(codec(KIND).encode(audio, depth), codec(KIND).encode(audio)[:, :depth])


def test_fewer_codebooks_than_it_predicts_from_are_predicted_from_alone() -> None:
    audio = noise(40 * HOP)
    assert not torch.equal(codec(KIND).encode(audio, 1), codec(KIND).encode(audio)[:, :1])


@pytest.mark.parametrize("depth", [1, 2, 4])
@torch.no_grad()
def test_the_network_quantises_as_the_stream_does(depth: int) -> None:
    audio = noise(3, 1, 20 * HOP)
    made = network(KIND).encode(audio, depth)
    codes = codec(KIND).encode(audio, depth)
    assert torch.equal(made.codes, codes)
    torch.testing.assert_close(network(KIND).quantizer.from_codes(codes)[0], made.z, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_decoder_that_comes_late_comes_ever_closer() -> None:
    predictor = network(KIND).quantizer.predictor
    assert predictor is not None
    said = noise(1, CONFIG.latent_dim, 120)
    errors = (predictor.expected(said)[..., 40:] - predictor.expected(said[..., 40:]))[0].abs().amax(dim=0)
    assert errors[0] > 0.1 > 1e-4 > errors[-1]


@torch.no_grad()
def test_a_lost_frame_is_what_is_foretold() -> None:
    audio = noise(30 * HOP)
    codes = codec(KIND).encode(audio)
    lost = codes.clone()
    lost[..., 12:15] = LOST
    network_codes = torch.where(lost < 0, -1, lost)
    z, _, _ = network(KIND).quantizer.from_codes(codes)
    parts = [book.out_proj(book.lookup(codes[:, k])) for k, book in enumerate(network(KIND).quantizer.quantizers)]
    came = (lost[:, :1] != LOST).float()
    z = foreseen(network_codes) + sum(parts) * came
    torch.testing.assert_close(codec(KIND).decode(lost), network(KIND).decode(z), atol=1e-3, rtol=0)
    decoder = codec(KIND).decoder()
    pushed = torch.cat([decoder.push(frame) for frame in lost.split(1, dim=2)], dim=2)
    torch.testing.assert_close(pushed, codec(KIND).decode(lost), atol=1e-3, rtol=0)


def test_a_lost_frame_hides_no_hole_in_another() -> None:
    codes = torch.tensor([[[LOST, 3], [LOST, -1], [LOST, 2], [LOST, 0]]])
    with pytest.raises(UsageError, match="uses a codebook after one that it leaves out"):
        codec(KIND).decode(codes)
    with pytest.raises(UsageError, match="uses a codebook after one that it leaves out"):
        codec(KIND).decoder().push(codes)


@pytest.mark.parametrize("frame", [[LOST, 0, 0, 0], [0, LOST, LOST, LOST], [-1, LOST, -1, -1]])
def test_a_frame_is_lost_as_a_whole(frame: list[int]) -> None:
    codes = torch.zeros(1, 4, 3, dtype=torch.int64)
    codes[0, :, 1] = torch.tensor(frame)
    with pytest.raises(UsageError, match="lost in some codebooks"):
        codec(KIND).decode(codes)


def test_in_training_rows_of_any_depth_predict_from_their_own() -> None:
    made = DAC(ModelConfig(**{**CONFIG.to_dict(), "encoder_rates": (5, 2, 2), "decoder_rates": (2, 2, 5)}))
    randomize(made)
    made.quantizer.quantizer_dropout = 1.0
    torch.manual_seed(3)
    z = noise(12, CONFIG.latent_dim, 15)
    quantized, share = made.quantizer.foretold(z)
    torch.manual_seed(3)
    depths = made.quantizer._depths(12, None, z.device)
    assert len(set(depths.tolist())) > 2
    made.eval()
    for row, depth in enumerate(depths.tolist()):
        alone = made.quantizer(z[row : row + 1], depth)
        torch.testing.assert_close(quantized.z[row : row + 1], alone.z, atol=1e-4, rtol=0)
    assert float(share.unforeseen.detach()) > 0


def test_a_model_may_have_fewer_codebooks_than_it_could_predict_from() -> None:
    few = DAC(
        ModelConfig(**{**CONFIG.to_dict(), "encoder_rates": (5, 2, 2), "decoder_rates": (2, 2, 5), "n_codebooks": 1})
    )
    randomize(few)
    assert few.quantizer.predictor_codebooks > 1
    quantized, _ = few.quantizer.foretold(noise(3, CONFIG.latent_dim, 15))
    assert quantized.codes.shape == (3, 1, 15)


@pytest.mark.parametrize("which", ["unforeseen", "drift"])
def test_how_well_it_predicts_moves_the_predictor_alone(which: str) -> None:
    made = DAC(CONFIG)
    randomize(made)
    torch.manual_seed(0)
    z = noise(20, CONFIG.latent_dim, 30).requires_grad_()
    getattr(made.quantizer.foretold(z)[1], which).backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert z.grad is None
    assert moved == {name for name, _ in made.named_parameters() if ".predictor." in name}


@pytest.mark.parametrize(
    "settings", [{"predictor_dim": -1}, {"predictor_dim": 5000}, {"predictor_codebooks": 0}, {"predictor_dim": True}]
)
def test_a_predictor_out_of_bounds_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="need an integer from"):
        ModelConfig(**settings)
