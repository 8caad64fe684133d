"""`streamdac encode` and `decode` with official archives: the official tool's command line, and where ours is better."""

from __future__ import annotations

import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from streamdac.archive import Archive
from streamdac.cli import main
from streamdac.frontends import audio_files

from .models import SUBSET, codec

MODEL = str(SUBSET.weights("m24"))
OFFICIAL = ("--weights_path", MODEL, "-q", "--threads", "1")
CASES = {case["name"]: case for case in SUBSET.index["archives"]}


def case_path(name: str) -> Path:
    path: Path = SUBSET.root / CASES[name]["file"]
    return path


def write(path: Path, samples: int = 4_000, *, rate: int = 24_000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(samples)
    soundfile.write(path, rng.uniform(-0.3, 0.3, (samples, channels)) * np.linspace(1, 0.2, channels), rate)
    return path


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.mark.parametrize("flags", [("--win_duration", "5.0"), ("--win_duration", "5.0", "--engine", "torch")])
def test_windows_give_the_official_archive_byte_for_byte(tmp_path: Path, flags: tuple[str, ...]) -> None:
    clip = SUBSET.clip_path("tb44_st1s")
    assert run("encode", clip, "-o", tmp_path, *OFFICIAL, *flags) == 0
    theirs = Archive.load(case_path("a24_src44_stereo_w5"))
    assert (tmp_path / "tb44_st1s.dac").read_bytes() == theirs.to_bytes()


def test_official_tree_is_recreated_and_hidden_files_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The official tool's own case, with upper-case and further formats read, and .hidden.wav not."""
    wanted = ["a", "b", "ignored", "sub/a", "sub/deep/x.y", "sub/two words", "sub/été", "other"]
    inputs = [
        "a.wav",
        "b.flac",
        "ignored.Flac",
        "other.AIFF",
        "sub/a.wav",
        "sub/deep/x.y.wav",
        "sub/two words.wav",
        "sub/été.flac",
    ]
    for number, name in enumerate([*inputs, ".hidden.wav", "sub/.git/h.wav"]):
        write(tmp_path / "in" / name, 1_000 + number)
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    (tmp_path / "in" / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run("encode", "in", "--output", "out", *OFFICIAL, "--device", "cpu") == 0
    assert tree(tmp_path / "out") == sorted(f"{name}.dac" for name in wanted)
    assert run("decode", "out", "--output", "back", *OFFICIAL, "--device", "cpu") == 0
    assert tree(tmp_path / "back") == sorted(f"{name}.wav" for name in wanted)
    for number, name in enumerate(inputs):
        info = soundfile.info(tmp_path / "back" / Path(name).with_suffix(".wav"))
        assert (info.frames, info.samplerate, info.subtype) == (1_000 + number, 24_000, "PCM_16")


def test_official_flags_without_output_write_into_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "in" / "a.wav")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run("encode", "../in/a.wav", *OFFICIAL) == 0
    assert run("decode", "a.dac", *OFFICIAL, "--verbose") == 0
    assert tree(tmp_path / "here") == ["a.dac", "a.wav"]


def test_n_quantizers_is_honoured_on_both_sides(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.wav")
    assert run("encode", clip, "-o", tmp_path / "a.dac", *OFFICIAL, "--n_quantizers", 3) == 0
    assert Archive.load(tmp_path / "a.dac").n_codebooks == 3
    assert run("encode", clip, "-o", tmp_path / "all.dac", *OFFICIAL, "--n_quantizers", 99) == 0
    assert Archive.load(tmp_path / "all.dac").n_codebooks == 8
    assert run("decode", tmp_path / "all.dac", "-o", tmp_path / "three.wav", *OFFICIAL, "--n_quantizers", 3) == 0
    assert run("decode", tmp_path / "a.dac", "-o", tmp_path / "a3.wav", *OFFICIAL) == 0
    assert (tmp_path / "three.wav").read_bytes() == (tmp_path / "a3.wav").read_bytes()
    assert run("encode", clip, "-o", tmp_path / "none.dac", *OFFICIAL, "--n_quantizers", 0) == 2


def test_name_in_dac_means_an_archive_and_in_sdac_a_stream(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.wav")
    assert run("encode", clip, "-o", tmp_path / "a.dac", "--model", MODEL, "-q") == 0
    assert Archive.load(tmp_path / "a.dac").padding
    assert run("encode", clip, "-o", tmp_path / "a.sdac", *OFFICIAL) == 0
    assert (tmp_path / "a.sdac").read_bytes().startswith(b"\x89SDAC")
    for name in ("a.dac", "a.sdac"):
        assert run("decode", tmp_path / name, "-o", tmp_path / f"{name}.wav", "--model", MODEL, "-q") == 0
        assert soundfile.info(tmp_path / f"{name}.wav").frames == 4_000


def test_default_is_one_seamless_piece(tmp_path: Path) -> None:
    clip = write(tmp_path / "long.wav", 6 * 24_000)
    assert run("encode", clip, "-o", tmp_path / "seamless.dac", *OFFICIAL) == 0
    assert run("encode", clip, "-o", tmp_path / "windows.dac", *OFFICIAL, "--win_duration", 1) == 0
    seamless, windows = Archive.load(tmp_path / "seamless.dac"), Archive.load(tmp_path / "windows.dac")
    assert (seamless.padding, seamless.chunk_length) == (True, seamless.frames)
    assert not windows.padding
    assert windows.frames > windows.chunk_length
    for name, flags in {"seamless": [], "windows": [], "faded": ["--seamless"]}.items():
        source = tmp_path / ("windows.dac" if name == "faded" else f"{name}.dac")
        assert run("decode", source, "-o", tmp_path / f"{name}.wav", *OFFICIAL, *flags) == 0
        assert soundfile.info(tmp_path / f"{name}.wav").frames == 6 * 24_000
    assert (tmp_path / "windows.wav").read_bytes() != (tmp_path / "faded.wav").read_bytes()


def levels(path: Path) -> npt.NDArray[np.float64]:
    samples = soundfile.read(path, always_2d=True)[0]
    found: npt.NDArray[np.float64] = np.sqrt(np.square(samples).mean(axis=0))
    return found


def test_official_stereo_is_their_audio_and_the_default_keeps_the_balance(tmp_path: Path) -> None:
    source = case_path("a24_src44_stereo_w5")
    for name, flags in {"ours": [], "theirs": ["--official-stereo"]}.items():
        assert run("decode", source, "-o", tmp_path / f"{name}.wav", *OFFICIAL, *flags) == 0
    audio, case = soundfile.read(tmp_path / "theirs.wav")[0], CASES["a24_src44_stereo_w5"]
    expected = SUBSET.arrays(case["npz"])["audio"][0]
    np.testing.assert_allclose(audio.T[:, :: case["audio_every"]], np.clip(expected, -1, 1), rtol=0, atol=2e-4)
    left, right = case["decoded_loudness_db_per_channel"]
    ours, theirs = (20 * np.log10(levels(tmp_path / f"{name}.wav")) for name in ("ours", "theirs"))
    assert (ours[0] - ours[1]) - (theirs[0] - theirs[1]) == pytest.approx(left - right, abs=0.05)


def test_clip_that_the_official_decoder_fails_on_is_decoded(tmp_path: Path) -> None:
    assert run("decode", case_path("a24_exact_whole"), "-o", tmp_path / "a.wav", *OFFICIAL) == 0
    assert soundfile.info(tmp_path / "a.wav").frames == 9_600


@pytest.mark.parametrize(
    ("rate", "samples", "channels"), [(8_000, 1, 1), (48_000, 5_573, 2), (96_000, 9_600, 5), (22_050, 317, 3)]
)
def test_output_has_the_length_rate_and_channels_of_the_input(
    tmp_path: Path, rate: int, samples: int, channels: int
) -> None:
    clip = write(tmp_path / "in.wav", samples, rate=rate, channels=channels)
    assert run("encode", clip, "-o", tmp_path / "a.dac", *OFFICIAL) == 0
    assert run("decode", tmp_path / "a.dac", "-o", tmp_path / "out.wav", *OFFICIAL) == 0
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.frames, info.channels) == (rate, samples, channels)


def test_bad_files_in_a_batch_are_reported_and_the_rest_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "c"):
        write(tmp_path / "in" / f"{name}.wav")
    (tmp_path / "in" / "b.wav").write_bytes(b"no audio at all")
    write(tmp_path / "in" / "six.wav", channels=6)
    write(tmp_path / "in" / "zero.wav", 0)
    assert run("encode", tmp_path / "in", "-o", tmp_path / "out", *OFFICIAL) == 1
    errors = capsys.readouterr().err
    assert tree(tmp_path / "out") == ["a.dac", "c.dac"]
    for name, message in {"b": "not an audio file", "six": "6 channels", "zero": "0 samples"}.items():
        assert any(f"{name}.wav" in line and message in line for line in errors.splitlines()), errors
    assert "3 of 5 files failed" in errors
    (tmp_path / "out" / "b.dac").write_bytes(b"no archive at all")
    assert run("decode", tmp_path / "out", "-o", tmp_path / "back", *OFFICIAL) == 1
    assert tree(tmp_path / "back") == ["a.wav", "c.wav"]
    assert "not a .dac archive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "nope.wav"], 66, "no file or folder nope.wav"),
        (["encode", "folder"], 66, "no file with suffix"),
        (["encode", "a.wav", "--weights_path", "none.pth"], 66, "none.pth"),
        (["encode", "a.wav", "--model_type", "24khz"], 69, "streamdac download --model_type 24khz"),
        (["encode", "a.wav", "-o", "a.dac"], 69, "streamdac download --model_type 44khz"),
        (["encode", "a.wav", "--model_type", "24khz", "--model_bitrate", "16kbps"], 2, "no official model 24khz 16kbps"),
        (["encode", "a.wav", "--weights_path", MODEL, "--win_duration", "0.01"], 2, "too short"),
        (["encode", "a.wav", "--weights_path", MODEL, "--win_duration", "-1"], 2, "win_duration is -1"),
        (["encode", "a.wav", "-o", "a.sdac", "--win_duration", "5"], 2, "--win_duration is for archives"),
        (["encode", "a.wav", "a.flac", "-o", "out", "--weights_path", MODEL], 2, "would both become out/a.dac"),
        (["encode", "a.wav", "a.flac", "-o", "a.dac", "--weights_path", MODEL], 2, "2 inputs cannot become the one file"),
        (["decode", "nope.dac", "--weights_path", MODEL], 66, "nope.dac"),
        (["decode", "junk.dac", "--weights_path", MODEL], 65, "junk.dac: not a .dac archive"),
        (["decode", "empty.dac", "--weights_path", MODEL], 65, "starts with nothing"),
        (["decode", "good.dac"], 69, "dac-44khz is not downloaded"),
        (["decode", "good.dac", "--rate", "8000", "--weights_path", MODEL], 2, "--rate and --join are for streams"),
        (["decode", "other.dac", "--weights_path", MODEL], 65, "it fits --model_type 44khz"),
        (["decode", "good.dac", "-o", "good.dac", "--weights_path", MODEL], 2, "good.dac"),
    ],
)  # fmt: skip
def test_mistake_is_said_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.wav")
    write(tmp_path / "a.flac")
    (tmp_path / "folder").mkdir()
    (tmp_path / "junk.dac").write_bytes(b"RIFFjunk")
    (tmp_path / "empty.dac").touch()
    shutil.copy(case_path("a24_exact_whole"), "good.dac")
    shutil.copy(case_path("a44_np126_short_w5"), "other.dac")
    before = tree(tmp_path)
    assert run(*arguments, "-q") == code
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.count("\n") == 1
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "flags", [("--model_type", "44khz"), ("--model_bitrate", "16kbps"), ("--weights_path", "none.pth")]
)
def test_model_goes_before_what_the_official_flags_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    """Which is not there. The flags still mean an archive in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "in" / "a.wav")
    assert run("encode", "in/a.wav", *flags, "--model", MODEL, "-q") == 0
    assert run("decode", "a.dac", *flags, "--model", MODEL, "-q") == 0
    assert tree(tmp_path) == ["a.dac", "a.wav", "in/a.wav"]


def test_nothing_is_overwritten_unless_asked(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.wav")
    (tmp_path / "a.dac").write_bytes(b"mine")
    assert run("encode", clip, "-o", tmp_path / "a.dac", *OFFICIAL) == 74
    assert (tmp_path / "a.dac").read_bytes() == b"mine"
    assert run("encode", clip, "-o", tmp_path / "a.dac", *OFFICIAL, "-f") == 0
    assert run("decode", tmp_path / "a.dac", "-o", clip, *OFFICIAL) == 74
    assert run("decode", tmp_path / "a.dac", "-o", clip, *OFFICIAL, "--force") == 0


class Pipe:
    """What stands in for stdin or stdout: bytes."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing is held back."""


