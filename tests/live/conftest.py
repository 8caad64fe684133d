from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from streamdac.codec import Codec
from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.nn.network import randomize
from streamdac.weights import Weights, save_weights

from .jack import Jack, why_not

SMALL = ModelConfig(
    encoder_dim=4, encoder_rates=(8, 5, 4, 2), latent_dim=12, decoder_dim=32, decoder_rates=(2, 4, 5, 8), n_codebooks=4,
    codebook_size=1024, codebook_dim=4,
)  # fmt: skip


@cache
def network() -> DAC:
    made = DAC(SMALL)
    randomize(made, 0)
    return made.eval()


@pytest.fixture(scope="session")
def codec() -> Codec:
    """A small random causal model with the default one's rate and hop."""
    return Codec(network(), name="small")


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on disk."""
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    save_weights(path, Weights(SMALL, network().state_dict(), {"name": "small"}))
    return path


@pytest.fixture
def jack(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Jack]]:
    """Starts JACK servers, whose clients are those of this test."""
    if reason := why_not():
        pytest.skip(reason)
    servers: list[Jack] = []

    def start(*, rate: int = 24_000, period: int = 256) -> Jack:
        server = Jack(rate=rate, period=period)
        servers.append(server)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without sound."""
    monkeypatch.setenv("JACK_DEFAULT_SERVER", "there-is-none")
    monkeypatch.setenv("JACK_NO_START_SERVER", "1")
