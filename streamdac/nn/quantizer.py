"""Residual vector quantisation with factorised, L2-normalised codes (van den Oord 2017; Yu 2021; DAC section 3.2).

The training path: losses, straight-through gradients, quantiser dropout. Streaming uses `streamdac.plan` instead, which
folds the same parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..config import ModelConfig
from .layers import Conv, ConvGeometry
from .prediction import Predictor


class Quantized(NamedTuple):
    """What `ResidualQuantizer` returns, in the official order."""

    z: Tensor
    """Quantised latent `[B, D, T]`."""
    codes: Tensor
    """int64 `[B, K, T]`."""
    latents: Tensor
    """Projected residuals before quantisation `[B, K * codebook_dim, T]`."""
    commitment_loss: Tensor
    codebook_loss: Tensor


class Foretold(NamedTuple):
    """How well the predictor does, as shares of the latent's energy. Gradients of both move the predictor alone."""

    unforeseen: Tensor
    """What it did not foresee."""
    drift: Tensor
    """By how much its predictions change where frames were lost, some of a few at once, or all before one."""


class VectorQuantizer(nn.Module):
    """One codebook: project to a few dimensions, take the nearest entry by cosine, project back."""

    def __init__(self, latent_dim: int, codebook_size: int, codebook_dim: int) -> None:
        super().__init__()
        self.in_proj = Conv(latent_dim, codebook_dim, ConvGeometry(1))
        self.out_proj = Conv(codebook_dim, latent_dim, ConvGeometry(1))
        rows = torch.empty(codebook_size, codebook_dim)
        if not rows.is_meta:  # where random numbers have no meaning, and making them imports seconds' worth of torch
            rows.normal_()
        self.codebook = nn.Embedding.from_pretrained(rows, freeze=False)

    def search(self, z_e: Tensor) -> Tensor:
        """Nearest entry by cosine, the first of equals: z_e `[B, codebook_dim, T]` -> codes `[B, T]`."""
        rows = F.normalize(z_e.transpose(1, 2).float(), dim=-1)
        return (rows @ F.normalize(self.codebook.weight.float(), dim=-1).t()).argmax(dim=-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """Codebook rows, not normalised: codes `[B, T]` -> `[B, codebook_dim, T]`."""
        rows: Tensor = self.codebook(codes)
        return rows.transpose(1, 2)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """z `[B, D, T]` -> quantised z, commitment loss `[B]`, codebook loss `[B]`, codes `[B, T]`, latents `[B, d, T]`."""
        z_e = self.in_proj(z)
        codes = self.search(z_e)
        z_q = self.lookup(codes)
        commitment = F.mse_loss(z_e, z_q.detach(), reduction="none").mean([1, 2])
        codebook = F.mse_loss(z_q, z_e.detach(), reduction="none").mean([1, 2])
        straight_through = z_e + (z_q - z_e).detach()
        return self.out_proj(straight_through), commitment, codebook, codes, z_e


class ResidualQuantizer(nn.Module):
    """Codebooks in a row, each quantising what the ones before left over.

    Parameter names are the official `quantizer.quantizers.N....`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.n_codebooks = config.n_codebooks
        self.codebook_size = config.codebook_size
        self.codebook_dim = config.codebook_dim
        self.quantizer_dropout = config.quantizer_dropout
        self.quantizers = nn.ModuleList(
            VectorQuantizer(config.latent_dim, config.codebook_size, config.codebook_dim)
            for _ in range(config.n_codebooks)
        )
        self.predictor_codebooks = config.predictor_codebooks
        self.predictor = Predictor(config.latent_dim, config.predictor_dim) if config.predictor_dim else None

    def _depths(self, batch: int, n_codebooks: int | None, device: torch.device) -> Tensor:
        """How many codebooks each item uses: `[B]`. In training the first share of items gets a random number."""
        if not self.training:
            wanted = self.n_codebooks if n_codebooks is None else min(n_codebooks, self.n_codebooks)
            return torch.full((batch,), wanted, device=device)
        depths = torch.full((batch,), self.n_codebooks + 1)
        dropped = int(batch * self.quantizer_dropout)
        random = torch.randint(
            1, self.n_codebooks + 1, (batch,)
        )  # drawn for all, as the official code does: same seed, same depths
        depths[:dropped] = random[:dropped]
        return depths.to(device)

    def forward(self, z: Tensor, n_codebooks: int | None = None) -> Quantized:
        """z `[B, D, T]`; `n_codebooks` is used in eval mode, random depths in training."""
        depths = self._depths(z.shape[0], n_codebooks, z.device)
        if self.predictor is None:
            return self._quantize(z, depths, n_codebooks)
        return self._predicted(z, self.predictor(self.told(z, depths)[:, :-1]), depths, n_codebooks)

    def foretold(self, z: Tensor) -> tuple[Quantized, Foretold]:
        """As `forward`, in training; all zeros without a predictor."""
        depths = self._depths(z.shape[0], None, z.device)
        if self.predictor is None:
            return self._quantize(z, depths, None), Foretold(z.new_zeros(()), z.new_zeros(()))
        told = self.told(z, depths)
        expected = self.predictor(told[:, :-1])
        added = told[:, 1:, : z.shape[1]] - expected.detach()
        elsewhere = self.predictor(self.predictor.told_with_losses(added))
        energy = z.detach().square().mean().clamp_min(1e-6)
        unforeseen = F.mse_loss(expected, z.detach().transpose(1, 2)) / energy
        drift = F.mse_loss(elsewhere, expected.detach()) / energy
        return self._predicted(z, expected, depths, None), Foretold(unforeseen, drift)

    def _predicted(self, z: Tensor, expected: Tensor, depths: Tensor, n_codebooks: int | None) -> Quantized:
        """z `[B, D, T]` where `[B, T, D]` is expected, which counts as given."""
        expected = expected.detach().transpose(1, 2)
        quantized = self._quantize(z - expected, depths, n_codebooks)
        return quantized._replace(z=quantized.z + expected)

    def _quantize(self, z: Tensor, depths: Tensor, n_codebooks: int | None) -> Quantized:
        residual, z_q = z, torch.zeros_like(z)
        commitment = codebook = z.new_zeros(())
        codes, latents = [], []
        for index, quantizer in enumerate(self.quantizers):
            if not self.training and n_codebooks is not None and index >= n_codebooks:
                break
            z_i, commitment_i, codebook_i, codes_i, latents_i = quantizer(residual)
            used = (depths > index).to(z.dtype)
            z_q = z_q + z_i * used[:, None, None]
            residual = residual - z_i
            commitment = commitment + (commitment_i * used).mean()
            codebook = codebook + (codebook_i * used).mean()
            codes.append(codes_i)
            latents.append(latents_i)
        return Quantized(z_q, torch.stack(codes, dim=1), torch.cat(latents, dim=1), commitment, codebook)

    @torch.no_grad()
    def told(self, z: Tensor, depths: Tensor) -> Tensor:
        """What the predictor is told of each frame of z `[B, D, T]`, coded with `depths` `[B]`, and of the one after them.

        `[B, T + 1, FRAMES * D]`.
        """
        assert self.predictor is not None
        books = [self._quantizer(i) for i in range(min(int(depths.max()), self.n_codebooks, self.predictor_codebooks))]
        into = [(book.in_proj.weight[:, :, 0].t(), book.in_proj.bias) for book in books]
        directions = [F.normalize(book.codebook.weight.float(), dim=-1).t().contiguous() for book in books]
        vectors = [book.codebook.weight @ book.out_proj.weight[:, :, 0].t() + book.out_proj.bias for book in books]
        used = [(depths > index).to(z.dtype)[:, None] for index in range(len(books))]
        told = [self.predictor.start(z.shape[0], z)]
        for frame in z.unbind(dim=2):
            coarse = self.predictor(told[-1])
            residual = frame - coarse
            for (weight, bias), toward, vector, share in zip(into, directions, vectors, used, strict=True):
                chosen = vector[(torch.addmm(bias, residual, weight).float() @ toward).argmax(dim=1)]
                residual = residual - chosen
                coarse = torch.addcmul(coarse, chosen, share)
            told.append(self.predictor.after(told[-1], coarse))
        return torch.stack(told, dim=1)

    def from_codes(self, codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """codes `[B, K, T]` -> quantised z `[B, D, T]`, the codebook rows `[B, K * codebook_dim, T]`, the codes."""
        rows = [self._quantizer(i).lookup(codes[:, i]) for i in range(codes.shape[1])]
        parts = torch.stack([self._quantizer(i).out_proj(row) for i, row in enumerate(rows)])
        z = parts.sum(0)
        if self.predictor is not None:
            z = z + self.predictor.expected(parts[: self.predictor_codebooks].sum(0))
        return z, torch.cat(rows, dim=1), codes

    def from_latents(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents `[B, K' * codebook_dim, T]` of the first K' codebooks -> z `[B, D, T]`, quantised rows, codes."""
        parts = latents.split(self.codebook_dim, dim=1)
        codes = torch.stack([self._quantizer(i).search(part) for i, part in enumerate(parts)], dim=1)
        return self.from_codes(codes)

    def _quantizer(self, index: int) -> VectorQuantizer:
        found = self.quantizers[index]
        assert isinstance(found, VectorQuantizer)
        return found