def test_pipe_gives_the_same_archive_as_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = write(tmp_path / "a.wav", 30_000, channels=2)
    assert run("encode", clip, "-o", tmp_path / "a.dac", *OFFICIAL) == 0
    for name, data, flags in [
        ("wav", clip.read_bytes(), []),
        ("raw", clip.read_bytes()[44:], ["--raw", "s16le", "--rate", "24000", "--channels", "2"]),
    ]:
        out = Pipe()
        monkeypatch.setattr(sys, "stdin", Pipe(data))
        monkeypatch.setattr(sys, "stdout", out)
        assert run("encode", "-", *OFFICIAL, *flags) == 0, name
        assert out.buffer.getvalue() == (tmp_path / "a.dac").read_bytes()


def test_source_of_a_frontend_becomes_an_archive(tmp_path: Path) -> None:
    assert run("encode", "tone:440,1", "-o", tmp_path / "tone.dac", *OFFICIAL) == 0
    assert Archive.load(tmp_path / "tone.dac").seconds == 1


def test_archive_of_the_causal_kind_of_model_comes_back(tmp_path: Path) -> None:
    """`--model` overrides: any model may make archives; only this program reads those of its own."""
    from streamdac.weights import Weights, save_weights
    from tests.core.models import network

    save_weights(tmp_path / "m.safetensors", Weights(network("causal").config, network("causal").state_dict()))
    clip = write(tmp_path / "a.wav")
    for command, source, target in [("encode", clip, "a.dac"), ("decode", tmp_path / "a.dac", "b.wav")]:
        assert run(command, source, "-o", tmp_path / target, "--model", tmp_path / "m.safetensors", "-q") == 0
    assert soundfile.info(tmp_path / "b.wav").frames == 4_000


