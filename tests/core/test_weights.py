"""Weights files that are damaged, of another kind, or hostile."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from streamdac.config import DEFAULT, config_from_mapping, preset
from streamdac.errors import BadDataError, DeniedError, NoInputError, OutputError, UsageError
from streamdac.weights import FORMAT, Weights, load_weights, save_weights

from .models import GEOMETRIES, network

CONFIG = json.dumps(GEOMETRIES["causal"].to_dict())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "format None, need 'streamdac-1'"),
        ({"format": "pt"}, "format 'pt', need 'streamdac-1'"),
        ({"format": FORMAT}, "no readable config"),
        ({"format": FORMAT, "config": "{"}, "no readable config"),
        ({"format": FORMAT, "config": "[" * 100_000}, "no readable config"),
        ({"format": FORMAT, "config": "[]"}, "config is a list, need an object"),
        ({"format": FORMAT, "config": '{"encoder_dim": 1e9}'}, "encoder_dim is 1000000000.0"),
        ({"format": FORMAT, "config": CONFIG}, "tensors are missing, the first is decoder"),
    ],
)
def test_safetensors_of_another_kind_are_refused(tmp_path: Path, metadata: Any, message: str) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(BadDataError, match=message):
        load_weights(tmp_path / "w.safetensors").network()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "no state_dict in it"),
        ({"state_dict": 3}, "no state_dict in it"),
        ({"state_dict": {}}, "no metadata.kwargs"),
        ({"state_dict": {"x": 1}, "metadata": {"kwargs": {}}}, "something that is not a tensor"),
        ({"state_dict": {}, "metadata": {"kwargs": {"depth": 3}}}, "unknown model setting: depth"),
    ],
)
def test_pth_files_of_another_kind_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(BadDataError, match=message):
        load_weights(tmp_path / "w.pth")


def test_a_torch_package_is_refused_before_anything_of_it_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as package:
        package.writestr("w/.data/extern_modules", "os\n")
        package.writestr("w/weights/model.pkl", b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BadDataError, match=r"a torch\.package or TorchScript file runs code when loaded"):
        load_weights(tmp_path / "w.pth")


def test_a_torchscript_file_is_refused_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as script:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            script.writestr(f"w/{name}", b"")
    with pytest.raises(BadDataError, match="TorchScript file runs code when loaded"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("spoil", ["deflated", "claims", "directory"])
def test_a_zip_that_is_not_as_torch_writes_it_is_refused_unread(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {"x": torch.zeros(1 << 20)}}, path)
    if spoil == "deflated":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "new", "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        (tmp_path / "new").replace(path)
        assert path.stat().st_size < 1 << 16
    else:
        data = bytearray(path.read_bytes())
        entry = data.rindex(b"PK\x01\x02")  # the last of the central directory
        place = entry + 24 if spoil == "claims" else entry
        data[place : place + 4] = b"\xff\xff\xff\x7f"
        path.write_bytes(data)
    with pytest.raises(BadDataError, match="not a plain weights file"):
        load_weights(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantizer_dropout": "x"}, "could not convert"),
        ({"quantizer_dropout": None}, "model settings"),
        ({"encoder_rates": 5}, "encoder_rates is 5"),
        ({"encoder_dim": "a", "encoder_rates": [1] * 40}, "encoder_dim is 'a'"),
        ({"encoder_rates": [1] * 100_000}, "need 1 to"),
        ({"quantizer_dropout": 10**400}, "too large"),
        ({"quantizer_dropout": torch.zeros(2)}, "model settings"),
        ({"encoder_rates": [64] * 3, "decoder_rates": [64] * 3}, "a hop of 262144 samples, need at most 32768"),
    ],
)
def test_settings_of_a_wrong_kind_are_bad_data(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadDataError, match=message):
        config_from_mapping(settings)


def test_a_hostile_config_allocates_nothing(tmp_path: Path) -> None:
    """Within the bounds of each field, terabytes in all: told from the tensors before any is made."""
    config = {**GEOMETRIES["causal"].to_dict(), "encoder_dim": 1024, "encoder_rates": [1] * 7 + [20]}
    metadata = {"format": FORMAT, "config": json.dumps(config)}
    save_file({"x": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=metadata)
    with pytest.raises(BadDataError, match="tensors are missing"):
        load_weights(tmp_path / "w.safetensors").network()


def test_every_cut_of_a_file_is_bad_data(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", Weights(GEOMETRIES["causal"], network("causal").state_dict()))
    whole = (tmp_path / "w.safetensors").read_bytes()
    torch.save({"state_dict": {}, "metadata": {"kwargs": {}}}, tmp_path / "w.pth")
    official = (tmp_path / "w.pth").read_bytes()
    for data, name in ((whole, "cut.safetensors"), (official, "cut.pth")):
        for at in range(0, len(data) - 1, len(data) // 37):
            (tmp_path / name).write_bytes(data[:at])
            with pytest.raises(BadDataError):
                load_weights(tmp_path / name)


KWARGS = {**GEOMETRIES["causal"].to_dict(), "latent_dim": 64}


def saved(path: Path, pickled: bytes) -> Path:
    """A file as torch writes it, but with this pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("w/data.pkl", pickled)
        file.writestr("w/version", "3\n")
    return path


