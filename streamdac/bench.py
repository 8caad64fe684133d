"""How every speed figure of this project is made: ms per hop beside a baseline and the machine's own limits, in one run.

Everything is measured in turn, in bursts of a few steps: a noisy machine is as noisy for each, and each finds its weights as
near as a running stream does. Quote the ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .baseline import BaselineDecoder, BaselineEncoder
from .codec import Codec, describe_executor, make_executor
from .errors import UnavailableError
from .executor import Executor
from .native_executor import NativeExecutor
from .nn.network import DAC
from .ops import ConvOp, Part, TransposeOp
from .plan import Plan
from .streaming import StreamDecoder, StreamEncoder
from .timing import Step, Times, bandwidth_step, in_turn, percentile, rounded, sgemm_step

ENGINES = ("torch", "native")
OPERATIONS = ("encode", "decode")


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
    """Of matrices that fit the cache, on as many threads."""
    bandwidth_gbs: float
    """Of a matrix too large for the cache, read once, on as many threads."""
    weight_mb: float
    """What one hop reads of the weights, quantiser included."""
    roofline_gflops: float
    """The smaller of the sgemm rate and what reading the weights at that bandwidth allows."""
    roofline_share: float
    baseline_p50_ms: float
    """One torch module after another with cached context, on one thread."""
    speedup: float
    """Over the baseline."""
    thread_speedup: float
    """Over the same executor on the first number of threads in the run."""
    detail: str
    """Which executor this is and why."""

    def to_dict(self) -> dict[str, str | int | float]:
        """For JSON, figures rounded to what they are worth."""
        return rounded(self)


def bench(
    codec: Codec,
    network: DAC,
    *,
    threads: Sequence[int] = (1,),
    seconds: float = 10.0,
    engines: Sequence[str] = ENGINES,
) -> Iterator[Row]:
    """Every executor there is, encode and decode, one hop at a time, in turn with the baseline, sgemm and a large read."""
    plan = codec.plan
    executors = {
        (name, n): made for n in threads for name in engines if (made := executor_of(plan, name, n)) is not None
    }
    filled = 3 + plan.lookahead // plan.config.hop_length  # hops until every step gives a hop
    for op in OPERATIONS:
        steps: dict[str, Step] = {"baseline": Step(_baseline_step(network, plan, op))}
        for n in threads:
            steps[f"sgemm {n}"], steps[f"bandwidth {n}"] = sgemm_step(n), bandwidth_step(n)
        for (name, n), executor in executors.items():
            steps[f"{name} {n}"] = Step(_step(plan, executor, op), threads=n)
        times = in_turn(steps, seconds / len(OPERATIONS), warm_up=filled)
        for (name, n), executor in executors.items():
            yield _row(codec, op, name, n, executor, times, threads[0])


def executor_of(plan: Plan, name: str, threads: int) -> Executor | None:
    """The executor of that name; None where this machine has none."""
    try:
        return make_executor(plan, engine=name, threads=threads)
    except UnavailableError:
        return None


def _row(codec: Codec, op: str, name: str, threads: int, executor: Executor, times: Times, first: int) -> Row:
    own, base = times[f"{name} {threads}"], times["baseline"]
    sgemm, bandwidth = times[f"sgemm {threads}"].rate() / 1e9, times[f"bandwidth {threads}"].rate() / 1e9
    halved = isinstance(executor, NativeExecutor) and executor.reads_halves
    flops, weights = part_flops(codec.plan, op), weight_bytes(codec.plan, op, halved=halved)
    roofline = min(sgemm, flops / (weights / bandwidth))
    p50, hop = own.median(), codec.hop_length / codec.sample_rate
    return Row(
        model=codec.name,
        executor=name,
        op=op,
        threads=threads,
        hop_ms=1000 * hop,
        p50_ms=1000 * p50,
        p99_ms=1000 * percentile(own.all(), 99),
        x_realtime=hop / p50,
        gflops=flops / p50 / 1e9,
        sgemm_gflops=sgemm,
        bandwidth_gbs=bandwidth,
        weight_mb=weights / 1e6,
        roofline_gflops=roofline,
        roofline_share=flops / p50 / 1e9 / roofline,
        baseline_p50_ms=1000 * base.median(),
        speedup=own.faster_than(base),
        thread_speedup=own.faster_than(times[f"{name} {first}"]),
        detail=describe_executor(executor),
    )


def part_flops(plan: Plan, op: str) -> int:
    """Floating-point operations of the convolutions for one hop, once the stream runs."""
    samples = float(plan.config.hop_length) if op == "encode" else 1.0
    total = 0.0
    for layer in _part(plan, op).ops:
        if isinstance(layer, ConvOp):
            samples /= layer.geometry.stride
            total += 2 * samples * layer.weight.numel()
        elif isinstance(layer, TransposeOp):
            total += 2 * samples * layer.weight.numel()
            samples *= layer.geometry.stride
    return round(total)


def weight_bytes(plan: Plan, op: str, *, halved: bool) -> int:
    """What one hop reads of the weights, the quantiser's included.

    Args:
        plan: the network.
        op: encode or decode.
        halved: whether a layer's weights are read as 2 bytes each where half precision holds them; else all as 4.
    """
    q = plan.quantizer
    search = [q.in_weight, q.directions, *q.cross]
    if (p := q.prediction) is not None:  # to go on from what the first codes say
        search += [q.out_weight[: p.codebooks * q.rows.shape[2]]]
    predict = [] if p is None else [p.first_weight, p.second_weight, p.last_weight]
    tensors = [*predict, *(search if op == "encode" else [q.out_weight])]
    layers = [layer for layer in _part(plan, op).ops if isinstance(layer, ConvOp | TransposeOp)]
    convolutions = sum((2 if halved and layer.halves else 4) * layer.weight.numel() for layer in layers)
    return convolutions + 4 * sum(tensor.numel() for tensor in tensors)


def _part(plan: Plan, op: str) -> Part:
    return plan.encoder if op == "encode" else plan.decoder


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


def _audio(plan: Plan) -> Tensor:
    return 0.1 * torch.randn(plan.config.hop_length)


def _codes(plan: Plan) -> Tensor:
    return torch.randint(plan.config.codebook_size, (plan.config.n_codebooks, 1))
