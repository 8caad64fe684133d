"""`streamdac bench`: how fast this machine runs a model, beside a baseline and its sgemm rate."""

from __future__ import annotations

import json
from typing import Any

import click

from streamdac.frontend import Frontend, LazyCommand

_COLUMNS = {
    "executor": ("executor", "{}"),
    "op": ("op", "{}"),
    "threads": ("threads", "{}"),
    "p50_ms": ("p50 ms", "{:.3f}"),
    "p99_ms": ("p99 ms", "{:.3f}"),
    "x_realtime": ("x real time", "{:.1f}"),
    "gflops": ("GFLOP/s", "{:.1f}"),
    "sgemm_gflops": ("sgemm", "{:.1f}"),
    "baseline_p50_ms": ("baseline ms", "{:.3f}"),
    "speedup": ("speed-up", "{:.2f}"),
}


@click.command(short_help="Measure each executor, one hop at a time.")
@click.option("--model", default=None, help="A weights file or a model's name; the embedded causal model by default.")
@click.option("--preset", default=None, help="Instead of a model: a preset's geometry with random weights.")
@click.option("--engine", "engines", multiple=True, type=click.Choice(["torch", "native"]), help="Only this executor.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option(
    "--seconds", type=click.FloatRange(0.1, 3600), default=10.0, show_default=True, help="For each model, in all."
)
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def bench(
    model: str | None, preset: str | None, engines: tuple[str, ...], threads: int, seconds: float, as_json: bool
) -> None:
    """Milliseconds per hop for encode and decode, quantiser included, for each executor.

    The baseline (one torch module after another with cached context) and a matrix product run in turn with them: quote
    the ratios.
    """
    codec, network = _load(model, preset)
    from streamdac import bench as measuring

    rows = []
    for row in measuring.bench(codec, network, threads=threads, seconds=seconds, engines=engines or measuring.ENGINES):
        if as_json:
            click.echo(json.dumps(row.to_dict()))
        rows.append(row.to_dict())
    if not as_json:
        click.echo(f"{codec.name}: hop {rows[0]['hop_ms']:.2f} ms")
        click.echo(_table(rows))


def _load(model: str | None, preset: str | None) -> tuple[Any, Any]:
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


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [[title for title, _ in _COLUMNS.values()]]
    lines += [[form.format(row[key]) for key, (_, form) in _COLUMNS.items()] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


frontend = Frontend(
    commands={"bench": LazyCommand("streamdac.frontends.bench:bench", "Measure each executor, hop by hop.")}
)
