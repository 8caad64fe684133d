"""`streamdac bench`: every row, its fields, and figures that follow from one another."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from streamdac import bench, native, timing
from streamdac.baseline import BaselineDecoder, BaselineEncoder
from streamdac.bench_files import bench_files
from streamdac.bench_streams import bench_streams
from streamdac.cli import main
from streamdac.codec import Codec
from streamdac.config import CAUSAL, CENTRED, ModelConfig
from streamdac.nn.network import DAC, randomize
from streamdac.ops import ConvOp, TransposeOp
from streamdac.weights import Weights, save_weights

from .models import SMALL, halve, noise

ENGINES = {"torch", "native"} if native.available() else {"torch"}
FIELDS = [
    *("model", "executor", "op", "threads", "hop_ms", "p50_ms", "p99_ms", "x_realtime", "gflops", "sgemm_gflops"),
    *(
        "bandwidth_gbs",
        "weight_mb",
        "roofline_gflops",
        "roofline_share",
        "baseline_p50_ms",
        "speedup",
        "thread_speedup",
    ),
    "detail",
]


@cache
def network(padding: str = CAUSAL, predictor_dim: int = 0) -> DAC:
    sizes = {**SMALL, "predictor_dim": predictor_dim, "predictor_codebooks": 2}
    made = DAC(ModelConfig(**sizes, padding=padding))  # type: ignore[arg-type]
    randomize(made)
    return made.eval()


@pytest.fixture(autouse=True)
def small_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The large read takes most of a short run."""
    monkeypatch.setattr(timing, "READ_EDGE", 256)


@pytest.mark.parametrize(("padding", "engines", "threads"), [
    (CAUSAL, sorted(ENGINES), (1,)), (CENTRED, sorted(ENGINES), (1,)), (CAUSAL, sorted(ENGINES)[:1], (1, 2)),
])  # fmt: skip
def test_every_executor_gets_a_row_for_each_operation_and_number_of_threads(
    padding: str, engines: list[str], threads: tuple[int, ...]
) -> None:
    codec = Codec(network(padding), name="small")
    rows = list(bench.bench(codec, network(padding), threads=threads, seconds=0.1, engines=engines))
    wanted = {(name, op, n) for name in engines for op in ("encode", "decode") for n in threads}
    assert len(rows) == len(wanted)
    assert {(row.executor, row.op, row.threads) for row in rows} == wanted
    for row in rows:
        assert row.x_realtime == pytest.approx(row.hop_ms / row.p50_ms)
        assert row.gflops == pytest.approx(bench.part_flops(codec.plan, row.op) / row.p50_ms / 1e6)
        assert row.roofline_gflops <= row.sgemm_gflops
        assert row.roofline_share == pytest.approx(row.gflops / row.roofline_gflops)
        assert row.p50_ms <= row.p99_ms
        if row.threads == 1:
            assert row.thread_speedup == 1.0


def test_operations_of_a_hop_are_those_a_long_signal_takes() -> None:
    plan = Codec(network(), engine="torch").plan
    hops = 5000
    for op, part, samples in (("encode", plan.encoder, 6 * hops), ("decode", plan.decoder, hops)):
        total = 0
        for layer in part.ops:
            if isinstance(layer, ConvOp):
                samples = layer.ready(samples)
                total += 2 * samples * layer.weight.numel()
            elif isinstance(layer, TransposeOp):
                total += 2 * samples * layer.weight.numel()
                samples = layer.ready(samples)
        assert bench.part_flops(plan, op) == pytest.approx(total / hops, rel=1e-2)


def test_weights_of_a_hop_are_counted_with_the_quantiser() -> None:
    plan = Codec(network(), engine="torch").plan
    encoder = sum(p.numel() for n, p in network().encoder.named_parameters() if n.endswith("weight_v"))
    k, size, d, latent = 4, 50, 5, 10
    cross = d * d * k * (k - 1) // 2
    assert bench.weight_bytes(plan, "encode", halved=True) == 4 * (encoder + k * d * latent + k * d * size + cross)
    decoder = sum(p.numel() for n, p in network().decoder.named_parameters() if n.endswith("weight_v"))
    assert bench.weight_bytes(plan, "decode", halved=True) == 4 * (decoder + k * d * latent)


def test_weights_that_half_precision_holds_are_counted_so() -> None:
    halved = copy.deepcopy(network())
    halve(halved)
    whole, half = (Codec(each, engine="torch").plan for each in (network(), halved))
    for op, part in (("encode", whole.encoder), ("decode", whole.decoder)):
        convolutions = sum(layer.weight.numel() for layer in part.ops if isinstance(layer, ConvOp | TransposeOp))
        floats = bench.weight_bytes(half, op, halved=False)
        assert floats == bench.weight_bytes(whole, op, halved=True)
        assert bench.weight_bytes(half, op, halved=True) == floats - 2 * convolutions


