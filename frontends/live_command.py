"""`streamdac live`: from devices or files through the codec to devices or files, in real time."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from streamdac import frontend
from streamdac.errors import UsageError
from streamdac.files import written_whole
from streamdac.numbers import FiniteRange

from .audio_files import check_length, check_output
from .options import force_option, load_codec, model_options, vbr_option
from .places import as_path, check_places
from .rates import check_rate
from .recording import recorded

if TYPE_CHECKING:
    from streamdac.codec import Codec
    from streamdac.frontend import Source
    from streamdac.protocols.netsim import Network


class Percent(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on only
    """`5%`, `5` or `0.05%`: a share."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As a share from 0 to 1."""
        if isinstance(value, float):
            return value
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            self.fail(f"{value!r} is no percentage, need e.g. 5%", param, ctx)
        if not 0 <= share < 1:
            self.fail(f"{value} is out of range, need 0% to less than 100%", param, ctx)
        return share


class Latency(click.ParamType):  # type: ignore[type-arg]
    """`low`, `high` or milliseconds."""

    name = "low|high|ms"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | float:
        """Seconds, or the word."""
        if value in ("low", "high") or isinstance(value, float):
            return value if isinstance(value, float) else str(value)
        try:
            ms = float(value)
        except ValueError:
            self.fail(f"{value!r}: need low, high or milliseconds", param, ctx)
        if not 0 < ms <= 1000:
            self.fail(f"{value} ms is out of range, need more than 0 and at most 1000", param, ctx)
        return ms / 1000


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    source: str
    sink: str
    codebooks: int | None
    vbr: bool
    pace: bool
    plot: str | None
    as_json: bool
    seconds: float | None
    record: str | None
    network: Network | None
    force: bool


@click.command(short_help="The codec in real time, from microphone to loudspeaker or between files.")
@click.option("--mic", is_flag=True, help="Microphone to loudspeaker: --input mic: --output speaker:")
@click.option("-i", "--input", "source_spec", help="mic:, mic:NAME, a file, - or a source such as tone:440,5.")
@click.option("-o", "--output", "sink_spec", help="speaker:, speaker:NAME, a file, - or null: (the default).")
@click.option("-n", "--codebooks", type=int, default=None, help="Codebooks in use; all by default.")
@vbr_option
@click.option("--channels", type=click.IntRange(1, 2), default=1, show_default=True, help="Of the devices.")
@click.option("--gain", type=FiniteRange(-60, 40), default=0.0, help="Of the input, dB.")
@click.option(
    "--margin", type=FiniteRange(0.5, 500), default=None, help="ms kept for a busy machine; measured by default."
)
@click.option("--latency", type=Latency(), default="low", show_default=True, help="A hint to the devices.")
@click.option(
    "--block", type=click.IntRange(0, 8192), default=0, help="Samples per device callback; its own choice by default."
)
@click.option("--reconnect/--no-reconnect", default=True, show_default=True, help="Wait for a device that is gone.")
@click.option("--loss", type=Percent(), default=0.0, help="Packets that a simulated network loses, e.g. 5%.")
@click.option("--burst", type=FiniteRange(1, 100), default=1.0, help="Packets lost in a row, on average.")
@click.option("--record-codes", "record", metavar="FILE", help="Also write the codes as a .sdac stream.")
@click.option("--seconds", type=FiniteRange(min=0, min_open=True), help="Stop by itself.")
@click.option("--measure-latency", is_flag=True, help="Send clicks round: join output and input by a cable or the air.")
@click.option("--pace/--no-pace", default=True, show_default=True, help="Files in real time, or flat out.")
@click.option("--plot", default=None, metavar="PNG", help="Spectrograms of input and output of files [extra: plot].")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Objects for display and report: one at the end, between devices one a second too.",
)
@model_options
@force_option
def live(
    mic: bool,
    source_spec: str | None,
    sink_spec: str | None,
    codebooks: int | None,
    vbr: bool,
    channels: int,
    gain: float,
    margin: float | None,
    latency: str | float,
    block: int,
    reconnect: bool,
    loss: float,
    burst: float,
    record: str | None,
    seconds: float | None,
    measure_latency: bool,
    pace: bool,
    plot: str | None,
    as_json: bool,
    model: str | None,
    device: str,
    engine: str,
    threads: int | None,
    force: bool,
) -> None:
    """Loop audio through the codec as a call would: each hop is encoded, packed, unpacked, decoded and played.

    Between microphone and loudspeaker it runs until Ctrl-C or q, and keys change it while it runs. Files stand in for
    devices; they are read and written in real time unless --no-pace is given.
    """
    from streamdac.protocols.netsim import Network

    source, sink = _ends(mic or measure_latency, source_spec, sink_spec)
    devices = _is(source, "mic") and _is(sink, "speaker")
    if plot and devices:
        raise UsageError("--plot is for files: record with --output FILE instead of a loudspeaker")
    _refuse_unused(devices=devices, measuring=measure_latency)
    if plot:
        from .plots import require_matplotlib

        require_matplotlib()
    check_places([source], {"--output": sink, "--record-codes": as_path(record), "--plot": as_path(plot)})
    for path in (plot, record):
        if path:
            check_output(Path(path), force=force)
    network = Network(delay=0.0, loss=loss, burst=max(burst, 1.0)) if loss else None
    # One hop is too little work to share: one thread is fastest (measured by `streamdac bench --threads`).
    codec = load_codec(model, device, engine, threads or 1)
    if not devices:
        job = Job(source, sink, codebooks, vbr, pace, plot, as_json, seconds, record, network, force)
        return _between_files(codec, job)
    from .chain import Settings
    from .device_run import Wishes, measure, run
    from .live_loop import Options

    if codebooks is not None and not 1 <= codebooks <= codec.n_codebooks:
        raise UsageError(f"--codebooks is {codebooks}, the model has 1 to {codec.n_codebooks}")
    settings = Settings(codebooks or codec.n_codebooks, gain=10 ** (gain / 20), vbr=vbr)
    options = Options(
        source=source.partition(":")[2],
        target=sink.partition(":")[2],
        channels=channels,
        margin=None if margin is None else margin / 1000,
        latency=latency,
        block=block,
        reconnect=reconnect,
        network=network,
    )
    if measure_latency:
        return measure(codec, options, settings, as_json=as_json)
    return run(codec, options, settings, Wishes(seconds, record, as_json, force))


