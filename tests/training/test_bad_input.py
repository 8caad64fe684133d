"""What is wrong with data, weights or disk ends `python -m streamdac.training` with one line and the right exit code."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamdac.config import ModelConfig
from streamdac.nn import DAC
from streamdac.training.__main__ import run
from streamdac.training.checkpoint import LATEST
from streamdac.training.data import turned
from streamdac.weights import Weights, save_weights

from .conftest import TINY

Program = Callable[..., tuple[int, list[str]]]
CHANGES = [f"--set={change}" for change in TINY]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    """Runs the program in this process: (exit code, lines on stderr)."""

    def call(*arguments: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["training", *arguments])
        capfd.readouterr()
        code = run()
        return code, capfd.readouterr().err.splitlines()

    return call


def train(data: Path, folder: Path, *arguments: str) -> list[str]:
    return ["train", f"--data={data}", f"-r{folder}", "--no-tensorboard", "--max-steps=4", *CHANGES, *arguments]


def silence(path: Path, *, level: float = 0.0) -> None:
    soundfile.write(path, np.full(8000, level, np.float32), 8000)


def test_a_folder_without_audio(program: Program, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to hear")
    code, said = program(*train(tmp_path, tmp_path / "run"))
    assert code == 66
    assert said[-1].startswith(f"error: {tmp_path}: no audio in it (0 files named .wav")
    code, said = program(*train(tmp_path / "missing", tmp_path / "run"))
    assert code == 66
    assert "no such file or folder" in said[-1]


def test_nothing_but_unreadable_files(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a.wav", "b.flac"):
        (data / name).write_bytes(b"RIFF" + bytes(100))
    code, said = program(*train(data, tmp_path / "run"))
    assert code == 66
    assert "2 of them unreadable" in said[-1]


def test_unreadable_files_among_good_ones_are_left_out_and_named(
    program: Program, audio_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (audio_folder / "broken.wav").write_bytes(b"RIFF" + bytes(100))
    assert program(*train(audio_folder, tmp_path / "run"))[0] == 0
    assert "1 of 3 files cannot be read, e.g. broken.wav" in caplog.text


def test_nothing_but_silence(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    silence(data / "a.wav")
    code, said = program(*train(data, tmp_path / "run"))
    assert code == 65
    assert "silent" in said[-2] + said[-1]
    assert not (tmp_path / "run" / LATEST).exists()


def test_a_corpus_without_held_out_files_is_refused_before_training(
    program, audio_folder: Path, tmp_path: Path
) -> None:
    rows = ["path\tkind\tpackage\tgroup\tseconds\tbandwidth_hz\tsplit", "0.wav\tspeech\tp\tg\t1.5\t\ttrain"]
    (audio_folder / "index.tsv").write_text("\n".join(rows) + "\n")
    code, said = program(*train(audio_folder, tmp_path / "run"))
    assert code == 66
    assert any("nothing of split valid" in line for line in said)
    assert not (tmp_path / "run" / LATEST).exists()


def test_audio_of_another_rate_is_resampled(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal((44_100, 2)).astype(np.float32)
    soundfile.write(data / "a.wav", noise, 44_100)
    assert program(*train(data, tmp_path / "run"))[0] == 0


def test_weights_of_another_rate(program: Program, audio_folder: Path, tmp_path: Path) -> None:
    config = ModelConfig(encoder_dim=2, decoder_dim=16, latent_dim=4, codebook_size=8, n_codebooks=1)
    save_weights(tmp_path / "w.safetensors", Weights(config, DAC(config).state_dict(), {}))
    code, said = program(*train(audio_folder, tmp_path / "run", f"--init={tmp_path / 'w.safetensors'}"))
    assert code == 2
    assert "sample_rate 24000 against 8000" in said[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_log(program: Program, audio_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "log.jsonl").symlink_to("/dev/full")
    code, said = program(*train(audio_folder, folder))
    assert code == 74
    assert said[-1].startswith("error: ")
    assert said[-1].endswith("cannot write the log: No space left on device")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_checkpoint_keeps_the_last_one(
    program: Program, audio_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    assert program(*train(audio_folder, folder))[0] == 0
    good = (folder / LATEST).read_bytes()
    code = (
        "import os, sys; from pathlib import Path; from streamdac.training.__main__ import run;"
        "Path(sys.argv.pop(1), f'.checkpoint-latest.pt.{os.getpid()}').symlink_to('/dev/full'); sys.exit(run())"
    )
    arguments = train(audio_folder, folder, "--set=valid_every=99")
    arguments[arguments.index("--max-steps=4")] = "--max-steps=6"
    result = subprocess.run([sys.executable, "-c", code, str(folder), *arguments], capture_output=True, text=True)
    assert result.returncode == 74, result.stderr
    assert "cannot write the checkpoint" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert (folder / LATEST).read_bytes() == good


def test_a_run_folder_that_cannot_be_made(program: Program, audio_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, said = program(*train(audio_folder, tmp_path / "file" / "run"))
    assert code in (2, 74)
    assert "file" in said[-1]


def test_evaluating_what_is_not_there(program: Program, audio_folder: Path, tmp_path: Path) -> None:
    code, said = program("evaluate", str(tmp_path / "no.safetensors"), f"--data={audio_folder}")
    assert code == 66
    assert "no.safetensors" in said[-1]
    code, said = program("export", str(tmp_path), "-o", str(tmp_path / "out.safetensors"))
    assert code == 66
    assert "no checkpoint" in said[-1]


def test_a_turned_phase_keeps_the_spectrum_and_the_level() -> None:
    audio = 0.3 * np.random.default_rng(0).standard_normal(2401).astype(np.float32)
    out = turned(audio, 1.0)
    assert np.abs(out - audio).max() > 0.1
    scale = np.abs(np.fft.rfft(out))[5] / np.abs(np.fft.rfft(audio))[5]
    np.testing.assert_allclose(np.abs(np.fft.rfft(out))[1:], scale * np.abs(np.fft.rfft(audio))[1:], rtol=1e-3)
    assert np.abs(out).max() <= max(0.98, np.abs(audio).max()) + 1e-6
    np.testing.assert_allclose(turned(audio, 2 * np.pi), audio, atol=1e-6)


def test_weights_are_exported_under_a_name_that_can_be_read(
    program: Program, audio_folder: Path, tmp_path: Path
) -> None:
    assert program(*train(audio_folder, tmp_path / "run"))[0] == 0
    code, said = program("export", str(tmp_path / "run"), "-o", str(tmp_path / "mine.pth"))
    assert code == 2
    assert said[-1].endswith("mine.pth: weights are written as .safetensors")
    assert not (tmp_path / "mine.pth").exists()


@pytest.mark.parametrize("device", ["mps", "meta", "xpu", "tpu"])
def test_a_device_that_training_does_not_know(
    program: Program, audio_folder: Path, tmp_path: Path, device: str
) -> None:
    code, said = program(*train(audio_folder, tmp_path / "run", f"--device={device}"))
    assert code == 2
    assert said[-1] == f"error: no device '{device}': need cpu, cuda, cuda:0, ..."


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_none(program: Program, audio_folder: Path, tmp_path: Path, value: str) -> None:
    for line in (
        train(audio_folder, tmp_path / "run", f"--budget-minutes={value}"),
        ["evaluate", f"--data={audio_folder}", f"--clip-seconds={value}"],
    ):
        code, said = program(*line)
        assert code == 2
        assert said[-1].endswith(f"{value} is not a finite number.")
