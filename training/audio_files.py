"""The audio files that training reads: listed with kind, group and split, and kept in memory as 16-bit samples."""

import csv
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from ..errors import BadDataError, NoInputError
from ..files import soundfile_name
from .corpus_audio import Audio, check_length, read_mono

_log = logging.getLogger(__name__)

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif")
WHOLE_SECONDS = 600.0  # longer files are read piece by piece and never kept
_HELD_OUT = 20  # one file in so many is not trained on
EDGE_SECONDS = 0.05  # read around a piece that is resampled, so that its edges are not


@dataclass(frozen=True)
class AudioFile:
    """One file: where it is, what it holds, how long it is."""

    path: Path
    kind: str  # speech | music | effects
    group: str  # package/speaker
    seconds: float
    bandwidth: int | None = None  # where its spectrum ends, Hz, if that is below half its rate and known


def find_audio(paths: str | Path | Sequence[str | Path], split: str = "train") -> list[AudioFile]:
    """All files of `split` in `paths`: corpus folders, their index.tsv files, or any folders and files of audio.

    What has no index is speech; each folder that holds files directly is a group. Of 20 such files and more, about every
    20th is the split valid and the others are train, always the same ones; any other split is all of them.
    """
    found: list[AudioFile] = []
    without: list[str] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if not path.exists():
            raise NoInputError(f"{path}: no such file or folder")
        index = path / "index.tsv" if path.is_dir() else path
        if index.suffix == ".tsv" and index.exists() and (listed := _from_index(index, split)) is not None:
            found += listed
            if not listed:
                without.append(str(index))
        else:
            found += _of_split(_from_folder(path), path, split)
    if not found:
        raise NoInputError(
            f"{', '.join(without)}: nothing of split {split} in it" if without else "no audio: no path was given"
        )
    return found


def _from_index(index: Path, split: str) -> list[AudioFile] | None:
    """The files that a corpus's index lists in `split`; None when it is some other index."""
    with index.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        try:
            names = set(rows.fieldnames or ())
        except (UnicodeDecodeError, csv.Error):
            return None
        if not {"path", "kind", "package", "group", "seconds", "split"} <= names:
            return None
        try:
            return [
                AudioFile(
                    index.parent / row["path"],
                    row["kind"],
                    f"{row['package']}/{row['group']}",
                    float(row["seconds"]),
                    int(row.get("bandwidth_hz") or 0) or None,
                )
                for row in rows
                if row["split"] == split
            ]
        except (TypeError, ValueError) as error:
            raise BadDataError(f"{index}: line {rows.line_num}: {error}") from error


def _of_split(files: list[AudioFile], folder: Path, split: str) -> list[AudioFile]:
    """Chosen by name, so that files added later do not move the others; at least one is held out where there are enough."""
    if split not in ("train", "valid"):
        return files
    if len(files) < _HELD_OUT:
        if split == "valid":
            _log.warning("%s: %d files, so none is held out: what is measured is trained on", folder, len(files))
        return files
    marks = {f.path: _mark(f.path.relative_to(folder)) for f in files}
    held = {path for path, mark in marks.items() if mark % _HELD_OUT == 0}
    if not 0 < len(held) < len(files):
        held = {min(marks, key=lambda path: marks[path])}
    return [f for f in files if (f.path in held) == (split == "valid")]


def _mark(name: Path) -> int:
    """A number that names which are alike do not share."""
    digest = hashlib.blake2b(name.as_posix().encode(errors="surrogateescape"), digest_size=4).digest()
    return int.from_bytes(digest, "big")


def _from_folder(folder: Path) -> list[AudioFile]:
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else [folder]
    found, unreadable = [], []
    for path in paths:
        try:
            info = soundfile.info(soundfile_name(path))
            check_length(info.frames)
        except (BadDataError, soundfile.SoundFileError, OSError) as error:
            unreadable.append(f"{path.name}: {str(error).splitlines()[-1]}")
            continue
        if info.duration > 0:
            found.append(AudioFile(path, "speech", str(path.parent), info.duration))
    if unreadable:
        _log.warning("%s: %d of %d files cannot be read, e.g. %s", folder, len(unreadable), len(paths), unreadable[0])
    if not found:
        raise NoInputError(
            f"{folder}: no audio in it ({len(paths)} files named {', '.join(SUFFIXES)}, "
            f"{len(unreadable)} of them unreadable)"
        )
    return found


class AudioFiles:
    """Reads stretches of files at one rate. A file is decoded when it is first needed and kept as int16.

    Holding at most `cache_bytes`, it forgets what was not read for longest. Unreadable files are reported once.
    """

    def __init__(self, entries: Iterable[AudioFile], sample_rate: int, *, cache_bytes: int = 4 * 10**9) -> None:
        self.entries = list(entries)
        self.sample_rate = sample_rate  # Hz
        self.bad: set[Path] = set()
        self._cache: OrderedDict[Path, npt.NDArray[np.int16]] = OrderedDict()
        self._room = cache_bytes

    def samples(self, file: AudioFile) -> int:
        """Samples of `file` at this rate, as listed."""
        return max(1, int(file.seconds * self.sample_rate))

    def read(self, file: AudioFile, start: int, count: int) -> Audio | None:
        """`count` samples of `file` from `start` on as float32 [count], zeros past its end; None if unreadable."""
        if file.path in self.bad:
            return None
        try:
            if file.seconds > WHOLE_SECONDS:
                audio = self._piece(file.path, start, count)
            else:
                audio = self._whole(file.path)[start : start + count].astype(np.float32) * np.float32(1 / 32767)
        except BadDataError as error:
            self.bad.add(file.path)
            _log.warning("left out: %s", error)
            return None
        padded: Audio = np.pad(audio, (0, count - len(audio)))
        return padded

    def _whole(self, path: Path) -> npt.NDArray[np.int16]:
        samples = self._cache.get(path)
        if samples is None:
            samples = np.rint(read_mono(path, self.sample_rate).clip(-1, 1) * 32767).astype(np.int16)
            self._cache[path] = samples
            self._room -= samples.nbytes
            while self._room < 0 and len(self._cache) > 1:
                self._room += self._cache.popitem(last=False)[1].nbytes
        self._cache.move_to_end(path)
        return samples

    def _piece(self, path: Path, start: int, count: int) -> Audio:
        first = start / self.sample_rate
        edge = min(first, EDGE_SECONDS)
        seconds = count / self.sample_rate + edge + EDGE_SECONDS
        audio = read_mono(path, self.sample_rate, start=first - edge, seconds=seconds)
        skip = round(edge * self.sample_rate)
        return audio[skip : skip + count].clip(-1, 1)
