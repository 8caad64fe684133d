"""Archives, both directions: what the official tool wrote is read and decoded, and what we write is what it writes."""

from __future__ import annotations

import io
import math
import pickletools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from streamdac.archive import Archive
from streamdac.compress import compress, compress_file
from streamdac.decompress import decoded_blocks, decompress
from streamdac.loudness import LoudnessMeter
from streamdac.official import check_archive, decoded_samples, whole_frames, windows, windows_of_frames
from streamdac.rates import resampled_samples

from .cases import SETS, Golden, assert_codes, cases

FIELDS = ("original_length", "sample_rate", "chunk_length", "channels", "padding", "dac_version")


def options(case: dict[str, Any]) -> dict[str, Any]:
    window = math.inf if case["win_duration"] is None else case["win_duration"]
    return {"win_duration": window, "n_codebooks": case["n_quantizers"], "normalize_db": case["normalize_db"]}


@pytest.mark.parametrize(("golden", "case"), cases("archives", weights=False))
def test_official_archive_is_read(golden: Golden, case: dict[str, Any]) -> None:
    archive, arrays = Archive.load(golden.root / case["file"]), golden.arrays(case["npz"])
    np.testing.assert_array_equal(archive.codes, arrays["codes"])
    np.testing.assert_array_equal(archive.input_db, arrays["input_db"])
    assert {name: getattr(archive, name) for name in FIELDS} == {name: case["metadata"][name] for name in FIELDS}
    check_archive(archive, golden.config(case["model"]))


@pytest.mark.parametrize(("golden", "case"), cases("archives", weights=False))
def test_written_archive_is_the_official_one(golden: Golden, case: dict[str, Any]) -> None:
    theirs = (golden.root / case["file"]).read_bytes()
    ours = Archive.load(theirs).to_bytes()
    if case["pickle"]["pickle_protocol"] == 3:
        assert ours == theirs
    assert Archive.load(ours) == Archive.load(theirs)
    assert [name for name, _ in globals_of(ours)] == [
        "numpy.core.multiarray _reconstruct",
        "numpy ndarray",
        "numpy dtype",
    ]
    assert structure(ours) == structure(theirs)


@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
@pytest.mark.parametrize(("golden", "case"), cases("archives", weights=False))
def test_written_archive_is_loaded_by_numpy_as_the_official_one(golden: Golden, case: dict[str, Any]) -> None:
    theirs = (golden.root / case["file"]).read_bytes()
    # Trusted files: the only place where an archive is unpickled, as the official tool does it.
    a, b = (np.load(io.BytesIO(data), allow_pickle=True)[()] for data in (Archive.load(theirs).to_bytes(), theirs))
    assert list(a) == list(b)
    assert a["codes"].dtype == b["codes"].dtype
    assert a["codes"].flags.c_contiguous == b["codes"].flags.c_contiguous
    np.testing.assert_array_equal(a["codes"], b["codes"])
    assert [(key, type(value), value) for key, value in a["metadata"].items()] == [
        (key, type(value), value) for key, value in b["metadata"].items()
    ]


def globals_of(data: bytes) -> list[tuple[str, int]]:
    return [
        (str(arg), at)
        for op, arg, at in pickletools.genops(data[128:])
        if op.name == "GLOBAL" and arg and at is not None
    ]


def structure(data: bytes) -> list[str]:
    """The pickle's operations and their arguments, without what differs between protocols and numpy versions."""
    skipped = {"PROTO", "FRAME", "BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL"}
    names = {"numpy", "ndarray", "dtype", "_reconstruct", "numpy._core.multiarray"}
    return [
        f"{op.name.removeprefix('SHORT_')} {arg!r}"
        for op, arg, _ in pickletools.genops(data[128:])
        if op.name not in skipped and not (isinstance(arg, str) and arg in names)
    ]


@pytest.mark.parametrize(("golden", "case"), cases("archives"))
def test_compress_gives_the_official_archive(golden: Golden, case: dict[str, Any]) -> None:
    samples, rate = golden.clip(case["clip"])
    theirs, margin = Archive.load(golden.root / case["file"]), golden.arrays(case["npz"])["margin"]
    ours = compress(golden.engine(case["model"]), samples, rate, **options(case))
    assert {name: getattr(ours, name) for name in FIELDS} == {name: getattr(theirs, name) for name in FIELDS}
    difference_db = float(np.abs(ours.input_db - theirs.input_db).max())
    assert difference_db < 1e-4
    assert_codes(ours.codes, theirs.codes, margin, limit=3e-5 if difference_db < 1e-5 else 2e-4)