def test_views_of_more_than_a_file_holds_are_refused(tmp_path: Path) -> None:
    tensors = {"weight": torch.ones(1).expand(1 << 40)}
    torch.save({"state_dict": tensors, "metadata": {"kwargs": KWARGS}}, tmp_path / "w.pth")
    with pytest.raises(BadDataError, match=f"bytes whose tensors have {4 << 40}"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("tensor", [torch.zeros(3, device="meta"), torch.eye(3).to_sparse()], ids=["meta", "sparse"])
def test_tensors_without_plain_values_are_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"state_dict": {"x": tensor}, "metadata": {"kwargs": KWARGS}}, tmp_path / "w.pth")
    with pytest.raises(BadDataError, match=r"it names 'torch\._utils _rebuild_"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (12 << 30).to_bytes(5, "little") + b"\x85R.",
        b"\x80\x04\x8c\x08builtins\x8c\tbytearray\x93\x8a\x05" + (12 << 30).to_bytes(5, "little") + b"\x85R.",
        b"\x80\x02(ibuiltins\nbytearray\n.",
    ],
    ids=["by-name", "by-stack", "instance"],
)
def test_names_that_are_no_part_of_weights_are_refused_unused(tmp_path: Path, pickled: bytes) -> None:
    with pytest.raises(BadDataError, match="it names"):
        load_weights(saved(tmp_path / "w.pth", pickled))


def test_what_only_torch_would_find_in_a_zip_is_not_there(tmp_path: Path) -> None:
    """It takes entries in any case, and a directory at the place that the end of the file names."""
    path = saved(tmp_path / "w.pth", b"\x80\x02}.")
    other = path.read_bytes().replace(b"data.pkl", b"DATA.PKL")
    path.write_bytes(other)
    with pytest.raises(BadDataError, match="not a plain weights file"):
        load_weights(path)


def test_what_holds_itself_is_read_once(tmp_path: Path) -> None:
    itself = b"\x80\x02]q\x00(" + b"h\x00" * 100 + b"e."
    with pytest.raises(BadDataError, match="no state_dict"):
        load_weights(saved(tmp_path / "w.pth", itself))


@pytest.mark.parametrize("where", [b"w/data.pkl", b"w/version"])
def test_a_zip_whose_sizes_are_wrong_is_bad_data(tmp_path: Path, where: bytes) -> None:
    path = saved(tmp_path / "w.pth", b"\x80\x02}.")
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(where))
    data[entry + 20 : entry + 28] = (50).to_bytes(4, "little") * 2
    path.write_bytes(data)
    with pytest.raises(BadDataError):
        load_weights(path)


def test_a_zip_at_the_end_of_another_format_does_not_let_it_in(tmp_path: Path) -> None:
    content = {"state_dict": {}, "metadata": {"kwargs": KWARGS}}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    decoy = saved(tmp_path / "decoy.zip", b"\x80\x02}.")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes() + decoy.read_bytes())
    with pytest.raises(BadDataError, match=r"not the zip which torch\.save writes"):
        load_weights(tmp_path / "w.pth")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_what_may_not_be_read_is_denied(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch(mode=0)
    with pytest.raises(DeniedError, match="Permission denied"):
        load_weights(tmp_path / name)


def test_a_full_disk_is_an_error_of_output(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot write"):
            save_weights(tmp_path / "w.safetensors", Weights(GEOMETRIES["causal"], network("causal").state_dict()))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_enormous_file_is_told_by_name_and_numbers(tmp_path: Path) -> None:
    with pytest.raises(NoInputError, match="no weights file"):
        load_weights(tmp_path / "none.safetensors")
    (tmp_path / "huge.pth").touch()
    os.truncate(tmp_path / "huge.pth", 5 << 30)  # sparse: no disk is used
    with pytest.raises(BadDataError, match="5368709120 bytes, the limit is 4294967296"):
        load_weights(tmp_path / "huge.pth")


def test_presets_are_found_by_name() -> None:
    assert preset(DEFAULT).causal
    with pytest.raises(UsageError, match="no preset 'dac-8khz'; there are causal-24khz, dac-44khz"):
        preset("dac-8khz")


def test_widths_of_their_own_are_kept_in_the_file(tmp_path: Path) -> None:
    made = network("causal-widths")
    save_weights(tmp_path / "w.safetensors", Weights(made.config, made.state_dict()), dtype=torch.float32)
    loaded = load_weights(tmp_path / "w.safetensors")
    assert loaded.config == GEOMETRIES["causal-widths"]
    assert "encoder_widths" not in GEOMETRIES["causal"].to_dict()
    audio = torch.randn(1, 1, 10 * made.hop_length)
    assert torch.equal(loaded.network().encode(audio).codes, made.encode(audio).codes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_widths": (4, 8)}, "encoder_widths is .4, 8., need 5 integers from 1 to 8192"),
        ({"decoder_widths": (8, 8, 8, 8, 0)}, "decoder_widths is .8, 8, 8, 8, 0., need 5 integers"),
        ({"decoder_widths": [8, 8, 8, 8, 8]}, "decoder_widths is .8, 8, 8, 8, 8., need 5 integers"),
        ({"encoder_widths": (8, 8, 8, 8, 9000)}, "encoder_widths is .8, 8, 8, 8, 9000., need 5 integers"),
    ],
)
def test_widths_that_fit_no_network_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(preset(DEFAULT), **changes)
