"""How every speed figure of this project is made: ms per hop beside a baseline and the machine's sgemm rate, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .baseline import BaselineDecoder, BaselineEncoder
from .codec import Codec, make_executor
from .errors import UnavailableError
from .executor import Executor
from .nn.network import DAC
from .plan import ConvOp, Part, Plan, TransposeOp
from .streaming import StreamDecoder, StreamEncoder

ENGINES = ("torch", "native")
_SGEMM = 384  # edge of the matrices: in cache, as the layers are


@dataclass(frozen=True)
class Row:
    """One line of `streamdac bench`."""

    model: str
    executor: str
    op: str
    """encode or decode, quantiser included."""
    threads: int
    hop_ms: float
    """Duration of one hop."""
    p50_ms: float
    p99_ms: float
    x_realtime: float
    gflops: float
    """Convolutions only, by the median."""
    sgemm_gflops: float
    baseline_p50_ms: float
    speedup: float

    def to_dict(self) -> dict[str, str | int | float]:
        """For JSON, figures rounded to what they are worth."""
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()}


def bench(
    codec: Codec, network: DAC, *, threads: int = 1, seconds: float = 10.0, engines: Sequence[str] = ENGINES
) -> Iterator[Row]:
    """Every executor there is, encode and decode, one hop at a time, in turn with the baseline and sgemm."""
    torch.set_num_threads(threads)
    executors = [executor for name in engines if (executor := _executor(codec, name)) is not None]
    plan = codec.plan
    filled = 3 + plan.lookahead // plan.config.hop_length  # hops until every step gives a hop
    for op in ("encode", "decode"):
        steps = {"baseline": _baseline_step(network, plan, op), "sgemm": _sgemm_step()}
        steps |= {executor.name: _step(plan, executor, op) for executor in executors}
        times = interleaved(steps, seconds / 2, warm_up=filled)
        flops = part_flops(plan.encoder if op == "encode" else plan.decoder, plan, decoding=op == "decode")
        for executor in executors:
            yield _row(codec, executor.name, op, threads, times, flops)


def _executor(codec: Codec, name: str) -> Executor | None:
    try:
        return make_executor(codec.plan, engine=name)
    except UnavailableError:
        return None


def interleaved(steps: dict[str, Callable[[], object]], seconds: float, *, warm_up: int = 3) -> dict[str, list[float]]:
    """Seconds of each call, all in turn, so that a noisy machine is as noisy for each."""
    for step in steps.values():
        for _ in range(warm_up):
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 20:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    return times


def _row(codec: Codec, name: str, op: str, threads: int, times: dict[str, list[float]], flops: int) -> Row:
    p50, baseline = statistics.median(times[name]), statistics.median(times["baseline"])
    ratios = [b / t for b, t in zip(times["baseline"], times[name], strict=True)]
    hop = codec.hop_length / codec.sample_rate
    return Row(
        model=codec.name,
        executor=name,
        op=op,
        threads=threads,
        hop_ms=1000 * hop,
        p50_ms=1000 * p50,
        p99_ms=1000 * percentile(times[name], 99),
        x_realtime=hop / p50,
        gflops=flops / p50 / 1e9,
        sgemm_gflops=2 * _SGEMM**3 / statistics.median(times["sgemm"]) / 1e9,
        baseline_p50_ms=1000 * baseline,
        speedup=statistics.median(ratios),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def part_flops(part: Part, plan: Plan, *, decoding: bool) -> int:
    """Floating-point operations of the convolutions for one hop, once the stream runs."""
    samples = 1.0 if decoding else float(plan.config.hop_length)
    total = 0.0
    for op in part.ops:
        if isinstance(op, ConvOp):
            samples /= op.geometry.stride
            total += 2 * samples * op.weight.numel()
        elif isinstance(op, TransposeOp):
            total += 2 * samples * op.weight.numel()
            samples *= op.geometry.stride
    return round(total)


def _step(plan: Plan, executor: Executor, op: str) -> Callable[[], object]:
    if op == "encode":
        encoder, audio = StreamEncoder(plan, executor), _audio(plan)
        return lambda: encoder.push(audio)
    decoder, codes = StreamDecoder(plan, executor), _codes(plan)
    return lambda: decoder.push(codes)


def _baseline_step(network: DAC, plan: Plan, op: str) -> Callable[[], object]:
    if op == "encode":
        encoder, audio = BaselineEncoder(network), _audio(plan)[None, None]
        return lambda: encoder.push(audio)
    decoder, codes = BaselineDecoder(network), _codes(plan)[None]
    return lambda: decoder.push(codes)


def _sgemm_step() -> Callable[[], object]:
    a, b = torch.randn(_SGEMM, _SGEMM), torch.randn(_SGEMM, _SGEMM)
    return lambda: a @ b


def _audio(plan: Plan) -> Tensor:
    return 0.1 * torch.randn(plan.config.hop_length)


def _codes(plan: Plan) -> Tensor:
    return torch.randint(plan.config.codebook_size, (plan.config.n_codebooks, 1))
