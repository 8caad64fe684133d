"""Segments: deterministic, balanced, level, never NaN or clipped; and what bad input does."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamdac.errors import BadDataError, NoInputError, UsageError
from streamdac.training import audio_files, corpus
from streamdac.training.audio_files import AudioFile, AudioFiles, find_audio
from streamdac.training.corpus_audio import gated_level, read_mono
from streamdac.training.data import Mix, SegmentSampler, held_out_clips, low_pass

RATE = 8000


def noise(seconds: float, seed: int = 0, amplitude: float = 0.1, rate: int = RATE) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(round(seconds * rate))
    return (amplitude * samples).clip(-1, 1).astype(np.float32)


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio, rate)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Speakers of 8 s and of 2 s, one of them at another rate."""
    write(tmp_path / "audio/anna/0.flac", noise(8, 1))
    write(tmp_path / "audio/bert/0.wav", noise(2, 2, rate=16_000), 16_000)
    return tmp_path / "audio"


@pytest.fixture
def kinds(tmp_path: Path) -> Path:
    """A corpus with an index: a tone for speech, a higher one for effects."""
    lines = ["path\tkind\tpackage\tgroup\tseconds\tbandwidth_hz\tsplit"]
    for kind, pitch, split in (("speech", 300, "train"), ("effects", 2500, "train"), ("speech", 1000, "valid")):
        tone = 0.1 * np.sin(2 * np.pi * pitch * np.arange(4 * RATE) / RATE)
        write(tmp_path / f"corpus/{split}/{kind}.flac", tone)
        lines.append(f"{split}/{kind}.flac\t{kind}\tp\tg-{split}\t4.0\t\t{split}")
    (tmp_path / "corpus/index.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path / "corpus"


def pitch_of(audio: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(audio)).argmax() * RATE / len(audio))


def test_a_step_gives_the_same_segments_whenever_it_is_drawn(folder: Path) -> None:
    first = SegmentSampler(folder, RATE, 0.4, 4, seed=3)
    drawn = [first.draw(step) for step in range(5)]
    assert drawn[0].shape == (4, 1, 3200)
    assert drawn[0].dtype == np.float32
    resumed = SegmentSampler(folder, RATE, 0.4, 4, seed=3)
    np.testing.assert_array_equal(resumed.draw(4), drawn[4])
    assert not np.array_equal(drawn[3], drawn[4])
    assert not np.array_equal(SegmentSampler(folder, RATE, 0.4, 4, seed=4).draw(4), drawn[4])


@pytest.mark.parametrize("cache_gigabytes", [0.0, 1.0])
def test_processes_draw_the_rows_of_one_batch(folder: Path, cache_gigabytes: float) -> None:
    whole = SegmentSampler(folder, RATE, 0.4, 6).draw(7)
    shares = [
        SegmentSampler(folder, RATE, 0.4, 6, rank=rank, world_size=3, cache_gigabytes=cache_gigabytes).draw(7)
        for rank in range(3)
    ]
    np.testing.assert_array_equal(np.concatenate(shares), whole)


def test_segments_are_within_the_levels_and_full_scale(folder: Path) -> None:
    sampler = SegmentSampler(folder, RATE, 0.4, 8, mix=Mix(level_db=(-30, -2), quiet_probability=0.0))
    batch = np.concatenate([sampler.draw(step) for step in range(10)])[:, 0]
    assert np.isfinite(batch).all()
    assert np.abs(batch).max() <= 0.98 + 1e-6
    levels = [gated_level(row, RATE) for row in batch]
    assert -30.5 <= min(levels) < -25
    assert -12 < max(levels) <= -1.5


def test_some_segments_are_nearly_silent_when_asked_for(folder: Path) -> None:
    batch = SegmentSampler(folder, RATE, 0.4, 8, mix=Mix(quiet_probability=1.0)).draw(0)
    assert 20 * np.log10(np.sqrt(np.square(batch).mean())) < -38


