"""Held-out clips while a run goes on: distances, SI-SDR and codebook use at several bitrates, and clips to listen to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamdac.nn import DAC

from . import fastnet
from .data import held_out_clips
from .logs import RunLog
from .losses import SpectralLosses, at_one_length, level_normalised_l1, si_sdr
from .recipe import Recipe

_SHOWN = 4  # clips in TensorBoard
_MOST = 64  # clips: more take minutes, and say little more


def _perplexity(codes: Tensor, size: int) -> float:
    """Effective number of entries in `codes` `[N]`."""
    p = torch.bincount(codes.flatten().cpu(), minlength=size).double()
    p = p[p > 0] / p.sum()
    return float(torch.exp(-(p * p.log()).sum()))


@torch.no_grad()
def held_out_metrics(
    network: DAC,
    clips: Iterable[npt.NDArray[np.float32]],
    codebooks: Sequence[int],
    spectral: SpectralLosses,
    *,
    dtype: torch.dtype = torch.float32,
) -> dict[str, float]:
    """Means over clips `[T]`: `mel@K`, `stft@K`, `waveform@K`, `si_sdr@K` for K codebooks (0: not quantised), `perplexity`.

    The network is put in eval mode and back.
    """
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    rows: list[dict[str, float]] = []
    all_codes: list[Tensor] = []
    for clip in clips:
        audio = torch.from_numpy(clip).to(device)[None, None]
        latent = fastnet.encode(network, network.preprocess(audio), dtype)
        row: dict[str, float] = {}
        for count in codebooks:
            quantised = network.quantizer(latent, count) if count else None
            z = latent if quantised is None else quantised.z
            if quantised is not None and count == max(codebooks):
                all_codes.append(quantised.codes[0])
            row |= _compare(fastnet.decode(network, z, dtype), audio, spectral, count)
        rows.append(row)
    network.train(was_training)
    metrics = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if all_codes:
        codes = torch.cat(all_codes, dim=1)
        metrics["perplexity"] = float(np.mean([_perplexity(row, network.config.codebook_size) for row in codes]))
    return metrics


def _compare(estimate: Tensor, audio: Tensor, spectral: SpectralLosses, count: int) -> dict[str, float]:
    estimate, audio = at_one_length(estimate, audio)
    mel, stft = cast("tuple[Tensor, Tensor]", spectral(estimate, audio))
    values = {
        "mel": mel,
        "stft": stft,
        "waveform": level_normalised_l1(estimate, audio),
        "si_sdr": si_sdr(estimate, audio),
    }
    return {f"{name}@{count}": float(value) for name, value in values.items()}


class HeldOut:
    """The held-out clips of a run.

    Raises:
        NoInputError: the data have none.
        BadDataError: none of them can be read, or all are silent or too short.
    """

    def __init__(self, recipe: Recipe, data: Sequence[Path]) -> None:
        rate, seconds, most = recipe.model.sample_rate, recipe.valid_seconds, recipe.valid_clips
        clips = held_out_clips(data, rate, clip_seconds=seconds, clips_per_group=most, most=_MOST)
        self.clips = [clip.audio for clip in clips]
        self._originals_shown = False

    def metrics(
        self, network: DAC, codebooks: Sequence[int], spectral: SpectralLosses, dtype: torch.dtype
    ) -> dict[str, float]:
        """As `held_out_metrics`, of all clips."""
        return held_out_metrics(network, self.clips, codebooks, spectral, dtype=dtype)

    @torch.no_grad()
    def show(self, network: DAC, codebooks: Sequence[int], dtype: torch.dtype, log: RunLog, step: int) -> None:
        """The first clips as coded now, and once the originals, as sound and spectrogram in TensorBoard."""
        network.eval()
        device, rate = next(network.parameters()).device, network.sample_rate
        for number, clip in enumerate(self.clips[:_SHOWN]):
            if not self._originals_shown:
                log.sample(f"clip-{number}/original", step, clip, rate)
            latent = fastnet.encode(network, network.preprocess(torch.from_numpy(clip).to(device)[None, None]), dtype)
            for count in codebooks:
                z = network.quantizer(latent, count).z if count else latent
                coded = fastnet.decode(network, z, dtype)[0, 0, : len(clip)]
                log.sample(f"clip-{number}/{count}-codebooks", step, coded.float().cpu().numpy(), rate)
        self._originals_shown = True
