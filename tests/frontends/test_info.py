"""`streamdac info`: streams, models, audio and archives, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import streamdac
from streamdac.codec import Codec
from streamdac.frontends.info import describe
from streamdac.nn import DAC
from streamdac.weights import Weights, save_weights

from .conftest import SPEECH, Run
from .models import CONFIG, HOP, RATE


def told(run: Run, target: object) -> dict[str, Any]:
    found = json.loads(run("info", target, "--json").ok().out)
    assert isinstance(found, dict)
    return found


def test_a_model_is_told_by_its_geometry_and_fingerprint(run: Run, weights: Path, codec: Codec) -> None:
    found = told(run, weights)
    assert found["kind"] == "model"
    assert found["fingerprint"] == codec.fingerprint.hex()
    assert (found["sample_rate"], found["hop_length"], found["codebooks"]) == (RATE, HOP, CONFIG.n_codebooks)
    assert found["round_trip_ms"] == round(1000 * HOP / RATE, 1)
    assert found["encoder_lookahead_ms"] == 0
    assert codec.executor.name in found["executor"]


def test_the_embedded_model_is_meant_where_nothing_is_named(
    run: Run, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMDAC_MODEL", str(weights))
    found = json.loads(run("info", "--json").ok().out)
    assert found == told(run, "causal-24khz") == told(run, weights)


def test_a_model_is_told_with_its_licence_and_not_with_the_steps_of_its_last_run(run: Run, tmp_path: Path) -> None:
    network = DAC(CONFIG)
    facts = {"name": "mean", "licence": "MIT", "step": "5", "audio_seconds": "9"}
    save_weights(tmp_path / "m.safetensors", Weights(CONFIG, network.state_dict(), facts))
    found = told(run, tmp_path / "m.safetensors")
    assert (found["name"], found["licence"]) == ("mean", "MIT")
    assert not {"step", "audio_seconds"} & set(found)


def test_a_stream_is_told_by_header_and_contents(run: Run, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros((9_000, 2), np.float32), 48_000)
    run("encode", tmp_path / "a.wav", "-n", 2).ok()
    found = told(run, tmp_path / "a.sdac")
    assert found["kind"] == "stream"
    assert (found["channels"], found["source_rate"], found["source_samples"]) == (2, 48_000, 9_000)
    assert (found["codebooks"], found["frames"], found["problems"]) == ([2], 15, [])
    assert found["bytes"] == (tmp_path / "a.sdac").stat().st_size


def test_damage_to_a_stream_is_listed_and_exits_with_65(run: Run, tmp_path: Path) -> None:
    run("encode", "tone:440,1", "-o", tmp_path / "a.sdac").ok()
    data = (tmp_path / "a.sdac").read_bytes()
    (tmp_path / "a.sdac").write_bytes(data[:200] + b"??" + data[202:-3])
    result = run("info", tmp_path / "a.sdac")
    assert result.code == 65
    assert "frames lost from frame" in result.out.decode()
    assert "cut: the stream has no end" in result.out.decode()


def test_audio_is_told_whatever_it_is_called(run: Run, tmp_path: Path) -> None:
    (tmp_path / "speech").write_bytes(SPEECH.read_bytes())
    for path in (SPEECH, tmp_path / "speech"):
        found = told(run, path)
        assert (found["kind"], found["sample_rate"], found["channels"]) == ("audio", RATE, 1)
        assert found["samples"] == soundfile.info(SPEECH).frames


def test_an_archive_is_told_by_what_it_holds(run: Run, tmp_path: Path) -> None:
    codes = np.zeros((2, 9, 40), np.uint16)
    streamdac.Archive(
        codes=codes, input_db=np.array([-20.5], np.float32), original_length=20_000, sample_rate=44_100,
        chunk_length=40, channels=2, padding=True,
    ).save(tmp_path / "a.dac")  # fmt: skip
    found = told(run, tmp_path / "a.dac")
    assert found["kind"] == "archive"
    assert (found["sample_rate"], found["channels"], found["codebooks"], found["frames"]) == (44_100, 2, 9, 40)
    assert (found["samples"], found["loudness_db"], found["windowed"]) == (20_000, [-20.5], False)


@pytest.mark.parametrize("name", ["a.wav", "a.sdac", "a.dac", "a.safetensors", "a.pth", "a", "a.txt"])
@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"\x89SDAC\r\n\x1a\n", b"\x93NUMPY\x01\x00v\x00", bytes(range(256)) * 9]
)
def test_garbage_is_refused_in_one_line(run: Run, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    result = run("info", tmp_path / name)
    assert (result.code, result.out, len(result.err.splitlines())) == (65, b"", 1)
    assert "shows where" not in result.err  # foreseen


def test_lines_for_people_say_what_the_object_says(run: Run, weights: Path) -> None:
    lines = run("info", weights).ok().out.decode().splitlines()
    found = describe(str(weights))
    assert len(lines) == len(found)
    assert lines[0].split() == ["kind", "model"]
    assert any(line.startswith("sample rate") and line.endswith(str(RATE)) for line in lines)


def test_weights_that_torch_cannot_read_are_bad_data(run: Run, tmp_path: Path) -> None:
    torch.save({"anything": torch.zeros(2)}, tmp_path / "w.pth")
    result = run("info", tmp_path / "w.pth")
    assert (result.code, "no state_dict" in result.err) == (65, True)