def test_groups_weigh_by_the_root_of_their_minutes(tmp_path: Path) -> None:
    for name, seconds, pitch in (("long", 36, 500), ("short", 4, 2000)):
        write(tmp_path / name / "0.wav", 0.1 * np.sin(2 * np.pi * pitch * np.arange(seconds * RATE) / RATE))
    sampler = SegmentSampler(tmp_path, RATE, 0.4, 400)
    share = np.mean([pitch_of(row[0]) < 1000 for row in sampler.draw(0)])
    assert share == pytest.approx(0.75, abs=0.08)  # sqrt(36) : sqrt(4) = 3 : 1
    capped = SegmentSampler(tmp_path, RATE, 0.4, 400, mix=Mix(group_cap_minutes=4 / 60))
    assert np.mean([pitch_of(row[0]) < 1000 for row in capped.draw(0)]) == pytest.approx(0.5, abs=0.08)


def test_groups_of_narrow_bandwidth_weigh_less(kinds: Path) -> None:
    index = kinds / "index.tsv"
    index.write_text(index.read_text() + "train/effects.flac\tspeech\tp\tnarrow\t4.0\t2600\ttrain\n")
    mix = Mix(kind_weights={"speech": 1.0}, narrow_weight=0.25, narrow_hz=3000)
    drawn = SegmentSampler(kinds, RATE, 0.4, 400, mix=mix).draw(0)
    assert np.mean([pitch_of(row[0]) > 2000 for row in drawn]) == pytest.approx(0.2, abs=0.06)


def test_kinds_weigh_as_asked_and_held_out_files_are_never_drawn(kinds: Path) -> None:
    sampler = SegmentSampler(kinds, RATE, 0.4, 300, mix=Mix(kind_weights={"speech": 0.8, "effects": 0.2}))
    pitches = np.round([pitch_of(row[0]) for row in sampler.draw(0)], -1)
    assert set(pitches) == {300, 2500}
    assert np.mean(pitches == 2500) == pytest.approx(0.2, abs=0.07)
    only = SegmentSampler(kinds, RATE, 0.4, 20, mix=Mix(kind_weights={"effects": 1.0}))
    assert {round(pitch_of(row[0]), -1) for row in only.draw(0)} == {2500}


def test_noise_is_mixed_behind_speech_at_the_ratio(kinds: Path) -> None:
    mix = Mix(kind_weights={"speech": 1.0, "effects": 1e-9}, noise_probability=1.0, noise_snr_db=(12.0, 12.0))
    row = SegmentSampler(kinds, RATE, 0.5, 1, mix=mix).draw(0)[0, 0]
    spectrum = np.abs(np.fft.rfft(row * np.hanning(len(row))))
    hertz = RATE / len(row)
    ratio = spectrum[round(300 / hertz)] / spectrum[round(2500 / hertz)]
    assert 20 * np.log10(ratio) == pytest.approx(12, abs=0.5)


def test_low_pass_keeps_length_and_takes_the_top_away() -> None:
    audio = noise(1.0)
    narrow = low_pass(audio, RATE, 1500.0)
    assert narrow.shape == audio.shape
    power = np.square(np.abs(np.fft.rfft(narrow)))
    assert power[2000:].sum() < 1e-4 * power[:1200].sum()
    assert low_pass(audio, RATE, 4000.0) is audio


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_moves_the_pitch_and_keeps_the_length(kinds: Path, speed: float) -> None:
    mix = Mix(kind_weights={"speech": 1.0}, speed_probability=1.0, speed=(speed, speed))
    rows = SegmentSampler(kinds, RATE, 0.5, 4, mix=mix).draw(0)[:, 0]
    assert rows.shape == (4, 4000)
    assert [pitch_of(row) for row in rows] == pytest.approx([300 * speed] * 4, abs=RATE / 4000)
    assert (np.abs(rows[:, :100]).max(1) > 0.3 * np.abs(rows).max(1)).all()
    assert (np.abs(rows[:, -100:]).max(1) > 0.3 * np.abs(rows).max(1)).all()


def test_speeds_are_drawn_only_where_asked_for(folder: Path) -> None:
    plain = SegmentSampler(folder, RATE, 0.4, 40).draw(0)
    np.testing.assert_array_equal(SegmentSampler(folder, RATE, 0.4, 40, mix=Mix(speed=(2.0, 2.0))).draw(0), plain)
    assert not np.array_equal(SegmentSampler(folder, RATE, 0.4, 40, mix=Mix(speed_probability=0.5)).draw(0), plain)


