"""`python -m streamdac.training corpus`: free audio from Debian packages and own folders, ready to train on.

A corpus is a folder: `<kind>/<package>/<group>/NNN.flac` to train on, `valid/…` and `test/…` with whole speakers that
are never trained on, `index.tsv` over all of it, `sources.tsv` (which clips went into which file) and `LICENCES.md`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from ..errors import NoInputError, OutputError, StreamdacError, UnavailableError, UsageError
from .corpus_build import Download, Entry, apt_download, find_items, folder_items, put_in_place, unpack, write_items
from .corpus_sources import KINDS, SOURCES, Source, split_of

INDEX_COLUMNS = ("path", "kind", "package", "group", "seconds", "bandwidth_hz", "split")
MARKERS = ".sources"


def choose(sources: Iterable[Source], only: Sequence[str], kinds: Sequence[str]) -> list[Source]:
    """The sources asked for: packages by name, else the default ones of the kinds."""
    sources = list(sources)
    for asked, known in ((only, {s.package for s in sources}), (kinds, set(KINDS))):
        unknown = sorted(set(asked) - known)
        if unknown:
            raise UsageError(f"unknown: {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return [s for s in sources if s.kind in kinds and (s.package in only if only else s.default)]


def build_corpus(
    destination: Path,
    sources: Sequence[Source],
    *,
    rate: int = 24_000,
    extra: Sequence[Path] = (),
    download: Download = apt_download,
) -> list[str]:
    """Build or complete the corpus in `destination` at `rate` Hz; returns one line for each source that failed."""
    if not 8_000 <= rate <= 192_000:
        raise UsageError(f"a corpus at {rate} Hz: the rate must be from 8000 to 192000 Hz")
    failed = []
    try:
        destination.mkdir(parents=True, exist_ok=True)
        _check_rate(destination, rate)
        _check_names(extra)
        for folder in extra:
            _build_folder(destination, folder, rate)
        for package in dict.fromkeys(source.package for source in sources):
            try:
                _build_package(destination, [s for s in sources if s.package == package], rate, download)
            except StreamdacError as error:
                failed.append(str(error))
                click.echo(f"{package}: left out: {error}", err=True)
            write_lists(destination)
        write_lists(destination)
    except OSError as error:
        raise OutputError(f"cannot write the corpus to {destination}: {error.strerror or error}") from error
    return failed


def _check_rate(destination: Path, rate: int) -> None:
    for record in _records(destination):
        if record["rate"] != rate:
            raise UsageError(f"{destination} holds audio at {record['rate']} Hz, not {rate}: choose another folder")


def _check_names(folders: Sequence[Path]) -> None:
    by_name: dict[str, Path] = {}
    for folder in map(Path.resolve, folders):
        if (other := by_name.setdefault(folder.name, folder)) != folder:
            raise UsageError(f"{other} and {folder} would both be extra-{folder.name} in the corpus: rename one")


def _records(destination: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((destination / MARKERS).glob("*.json"))]


def _is_done(marker: Path, recipe: str) -> bool:
    return marker.exists() and json.loads(marker.read_text())["recipe"] == recipe


def _build_package(destination: Path, sources: Sequence[Source], rate: int, download: Download) -> None:
    """Fetch one package and build what is wanted of it and not there yet."""
    markers = {source.name: destination / MARKERS / f"{source.name}.json" for source in sources}
    todo = [source for source in sources if not _is_done(markers[source.name], source.recipe())]
    if not todo:
        return
    if any(glob.endswith(".g722") for source in todo for glob in source.globs) and not shutil.which("ffmpeg"):
        raise UnavailableError("G.722 needs the program ffmpeg (Debian: apt-get install ffmpeg)")
    package = sources[0].package
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as name:
        work = Path(name)
        click.echo(f"{package}: fetching", err=True)
        version = unpack(download(package, work), work / "package")
        for source in todo:
            items = find_items(source, work / "package", split_of)
            entry = Entry(source.kind, package, rate, source.seconds_per_file, source.band)
            record = write_items(items, entry, work / source.kind)
            record |= {"recipe": source.recipe(), "version": version, "licence": source.licence}
            put_in_place(work / source.kind, entry, destination, markers[source.name], record)
            _report(entry, record)
        copyright_file = work / "package" / "usr/share/doc" / package / "copyright"
        if copyright_file.exists():
            (destination / "licences").mkdir(exist_ok=True)
            shutil.copyfile(copyright_file, destination / "licences" / f"{package}.txt")


def _build_folder(destination: Path, folder: Path, rate: int) -> None:
    """Take in a local folder of speech."""
    if not folder.is_dir():
        raise NoInputError(f"{folder}: no such folder")
    items = folder_items(folder)
    files = [(item.name, item.path.stat().st_size, item.path.stat().st_mtime_ns) for item in items]
    recipe = hashlib.sha256(repr(files).encode()).hexdigest()[:16]
    entry = Entry("speech", "extra-" + _named(folder), rate)
    marker = destination / MARKERS / f"speech-{entry.package}.json"
    if _is_done(marker, recipe):
        return
    before = json.loads(marker.read_text()).get("folder") if marker.exists() else None
    if before not in (None, str(folder.resolve())) and Path(before).is_dir():
        raise UsageError(f"{entry.package} of the corpus is from {before}: rename {folder} to have both")
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=destination) as name:
        record = write_items(items, entry, Path(name))
        record |= {"recipe": recipe, "version": "", "licence": "as the folder says", "folder": str(folder.resolve())}
        put_in_place(Path(name), entry, destination, marker, record)
    _report(entry, record)


def _named(folder: Path) -> str:
    """A folder's own name, as a path in a list of UTF-8 can have it."""
    return os.fsencode(folder.resolve().name).decode("utf-8", "replace")


