"""`streamdac netsim`: its table, its options, its audio; redundancy helps what is heard."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from streamdac import cli
from streamdac.frontends import heard
from streamdac.nn import DAC
from streamdac.nn.network import randomize
from streamdac.protocols.jitter import Kind
from streamdac.protocols.netsim import Network
from streamdac.protocols.receiver import Playable
from streamdac.protocols.simulate import Outcome, Setup, simulate
from streamdac.weights import Weights, save_weights

from ..core import models as geometries
from ..frontends import models

SPEECH = Path(__file__).parent.parent / "data" / "speech.flac"
RATE, HOP = models.RATE, models.HOP
PESQ = importlib.util.find_spec("pesq") is not None


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A random model whose codebooks, as a trained model's do, say less and less."""
    network = DAC(models.CONFIG)
    randomize(network, 0)
    state = network.state_dict()
    for name in state:
        if "out_proj" in name and not name.endswith("weight_v"):
            state[name] *= 0.3 ** int(name.split(".")[2])
    path = tmp_path_factory.mktemp("model") / "graded.safetensors"
    save_weights(path, Weights(models.CONFIG, state, {"name": "graded"}))
    return path


@pytest.fixture
def rows(weights, capsys) -> Callable[..., list[dict[str, Any]]]:
    """Runs the command with --json: the rows as objects."""

    def run(*options: object, source: object = SPEECH) -> list[dict[str, Any]]:
        words = ["netsim", str(source), "--model", str(weights), "--json", *map(str, options)]
        code = cli.main(words)
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return run


def test_redundancy_helps_what_is_heard(rows) -> None:
    table = rows("--loss", "2,5,10,20", "--redundancy", "0,2x2", "--seconds", 7)
    for plain, helped in zip(table[::2], table[1::2], strict=True):
        assert (plain["redundancy"], helped["redundancy"]) == ("0", "2x2")
        assert plain["loss"] == helped["loss"]
        assert plain["lost"] == helped["lost"] > 0
        assert helped["concealed"] < plain["concealed"] / 3
        assert helped["si_sdr_db"] > plain["si_sdr_db"] + 6
        assert not PESQ or helped["pesq"] > plain["pesq"]
        assert plain["kbps"] < helped["kbps"] < 1.5 * plain["kbps"]


def test_quality_falls_with_the_loss(rows) -> None:
    quality = [row["si_sdr_db"] for row in rows("--loss", "1,5,20,50", "--redundancy", 0, "--runs", 2)]
    assert quality == sorted(quality, reverse=True)


def test_without_loss_what_is_played_is_what_clean_transport_plays(rows) -> None:
    (row,) = rows("--loss", 0, "--redundancy", 0, "--seconds", 2)
    assert row["exact"]
    assert row["si_sdr_db"] is None
    assert row["pesq"] == (pytest.approx(4.64, abs=0.01) if PESQ else None)
    assert [row[key] for key in ("lost", "recovered", "concealed", "skipped", "added")] == [0] * 5
    assert row["frames"] == 2 * RATE // HOP
    assert 30 < row["delay_ms"] < 80


def test_what_was_hardly_played_at_all_is_not_exact(rows) -> None:
    """Over a link too slow for it: the few frames that came are as they were sent, and the others are missing."""
    (row,) = rows("--loss", 0, "--redundancy", 0, "--seconds", 1, "--bandwidth", 0.1)
    assert row["skipped"] > 70
    assert (row["exact"], row["si_sdr_db"]) == (False, None)


def test_all_codebooks_as_redundancy_bring_everything_back(rows) -> None:
    (row,) = rows("--loss", 2, "--redundancy", "4x4", "--seconds", 3)
    assert row["lost"] >= row["recovered"] > 0  # the End may be among the lost
    assert row["concealed"] == 0
    assert row["exact"]


def test_the_model_says_how_many_codebooks_are_worth_repeating(rows, tmp_path) -> None:
    path = tmp_path / "predicted.safetensors"
    network = geometries.network("causal-predicted")
    save_weights(path, Weights(network.config, network.state_dict(), {"name": "predicted"}))
    options = "--loss", 5, "--redundancy", "0,3,3x1", "--seconds", 1
    assert [row["redundancy"] for row in rows(*options)] == ["0", "3x1", "3x1"]
    assert [row["redundancy"] for row in rows(*options, "--model", path)] == ["0", "3x2", "3x1"]
    assert [row["redundancy"] for row in rows(*options, "--model", path, "-n", 1)] == ["0", "3x1", "3x1"]


def test_the_seed_decides_everything_and_runs_go_on_from_it(rows) -> None:
    options = "--loss", 10, "--redundancy", 0, "--seconds", 2, "--jitter", 10
    first, second = rows(*options, "--seed", 3), rows(*options, "--seed", 4)
    assert rows(*options, "--seed", 3) == first != second
    (both,) = rows(*options, "--seed", 3, "--runs", 2)
    assert both["lost"] == first[0]["lost"] + second[0]["lost"]
    assert both["frames"] == 2 * first[0]["frames"]
    assert first[0]["si_sdr_db"] != both["si_sdr_db"]


