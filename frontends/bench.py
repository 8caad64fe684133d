"""`streamdac bench`: how fast this machine runs a model, beside a baseline and its own limits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from streamdac.frontend import Frontend, LazyCommand
from streamdac.numbers import FiniteRange

if TYPE_CHECKING:
    from streamdac.codec import Codec
    from streamdac.nn import DAC

# title -> how the fields of a row are shown under it
_HOPS = {
    "executor": "{executor}",
    "op": "{op}",
    "threads": "{threads}",
    "p50 ms": "{p50_ms:.3f}",
    "p99 ms": "{p99_ms:.3f}",
    "x real time": "{x_realtime:.1f}",
    "GFLOP/s": "{gflops:.1f}",
    "sgemm": "{sgemm_gflops:.1f}",
    "GB/s": "{bandwidth_gbs:.1f}",
    "of roofline": "{roofline_share:.0%}",
    "baseline ms": "{baseline_p50_ms:.3f}",
    "speed-up": "{speedup:.2f}",
    "by threads": "{thread_speedup:.2f}",
}
_STREAMS = {
    "executor": "{executor}",
    "op": "{op}",
    "threads": "{threads}",
    "streams": "{streams}",
    "p50 ms": "{p50_ms:.3f}",
    "p99 ms": "{p99_ms:.3f}",
    "per core": "{streams_per_core:.1f}",
}
_FILES = {
    "executor": "{executor}",
    "op": "{op}",
    "threads": "{threads}",
    "audio s": "{audio_seconds:.1f}",
    "p50 ms": "{p50_ms:.1f}",
    "x real time": "{x_realtime:.1f}",
    "GFLOP/s": "{gflops:.1f}",
    "sgemm": "{sgemm_gflops:.1f}",
    "of sgemm": "{sgemm_share:.0%}",
    "plain ms": "{plain_p50_ms:.1f}",
    "speed-up": "{speedup:.2f}",
}

Rows = Iterator[Any]


@click.command(short_help="Measure each executor, one hop at a time.")
@click.option("--model", default=None, help="A weights file or a model's name; the embedded causal model by default.")
@click.option("--preset", default=None, help="Instead of a model: a preset's geometry with random weights.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(["torch", "native"]), help="Only this executor.")
@click.option(
    "--threads", multiple=True, type=click.IntRange(1, 256), default=(1,), show_default=True, help="Repeat to compare."
)
@click.option("--seconds", type=FiniteRange(0.1, 3600), default=10.0, show_default=True, help="For each table.")
@click.option("--streams", is_flag=True, help="Also: how many streams keep up, encode and decode, p99 within a hop.")
@click.option("--files", is_flag=True, help="Also: whole files, beside the plain torch network.")
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def bench(
    model: str | None,
    preset: str | None,
    engines: tuple[str, ...],
    threads: tuple[int, ...],
    seconds: float,
    streams: bool,
    files: bool,
    as_json: bool,
) -> None:
    """Milliseconds per hop for encode and decode, quantiser included, for each executor.

    The baseline (one torch module after another with cached context, on one thread), a matrix product and a large read run
    in turn with them: quote the ratios. The roofline is the smaller of the product's rate and what reading all weights once
    a hop allows at the rate of that read.
    """
    if max(threads) > 1:
        os.environ.setdefault(
            "OMP_WAIT_POLICY", "passive"
        )  # idle threads of one contender must not spin in another's time
    codec, network = _load(model, preset)
    from streamdac import bench as hops
    from streamdac import bench_files, bench_streams
    from streamdac.codec import make_executor

    for name in engines:
        make_executor(codec.plan, engine=name)  # what was asked for and cannot be is said
    chosen: Any = {"threads": tuple(dict.fromkeys(threads)), "engines": engines or hops.ENGINES}
    if not as_json:
        click.echo(f"{codec.name}: hop {1000 * codec.hop_length / codec.sample_rate:.2f} ms")
    _report(hops.bench(codec, network, seconds=seconds, **chosen), _HOPS, as_json)
    if streams:
        _report(bench_streams.bench_streams(codec, seconds=seconds, **chosen), _STREAMS, as_json)
    if files:
        _report(bench_files.bench_files(codec, network, seconds, **chosen), _FILES, as_json)


def _load(model: str | None, preset: str | None) -> tuple[Codec, DAC]:
    import torch

    from streamdac.codec import Codec
    from streamdac.config import DEFAULT
    from streamdac.config import preset as find_preset
    from streamdac.errors import UsageError
    from streamdac.models import find_model
    from streamdac.nn import DAC
    from streamdac.weights import load_weights

    if preset is not None:
        if model is not None:
            raise UsageError("--model and --preset exclude each other")
        torch.manual_seed(0)
        network, name = DAC(find_preset(preset)).eval(), f"{preset} (random weights)"
    else:
        weights = load_weights(find_model(model))
        network, name = weights.network(), weights.metadata.get("name") or model or DEFAULT
    return Codec(network, name=str(name)), network


def _report(rows: Rows, columns: dict[str, str], as_json: bool) -> None:
    """Objects at once, or a table at the end with a line on which executor is which."""
    found = []
    for row in rows:
        found.append(row.to_dict())
        if as_json:
            click.echo(json.dumps(found[-1]))
    if not as_json and found:
        click.echo("\n" + _table(found, columns))
        for detail in dict.fromkeys(f"{row['executor']}: {row['detail']}" for row in found):
            click.echo(f"  {detail}")


def _table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    lines = [list(columns), *([form.format(**row) for form in columns.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


frontend = Frontend(
    commands={"bench": LazyCommand("streamdac.frontends.bench:bench", "Measure each executor, hop by hop.")}
)
