"""Codebooks start in use, and unused entries come back."""

from __future__ import annotations

import torch

from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.nn.quantizer import VectorQuantizer
from streamdac.training.codebooks import (
    CodebookMeans,
    CodebookUse,
    normalise_latent,
    spherical_kmeans,
    start_codebooks,
)
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


def test_a_lifted_codebook_tells_a_vector_from_its_double() -> None:
    torch.manual_seed(0)
    network = DAC(MODEL)
    single = torch.randn(2000, 16)
    latents = torch.cat([single, 4 * single])
    codes = []
    for lift in (0.0, 1.0):
        left = start_codebooks(network, latents, lift=lift)
        first = network.quantizer.quantizers[0]
        assert isinstance(first, VectorQuantizer)
        with torch.no_grad():
            found = first.search(first.in_proj(latents.t()[None]))[0]
        codes.append((left[-1], float((found[:2000] == found[2000:]).float().mean())))
    (plain_left, plain_same), (lifted_left, lifted_same) = codes
    assert plain_same == 1.0
    assert lifted_same < 0.3
    assert lifted_left < plain_left


def test_running_means_bring_entries_to_the_vectors_that_fall_on_them() -> None:
    network, latents = made()
    start_codebooks(network, normalise_latent(network, latents))
    means = CodebookMeans(3, 32, 4, decay=0.9)
    first = network.quantizer.quantizers[0]
    assert isinstance(first, VectorQuantizer)
    codes = torch.zeros(1, 3, 40, dtype=torch.int64)
    rows = torch.arange(12.0).view(1, 12, 1).expand(1, 12, 40)
    untouched = first.codebook.weight[1].clone()
    for _ in range(100):
        means.update(network, codes, rows)
    torch.testing.assert_close(first.codebook.weight[0], torch.arange(4.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(first.codebook.weight[1], untouched, rtol=1e-4, atol=1e-5)


def test_a_moved_entry_starts_its_mean_from_where_it_is() -> None:
    network, latents = made()
    start_codebooks(network, normalise_latent(network, latents))
    means = CodebookMeans(3, 32, 4, decay=0.9)
    codes, rows = torch.zeros(1, 3, 32, dtype=torch.int64), torch.ones(1, 12, 32)
    means.update(network, codes, rows)
    first = network.quantizer.quantizers[0]
    assert isinstance(first, VectorQuantizer)
    with torch.no_grad():
        first.codebook.weight[5] = 7.0
    means.forget(0, torch.tensor([5]))
    means.update(network, codes, rows)
    torch.testing.assert_close(first.codebook.weight[5], torch.full((4,), 7.0))


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
