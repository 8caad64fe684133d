"""A tiny recipe and a folder of audio to train it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

TINY = [
    "model.encoder_dim=4",
    "model.encoder_rates=[2, 2]",
    "model.latent_dim=8",
    "model.decoder_dim=16",
    "model.decoder_rates=[2, 2]",
    "model.n_codebooks=2",
    "model.codebook_size=16",
    "model.sample_rate=8000",
    "model.predictor_dim=0",  # to fit one takes seconds
    "early_steps=0",
    "batch=2",
    "segment_seconds=0.3",
    "quantise_from=3",
    "restart_every=2",
    "warmup_steps=2",
    "valid_codebooks=[1, 2]",
    "valid_every=1000",
    "valid_clips=1",
    "valid_seconds=0.5",
    "log_every=2",
    "cooldown=0",
]


@pytest.fixture
def audio_folder(tmp_path: Path) -> Path:
    """Three seconds of noise bursts with a tone in two files, 8 kHz."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    time = np.arange(12_000) / 8000
    for index in range(2):
        tone = 0.2 * np.sin(2 * np.pi * (200 + 150 * index) * time) + 0.02 * rng.standard_normal(len(time))
        soundfile.write(folder / f"{index}.wav", tone.astype(np.float32), 8000)
    return folder
