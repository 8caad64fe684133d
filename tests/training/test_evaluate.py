"""Evaluation: the numbers are right where the answer is known, the same every time, and the report is complete."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from streamdac.codec import Codec
from streamdac.config import ModelConfig
from streamdac.errors import BadDataError, StreamdacError, UnavailableError, UsageError
from streamdac.nn import DAC
from streamdac.nn.network import randomize
from streamdac.training import evaluation as evaluation_module
from streamdac.training import metrics
from streamdac.training.checkpoint import LATEST, export_weights, load_checkpoint
from streamdac.training.data import HeldOutClip
from streamdac.training.evaluate import evaluate_command, table
from streamdac.training.evaluation import Evaluation, Report, entropy_bits
from streamdac.training.loop import Budget
from streamdac.training.metrics import METRICS, choose_metrics, compare
from streamdac.training.opus import packet_bits, through_opus
from streamdac.weights import Weights, save_weights

from ..processes import alive
from .test_loop import trainer

RATE = 8000
CONFIG = ModelConfig(
    sample_rate=RATE,
    encoder_dim=4,
    encoder_rates=(5, 2),
    latent_dim=8,
    decoder_dim=8,
    decoder_rates=(2, 5),
    n_codebooks=4,
    codebook_size=16,
)
PLAIN = ("mel", "stft", "si_sdr")
needs_opus = pytest.mark.skipif(shutil.which("opusenc") is None, reason="opus-tools are not installed")


def needs(name: str, perfect: float, *modules: str) -> Any:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    skip = pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}")
    return pytest.param(name, perfect, marks=skip)


def network() -> DAC:
    made = DAC(CONFIG)
    randomize(made)
    return made


def buzz(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """Syllables of a gliding buzz with formants and breath: the metrics for speech take it for speech."""
    rng, time = np.random.default_rng(seed), np.arange(round(seconds * rate)) / rate
    pitch = 120 + 25 * np.sin(2 * np.pi * 0.7 * time + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    voice = np.zeros_like(time)
    for harmonic in range(1, 25):
        hz = 120 * harmonic
        formants = sum(np.exp(-(((hz - f) / 250) ** 2)) for f in (500, 1500, 2500))
        voice += (0.05 + formants) * np.sin(harmonic * phase)
    envelope = np.clip(np.sin(2 * np.pi * 2.5 * time), 0.0, None) ** 0.5
    return (0.03 * envelope * (voice + 0.3 * rng.standard_normal(len(time)))).astype(np.float32)


def clips() -> list[HeldOutClip]:
    shapes = (("one", 0.6), ("one", 0.5), ("two", 0.7))
    return [HeldOutClip(f"{g}/{i}", "speech", g, buzz(s, RATE, i)) for i, (g, s) in enumerate(shapes)]


@pytest.fixture(scope="module")
def report() -> Report:
    return Evaluation(Codec(network(), name="tiny"), clips(), PLAIN).run([1, 4])


def test_a_report_has_every_row_metric_and_speaker(report: Report) -> None:
    assert (report.clips, report.groups, report.seconds) == (3, 2, pytest.approx(1.8))
    assert [row.codec for row in report.rows] == ["tiny, 1 codebooks", "tiny, 4 codebooks"]
    assert [row.kbps for row in report.rows] == [3.2, 12.8]
    for row in report.rows:
        assert tuple(row.means) == PLAIN
        assert row.defined == dict.fromkeys(PLAIN, 3)
        assert row.by_group.keys() == {"speech/one", "speech/two"}
        mean = (2 * row.by_group["speech/one"]["mel"] + row.by_group["speech/two"]["mel"]) / 3
        assert row.means["mel"] == pytest.approx(mean)
        assert row.use is not None
        assert 0.05 < row.use <= 1


def test_streaming_equals_offline_in_the_report(report: Report) -> None:
    assert report.streaming_codes == 4 * (60 * 8 + 50 * 8 + 70 * 8) // 8 * 8
    assert report.streaming_differs == 0
    assert f"none of {report.streaming_codes} codes differ" in table(report)


def test_fewer_codebooks_than_a_predictor_is_made_for_are_coded_so() -> None:
    config = dataclasses.replace(CONFIG, predictor_dim=6, predictor_codebooks=3)
    made = DAC(config)
    randomize(made)
    codec, clip = Codec(made), clips()[2]
    rows = Evaluation(codec, [clip], PLAIN).run([2, 3]).rows
    cut = codec.encode(clip.audio)[0]
    for row, count in zip(rows, (2, 3), strict=True):
        codes = codec.encode(clip.audio, n_codebooks=count)
        assert np.array_equal(codes[0, :count], cut[:count]) == (count == 3)
        coded = codec.decode(codes)[0, 0, : len(clip.audio)]
        assert row.means == pytest.approx(compare(PLAIN, clip.audio, coded, RATE), rel=1e-4)


def test_a_centred_model_that_gives_less_than_whole_hops_is_measured_over_the_clip() -> None:
    config = dataclasses.replace(CONFIG, encoder_rates=(2, 5), decoder_rates=(5, 2), padding="centred", latent_dim=8)
    made = DAC(config)
    randomize(made)
    codec, clip = Codec(made), clips()[2]
    assert codec.decode(codec.encode(clip.audio)).shape[2] < len(clip.audio) == 70 * codec.hop_length * 8
    report = Evaluation(codec, [clip], PLAIN).run([4])
    assert report.rows[0].defined == dict.fromkeys(PLAIN, 1)
    assert report.streaming_differs == 0


def test_numbers_are_the_same_every_time(report: Report) -> None:
    evaluation = Evaluation(Codec(network(), name="tiny"), clips(), PLAIN)
    assert evaluation.run([1, 4]) == evaluation.run([1, 4]) == report


def test_figures_are_of_what_the_codec_decodes(report: Report) -> None:
    codec, clip = Codec(network()), clips()[2]
    coded = codec.decode(codec.encode(clip.audio, n_codebooks=1))[0, 0, : len(clip.audio)]
    assert report.rows[0].by_group["speech/two"] == pytest.approx(compare(PLAIN, clip.audio, coded, RATE), rel=1e-4)


def test_entropy_counts_the_bits_that_vary() -> None:
    even = np.arange(64).reshape(1, 64) % 16
    constant = np.full((1, 64), 3)
    assert entropy_bits([np.concatenate([even, constant])], 16) == (4.0, 0.0)
    half = np.where(even < 8, 0, 1)
    assert entropy_bits([half, half], 16)[0] == pytest.approx(1.0, abs=0.03)
    few = np.random.default_rng(0).integers(0, 256, (1, 768))
    assert entropy_bits([few], 256)[0] == pytest.approx(8, abs=0.03)  # 7.76 is what is seen


@pytest.mark.parametrize(
    ("name", "perfect"),
    [
        needs("pesq_wb", 4.64, "pesq"),
        needs("estoi", 1.0, "pystoi"),
        needs("visqol_speech", 4.11, "visqol", "ai_edge_litert"),
        needs("visqol_audio", 4.73, "visqol"),
        needs("mel", 0.0),
        needs("stft", 0.0),
    ],
)
def test_a_metric_is_perfect_for_the_original_and_worse_with_more_noise(name: str, perfect: float) -> None:
    clip = buzz(2.0, 24_000)
    noise = np.random.default_rng(1).standard_normal(len(clip)).astype(np.float32)
    values = [METRICS[name](clip, clip + scale * noise, 24_000) for scale in (0.0, 0.003, 0.03)]
    assert values[0] == pytest.approx(perfect, abs=0.05)
    assert values == sorted(values, reverse=name not in ("mel", "stft"))
    assert len(set(values)) == 3


def test_visqol_of_a_long_clip_is_the_mean_of_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("visqol")
    monkeypatch.setattr(metrics, "_VISQOL_SECONDS", 1)
    clip = buzz(2.0, 48_000)
    coded = clip + 0.01 * np.random.default_rng(1).standard_normal(len(clip)).astype(np.float32)
    halves = [
        METRICS["visqol_audio"](*pair, 48_000) for pair in zip(np.split(clip, 2), np.split(coded, 2), strict=True)
    ]
    assert METRICS["visqol_audio"](clip, coded, 48_000) == pytest.approx(np.mean(halves), abs=1e-6)


@pytest.mark.parametrize("name", ["pesq_wb", "estoi"])
def test_a_metric_without_speech_to_measure_is_undefined(name: str) -> None:
    pytest.importorskip({"pesq_wb": "pesq", "estoi": "pystoi"}[name])
    silence = np.zeros(4800, np.float32)
    assert np.isnan(METRICS[name](silence, silence, 24_000))


@pytest.mark.parametrize(("name", "seconds"), [("visqol_speech", 0.69), ("visqol_audio", 0.99), ("pesq_wb", 0.1)])
def test_a_clip_too_short_for_a_metric_is_undefined(name: str, seconds: float) -> None:
    pytest.importorskip("pesq" if name == "pesq_wb" else "visqol")
    clip = buzz(seconds, 24_000)
    assert np.isnan(METRICS[name](clip, clip, 24_000))


def test_a_metric_is_defined_from_the_least_length_on() -> None:
    pytest.importorskip("visqol")
    pytest.importorskip("ai_edge_litert")
    for name, seconds in (("visqol_speech", 0.7), ("visqol_audio", 1.0)):
        clip = buzz(seconds, 24_000)
        assert METRICS[name](clip, clip, 24_000) > 3


def test_a_mean_of_nothing_is_null_in_json_and_said_below_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    short = {len(clip.audio) for clip in clips() if clip.group == "one"}
    monkeypatch.setitem(METRICS, "estoi", lambda a, _b, _rate: float("nan") if len(a) in short else 0.5)
    report = Evaluation(Codec(network()), clips(), ["mel", "estoi"]).run([1])
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert written["rows"][0]["by_group"]["speech/one"]["estoi"] is None
    assert written["rows"][0]["means"]["estoi"] == 0.5
    assert table(report).endswith("ESTOI is not defined for all clips; its means are of 1 or more.")


def test_a_metric_that_is_unknown_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no metric 'mos'"):
        choose_metrics(["mos"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UnavailableError, match=r"visqol_speech needs visqol and ai_edge_litert.*\[eval\]"):
        choose_metrics(["mel", "visqol_speech"])
    assert choose_metrics(None) == ["mel", "stft", "si_sdr"]


# --- Opus ---------------------------------------------------------------------------------------------------------


def ogg_page(lengths: list[int]) -> bytes:
    return b"OggS" + bytes(22) + bytes([len(lengths)]) + bytes(lengths) + bytes(sum(lengths))


def test_only_the_bits_of_audio_packets_count() -> None:
    pages = [ogg_page([19]), ogg_page([60]), ogg_page([30, 31, 255, 255]), ogg_page([2, 7])]
    assert packet_bits(b"".join(pages)) == 8 * (30 + 31 + 512 + 7)
    with pytest.raises(BadDataError, match="no Ogg page at byte 47"):
        packet_bits(pages[0] + b"junk")


@needs_opus
def test_opus_gives_the_clip_back_in_place_and_costs_what_its_bitrate_says() -> None:
    clip = buzz(2.0, 24_000)
    low, high = (through_opus(clip, 24_000, kbps) for kbps in (8, 64))
    assert low.audio.shape == high.audio.shape == clip.shape
    assert METRICS["si_sdr"](clip, high.audio, 24_000) > 10
    assert 2 * 4000 < low.bits < 2 * 16_000
    assert high.bits > 4 * low.bits


@needs_opus
def test_opus_stands_beside_the_model_at_its_bitrates() -> None:
    report = Evaluation(Codec(network(), name="tiny"), clips(), ["mel"]).run([1, 4], opus=True)
    low, high = report.rows[2:]
    assert low.codec == "Opus (nominal 5.0)"
    assert low.kbps > 3.2
    assert high.kbps == pytest.approx(12.8, rel=0.1)
    assert high.means["mel"] < low.means["mel"]
    assert low.use is None
    assert table(report).count("Opus") == 2


def test_codebooks_by_level_are_measured_at_their_true_bitrate() -> None:
    codec = Codec(network(), name="tiny")
    gaps = [np.where(np.arange(len(clip.audio)) % 1600 < 800, 1, 1e-4).astype(np.float32) for clip in clips()]
    quiet = [dataclasses.replace(clip, audio=clip.audio * gap) for clip, gap in zip(clips(), gaps, strict=True)]
    whole, varied = Evaluation(codec, quiet, ["mel"]).run([4], vbr=[4]).rows
    codes = np.concatenate([codec.encode(clip.audio, vbr=True)[0] for clip in quiet], axis=1)
    assert varied.codec == "tiny, up to 4 codebooks"
    assert varied.code_bits == pytest.approx(whole.code_bits * (codes >= 0).mean())
    assert varied.kbps == pytest.approx((varied.code_bits + 2) * RATE / codec.hop_length / 1000)
    assert varied.entropy_bits is not None
    assert 0 < sum(varied.entropy_bits) <= varied.code_bits < 0.9 * whole.code_bits
    assert (whole.vbr, varied.vbr) == (False, True)
    assert varied.means["mel"] != whole.means["mel"]


@needs_opus
def test_opus_is_measured_at_what_opusenc_is_asked_for() -> None:
    report = Evaluation(Codec(network(), name="tiny"), clips(), ["mel"]).run([1], opus_nominal=[24.0, 8.0])
    low, high = report.rows[1:]
    assert [row.codec for row in (low, high)] == ["Opus (nominal 8.0)", "Opus (nominal 24.0)"]
    assert low.kbps < 12 < high.kbps


def test_opus_without_its_tools_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _tool: None)
    with pytest.raises(UnavailableError, match="opusenc and opusdec not found"):
        Evaluation(Codec(network()), clips(), ["mel"]).run([1], opus=True)
    with pytest.raises(UnavailableError, match="opusenc and opusdec not found"):
        Evaluation(Codec(network()), clips(), ["mel"]).run([1], opus_nominal=[8.0])


def test_that_opus_is_missing_is_said_before_anything_is_coded(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _tool: None)
    for option in ("--against=opus", "--opus-nominal=8"):
        line = [str(model), f"--data={tmp_path / 'none'}", option]
        with pytest.raises(UnavailableError, match="opusenc and opusdec not found"):
            CliRunner().invoke(evaluate_command, line, catch_exceptions=False)


# --- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_weights(path, Weights(CONFIG, network().state_dict(), {"name": "tiny"}))
    return path


def test_the_command_writes_table_json_and_pictures(model: Path, audio_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.image import imread

    output = tmp_path / "report"
    line = [str(model), f"--data={audio_folder}", "--codebooks=1,4", "--metrics=mel,si_sdr", f"-o{output}"]
    result = CliRunner().invoke(evaluate_command, line, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "| codec | kbps | mel | SI-SDR dB | codebook use |"
    assert [line.split("|")[2].strip() for line in lines[2:4]] == ["3.2", "12.8"]
    written = json.loads((output / "report.json").read_text())
    assert written["model"] == "tiny"
    assert len(written["fingerprint"]) == 64
    assert written["rows"][1]["entropy_bits"][0] > 0
    assert (output / "report.md").read_text() == result.output
    for name in ("rate-quality.png", "spectrograms.png"):
        assert imread(output / name)[..., :3].std() > 0.05, name
    again = CliRunner().invoke(evaluate_command, line)
    assert isinstance(again.exception, StreamdacError)
    (output / "report.json").unlink()  # the pictures are not to be overwritten either
    assert isinstance(CliRunner().invoke(evaluate_command, line).exception, StreamdacError)
    assert CliRunner().invoke(evaluate_command, [*line, "-f", "--json"]).output.startswith("{")


def test_what_was_measured_before_an_error_is_shown(
    model: Path, audio_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter([1.0] * 2)

    def failing(*_: Any) -> float:
        if (value := next(calls, None)) is None:
            raise IndexError("out of bounds")
        return value

    monkeypatch.setitem(METRICS, "si_sdr", failing)
    line = [str(model), f"--data={audio_folder}", "--codebooks=1,4", "--metrics=si_sdr"]
    result = CliRunner().invoke(evaluate_command, line)
    assert isinstance(result.exception, BadDataError)
    assert "IndexError out of bounds" in str(result.exception)
    assert "measured until then:\n| codec | kbps |" in result.stderr
    assert "| tiny, 1 codebooks | 3.2 | 1.0 |" in result.stderr
    assert "4 codebooks" not in result.stderr


def test_a_process_that_ends_by_itself_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation(Codec(network()), clips(), ["mel"], jobs=2)
    monkeypatch.setattr(evaluation_module, "_measure", ending)
    with pytest.raises(UnavailableError, match="one of 2 processes ended by itself"):
        evaluation.run([1])


def ending(_job: object) -> dict[str, float]:
    """Stands for a process that the system has killed."""
    os._exit(9)


DRIVER = """
import os, time
from pathlib import Path
from streamdac.training import evaluation

