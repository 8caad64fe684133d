"""The official `.dac` archive: read without unpickling anything, written so that every numpy and the official tool read it.

A `.dac` file is a `.npy` file, version 1.0, of one 0-dimensional object array: a pickled `{"codes": array, "metadata": dict}`.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ._pickle_reader import StoredArray, read_pickle, short
from ._pickle_writer import Value, write_pickle
from .errors import BadDataError, DeniedError, NoInputError, UsageError
from .files import written_whole
from .rates import resampling_problem

DAC_VERSION = "1.0.0"
_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
_OFFICIAL_RATES = (44_100, 24_000, 16_000)  # Hz, of the official models
# Bounds on what an archive may say. The largest file holds a week of the largest official model.
_MAX_BYTES = 1 << 30
RATES = (1_000, 384_000)  # Hz
_MAX_CHANNELS = 5  # the loudness of BS.1770 is defined up to there
_MAX_SAMPLES = 1 << 40
_MAX_CODEBOOKS = 64
_MAX_SAMPLES_PER_FRAME = 1 << 16  # at the source's rate; the official models stay below 4,500
LEAST_DB, MOST_DB = -70.0, 150.0


@dataclass(frozen=True, eq=False)
class Archive:
    """What a `.dac` file holds; the field names are the official ones.

    Raises:
        UsageError: a value is of the wrong type or out of range, or two do not fit each other.
    """

    codes: npt.NDArray[np.uint16]
    """`[B * C, K, F]`: the channels of each signal one after the other."""
    input_db: npt.NDArray[np.float32]
    """`[B]`: loudness of each signal before it was normalised, dB LUFS."""
    original_length: int
    """Samples at `sample_rate`."""
    sample_rate: int
    """Hz, of the source; the model's rate is not stored."""
    chunk_length: int
    """Frames coded together; all of them where `padding` is true."""
    channels: int
    padding: bool
    """True: coded in one piece by the padded network. False: in overlapping windows by the unpadded one."""
    dac_version: str = DAC_VERSION

    def __post_init__(self) -> None:
        problem = _field_problem(self) or _fit_problem(self)
        if problem:
            raise UsageError(f"archive: {problem}")

    def __eq__(self, other: object) -> bool:
        """Field by field."""
        if not isinstance(other, Archive):
            return NotImplemented
        return all(np.array_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]

    @property
    def n_codebooks(self) -> int:
        """Codes per frame."""
        return int(self.codes.shape[1])

    @property
    def frames(self) -> int:
        """Frames of each channel."""
        return int(self.codes.shape[2])

    @property
    def batch(self) -> int:
        """Signals; 1 in every file that the official command line makes."""
        return int(self.codes.shape[0]) // self.channels

    @property
    def seconds(self) -> float:
        """Duration of the source."""
        return self.original_length / self.sample_rate

    @classmethod
    def load(cls, source: str | os.PathLike[str] | bytes) -> Archive:
        """The archive in a file or in memory.

        Raises:
            NoInputError: no such file.
            DeniedError: it may not be read.
            BadDataError: not an archive, or a broken or hostile one.
        """
        if isinstance(source, bytes):
            return _parse(source)
        try:
            return _parse(_read(Path(source)))
        except BadDataError as error:
            raise BadDataError(f"{os.fspath(source)}: {error}") from error.__cause__

    def to_bytes(self) -> bytes:
        """The file as the official tool writes it under numpy 1.24 to 1.26, byte for byte."""
        metadata: dict[str, Value] = {
            "input_db": self.input_db,
            "original_length": self.original_length,
            "sample_rate": self.sample_rate,
            "chunk_length": self.chunk_length,
            "channels": self.channels,
            "padding": self.padding,
            "dac_version": self.dac_version,
        }
        header = _NPY_HEADER.ljust(127 - len(_MAGIC) - 2) + "\n"  # numpy pads to a multiple of 64
        return _MAGIC + len(header).to_bytes(2, "little") + header.encode() + write_pickle(self.codes, metadata)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the file, whole or not at all; the name is taken as it is.

        Raises:
            OutputError: the file exists and `force` is not set, or it cannot be written.
        """
        with written_whole(Path(path), force=force) as part:
            part.write_bytes(self.to_bytes())
        return Path(path)


def _read(path: Path) -> bytes | memoryview:
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
            size = os.fstat(file.fileno()).st_size
            if head == _MAGIC and size > _MAX_BYTES:
                raise BadDataError(f"{size} bytes, an archive has at most {_MAX_BYTES}")
            if head == _MAGIC and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                # Mapped, so that the bytes of a huge file that is refused are never read.
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return head + file.read(_MAX_BYTES) if head == _MAGIC else head
    except PermissionError as error:
        raise DeniedError(f"cannot read {path}: {error.strerror}") from error
    except OSError as error:
        raise NoInputError(f"cannot read {path}: {error.strerror}") from error


def _parse(data: bytes | memoryview) -> Archive:
    start = len(_MAGIC) + 2
    if len(data) < start or data[: len(_MAGIC)] != _MAGIC:
        raise BadDataError(
            f"not a .dac archive: it starts with {data[:8].hex(' ') or 'nothing'}, need {_MAGIC.hex(' ')}"
        )
    length = int.from_bytes(data[start - 2 : start], "little")
    header = bytes(data[start : start + min(length, 1_000)]).decode("latin-1")
    if len(header) != length or header.rstrip(" \n") != _NPY_HEADER:
        raise BadDataError(f"not a .dac archive: a .npy header of {length} bytes that is not {_NPY_HEADER}")
    try:
        return _from_contents(read_pickle(memoryview(data)[start + length :]))
    except UsageError as error:
        raise BadDataError(str(error)) from error
    except BadDataError as error:
        raise BadDataError(f"broken archive: {error}") from error.__cause__


def _from_contents(contents: Any) -> Archive:
    if (
        not isinstance(contents, StoredArray)
        or contents.dtype != "O8"
        or contents.shape != ()
        or type(contents.data) is not list
    ):
        raise BadDataError("not a 0-dimensional array of one object")
    if len(contents.data) != 1 or type(contents.data[0]) is not dict:
        raise BadDataError(f"{len(contents.data)} objects, need one dictionary")
    values = _exactly(contents.data[0], {"codes", "metadata"}, "entries")
    codes, metadata = values["codes"], values["metadata"]
    if type(metadata) is not dict or type(codes) is not StoredArray:
        raise BadDataError("codes are no array, or metadata no dictionary")
    _exactly(metadata, {f.name for f in fields(Archive)} - {"codes"}, "metadata")
    if type(metadata["input_db"]) is not StoredArray:
        raise BadDataError("input_db is no array")
    input_db = metadata["input_db"].numbers("f4", 1, "input_db")
    # Copies: the data may be a mapped file, which another process may cut.
    return Archive(codes=codes.numbers("u2", 3, "codes").copy(), **{**metadata, "input_db": input_db.copy()})


def _exactly(values: dict[str, Any], wanted: set[str], what: str) -> dict[str, Any]:
    if missing := sorted(wanted - set(values)):
        raise BadDataError(f"no {', '.join(missing)} among its {what}")
    if unknown := sorted(set(values) - wanted):
        raise BadDataError(f"unknown {what}: {', '.join(short(name) for name in unknown[:3])}")
    return values


def _field_problem(archive: Archive) -> str | None:
    """What is wrong with one field on its own."""
    values: dict[str, Any] = vars(archive)
    codes, db = values["codes"], values["input_db"]
    if not isinstance(codes, np.ndarray) or codes.dtype != np.uint16 or codes.ndim != 3 or codes.size == 0:
        return f"codes must be uint16 [B * C, K, F], got {_kind(codes)}"
    if not isinstance(db, np.ndarray) or db.dtype != np.float32 or db.ndim != 1:
        return f"input_db must be float32 [B], got {_kind(db)}"
    if not ((db >= LEAST_DB) & (db <= MOST_DB)).all():
        return f"input_db is {db[:3].tolist()} dB, need {LEAST_DB:g} to {MOST_DB:g}"
    if values["dac_version"] != DAC_VERSION:
        return f"dac_version is {short(values['dac_version'])}, need {DAC_VERSION!r}"
    if type(values["padding"]) is not bool:
        return f"padding is {short(values['padding'])}, need True or False"
    limits = {
        "original_length": (1, _MAX_SAMPLES),
        "sample_rate": RATES,
        "chunk_length": (1, _MAX_SAMPLES),
        "channels": (1, _MAX_CHANNELS),
    }
    for name, (low, high) in limits.items():
        value = values[name]
        if type(value) is not int or not low <= value <= high:
            return f"{name} is {short(value)}, need an integer from {low} to {high}"
    return None


def _kind(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _fit_problem(archive: Archive) -> str | None:
    """What two fields disagree about."""
    rows, codebooks, frames = archive.codes.shape
    if codebooks > _MAX_CODEBOOKS:
        return f"{codebooks} codebooks, need at most {_MAX_CODEBOOKS}"
    if rows != archive.channels * len(archive.input_db):
        return f"{rows} rows of codes, need {len(archive.input_db)} signals of {archive.channels} channels"
    if frames % archive.chunk_length or (archive.padding and frames != archive.chunk_length):
        return f"{frames} frames in chunks of {archive.chunk_length}, padding {archive.padding}"
    if archive.original_length > frames * _MAX_SAMPLES_PER_FRAME:
        return f"original_length is {short(archive.original_length)} samples, far too many for {frames} frames"
    problems = [resampling_problem(rate, archive.sample_rate) for rate in _OFFICIAL_RATES]
    return problems[0] if all(problems) else None
