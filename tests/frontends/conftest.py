from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from streamdac import cli
from streamdac.codec import Codec

from . import models

SPEECH = Path(__file__).parent.parent / "data" / "speech.flac"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's file."""
    return models.save(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="session")
def codec(weights: Path) -> Codec:
    return models.load(weights)


@pytest.fixture(scope="session")
def speech() -> npt.NDArray[np.float32]:
    """The first 2 s and a bit of the test recording `[T]`, 24 kHz."""
    audio: npt.NDArray[np.float32] = soundfile.read(SPEECH, dtype="float32", frames=48_111, start=24_000)[0]
    return audio


@dataclass(frozen=True)
class Result:
    code: int
    out: bytes
    err: str

    def ok(self) -> Result:
        """Itself, once it is clear that nothing went wrong."""
        assert (self.code, self.err) == (0, "")
        return self


Run = Callable[..., Result]


@pytest.fixture
def run(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one command in this process, between real pipes; commands that take a model get the tiny one."""

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        words = [str(argument) for argument in arguments]
        if words[0] in ("encode", "decode", "live") and "--model" not in words:
            words += ["--model", str(weights)]
        return _between_pipes(words, stdin, monkeypatch)

    return run


def _between_pipes(words: list[str], stdin: bytes, monkeypatch: pytest.MonkeyPatch) -> Result:
    out, err = io.BytesIO(), io.StringIO()
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()

    def feed() -> None:
        try:
            for start in range(0, len(stdin), 1 << 16):
                os.write(in_write, stdin[start : start + (1 << 16)])
        except BrokenPipeError:
            pass  # the command read no further
        finally:
            os.close(in_write)

    def drain() -> None:
        with open(out_read, "rb") as pipe:
            out.write(pipe.read())

    threads = [threading.Thread(target=work, daemon=True) for work in (feed, drain)]
    with open(in_read) as given, open(out_write, "w") as taken, monkeypatch.context() as patch:
        for name, stream in (("stdin", given), ("stdout", taken), ("stderr", err)):
            patch.setattr(sys, name, stream)
        for thread in threads:
            thread.start()
        code = cli.main(words)
    for thread in threads:
        thread.join()
    return Result(code, out.getvalue(), err.getvalue())
