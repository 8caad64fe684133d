"""`streamdac netsim`: what a simulated network does to the audio, as a table of loss against quality."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from streamdac.errors import UsageError
from streamdac.frontend import Frontend, LazyCommand, file_of
from streamdac.numbers import FiniteRange

from .options import force_option, load_codec, model_options, progress, quiet_option

if TYPE_CHECKING:
    from streamdac.protocols.netsim import Network
    from streamdac.protocols.simulate import Outcome, Setup

    from .heard import Material
    from .hops import Block

_COLUMNS = {
    "loss": ("loss %", "{:g}"),
    "redundancy": ("redundancy", "{}"),
    "lost": ("lost", "{}"),
    "recovered": ("recovered", "{}"),
    "concealed": ("concealed", "{}"),
    "skipped": ("left out", "{}"),
    "added": ("added", "{}"),
    "kbps": ("kbit/s", "{:.2f}"),
    "delay_ms": ("delay ms", "{:.0f}"),
    "si_sdr_db": ("SI-SDR dB", "{:.2f}"),
    "pesq": ("PESQ", "{:.2f}"),
}


@dataclass(frozen=True)
class Row:
    """One loss rate with one redundancy. Counts are of frames unless said otherwise, of all runs together."""

    loss: float
    """%, asked for."""
    redundancy: str
    """Frames x codebooks; 0 for none."""
    codebooks: float
    """In use, mean over the stream."""
    frames: int
    """Of the source."""
    lost: int
    """Packets, by the network."""
    recovered: int
    """Played with the codes of redundancy."""
    concealed: int
    """Hops repeated, faded or silent in place of frames that did not come."""
    skipped: int
    """Frames left out, most of them to bring the delay down."""
    added: int
    """Hops concealed that made the delay longer."""
    kbps: float
    """On the wire: messages and websocket frames."""
    delay_ms: float | None
    """From the end of a frame's sound to its playback, mean."""
    exact: bool
    """What was played is what was sent, sample for sample."""
    si_sdr_db: float | None
    """Of what is played against what clean transport plays; None where they are the same, or where nothing was heard."""
    pesq: float | None
    """Wide-band, the same two signals; None without the package `pesq`, or without speech."""


