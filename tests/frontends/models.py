"""A tiny model with the default's rate and hop, saved to a file that the command line can load."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from streamdac.codec import Codec
from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.nn.network import randomize
from streamdac.weights import Weights, load_weights, save_weights

HOP, RATE = 320, 24_000
# Two stages, so that a decoder sees few frames and soon forgets a gap.
CONFIG = ModelConfig(
    encoder_dim=4, encoder_rates=(20, 16), latent_dim=6, decoder_dim=8, decoder_rates=(16, 20), n_codebooks=4,
    codebook_size=64, codebook_dim=4,
)  # fmt: skip


def save(path: Path, seed: int = 0) -> Path:
    """Write the model of that seed as safetensors."""
    network = DAC(CONFIG)
    randomize(network, seed)
    save_weights(path, Weights(CONFIG, network.state_dict(), {"name": f"tiny-{seed}"}), force=True)
    return path


@cache
def load(path: Path) -> Codec:
    """The saved model."""
    weights = load_weights(path)
    return Codec(weights.network(), name=weights.metadata["name"])