def test_every_row_accounts_for_every_frame(rows) -> None:
    table = rows(
        "--loss", "0,5,30", "--redundancy", "0,6x2", "--burst", 6, "--delay", 80, "--jitter", 20, "--reorder", 10,
        "--reorder-delay", 50, "--duplicate", 5, "--bandwidth", 60, "--queue", 200, "--stall-every", 2, "--stall", 200,
        "--drift", 500, "--frames-per-packet", 2, "--max-delay", 400, "-n", 3, "--adaptive", "--seconds", 7,
    )  # fmt: skip
    assert [(row["loss"], row["redundancy"]) for row in table] == [(a, b) for a in (0, 5, 30) for b in ("0", "6x2")]
    for row in table:
        assert row["frames"] == 7 * RATE // HOP
        assert row["recovered"] + row["concealed"] + row["skipped"] <= row["frames"]
        assert row["codebooks"] <= 3
        assert row["delay_ms"] > 80
        assert math.isfinite(row["si_sdr_db"])


def test_a_drift_that_is_not_corrected_adds_hops(rows) -> None:
    options = "--loss", 0, "--redundancy", 0, "--drift", -8000, "--seconds", 20, "--max-delay", 20
    (left,) = rows(*options, "--no-correct-drift", source="tone:440,40")
    (right,) = rows(*options, source="tone:440,40")
    assert left["added"] > right["added"]


def test_an_ordered_network_loses_nothing(rows) -> None:
    (row,) = rows("--loss", 0, "--redundancy", 0, "--jitter", 20, "--ordered", "--seconds", 3)
    assert row["lost"] == 0


def test_the_table_for_people_has_a_line_for_each_row(weights, capsys) -> None:
    words = ["netsim", str(SPEECH), "--model", str(weights), "--loss", "0,99", "--redundancy", "0", "--seconds", "1"]
    assert cli.main(words) == 0
    head, first, last = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "loss %"
    assert "SI-SDR dB" in head
    assert "exact" in first
    assert last.split()[:2] == ["99", "0"]
    assert len({len(line) for line in (head, first, last)}) == 1


def test_what_is_played_can_be_listened_to(rows, weights, tmp_path) -> None:
    out = tmp_path / "played.wav"
    rows("--loss", 0, "--redundancy", 0, "--seconds", 2, "-o", out)
    audio, rate = soundfile.read(out, dtype="float32")
    clean = models.load(weights).decode(
        models.load(weights).encode(soundfile.read(SPEECH, dtype="float32")[0][: 2 * RATE])
    )
    assert rate == RATE
    assert audio == pytest.approx(np.clip(clean[0, 0], -1, 1), abs=2e-4)
    rows("--loss", 20, "--redundancy", 0, "--burst", 15, "--seconds", 2, "-o", out, "-f")
    lossy, _ = soundfile.read(out, dtype="float32")
    assert np.isfinite(lossy).all()
    assert not np.array_equal(lossy[: len(audio)], audio[: len(lossy)])


def test_audio_on_stdout_leaves_the_table_to_stderr(weights, capfd) -> None:
    words = ["netsim", str(SPEECH), "--model", str(weights), "--seconds", "1"]
    assert cli.main([*words, "--loss", "5", "--redundancy", "0", "-o", "-"]) == 0
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert "SI-SDR dB" in err
    assert "SI-SDR" not in out


