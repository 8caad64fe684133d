"""Codebooks start in use, and unused entries come back."""

from __future__ import annotations

import torch

from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.training.codebooks import CodebookUse, normalise_latent, spherical_kmeans, start_codebooks
from streamdac.training.optim import AveragedWeights, Optimizers
from streamdac.training.recipe import Recipe

MODEL = ModelConfig(
    encoder_dim=4,
    encoder_rates=(2, 2),
    latent_dim=16,
    decoder_dim=16,
    decoder_rates=(2, 2),
    n_codebooks=3,
    codebook_size=32,
    codebook_dim=4,
)


def made() -> tuple[DAC, torch.Tensor]:
    torch.manual_seed(0)
    network = DAC(MODEL)
    audio = torch.randn(2, 1, 4000)
    with torch.no_grad():
        latents = network.encoder(audio).transpose(1, 2).flatten(0, 1)
    return network, latents


def test_normalising_the_latent_does_not_change_the_audio() -> None:
    network, latents = made()
    audio = torch.randn(1, 1, 800)
    with torch.no_grad():
        before = network.decoder(network.encoder(audio))
        normalised = normalise_latent(network, latents)
        after = network.decoder(network.encoder(audio))
        again = network.encoder(torch.randn(2, 1, 4000)).transpose(1, 2).flatten(0, 1)
    edge = 400  # the decoder's first layer pads with zeros, which used to mean the latent's mean
    torch.testing.assert_close(after[..., edge:], before[..., edge:], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(normalised.std(0), torch.ones(16))
    assert again.mean(0).abs().max() < 0.3


def test_each_codebook_takes_variance_away_and_most_entries_are_used() -> None:
    network, latents = made()
    normalised = normalise_latent(network, latents)
    left = start_codebooks(network, normalised)
    assert all(later < earlier for earlier, later in zip([1.0, *left], left, strict=False))
    network.eval()
    with torch.no_grad():
        quantised = network.quantizer(normalised.t()[None])
    assert float((quantised.z - normalised.t()).square().mean()) < 1.05 * left[-1] * float(normalised.square().mean())
    for row in quantised.codes[0]:
        assert len(row.unique()) > 24


def test_kmeans_copes_with_fewer_rows_than_clusters() -> None:
    centres = spherical_kmeans(torch.randn(5, 4), 32)
    assert centres.shape == (32, 4)
    assert torch.isfinite(centres).all()
    assert (centres.norm(dim=1) > 0).all()


def test_unused_entries_move_to_latents_and_used_ones_stay() -> None:
    network, _ = made()
    optimizers, average = Optimizers(network, Recipe(model=MODEL)), AveragedWeights(network, 0.9)
    use = CodebookUse(3, 32)
    for _ in range(300):
        use.update(torch.randint(0, 16, (2, 3, 50)))  # the upper half is never used
    assert float(use.perplexity().max()) < 17
    books = [q.codebook.weight for q in network.quantizer.quantizers]  # type: ignore[union-attr]
    before = [book.detach().clone() for book in books]
    latents = 5 + torch.randn(2, 12, 50)
    assert use.restart_unused(network, latents, 0.1, optimizers, average) == 3 * 16
    for index, (book, old) in enumerate(zip(books, before, strict=True)):
        assert torch.equal(book[:16], old[:16])
        assert book[16:].mean().item() > 4
        assert torch.equal(average.values[f"quantizer.quantizers.{index}.codebook.weight"][16:], book[16:])
    assert use.restart_unused(network, latents, 0.1, optimizers, average) == 0


def test_half_whitening_keeps_some_of_the_spread_and_the_audio() -> None:
    network, latents = made()
    audio = torch.randn(1, 1, 800)
    with torch.no_grad():
        before = network.decoder(network.encoder(audio))
        normalised = normalise_latent(network, latents, 0.5)
        after = network.decoder(network.encoder(audio))
    torch.testing.assert_close(after[..., 400:], before[..., 400:], rtol=1e-3, atol=1e-4)
    wanted = latents.std(0) ** 0.5
    torch.testing.assert_close(normalised.std(0) / wanted, (normalised.std(0) / wanted).mean().expand(16))
    assert abs(normalised.square().mean().item() - 1) < 0.05
