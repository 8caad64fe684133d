"""Names of files: those that look like sources, those that are not UTF-8, links, pipes, and what a folder leaves out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .conftest import Run
from .models import HOP
from .test_files import noise, write

ODD = ("live: x.wav", "tone:440,1.wav", "mic:1.wav", "speaker:x.wav", "null:.wav")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.skipif(os.name == "nt", reason="colons are for drives there")
def test_a_file_in_a_folder_is_never_a_source_or_sink(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "in", tmp_path / "in" / "tone:9"):
        folder.mkdir()
        for name in ODD:
            write(folder / name, noise(HOP))
    coded = {name.replace(".wav", ".sdac") for name in ODD}
    monkeypatch.chdir(tmp_path / "in")
    run("encode", ".", "-o", tmp_path / "coded").ok()
    assert names(tmp_path / "coded") == {*coded, "tone:9"}
    assert names(tmp_path / "coded" / "tone:9") == coded
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    run("decode", tmp_path / "coded", "-o", ".").ok()
    assert names(tmp_path / "out") == {*ODD, "tone:9"}
    monkeypatch.chdir(tmp_path / "coded")
    run("decode", ".").ok()
    assert names(tmp_path / "coded") == {*coded, *ODD, "tone:9"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have Unicode names")
def test_a_name_that_is_not_unicode_is_as_good_as_any(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "in.wav", noise(HOP))
    odd = tmp_path / os.fsdecode(b"caf\xe9.wav")
    (tmp_path / "in.wav").rename(odd)
    run("encode", odd).ok()
    run("decode", odd.with_suffix(".sdac"), "-o", odd, "-f").ok()
    assert names(tmp_path) == {odd.name, odd.with_suffix(".sdac").name}
    odd.write_bytes(b"no audio at all")
    result = run("encode", odd, "-f")
    assert (result.code, "not an audio file that can be read: Format not recognised" in result.err) == (65, True)


def test_audio_of_a_kind_that_is_not_read_is_said_to_be_left_out(run: Run, tmp_path: Path) -> None:
    for name in ("a.wav", "b.MP4", "b/c.mp4", "d.m4a", "notes.txt", ".e.mp4", "f.sdac"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    write(tmp_path / "in" / "a.wav", noise(HOP))
    result = run("encode", tmp_path / "in", "-o", tmp_path / "out")
    said = f"streamdac: left out in {tmp_path / 'in'}: 3 files of a kind that is not read (.m4a, .mp4)\n"
    assert (result.code, result.err) == (0, said)
    run("decode", tmp_path / "out").ok()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("force", [(), ("-f",)])
def test_an_output_that_is_a_pipe_is_refused_and_stays(run: Run, tmp_path: Path, force: tuple[str, ...]) -> None:
    source = write(tmp_path / "in.wav", noise(HOP))
    run("encode", source).ok()
    for command, given, name in (("encode", source, "pipe.sdac"), ("decode", tmp_path / "in.sdac", "pipe.wav")):
        os.mkfifo(tmp_path / name)
        result = run(command, given, "-o", tmp_path / name, *force)
        assert (result.code, f"{name} is no regular file" in result.err) == (74, True)
        assert (tmp_path / name).is_fifo()


def test_a_link_is_written_through(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", noise(HOP))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.sdac").symlink_to(tmp_path / "folder" / "a.sdac")
    for force in ((), ("-f",)):
        run("encode", source, "-o", tmp_path / "link.sdac", *force).ok()
        assert (tmp_path / "link.sdac").is_symlink()
        assert names(tmp_path / "folder") == {"a.sdac"}


def test_stdin_among_files_is_for_one_process(run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "in.wav", noise(HOP))
    words = ("encode", source, "-", "-o", tmp_path / "out")
    result = run(*words, "--jobs", 2, stdin=source.read_bytes())
    assert (result.code, "stdin among 2 inputs" in result.err, (tmp_path / "out").exists()) == (2, True, False)
    run(*words, stdin=source.read_bytes()).ok()
    assert names(tmp_path / "out") == {"in.sdac", "stdin.sdac"}


def test_another_frontend_among_files_is_for_one_process(run: Run, tmp_path: Path) -> None:
    """A recording that ends with the other processes would be lost."""
    source = write(tmp_path / "in.wav", noise(HOP))
    words = ("encode", source, "tone:440,0.1", "-o", tmp_path / "out")
    result = run(*words, "--jobs", 2)
    assert (result.code, "tone:440,0.1 among 2 inputs" in result.err, (tmp_path / "out").exists()) == (2, True, False)
    run(*words).ok()
    assert names(tmp_path / "out") == {"in.sdac", "tone.sdac"}


def test_a_file_called_as_stdin_is_not_meant_by_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "in.dac"
    run("encode", write(tmp_path / "in.wav", noise(HOP)), "-o", archive).ok()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "-").write_bytes(b"no archive")
    monkeypatch.chdir(tmp_path / "here")
    run("decode", "-", "-o", "a.wav", stdin=archive.read_bytes()).ok()


def test_a_folder_called_as_stdin_is_not_meant_by_it(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.wav", noise(HOP))
    (tmp_path / "-").mkdir()
    monkeypatch.chdir(tmp_path)
    run("encode", "-", "-o", "a.sdac", stdin=source.read_bytes()).ok()
