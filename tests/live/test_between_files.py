"""`live` with files in place of devices."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import streamdac
from streamdac import cli
from streamdac.codec import Codec
from streamdac.frontends.loopback import Loop
from streamdac.frontends.null import NullSink, Silence
from streamdac.frontends.tone import Tone
from tests.golden.cases import SETS

RATE, HOP = 24_000, 320


def write(path: Path, rate: int, samples: int, channels: int = 1) -> np.ndarray:
    time = np.arange(samples)[:, None] / rate
    audio = (0.3 * np.sin(2 * np.pi * np.array([[440.0, 700.0]])[:, :channels] * time)).astype(np.float32)
    soundfile.write(path, audio, rate, subtype="FLOAT")
    return audio


def live(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["live", "--json", *map(str, arguments)]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.fixture(autouse=True)
def model(monkeypatch: pytest.MonkeyPatch, model_file: Path) -> None:
    monkeypatch.setenv("STREAMDAC_MODEL", str(model_file))


def test_it_is_the_offline_codec_hop_by_hop(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    audio = write(tmp_path / "in.wav", RATE, 5000)
    report = live(capsys, "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--no-pace", "-n", 2)
    out = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    codec = streamdac.load()
    wanted = codec.decode(codec.encode(audio[:, 0], n_codebooks=2))[0, 0][:5000]
    assert len(out) == 5000
    assert np.abs(out - wanted.clip(-1, 1)).max() < 2**-15  # 16 bits in the file
    assert (report["hops"], report["codebooks"], report["kbps"]) == (16, 2, 1.5)
    assert report["late_hops"] is report["total_p50_ms"] is None
    assert report["resampling_ms"] == 0


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1), (8_000, 1)])
def test_any_rate_and_channels_come_back_as_they_went(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rate: int, channels: int
) -> None:
    write(tmp_path / "in.wav", rate, 4321, channels)
    report = live(capsys, "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--no-pace")
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.frames) == (rate, channels, 4321)
    assert 0 < report["resampling_ms"] < 9


def test_paced_it_measures_and_is_in_time(capsys: pytest.CaptureFixture[str]) -> None:
    report = live(capsys, "-i", "tone:440,0.5")
    assert report["seconds"] == 0.5
    assert report["total_p50_ms"] >= 1000 * HOP / RATE
    assert report["late_hops"] >= 0


def test_codes_are_recorded_as_they_were_sent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "in.wav", RATE, 9999)
    live(
        capsys,
        "-i",
        tmp_path / "in.wav",
        "-o",
        tmp_path / "out.wav",
        "--no-pace",
        "--record-codes",
        tmp_path / "a.sdac",
    )
    assert cli.main(["decode", str(tmp_path / "a.sdac"), "-o", str(tmp_path / "decoded.wav"), "-q"]) == 0
    out, decoded = (soundfile.read(tmp_path / name, dtype="int16")[0] for name in ("out.wav", "decoded.wav"))
    assert np.array_equal(out, decoded)


def test_lost_packets_are_made_up_for_and_the_length_stays(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "in.wav", RATE, 40_000)
    for name, loss in (("clean.wav", "0%"), ("lossy.wav", "20%")):
        live(capsys, "-i", tmp_path / "in.wav", "-o", tmp_path / name, "--no-pace", "--loss", loss)
    clean, lossy = (soundfile.read(tmp_path / name)[0] for name in ("clean.wav", "lossy.wav"))
    assert len(clean) == len(lossy) == 40_000
    assert not np.array_equal(clean, lossy)


def test_seconds_end_it_early(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    report = live(capsys, "-i", "tone:440", "-o", tmp_path / "out.wav", "--no-pace", "--seconds", 0.5)
    assert report["seconds"] == pytest.approx(0.5, abs=HOP / RATE)
    assert soundfile.info(tmp_path / "out.wav").frames == round(report["seconds"] * RATE)


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "a.sdac").write_bytes(b"precious")
    code = cli.main(["live", "-i", "tone:440,1", "--no-pace", "--record-codes", str(tmp_path / "a.sdac")])
    assert code == 74
    assert (tmp_path / "a.sdac").read_bytes() == b"precious"


def test_a_file_without_audio_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write(tmp_path / "in.wav", RATE, 0)
    code = cli.main(["live", "-i", str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--no-pace"])
    assert (code, capsys.readouterr().err) == (65, f"streamdac: {tmp_path / 'in.wav'} gave no audio\n")
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2_000_000_000])
def test_a_rate_that_nobody_records_at_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, rate: int
) -> None:
    write(tmp_path / "in.wav", RATE, 100)
    data = bytearray((tmp_path / "in.wav").read_bytes())
    data[24:28] = struct.pack("<I", rate)
    (tmp_path / "in.wav").write_bytes(data)
    code = cli.main(["live", "-i", str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--no-pace"])
    err = capsys.readouterr().err
    assert (code, err) == (65, f"streamdac: {tmp_path / 'in.wav'} has {rate} Hz, need 1000 to 768000 Hz\n")
    assert not (tmp_path / "out.wav").exists()


def test_what_is_shorter_than_the_look_ahead_comes_back_whole(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write(tmp_path / "in.wav", RATE, 300)
    report = live(
        capsys, "-i", tmp_path / "in.wav", "-o", tmp_path / "out.wav", "--no-pace", "--model", SETS[0].weights("m24")
    )
    assert soundfile.info(tmp_path / "out.wav").frames == 300
    assert report["realtime_factor"] is None


class Interrupted(Tone):
    """Ctrl-C in the first hop."""

    def read(self, samples: int) -> np.ndarray | None:
        if self._at:
            raise KeyboardInterrupt
        return super().read(100)


def test_an_interrupt_in_the_first_hop_is_an_end_with_a_report(codec: Codec) -> None:
    loop = Loop(codec, Interrupted(440.0, 1.0, RATE, 1), NullSink())
    loop.run()
    report = loop.report()
    assert report.realtime_factor is None
    assert "speed        not measured" in report.lines()


def test_figures_that_are_not_finite_are_none(codec: Codec) -> None:
    """JSON has no infinity."""
    loop = Loop(codec, Silence(0.1, RATE, 1), NullSink(), pace=False)
    loop.run()
    assert not loop.heard().any()
    assert loop.played().any()
    json.dumps(asdict(loop.report()), allow_nan=False)


def test_a_report_that_fails_costs_no_audio(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Loop, "report", lambda loop: 1 / 0)
    write(tmp_path / "in.wav", RATE, 1_000)
    assert cli.main(["live", "-i", str(tmp_path / "in.wav"), "-o", str(tmp_path / "out.wav"), "--no-pace"]) == 1
    assert soundfile.info(tmp_path / "out.wav").frames == 1_000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-i", "tone:440,1", "-o", "null:", "--gain", "12"], "--gain is for microphone and loudspeaker"),
        (["-i", "tone:440,1", "-o", "x.wav", "--measure-latency"], "--measure-latency take a microphone"),
        (["--mic", "-o", "x.wav", "--channels", "2"], "--channels is for microphone and loudspeaker"),
        (["--measure-latency", "-o", "x.wav"], "--measure-latency is for microphone and loudspeaker"),
        (["--mic", "--no-pace"], "--pace/--no-pace is for files"),
        (["--measure-latency", "--seconds", "3"], "--seconds is for talk, not for --measure-latency"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.main(["live", *words]) == 2
    assert message in capsys.readouterr().err
