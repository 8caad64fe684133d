"""Hostile archives are refused in words, without running or allocating anything."""

from __future__ import annotations

import os
import pickle
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamdac.archive import Archive
from streamdac.config import preset
from streamdac.errors import BadDataError, DeniedError, ModelMismatchError, NoInputError, UsageError
from streamdac.official import check_archive

from .forge import SEEDS, SMALLEST, forged, mutant, pickled, saved
from .fuzz import MAX_BYTES, outcome, peak_bytes

FIELDS = {
    "negative length": ({"original_length": -1}, "original_length is -1"),
    "no length": ({"original_length": 0}, "original_length is 0"),
    "huge length": ({"original_length": 1 << 62}, "original_length"),
    "length of 300 bits": ({"original_length": 1 << 300}, "an integer of 38 bytes"),
    "length far beyond its frames": ({"original_length": 1 << 39}, "far too many for 6 frames"),
    "length a float": ({"original_length": 3e3}, "opcode 0x47"),
    "length true": ({"original_length": True}, "original_length is True"),
    "chunk_length 0": ({"chunk_length": 0}, "chunk_length is 0"),
    "negative chunk_length": ({"chunk_length": -6}, "chunk_length is -6"),
    "chunk_length no divisor": ({"chunk_length": 4, "padding": False}, "6 frames in chunks of 4"),
    "chunks in one piece": ({"chunk_length": 3}, "6 frames in chunks of 3"),
    "rate without a ratio": ({"sample_rate": 44_101}, "44101 Hz"),
    "rate 0": ({"sample_rate": 0}, "sample_rate is 0"),
    "no channels": ({"channels": 0}, "channels is 0"),
    "channels beyond its codes": ({"channels": 2}, "1 rows of codes"),
    "many channels": ({"channels": 1 << 40}, "channels is 1099511627776"),
    "padding a number": ({"padding": 1}, "padding is 1"),
    "another version": ({"dac_version": "9.9.9"}, "dac_version is '9.9.9'"),
    "no version": ({"drop": "dac_version"}, "no dac_version"),
    "an extra key": ({"extra": 1}, "unknown metadata: 'extra'"),
    "loudness NaN": ({"input_db": np.array([np.nan], np.float32)}, "input_db is .nan"),
    "loudness infinite": ({"input_db": np.array([np.inf], np.float32)}, "input_db is .inf"),
    "loudness a list": ({"input_db": [-20]}, "input_db is no array"),
    "loudness of objects": ({"input_db": np.array([None], object)}, "input_db is an array of type O8"),
    "loudness in double": ({"input_db": np.array([-20.0])}, "byte"),
    "no loudness": ({"input_db": np.zeros(0, np.float32)}, "input_db has shape"),
    "codes of objects": ({"codes": np.array([[[[]]]], object)}, "codes is an array of type O8"),
    "codes signed": ({"codes": np.zeros((1, 9, 6), np.int16)}, "byte"),
    "codes flat": ({"codes": np.zeros(54, np.uint16)}, "codes has shape"),
    "no codes": ({"codes": np.zeros((1, 9, 0), np.uint16)}, "codes has shape"),
    "many codebooks": ({"codes": np.zeros((1, 65, 6), np.uint16)}, "65 codebooks"),
    "codes a string": ({"codes": "codes"}, "codes are no array"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_forged_field_is_refused(name: str) -> None:
    changes, message = FIELDS[name]
    with pytest.raises(BadDataError, match=message):
        Archive.load(forged(**changes))


def test_unforged_is_read() -> None:
    assert Archive.load(forged()).frames == 6


def test_fields_are_checked_where_an_archive_is_made() -> None:
    good = Archive.load(forged())
    with pytest.raises(UsageError, match="original_length is -1"):
        Archive(**{**vars(good), "original_length": -1})


@pytest.mark.parametrize(
    "value",
    [None, {}, [], {"codes": 1}, {"codes": np.zeros((1, 9, 6), np.uint16), "metadata": {}}, b"", "text", ({},), {1: 2}],
    ids=repr,
)
def test_other_contents_are_refused(value: object) -> None:
    with pytest.raises(BadDataError):
        Archive.load(saved(value))


class Touch:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["whole", "codes", "dac_version", "key"])
def test_nothing_is_executed(tmp_path: Path, protocol: int, where: str) -> None:
    marker = tmp_path / "executed"
    touch = Touch(marker)
    value: dict[str, Any] = {
        "whole": touch,
        "codes": {"codes": touch, "metadata": {}},
        "dac_version": {"codes": np.zeros((1, 9, 6), np.uint16), "metadata": {"dac_version": touch}},
        "key": {"codes": 1, "metadata": {"dac_version": [touch]}},
    }[where]  # type: ignore[assignment]
    with pytest.raises(BadDataError):
        Archive.load(pickled(pickle.dumps(value, protocol)))
    assert not marker.exists()


BOMBS = {
    "25 bytes for 8 GB": b"\x80\x03cnumpy\nzeros\nJ\xff\xff\xff\x3f\x85R.",
    "an array of 8 GB": b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    b"\x8a\x05\x00\x00\x00\x00\x02\x85C\x01b\x87R.",
    "bytes of 2^63": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "bytes of 2^64": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.",
    "a string of 4 GB": b"\x80\x03X\xff\xff\xff\xff.",
    "a frame of 2^64": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
    "a bytearray": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a memo index of 2^32": b"\x80\x03}r\xff\xff\xff\xffj\xfe\xff\xff\xff.",
    "an integer of 255 bytes": b"\x80\x03\x8a\xff" + b"\xff" * 255 + b".",
    "an integer of 2 GB": b"\x80\x03\x8b\xff\xff\xff\x7f.",
    "a text integer": b"I" + b"9" * 5_000 + b"\n.",
    "lists in lists": b"\x80\x03" + b"]" * 2_000 + b"a" * 1_999 + b".",
    "tuples doubling": b"\x80\x03)" + b"q\x00h\x00h\x00\x86" * 40 + b".",
    "a hash of 2^60 tuples": b"\x80\x03cnumpy\ndtype\n)" + b"q\x00h\x00\x86" * 60 + b"\x89\x88\x87R.",
    "a dict with itself": b"\x80\x03}q\x00X\x01\x00\x00\x00ah\x00s.",
    "a list with itself": b"\x80\x03]q\x00h\x00a.",
    "marks": b"\x80\x03" + b"(" * 5_000 + b"t" * 5_000 + b".",
    "no end": b"\x80\x03" + b"N0" * 5_000,
    "pop": b"\x80\x030.",
    "dup": b"\x80\x03N2\x86.",
    "instance": b"(ios\nsystem\n.",
    "object": b"(cos\nsystem\no.",
    "persistent id": b"Pid\n.",
    "extension": b"\x80\x03\x82\x01.",
    "nothing": b"",
    "protocol 255": b"\x80\xffN.",
    "a name without an end": b"c" + b"n" * 5_000,
    "a name that is not ASCII": b"cnump\xff\n_reconstruct\n.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_in_little_memory(name: str) -> None:
    data = pickled(BOMBS[name])
    with pytest.raises(BadDataError):
        Archive.load(data)
    assert peak_bytes(data) < MAX_BYTES


def test_loudness_is_checked_in_little_memory() -> None:
    data = forged(input_db=np.full(2_000_000, -20, np.float32))
    with pytest.raises(BadDataError, match="1 rows of codes"):
        Archive.load(data)
    assert peak_bytes(data) < 3 * len(data)


def test_shape_and_bytes_must_agree() -> None:
    good = Archive.load(SMALLEST).to_bytes()
    shape = b"(K\x01K\x01K\x08K\x01\x87"
    assert good.count(shape) == 1
    for other in (
        b"(K\x01K\x01K\x09K\x01\x87",
        b"(K\x01K\x01K\x08M\xff\xff\x87",
        b"(K\x01K\x01K\x08J\xff\xff\xff\xff\x87",
    ):
        with pytest.raises(BadDataError, match=r"codes (of|has) shape"):
            Archive.load(good.replace(shape, other))


@pytest.mark.parametrize("data", [SMALLEST, Archive.load(SMALLEST).to_bytes()], ids=["protocol 4", "protocol 3"])
def test_cut_anywhere_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(BadDataError):
            Archive.load(data[:length])


@pytest.mark.parametrize("data", [SMALLEST, Archive.load(SMALLEST).to_bytes()], ids=["protocol 4", "protocol 3"])
def test_any_flipped_bit_is_refused_or_gives_a_sound_archive(data: bytes) -> None:
    for index in range(len(data)):
        for bit in range(8):
            outcome(data[:index] + bytes([data[index] ^ 1 << bit]) + data[index + 1 :])


@settings(max_examples=500, deadline=None)
@given(st.randoms(use_true_random=False))
def test_mutant_is_refused_or_gives_a_sound_archive(rng: random.Random) -> None:
    outcome(mutant(rng))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_pickle_is_refused(data: bytes) -> None:
    with pytest.raises(BadDataError):
        Archive.load(pickled(data))


@pytest.mark.slow
def test_200_000_mutants() -> None:
    for number in range(200_000):
        outcome(mutant(random.Random(number)))


def test_bytes_where_a_state_belongs_are_not_unpacked() -> None:
    head = b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00u2\x89\x88\x87R"
    data = pickled(head + b"B" + (8 << 20).to_bytes(4, "little") + b"\x03" * (8 << 20) + b"b.")
    with pytest.raises(BadDataError):
        Archive.load(data)
    assert peak_bytes(data) < 1 << 20


def test_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.dac"
    path.write_bytes(SMALLEST)
    for size in ((1 << 30) - 1, 1 << 40):
        os.truncate(path, size)  # sparse: takes no disk
        tracemalloc.start()
        with pytest.raises(BadDataError, match=r"huge\.dac: "):
            Archive.load(path)
        assert tracemalloc.get_traced_memory()[1] < MAX_BYTES
        tracemalloc.stop()


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    for name, data in {
        "empty": b"",
        "wave": b"RIFF....WAVE",
        "zip": b"PK\x03\x04",
        "npy": b"\x93NUMPY\x01\x00\xff\xff",
    }.items():
        path = tmp_path / f"{name}.dac"
        path.write_bytes(data)
        with pytest.raises(BadDataError, match=rf"{name}\.dac: not a \.dac archive"):
            Archive.load(path)
    with pytest.raises(NoInputError, match=r"missing\.dac"):
        Archive.load(tmp_path / "missing.dac")
    with pytest.raises((NoInputError, DeniedError)):
        Archive.load(tmp_path)


def test_code_beyond_the_codebook_is_refused() -> None:
    codes = np.zeros((1, 9, 6), np.uint16)
    for code in (1_024, 65_535):
        codes[0, 8, 5] = code
        with pytest.raises(ModelMismatchError, match=f"code {code}, .* have 1024 entries"):
            check_archive(Archive.load(forged(codes)), preset("dac-44khz"))


def test_archive_of_another_model_is_refused() -> None:
    archive = Archive.load(forged())
    check_archive(archive, preset("dac-44khz"))
    with pytest.raises(ModelMismatchError, match="6 frames in one piece for 3000 samples"):
        check_archive(archive, preset("dac-16khz"))
    many = Archive.load(forged(np.zeros((1, 10, 6), np.uint16)))
    with pytest.raises(ModelMismatchError, match="archive of 10 codebooks, the model has 9"):
        check_archive(many, preset("dac-44khz"))


def test_every_archive_of_the_set_is_read() -> None:
    assert SEEDS
    assert [outcome(data) for data in SEEDS] == ["read"] * len(SEEDS)
