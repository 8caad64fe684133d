"""Choosing devices, and every failure as its one line with the right exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamdac import cli, frontend
from streamdac.errors import UnavailableError, UsageError
from streamdac.frontends.device_config import DeviceInfo
from streamdac.frontends.device_names import choose
from streamdac.frontends.device_stream import list_devices

from .jack import Jack


def device(
    index: int, name: str, inputs: int = 1, outputs: int = 1, *, api: str = "ALSA", default: bool = False
) -> DeviceInfo:
    return DeviceInfo(index, name, api, inputs, outputs, 48_000, 10, 10, default, default)


ROWS = [
    device(0, "USB Headset"),
    device(1, "USB Camera", outputs=0),
    device(2, "Built-in", default=True),
    device(3, "HDMI", inputs=0),
    device(4, "HDMI 2", inputs=0, api="JACK"),
    device(5, "Twin", outputs=0),
    device(6, "Twin", outputs=0, api="JACK"),
    device(7, "Siamese Twin", outputs=0),
]


@pytest.mark.parametrize(
    ("wanted", "direction", "index"),
    [
        ("", "input", 2),
        ("1", "input", 1),
        ("camera", "input", 1),
        ("HDMI", "output", 3),
        ("jack", "output", 4),
        ("Twin, ALSA", "input", 5),
        ("Twin, JACK", "input", 6),
    ],
)
def test_a_device_is_named_by_number_or_part_of_its_name(wanted: str, direction: str, index: int) -> None:
    assert choose(ROWS, wanted, direction).index == index


def test_a_name_that_fits_two_or_none_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="fits 2 input devices: 0 'USB Headset' of ALSA, 1 'USB Camera'"):
        choose(ROWS, "usb", "input")
    with pytest.raises(UnavailableError, match="no output device 'camera'; there are 0 'USB Headset'"):
        choose(ROWS, "camera", "output")
    with pytest.raises(UnavailableError, match="no output device '1'"):
        choose(ROWS, "1", "output")
    with pytest.raises(UnavailableError, match="no input device: plug one in"):
        choose([ROWS[3]], "", "input")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> None:
    monkeypatch.setenv("STREAMDAC_MODEL", str(model_file))


def fake_sounddevice(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Another `sounddevice` for the device process."""
    (folder / "sounddevice.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


BUSY = """
class PortAudioError(Exception):
    pass
class default:
    device = 0, 0
def query_hostapis():
    return [{"name": "ALSA", "default_input_device": 0, "default_output_device": 0}]
def query_devices():
    row = {"name": "card", "hostapi": 0, "max_input_channels": 1, "max_output_channels": 1, "default_samplerate": 48000.0}
    return [row | {"default_low_input_latency": 0.01, "default_low_output_latency": 0.01}]
def check_input_settings(**settings):
    pass
check_output_settings = check_input_settings
def Stream(**settings):
    raise PortAudioError("Error opening Stream: Device unavailable [PaErrorCode -9985]")
def _terminate():
    pass
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "raise OSError('PortAudio library not found')",
            "the PortAudio library is missing: apt-get install libportaudio2",
        ),
        ("raise ModuleNotFoundError(name='sounddevice')", "needs sounddevice: pip install 'streamdac[live]'"),
        ("import os; os.abort()", "the device process ended before it was ready"),
        (BUSY, "Device unavailable [PaErrorCode -9985]; is another program using it?"),
    ],
    ids=["no library", "no module", "abort", "busy"],
)
def test_each_trouble_with_portaudio_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: None,
    text: str,
    message: str,
) -> None:
    fake_sounddevice(tmp_path, monkeypatch, text)
    code, out, err = run(capsys, "live", "--mic")
    assert (code, out) == (69, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_machine_without_devices_says_so(capsys: pytest.CaptureFixture[str], model: None, no_server: None) -> None:
    if list_devices():
        pytest.skip("this machine has a sound device")
    for arguments in (["devices"], ["live", "--mic"], ["live", "-i", "mic:", "-o", "null:"]):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (69, "")
        assert "plug one in" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "need --mic, or --input"),
        (["--mic", "-i", "speech.wav"], "not --input speech.wav"),
        (["--mic", "-n", "5"], "--codebooks is 5, the model has 1 to 4"),
        (["--mic", "--loss", "100%"], "100% is out of range"),
        (["--mic", "--loss", "much"], "'much' is no percentage"),
        (["--mic", "--latency", "soon"], "need low, high or milliseconds"),
        (["--mic", "--plot", "a.png"], "--plot is for files"),
    ],
)
def test_wrong_options_are_refused_with_the_numbers(
    capsys: pytest.CaptureFixture[str], model: None, arguments: list[str], message: str
) -> None:
    code, _, err = run(capsys, "live", *arguments)
    assert code == 2
    assert message in err


def test_devices_are_listed_for_people_and_programs(
    jack: Callable[..., Jack], capsys: pytest.CaptureFixture[str]
) -> None:
    jack(rate=48_000)
    code, out, _ = run(capsys, "devices")
    assert code == 0
    assert out.startswith("><")
    code, out, _ = run(capsys, "devices", "--json")
    row = next(json.loads(line) for line in out.splitlines() if "JACK" in line)
    assert (row["name"], row["inputs"], row["outputs"], row["rate"]) == ("system", 1, 2, 48_000)


def test_live_runs_from_the_command_line(
    jack: Callable[..., Jack], capsys: pytest.CaptureFixture[str], model: None, tmp_path: Path
) -> None:
    jack()
    record = tmp_path / "codes.sdac"
    code, out, err = run(
        capsys,
        "live",
        "--mic",
        "--seconds",
        "2.5",
        "--json",
        "--loss",
        "20%",
        "--record-codes",
        str(record),
        "--margin",
        "60",
    )
    assert (code, err) == (0, "")
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) >= 2
    assert rows[-1]["final"] is True
    assert rows[-1]["frames"] > 75
    assert 0 < rows[-1]["lost_frames"] < rows[-1]["frames"] / 2
    assert sum(rows[-1]["latency"].values()) == pytest.approx(rows[-1]["total_ms"], abs=0.01)
    code, out, _ = run(capsys, "info", str(record), "--json")
    assert json.loads(out)["frames"] == rows[-1]["frames"]
    code, out, _ = run(capsys, "live", "--mic", "--seconds", "0.5", "--record-codes", str(record))
    assert code == 74


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_it_with_a_report(jack: Callable[..., Jack], model_file: Path, number: signal.Signals) -> None:
    server = jack()
    command = [sys.executable, "-m", "streamdac", "live", "--mic", "--model", str(model_file)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_port(server)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert b"trouble" in out


def wait_for_port(server: Jack, name: str = "PortAudio:out") -> None:
    end = time.monotonic() + 60
    while not any(port.startswith(name) for port in server.ports()):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_latency_is_measured_from_the_command_line(
    jack: Callable[..., Jack], capsys: pytest.CaptureFixture[str], model: None
) -> None:
    server = jack()

    def patch() -> None:
        wait_for_port(server)
        server.connect("PortAudio:out_0", "PortAudio:in_0")

    cable = threading.Thread(target=patch)
    cable.start()
    code, out, _ = run(capsys, "live", "--measure-latency", "--margin", "80", "--json")
    cable.join()
    assert code == 0
    row = json.loads(out)
    assert row["found"] >= 6
    # JACK's cable takes one period.
    assert row["unexplained_ms"] == pytest.approx(1000 * server.period / server.rate, abs=5)


def test_microphone_and_loudspeaker_are_a_source_and_a_sink(jack: Callable[..., Jack]) -> None:
    jack(rate=48_000)
    source = frontend.open_source("mic:", sample_rate=24_000)
    try:
        blocks = [source.read(320) for _ in range(30)]
    finally:
        source.close()
    assert source.sample_rate == 24_000
    assert sum(len(block) for block in blocks if block is not None) == pytest.approx(9600, abs=100)
    sink = frontend.open_sink("speaker:", sample_rate=24_000, channels=2)
    for _ in range(20):
        sink.write(np.zeros((320, 2), np.float32))
    sink.close()
    with pytest.raises(UsageError, match="'system' has 1 input channel, need 2"):
        frontend.open_source("mic:", channels=2)


def test_a_microphone_that_goes_away_is_one_line(jack: Callable[..., Jack]) -> None:
    server = jack()
    source = frontend.open_source("mic:", sample_rate=24_000)
    try:
        assert source.read(320) is not None
        server.kill()
        with pytest.raises(UnavailableError, match="the microphone is gone"):
            all(source.read(320) is not None for _ in range(10_000))
    finally:
        source.close()


def test_a_block_of_any_length_is_played_whole(jack: Callable[..., Jack]) -> None:
    jack(rate=48_000)
    sink = frontend.open_sink("speaker:", sample_rate=24_000, channels=1)
    sink.write(np.zeros((40_960, 1), np.float32))
    sink.close()
    ring = sink._ring  # type: ignore[attr-defined]
    assert 2 * 40_960 <= ring.written < 2 * 40_960 + 100
    assert (ring.counts.overruns, ring.counts.dropped, ring.level) == (0, 0, 0)


def test_a_microphone_gives_what_it_can_of_any_wish(jack: Callable[..., Jack]) -> None:
    jack(rate=48_000)
    source = frontend.open_source("mic:", sample_rate=48_000)
    given: list[int] = []

    def read() -> None:
        block = source.read(65_536)
        given.append(0 if block is None else len(block))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    source.close()
    reader.join(20)
    assert len(given) == 1
    assert 0 < given[0] <= 65_536


def test_a_microphone_gives_no_more_than_is_asked_for(jack: Callable[..., Jack]) -> None:
    jack(rate=16_000)
    source = frontend.open_source("mic:", sample_rate=24_000)
    try:
        for samples in (320, 1, 320, 1, 7) * 8:
            block = source.read(samples)
            assert block is not None
            assert 1 <= len(block) <= samples
    finally:
        source.close()


def kept(path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> int:
    """Samples of a recording that decodes without a flaw."""
    audio = path.with_suffix(".wav")
    if path != audio:
        assert run(capsys, "decode", str(path), "-o", str(audio), "--model", str(model)) == (0, "", "")
    frames: int = soundfile.info(audio).frames
    return frames


@pytest.mark.parametrize("name", ["talk.sdac", "talk.dac"])
def test_an_interrupt_ends_a_recording_which_is_kept(
    jack: Callable[..., Jack],
    capsys: pytest.CaptureFixture[str],
    model: None,
    model_file: Path,
    tmp_path: Path,
    name: str,
) -> None:
    server = jack()
    command = [sys.executable, "-m", "streamdac", "encode", "mic:", "-o", str(tmp_path / name)]
    process = subprocess.Popen([*command, "--model", str(model_file)], stderr=subprocess.PIPE)
    wait_for_port(server, "PortAudio:in")
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")
    assert kept(tmp_path / name, model_file, capsys) >= 12_000


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["encode", "mic:", "-o"], "talk.sdac"),
        (["encode", "mic:", "-o"], "talk.dac"),
        (["live", "-i", "mic:", "-o"], "talk.wav"),
        (["live", "--mic", "--no-reconnect", "--record-codes"], "talk.sdac"),
    ],
)
def test_a_recording_whose_device_is_lost_is_kept_and_the_error_said(
    jack: Callable[..., Jack],
    capsys: pytest.CaptureFixture[str],
    model: None,
    model_file: Path,
    tmp_path: Path,
    arguments: list[str],
    name: str,
) -> None:
    server = jack()

    def unplug() -> None:
        wait_for_port(server, "PortAudio:in")
        time.sleep(1.5)
        server.kill()

    unplugging = threading.Thread(target=unplug)
    unplugging.start()
    code, out, err = run(capsys, *arguments, str(tmp_path / name), "--model", str(model_file))
    unplugging.join()
    assert (code, out) == (69, "")
    assert " is gone: " in err.splitlines()[-1]
    assert kept(tmp_path / name, model_file, capsys) > 0


def test_files_and_devices_may_be_mixed(
    jack: Callable[..., Jack], capsys: pytest.CaptureFixture[str], model: None, tmp_path: Path
) -> None:
    jack()
    target = tmp_path / "out.wav"
    code, out, _ = run(capsys, "live", "-i", "mic:", "-o", str(target), "--seconds", "1")
    assert code == 0
    assert "lateness not measured" in out
    assert soundfile.info(target).frames == 24_000
    code, out, _ = run(capsys, "live", "-i", "tone:440,0.5", "-o", "speaker:", "--json")
    assert code == 0
    assert json.loads(out)["seconds"] == 0.5
