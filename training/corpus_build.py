"""One package or folder of a corpus: fetched, unpacked, its clips grouped, prepared and written as FLAC."""

import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from ..errors import BadDataError, UnavailableError
from ..files import soundfile_name
from .corpus_audio import Clip, Piece, cliff, join, power_spectrum, prepare, read_mono
from .corpus_sources import MIN_RATE, Source

TEST_SECONDS_PER_GROUP = 180.0
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".g722")
Download = Callable[[str, Path], Path]  # package name, folder -> the .deb that is now in it


@dataclass(frozen=True)
class Item:
    """One audio file to take in."""

    path: Path
    name: str  # as listed in sources.tsv
    group: str
    split: str


@dataclass(frozen=True)
class Entry:
    """What is to be built: a name of its own, and where it goes."""

    kind: str
    package: str
    rate: int  # Hz
    seconds_per_file: float | None = None
    band: Callable[[str], int | None] = lambda group: None

    def folder(self, split: str) -> Path:
        """Where files of `split` go: what is held out stands apart, so that no training folder contains it."""
        return Path(self.kind if split == "train" else f"{split}/{self.kind}") / self.package


def apt_download(package: str, folder: Path) -> Path:
    """Fetch the .deb of `package` into `folder`; needs no root."""
    try:
        done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise UnavailableError(f"cannot fetch {package}: apt-get is not here ({error.strerror})") from error
    found = sorted(folder.glob(f"{package}_*.deb"))
    if done.returncode or not found:
        why = [line for line in done.stderr.splitlines() if line.startswith("E:")] or ["apt-get brought no .deb"]
        raise UnavailableError(f"cannot fetch {package}: {why[-1].removeprefix('E:').strip()}")
    return found[-1]


def unpack(deb: Path, folder: Path) -> str:
    """Unpack `deb` into `folder`; returns its version."""
    try:
        subprocess.run(["dpkg-deb", "-x", deb, folder], capture_output=True, text=True, check=True)
        field = subprocess.run(["dpkg-deb", "-f", deb, "Version"], capture_output=True, text=True, check=True)
    except OSError as error:
        raise UnavailableError(f"cannot unpack {deb.name}: dpkg-deb is not here ({error.strerror})") from error
    except subprocess.CalledProcessError as error:
        why = (error.stderr or "dpkg-deb failed").strip().splitlines()[-1]
        raise BadDataError(f"cannot unpack {deb.name}: {why}") from error
    return field.stdout.strip()


def find_items(source: Source, root: Path, split_of: Callable[[str, str], str]) -> list[Item]:
    """The files of `source` in its unpacked package `root`, by group and then by name."""
    if source.archive:
        inner = root / "archive"
        try:
            with zipfile.ZipFile(root / source.archive) as archive:
                archive.extractall(inner)
        except (OSError, zipfile.BadZipFile) as error:
            raise BadDataError(f"{source.package}: cannot unpack {source.archive}: {error}") from error
        root = inner
    items = []
    for path in sorted({path for glob in source.globs for path in root.glob(glob) if path.is_file()}):
        name = path.relative_to(root).as_posix()
        if source.skip and re.search(source.skip, name):
            continue
        match = re.search(source.group, name) if source.group else None
        group = match.group(1) if match else source.rest
        items.append(Item(path, name, group, split_of(source.package, group)))
    if not items:
        raise BadDataError(f"{source.package}: no audio where it should be ({', '.join(source.globs)})")
    return sorted(items, key=lambda item: (item.group, item.name))


def folder_items(folder: Path) -> list[Item]:
    """The audio files of a local folder. Group: the name before its first "-"; files named `valid-*` are held out."""
    items = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES):
        held = path.stem.startswith("valid-")
        group = path.stem.removeprefix("valid-").split("-")[0]
        items.append(Item(path, path.relative_to(folder).as_posix(), group, "valid" if held else "train"))
    if not items:
        raise BadDataError(f"{folder}: no audio in it (looked for {', '.join(AUDIO_SUFFIXES)})")
    return items


