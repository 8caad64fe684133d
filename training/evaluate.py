"""`evaluate`: what a model makes of held-out clips at several bitrates, as a table, JSON and pictures, beside Opus."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamdac.errors import UsageError
from streamdac.files import refuse_existing, written_whole
from streamdac.numbers import FiniteRange

from .pictures import PICTURES

if TYPE_CHECKING:
    from streamdac.codec import Codec

    from .evaluation import Report, Row

HEADINGS = {
    "pesq_wb": "PESQ-WB",
    "estoi": "ESTOI",
    "visqol_speech": "ViSQOL speech",
    "visqol_audio": "ViSQOL audio",
    "mel": "mel",
    "stft": "STFT",
    "si_sdr": "SI-SDR dB",
}


_TEXTS = ("report.json", "report.md")


def _numbers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r}: need whole numbers with commas between, e.g. 4,8,16") from None


def _bitrates(text: str | None) -> list[float]:
    from .opus import OPUSENC_KBPS

    if text is None:
        return []
    try:
        bitrates = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{text!r}: need bitrates in kbps with commas between, e.g. 6,9,12") from None
    low, high = OPUSENC_KBPS
    if bad := [kbps for kbps in bitrates if not low <= kbps <= high]:
        raise UsageError(f"opusenc is asked for {low:g} to {high:g} kbps, got {', '.join(f'{kbps:g}' for kbps in bad)}")
    return bitrates


@click.command("evaluate")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--data", multiple=True, required=True, type=click.Path(path_type=Path), help="Corpus or folder of audio."
)
@click.option(
    "--split", default="test", show_default=True, help="Part of a corpus, or of a plain folder (test: all of it)."
)
@click.option("--kind", help="Only this kind of a corpus, e.g. speech.")
@click.option("--codebooks", help="Numbers of codebooks, with commas between.  [default: a quarter, a half, ... all]")
@click.option("--vbr", help="Also at most so many codebooks, fewer where it is quieter, with commas between.")
@click.option("--metrics", help="Names with commas between.  [default: all that are installed]")
@click.option("--against", type=click.Choice(["opus"]), help="A codec beside it, at the same bitrates.")
@click.option(
    "--opus-nominal",
    help="Opus at what opusenc makes of these bitrates (kbps, commas between), with --against or without.",
)
@click.option("--clips-per-group", type=click.IntRange(1), default=4, show_default=True, help="Clips per speaker.")
@click.option(
    "--clip-seconds", type=FiniteRange(0.5), default=10.0, show_default=True, help="Cut longer files to this."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes for the metrics.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for report and pictures."
)
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
@click.option("-f", "--force", is_flag=True, help="Overwrite what is in the folder.")
def evaluate_command(
    model: Path | None,
    data: tuple[Path, ...],
    split: str,
    kind: str | None,
    codebooks: str | None,
    vbr: str | None,
    metrics: str | None,
    against: str | None,
    opus_nominal: str | None,
    clips_per_group: int,
    clip_seconds: float,
    jobs: int,
    output: Path | None,
    as_json: bool,
    force: bool,
) -> None:
    """Measure MODEL (weights, a checkpoint or a run's folder; the embedded model by default) on held-out clips."""
    from .data import held_out_clips
    from .evaluation import Evaluation
    from .metrics import choose_metrics
    from .opus import require_opus

    if output is not None:
        for name in (*_TEXTS, *PICTURES):
            refuse_existing(output / name, force=force)
    names = choose_metrics(None if metrics is None else metrics.split(","))
    codec = _load(model)
    counts = _numbers(codebooks) or sorted({max(1, codec.n_codebooks * i // 4) for i in (1, 2, 3, 4)})
    most = _numbers(vbr) or []
    if bad := [n for n in [*counts, *most] if not 1 <= n <= codec.n_codebooks]:
        raise UsageError(f"the model has 1 to {codec.n_codebooks} codebooks, got {', '.join(map(str, bad))}")
    nominal = _bitrates(opus_nominal)
    if against == "opus" or nominal:
        require_opus()  # said before hours of work
    clips = held_out_clips(
        data, codec.sample_rate, split=split, kind=kind, clip_seconds=clip_seconds, clips_per_group=clips_per_group
    )
    evaluation = Evaluation(codec, clips, names, jobs=jobs, progress=sys.stderr.isatty())
    try:
        report = evaluation.run(counts, vbr=most, opus=against == "opus", opus_nominal=nominal)
    except BaseException:
        if evaluation.rows:  # of hours, perhaps
            click.echo("\n".join(["measured until then:", *_lines(evaluation.rows, names)]), err=True)
        raise
    click.echo(json.dumps(report.to_dict(), indent=1) if as_json else table(report))
    if output is not None:
        from .pictures import write_pictures

        output.mkdir(parents=True, exist_ok=True)
        texts = (json.dumps(report.to_dict(), indent=1, allow_nan=False), table(report))
        for name, text in zip(_TEXTS, texts, strict=True):
            with written_whole(output / name, force=True) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        write_pictures(output, report, evaluation.example(counts))


def _load(model: Path | None) -> Codec:
    """A codec of weights, a checkpoint or a run's folder."""
    import tempfile

    import streamdac

    from .checkpoint import export_weights, is_run, load_checkpoint

    if model is None or not is_run(model):
        return streamdac.load(None if model is None else str(model))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        export_weights(load_checkpoint(model), path)
        return streamdac.load(path)


def table(report: Report) -> str:
    """The report in Markdown."""
    lines = _lines(report.rows, report.metrics)
    facts = f"{report.clips} clips, {report.seconds:.0f} s, {report.groups} speaker{'s' * (report.groups != 1)}"
    differ = f"{report.streaming_differs or 'none'} of {report.streaming_codes} codes differ"
    lines += ["", f"{facts}. Streamed in random chunks against offline: {differ}."]
    for name in report.metrics:
        fewest = min(row.defined[name] for row in report.rows)
        if fewest < report.clips:
            lines.append(f"{HEADINGS[name]} is not defined for all clips; its means are of {fewest} or more.")
    return "\n".join(lines)


def _lines(rows: Sequence[Row], names: Sequence[str]) -> list[str]:
    heading = f"| codec | kbps | {' | '.join(HEADINGS[name] for name in names)} | codebook use |"
    return [heading, f"|---|{'---|' * (len(names) + 2)}", *(_line(row, names) for row in rows)]


def _line(row: Row, names: Sequence[str]) -> str:
    digits = {"estoi": 3, "si_sdr": 1}
    values = [f"{row.means[name]:.{digits.get(name, 2)}f}" for name in names]
    use = "" if row.use is None else f"{100 * row.use:.0f} %"
    return f"| {row.codec} | {row.kbps:.1f} | {' | '.join(values)} | {use} |"
