"""Small networks of both kinds with every parameter random."""

from __future__ import annotations

from functools import cache

import torch

from streamdac.codec import Codec
from streamdac.config import CAUSAL, CENTRED, ModelConfig
from streamdac.nn import DAC
from streamdac.nn.network import randomize

GEOMETRIES = {
    "causal": ModelConfig(
        encoder_dim=4, encoder_rates=(5, 2, 2), latent_dim=12, decoder_dim=16, decoder_rates=(2, 2, 5), n_codebooks=4,
        codebook_size=64, codebook_dim=4, padding=CAUSAL,
    ),
    "causal-odd": ModelConfig(
        encoder_dim=3, encoder_rates=(3, 3), latent_dim=7, decoder_dim=12, decoder_rates=(3, 3), n_codebooks=3,
        codebook_size=33, codebook_dim=3, padding=CAUSAL,
    ),
    "causal-widths": ModelConfig(
        encoder_rates=(5, 2, 1), encoder_widths=(3, 8, 8, 6), latent_dim=6, decoder_rates=(1, 2, 5),
        decoder_widths=(8, 12, 6, 2), n_codebooks=4, codebook_size=32, codebook_dim=4, padding=CAUSAL,
    ),
    "causal-long-term": ModelConfig(
        sample_rate=8000, encoder_dim=4, encoder_rates=(5, 2, 2), latent_dim=12, decoder_dim=16, decoder_rates=(2, 2, 5),
        n_codebooks=4, codebook_size=64, codebook_dim=4, padding=CAUSAL, long_term=True,
    ),
    "causal-predicted": ModelConfig(
        encoder_dim=4, encoder_rates=(5, 2, 2), latent_dim=12, decoder_dim=16, decoder_rates=(2, 2, 5), n_codebooks=4,
        codebook_size=64, codebook_dim=4, padding=CAUSAL, predictor_dim=9, predictor_codebooks=2,
    ),
    "centred": ModelConfig(
        encoder_dim=4, encoder_rates=(2, 4), latent_dim=12, decoder_dim=16, decoder_rates=(4, 2), n_codebooks=4,
        codebook_size=64, codebook_dim=4, padding=CENTRED,
    ),
    "centred-odd": ModelConfig(
        encoder_dim=4, encoder_rates=(2, 5), latent_dim=12, decoder_dim=16, decoder_rates=(5, 2), n_codebooks=4,
        codebook_size=64, codebook_dim=4, padding=CENTRED,
    ),
}  # fmt: skip


@cache
def network(kind: str, seed: int = 0) -> DAC:
    made = DAC(GEOMETRIES[kind])
    randomize(made, seed)
    return made.eval()


@cache
def codec(kind: str, seed: int = 0) -> Codec:
    return Codec(network(kind, seed), engine="torch")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 0.5