@pytest.mark.parametrize(("golden", "case"), cases("archives"))
def test_decompress_gives_the_official_audio(golden: Golden, case: dict[str, Any]) -> None:
    archive, arrays = Archive.load(golden.root / case["file"]), golden.arrays(case["npz"])
    audio = decompress(golden.engine(case["model"]), archive, official_stereo=True)
    assert audio.shape == (1, archive.channels, archive.original_length)
    if "audio" in arrays:
        expected = arrays["audio"]
        found = audio[:, :, :: case.get("audio_every", 1)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 + 1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("golden", "case"), cases("archive_errors"))
def test_what_the_official_compress_fails_on_is_refused_in_words(golden: Golden, case: dict[str, Any]) -> None:
    samples, rate = golden.clip(case["clip"])
    message = r"n_codebooks is 0" if case["n_quantizers"] == 0 else r"a window of 0\.\d+ s \(\d+ samples\) is too short"
    with pytest.raises(ValueError, match=message):
        compress(golden.engine(case["model"]), samples, rate, **options(case))


@pytest.mark.parametrize("golden", SETS, ids=lambda golden: golden.name)
def test_windows_are_the_official_ones(golden: Golden) -> None:
    for name, model in golden.index["models"].items():
        config = golden.config(name)
        for seconds, window in model["windows"].items():
            if window["hop"] <= 0:
                with pytest.raises(ValueError, match="too short"):
                    windows(config, float(seconds))
                continue
            found = windows(config, float(seconds))
            assert (found.samples, found.step, found.delay) == (window["n_samples"], window["hop"], model["delay"])
            assert windows_of_frames(config, found.frames) == found


@pytest.mark.parametrize(("golden", "case"), [c for c in cases("archives") if c.values[1]["metadata"]["channels"] > 1])
def test_stereo_keeps_its_balance_by_default(golden: Golden, case: dict[str, Any]) -> None:
    archive, engine = Archive.load(golden.root / case["file"]), golden.engine(case["model"])
    ours, theirs = decompress(engine, archive)[0], decompress(engine, archive, official_stereo=True)[0]
    left, right = case["decoded_loudness_db_per_channel"]
    assert abs(left - right) > 0.1
    # The network's output is louder on one side. One gain for both channels keeps that; theirs levels it out. What is cut off the
    # end after the levels were set shifts both a little.
    kept, levelled = difference_db(ours, archive.sample_rate), difference_db(theirs, archive.sample_rate)
    assert kept - levelled == pytest.approx(left - right, abs=0.005)
    assert levelled == pytest.approx(0, abs=0.15)
    assert loudness_db(ours, archive.sample_rate) == pytest.approx(float(archive.input_db[0]), abs=0.5)


def loudness_db(rows: npt.NDArray[np.float32], rate: int) -> float:
    meter = LoudnessMeter(rate, len(rows))
    meter.push(rows)
    return meter.finish()


def difference_db(rows: npt.NDArray[np.float32], rate: int) -> float:
    return loudness_db(rows[:1], rate) - loudness_db(rows[1:], rate)


@pytest.mark.parametrize(("golden", "case"), cases("archives"))
def test_default_is_one_piece_that_the_official_decoder_can_read(golden: Golden, case: dict[str, Any]) -> None:
    engine = golden.engine(case["model"])
    archive = compress_file(engine, golden.clip_path(case["clip"]))
    assert archive.padding
    assert archive.chunk_length == archive.frames
    samples, config = (
        resampled_samples(archive.original_length, archive.sample_rate, engine.config.sample_rate),
        engine.config,
    )
    assert archive.frames == whole_frames(config, archive.original_length, archive.sample_rate)
    assert archive.frames - -(-samples // config.hop_length) in (0, 1)
    back = resampled_samples(decoded_samples(config, archive.frames), config.sample_rate, archive.sample_rate)
    assert back >= archive.original_length
    assert (
        sum(len(block) for block in decoded_blocks(engine, Archive.load(archive.to_bytes()))) == archive.original_length
    )