class _List(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.2 on only
    """Values with commas between them, each of one form."""

    def __init__(self, name: str, form: str) -> None:
        self.name, self._form = name, re.compile(form)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Each value as it was typed."""
        parts = [part.strip() for part in value.split(",")]
        for part in parts:
            if not self._form.fullmatch(part):
                self.fail(f"{part!r} in {value!r} is no {self.name}", param, ctx)
        return tuple(parts)


_MS = FiniteRange(0, 60_000)
_PERCENT = FiniteRange(0, 99)


@click.command(short_help="What a bad network does to the audio.")
@click.argument("source")
@click.option(
    "--loss", "losses", type=_List("share in %", r"\d+(\.\d+)?%?"), default="0,1,2,5,10,20", show_default=True,
    metavar="%,...", help="Packets lost, in %: a row of the table each.",
)  # fmt: skip
@click.option(
    "--redundancy", "redundancies", type=_List("FRAMES[xCODEBOOKS]", r"\d+(x\d+)?"), default="0,2", show_default=True,
    metavar="FRAMES[xCODEBOOKS],...", help="Frames repeated in each packet, as many codebooks as matter most: a row each.",
)  # fmt: skip
@click.option("--burst", type=FiniteRange(1, 1000), default=1.0, show_default=True,
              help="Packets lost in a row, mean (Gilbert-Elliott); 1 for independent losses.")  # fmt: skip
@click.option("--delay", type=_MS, default=30.0, show_default=True, help="ms.")
@click.option("--jitter", type=_MS, default=0.0, show_default=True, help="ms, mean of an exponential delay on top.")
@click.option("--reorder", type=_PERCENT, default=0.0, show_default=True, help="% of packets held up.")
@click.option("--reorder-delay", type=_MS, default=40.0, show_default=True, help="ms, by which they are held up.")
@click.option("--duplicate", type=_PERCENT, default=0.0, show_default=True, help="% of packets that come twice.")
@click.option("--bandwidth", type=FiniteRange(0.1, 1e6), default=None, help="kbit/s; no limit by default.")
@click.option("--queue", type=_MS, default=500.0, show_default=True, help="ms of packets that wait for the bandwidth.")
@click.option("--stall-every", type=FiniteRange(0, 3600), default=0.0, show_default=True,
              help="s between stalls, mean; 0 for none.")  # fmt: skip
@click.option("--stall", type=_MS, default=300.0, show_default=True, help="ms for which nothing passes.")
@click.option("--ordered", is_flag=True, help="Like TCP: what is held up holds up what follows.")
@click.option("--drift", type=FiniteRange(-100_000, 100_000), default=0.0, show_default=True,
              help="ppm by which the sender's clock is fast.")  # fmt: skip
@click.option("--correct-drift/--no-correct-drift", default=True, show_default=True)
@click.option("--frames-per-packet", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--adaptive", is_flag=True, help="Rate control by the receiver's reports.")
@click.option("--max-delay", type=_MS, default=1000.0, show_default=True, help="ms, of the jitter buffer.")
@click.option("-n", "--codebooks", type=click.IntRange(1, 64), default=None, help="Codebooks; all by default.")
@click.option("--seconds", type=FiniteRange(0.1, 3600), default=20.0, show_default=True, help="Of the source.")
@click.option("--runs", type=click.IntRange(1, 1000), default=1, show_default=True, help="For each row, seeds in turn.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("-o", "--output", default=None, metavar="SINK", help="What is played, to listen to; of the only row.")
@click.option("--json", "as_json", is_flag=True, help="One object a row.")
@model_options
@force_option
@quiet_option
def netsim(
    source: str, losses: tuple[str, ...], redundancies: tuple[str, ...], burst: float, delay: float, jitter: float,
    reorder: float, reorder_delay: float, duplicate: float, bandwidth: float | None, queue: float, stall_every: float,
    stall: float, ordered: bool, drift: float, correct_drift: bool, frames_per_packet: int, adaptive: bool,
    max_delay: float, codebooks: int | None, seconds: float, runs: int, seed: int, output: str | None, as_json: bool,
    model: str | None, device: str, engine: str, threads: int | None, force: bool, quiet: bool,
) -> None:  # fmt: skip
    """Send the audio of SOURCE (a file, -, tone:440,5) over a simulated network and compare what is played with what
    clean transport plays.

    Everything random comes from the seed. The comparison leaves out time that the source has not; how much is in the
    table.
    """
    from streamdac.frontend import check_takes_audio
    from streamdac.protocols.netsim import Network
    from streamdac.protocols.simulate import Setup

    from . import heard
    from .audio_files import check_sink
    from .places import check_places

    if output is not None and (len(losses), len(redundancies), runs) != (1, 1, 1):
        raise UsageError(
            f"--output takes one row, got {len(losses)} losses, {len(redundancies)} redundancies, {runs} runs"
        )
    check_places([source], {"--output": output})
    if output is not None:
        check_takes_audio(output)
    if (path := file_of(output)) is not None:
        check_sink(path, force=force)
    network = Network(
        delay=delay / 1000, jitter=jitter / 1000, burst=burst, reorder=reorder / 100, duplicate=duplicate / 100,
        reorder_delay=reorder_delay / 1000, bandwidth=None if bandwidth is None else bandwidth * 1000,
        queue=queue / 1000, stall_every=stall_every, stall=stall / 1000, ordered=ordered, drift=drift / 1e6,
    )  # fmt: skip
    cells = list(_cells(network, losses, redundancies))
    codec = load_codec(model, device, engine, threads)
    material = heard.prepare(codec, source, n_codebooks=codebooks, seconds=seconds)
    setup = Setup(
        frame_seconds=material.frame_seconds, frames_per_packet=frames_per_packet, adaptive=adaptive,
        min_codebooks=codec.coarse_codebooks, correct_drift=correct_drift, silence=material.silence,
        foretells=codec.foretells, min_delay=min(0.02, max_delay / 1000), max_delay=max_delay / 1000,
    )  # fmt: skip
    table = _Table(material, runs=runs, seed=seed)
    with progress(len(cells) * runs, "simulating", quiet=quiet, unit=" runs") as bar:
        for cell_network, frames, coarse in cells:
            codebooks_again = min(codec.coarse_codebooks, len(material.codes)) if coarse is None else coarse
            cell = replace(setup, redundancy_frames=frames, redundancy_codebooks=codebooks_again)
            row = table.row(cell_network, cell, bar.update)
            if as_json:
                click.echo(json.dumps(asdict(row)), err=output == "-")
    if not as_json:
        click.echo(table.text(), err=output == "-")
    if output is not None:
        _write(output, table.heard, material, force=force)


def _cells(
    network: Network, losses: tuple[str, ...], redundancies: tuple[str, ...]
) -> Iterator[tuple[Network, int, int | None]]:
    """Network, redundant frames and codebooks of each row; None for as many as the model asks for."""
    for loss in losses:
        for redundancy in redundancies:
            frames, _, codebooks = redundancy.partition("x")
            if int(frames) > 64 or int(codebooks or 1) > 64:
                raise UsageError(f"got redundancy {redundancy}, need at most 64x64")
            yield (
                replace(network, loss=float(loss.removesuffix("%")) / 100),
                int(frames),
                int(codebooks) if codebooks else None,
            )


class _Table:
    """Runs simulations of one material and gathers their rows."""

    def __init__(self, material: Material, *, runs: int, seed: int) -> None:
        self.material = material
        self.rows: list[Row] = []
        self.heard: Block = material.clean[:0]
        """The audio of the last run."""
        self._seeds = range(seed, seed + runs)

    def row(self, network: Network, setup: Setup, done: Any) -> Row:
        """Simulate one row; `done` is called after each run."""
        from streamdac.protocols.simulate import simulate

        from .heard import paired, played

        outcomes, pairs = [], []
        for seed in self._seeds:
            outcome = simulate(self.material.codes, self.material.layout, network, setup=setup, seed=seed)
            self.heard = played(self.material, outcome)
            outcomes.append(outcome)
            pairs.append(paired(self.material, outcome, self.heard))
            done(1)
        redundancy = f"{setup.redundancy_frames}x{setup.redundancy_codebooks}" if setup.redundancy_frames else "0"
        row = _row(round(100 * network.loss, 6), redundancy, outcomes, pairs, self.material)
        self.rows.append(row)
        return row

    def text(self) -> str:
        """For people."""
        lines = [[title for title, _ in _COLUMNS.values()]]
        lines += [[_cell(row, key, form) for key, (_, form) in _COLUMNS.items()] for row in self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
        )


def _cell(row: Row, key: str, form: str) -> str:
    value = getattr(row, key)
    if value is None:
        return "exact" if row.exact and key == "si_sdr_db" else "-"
    return form.format(value)


def _row(
    loss: float, redundancy: str, outcomes: list[Outcome], pairs: list[tuple[Block, Block]], material: Material
) -> Row:
    import numpy as np

    from streamdac.protocols.jitter import Kind
    from streamdac.protocols.simulate import source_frames

    from .heard import pesq_wb, si_sdr_db

    sent, heard = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    quality = si_sdr_db(sent, heard)
    scores = [pesq_wb(*pair, material.codec.sample_rate) for pair in pairs]
    known = [score for score in scores if score is not None]
    delays = [delay for outcome in outcomes for delay in outcome.delays]
    hops = [playable.kind for outcome in outcomes for playable in outcome.played]
    places = [place for outcome in outcomes for place in source_frames(outcome.played)]
    added = places.count(None)
    frames = material.codes.shape[2] * len(outcomes)
    skipped = frames - (len(places) - added)
    depths = [len(p.codes) for outcome in outcomes for p in outcome.played if p.kind is Kind.PLAYED]
    return Row(
        loss=loss,
        redundancy=redundancy,
        codebooks=round(float(np.mean(depths)), 2) if depths else 0.0,
        frames=frames,
        lost=sum(outcome.lost for outcome in outcomes),
        recovered=hops.count(Kind.RECOVERED),
        concealed=hops.count(Kind.MISSING) + hops.count(Kind.STALLED) - added,
        skipped=skipped,
        added=added,
        kbps=round(float(np.mean([outcome.bitrate for outcome in outcomes])) / 1000, 3),
        delay_ms=round(1000 * float(np.mean(delays)), 1) if delays else None,
        exact=quality is None and not skipped and not added,
        si_sdr_db=round(quality, 3) if quality is not None and np.isfinite(quality) else None,
        pesq=round(float(np.mean(known)), 3) if known else None,
    )


def _write(output: str, audio: Block, material: Material, *, force: bool) -> None:
    from streamdac.frontend import open_sink

    sink = open_sink(output, sample_rate=material.codec.sample_rate, channels=audio.shape[1], force=force)
    complete = False
    try:
        sink.write(audio)
        complete = True
    finally:
        sink.close(complete=complete)


frontend = Frontend(
    commands={"netsim": LazyCommand("streamdac.frontends.netsim:netsim", "What a bad network does to the audio.")}
)