_OF_DEVICES = ("channels", "gain", "margin", "latency", "block", "reconnect", "measure_latency")
_OF_FILES = ("pace",)
_NOT_MEASURING = ("record", "seconds")


def _refuse_unused(*, devices: bool, measuring: bool) -> None:
    """Options that were typed and would do nothing."""
    context = click.get_current_context()
    unused = dict.fromkeys(_OF_FILES, "files") if devices else dict.fromkeys(_OF_DEVICES, "microphone and loudspeaker")
    if devices and measuring:
        unused |= dict.fromkeys(_NOT_MEASURING, "talk, not for --measure-latency")
    for parameter in context.command.params:
        typed = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if typed and parameter.name in unused:
            raise UsageError(
                f"{'/'.join([*parameter.opts, *parameter.secondary_opts])} is for {unused[parameter.name]}"
            )


def _ends(mic: bool, source: str | None, sink: str | None) -> tuple[str, str]:
    """Specs of both ends."""
    if mic:
        if source is not None and not _is(source, "mic"):
            raise UsageError(f"--mic and --measure-latency take a microphone, not --input {source}")
        return source or "mic:", sink or "speaker:"
    if source is None:
        raise UsageError("need --mic, or --input with a file or a source")
    return source, sink or "null:"


def _is(spec: str, name: str) -> bool:
    return spec == name or spec.startswith(f"{name}:")


def _check_fits(source: Source, job: Job) -> None:
    """Whether all that comes will fit into the output."""
    rate, samples = source.sample_rate, source.samples
    if job.seconds is not None:
        wanted = math.ceil(job.seconds * rate)
        samples = wanted if samples is None else min(samples, wanted)
    if samples is not None and job.sink != "-" and not frontend.is_spec(job.sink):
        check_length(Path(job.sink), samples, sample_rate=rate, channels=source.channels)


def _between_files(codec: Codec, job: Job) -> None:
    """The loop of one thread."""
    from .loopback import Loop

    opened = frontend.open_source(job.source, sample_rate=codec.sample_rate)
    complete = False
    with ExitStack() as stack:
        stack.callback(opened.close)
        check_rate(opened.sample_rate, job.source)
        _check_fits(opened, job)
        source = stack.enter_context(recorded(opened))
        sink = frontend.open_sink(job.sink, sample_rate=source.sample_rate, channels=source.channels, force=job.force)
        stack.callback(lambda: sink.close(complete=complete))
        record = None
        if job.record:
            path = stack.enter_context(written_whole(Path(job.record), force=job.force))
            record = stack.enter_context(path.open("wb"))
        loop = Loop(
            codec,
            source,
            sink,
            codebooks=job.codebooks,
            vbr=job.vbr,
            pace=job.pace,
            keep=job.plot is not None or not job.as_json or source.samples is not None,
            seconds=job.seconds,
            network=job.network,
            name="stdin" if job.source == "-" else job.source,
            record=record,
        )
        loop.run()
        complete = True
    report = loop.report()
    if job.plot:
        from .plots import spectrograms

        title = report.lines()[2]
        spectrograms(Path(job.plot), loop.heard(), loop.played(), source.sample_rate, title=title, force=job.force)
    # Where the audio itself goes to stdout, the report must not.
    found = {**asdict(report), "final": True}
    click.echo(json.dumps(found) if job.as_json else "\n".join(report.lines()), err=job.sink == "-")
