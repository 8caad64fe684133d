"""How many streams one machine keeps up with."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from .bench import ENGINES, executor_of
from .codec import Codec, describe_executor
from .executor import Executor
from .plan import Plan
from .streaming import StreamDecoder, StreamEncoder
from .timing import Step, in_turn, percentile, rounded

MAX_STREAMS = 4096


@dataclass(frozen=True)
class StreamsRow:
    """How many streams one thread keeps up with: encode and decode of one hop each, within one hop at the 99th percentile."""

    model: str
    executor: str
    op: str
    threads: int
    hop_ms: float
    streams: int
    p50_ms: float
    """For one hop of all streams, encoded and decoded."""
    p99_ms: float
    streams_per_core: float
    detail: str

    def to_dict(self) -> dict[str, str | int | float]:
        """For JSON, figures rounded to what they are worth."""
        return rounded(self)


def bench_streams(
    codec: Codec, *, threads: Sequence[int] = (1,), seconds: float = 10.0, engines: Sequence[str] = ENGINES
) -> Iterator[StreamsRow]:
    """The most streams in one batch that each executor keeps up with, found by halving."""
    for n in threads:
        for name in engines:
            if (executor := executor_of(codec.plan, name, n)) is not None:
                yield _most_streams(codec, executor, n, seconds)


def _most_streams(codec: Codec, executor: Executor, threads: int, seconds: float) -> StreamsRow:
    hop = codec.hop_length / codec.sample_rate
    low, high, found = 0, MAX_STREAMS + 1, [0.0]
    streams = 1
    while high - low > max(1, low // 20):
        times = _round_trip(codec.plan, executor, threads, streams, seconds / 10)
        if percentile(times, 99) < hop:
            low, found = streams, times
            streams = min((low + high) // 2, 2 * low)
        else:
            high = streams
            streams = (low + high) // 2
    return StreamsRow(
        model=codec.name,
        executor=executor.name,
        op="encode+decode",
        threads=threads,
        hop_ms=1000 * hop,
        streams=low,
        p50_ms=1000 * statistics.median(found),
        p99_ms=1000 * percentile(found, 99),
        streams_per_core=low / threads,
        detail=describe_executor(executor),
    )


def _round_trip(plan: Plan, executor: Executor, threads: int, streams: int, seconds: float) -> list[float]:
    encoder = StreamEncoder(plan, executor, batch=streams)
    decoder = StreamDecoder(plan, executor, batch=streams)
    audio = 0.1 * torch.randn(streams, 1, plan.config.hop_length)
    filled = 3 + plan.encoder_lookahead // plan.config.hop_length
    step = Step(lambda: decoder.push(encoder.push(audio)), threads=threads)
    return in_turn({"": step}, seconds, warm_up=filled, least=100)[""].all()
