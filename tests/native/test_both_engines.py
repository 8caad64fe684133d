"""What holds for every executor: pushed in any pieces equals offline, rows are independent, depths are per row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from streamdac.config import CAUSAL, CENTRED
from streamdac.executor import Executor, slots_after
from streamdac.streaming import StreamDecoder, StreamEncoder

from . import models
from .models import assert_same_codes, every_engine, every_geometry, noise, random_codes, small_executor

ROUNDING = {"atol": 3e-4, "rtol": 0.0}  # of a tanh output behind random weights, which amplify it
few = models.examples(20)
pieces = st.lists(st.integers(0, 60), max_size=12)


def streams(executor: Executor, batch: int, **options: Any) -> tuple[StreamEncoder, StreamDecoder]:
    plan = small_executor(CAUSAL, "torch").plan  # type: ignore[attr-defined]
    return StreamEncoder(plan, executor, batch=batch, **options), StreamDecoder(plan, executor, batch=batch)


def hop_of(executor: Any) -> int:
    return int(executor.plan.config.hop_length)


@every_engine
@every_geometry
@few
@given(sizes=pieces, hops=st.integers(60, 90))
def test_audio_in_any_pieces_gives_the_offline_codes(engine: str, geometry: str, sizes: list[int], hops: int) -> None:
    executor, plan = small_executor(geometry, engine), models.small_plan(geometry)
    audio = noise(2, hops * plan.config.hop_length, 1)
    assert_same_codes(plan, audio, models.encode(executor, audio, sizes), models.encode(executor, audio, []))


@every_engine
@every_geometry
@few
@given(sizes=pieces, frames=st.integers(60, 80))
def test_codes_in_any_pieces_give_the_offline_audio(engine: str, geometry: str, sizes: list[int], frames: int) -> None:
    executor = small_executor(geometry, engine)
    codes = random_codes(models.small_plan(geometry), 2, frames)
    torch.testing.assert_close(models.decode(executor, codes, sizes), models.decode(executor, codes, []), **ROUNDING)


@every_engine
@pytest.mark.parametrize("geometry", [CAUSAL, CENTRED])
@few
@given(data=st.data())
def test_any_network_gives_as_much_as_its_plan_says(engine: str, geometry: str, data: st.DataObject) -> None:
    plan = models.make_plan(data.draw(models.configs(geometry)), geometry)
    executor = models.make_executor(plan, engine=engine)
    audio = noise(1, 6 * plan.config.hop_length, 1)
    codes = models.encode(executor, audio, data.draw(pieces))
    assert codes.shape == (1, plan.encoder.total(audio.shape[1]), plan.config.n_codebooks)
    assert_or_tied(plan, audio, codes, models.encode(executor, audio, []))
    pcm = models.decode(executor, codes, data.draw(pieces))
    assert pcm.shape == (1, plan.decoder.total(codes.shape[1]), 1)
    torch.testing.assert_close(pcm, models.decode(executor, codes, []), atol=2e-3, rtol=0.0)


def assert_or_tied(plan: Any, audio: Tensor, got: Tensor, wanted: Tensor) -> None:
    sure = models.sure_codes(plan, audio, wanted)
    assert torch.equal(got[sure], wanted[sure])


@every_engine
@every_geometry
@pytest.mark.parametrize("samples", [0, 1, 5])
def test_inputs_of_less_than_a_frame_give_what_the_plan_says(engine: str, geometry: str, samples: int) -> None:
    executor, plan = small_executor(geometry, engine), models.small_plan(geometry)
    for last in (False, True):
        codes = executor.encode(executor.fresh_encoder(1), noise(1, samples, 1), 2, last=last)
        count = plan.encoder.total(samples) if last else plan.encoder.ready(samples)
        assert codes.shape == (1, count, 2)
        audio = executor.decode(executor.fresh_decoder(1), random_codes(plan, 1, samples), last=last)
        assert audio.shape == (1, plan.decoder.total(samples) if last else plan.decoder.ready(samples), 1)


@every_engine
@every_geometry
@few
@given(samples=st.integers(0, 150))
def test_a_state_holds_what_geometry_says(engine: str, geometry: str, samples: int) -> None:
    executor, plan = small_executor(geometry, engine), models.small_plan(geometry)
    encoder, decoder = executor.fresh_encoder(2), executor.fresh_decoder(2)
    executor.encode(encoder, noise(2, samples, 1), 1, last=False)
    executor.decode(decoder, random_codes(plan, 2, samples), last=False)
    for part, state in ((plan.encoder, encoder), (plan.decoder, decoder)):
        plain = executor.export_state(state)
        plain.check(part, 2, samples)
        assert [slot.rows for slot in slots_after(part, samples)] == [buffer.shape[1] for buffer in plain.buffers]


@every_engine
@every_geometry
def test_many_rows_are_as_many_single_streams(engine: str, geometry: str) -> None:
    executor, plan = small_executor(geometry, engine), models.small_plan(geometry)
    audio, codes = noise(11, 40 * plan.config.hop_length, 1), random_codes(plan, 11, 40)
    depths = torch.tensor([1 + row % 4 for row in range(11)])
    together, pcm = models.encode(executor, audio, [37, 5], depths), models.decode(executor, codes, [3, 1])
    for row in range(11):
        alone = models.encode(executor, audio[row : row + 1], [37, 5], int(depths[row]))
        sure = models.sure_codes(plan, audio[row : row + 1], alone)
        assert torch.equal(together[row : row + 1, :, : depths[row]][sure], alone[sure])
        assert bool((together[row, :, depths[row] :] == -1).all())
        torch.testing.assert_close(
            pcm[row : row + 1], models.decode(executor, codes[row : row + 1], [3, 1]), **ROUNDING
        )


@every_engine
@few
@given(data=st.data())
def test_rows_idle_reset_and_change_depth_on_their_own(engine: str, data: st.DataObject) -> None:
    executor, rows = small_executor(CAUSAL, engine), 3
    hop = hop_of(executor)
    encoder, decoder = streams(executor, rows)
    own = [streams(executor, 1) for _ in range(rows)]
    for step in range(data.draw(st.integers(1, 8))):
        for row in data.draw(st.sets(st.integers(0, rows - 1))):
            encoder.reset(rows=[row])
            decoder.reset(rows=[row])
            own[row] = streams(executor, 1)
        active = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows)))
        depths = data.draw(st.lists(st.integers(1, 4), min_size=rows, max_size=rows))
        encoder.n_codebooks = depths
        audio = noise(rows, 1, hop * data.draw(st.integers(1, 3)), seed=step)
        codes = encoder.push(audio, active=active)
        pcm = decoder.push(codes)
        for row, (one, other) in enumerate(own):
            if not active[row]:
                assert bool((codes[row] == -1).all())
                assert not pcm[row].any()
                continue
            one.n_codebooks = depths[row]
            assert torch.equal(one.push(audio[row : row + 1])[0], codes[row, : depths[row]])
            assert bool((codes[row, depths[row] :] == -1).all())
            alone = other.push(codes[row : row + 1, : depths[row]])
            torch.testing.assert_close(alone[0], pcm[row], **ROUNDING)


@every_engine
def test_unused_codebooks_add_nothing(engine: str) -> None:
    executor = small_executor(CAUSAL, engine)
    codes = random_codes(models.small_plan(CAUSAL), 1, 30)
    codes[:, :, 2:] = -1
    padded, shorter = models.decode(executor, codes, []), models.decode(executor, codes[:, :, :2], [])
    torch.testing.assert_close(padded, shorter, **ROUNDING)


@every_engine
@pytest.mark.parametrize("geometry", [CAUSAL, CENTRED])
def test_a_chunk_may_be_overwritten_after_the_push(engine: str, geometry: str) -> None:
    """As a sound card's callback does with its one buffer."""
    plan, executor = models.small_plan(geometry), small_executor(geometry, engine)
    audio, buffer = noise(400), torch.zeros(4)
    encoder, wanted = StreamEncoder(plan, executor), StreamEncoder(plan, executor)
    codes = []
    for part in audio.split(4):
        buffer.copy_(part)
        codes.append(encoder.push(buffer))
        buffer.fill_(9.0)
    codes.append(encoder.flush())
    assert torch.equal(torch.cat(codes, dim=-1), torch.cat([wanted.push(audio), wanted.flush()], dim=-1))
