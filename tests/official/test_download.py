"""`streamdac download` and `convert`, against a local server."""

from __future__ import annotations

import errno
import fcntl
import http.client
import io
import os
import pickle
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import streamdac
from streamdac.cli import main
from streamdac.config import config_from_mapping, preset
from streamdac.models import OFFICIAL, cache_path, official_path, official_url
from streamdac.nn import DAC
from streamdac.weights import load_weights

from .models import SUBSET
from .server import Mirror, serving

UNAVAILABLE = 69


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """A server that the commands use, and an empty home."""
    with serving() as found:
        monkeypatch.setenv("STREAMDAC_DOWNLOAD_URL", found.url)
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        yield found


@pytest.fixture(scope="module")
def weights() -> bytes:
    """What the official 16 kHz file holds, narrower: as many codebooks and the same hop."""
    kwargs = {"sample_rate": 16_000, "encoder_dim": 2, "encoder_rates": [2, 4, 5, 8], "decoder_dim": 16,
              "decoder_rates": [8, 5, 4, 2], "n_codebooks": 12, "latent_dim": 8, "quantizer_dropout": 0.5}  # fmt: skip
    file = io.BytesIO()
    torch.save({"state_dict": DAC(config_from_mapping(kwargs)).state_dict(), "metadata": {"kwargs": kwargs}}, file)
    return file.getvalue()


PATH = "/0.0.5/weights_16khz.pth"


def download(*options: str) -> int:
    return main(["download", "--model_type", "16khz", *options])


def cached() -> Path:
    return official_path("dac-16khz")


def one_line(text: str) -> str:
    assert text.startswith("streamdac: ")
    assert text.count("\n") == 1
    return text


def leftovers() -> list[str]:
    return sorted(file.name for file in cached().parent.iterdir()) if cached().parent.is_dir() else []


