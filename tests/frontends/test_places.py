"""No file is read and written at once, nor written twice: `-f` would destroy it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamdac import cli
from streamdac.errors import UsageError
from streamdac.frontends.places import End, check_places


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path) -> Path:
    """The current folder: two files, and a link to one of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMDAC_MODEL", str(weights))
    (tmp_path / "a.wav").write_bytes(b"precious")
    os.symlink("a.wav", tmp_path / "link.wav")
    (tmp_path / "w.safetensors").write_bytes(weights.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("source", "targets", "message"),
    [
        ("a.wav", {"-o": "a.wav"}, "a.wav would become itself"),
        ("link.wav", {"-o": "./x/../a.wav"}, "./x/../a.wav would become itself"),
        ("a.wav", {"-o": "file:link.wav"}, "file:link.wav would become itself"),
        ("a.wav", {"-o": "null:", "-p": Path("a.wav")}, "a.wav would become itself"),
        (None, {"-o": "new.wav", "-p": Path("new.wav")}, "-o and -p are both new.wav"),
        (None, {"-o": "new.wav", "-p": None, "-q": "a.wav"}, None),
        ("null:1", {"-o": "null:1", "-p": Path("null:1")}, None),
        ("null", {"-o": "null"}, None),
        ("-", {"-o": "-", "-p": Path("-")}, None),
        ("file:-", {"-o": "file:-"}, None),
    ],
)
def test_ends_that_are_one_file_are_refused(source: End, targets: dict[str, End], message: str | None) -> None:
    if message is None:
        return check_places([source], targets)
    with pytest.raises(UsageError) as info:
        check_places([source], targets)
    assert str(info.value) == message


@pytest.mark.parametrize(
    "words",
    [
        ["live", "-i", "a.wav", "-o", "link.wav"],
        ["live", "-i", "a.wav", "--record-codes", "a.wav"],
        ["live", "-i", "a.wav", "--plot", "a.wav"],
        ["live", "-i", "tone:440,1", "-o", "x.wav", "--record-codes", "x.wav"],
        ["live", "-i", "tone:440,1", "--record-codes", "x.png", "--plot", "./x.png"],
        ["netsim", "a.wav", "--loss", "0", "--redundancy", "0", "-o", "a.wav"],
        ["call", "ws://127.0.0.1:1", "-i", "a.wav", "-o", "a.wav"],
        ["serve", "--port", "0", "-i", "a.wav", "-o", "a.wav"],
        ["convert", "w.safetensors"],
        ["convert", "causal-24khz", "--dtype", "float16"],
    ],
)
def test_every_command_refuses_them_before_it_begins(
    words: list[str], here: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, before = weights.read_bytes(), sorted(os.listdir(here))
    assert cli.main([*words, "-f"]) == 2
    said = capsys.readouterr().err
    assert "would become itself" in said or " are both " in said
    assert (here / "a.wav").read_bytes() == b"precious"
    assert (weights.read_bytes(), sorted(os.listdir(here))) == (model, before)
    assert (here / "w.safetensors").read_bytes() == model