def _clips(items: Iterable[Item], entry: Entry, skipped: list[str]) -> Iterator[Clip]:
    """The usable clips among `items`; why the others are not is added to `skipped`."""
    for item in items:
        try:
            start = 0.0
            if item.path.suffix != ".g722":
                info = soundfile.info(soundfile_name(item.path))
                if info.samplerate < min(MIN_RATE, entry.rate):
                    skipped.append(f"{item.name}: only {info.samplerate} Hz")
                    continue
                if entry.seconds_per_file:
                    start = max(0.0, (info.duration - entry.seconds_per_file) / 2)
            audio = read_mono(item.path, entry.rate, start=start, seconds=entry.seconds_per_file)
        except (BadDataError, soundfile.SoundFileError, OSError) as error:
            skipped.append(f"{item.name}: {str(error).splitlines()[-1]}")
            continue
        clip = prepare(audio, entry.rate)
        if clip is None:
            skipped.append(f"{item.name}: silent or too short")
        else:
            yield item.name, clip


def _pieces(clips: Iterator[Clip], entry: Entry, split: str) -> Iterator[Piece]:
    """Clips joined into files: about a minute each; for `test` single clips of 2 to 8 s, as many as are of use."""
    if split != "test":
        yield from join(clips, entry.rate)
        return
    total = 0
    for names, audio in join(clips, entry.rate, shortest=2.5, longest=8.0):
        if len(audio) >= 2 * entry.rate:
            yield names, audio
            total += len(audio)
        if total >= TEST_SECONDS_PER_GROUP * entry.rate:
            return


def write_items(items: list[Item], entry: Entry, stage: Path) -> dict[str, Any]:
    """Write all of `items` below `stage`; returns the entry's record: its rows of the index, and what was skipped."""
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    groups = sorted({(item.split, item.group) for item in items})
    progress = tqdm(items, desc=f"{entry.kind} {entry.package}", unit="file", leave=False)
    for split, group in groups:
        folder = _free(stage, entry.folder(split) / re.sub(r"[^\w.@-]+", "_", group))
        (stage / folder).mkdir(parents=True)
        mine = [item for item in items if (item.split, item.group) == (split, group)]
        clips = _clips(_ticking(mine, progress), entry, skipped)
        rows += _write_group(_pieces(clips, entry, split), entry, (split, group), stage, folder)
    progress.close()
    if not rows:
        raise BadDataError(f"{entry.package}: nothing usable in {len(items)} files, e.g. {skipped[0]}")
    return {"rate": entry.rate, "rows": rows, "skipped": skipped}


def _free(stage: Path, folder: Path) -> Path:
    """`folder`, numbered if another group has it: names may differ in what no folder's name has."""
    found, number = folder, 1
    while (stage / found).exists():
        number += 1
        found = folder.with_name(f"{folder.name}~{number}")
    return found


def _write_group(
    pieces: Iterator[Piece], entry: Entry, split_group: tuple[str, str], stage: Path, folder: Path
) -> list[dict[str, Any]]:
    """Write the pieces of one group as 16-bit FLAC below `stage / folder`; returns their rows of the index."""
    split, group = split_group
    rows: list[dict[str, Any]] = []
    bands = np.zeros(1)
    for number, (names, audio) in enumerate(pieces):
        path = folder / f"{number:03d}.flac"
        soundfile.write(stage / path, np.rint(audio * 32767).astype(np.int16), entry.rate, subtype="PCM_16")
        bands = bands + power_spectrum(audio, entry.rate)
        rows.append(
            {
                "path": path.as_posix(),
                "kind": entry.kind,
                "package": entry.package,
                "group": group,
                "seconds": round(len(audio) / entry.rate, 3),
                "split": split,
                "clips": names,
            }
        )
    bandwidth = entry.band(group) or cliff(bands) or ""
    return [row | {"bandwidth_hz": bandwidth} for row in rows]


def _ticking(items: list[Item], progress: Any) -> Iterator[Item]:
    for item in items:
        yield item
        progress.update()


def put_in_place(stage: Path, entry: Entry, destination: Path, marker: Path, record: dict[str, Any]) -> None:
    """Move what was built into the corpus, then write the marker that says it is whole."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    partial = marker.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1), encoding="ascii")  # names may be no UTF-8
    marker.unlink(missing_ok=True)
    for split in ("train", "valid", "test"):
        new, old = stage / entry.folder(split), destination / entry.folder(split)
        shutil.rmtree(old, ignore_errors=True)
        if new.exists():
            old.parent.mkdir(parents=True, exist_ok=True)
            os.replace(new, old)
    os.replace(partial, marker)
