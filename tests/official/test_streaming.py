"""The official models streamed: codes and audio of the offline model, for any chunks, at both edges and from the middle."""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.codec import Codec
from tests.golden.cases import Golden, assert_codes, cases
from tests.native.models import sure_codes

from .models import codec, models

ENGINES = ("torch", "native")
AUDIO_TOLERANCE = 5e-5  # random codes drive these networks hard

Array = npt.NDArray[np.float32]


def noise(samples: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, samples).astype(np.float32)


def encoded(model: Codec, audio: Array, cuts: list[int]) -> npt.NDArray[np.int64]:
    stream = model.encoder()
    parts = [np.asarray(stream.push(part)) for part in np.split(audio, cuts)]
    return np.concatenate([*parts, np.asarray(stream.flush())], axis=2)


def decoded(model: Codec, codes: npt.NDArray[np.int64], cuts: list[int]) -> Array:
    stream = model.decoder()
    parts = [np.asarray(stream.push(part)) for part in np.split(codes, cuts, axis=2)]
    return np.concatenate([*parts, np.asarray(stream.flush())], axis=2)


def random_cuts(end: int, seed: int, most: int) -> list[int]:
    """Some of them equal, so that some chunks are empty."""
    rng = np.random.default_rng(seed)
    return sorted(int(cut) for cut in rng.integers(0, end + 1, rng.integers(0, most)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("golden", "case"), cases("encode", padding=True, batch=1))
def test_streamed_codes_are_the_official_ones(golden: Golden, case: dict[str, object], engine: str) -> None:
    """The reference cases begin and end with signal: both edges are in each of them."""
    model, arrays = codec(golden, str(case["model"]), engine), golden.arrays(str(case["file"]))
    audio, depth = arrays["x"][0, 0], arrays["codes"].shape[1]
    for seed in range(2):
        found = encoded(model, audio, random_cuts(len(audio), seed, 40))
        assert_codes(found[:, :depth], arrays["codes"], arrays["margin"], limit=3e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("golden", "model"), models())
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_streaming_is_offline(golden: Golden, model: str, engine: str, data: st.DataObject) -> None:
    found = codec(golden, model, engine)
    hop = found.hop_length
    samples = data.draw(st.integers(1, 12 * hop), label="samples")
    audio = noise(samples, data.draw(st.integers(0, 99), label="seed"))
    cuts = sorted(data.draw(st.lists(st.integers(0, samples), max_size=30), label="cuts"))
    offline = np.asarray(found.encode(audio))
    assert offline.shape[2] == -(-samples // hop)
    streamed = encoded(found, audio, cuts)
    if engine == "native":  # sums in one order, however it is cut
        np.testing.assert_array_equal(streamed, offline)
    else:
        padded = torch.nn.functional.pad(torch.from_numpy(audio), (0, -samples % hop))[None, :, None]
        sure = sure_codes(found.plan, padded, torch.from_numpy(offline).transpose(1, 2)).transpose(1, 2).numpy()
        np.testing.assert_array_equal(streamed[sure], offline[sure])
        assert streamed.shape == offline.shape
    frames = sorted(data.draw(st.lists(st.integers(0, offline.shape[2]), max_size=6), label="frames"))
    np.testing.assert_allclose(
        decoded(found, offline, frames), np.asarray(found.decode(offline)), rtol=0, atol=AUDIO_TOLERANCE
    )


@pytest.mark.parametrize(("golden", "model"), models())
def test_look_ahead_is_what_the_stream_waits_for(golden: Golden, model: str) -> None:
    """One sample at a time around the first code, one frame at a time for the first sample after the edge."""
    found = codec(golden, model, "torch")
    hop, plan = found.hop_length, found.plan
    stream = found.encoder()
    needed = hop + plan.encoder_lookahead
    assert np.asarray(stream.push(noise(needed - 1))).shape[2] == 0
    assert np.asarray(stream.push(noise(1))).shape[2] == 1
    decoder, frames = found.decoder(), 40
    given = np.asarray(decoder.push(np.zeros((1, 1, frames), np.int64))).shape[2]
    assert frames * hop - given == plan.decoder_lookahead
    assert found.lookahead == plan.encoder_lookahead + plan.decoder_lookahead


@pytest.mark.parametrize(("golden", "model"), models())
def test_first_code_sees_the_look_ahead_and_nothing_after_it(golden: Golden, model: str) -> None:
    found = codec(golden, model, "torch")
    hop = found.hop_length
    last = hop + found.plan.encoder_lookahead - 1
    audio = torch.from_numpy(noise(last + 4 * hop))
    audio = torch.nn.functional.pad(audio, (0, -len(audio) % hop))[None, None].double().requires_grad_()
    copy.deepcopy(golden.network(model).encoder).double()(audio)[:, :, 0].sum().backward()
    assert audio.grad is not None
    assert int(audio.grad[0, 0].nonzero().max()) == last


@pytest.mark.parametrize(
    ("model", "encoder_ms", "round_trip_ms"),
    [("m44lat", 84.6, 204), ("m44", 84.6, 204), ("m24", None, 248), ("m16", None, 372)],
)
def test_look_ahead_of_the_official_layouts(model: str, encoder_ms: float | None, round_trip_ms: float) -> None:
    """Measured on a prototype; here it follows from the plan."""
    sets = {param.values[1]: param.values[0] for param in models()}
    if model not in sets:
        pytest.skip(f"the weights of {model} are not at hand")
    found = codec(sets[model], model, "torch")  # type: ignore[arg-type]
    rate = found.sample_rate
    if encoder_ms is not None:
        assert round(1000 * found.plan.encoder_lookahead / rate, 1) == encoder_ms
    assert round(1000 * (found.hop_length + found.lookahead) / rate) == round_trip_ms


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("golden", "model"), models())
def test_decoder_joins_a_running_stream(golden: Golden, model: str, engine: str) -> None:
    found = codec(golden, model, engine)
    context, hop, frames = found.plan.decoder_context, found.hop_length, 60
    rng = np.random.default_rng(0)
    codes = rng.integers(0, found.codebook_size, (1, found.n_codebooks, frames))
    whole = np.asarray(found.decode(codes))
    for start in (1, 17, 30):
        joined = decoded(found, codes[:, :, start:], [5, 5, 20])
        exact = context * hop
        np.testing.assert_allclose(
            joined[:, :, exact:], whole[:, :, start * hop + exact :], rtol=0, atol=AUDIO_TOLERANCE
        )
        # And not before: the context is no larger than it must be.
        hop_before = slice(exact - hop, exact)
        shifted = slice(start * hop + exact - hop, start * hop + exact)
        if start >= context:
            assert np.abs(joined[:, :, hop_before] - whole[:, :, shifted]).max() > 1e-7


@pytest.mark.parametrize(("golden", "model"), models())
def test_audio_needs_only_the_codes_of_its_receptive_field(golden: Golden, model: str) -> None:
    found = codec(golden, model, "torch")
    context, hop, frames, at = found.plan.decoder_context, found.hop_length, 50, 25
    after = -(-found.plan.decoder_lookahead // hop)
    codes = np.random.default_rng(0).integers(0, found.codebook_size, (1, found.n_codebooks, frames))
    part = codes[:, :, at - context : at + after + 1]
    whole, alone = np.asarray(found.decode(codes)), np.asarray(found.decode(part))
    np.testing.assert_allclose(
        alone[:, :, context * hop : (context + 1) * hop],
        whole[:, :, at * hop : (at + 1) * hop],
        rtol=0,
        atol=AUDIO_TOLERANCE,
    )
    if model.startswith("m44"):
        assert (context, after) == (10, 10)
