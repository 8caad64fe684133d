"""Codebooks by level: what is worth what, in any chunks, for rows that come and go, and with its state moved."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac import native
from streamdac.allocation import SHARES, Allocation
from streamdac.codec import Codec
from streamdac.errors import BadDataError

from .models import GEOMETRIES, codec, network, noise
from .test_streaming import CAUSAL, KINDS, chunks_of, pushed

needs_native = pytest.mark.skipif(not native.available(), reason=native.why_not() or "")
RATE, HOP = 8000, 100
few = settings(max_examples=25, deadline=None)


def at_levels(*levels_db: float, hop: int = HOP) -> npt.NDArray[np.float32]:
    """A hop of a square wave at each level, `[1, T]`."""
    wave = np.where(np.arange(hop) % 2, 1.0, -1.0)
    return np.concatenate([wave * 10 ** (db / 20) for db in levels_db])[None].astype(np.float32)


def needed(audio: npt.NDArray[np.float32], depth: int = 10, **options: Any) -> list[list[int]]:
    allocation = Allocation(len(audio), HOP, RATE, **options)
    found: list[list[int]] = allocation.needed(audio, depth).tolist()
    return found


def with_pauses(samples: int, hop: int) -> torch.Tensor:
    """Noise that is quieter by 0 to 80 dB, another level every three hops."""
    levels = torch.tensor([0.0, -80.0, -40.0, -28.0, -5.0, -60.0])
    gains = 10 ** (levels[torch.arange(samples) // (3 * hop) % len(levels)] / 20)
    return noise(samples) * gains


def test_what_is_near_the_peak_gets_all_and_silence_one() -> None:
    assert needed(at_levels(-10, -30, -30, -30, -40, -40, -40, -55, -55, -55, -90, -90, -90))[0] == [
        *[10] * 6,  # 20 dB below, and two more hops
        *[7] * 3,  # 30 dB below
        *[4] * 3,  # 45 dB below
        1,
    ]


def test_an_onset_gets_all_at_once() -> None:
    assert needed(at_levels(-20, *[-80] * 10, -20))[0] == [10, 10, 10, *[1] * 8, 10]


def test_a_quiet_speaker_is_worth_as_much_as_a_loud_one() -> None:
    levels = np.array([-10, -40, -15, -60, -60, -60, -60, -12])
    assert needed(at_levels(*levels)) == needed(at_levels(*(levels - 20)))


def test_what_stays_quiet_is_worth_all_again_after_a_while() -> None:
    hops = needed(at_levels(-10, *[-48] * 1000))[0]
    assert hops[20] == 4
    assert hops[-1] == 10
    assert hops == [*hops[:3], *sorted(hops[3:])]


def test_noise_below_the_floor_is_never_worth_much() -> None:
    assert set(needed(at_levels(*[-110] * 2000))[0]) == {1}


@pytest.mark.parametrize("depth", range(1, 17))
def test_every_class_has_at_least_one_codebook(depth: int) -> None:
    found = needed(at_levels(-10, -80, -80, -80), depth)[0]
    assert found == [depth, depth, depth, max(1, int(np.ceil(depth * SHARES[-1])))]


def test_channels_together_follow_the_one_that_needs_most() -> None:
    audio = np.concatenate([at_levels(-10, *[-90] * 7), at_levels(*[-90] * 4, *[-10] * 4)])
    apart, joint = needed(audio), needed(audio, together=True)
    assert joint[0] == joint[1] == np.max(apart, axis=0).tolist()
    assert apart[0] != apart[1]


@few
@given(parts=st.lists(st.integers(0, 350), max_size=30))
def test_chunks_do_not_matter(parts: list[int]) -> None:
    audio = with_pauses(40 * HOP, HOP).numpy()[None]
    whole = Allocation(1, HOP, RATE).needed(audio, 7)
    allocation, found, place = Allocation(1, HOP, RATE), [], 0
    for part in [*parts, audio.shape[1]]:
        chunk = audio[:, place : place + part]
        hops = (place + chunk.shape[1]) // HOP - place // HOP
        found.append(allocation.needed(chunk, 7))
        allocation.done(hops)
        place += chunk.shape[1]
    assert np.array_equal(np.concatenate(found, axis=1), whole)


@pytest.mark.parametrize("engine", ["torch", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("kind", ["causal", "causal-predicted"])
def test_every_engine_takes_no_audio_and_whole_hops(kind: str, engine: str) -> None:
    made, hop = Codec(network(kind), engine=engine), GEOMETRIES[kind].hop_length
    audio = with_pauses(30 * hop, hop)
    parts = [*audio[: 12 * hop].split(hop), audio[:0], audio[12 * hop :]]
    codes = pushed(made.encoder(vbr=True), parts)
    assert torch.equal(codes, made.encode(audio, vbr=True))
    assert 0 < int((codes < 0).sum()) < codes.numel()


@KINDS
@few
@given(data=st.data(), samples=st.integers(0, 700))
def test_streams_leave_out_what_the_whole_does(kind: str, data: st.DataObject, samples: int) -> None:
    audio = with_pauses(samples, GEOMETRIES[kind].hop_length)
    whole, every = codec(kind).encode(audio, vbr=True), codec(kind).encode(audio)
    assert torch.equal(pushed(codec(kind).encoder(vbr=True), audio.split(data.draw(chunks_of(samples)))), whole)
    if not GEOMETRIES[kind].predictor_dim:  # what is predicted depends on what was left out
        assert torch.equal(torch.where(whole < 0, every, whole), every)
    if samples > 300:
        assert 0 < int((whole < 0).sum()) < whole.numel()
        assert bool((whole[:, 0] >= 0).all())


@CAUSAL
def test_rows_that_idle_keep_their_place(kind: str) -> None:
    hop = GEOMETRIES[kind].hop_length
    audio = torch.stack([with_pauses(24 * hop, hop), with_pauses(24 * hop, hop).flip(0)])[:, None]
    encoder = codec(kind).encoder(batch=2, n_codebooks=[3, 2], vbr=True)
    wholes = [codec(kind).encode(audio[row, 0], n_codebooks=depth, vbr=True)[0] for row, depth in enumerate((3, 2))]
    found: list[list[torch.Tensor]] = [[], []]
    place = [0, 0]
    for step in range(40):
        active = [place[0] < 24 and step % 3 != 0, place[1] < 24 and step % 4 != 1]
        block = torch.stack([audio[row, :, min(place[row], 23) * hop :][:, :hop] for row in range(2)])
        codes = encoder.push(block, torch.tensor(active))
        for row in range(2):
            if active[row]:
                found[row].append(codes[row])
                place[row] += 1
    for row, whole in enumerate(wholes):
        assert torch.equal(torch.cat(found[row], dim=1)[: len(whole)], whole)


@CAUSAL
def test_a_row_that_idles_does_not_hold_the_others_up(kind: str) -> None:
    hop = GEOMETRIES[kind].hop_length
    loud, quiet = torch.full((2, 1, hop), 0.5), torch.full((2, 1, hop), 1e-5)
    both, alone = (codec(kind).encoder(batch=batch, vbr=True, together=True) for batch in (2, 1))
    both.push(loud)
    alone.push(loud[:1])
    for _ in range(20):
        codes = both.push(quiet, torch.tensor([True, False]))[0]
        assert torch.equal(codes >= 0, alone.push(quiet[:1])[0] >= 0)
    assert int((codes >= 0).sum()) == 1


@CAUSAL
def test_a_row_begins_anew_alone(kind: str) -> None:
    hop = GEOMETRIES[kind].hop_length
    audio = with_pauses(12 * hop, hop)[None, None].repeat(2, 1, 1)
    encoder = codec(kind).encoder(batch=2, vbr=True)
    first = encoder.push(audio)
    encoder.reset(rows=[1])
    second = encoder.push(audio)
    assert torch.equal(second[1], first[1])
    encoder.reset()
    assert torch.equal(encoder.push(audio), first)


@KINDS
def test_a_stream_goes_on_elsewhere(kind: str) -> None:
    hop = GEOMETRIES[kind].hop_length
    audio = with_pauses(20 * hop + 3, hop)
    whole = codec(kind).encode(audio, vbr=True)
    first, second = codec(kind).encoder(vbr=True), codec(kind).encoder()
    start = first.push(audio[: 7 * hop + 2])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.vbr
    assert torch.equal(torch.cat([start, second.push(audio[7 * hop + 2 :]), second.flush()], dim=-1), whole)
    second.load_state_dict(codec(kind).encoder().state_dict())
    assert not second.vbr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("held", torch.zeros(1, 1000)),
        ("held", torch.full((1, 2), float("nan"))),
        ("peak", torch.zeros(2, dtype=torch.float64)),
        ("due", torch.full((1, 1), 9)),
        ("last", torch.zeros(1, 2)),
        ("last", None),
    ],
)
def test_another_state_is_refused(name: str, value: object) -> None:
    encoder = codec("causal").encoder(vbr=True)
    saved = encoder.state_dict()
    saved["allocation"][name] = value
    with pytest.raises(BadDataError, match="allocation"):
        encoder.load_state_dict(saved)


@KINDS
def test_codes_of_any_depth_decode_hop_by_hop_as_whole(kind: str) -> None:
    hop = GEOMETRIES[kind].hop_length
    codes = codec(kind).encode(with_pauses(20 * hop, hop), vbr=True)
    decoder = codec(kind).decoder()
    parts = [decoder.push(frame[:, : int((frame >= 0).sum())]) for frame in codes.split(1, dim=-1)]
    audio = torch.cat([*parts, decoder.flush()], dim=-1)
    torch.testing.assert_close(audio, codec(kind).decode(codes), atol=5e-4, rtol=0)
