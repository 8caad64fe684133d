"""A frontend of an outsider, in a distribution of its own: found by its entry point, as a command and as a source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run
from .models import RATE

SETUP = """
from setuptools import setup
setup(
    name="chirp-frontend", version="1.0", py_modules=["chirp", "broken"],
    entry_points={"streamdac.frontends": [
        "chirp = chirp:frontend", "shaky = broken:frontend", "nothing = chirp:RATE", "tone = chirp:frontend",
        "absent = no_such_module:frontend",
    ]},
)
"""
CHIRP = '''
"""A click every 100 ms, counted by a command."""
from pathlib import Path
import click
from streamdac.frontend import Frontend, LazyCommand

RATE = 16_000

class Clicks:
    sample_rate, channels, samples = RATE, 2, 8_000

    def __init__(self, level):
        self.level, self.at = level, 0

    def read(self, samples):
        import numpy as np
        block = np.zeros((min(samples, self.samples - self.at), 2), np.float32)
        block[-self.at % 1600 :: 1600] = self.level
        self.at += len(block)
        return block if len(block) else None

    def close(self):
        Path("closed").touch()

class Count:
    def __init__(self):
        self.samples = 0
    def write(self, block):
        self.samples += len(block)
    def close(self, *, complete=True):
        Path("counted").write_text(f"{self.samples} {complete}")

@click.command()
@click.argument("text")
def shout(text):
    """Say it louder."""
    click.echo(text.upper())

frontend = Frontend(
    commands={"shout": shout, "lazy": LazyCommand("broken:frontend", "Fails when it is called."), "encode": shout},
    open_source=lambda rest, *, sample_rate=None, channels=None: Clicks(float(rest or 1)),
    open_sink=lambda rest, *, sample_rate, channels, force=False: Count(),
)
'''


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the outsider's distribution."""
    source, site = tmp_path_factory.mktemp("chirp"), tmp_path_factory.mktemp("site")
    (source / "setup.py").write_text(SETUP)
    (source / "chirp.py").write_text(CHIRP)
    (source / "broken.py").write_text("raise RuntimeError('out of\\nluck')\n")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*install, "--target", site, source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return site


def streamdac(site: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "streamdac", *map(str, words)]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


def test_its_command_appears_and_runs_and_what_is_broken_is_named(site: Path, tmp_path: Path) -> None:
    shown = streamdac(site, tmp_path, "--help")
    assert shown.returncode == 0
    assert "shout       Say it louder." in shown.stdout
    assert "lazy        Fails when it is called." in shown.stdout
    said = shown.stderr.splitlines()
    assert len(said) == len(set(said)) == 5
    assert "streamdac: frontend 'shaky' cannot be loaded: out of luck (entry point broken:frontend)" in said
    assert "streamdac: frontend 'absent' needs no_such_module (entry point no_such_module:frontend)" in said
    assert "streamdac: frontend 'nothing' is a int, need a streamdac.frontend.Frontend" in said
    assert "streamdac: frontend 'tone' is built in: chirp:frontend is left out" in said
    assert any("offers a second command 'encode'" in line for line in said)

    run = streamdac(site, tmp_path, "shout", "hello")
    assert (run.returncode, run.stdout) == (0, "HELLO\n")
    lazy = streamdac(site, tmp_path, "lazy")
    assert lazy.returncode == 69
    assert lazy.stderr.splitlines()[-1] == "streamdac: command broken:frontend cannot be loaded: out of luck"


def test_its_source_and_sink_serve_the_commands_of_others(site: Path, tmp_path: Path, weights: Path, run: Run) -> None:
    coded = streamdac(site, tmp_path, "encode", "chirp:0.5", "tone:440,0.1", "-o", "coded", "--model", weights)
    assert coded.returncode == 0, coded.stderr
    assert (tmp_path / "closed").exists()
    # The built-in tone answers, not the outsider's, which is at another rate.
    found = {name: json.loads(run("info", tmp_path / f"coded/{name}.sdac", "--json").out) for name in ("chirp", "tone")}
    assert [found["chirp"][key] for key in ("source_rate", "channels", "source_samples")] == [16_000, 2, 8_000]
    assert [found["tone"][key] for key in ("source_rate", "channels", "source_samples")] == [RATE, 1, RATE // 10]

    played = streamdac(site, tmp_path, "decode", "coded/chirp.sdac", "-o", "chirp:", "--model", weights)
    assert played.returncode == 0, played.stderr
    assert (tmp_path / "counted").read_text() == "8000 True"
