"""The corpus: what is taken from a package, how clips are prepared, who is held out, what a broken fetch does."""

import csv
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from streamdac.errors import BadDataError, NoInputError, OutputError, UnavailableError, UsageError
from streamdac.training import corpus, corpus_audio, corpus_build
from streamdac.training.corpus_sources import SOURCES, TEST, VALID, Source, split_of

RATE = 16_000
VOICES = Source(
    "tiny-voices",
    "speech",
    "CC0",
    ("usr/share/tiny/*/*.wav",),
    group=r"tiny/([^/]+)/",
    skip=r"tiny/bad/",
    bandwidth={"anna": 4000},
)
BANGS = Source("tiny-voices", "effects", "GPL-2", ("usr/share/tiny/*.wav",))
needs_dpkg = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not here")


def voice(seconds: float, rate: int = RATE, pitch: float = 220.0, amplitude: float = 0.2) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)
    return (amplitude * swell * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate)
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A .deb with three speakers, an effect, and files to leave out."""
    root = tmp_path / "package"
    share = root / "usr/share/tiny"
    for speaker, pitch in (("anna", 220), ("bert", 110), ("held", 160)):
        for number in range(6):
            write(share / speaker / f"{number}.wav", voice(3.0, 22_050, pitch), 22_050)
    write(share / "bert" / "telephone.wav", voice(3.0, 8000), 8000)
    write(share / "bert" / "silent.wav", np.zeros(RATE))
    (share / "bert" / "broken.wav").write_bytes(b"RIFF, but not really")
    write(share / "bad" / "0.wav", voice(3.0))
    write(share / "bang.wav", np.stack([voice(2.0, pitch=60), voice(2.0, pitch=90)], axis=1))
    write_text(root / "usr/share/doc/tiny-voices/copyright", "CC0")
    control = "Package: tiny-voices\nVersion: 1:2.3-4\nArchitecture: all\nMaintainer: a <a@b>\nDescription: test\n"
    write_text(root / "DEBIAN/control", control)
    deb = tmp_path / "tiny-voices_2.3-4_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, deb], check=True, capture_output=True)
    return deb


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "split_of", lambda package, group: "test" if group == "held" else "train")


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.tsv").open(newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


@needs_dpkg
def test_a_package_becomes_grouped_flac_with_index_and_licences(package: Path, held_out: None, tmp_path: Path) -> None:
    asked: list[str] = []

    def download(name: str, folder: Path) -> Path:
        asked.append(name)
        return Path(shutil.copy(package, folder))

    where = tmp_path / "corpus"
    assert corpus.build_corpus(where, [VOICES, BANGS], rate=RATE, download=download) == []
    assert asked == ["tiny-voices"]  # once for both kinds
    found = rows(where)
    assert {(r["kind"], r["group"], r["split"]) for r in found} == {
        ("speech", "anna", "train"),
        ("speech", "bert", "train"),
        ("speech", "held", "test"),
        ("effects", "all", "train"),
    }
    assert {r["bandwidth_hz"] for r in found if r["group"] == "anna"} == {"4000"}
    for row in found:
        info = soundfile.info(where / row["path"])
        assert (info.samplerate, info.channels, info.subtype) == (RATE, 1, "PCM_16")
        assert info.duration == pytest.approx(float(row["seconds"]), abs=1e-3)
    assert (where / "speech/tiny-voices/anna/000.flac").exists()
    assert not (where / "speech/tiny-voices/held").exists()
    assert all(2 <= float(r["seconds"]) <= 8 for r in found if r["split"] == "test")
    assert "| tiny-voices | 1:2.3-4 | speech |" in (where / "LICENCES.md").read_text()
    assert (where / "licences/tiny-voices.txt").read_text() == "CC0"
    sources = (where / "sources.tsv").read_text()
    assert "usr/share/tiny/bert/0.wav" in sources
    assert not any(name in sources for name in ("telephone", "silent", "broken", "bad/"))
    assert [p.name for p in where.iterdir() if p.name.startswith(".")] == [".sources"]  # nothing half-made is left


@needs_dpkg
def test_what_is_done_is_not_fetched_again_unless_its_recipe_changed(
    package: Path, held_out: None, tmp_path: Path
) -> None:
    asked: list[str] = []

    def download(name: str, folder: Path) -> Path:
        asked.append(name)
        return Path(shutil.copy(package, folder))

    where = tmp_path / "corpus"
    for _ in range(2):
        corpus.build_corpus(where, [VOICES], rate=RATE, download=download)
    assert len(asked) == 1
    changed = replace(VOICES, skip=r"tiny/(bad|anna)/")
    corpus.build_corpus(where, [changed], rate=RATE, download=download)
    assert len(asked) == 2
    assert {r["group"] for r in rows(where)} == {"bert", "held"}
    assert not (where / "speech/tiny-voices/anna").exists()


@needs_dpkg
def test_a_broken_download_is_one_line_and_the_next_package_comes(
    package: Path, held_out: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def download(name: str, folder: Path) -> Path:
        if name == "gone":
            raise UnavailableError("cannot fetch gone: Unable to locate package gone")
        if name == "torn":
            (folder / "torn.deb").write_bytes(package.read_bytes()[:1000])
            return folder / "torn.deb"
        return Path(shutil.copy(package, folder))

    gone, torn = (Source(name, "speech", "CC0", ("*.wav",)) for name in ("gone", "torn"))
    where = tmp_path / "corpus"
    failed = corpus.build_corpus(where, [gone, torn, VOICES], rate=RATE, download=download)
    assert len(failed) == 2
    assert "Unable to locate package gone" in failed[0]
    assert "cannot unpack torn.deb" in failed[1]
    assert all("\n" not in line for line in failed)
    assert "gone: left out: cannot fetch gone" in capsys.readouterr().err
    assert {r["package"] for r in rows(where)} == {"tiny-voices"}


def test_apt_failing_says_what_apt_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin" / "apt-get"
    write_text(fake, "#!/bin/sh\necho 'E: Unable to locate package nothing' >&2\nexit 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    with pytest.raises(UnavailableError, match="cannot fetch nothing: Unable to locate package nothing"):
        corpus_build.apt_download("nothing", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="apt-get is not here"):
        corpus_build.apt_download("nothing", tmp_path)


def test_a_local_folder_is_grouped_by_name_and_its_valid_files_held_out(tmp_path: Path) -> None:
    for name in ("anna-000", "anna-001", "bert-000", "valid-anna-000"):
        write(tmp_path / "own" / f"{name}.flac", voice(4.0))
    corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=[tmp_path / "own"])
    found = {(r["group"], r["split"], r["path"]) for r in rows(tmp_path / "corpus")}
    assert found == {
        ("anna", "train", "speech/extra-own/anna/000.flac"),
        ("bert", "train", "speech/extra-own/bert/000.flac"),
        ("anna", "valid", "valid/speech/extra-own/anna/000.flac"),
    }


@pytest.mark.parametrize(
    ("rate", "make", "error", "words"),
    [
        (RATE, lambda p: p / "nowhere", NoInputError, "no such folder"),
        (RATE, lambda p: write_text(p / "own/readme.txt", "no audio") or p / "own", BadDataError, "no audio in it"),
        (RATE, lambda p: write(p / "own/a.wav", np.zeros(RATE)).parent, BadDataError, "nothing usable in 1 files"),
        (100, lambda p: p, UsageError, "100 Hz"),
    ],
)
def test_bad_folders_and_rates_are_refused(tmp_path: Path, rate: int, make, error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        corpus.build_corpus(tmp_path / "corpus", [], rate=rate, extra=[make(tmp_path)])


def test_folders_of_one_name_do_not_replace_each_other(tmp_path: Path) -> None:
    for place in ("one", "two"):
        write(tmp_path / place / "wavs/anna-0.wav", voice(3.0))
    both = [tmp_path / "one/wavs", tmp_path / "two/wavs"]
    with pytest.raises(UsageError, match="would both be extra-wavs"):
        corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=both)
    corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=both[:1])
    with pytest.raises(UsageError, match=r"extra-wavs of the corpus is from .*one/wavs: rename .*two/wavs"):
        corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=both[1:])
    shutil.rmtree(tmp_path / "one")  # moved, not another one
    corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=both[1:])


def test_speakers_whose_names_a_folder_cannot_tell_apart_are_both_kept(tmp_path: Path) -> None:
    for name in ("take 1-a", "take_1-a"):
        write(tmp_path / "own" / f"{name}.wav", voice(3.0 if " " in name else 5.0))
    corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=[tmp_path / "own"])
    found = {row["path"]: float(row["seconds"]) for row in rows(tmp_path / "corpus")}
    assert len(found) == 2
    for path, seconds in found.items():
        assert soundfile.info(tmp_path / "corpus" / path).duration == pytest.approx(seconds, abs=1e-3)


def test_a_folder_whose_name_is_not_utf_8_is_taken_in(tmp_path: Path) -> None:
    source = write(tmp_path / "own/a-0.wav", voice(3.0))
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    os.rename(source.parent, folder)
    corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=[folder])
    (row,) = rows(tmp_path / "corpus")
    assert (tmp_path / "corpus" / row["path"]).is_file()


def test_names_that_are_not_utf_8_are_taken_in(tmp_path: Path) -> None:
    source = write(tmp_path / "own/a-0.wav", voice(3.0))
    os.rename(source, os.fsencode(source.parent) + b"/caf\xe9-0.wav")
    for _ in range(2):
        corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=[tmp_path / "own"])
    assert "caf\\udce9-0.wav" in (tmp_path / "corpus/sources.tsv").read_text("utf-8")
    assert [row["split"] for row in rows(tmp_path / "corpus")] == ["train"]


def test_a_corpus_has_one_rate(tmp_path: Path) -> None:
    write(tmp_path / "own" / "anna-0.wav", voice(3.0))
    corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=[tmp_path / "own"])
    with pytest.raises(UsageError, match="16000 Hz, not 24000"):
        corpus.build_corpus(tmp_path / "corpus", [], rate=24_000)


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write the corpus"):
        corpus.build_corpus(tmp_path / "file", [])


@pytest.mark.parametrize("amplitude", [0.03, 0.1, 0.9])
def test_prepared_clips_have_one_level_and_never_clip(amplitude: float) -> None:
    pause = np.zeros(RATE, np.float32)
    clip = corpus_audio.prepare(np.concatenate([pause, voice(2.0, amplitude=amplitude), pause]) + 0.1, RATE)
    assert clip is not None
    assert corpus_audio.gated_level(clip, RATE) == pytest.approx(corpus_audio.TARGET_DB, abs=0.5)
    assert np.abs(clip).max() <= corpus_audio.PEAK + 1e-6
    assert 2.0 <= len(clip) / RATE <= 2.0 + 2 * corpus_audio.MARGIN_SECONDS + 0.02
    assert clip[0] == clip[-1] == 0


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros(RATE), np.full(RATE, 0.3), voice(0.05), 1e-5 * voice(1.0)])
def test_clips_with_nothing_in_them_are_dropped(audio: np.ndarray) -> None:
    assert corpus_audio.prepare(audio.astype(np.float32), RATE) is None


@pytest.mark.parametrize("edge", [4000, 6000, None])
def test_a_spectrum_that_breaks_off_is_seen_and_one_that_slopes_is_not(edge: int | None) -> None:
    spectrum = np.fft.rfft(np.random.default_rng(0).standard_normal(20 * RATE))
    hertz = np.linspace(0, RATE / 2, len(spectrum))
    spectrum *= 10 ** (-hertz / 1000 * 5 / 20)  # 5 dB a kilohertz
    if edge:
        spectrum[hertz > edge] *= 0.003
    audio = np.fft.irfft(spectrum).astype(np.float32)
    found = corpus_audio.cliff(corpus_audio.power_spectrum(audio, RATE))
    assert found == edge if edge is None else found == pytest.approx(edge, abs=250)


def test_joined_pieces_keep_to_their_limits_and_lose_nothing() -> None:
    rng = np.random.default_rng(0)
    clips = [(str(i), np.full(round(rng.uniform(0.3, 25) * RATE), 1.0, np.float32)) for i in range(30)]
    pieces = list(corpus_audio.join(iter(clips), RATE, shortest=10, longest=20))
    assert all(len(audio) <= 20 * RATE for _, audio in pieces)
    assert sum(int(audio.sum()) for _, audio in pieces) == sum(len(clip) for _, clip in clips)
    assert list(dict.fromkeys(name for names, _ in pieces for name in names)) == [name for name, _ in clips]


def test_nan_in_a_file_makes_it_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "nan.wav"
    soundfile.write(path, np.array([0.0, np.nan] * 100), RATE, subtype="FLOAT")
    with pytest.raises(BadDataError, match="NaN"):
        corpus_audio.read_mono(path, RATE)


def test_the_middle_of_a_long_file_is_read_at_the_wanted_rate(tmp_path: Path) -> None:
    ramp = np.linspace(-0.5, 0.5, 10 * 48_000)
    path = write(tmp_path / "long.wav", np.stack([ramp, ramp], axis=1), 48_000)
    middle = corpus_audio.read_mono(path, RATE, start=4.0, seconds=2.0)
    assert len(middle) == 2 * RATE
    assert middle[RATE] == pytest.approx(0.0, abs=1e-3)


def test_at_least_ten_speakers_in_test_and_none_in_two_splits() -> None:
    speech = {s.package for s in SOURCES if s.kind == "speech"}
    held = [item for item in TEST if item.split("/")[0] in speech]
    assert len(held) >= 10
    assert not TEST & VALID
    assert {item.split("/")[0] for item in TEST | VALID} <= {s.package for s in SOURCES}
    assert split_of("klettres-data", "it") == "test"
    assert split_of("klettres-data", "he") == "valid"
    assert split_of("colobot-common-sounds", "all") == "test"
    assert split_of("klettres-data", "fr") == "train"


def test_sources_are_chosen_by_package_or_by_kind() -> None:
    assert {s.kind for s in corpus.choose(SOURCES, [], ["speech"])} == {"speech"}
    assert "hydrogen-drumkits" not in {s.package for s in corpus.choose(SOURCES, [], ["effects"])}
    assert [s.package for s in corpus.choose(SOURCES, ["hydrogen-drumkits"], ["effects"])] == ["hydrogen-drumkits"]
    with pytest.raises(UsageError, match=r"unknown: nonsense; there are: .*klettres-data"):
        corpus.choose(SOURCES, ["nonsense"], ["speech"])


def test_the_command_says_what_there_is(tmp_path: Path) -> None:
    write(tmp_path / "own" / "anna-0.wav", voice(60.0))
    arguments = [str(tmp_path / "corpus"), "--rate", str(RATE), "--kind", "", "--extra", str(tmp_path / "own")]
    result = CliRunner().invoke(corpus.corpus_command, arguments)
    assert isinstance(result.exception, UsageError)  # no such kind
    nothing = ["--only", "klettres-data", "--kind", "music"]
    only = CliRunner().invoke(corpus.corpus_command, [*arguments[:3], *nothing, *arguments[5:]])
    assert only.exit_code == 0, only.output
    assert "train 1.0 min, valid 0.0 min, test 0.0 min" in only.stdout