def test_channels_are_sent_together(rows, tmp_path) -> None:
    mono = soundfile.read(SPEECH, dtype="float32", frames=2 * RATE)[0]
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([mono, mono[::-1]], axis=1), RATE)
    (row,) = rows("--loss", 0, "--redundancy", 0, source=path)
    (alone,) = rows("--loss", 0, "--redundancy", 0, "--seconds", 2)
    assert row["exact"]
    assert row["frames"] == alone["frames"]
    assert row["kbps"] > alone["kbps"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--loss", "1,x"], 2, "'x' in '1,x' is no share in %"),
        (["--loss", "100"], 2, "got loss, reorder, duplicate of"),
        (["--redundancy", "2x"], 2, "'2x' in '2x' is no FRAMES[xCODEBOOKS]"),
        (["--redundancy", "65x1"], 2, "got redundancy 65x1, need at most 64x64"),
        (["-o", "x.wav"], 2, "--output takes one row, got 6 losses, 2 redundancies, 1 runs"),
        (["--burst", "nan"], 2, "nan is not a finite number"),
        (["--seconds", "0"], 2, "--seconds"),
        (["-n", "5"], 2, "5"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(options, code, message, weights, capsys) -> None:
    assert cli.main(["netsim", str(SPEECH), "--model", str(weights), *options]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_source_that_is_missing_or_empty_is_named(weights, capsys, tmp_path) -> None:
    assert cli.main(["netsim", "nowhere.wav", "--model", str(weights)]) == 66
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    assert cli.main(["netsim", str(tmp_path / "empty.wav"), "--model", str(weights)]) == 65
    assert f"{tmp_path / 'empty.wav'} gave no audio" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("there.wav", 74, "there.wav is there already (-f overwrites)"),
        ("x.txt", 2, "no format for suffix '.txt'"),
        ("there.wav/x.wav", 74, "there.wav is not a folder"),
        ("tone:", 2, "tone: takes no audio"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_simulated(
    name, code, message, weights, capsys, tmp_path, monkeypatch
) -> None:
    (tmp_path / "there.wav").touch()
    monkeypatch.setattr(heard, "prepare", None)
    words = ["netsim", str(SPEECH), "--model", str(weights), "--loss", "5", "--redundancy", "0"]
    output = name if name.endswith(":") else str(tmp_path / name)
    assert cli.main([*words, "-o", output]) == code
    assert message in capsys.readouterr().err


def material(kind="causal", seconds=0.2) -> heard.Material:
    codec = geometries.codec(kind)
    return heard.prepare(codec, f"tone:440,{seconds}", n_codebooks=None, seconds=seconds)


@pytest.mark.parametrize("kind", geometries.GEOMETRIES)
def test_every_kind_of_model_is_played_exactly_over_a_good_network(kind) -> None:
    made = material(kind)
    outcome = simulate(made.codes, made.layout, Network(), setup=Setup(frame_seconds=made.frame_seconds))
    sent, got = heard.paired(made, outcome, heard.played(made, outcome))
    assert np.array_equal(sent, got)
    assert np.array_equal(sent, made.clean)
    whole = made.codec.decode(made.codes.transpose(1, 0, 2))[0, 0]
    assert made.clean[: len(whole), 0] == pytest.approx(whole, abs=1e-4)


def test_frames_of_fewer_codebooks_are_decoded_with_those() -> None:
    made = material()
    frames = [made.codes[: 1 + index % 4, :, index] for index in range(40)]
    audio = heard.decoded(made.codec, frames)
    codes = made.codes[:, :, :40].copy()
    for index in range(40):
        codes[1 + index % 4 :, :, index] = -1
    assert audio[:, 0] == pytest.approx(made.codec.decode(codes.transpose(1, 0, 2))[0, 0], abs=1e-6)


def test_gains_ramp_from_hop_to_hop() -> None:
    made = material()
    gains = [1.0, 1.0, 0.5, 0.0, 0.0, 1.0]
    hops = [Playable(Kind.PLAYED, made.codes[:, :, i], gain, i) for i, gain in enumerate(gains)]
    audio = heard.played(made, Outcome(played=hops))
    plain = heard.decoded(made.codec, [hop.codes for hop in hops])
    hop = made.codec.hop_length
    want = np.interp(np.arange(1, 6 * hop + 1) / hop, range(7), [1.0, *gains])
    assert audio[:, 0] == pytest.approx(plain[:, 0] * want, abs=1e-6)
    assert heard.played(made, Outcome()).shape == (0, 1)


def test_silence_is_what_a_settled_encoder_gives_for_zeros() -> None:
    codec = geometries.codec("causal")
    codes = heard.silence(codec, 2, 3)
    assert codes.shape == (3, 2)
    assert np.array_equal(codes[:, 0], codec.encode(np.zeros(200 * codec.hop_length, np.float32))[0, :3, 150])


def test_si_sdr_is_the_energy_of_the_signal_over_that_of_the_error_at_any_level() -> None:
    rand = np.random.default_rng(0)
    sent = rand.standard_normal((20_000, 1)).astype(np.float32)
    noise = rand.standard_normal((20_000, 1)).astype(np.float32)
    assert heard.si_sdr_db(sent, sent + 0.1 * noise) == pytest.approx(20, abs=0.2)
    assert heard.si_sdr_db(sent, 3 * (sent + 0.1 * noise)) == pytest.approx(20, abs=0.2)
    assert heard.si_sdr_db(sent, sent) is None
    for heard_nothing in ((sent, 0 * sent), (0 * sent, sent), (sent[:0], sent[:0])):
        assert heard.si_sdr_db(*heard_nothing) == float("-inf")


def test_pesq_is_left_out_where_it_cannot_be_had(monkeypatch) -> None:
    noise = np.random.default_rng(0).standard_normal((RATE, 1)).astype(np.float32)
    if PESQ:
        assert heard.pesq_wb(noise, noise, RATE) == pytest.approx(4.64, abs=0.01)
    assert heard.pesq_wb(noise, 0 * noise, RATE) is None
    assert heard.pesq_wb(noise[:2000], noise[:2000], RATE) is None  # too short for it
    monkeypatch.setitem(sys.modules, "pesq", None)
    assert heard.pesq_wb(noise, noise, RATE) is None