@pytest.mark.slow
def test_several_processes_do_what_one_does(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        write(tmp_path / "in" / f"{number}.wav", 3_000 + number)
    (tmp_path / "in" / "bad.wav").write_bytes(b"no audio")
    assert run("encode", tmp_path / "in", "-o", tmp_path / "one", *OFFICIAL) == 1
    assert run("encode", tmp_path / "in", "-o", tmp_path / "two", *OFFICIAL, "--jobs", 2) == 1
    assert capfd.readouterr().err.count("bad.wav: not an audio file") == 2
    assert tree(tmp_path / "two") == [f"{number}.dac" for number in range(4)]
    for name in tree(tmp_path / "two"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert run("decode", tmp_path / "two", "-o", tmp_path / "back", *OFFICIAL, "--jobs", 2, "--verbose") == 0
    assert capfd.readouterr().err.count(" -> ") == 4
    assert len(tree(tmp_path / "back")) == 4


@pytest.mark.slow
def test_interrupted_processes_leave_nothing_half_written(tmp_path: Path) -> None:
    write(tmp_path / "in" / "0.wav", 1_000)
    for number in range(1, 5):
        write(tmp_path / "in" / f"{number}.wav", 24_000 * 900)
    command = [
        sys.executable,
        "-m",
        "streamdac",
        "encode",
        str(tmp_path / "in"),
        "-o",
        str(tmp_path / "out"),
        *OFFICIAL,
    ]
    with subprocess.Popen([*command, "--jobs", "2", "--verbose"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert "0.wav -> " in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "streamdac: interrupted\n"
    assert process.returncode == 130
    assert tree(tmp_path / "out") == ["0.dac"]


def test_codec_and_command_line_agree(tmp_path: Path) -> None:
    clip = write(tmp_path / "a.wav", 20_000, channels=2)
    assert run("encode", clip, "-o", tmp_path / "a.dac", *OFFICIAL) == 0
    found = codec(SUBSET, "m24", "auto")
    assert Archive.load(tmp_path / "a.dac") == found.compress(clip)
    assert run("decode", tmp_path / "a.dac", "-o", tmp_path / "b.wav", *OFFICIAL, "--float") == 0
    audio = soundfile.read(tmp_path / "b.wav", dtype="float32", always_2d=True)[0]
    np.testing.assert_array_equal(audio.T[None], found.decompress(tmp_path / "a.dac"))


def test_an_archive_too_long_for_its_file_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("encode", write(tmp_path / "a.wav", 4_000), "-o", tmp_path / "a.dac", *OFFICIAL) == 0
    monkeypatch.setattr(audio_files, "_MOST_BYTES", 7_000)
    assert run("decode", tmp_path / "a.dac", "-o", tmp_path / "b.wav", *OFFICIAL) == 74
    assert "there is room for 0 s: a WAV file ends at 4 GiB" in capsys.readouterr().err
    assert not (tmp_path / "b.wav").exists()
    assert run("decode", tmp_path / "a.dac", "-o", tmp_path / "b.w64", *OFFICIAL) == 0