def _report(entry: Entry, record: dict[str, Any]) -> None:
    minutes = sum(row["seconds"] for row in record["rows"]) / 60
    held = sum(row["seconds"] for row in record["rows"] if row["split"] != "train") / 60
    line = f"{entry.package}: {minutes:.1f} min of {entry.kind}, {held:.1f} of them held out"
    if record["skipped"]:
        line += f"; {len(record['skipped'])} files skipped, e.g. {record['skipped'][0]}"
    click.echo(line, err=True)


def write_lists(destination: Path) -> None:
    """Write index.tsv, sources.tsv and LICENCES.md from the markers of what is done."""
    records = _records(destination)
    rows = [row for record in records for row in record["rows"]]
    index = ["\t".join(INDEX_COLUMNS), *("\t".join(str(row[c]) for c in INDEX_COLUMNS) for row in rows)]
    origins = ["path\tpackage\tsource"]
    origins += [f"{row['path']}\t{row['package']}\t{clip}" for row in rows for clip in row["clips"]]
    licences = [
        "# Where this audio comes from\n",
        "Debian packages and their licences; `licences/` holds the copyright file of each, `sources.tsv` says which of",
        "its files went into which file here. All were mixed down, resampled, trimmed, levelled and joined.\n",
        "| package | version | kind | files | minutes | licence |\n| --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        mine = record["rows"]
        if mine:
            minutes = sum(row["seconds"] for row in mine) / 60
            first, version, licence = mine[0], record["version"], record["licence"]
            cells = (first["package"], version, first["kind"], len(mine), f"{minutes:.1f}", licence)
            licences.append("| " + " | ".join(map(str, cells)) + " |")
    for name, lines in (("index.tsv", index), ("sources.tsv", origins), ("LICENCES.md", licences)):
        partial = destination / f".{name}.partial"
        # Names may be no UTF-8.
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")
        os.replace(partial, destination / name)


@click.command("corpus")
@click.argument("destination", type=click.Path(path_type=Path, file_okay=False))
@click.option("--rate", default=24_000, show_default=True, help="Sample rate of the corpus, Hz: the model's.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this package (may be repeated).")
@click.option("--kind", "kinds", default=",".join(KINDS), show_default=True, help="Kinds, with commas between.")
@click.option(
    "--extra",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also take in this folder of speech; speaker = name before the first '-'; valid-* is held out.",
)
def corpus_command(destination: Path, rate: int, only: tuple[str, ...], kinds: str, extra: tuple[Path, ...]) -> None:
    """Fetch free audio from Debian packages into DESTINATION, ready to train on.

    What is there already is not fetched again. Whole speakers are held out in DESTINATION/valid and DESTINATION/test.
    """
    sources = choose(SOURCES, only, [kind.strip() for kind in kinds.split(",")])
    failed = build_corpus(destination, sources, rate=rate, extra=extra)
    index = (destination / "index.tsv").read_text().splitlines()[1:]
    minutes = dict.fromkeys(("train", "valid", "test"), 0.0)
    for line in index:
        fields = line.split("\t")
        minutes[fields[6]] += float(fields[4]) / 60
    click.echo(f"{destination}: " + ", ".join(f"{split} {value:.1f} min" for split, value in minutes.items()))
    if failed:
        raise UnavailableError(f"{len(failed)} packages are missing; the same command tries them again")
