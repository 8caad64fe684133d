"""The long-term filter: what it does to speech-like signals, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from streamdac.config import CENTRED, ModelConfig, config_from_mapping
from streamdac.errors import BadDataError, UsageError
from streamdac.nn.long_term import TAP_SCALE, TAPS, LongTermFilter
from streamdac.torch_executor import device_of_doubles

CONFIG = ModelConfig(long_term=True)  # 24 kHz, blocks of 160
RATE = CONFIG.sample_rate


def comb(strength: float = 0.3) -> LongTermFilter:
    """Some of the present exchanged for what was one period before."""
    made = LongTermFilter(CONFIG)
    with torch.no_grad():
        made.own[:, 0] = -strength / TAP_SCALE
        made.past[:, TAPS // 2] = strength / TAP_SCALE
    return made


def pulses(hertz: float, seconds: float = 0.5) -> Tensor:
    """A harmonic tone with all its overtones below 4 kHz `[1, 1, T]`."""
    time = torch.arange(round(seconds * RATE) // 160 * 160) / RATE
    tones = [torch.cos(2 * torch.pi * hertz * k * time) for k in range(1, int(4000 / hertz))]
    return 0.02 * torch.stack(tones).sum(0)[None, None]


def noise(like: Tensor, level: float, seed: int = 0) -> Tensor:
    return level * torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def energy_db(x: Tensor) -> float:
    return float(10 * x[..., RATE // 10 :].square().mean().log10())


def test_it_begins_without_an_effect() -> None:
    x = pulses(150)
    assert torch.equal(LongTermFilter(CONFIG)(x), x)


@pytest.mark.parametrize("hertz", [70, 110, 150, 233, 400])
@torch.no_grad()
def test_noise_between_the_harmonics_of_a_voice_falls_and_the_voice_stays(hertz: float) -> None:
    clean = pulses(hertz)
    rough = noise(clean, 0.02)
    y = comb()(clean + rough)
    assert energy_db(y - clean) < energy_db(rough) - 1.5
    assert energy_db(y) == pytest.approx(energy_db(clean), abs=0.5)


@torch.no_grad()
def test_what_has_no_pitch_is_left_as_it_is() -> None:
    x = noise(pulses(100), 0.1)
    assert energy_db(comb()(x) - x) < energy_db(x) - 30


@torch.no_grad()
def test_what_is_near_silence_is_left_as_it_is() -> None:
    x = 1e-4 * pulses(150)
    assert torch.equal(comb()(x), x)


@torch.no_grad()
def test_nothing_later_changes_what_came_before() -> None:
    x = pulses(150)
    y, cut = comb()(x), 160 * 40
    torch.testing.assert_close(comb()(x[..., :cut]), y[..., :cut], atol=1e-6, rtol=0)


def test_its_gradients_are_those_of_a_linear_filter() -> None:
    """Its choice of lags is held, so the output is of the first degree in the input, and the change in the taps."""
    layer, x = comb(), pulses(150, 0.1) + noise(pulses(150, 0.1), 0.01)
    x.requires_grad_()
    seen = noise(x, 1.0, seed=1)
    (layer(x) * seen).sum().backward()
    assert x.grad is not None
    assert layer.own.grad is not None
    assert layer.past.grad is not None
    with torch.no_grad():
        whole, effect = float((layer(x) * seen).sum()), float(((layer(x) - x) * seen).sum())
        assert float((x.grad * x).sum()) == pytest.approx(whole, rel=1e-3)
        assert float((layer.own.grad * layer.own + layer.past.grad * layer.past).sum()) == pytest.approx(
            effect, rel=1e-3
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"padding": CENTRED},
            "long_term needs causal padding, an even hop and at least 8000 Hz, not centred, 320, 24000 Hz",
        ),
        ({"encoder_rates": (5,), "decoder_rates": (5,)}, "an even hop"),
        ({"sample_rate": 4000}, "at least 8000 Hz"),
        ({"long_term": 1}, "long_term is 1, need true or false"),
    ],
)
def test_a_model_that_cannot_have_one_is_refused(changed: dict[str, object], message: str) -> None:
    settings = {**CONFIG.to_dict(), **changed}
    with pytest.raises(BadDataError, match=message):
        config_from_mapping(settings)
    with pytest.raises(UsageError, match=message):
        ModelConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})


def test_an_apple_gpu_has_its_doubles_summed_on_the_cpu() -> None:
    assert device_of_doubles(torch.device("mps", 0)) == torch.device("cpu")
    assert device_of_doubles(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_models_without_one_say_nothing_of_it() -> None:
    assert "long_term" not in ModelConfig().to_dict()
    assert config_from_mapping(CONFIG.to_dict()) == CONFIG
