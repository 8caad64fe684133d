"""The process that talks to the devices: what it opens and imports, and what is left where it does not come about."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from streamdac.errors import UnavailableError
from streamdac.frontends import device_stream
from streamdac.frontends.device_config import Plan, memory_bytes
from streamdac.frontends.device_process import open_streams


def test_a_device_runs_at_a_rate_that_both_its_ends_take() -> None:
    """And at its own where one end does not."""
    opened = []
    for refused in ((), ("input",), ("output",)):
        opened.append(open_streams(fake_portaudio(*refused), Plan("", "", 24_000, 1, ""), shared(1))[1])
    assert [(found.input_rate, found.output_rate) for found in opened] == [(24_000,) * 2, (48_000,) * 2, (48_000,) * 2]
    assert all(found.one_clock and found.output_api == "ALSA" for found in opened)


def shared(channels: int) -> mmap.mmap:
    return mmap.mmap(-1, memory_bytes(channels))


def fake_portaudio(*refused: str) -> SimpleNamespace:
    """A library with one card, some of whose ends refuse all rates but its own."""

    def check(end: str) -> Callable[..., None]:
        def check(**settings: object) -> None:
            if end in refused:
                raise ValueError("Invalid sample rate")

        return check

    row = {
        "name": "card",
        "hostapi": 0,
        "max_input_channels": 1,
        "max_output_channels": 1,
        "default_samplerate": 48_000.0,
    }
    return SimpleNamespace(
        query_hostapis=lambda: [{"name": "ALSA", "default_input_device": 0, "default_output_device": 0}],
        query_devices=lambda: [row | {"default_low_input_latency": 0.01, "default_low_output_latency": 0.01}],
        default=SimpleNamespace(device=(0, 0)),
        check_input_settings=check("input"),
        check_output_settings=check("output"),
        Stream=lambda samplerate, **settings: SimpleNamespace(samplerate=samplerate, latency=(0.01, 0.01)),
    )


def test_the_device_process_imports_nothing_out_of_the_current_folder(tmp_path: Path) -> None:
    """Also where Python knows no PYTHONSAFEPATH."""
    for name in ("runpy", "json", "mmap"):
        (tmp_path / f"{name}.py").write_text("import os; open('caught', 'w').close(); os._exit(9)")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-c", device_stream._PROGRAM, "list"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=False)
    assert json.loads(done.stdout.splitlines()[-1])["event"] in ("devices", "failed")
    assert not (tmp_path / "caught").exists()


def no_room(*arguments: object, **options: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("module", "name", "message"), [(mmap, "mmap", "no memory to share"), (subprocess, "Popen", "cannot be started")]
)
def test_a_device_process_that_does_not_come_about_leaves_no_memory_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, message: str
) -> None:
    """And is an error that `live` knows as one that may pass."""
    monkeypatch.setattr(device_stream, "_shared_folder", lambda: str(tmp_path))
    monkeypatch.setattr(module, name, no_room)
    with pytest.raises(UnavailableError, match=f"{message}.*: No space left"):
        device_stream.DeviceStream(Plan("", "", 24_000, 1, ""))
    assert not list(tmp_path.iterdir())