def test_whole_file_is_fetched_once_and_printed(
    mirror: Mirror, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.files[PATH] = weights
    for _ in range(2):
        assert download() == 0
        assert capsys.readouterr().out == f"{cached()}\n"
    assert mirror.requests == [(PATH, None)]
    assert cached().read_bytes() == weights
    assert leftovers() == [cached().name]
    assert streamdac.load("dac-16khz").n_codebooks == 12
    assert download("--force") == 0
    assert len(mirror.requests) == 2


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_download_says_so_and_goes_on(
    mirror: Mirror, weights: bytes, capsys: pytest.CaptureFixture[str], ranges: bool
) -> None:
    mirror.files[PATH], mirror.cut, mirror.ranges = weights, 5_000, ranges
    assert download() == UNAVAILABLE
    assert f"5000 of {len(weights)} bytes arrived" in one_line(capsys.readouterr().err)
    assert not cached().exists()
    mirror.cut = None
    assert download() == 0
    assert mirror.requests == [(PATH, None), (PATH, "bytes=5000-")]
    assert cached().read_bytes() == weights
    assert leftovers() == [cached().name]


def test_part_that_is_complete_is_taken(mirror: Mirror, weights: bytes) -> None:
    mirror.files[PATH] = weights
    cached().parent.mkdir(parents=True)
    (cached().parent / f".{cached().name}.part").write_bytes(weights)
    assert download() == 0
    assert cached().read_bytes() == weights


def test_part_that_is_longer_than_the_file_is_begun_again(mirror: Mirror, weights: bytes) -> None:
    mirror.files[PATH] = weights
    cached().parent.mkdir(parents=True)
    (cached().parent / f".{cached().name}.part").write_bytes(weights + b"more")
    assert download() == 0
    assert cached().read_bytes() == weights


def test_part_of_another_file_is_refused_and_begun_again(mirror: Mirror, weights: bytes) -> None:
    mirror.files[PATH] = weights
    cached().parent.mkdir(parents=True)
    (cached().parent / f".{cached().name}.part").write_bytes(b"x" * 5_000)
    assert download() == UNAVAILABLE
    assert leftovers() == []
    assert download() == 0
    assert cached().read_bytes() == weights


def wrong_files() -> dict[str, bytes]:
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("dac/.data/extern_modules", "torch")
    return {
        "a page": b"<!DOCTYPE html><title>Not here</title>",
        "nothing": b"",
        "another model": SUBSET.weights("m24").read_bytes(),
        "a package": package.getvalue(),
        "a pickle": pickle.dumps({"state_dict": {}}),
        "a cut zip": SUBSET.weights("m24").read_bytes()[:-100],
    }


@pytest.mark.parametrize("kind", wrong_files())
def test_wrong_file_is_refused_and_removed(mirror: Mirror, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    mirror.files[PATH] = wrong_files()[kind]
    assert download() == UNAVAILABLE
    assert "is not the weights of dac-16khz" in one_line(capsys.readouterr().err)
    assert leftovers() == []


def test_wrong_file_leaves_the_one_that_is_there(mirror: Mirror, weights: bytes) -> None:
    mirror.files[PATH] = weights
    assert download() == 0
    mirror.files[PATH] = b"wrong"
    assert download("--force") == UNAVAILABLE
    assert cached().read_bytes() == weights


def test_missing_release_is_named(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    assert download("--model_tag", "9.9.9") == UNAVAILABLE
    assert f"{mirror.url}/9.9.9/weights_16khz.pth: the server answers 404" in one_line(capsys.readouterr().err)
    assert leftovers() == []


def test_no_network_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("STREAMDAC_DOWNLOAD_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert download() == UNAVAILABLE
    assert "Connection refused" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize("url", ["not a url", "nowhere://x", "http://"])
def test_senseless_mirror_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("STREAMDAC_DOWNLOAD_URL", url)
    assert download() == UNAVAILABLE
    assert "cannot download" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "options", [["--model_bitrate", "16kbps"], ["--model_tag", "../../etc"], ["--model_type", "8khz"]]
)
def test_model_that_does_not_exist_is_a_usage_error(
    mirror: Mirror, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert download(*options) == 2
    assert not mirror.requests


def test_addresses_are_the_official_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STREAMDAC_DOWNLOAD_URL", raising=False)
    base = "https://github.com/descriptinc/descript-audio-codec/releases/download"
    assert [official_url(name) for name in OFFICIAL] == [
        f"{base}/0.0.1/weights.pth",
        f"{base}/1.0.0/weights_44khz_16kbps.pth",
        f"{base}/0.0.4/weights_24khz.pth",
        f"{base}/0.0.5/weights_16khz.pth",
    ]
    assert cache_path(*OFFICIAL["dac-44khz"]) == Path.home() / ".cache/descript/dac/weights_44khz_8kbps_0.0.1.pth"
    assert set(OFFICIAL) == {name for name in OFFICIAL if preset(name).padding == "centred"}


def test_converted_model_is_the_same_to_the_last_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = SUBSET.weights("m24"), tmp_path / "m24.safetensors"
    assert main(["convert", str(source), "-o", str(target)]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    before, after = load_weights(source), load_weights(target)
    assert before.config == after.config
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())
    assert streamdac.load(target).fingerprint == streamdac.load(source).fingerprint
    assert main(["convert", str(source), "-o", str(target)]) == 74
    assert main(["convert", str(source), "-o", str(target), "-f", "--dtype", "float16"]) == 0
    half = sum(2 * tensor.numel() for tensor in before.tensors.values())
    assert half < target.stat().st_size < 2 * half
    assert streamdac.load(target).fingerprint == streamdac.load(source).fingerprint
    assert main(["convert", str(source), "-o", str(tmp_path / "m24.bin")]) == 2
    assert main(["convert", str(tmp_path / "none.pth")]) == 66


@pytest.mark.parametrize("kind", ["a page", "a package", "a pickle", "a cut zip"])
def test_what_is_no_plain_weights_file_is_not_converted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(wrong_files()[kind])
    assert main(["convert", str(path)]) == 65
    assert ("runs code when loaded" if kind == "a package" else "not a plain weights file") in one_line(
        capsys.readouterr().err
    )
    assert not path.with_suffix(".safetensors").exists()


def test_a_disk_without_locks_is_no_second_download(
    mirror: Mirror, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    mirror.files[PATH] = weights
    assert download() == 0


def test_a_second_download_at_once_is_refused(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> None:
    cached().parent.mkdir(parents=True)
    with (cached().parent / f".{cached().name}.part").open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        assert download() == UNAVAILABLE
    assert "is being downloaded by another process" in one_line(capsys.readouterr().err)


def test_a_net_that_breaks_down_is_not_taken_for_a_disk(
    mirror: Mirror, weights: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(response: object, count: int) -> bytes:
        raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    monkeypatch.setattr(http.client.HTTPResponse, "read", read)
    mirror.files[PATH] = weights
    assert download() == UNAVAILABLE
    assert os.strerror(errno.EHOSTUNREACH) in one_line(capsys.readouterr().err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_not_taken_for_the_net(
    mirror: Mirror, weights: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.files[PATH] = weights
    cached().parent.mkdir(parents=True)
    (cached().parent / f".{cached().name}.part").symlink_to("/dev/full")
    assert download() == 74
    assert "cannot write" in one_line(capsys.readouterr().err)