def test_a_predictor_is_read_at_both_ends() -> None:
    plain, plan = (Codec(network(predictor_dim=dim), engine="torch").plan for dim in (0, 7))
    predictor, first = 2 * 10 * 7 + 7 * 7 + (2 * 10 + 7) * 10, 2 * 5 * 10
    for op, more in (("encode", predictor + first), ("decode", predictor)):
        before, after = (bench.weight_bytes(each, op, halved=True) for each in (plain, plan))
        assert after == before + 4 * more


@pytest.mark.parametrize("predictor_dim", [0, 7])
def test_the_baseline_gives_the_same_codes_and_audio(predictor_dim: int) -> None:
    made = network(predictor_dim=predictor_dim)
    codec, audio = Codec(made, engine="torch"), noise(1, 1, 240)
    encoder, decoder = BaselineEncoder(made), BaselineDecoder(made)
    codes = torch.cat([encoder.push(part) for part in audio.split(6, dim=-1)], dim=-1)
    assert torch.equal(codes, codec.encode(audio))
    pcm = torch.cat([decoder.push(part) for part in codes.split(1, dim=-1)], dim=-1)
    torch.testing.assert_close(pcm, codec.decode(codes), atol=3e-4, rtol=0.0)


def test_whole_files_are_measured_beside_the_plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamdac.bench_files.SECONDS_OF_AUDIO", (0.01, 0.02))
    codec = Codec(network(), name="small")
    rows = list(bench_files(codec, network(), 0.1))
    assert {(row.executor, row.op) for row in rows} == {
        (name, op) for name in ENGINES | {"plain"} for op in ("file-encode", "file-decode")
    }
    for row in rows:
        assert row.sgemm_share == pytest.approx(row.gflops / row.sgemm_gflops)
        assert row.audio_seconds == pytest.approx(0.02, abs=1e-3)
        if row.executor == "plain":
            assert row.speedup == 1.0


def slow_codec(engine: str = "auto") -> Codec:
    """A hop of 6 ms."""
    return Codec(DAC(ModelConfig(**SMALL, sample_rate=1000)), engine=engine, name="small")  # type: ignore[arg-type]


def test_streams_are_counted_until_a_hop_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of our own: 0.9 ms for each stream."""
    monkeypatch.setattr("streamdac.bench_streams._round_trip", lambda plan, executor, threads, n, s: [0.0009 * n] * 9)
    (row,) = bench_streams(slow_codec("torch"), engines=["torch"])
    assert (row.streams, row.streams_per_core) == (6, 6.0)
    assert row.p99_ms == pytest.approx(5.4)
    monkeypatch.setattr("streamdac.bench_streams._round_trip", lambda *_: [1.0])
    (row,) = bench_streams(slow_codec("torch"), engines=["torch"])
    assert row.streams == 0


def test_many_streams_are_really_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamdac.bench_streams.MAX_STREAMS", 20)
    rows = list(bench_streams(slow_codec(), seconds=0.01))
    assert {row.executor for row in rows} == ENGINES
    assert all(row.p50_ms <= row.p99_ms < row.hop_ms for row in rows)


def test_things_taken_in_turn_are_paired() -> None:
    slow, fast = timing.Timed(bursts=[[4.0, 4.0], [8.0]]), timing.Timed(amount=6.0, bursts=[[2.0, 2.0], [2.0]])
    assert fast.faster_than(slow) == 3.0
    assert fast.rate() == 3.0
    assert timing.percentile(range(100), 99) == 99


def test_threads_of_torch_are_put_back() -> None:
    before, seen = torch.get_num_threads(), []
    step = timing.Step(lambda: seen.append(torch.get_num_threads()), threads=before + 1)
    times = timing.in_turn({"a": step}, 0.0, warm_up=1, least=2)
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before
    assert len(times["a"].all()) == len(seen) - 1


@pytest.fixture
def model(tmp_path: Path) -> str:
    made, path = network(), tmp_path / "model.safetensors"
    save_weights(path, Weights(made.config, made.state_dict(), {"name": "small"}))
    return str(path)


def test_json_is_one_object_a_line(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", model, "--seconds", "0.1", "--json"]) == 0
    rows: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 * len(ENGINES)
    assert all(list(row) == FIELDS for row in rows)
    assert {row["model"] for row in rows} == {"small"}


def test_the_table_says_which_executor_runs(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamdac.bench_files.SECONDS_OF_AUDIO", (0.01, 0.02))
    command = ["bench", "--model", model, "--seconds", "0.1", "--engine", "torch", "--streams", "--files"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "of roofline" in shown
    assert "per core" in shown
    assert "of sgemm" in shown
    assert "torch on cpu" in shown


def test_a_model_and_a_preset_exclude_each_other(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", model, "--preset", "causal-24khz"]) == 2
    assert "exclude each other" in capsys.readouterr().err
