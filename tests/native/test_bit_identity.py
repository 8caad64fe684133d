"""Codes and audio from the native executor are the same to the last bit, however they were computed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from streamdac.config import CAUSAL, ModelConfig
from streamdac.native_executor import NativeExecutor

from . import models
from .models import every_geometry, every_isa, needs_native, noise, random_codes

pytestmark = needs_native

few = models.examples(20)
pieces = st.lists(st.integers(0, 80), max_size=12)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Unlike `torch.equal`, tells 0 from -0."""
    return a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


@every_isa
@every_geometry
@few
@given(sizes=pieces, batch=st.integers(1, 10), hops=st.integers(60, 80))
def test_for_any_pieces_and_any_number_of_streams(
    isa: str, geometry: str, sizes: list[int], batch: int, hops: int
) -> None:
    plan, executor = models.small_plan(geometry), _executor(geometry, isa, 1)
    audio, codes = noise(batch, hops * plan.config.hop_length, 1), random_codes(plan, batch, hops)
    found, heard = models.encode(executor, audio, sizes), models.decode(executor, codes, sizes)
    assert found.shape[1] > 0
    assert heard.shape[1] > 0
    for row in {0, batch - 1}:
        assert same_bits(found[row : row + 1], models.encode(executor, audio[row : row + 1], []))
        assert same_bits(heard[row : row + 1], models.decode(executor, codes[row : row + 1], []))


@every_isa
@every_geometry
@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_for_any_number_of_threads(isa: str, geometry: str, threads: int, batch: int) -> None:
    plan, one, many = models.small_plan(geometry), _executor(geometry, isa, 1), _executor(geometry, isa, threads)
    audio, codes = noise(batch, 90 * plan.config.hop_length, 1), random_codes(plan, batch, 90)
    for sizes in ([], [7] * 15, [plan.config.hop_length] * 20):
        assert same_bits(models.encode(many, audio, sizes), models.encode(one, audio, []))
        assert same_bits(models.decode(many, codes, sizes), models.decode(one, codes, []))


def _executor(geometry: str, isa: str, threads: int, made: dict[Any, NativeExecutor] = {}) -> NativeExecutor:  # noqa: B006
    """Kept: threads are started once."""
    key = geometry, isa, threads
    if key not in made:
        made[key] = NativeExecutor(models.small_plan(geometry), threads, isa=isa)
    return made[key]


@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("geometry", [CAUSAL, models.HALVED])
def test_for_layers_larger_than_the_cache(isa: str, geometry: str) -> None:
    """Weights and sums in blocks, gathered rows, panels of every width."""
    from streamdac import native

    if isa not in native.instruction_sets():
        pytest.skip(f"this machine has no {isa}")
    config = ModelConfig(encoder_dim=400, encoder_rates=(2,), latent_dim=20, decoder_dim=800, decoder_rates=(2,))
    plan = models.make_plan(config, geometry)
    audio, codes = noise(9, 40, 1), random_codes(plan, 9, 20)
    one, two = NativeExecutor(plan, isa=isa), NativeExecutor(plan, 2, isa=isa)
    found, heard = models.encode(one, audio[:1], []), models.decode(one, codes[:1], [])
    for executor, sizes in ((one, [2] * 3), (two, [1, 17])):
        assert same_bits(models.encode(executor, audio, sizes)[:1], found)
        assert same_bits(models.decode(executor, codes, sizes)[:1], heard)
        assert same_bits(models.encode(executor, audio[:1], sizes), found)
        assert same_bits(models.decode(executor, codes[:1], sizes), heard)


@pytest.mark.parametrize("threads", [1, 2])
def test_for_streams_pushed_from_several_threads_at_once(threads: int) -> None:
    executor = _executor(CAUSAL, models.native.instruction_sets()[0], threads)
    plan, results = models.small_plan(CAUSAL), {}
    audio = noise(4, 300, 1)

    def run(row: int) -> None:
        codes = models.encode(executor, audio[row : row + 1], [6] * 40)
        results[row] = codes, models.decode(executor, codes, [1] * 30)

    workers = [threading.Thread(target=run, args=(row,)) for row in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for row in range(4):
        codes = models.encode(executor, audio[row : row + 1], [])
        assert same_bits(results[row][0], codes)
        assert same_bits(results[row][1], models.decode(executor, codes, []))
    assert plan.config.hop_length == 6


def test_one_state_in_two_threads_is_refused_not_raced() -> None:
    config = ModelConfig(encoder_dim=32, encoder_rates=(4, 4), latent_dim=64, decoder_dim=64, decoder_rates=(4, 4))
    executor = NativeExecutor(models.make_plan(config, CAUSAL))
    state, audio = executor.fresh_encoder(1), noise(1, 100_000, 1)
    refused: list[str] = []
    worker = threading.Thread(target=lambda: executor.encode(state, audio, 1, last=False))
    worker.start()
    while worker.is_alive() and not refused:
        try:
            executor.export_state(state)
        except RuntimeError as error:
            refused.append(str(error))
    worker.join()
    assert refused == ["the state is in use by another thread"]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("threads", [1, 2])
def test_after_a_fork(threads: int) -> None:
    """Threads do not survive a fork: a child starts its own."""
    import multiprocessing

    executor = _executor(CAUSAL, models.native.instruction_sets()[0], threads)
    codes = models.encode(executor, noise(1, 120, 1), [])
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(models.encode(executor, noise(1, 120, 1), []).numpy()))
    child.start()
    got = torch.from_numpy(queue.get(timeout=60))
    child.join()
    assert same_bits(got, codes)
