"""Discriminators in the loop: they begin when told, both sides learn, and a resumed run is the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from streamdac.errors import BadDataError, UsageError
from streamdac.training.adversary import Adversary
from streamdac.training.checkpoint import LATEST, load_checkpoint
from streamdac.training.discriminators import discriminator_loss
from streamdac.training.loop import Budget, Trainer
from streamdac.training.objective import StepResult, check_finite
from streamdac.training.processes import Processes
from streamdac.training.recipe import load_recipe

from .conftest import TINY
from .test_loop import same, trainer

LIGHT = [
    "losses.generator=1",
    "losses.feature=2",
    "discriminator.periods=[2]",
    "discriminator.fft_sizes=[128]",
    "discriminator.channels=4",
    "discriminator.width=0.0625",
    "quantise_from=0",
]


def adversary(*changes: str) -> Adversary:
    return Adversary(load_recipe("causal-24khz", [*TINY, *LIGHT, *changes]), Processes(), torch.float32)


def weights(made: Adversary) -> list[torch.Tensor]:
    return [p.detach().clone() for p in made.network.parameters()]


def test_discriminators_learn_to_tell_noise_from_a_tone() -> None:
    made = adversary("discriminator.lr=0.003")
    tone = torch.sin(torch.arange(2400) * 0.3).expand(4, 1, -1)
    losses = [made.learn(torch.randn(4, 1, 2400), tone)["discriminator"].item() for _ in range(30)]
    assert losses[-1] < 0.3 * losses[0]


def test_the_codec_gets_a_gradient_and_the_discriminators_none() -> None:
    made, fake = adversary(), torch.randn(2, 1, 1000, requires_grad=True)
    before = weights(made)
    losses = made.generator_losses(fake, torch.randn(2, 1, 1000))
    assert losses.keys() == {"generator", "feature"}
    sum(losses.values(), torch.zeros(())).backward()
    assert fake.grad is not None
    assert fake.grad.abs().max() > 0
    assert all(p.grad is None and p.requires_grad for p in made.network.parameters())
    assert same(before, weights(made))


def test_the_update_is_that_of_clipped_adamw() -> None:
    made, other = adversary("discriminator.clip_norm=0.01"), adversary()
    other.network.load_state_dict(made.network.state_dict())
    fake, real = torch.randn(2, 1, 1000), torch.randn(2, 1, 1000)
    made.learn(fake, real)
    discriminator_loss(other.network(fake), other.network(real)).backward()
    torch.nn.utils.clip_grad_norm_(other.network.parameters(), 0.01)
    other.optimizer.step()
    torch.testing.assert_close(weights(made), weights(other), rtol=1e-4, atol=1e-7)


def test_a_gradient_that_is_not_finite_is_reported_and_not_followed() -> None:
    made = adversary()
    before = weights(made)
    figures = made.learn(torch.full((1, 1, 1000), float("nan")), torch.randn(1, 1, 1000))
    assert not torch.isfinite(figures["discriminator_gradient"])
    assert same(before, weights(made))


@pytest.mark.parametrize(
    ("changes", "first"),
    [([], 0), (["discriminator.from_step=3"], 3), (["discriminator.from_share=0.5"], 4)],
)
def test_discriminators_begin_at_their_step_or_share(
    audio_folder: Path, tmp_path: Path, changes: list[str], first: int
) -> None:
    made = trainer(audio_folder, tmp_path / "run", *LIGHT, *changes)
    assert made.adversary is not None
    made.train(Budget(max_steps=8))
    assert made.adversary.updates == 8 - first


def test_their_losses_grow_over_the_ramp() -> None:
    made = adversary("discriminator.ramp_steps=4")
    fake, real = torch.randn(1, 1, 1000), torch.randn(1, 1, 1000)
    made.scale = 0.0  # they stay what they are
    values = []
    for _ in range(6):
        values.append(made.generator_losses(fake, real)["feature"].item())
        made.learn(fake, real)
    assert values == pytest.approx([values[5] * share for share in (0, 0.25, 0.5, 0.75, 1, 1)])


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_run_resumed_before_or_after_they_began_is_bit_identical(
    audio_folder: Path, tmp_path: Path, stop_at: int
) -> None:
    changes = [*LIGHT, "discriminator.from_share=0.5", "discriminator.ramp_steps=2", "cooldown=0.5"]
    whole = trainer(audio_folder, tmp_path / "whole", *changes)
    whole.train(Budget(max_steps=8))
    first = trainer(audio_folder, tmp_path / "parts", *changes)
    first.progress = lambda _budget: 1.0 if first.step >= stop_at else first.step / 8  # type: ignore[method-assign]
    first.train(Budget(max_steps=8))
    second = trainer(audio_folder, tmp_path / "parts", *changes)
    second.load_state_dict(load_checkpoint(tmp_path / "parts"))
    second.train(Budget(max_steps=8))
    states = [{**t.state_dict(), "elapsed": 0} for t in (whole, second)]
    assert states[0]["adversary"]["updates"] == 4
    assert same(*states)


def test_a_run_without_them_can_be_branched_into_one_with_them(audio_folder: Path, tmp_path: Path) -> None:
    trunk = trainer(audio_folder, tmp_path / "trunk", "quantise_from=0")
    trunk.train(Budget(max_steps=2))
    branch = trainer(audio_folder, tmp_path / "branch", *LIGHT)
    branch.load_state_dict(load_checkpoint(tmp_path / "trunk"), branch=True)
    branch.train(Budget(max_steps=4))
    assert branch.adversary is not None
    assert branch.adversary.updates == 2
    other = trainer(audio_folder, tmp_path / "other", *LIGHT, "discriminator.channels=2")
    with pytest.raises(UsageError, match="other discriminators"):
        other.load_state_dict(load_checkpoint(tmp_path / "branch"))


def test_discriminators_that_blow_up_stop_the_run_and_keep_the_checkpoint(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", *LIGHT)
    made.train(Budget(max_steps=2))
    good = (tmp_path / "run" / LATEST).read_bytes()
    assert made.adversary is not None
    with torch.no_grad():
        next(made.adversary.network.parameters()).fill_(float("inf"))
    with pytest.raises(BadDataError, match=r"step 2: .*discriminator.*bad-batch-2"):
        made.train(Budget(max_steps=4))
    assert (tmp_path / "run" / LATEST).read_bytes() == good


def test_their_gradient_alone_can_stop_the_run(tmp_path: Path) -> None:
    figures = {"mel": torch.ones(()), "discriminator_gradient": torch.tensor(float("inf"))}
    result = StepResult(torch.ones(()), figures, torch.zeros(1, 1, 8), None, None)
    with pytest.raises(BadDataError, match="step 7: discriminator_gradient is not finite"):
        check_finite(result, 1.0, torch.zeros(1, 1, 8), 7, tmp_path / "batch.npz")
    assert (tmp_path / "batch.npz").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_mixed_precision_trains_on_a_gpu(audio_folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe("causal-24khz", [*TINY, *LIGHT, "precision=bf16"])
    made = Trainer(recipe, [audio_folder], tmp_path, processes=Processes(device=torch.device("cuda")))
    made.train(Budget(max_steps=10))
    assert made.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in made.network.parameters())
    assert np.isfinite(made.validate()["mel@2"])


def test_discriminators_that_would_never_begin_are_refused(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", *LIGHT, "discriminator.from_share=0.5")
    with pytest.raises(UsageError, match=r"discriminators from 0\.5 of the budget on, but the run has no end"):
        made.train(Budget())