def test_a_file_shorter_than_a_segment_stands_between_zeros(tmp_path: Path) -> None:
    write(tmp_path / "a/0.wav", noise(0.25))
    batch = SegmentSampler(tmp_path, RATE, 1.0, 8).draw(0)[:, 0]
    assert ((batch != 0).sum(1) > 0.24 * RATE).all()
    assert ((batch == 0).sum(1) >= 0.75 * RATE).all()
    assert len({int(np.flatnonzero(row)[0]) for row in batch}) > 4


def test_silent_stretches_are_drawn_again(tmp_path: Path) -> None:
    write(tmp_path / "a/0.wav", np.concatenate([np.zeros(6 * RATE), noise(4)]))
    batch = SegmentSampler(tmp_path, RATE, 0.4, 50).draw(0)[:, 0]
    assert (np.abs(batch).max(1) > 0.01).all()


def test_names_that_are_not_utf_8_are_read(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    write(tmp_path / "a.wav", noise(1)).rename(tmp_path / name)
    assert SegmentSampler(tmp_path, RATE, 0.4, 2).draw(0).any()


def test_long_silences_are_drawn_past_and_change_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "a/0.wav", np.concatenate([np.zeros(30 * RATE), noise(10)]))
    patient = SegmentSampler(tmp_path, RATE, 0.4, 50, mix=Mix(tries=3)).draw(0)
    assert (np.abs(patient[:, 0]).max(1) > 0.01).all()
    usual = SegmentSampler(tmp_path, RATE, 0.4, 50, mix=Mix(tries=60)).draw(0)
    np.testing.assert_array_equal(patient, usual)


def test_clips_too_short_to_measure_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a/0.wav", noise(0.12))
    with pytest.raises(BadDataError, match="silent or shorter than 2048 samples"):
        held_out_clips(tmp_path, RATE)
    write(tmp_path / "a/1.wav", noise(1))
    assert [clip.name[-3:] for clip in held_out_clips(tmp_path, RATE)] == ["1@0"]


def test_clips_of_many_groups_are_limited_and_spread_over_them(tmp_path: Path) -> None:
    for number in range(9):
        write(tmp_path / f"{number:02d}/0.wav", noise(0.3))
        write(tmp_path / f"{number:02d}/1.wav", noise(0.3))
    clips = held_out_clips(tmp_path, RATE, clip_seconds=0.3, clips_per_group=2, most=8)
    assert [Path(clip.group).name for clip in clips] == ["00", "00", "02", "02", "04", "04", "06", "06"]


def test_a_corpus_without_held_out_files_does_with_those_of_another(kinds: Path, tmp_path: Path) -> None:
    write(tmp_path / "more/music.flac", noise(2))
    rows = ["path\tkind\tpackage\tgroup\tseconds\tbandwidth_hz\tsplit", "music.flac\tmusic\tp\tg\t2.0\t\ttrain"]
    (tmp_path / "more/index.tsv").write_text("\n".join(rows) + "\n")
    both = [kinds, tmp_path / "more"]
    assert [file.path.parent.name for file in find_audio(both, "valid")] == ["valid"]
    assert len(find_audio(both)) == 3


def test_nothing_but_silence_is_refused_with_counts(tmp_path: Path) -> None:
    write(tmp_path / "a/0.wav", np.zeros(2 * RATE))
    with pytest.raises(BadDataError, match=r"240 speech segments in a row were silent or unreadable \(0 of 1 files"):
        SegmentSampler(tmp_path, RATE, 0.4, 1).draw(0)


def test_an_unreadable_file_is_left_out_and_reported_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "anna/broken.wav").write_bytes(b"not audio at all")
    soundfile.write(folder / "anna/nan.wav", np.full(2 * RATE, np.nan), RATE, subtype="FLOAT")
    with caplog.at_level(logging.WARNING):
        sampler = SegmentSampler(folder, RATE, 0.4, 8)
        batches = [sampler.draw(step) for step in range(20)]
    assert np.isfinite(batches).all()
    assert sum("broken.wav" in record.message for record in caplog.records) == 1
    assert sum("nan.wav" in record.message for record in caplog.records) == 1


