"""The official programmatic use: the network's parts, compress and decompress, archives."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import streamdac
from streamdac.compress import compress_file
from streamdac.engine import unpadded_plan
from streamdac.errors import BadDataError, NoInputError, UnavailableError, UsageError
from streamdac.plan import build_plan
from tests.golden.cases import Golden, assert_codes, cases

from .models import SUBSET, codec, models

TOLERANCE = 1e-4


@pytest.mark.parametrize(("golden", "case"), cases("encode", padding=True))
def test_official_calls_give_the_official_values(golden: Golden, case: dict[str, Any]) -> None:
    network, arrays = streamdac.load_network(golden.weights(case["model"])), golden.arrays(case["file"])
    x = torch.from_numpy(arrays["x"])
    with torch.no_grad():
        padded = network.preprocess(x, network.sample_rate)
        z, codes, latents, commitment_loss, codebook_loss = network.encode(padded, case["n_quantizers"])
        audio = network.decode(z)
    assert padded.shape[-1] % network.hop_length == 0
    assert_codes(codes.numpy(), arrays["codes"], arrays["margin"], 3e-5)
    assert float(commitment_loss) == pytest.approx(case["commitment_loss"], rel=1e-4)
    assert float(codebook_loss) == pytest.approx(case["codebook_loss"], rel=1e-4)
    if (codes.numpy() == arrays["codes"]).all():
        for found, name in ((z, "z_q"), (latents, "latents"), (audio[..., : x.shape[-1]], "audio")):
            if name in arrays:
                np.testing.assert_allclose(found, arrays[name], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("golden", "model"), models())
def test_latents_move_between_network_and_codec(golden: Golden, model: str) -> None:
    network, found = golden.network(model), codec(golden, model, "torch")
    audio = torch.rand(2, 1, 8 * found.hop_length) - 0.5
    with torch.no_grad():
        z, codes, latents, _, _ = network.encode(audio)
        from_codes = network.quantizer.from_codes(found.encode(audio))[0]
        from_latents, _, same = network.quantizer.from_latents(latents)
    torch.testing.assert_close(from_codes, z, atol=TOLERANCE, rtol=0.0)
    torch.testing.assert_close(from_latents, z, atol=TOLERANCE, rtol=0.0)
    assert torch.equal(same, codes)
    with torch.no_grad():
        torch.testing.assert_close(found.decode(codes), network.decode(z), atol=TOLERANCE, rtol=0.0)


@pytest.mark.parametrize(("golden", "model"), models())
def test_plan_without_padding_is_the_networks_own(golden: Golden, model: str) -> None:
    network = golden.network(model)
    for part in ("encoder", "decoder"):
        ours, theirs = (
            getattr(plan, part) for plan in (unpadded_plan(build_plan(network)), build_plan(network, padded=False))
        )
        for op, other in zip(ours.ops, theirs.ops, strict=True):
            assert type(op) is type(other)
            for name in ("geometry", "crop", "channels"):
                assert getattr(op, name, None) == getattr(other, name, None)


@pytest.mark.parametrize(("golden", "case"), cases("archives"))
def test_codec_compresses_to_the_official_archive(golden: Golden, case: dict[str, Any]) -> None:
    """By the executor that is the default; `tests/golden` has the other."""
    found, theirs = codec(golden, case["model"], "auto"), streamdac.Archive.load(golden.root / case["file"])
    window = math.inf if case["win_duration"] is None else case["win_duration"]
    options = {"win_duration": window, "n_codebooks": case["n_quantizers"], "normalize_db": case["normalize_db"]}
    samples, rate = golden.clip(case["clip"])
    ours = found.compress(samples, rate, **options)
    if golden.name == "subset":
        assert ours == found.compress(golden.clip_path(case["clip"]), **options)
    assert_codes(ours.codes, theirs.codes, golden.arrays(case["npz"])["margin"], 2e-4)
    audio = found.decompress(theirs, official_stereo=True)
    expected = golden.arrays(case["npz"]).get("audio")
    if expected is not None:
        every = case.get("audio_every", 1)
        np.testing.assert_allclose(audio[..., ::every], expected, rtol=0, atol=2e-5 + 1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(found.decompress(golden.root / case["file"], official_stereo=True), audio)


def test_arrays_and_tensors_of_up_to_three_axes_are_taken() -> None:
    found = codec(SUBSET, "m24", "torch")
    audio = np.random.default_rng(0).uniform(-0.1, 0.1, (2, 2, 2_000)).astype(np.float32)
    archive = found.compress(torch.from_numpy(audio))
    assert (archive.batch, archive.channels, archive.sample_rate, archive.original_length) == (2, 2, 24_000, 2_000)
    assert found.decompress(archive).shape == (2, 2, 2_000)
    assert found.compress(audio[0]) == found.compress(audio[:1])
    assert found.compress(audio[0, 0].astype(np.float64)) == found.compress(audio[:1, :1])


@pytest.mark.parametrize(
    ("audio", "options", "message"),
    [
        (np.zeros(100, np.int16), {}, "audio is int16"),
        (np.zeros((1, 1, 1, 9), np.float32), {}, r"shape \(1, 1, 1, 9\)"),
        (np.zeros(0, np.float32), {}, r"shape \(0,\)"),
        (np.zeros((6, 9), np.float32), {}, "6 channels"),
        (np.zeros(9, np.float32), {"sample_rate": 44_101}, "44101 Hz"),
        *(
            (np.zeros(9, np.float32), {"sample_rate": rate}, f"sample_rate is {re.escape(repr(rate))}, need an integer")
            for rate in (0, -1, 500, 768_000, 44_100.0, True, "44100")
        ),
        (np.zeros(9, np.float32), {"n_codebooks": 0}, "n_codebooks is 0"),
        (np.zeros(9, np.float32), {"n_codebooks": -1}, "n_codebooks is -1"),
        (np.zeros(9, np.float32), {"win_duration": 0.0}, "win_duration is 0.0"),
        (np.zeros(48_000, np.float32), {"win_duration": 0.1}, r"a window of 0\.1 s .* is too short"),
        (np.zeros(9, np.float32), {"normalize_db": 7.0}, "normalize_db is 7.0"),
        ("clip.wav", {"sample_rate": 44_100}, "sample_rate is 44100, but a file says its own"),
    ],
)
def test_wrong_arguments_are_refused_with_their_numbers(audio: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        codec(SUBSET, "m24", "torch").compress(audio, **options)


def test_any_integer_is_a_rate() -> None:
    found, audio = codec(SUBSET, "m24", "torch"), np.full(2_000, 0.1, np.float32)
    assert found.compress(audio, np.int64(16_000)) == found.compress(audio, 16_000)
    assert found.compress(audio, n_codebooks=np.int64(2)) == found.compress(audio, n_codebooks=2)


def test_half_precision_tensors_are_taken() -> None:
    found, audio = codec(SUBSET, "m24", "torch"), torch.full((2_000,), 0.125)
    for dtype in (torch.bfloat16, torch.float16):
        assert found.compress(audio.to(dtype)) == found.compress(audio)


def test_a_rate_that_no_archive_has_is_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    found = codec(SUBSET, "m24", "torch")
    soundfile.write(tmp_path / "a.wav", np.zeros(900), 900)
    reads = []
    with pytest.raises(UsageError, match="sample_rate is 900, need an integer"):
        compress_file(found.archive_engine, tmp_path / "a.wav", progress=reads.append)
    assert reads == []


def test_audio_that_is_not_finite_is_refused() -> None:
    with pytest.raises(BadDataError, match="NaN or infinity"):
        codec(SUBSET, "m24", "torch").compress(np.array([0, np.nan, 0], np.float32))


def test_archive_is_saved_whole_and_not_over_another(tmp_path: Path) -> None:
    archive = codec(SUBSET, "m24", "torch").compress(np.zeros(9_000, np.float32))
    path = archive.save(tmp_path / "sub" / "silence.tar.dac")
    assert path == tmp_path / "sub" / "silence.tar.dac"  # the name is taken as it is
    assert streamdac.Archive.load(path) == archive
    with pytest.raises(streamdac.StreamdacError, match="is there already"):
        archive.save(path)
    archive.save(path, force=True)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_missing_models_and_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UnavailableError, match="streamdac download --model_type 24khz --model_bitrate 8kbps"):
        streamdac.load("dac-24khz")
    with pytest.raises(NoInputError, match="no model"):
        streamdac.load_network(tmp_path / "none.pth")
    with pytest.raises(NoInputError, match=r"none\.wav"):
        codec(SUBSET, "m24", "torch").compress(tmp_path / "none.wav")
    with pytest.raises(NoInputError, match=r"none\.dac"):
        codec(SUBSET, "m24", "torch").decompress(tmp_path / "none.dac")


def test_cached_official_file_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cache = tmp_path / ".cache" / "descript" / "dac"
    cache.mkdir(parents=True)
    (cache / "weights_24khz_8kbps_0.0.4.pth").symlink_to(SUBSET.weights("m24").resolve())
    assert streamdac.load("dac-24khz").fingerprint == codec(SUBSET, "m24", "torch").fingerprint
