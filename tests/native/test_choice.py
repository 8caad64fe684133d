"""Which executor runs, who decides, and what happens where the kernels are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from streamdac import native
from streamdac.cli import main
from streamdac.codec import Codec, describe_executor, load, make_executor
from streamdac.config import CAUSAL, ModelConfig
from streamdac.errors import UnavailableError, UsageError
from streamdac.nn.network import DAC, randomize
from streamdac.weights import Weights, save_weights

from . import models
from .models import SMALL, needs_native, noise

REASON = "the native kernels are not built (for a test)"


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an install without a compiler."""
    monkeypatch.setattr(native, "_module", None)
    monkeypatch.setattr(native, "_reason", REASON)


def network() -> DAC:
    made = DAC(ModelConfig(**SMALL, padding=CAUSAL))  # type: ignore[arg-type]
    randomize(made)
    return made.eval()


@pytest.fixture
def model(tmp_path: Path) -> str:
    made, path = network(), tmp_path / "model.safetensors"
    save_weights(path, Weights(made.config, made.state_dict(), {"name": "small"}))
    return str(path)


@needs_native
def test_auto_is_native_on_the_cpu_and_torch_elsewhere() -> None:
    plan = models.small_plan(CAUSAL)
    assert make_executor(plan).name == "native"
    assert make_executor(plan, engine="torch").name == "torch"
    assert make_executor(plan, device="meta").name == "torch"
    with pytest.raises(UnavailableError, match="it runs on the CPU, the device is 'meta'"):
        make_executor(plan, device="meta", engine="native")


@needs_native
def test_a_codec_runs_on_the_engine_that_was_asked_for(model: str) -> None:
    found = {engine: load(model, engine=engine, threads=2).executor for engine in ("auto", "native", "torch")}
    assert {engine: executor.name for engine, executor in found.items()} == {
        "auto": "native",
        "native": "native",
        "torch": "torch",
    }
    assert describe_executor(found["native"]) == f"native ({native.instruction_sets()[0]})"
    assert describe_executor(found["torch"]) == "torch on cpu"
    audio = noise(1, 1, 600)
    codes = {engine: load(model, engine=engine).encode(audio) for engine in ("native", "torch")}
    plan = load(model).plan
    models.assert_same_codes(plan, audio.mT, codes["native"].mT, codes["torch"].mT)


@pytest.mark.parametrize("threads", [0, -1, 257, 1.0, True, "2"])
def test_threads_out_of_range_are_refused(threads: Any) -> None:
    with pytest.raises(UsageError, match=r"threads is .*, need 1 to 256"):
        make_executor(models.small_plan(CAUSAL), threads=threads)


@pytest.mark.parametrize("device", ["cuda:99", "mps", "vulkan", "lazy", "hpu", "meta", "meta:0", "nonsense"])
def test_a_device_that_is_not_there_is_said_in_a_sentence(model: str, device: str) -> None:
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    with pytest.raises(UnavailableError) as info:
        load(model, device=device)
    said = str(info.value)
    assert said.startswith(f"device {device!r}: ")
    assert len(said) < 250
    assert "\n" not in said


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="engine is 'onnx', need one of auto, torch, native"):
        make_executor(models.small_plan(CAUSAL), engine="onnx")


@pytest.mark.usefixtures("missing")
def test_without_the_kernels_torch_serves() -> None:
    assert not native.available()
    assert native.instruction_sets() == []
    codec = Codec(network())
    assert codec.executor.name == "torch"
    assert describe_executor(codec.executor) == f"torch on cpu: {REASON}"
    audio = noise(1, 1, 600)
    codes = codec.encode(audio)
    encoder = codec.encoder()
    assert torch.equal(torch.cat([encoder.push(audio), encoder.flush()], dim=-1), codes)
    assert codec.decode(codes).shape == (1, 1, 600)


@pytest.mark.usefixtures("missing")
def test_without_the_kernels_native_says_why() -> None:
    with pytest.raises(UnavailableError) as caught:
        Codec(network(), engine="native")
    assert str(caught.value) == f"engine 'native': {REASON}"
    with pytest.raises(UnavailableError, match="not built"):
        native.kernels()


def test_a_library_built_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not native.available():
        pytest.skip(native.why_not() or "")
    monkeypatch.setattr(native, "_source_stamp", lambda: "0" * 16)
    module, reason = native._load()
    assert module is None
    assert reason is not None
    assert "built from other sources" in reason
    monkeypatch.setattr(native, "_source_stamp", lambda: None)  # sources are not installed
    assert native._load() == (native.kernels(), None)


@needs_native
def test_info_names_the_executor(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["executor"] == f"native ({native.instruction_sets()[0]})"


@pytest.mark.usefixtures("missing")
def test_info_says_why_it_is_torch(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["executor"] == f"torch on cpu: {REASON}"


@pytest.mark.usefixtures("missing")
def test_a_command_that_wants_native_ends_with_69(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "--model", model, "--engine", "native", "-", "-o", "-"]) == UnavailableError.exit_code
    assert capsys.readouterr().err.strip() == f"streamdac: engine 'native': {REASON}"