def test_a_corpus_file_that_is_gone_is_left_out(kinds: Path) -> None:
    (kinds / "train/effects.flac").unlink()
    sampler = SegmentSampler(kinds, RATE, 0.4, 2, mix=Mix(kind_weights={"effects": 1.0}))
    with pytest.raises(BadDataError, match="1 of 2 files cannot be read"):
        sampler.draw(0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "nowhere", "no such file or folder"),
        (lambda p: p, "no audio in it"),
        (lambda p: [], "no path was given"),
    ],
)
def test_paths_without_audio_are_refused(tmp_path: Path, make, words: str) -> None:
    with pytest.raises(NoInputError, match=words):
        SegmentSampler(make(tmp_path), RATE, 0.4, 1)


def test_an_index_without_the_split_or_with_a_torn_line_is_refused(kinds: Path) -> None:
    with pytest.raises(NoInputError, match="nothing of split test"):
        find_audio(kinds, "test")
    index = kinds / "index.tsv"
    index.write_text(index.read_text() + "train/x.flac\tspeech\tp\tg\tlong\t\ttrain\n")
    with pytest.raises(BadDataError, match=r"index.tsv: line 5"):
        find_audio(index)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch": 0},
        {"segment_seconds": 0.0},
        {"batch": 3, "world_size": 2},
        {"rank": 1},
    ],
)
def test_impossible_batches_are_refused(folder: Path, arguments: dict) -> None:
    with pytest.raises(UsageError, match="got "):
        SegmentSampler(folder, **{"sample_rate": RATE, "segment_seconds": 0.4, "batch": 2} | arguments)


@pytest.mark.parametrize(
    "options",
    [
        {"quiet_probability": 1.5},
        {"kind_weights": {}},
        {"kind_weights": {"speech": 0}},
        {"kind_weights": {"speech": "much"}},
        {"tries": 0},
        {"narrow_weight": 0.0},
        {"speed_probability": -0.1},
        {"speed": (1.2, 0.8)},
        {"speed": (0.0, 1.0)},
        {"speed": (1.0, 5.0)},
        {"speed": (1.0, float("nan"))},
    ],
)
def test_impossible_mixes_are_refused(options: dict) -> None:
    with pytest.raises(UsageError, match="got"):
        Mix(**options)


def test_kinds_that_are_not_there_are_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="there is speech, weights are"):
        SegmentSampler(folder, RATE, 0.4, 1, mix=Mix(kind_weights={"music": 1.0}))


def test_a_kind_that_nobody_knows_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="the kind musik, there are effects, music, speech"):
        SegmentSampler(folder, RATE, 0.4, 1, mix=Mix(kind_weights={"speech": 1.0, "musik": 0.3}))


@pytest.mark.parametrize("rate", [RATE, 12_000])
def test_long_files_read_in_pieces_equal_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int) -> None:
    path = write(tmp_path / "0.wav", noise(6.0))
    file = AudioFile(path, "speech", "a", 6.0)
    whole = AudioFiles([file], rate).read(file, rate, 2 * rate)
    monkeypatch.setattr(audio_files, "WHOLE_SECONDS", 1.0)
    piece = AudioFiles([file], rate).read(file, rate, 2 * rate)
    np.testing.assert_allclose(piece, whole, atol=2e-4)


def test_the_cache_keeps_to_its_bytes(folder: Path) -> None:
    files = AudioFiles(find_audio(folder), RATE, cache_bytes=2 * 9 * RATE)
    for _ in range(2):
        for file in files.entries:
            assert files.read(file, 0, RATE) is not None
    assert sum(samples.nbytes for samples in files._cache.values()) <= 2 * 9 * RATE


def test_held_out_clips_are_always_the_same_and_spread_over_groups(tmp_path: Path) -> None:
    for name in ("valid-anna-0", "valid-anna-1", "valid-bert-0", "cara-0"):
        write(tmp_path / "own" / f"{name}.wav", noise(20.0, seed=len(name)))
    corpus.build_corpus(tmp_path / "corpus", [], rate=RATE, extra=[tmp_path / "own"])
    clips = held_out_clips(tmp_path / "corpus", RATE, clip_seconds=3.0, clips_per_group=2)
    assert {(clip.group.split("/")[1], len(clip.audio)) for clip in clips} == {("anna", 3 * RATE), ("bert", 3 * RATE)}
    assert len({clip.name for clip in clips}) == len(clips) == 4
    again = held_out_clips(tmp_path / "corpus", RATE, clip_seconds=3.0, clips_per_group=2)
    assert [clip.name for clip in again] == [clip.name for clip in clips]
    assert len(held_out_clips(tmp_path / "corpus", RATE)) == 2  # whole files
    with pytest.raises(BadDataError, match="of kind music"):
        held_out_clips(tmp_path / "corpus", RATE, kind="music")


