"""A small model as a file, for programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamdac.weights import Weights, save_weights

from .parts import small_network


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    network = small_network()
    save_weights(path, Weights(network.config, network.state_dict(), {"name": "small"}), dtype=torch.float32)
    return path
