"""The plan, executed, equals plain nn.Conv1d modules, with every parameter random."""

from __future__ import annotations

import pytest
import torch

from .models import GEOMETRIES, codec, network, noise
from .reference import Reference

SURE = 1e-4  # in cosine; below it rounding may choose
CLOSE = {"atol": 2e-4, "rtol": 0.0}  # float32 against float64


@pytest.mark.parametrize("kind", GEOMETRIES)
@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_codes_and_audio_are_those_of_plain_modules(kind: str, seed: int) -> None:
    config = GEOMETRIES[kind]
    reference, model = Reference(config, network(kind, seed).state_dict()), codec(kind, seed)
    audio = noise(2, 1, 13 * config.hop_length, seed=seed)
    codes, margins, z_q = reference.quantize(reference.encode(audio))
    # After the first unsure choice of a frame the later codebooks code something else.
    sure = ((margins > SURE).cumprod(dim=1)).bool()
    if config.predictor_dim:  # so do all frames after it
        sure &= (margins > SURE).all(dim=1, keepdim=True).cumprod(dim=2).roll(1, dims=2).bool() | (
            torch.arange(13) == 0
        )
    assert sure.float().mean() > 0.9
    found = model.encode(audio)
    assert torch.equal(found[sure], codes[sure])
    wanted = reference.decode(z_q).float()
    torch.testing.assert_close(model.decode(codes), wanted, **CLOSE)