def test_a_plain_folder_holds_the_same_files_out_whatever_is_added(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(800).astype(np.float32) * 0.1
    for number in range(40):
        soundfile.write(tmp_path / f"{number}.wav", noise, 8000)
    splits = {split: {f.path for f in find_audio(tmp_path, split)} for split in ("train", "valid", "test")}
    assert splits["train"] | splits["valid"] == splits["test"]
    assert not splits["train"] & splits["valid"]
    assert 1 <= len(splits["valid"]) <= 8
    for number in range(40, 60):
        soundfile.write(tmp_path / f"{number}.wav", noise, 8000)
    assert splits["valid"] <= {f.path for f in find_audio(tmp_path, "valid")}
    assert splits["train"] <= {f.path for f in find_audio(tmp_path, "train")}


@pytest.mark.parametrize("name", ["clip_{:02d}.wav", "file{}.wav", "p225_{:03d}.wav", "a/{}/b.wav"])
def test_numbered_files_are_held_out_too(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1, 61):
        path = tmp_path / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(80, 0.1, np.float32), 8000)
    held, kept = ({file.path for file in find_audio(tmp_path, split)} for split in ("valid", "train"))
    assert 1 <= len(held) <= 9
    assert len(held | kept) == len(held) + len(kept) == 60
    assert not caplog.text


def test_a_small_folder_says_that_nothing_is_held_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "a.wav", np.full(80, 0.1, np.float32), 8000)
    assert find_audio(tmp_path, "train") == find_audio(tmp_path, "test")
    assert not caplog.text
    find_audio(tmp_path, "valid")
    assert "1 files, so none is held out" in caplog.text


def test_clips_that_begin_with_silence_are_cut_further_in(tmp_path: Path) -> None:
    audio = np.zeros(16_000, np.float32)
    audio[9000:] = 0.1 * np.random.default_rng(0).standard_normal(7000)
    soundfile.write(tmp_path / "a.wav", audio, 8000)
    (clip,) = held_out_clips(tmp_path, 8000, clip_seconds=0.5, clips_per_group=1)
    assert clip.name.endswith("a@8000")
    assert np.abs(clip.audio[1100:]).max() > 0.1


def lengthless(path: Path) -> Path:
    """A FLAC file that does not say how many samples it has, as programs write it into a pipe."""
    write(path, noise(2))
    raw = bytearray(path.read_bytes())
    raw[21] &= 0xF0  # 36 bits of STREAMINFO
    raw[22:26] = bytes(4)
    path.write_bytes(raw)
    return path


def test_a_file_without_a_length_is_left_out(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    lengthless(folder / "anna/1.flac")
    assert len(find_audio(folder)) == 2
    assert "1.flac: it does not say how long it is" in caplog.text
    with pytest.raises(BadDataError, match="does not say how long it is"):
        read_mono(folder / "anna/1.flac", RATE)


def test_a_file_that_turns_out_bad_is_not_searched_to_its_end(tmp_path: Path) -> None:
    lengthless(tmp_path / "a.flac")
    rows = [
        "path\tkind\tpackage\tgroup\tseconds\tbandwidth_hz\tsplit",
        f"a.flac\tspeech\tp\tg\t{2**63 // RATE}\t\tvalid",
    ]
    (tmp_path / "index.tsv").write_text("\n".join(rows) + "\n")
    with pytest.raises(BadDataError, match="1 files, 1 unreadable"):
        held_out_clips(tmp_path, RATE, clip_seconds=1.0, clips_per_group=1)


def test_a_kind_that_is_not_there_is_said_with_those_that_are(kinds: Path) -> None:
    with pytest.raises(BadDataError, match="nothing of kind musik in split train: there is effects, speech"):
        held_out_clips(kinds, RATE, split="train", kind="musik")


def test_an_index_of_something_else_is_no_index(folder: Path) -> None:
    (folder / "index.tsv").write_bytes(b"caf\xe9\tnotes\n")
    assert len(find_audio(folder)) == 2