def work(name):
    Path(name).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with evaluation._pool(2) as mapping:
        list(mapping(work, ["one", "two"]))
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_processes_that_measure_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    parent = subprocess.Popen([sys.executable, "driver.py"], cwd=tmp_path)
    end = time.monotonic() + 60
    names = [tmp_path / "one", tmp_path / "two"]
    while not all(name.exists() and name.read_text() for name in names):
        assert time.monotonic() < end
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while any(alive(int(name.read_text())) for name in names):
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_is_measured_by_its_averaged_weights(audio_folder: Path, tmp_path: Path) -> None:
    made = trainer(audio_folder, tmp_path / "run", "quantise_from=0")
    made.train(Budget(max_steps=2))
    export_weights(load_checkpoint(tmp_path / "run"), tmp_path / "made.safetensors")
    line = [f"--data={audio_folder}", "--metrics=mel", "--codebooks=2", "--json"]
    tables = [
        CliRunner().invoke(evaluate_command, [str(tmp_path / name), *line], catch_exceptions=False).stdout
        for name in ("run", f"run/{LATEST}", "made.safetensors")
    ]
    assert json.loads(tables[0])["rows"][0]["means"]["mel"] > 0
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--codebooks=0,2"], "1 to 4 codebooks, got 0"),
        (["--codebooks=5"], "1 to 4 codebooks, got 5"),
        (["--codebooks=two"], "whole numbers"),
        (["--vbr=5"], "1 to 4 codebooks, got 5"),
        (["--metrics=nothing"], "no metric 'nothing'"),
        (["--opus-nominal=6,many"], "bitrates in kbps"),
        (["--opus-nominal=6,4.5,nan"], "5 to 256 kbps, got 4.5, nan"),
    ],
)
def test_a_wrong_argument_is_refused(model: Path, audio_folder: Path, arguments: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(evaluate_command, [str(model), f"--data={audio_folder}", *arguments], catch_exceptions=False)
