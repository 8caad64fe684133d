"""Files in, files out: length, rate, channels and tree are kept, and what is coded is what the codec codes."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from streamdac.codec import Codec
from streamdac.frontends import encode
from streamdac.frontends.coding import StreamDecoding, StreamEncoding, stream_header
from streamdac.frontends.wav import pcm16
from streamdac.nn import DAC

from .conftest import Run
from .models import CONFIG, HOP, RATE

Signal = npt.NDArray[np.float32]


def noise(samples: int, channels: int = 1, seed: int = 0) -> Signal:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (samples, channels)).astype(np.float32)


def write(path: Path, audio: Signal, rate: int = RATE, subtype: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_channels_and_samples_come_back(run: Run, tmp_path: Path, rate: int, channels: int) -> None:
    source = write(tmp_path / "in.wav", noise(rate // 5 + 7, channels), rate)
    run("encode", source, "-o", tmp_path / "a.sdac").ok()
    run("decode", tmp_path / "a.sdac", "-o", tmp_path / "out.wav").ok()
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.frames) == (rate, channels, rate // 5 + 7)


@pytest.mark.parametrize("samples", [0, 1, HOP - 1, HOP, HOP + 1, 9 * HOP + 5])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_every_length_comes_back(run: Run, tmp_path: Path, samples: int, rate: int) -> None:
    source = write(tmp_path / "in.wav", noise(samples, 2), rate)
    run("encode", source).ok()
    run("decode", tmp_path / "in.sdac", "-o", tmp_path / "out.wav").ok()
    assert soundfile.info(tmp_path / "out.wav").frames == samples


def test_what_is_decoded_is_what_the_codec_decodes(run: Run, tmp_path: Path, codec: Codec, speech: Signal) -> None:
    audio = np.stack([speech, speech[::-1]], axis=1)
    source = write(tmp_path / "in.wav", audio, subtype="FLOAT")
    run("encode", source, "-n", 3).ok()
    run("decode", tmp_path / "in.sdac", "-o", tmp_path / "out.wav", "--float").ok()
    decoded = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    wanted = codec.decode(codec.encode(np.ascontiguousarray(audio.T[:, None]), n_codebooks=3))[:, 0].T[: len(audio)]
    np.testing.assert_allclose(decoded, wanted, atol=1e-3)


def test_conversion_of_the_rate_does_not_move_the_audio(run: Run, tmp_path: Path, codec: Codec) -> None:
    """The model has no fidelity to measure by, so the codes do: those of a tone at 48 kHz are those at 24 kHz."""
    for rate in (RATE, 2 * RATE):
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
        run("encode", write(tmp_path / f"{rate}.wav", tone, rate, "FLOAT"), "-n", 1).ok()
        run("decode", tmp_path / f"{rate}.sdac", "-o", tmp_path / f"{rate}-out.wav", "--rate", RATE, "--float").ok()
    first, second = (soundfile.read(tmp_path / f"{rate}-out.wav", dtype="float32")[0] for rate in (RATE, 2 * RATE))
    same = np.isclose(first, second, atol=1e-3).mean()
    assert len(first) == len(second) == RATE
    assert same > 0.9


def test_fewer_codebooks_take_fewer_bytes(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", noise(RATE))
    sizes = []
    for codebooks in (1, 2, 4):
        run("encode", source, "-o", tmp_path / "a.sdac", "-n", codebooks, "-f").ok()
        sizes.append((tmp_path / "a.sdac").stat().st_size)
    assert sizes == sorted(set(sizes))
    assert run("encode", source, "-o", tmp_path / "a.sdac", "-n", 5, "-f").code == 2


@pytest.mark.parametrize("name", ["\u0436" * 40, "a" * 63 + "\u0436", "tab\there", "\U0001f600" * 17])
def test_a_model_of_any_name_makes_streams_that_it_decodes(name: str) -> None:
    named = Codec(DAC(CONFIG).eval(), name=name)
    header = stream_header(named, 1, RATE)
    coding = StreamEncoding(named, sample_rate=RATE, channels=1)
    stream = coding.start() + coding.push(noise(3 * HOP)) + coding.finish()
    assert len(header.model.encode()) > 60 or header.model == "tab?here"
    decoding = StreamDecoding(named)
    assert sum(len(block) for block in [*decoding.feed(stream), *decoding.finish()]) == 3 * HOP


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".aiff", ".mp3"])
def test_any_format_that_libsndfile_knows_goes_in_and_out(run: Run, tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"in{suffix}", noise(RATE // 2))
    run("encode", source).ok()
    run("decode", tmp_path / "in.sdac", "-o", tmp_path / f"out{suffix}").ok()
    assert soundfile.info(tmp_path / f"out{suffix}").frames == soundfile.info(source).frames


def test_a_folder_keeps_its_tree(run: Run, tmp_path: Path) -> None:
    for name in ("a.wav", "b/c.flac", "b/d/e.WAV", ".hidden/f.wav", "b/.g.wav"):
        write(tmp_path / "in" / name, noise(HOP))
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    run("encode", tmp_path / "in", "-o", tmp_path / "coded").ok()
    run("decode", tmp_path / "coded", "-o", tmp_path / "out").ok()

    def files(folder: str) -> list[str]:
        root = tmp_path / folder
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    assert files("coded") == ["a.sdac", "b/c.sdac", "b/d/e.sdac"]
    assert files("out") == ["a.wav", "b/c.wav", "b/d/e.wav"]


def test_without_an_output_it_lies_beside_its_input(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.wav", noise(HOP))
    run("encode", tmp_path / "in").ok()
    assert (tmp_path / "in" / "a.sdac").is_file()


def test_a_bad_file_in_a_batch_is_named_and_the_rest_done(run: Run, tmp_path: Path) -> None:
    for name in ("a.wav", "c.wav"):
        write(tmp_path / name, noise(HOP))
    (tmp_path / "b.wav").write_bytes(b"no audio at all")
    result = run("encode", tmp_path, "-o", tmp_path / "out")
    assert result.code == 1
    lines = result.err.splitlines()
    assert len(lines) == 2
    assert "b.wav: not an audio file that can be read" in lines[0]
    assert lines[1] == "streamdac: 1 of 3 files failed"
    assert sorted(os.listdir(tmp_path / "out")) == ["a.sdac", "c.sdac"]


@pytest.mark.parametrize(
    ("inputs", "output", "message"),
    [
        (["a.wav", "a.flac"], None, "would both become"),
        (["a.wav", "sub/../a.flac"], None, "would both become"),
        (["a.wav", "sub/a.wav"], "out", "would both become"),
        (["a.wav", "a.flac"], "x.sdac", "2 inputs cannot become the one file"),
        (["a.wav", "a.flac"], "-", "2 inputs cannot become the one file"),
        (["sub"], "x.sdac", "1 inputs cannot become the one file"),
        (["a.wav"], "x.flac", "x.flac: not made here"),
        (["a.wav"], "x.m4a", "x.m4a: not made here"),
        (["a.wav"], "null:", "null: takes audio"),
        (["-", "-"], "out", "would both become"),
    ],
)
def test_outputs_that_cannot_be_meant_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], output: str | None, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.wav", "a.flac", "sub/a.wav"):
        write(Path(name), noise(HOP))
    result = run("encode", *inputs, *([] if output is None else ["-o", output]))
    assert result.code == 2
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert len(list(tmp_path.rglob("*.*"))) == 3  # nothing was made


def test_a_stream_is_not_decoded_onto_itself(run: Run, tmp_path: Path) -> None:
    audio = write(tmp_path / "a.wav", noise(HOP))
    result = run("decode", audio, "-o", audio, "-f")
    assert (result.code, "would become itself" in result.err) == (2, True)


def test_nothing_is_overwritten_unless_forced(run: Run, tmp_path: Path) -> None:
    source, target = write(tmp_path / "a.wav", noise(HOP)), tmp_path / "a.sdac"
    target.write_text("mine")
    result = run("encode", source)
    assert result.code == 74
    assert result.err == f"streamdac: {target} is there already (-f overwrites)\n"
    assert target.read_text() == "mine"
    run("encode", source, "-f").ok()
    result = run("decode", target, "-o", source)
    assert (result.code, "is there already" in result.err) == (74, True)
    run("decode", target, "-o", source, "-f").ok()


@pytest.mark.parametrize("suffix", [".sdac", ".dac"])
@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("plain", "plain is not a folder"),
        ("a.wav", "a.wav is not a folder"),
        ("/dev/null", "/dev/null is not a folder"),
        ("/proc", "cannot write /proc/x"),
        ("/proc/none", "cannot write /proc/none/x"),
    ],
)
def test_where_nothing_can_be_written_nothing_is_encoded(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, message: str, suffix: str
) -> None:
    if not Path(folder).is_dir() and folder == "/proc":
        pytest.skip("needs /proc")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encode, "_codec", None)
    write(Path("a.wav"), noise(HOP))
    Path("plain").touch()
    result = run("encode", "a.wav", "-o", f"{folder}/x{suffix}")
    assert (result.code, message in result.err, result.err.count("\n")) == (74, True, 1)


def test_a_file_is_no_folder_for_others(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "a.wav", noise(HOP))
    (tmp_path / "plain").touch()
    result = run("encode", source, "-o", tmp_path / "plain")
    assert (result.code, f"{tmp_path / 'plain'} is not a folder" in result.err) == (74, True)


def test_no_audio_makes_a_stream_and_no_archive(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "zero.wav", noise(0))
    run("encode", source).ok()
    result = run("encode", source, "-o", tmp_path / "zero.dac")
    assert (result.code, result.err) == (65, f"streamdac: {source}: holds no audio: 0 samples\n")


@pytest.mark.parametrize("suffix", [".sdac", ".dac"])
def test_a_flac_that_does_not_say_its_length_is_read_to_its_end(run: Run, tmp_path: Path, suffix: str) -> None:
    """As out of a pipe: its writer could not go back to the start."""
    whole = write(tmp_path / "whole.flac", noise(RATE + 7))
    data = bytearray(whole.read_bytes())
    data[21] &= 0xF0
    data[22:42] = bytes(20)  # the count's other 32 bits, and the checksum
    (tmp_path / "cut.flac").write_bytes(data)
    assert soundfile.info(tmp_path / "cut.flac").frames > 1 << 60
    for name in ("whole", "cut"):
        run("encode", tmp_path / f"{name}.flac", "-o", tmp_path / (name + suffix)).ok()
    assert (tmp_path / f"cut{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def test_a_failure_leaves_neither_file_nor_remains(run: Run, tmp_path: Path) -> None:
    audio = noise(20_000)
    audio[15_000] = np.nan
    source = write(tmp_path / "in" / "a.wav", audio, subtype="FLOAT")
    (tmp_path / "out").mkdir()
    result = run("encode", source, "-o", tmp_path / "out")
    assert result.code == 65
    assert "holds NaN or infinity before sample" in result.err
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits on file sizes")
def test_a_full_disk_is_said_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    import resource

    run("encode", write(tmp_path / "a.wav", noise(5 * RATE))).ok()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        result = run("decode", tmp_path / "a.sdac", "-o", tmp_path / "out.wav")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.code == 74
    assert f"cannot write {tmp_path / 'out.wav'}" in result.err
    assert sorted(os.listdir(tmp_path)) == ["a.sdac", "a.wav"]


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("none.wav", 66, "no file or folder"),
        ("empty", 66, "no file with suffix"),
        ("junk.wav", 65, "not an audio file that can be read"),
        ("nothing.wav", 65, "not an audio file that can be read"),
    ],
)
def test_inputs_that_cannot_be_read(run: Run, tmp_path: Path, name: str, code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.wav").write_bytes(bytes(range(256)))
    (tmp_path / "nothing.wav").write_bytes(b"")
    result = run("encode", tmp_path / name, "-o", tmp_path / "out.sdac")
    assert result.code == code
    assert message in result.err
    assert not (tmp_path / "out.sdac").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="takes another user's place: needs root")
def test_what_may_not_be_read_or_written_is_denied(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "a.wav", noise(HOP))
    run("encode", source).ok()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o755)
    for path in (source, tmp_path / "a.sdac"):
        path.chmod(0o600)
    for parent in tmp_path.parents:
        if parent.owner() == "root" and parent.stat().st_mode & 0o005 != 0o005 and "pytest" in str(parent):
            parent.chmod(0o755)
    tmp_path.chmod(0o755)
    os.seteuid(65_534)
    try:
        results = [
            run("encode", source, "-o", closed),
            run("decode", tmp_path / "a.sdac", "-o", closed / "a.wav"),
            run("info", source),
        ]
    finally:
        os.seteuid(0)
    assert [result.code for result in results] == [77, 77, 77]
    assert "Permission denied" in results[0].err
    assert os.listdir(closed) == []


def test_samples_beyond_full_scale_are_clipped_as_in_any_16_bit_file() -> None:
    assert pcm16(np.array([-2.0, -1.0, 0.0, 1.0, 2.0], np.float32)).tolist() == [-32768, -32768, 0, 32767, 32767]


def test_a_source_of_another_frontend_is_encoded_and_its_sink_takes_audio(run: Run, tmp_path: Path) -> None:
    run("encode", "tone:440,0.5", "-o", tmp_path / "tone.sdac").ok()
    run("decode", tmp_path / "tone.sdac", "-o", "null:").ok()
    decoded = run("decode", tmp_path / "tone.sdac", "-o", "-").ok().out
    assert soundfile.info(io.BytesIO(decoded)).frames == RATE // 2
    result = run("encode", "tone:loud", "-o", tmp_path / "x.sdac")
    assert (result.code, "need tone:HERTZ" in result.err) == (2, True)


def test_damage_inside_a_file_is_bad_data(run: Run, tmp_path: Path) -> None:
    data = bytearray(write(tmp_path / "a.flac", noise(5 * RATE)).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 9_000] = bytes(9_000)
    (tmp_path / "a.flac").write_bytes(data)
    result = run("encode", tmp_path / "a.flac")
    assert result.code == 65
    assert f"{tmp_path / 'a.flac'}: damaged at sample" in result.err
    assert not (tmp_path / "a.sdac").exists()


def test_a_folder_of_one_file_does_not_become_a_file(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.wav", noise(HOP))
    result = run("encode", tmp_path / "in", "-o", tmp_path / "out.sdac")
    assert (result.code, "1 inputs cannot become the one file" in result.err) == (2, True)
