"""Band levels, and the layer that reads them off the quantised latent."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamdac.nn import DAC
from streamdac.training.guide import BandLevels, Guide
from streamdac.training.loop import Budget
from streamdac.training.objective import Objective
from streamdac.training.recipe import recipe_from_mapping

from .test_loop import trainer
from .test_objective import MODEL

RATE, HOP = 24_000, 320


def tone(hz: float, level: float = 0.1, hops: int = 12) -> Tensor:
    return level * torch.sin(2 * torch.pi * hz * torch.arange(hops * HOP) / RATE)[None, None]


def test_a_tone_is_in_one_band_and_ten_times_as_loud_is_two_bels_more() -> None:
    levels = BandLevels(RATE, HOP)
    quiet, loud = levels(tone(1000)), levels(tone(1000, 1.0))
    assert quiet.shape == (1, levels.bands, 12)
    assert int(quiet.mean(2).argmax()) < int(levels(tone(3000)).mean(2).argmax())
    torch.testing.assert_close(loud.amax(1), quiet.amax(1) + 2, atol=1e-3, rtol=0)


@pytest.mark.parametrize("hop", [320, 7])
def test_levels_are_those_of_the_hop(hop: int) -> None:
    """Sound that begins with hop 6 is heard in it and the one before, which sees half a hop of it."""
    audio = torch.randn(1, 1, 12 * hop, generator=torch.Generator().manual_seed(0))
    audio[..., : 6 * hop] = 0
    levels = BandLevels(RATE, hop)
    first = 6 - -(-(levels.window - hop) // (2 * hop))
    heard = levels(audio).mean((0, 1)) > levels(audio).min() + 0.5
    assert heard.tolist() == [hop_number >= first for hop_number in range(12)]


def test_silence_has_finite_levels() -> None:
    assert torch.isfinite(BandLevels(RATE, HOP)(torch.zeros(2, 1, 4 * HOP))).all()


def test_the_guide_teaches_encoder_and_codebooks_but_not_the_decoder() -> None:
    torch.manual_seed(0)
    asked = recipe_from_mapping({"model": MODEL, "losses": {"guide": 2.0}})
    objective = Objective(DAC(asked.model), asked, torch.float32)
    result = objective(0.1 * torch.randn(2, 1, 4097), True)
    network = objective.network
    parameters = [network.encoder.block[0].weight_v, network.quantizer.quantizers[0].in_proj.weight_v]
    total = torch.autograd.grad(result.total, parameters, retain_graph=True)
    assert isinstance(objective.guide, Guide)
    assert "guide" in result.parts
    assert all(float(gradient.abs().max()) > 0 for gradient in total)
    assert not any(name.startswith("guide") for name, _ in network.named_parameters())


def test_a_linear_layer_learns_the_levels_from_a_latent_that_holds_them() -> None:
    torch.manual_seed(0)
    guide = Guide(RATE, HOP, 40)
    audio = torch.randn(4, 1, 20 * HOP) * 10 ** torch.empty(4, 1, 20).uniform_(-3, 0).repeat_interleave(HOP, 2)
    latent = torch.cat([guide.levels(audio), torch.randn(4, 40 - guide.levels.bands, 20)], dim=1)
    optimizer = torch.optim.AdamW(guide.parameters(), lr=0.05)
    first = float(guide(latent, audio).detach())
    for _ in range(200):
        loss = guide(latent, audio)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.1 * first


def test_a_guided_run_resumes_exactly(audio_folder: Path, tmp_path: Path) -> None:
    whole = trainer(audio_folder, tmp_path / "whole", "losses.guide=1")
    whole.train(Budget(max_steps=8))
    part = trainer(audio_folder, tmp_path / "part", "losses.guide=1")
    part.train(Budget(max_steps=5))
    rest = trainer(audio_folder, tmp_path / "part", "losses.guide=1")
    rest.load_state_dict(part.state_dict())
    rest.train(Budget(max_steps=8))
    assert whole.objective.guide is not None
    assert rest.objective.guide is not None
    for mine, theirs in ((whole.network, rest.network), (whole.objective.guide, rest.objective.guide)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_a_run_goes_on_with_and_without_a_guide(audio_folder: Path, tmp_path: Path) -> None:
    plain = trainer(audio_folder, tmp_path / "plain")
    plain.train(Budget(max_steps=4))
    guided = trainer(audio_folder, tmp_path / "guided", "losses.guide=1")
    guided.load_state_dict(plain.state_dict(), branch=True)
    guided.train(Budget(max_steps=6))
    again = trainer(audio_folder, tmp_path / "again")
    again.load_state_dict(guided.state_dict(), branch=True)
    again.train(Budget(max_steps=7))
    assert again.step == 7
