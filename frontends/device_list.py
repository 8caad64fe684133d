"""`streamdac devices`: the sound devices, with the defaults marked."""

from __future__ import annotations

import json
from dataclasses import asdict

import click


@click.command(short_help="Sound devices, numbered.")
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def devices(as_json: bool) -> None:
    """List sound devices. Give `mic:` and `speaker:` a number or a part of a name.

    > marks the default input and < the default output. Latencies are what the driver claims at best.
    """
    from streamdac.errors import UnavailableError

    from .device_stream import list_devices

    rows = list_devices()
    if not rows:
        raise UnavailableError("no sound device: plug one in, or start a sound server (JACK, PipeWire, PulseAudio)")
    for row in rows:
        if as_json:
            click.echo(json.dumps(asdict(row)))
            continue
        mark = (">" if row.default_input else " ") + ("<" if row.default_output else " ")
        latency = f"{row.input_latency_ms:.1f}/{row.output_latency_ms:.1f} ms"
        click.echo(
            f"{mark} {row.index:3d}  {row.name:40.40}  {row.api:16.16}  {row.inputs} in {row.outputs} out  "
            f"{row.rate} Hz  {latency}"
        )
