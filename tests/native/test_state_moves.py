"""A stream goes on in another executor where the first one left it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamdac.config import CAUSAL, CENTRED
from streamdac.errors import BadDataError
from streamdac.executor import Executor, State
from streamdac.native_executor import NativeExecutor
from streamdac.streaming import StreamDecoder, StreamEncoder

from . import models
from .models import assert_same_codes, every_geometry, needs_native, noise, random_codes, small_executor

pytestmark = needs_native

ways = pytest.mark.parametrize(
    "way", [("torch", "native"), ("native", "torch"), ("native", "native"), ("torch", "native", "torch", "native")]
)
few = models.examples(15)


@ways
@every_geometry
@few
@given(cuts=st.lists(st.integers(0, 540), min_size=3, max_size=3).map(sorted))
def test_mid_stream_between_executors(way: Sequence[str], geometry: str, cuts: list[int]) -> None:
    plan = models.small_plan(geometry)
    audio, codes = noise(2, 540, 1), random_codes(plan, 2, 90)
    executors = [small_executor(geometry, engine) for engine in way]
    found = relay(executors, audio, cuts, decoder=False)
    assert_same_codes(plan, audio, found, models.encode(small_executor(geometry, "native"), audio, []))
    heard = relay(executors, codes, [cut // 6 for cut in cuts], decoder=True)
    wanted = models.decode(small_executor(geometry, "native"), codes, [])
    torch.testing.assert_close(heard, wanted, atol=3e-4, rtol=0.0)
    if set(way) == {"native"}:
        assert torch.equal(heard, wanted)


def relay(executors: list[Executor], x: torch.Tensor, cuts: list[int], *, decoder: bool) -> torch.Tensor:
    """Each executor takes a part of `x` and hands its state on."""
    parts = x.tensor_split(cuts[: len(executors) - 1], dim=1)
    first = executors[0]
    plain = first.export_state(first.fresh_decoder(2) if decoder else first.fresh_encoder(2))
    out = []
    for index, (executor, part) in enumerate(zip(executors, parts, strict=True)):
        state: Any = executor.import_state(plain, decoder=decoder)
        last = index + 1 == len(parts)
        if decoder:
            out.append(executor.decode(state, part, last=last))
        else:
            out.append(executor.encode(state, part, 4, last=last))
        plain = executor.export_state(state)
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("geometry", [CAUSAL, CENTRED])
@pytest.mark.parametrize(("here", "there"), [("torch", "native"), ("native", "torch"), ("native", "native")])
@few
@given(cut=st.integers(0, 540))
def test_a_saved_stream_is_restored_by_the_other_engine(geometry: str, here: str, there: str, cut: int) -> None:
    plan, audio = models.small_plan(geometry), noise(540)
    start, goal = small_executor(geometry, here), small_executor(geometry, there)
    encoder, decoder = StreamEncoder(plan, start), StreamDecoder(plan, start)
    codes = [encoder.push(audio[:cut])]
    pcm = [decoder.push(codes[0])]
    stored = io.BytesIO()
    torch.save([encoder.state_dict(), decoder.state_dict()], stored)
    encoder.push(audio[cut:])  # what was saved is a copy
    stored.seek(0)
    encoder, decoder = StreamEncoder(plan, goal), StreamDecoder(plan, goal)
    for stream, saved in zip((encoder, decoder), torch.load(stored, weights_only=True), strict=True):
        stream.load_state_dict(saved)
    codes += [encoder.push(audio[cut:]), encoder.flush()]
    pcm += [decoder.push(part) for part in codes[1:]]
    pcm.append(decoder.flush())
    whole = torch.cat(codes, dim=-1)
    assert_same_codes(plan, audio[None, :, None], whole.transpose(1, 2), models.encode(goal, audio[None, :, None], []))
    wanted = models.decode(goal, whole.transpose(1, 2), [])
    torch.testing.assert_close(torch.cat(pcm, dim=-1).transpose(1, 2), wanted, atol=3e-4, rtol=0.0)


@every_geometry
@pytest.mark.parametrize("decoder", [False, True])
def test_a_copy_goes_its_own_way(geometry: str, decoder: bool) -> None:
    executor = models.native_executor(geometry)
    state: Any = executor.fresh_decoder(2) if decoder else executor.fresh_encoder(2)
    x = random_codes(executor.plan, 2, 90) if decoder else noise(2, 540, 1)

    def run(state: Any, x: torch.Tensor, last: bool) -> torch.Tensor:
        return executor.decode(state, x, last=last) if decoder else executor.encode(state, x, 4, last=last)

    run(state, x[:, :50], False)
    copy, rows = state.copy(), state.rows(torch.tensor([1]))
    rest = run(state, x[:, 50:], True)
    run(rows, x[1:, 50:], True)
    assert torch.equal(run(copy, x[:, 50:], True), rest)


def test_rows_out_of_step_are_refused() -> None:
    executor = models.native_executor(CENTRED)
    state = executor.fresh_encoder(2)
    part = state.rows(torch.tensor([0]))
    executor.encode(part, noise(1, 5, 1), 1, last=False)
    with pytest.raises(ValueError, match="rows not in step"):
        state.put_rows(torch.tensor([0]), part)
    for bad in ([2], [-1]):
        with pytest.raises(ValueError, match=r"row -?\d of 2"):
            state.rows(torch.tensor(bad))
    with pytest.raises(ValueError, match="no rows"):
        state.rows(torch.tensor([], dtype=torch.int64))


def test_a_state_of_another_plan_or_part_is_refused() -> None:
    one, other = models.native_executor(CAUSAL), NativeExecutor(models.small_plan(CAUSAL, 1))
    for state in (other.fresh_encoder(1), one.fresh_decoder(1)):
        with pytest.raises(ValueError, match="belongs to another plan or part"):
            one.encode(state, noise(1, 6, 1), 1, last=False)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: s.buffers.pop(),
        lambda s: s.drops.pop(),
        lambda s: s.drops.__setitem__(0, -1),
        lambda s: s.drops.__setitem__(0, 1 << 62),
        lambda s: s.buffers.__setitem__(0, torch.zeros(1, 3, 2)),
        lambda s: s.buffers.__setitem__(0, torch.zeros(2, 3, 1)),
        lambda s: s.buffers.__setitem__(0, torch.zeros(3)),
    ],
)
@pytest.mark.parametrize("decoder", [False, True])
def test_a_spoilt_state_is_an_error(spoil: Any, decoder: bool) -> None:
    executor = models.native_executor(CENTRED)
    plain = executor.export_state(executor.fresh_decoder(1) if decoder else executor.fresh_encoder(1))
    spoil(plain)
    with pytest.raises(ValueError, match=r"state|buffer|drop"):
        executor.import_state(plain, decoder=decoder)


@few
@given(data=st.data(), decoder=st.booleans(), geometry=st.sampled_from(models.GEOMETRIES))
def test_a_state_of_any_shape_is_an_error_or_runs(data: st.DataObject, decoder: bool, geometry: str) -> None:
    """Rows and counts at random: refused, or pushed without touching anything it should not (see sanitize.sh)."""
    executor = models.native_executor(geometry)
    plain = executor.export_state(executor.fresh_decoder(1) if decoder else executor.fresh_encoder(1))
    buffers = [
        torch.zeros(1, data.draw(st.integers(0, 40)), b.shape[2]) if data.draw(st.booleans()) else b
        for b in plain.buffers
    ]
    drops = [data.draw(st.integers(0, drop)) for drop in plain.drops]
    with suppress(ValueError):
        state = executor.import_state(State(buffers, drops), decoder=decoder)
        for last in (False, True):
            if decoder:
                assert executor.decode(state, random_codes(executor.plan, 1, 40), last=last).isfinite().all()
            else:
                executor.encode(state, noise(1, 240, 1), 4, last=last)


def test_a_stream_refuses_a_state_that_no_stream_can_be_in() -> None:
    plan, executor = models.small_plan(CENTRED), small_executor(CENTRED, "native")
    encoder = StreamEncoder(plan, executor)
    encoder.push(noise(200))
    saved = encoder.state_dict()
    with pytest.raises(BadDataError, match="need floats"):
        StreamEncoder(plan, executor).load_state_dict(
            {**saved, "samples": saved["samples"] - 6, "buffers": [b[:, :-1] for b in saved["buffers"]]}
        )
    with pytest.raises(BadDataError, match="after -6 samples"):
        StreamEncoder(plan, executor).load_state_dict({**saved, "samples": -6})
