"""Files beyond 4 GiB: what a WAV cannot say is not written, and one that was written nevertheless is read whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamdac import frontend
from streamdac.errors import OutputError
from streamdac.frontends import audio_files, pipes
from streamdac.frontends.audio_files import FileSink, FileSource
from streamdac.frontends.pipes import PcmSource
from streamdac.frontends.wav import SampleFormat, header

from .conftest import Run
from .models import RATE
from .test_contract import everything
from .test_files import noise, write


@pytest.fixture
def small_wav(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that end at 20 kB."""
    monkeypatch.setattr(audio_files, "_MOST_BYTES", 20_000)


@pytest.mark.parametrize(
    ("name", "as_float", "fits"), [("a.wav", False, 10_000), ("a.wav", True, 5_000), ("a.aif", False, 10_000)]
)
def test_a_file_that_becomes_too_long_ends_and_is_kept(
    tmp_path: Path, small_wav: None, name: str, as_float: bool, fits: int
) -> None:
    sink = FileSink(tmp_path / name, sample_rate=1_000, channels=1, force=False, as_float=as_float)
    for _ in range(fits // 4_000):
        sink.write(noise(4_000))
    said = f"has the first {fits // 1_000} s: a [A-Z]* file ends at 4 GiB; .w64, .rf64 or .caf hold more"
    with pytest.raises(OutputError, match=said):
        sink.write(noise(4_000))
    sink.close(complete=False)
    kept = soundfile.read(tmp_path / name, dtype="float32")[0]
    np.testing.assert_allclose(kept, np.tile(noise(4_000)[:, 0], 3)[:fits], atol=2**-15)


def test_one_that_just_fits_is_whole(tmp_path: Path, small_wav: None) -> None:
    sink = FileSink(tmp_path / "a.wav", sample_rate=RATE, channels=2, force=False)
    sink.write(noise(5_000, 2))
    sink.close()
    assert soundfile.info(tmp_path / "a.wav").frames == 5_000


@pytest.mark.parametrize("suffix", [".w64", ".rf64", ".caf", ".flac", ".au"])
def test_formats_of_more_than_32_bits_are_not_cut(tmp_path: Path, small_wav: None, suffix: str) -> None:
    sink = FileSink(tmp_path / f"a{suffix}", sample_rate=RATE, channels=1, force=False)
    sink.write(noise(30_000))
    sink.close()
    assert soundfile.info(tmp_path / f"a{suffix}").frames == 30_000


def test_a_stream_too_long_for_its_file_leaves_what_fits(run: Run, tmp_path: Path, small_wav: None) -> None:
    run("encode", write(tmp_path / "a.w64", noise(15_000))).ok()
    result = run("decode", tmp_path / "a.sdac", "-o", tmp_path / "b.wav")
    assert result.code == 74
    assert f"{tmp_path / 'b.wav'} is full" in result.err
    assert len(result.err.splitlines()) == 1
    assert soundfile.info(tmp_path / "b.wav").frames == 10_000


def test_live_says_before_it_begins_that_its_source_is_too_long(run: Run, tmp_path: Path, small_wav: None) -> None:
    source = write(tmp_path / "a.w64", noise(15_000))
    result = run("live", "-i", source, "-o", tmp_path / "b.wav", "--no-pace")
    assert (result.code, "there is room for" in result.err) == (74, True)
    assert not (tmp_path / "b.wav").exists()
    assert run("live", "-i", source, "-o", tmp_path / "b.wav", "--no-pace", "--seconds", 0.2).code == 0


@pytest.mark.parametrize("form", [SampleFormat(16), SampleFormat(32, is_float=True)])
def test_a_wav_longer_than_its_header_can_say_is_read_to_its_end(run: Run, tmp_path: Path, form: SampleFormat) -> None:
    path, samples = tmp_path / "a.wav", 5 << 30
    with path.open("wb") as file:
        file.write(header(48_000, 1, form, None))
        file.truncate(44 + form.width * samples)  # takes no room on the disk
    source = frontend.open_source(str(path))
    source.close()
    assert source.samples == samples
    assert json.loads(run("info", path, "--json").ok().out)["samples"] == samples


def test_its_samples_are_those_of_any_wav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "SOX_UNKNOWN", 1_000)
    form = SampleFormat(32, is_float=True)
    (tmp_path / "a.wav").write_bytes(header(RATE, 2, form, None) + form.encode(noise(3_000, 2)))
    source = frontend.open_source(str(tmp_path / "a.wav"))
    assert isinstance(source, PcmSource)
    np.testing.assert_array_equal(everything(source), noise(3_000, 2))


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.w64"])
def test_a_long_file_that_says_its_length_is_read_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(pipes, "SOX_UNKNOWN", 1_000)
    source = frontend.open_source(str(write(tmp_path / name, noise(3_000))))
    source.close()
    assert isinstance(source, FileSource)
    assert source.samples == 3_000
