"""The program as a process: what only a real one shows. Every other test of a command calls it in this process."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import soundfile

from streamdac import cli

from ..processes import in_terminal
from .conftest import SPEECH, Run
from .models import RATE

PROGRAM = [sys.executable, "-m", "streamdac"]


def script(code: str, *, check: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert not check or done.returncode == 0, done.stderr
    return done  # type: ignore[no-any-return]


def test_help_imports_neither_torch_nor_any_command() -> None:
    """Of the frontends only the modules that their entry points name, and shared options, which are light."""
    shown = script(
        "import sys\n"
        "from importlib.metadata import entry_points\n"
        "from streamdac.cli import main\n"
        "code = main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'soundfile', 'soxr', 'asyncio', 'streamdac.codec'} & set(sys.modules)\n"
        "frontends = {name for name in sys.modules if name.startswith('streamdac.frontends.')}\n"
        "commands = frontends - {entry.module for entry in entry_points(group='streamdac.frontends')}\n"
        "commands -= {'streamdac.frontends.options', 'streamdac.frontends.rates'}\n"
        "assert code == 0 and not heavy and not commands, (heavy, commands)"
    ).stdout
    for command in ("encode", "decode", "live", "info", "bench", "completion"):
        assert f"\n  {command} " in shown


def test_speech_through_two_pipes_is_the_audio_that_files_give(run: Run, tmp_path: Path, weights: Path) -> None:
    """As README says: cat speech.wav | streamdac encode - | streamdac decode - > b.wav."""
    speech, rate = soundfile.read(SPEECH, frames=RATE, dtype="int16")
    soundfile.write(tmp_path / "a.wav", speech, rate)
    model = ["--model", str(weights)]
    with (tmp_path / "a.wav").open("rb") as given, (tmp_path / "b.wav").open("wb") as taken:
        encode = subprocess.Popen([*PROGRAM, "encode", "-", "-o", "-", *model], stdin=given, stdout=subprocess.PIPE)
        decode = subprocess.Popen([*PROGRAM, "decode", "-", "-o", "-", *model], stdin=encode.stdout, stdout=taken)
        assert encode.stdout is not None
        encode.stdout.close()
        assert (decode.wait(), encode.wait()) == (0, 0)
    run("encode", tmp_path / "a.wav").ok()
    run("decode", tmp_path / "a.sdac", "-o", tmp_path / "c.wav").ok()
    # Even the header: stdout was a file, so its length was put in afterwards.
    assert (tmp_path / "b.wav").read_bytes()[:44] == (tmp_path / "c.wav").read_bytes()[:44]
    assert soundfile.read(tmp_path / "b.wav")[0].tolist() == soundfile.read(tmp_path / "c.wav")[0].tolist()
    assert soundfile.info(tmp_path / "b.wav").frames == len(speech)


def test_a_pipe_that_nobody_reads_ends_the_program_silently(weights: Path) -> None:
    command = [*PROGRAM, "encode", "tone:440", "-o", "-", "--model", str(weights)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(4) == b"\x89SDA"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_program_leaves_no_half_written_file(
    tmp_path: Path, weights: Path, number: int, code: int
) -> None:
    command = [*PROGRAM, "encode", "tone:440", "-o", "tone.sdac", "--model", str(weights)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not any(path.stat().st_size for path in tmp_path.iterdir()):
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said == ("streamdac: interrupted\n" if code == 130 else "")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize("nohup", [False, True])
def test_a_closed_terminal_ends_a_program_in_order_unless_it_ignores_that(
    tmp_path: Path, weights: Path, nohup: bool
) -> None:
    command = [*PROGRAM, "encode", "tone:440", "-o", "tone.sdac", "--model", str(weights), "-q"]
    process, near = in_terminal(command, tmp_path, nohup=nohup)
    while process.poll() is None and not any(path.stat().st_size for path in tmp_path.iterdir()):
        time.sleep(0.05)
    os.close(near)
    if nohup:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        assert len(os.listdir(tmp_path)) == 1
        process.terminate()
    assert process.wait(60) == 143
    assert os.listdir(tmp_path) == []


def test_of_several_hang_ups_one_counts() -> None:
    """A shell passes on what the kernel sends as well; a second SIGTERM would break off what the first began."""
    done = script(
        "import os, signal\n"
        "from streamdac.signals import end_in_order\n"
        "heard = []\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "end_in_order()\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))\n"
        "for _ in range(2): os.kill(os.getpid(), signal.SIGHUP)\n"
        "print(heard == [signal.SIGTERM])"
    )
    assert done.stdout == "True\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_or_closed_stdout_is_an_io_error_in_one_line(weights: Path) -> None:
    for closed, reason in ((False, "No space left on device"), (True, "Bad file descriptor")):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*PROGRAM, "info", str(weights)],
                stdout=None if closed else full,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=(lambda: os.close(1)) if closed else None,
            )
        assert (done.returncode, done.stderr) == (74, f"streamdac: {reason}\n")


def test_a_closed_stdin_is_an_empty_one(weights: Path, tmp_path: Path) -> None:
    """And no file that is opened later takes its place."""
    done = subprocess.run(
        [*PROGRAM, "encode", "-", "-o", str(tmp_path / "a.sdac"), "--model", str(weights)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.close(0),
    )
    assert done.returncode == 65
    assert done.stderr == "streamdac: stdin is empty\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--version"], 0, ""),
        (["encode"], 2, "Missing argument 'IN...'"),
        (["encode", "x.wav", "--speed", "9"], 2, "No such option"),
        (["decode", "x.sdac", "--raw", "mp3"], 2, "is not one of 's16le', 'f32le'"),
        (["sing"], 2, "No such command 'sing'"),
        (["encode", "tone:440,1", "-o", "x.sdac", "--model", "no.pth"], 66, "no model 'no.pth'"),
        (["encode", "tone:440,1", "-o", "x.sdac", "--model", "dac-44khz"], 69, "dac-44khz is not downloaded"),
        (["info", "tests/nothing"], 66, "no model"),
        (["info", "tests"], 2, "tests is a directory"),
        (["info", __file__], 65, "neither stream, archive, weights nor audio"),
    ],
)
def test_exit_codes_and_messages(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(Path(__file__).parents[2])
    result = run(*words)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


def test_an_error_that_nobody_foresaw_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(target: object) -> None:
        raise RuntimeError("tensors of\nmany lines")

    monkeypatch.setattr("streamdac.frontends.info.describe", fail)
    result = run("info")
    assert result.code == 1
    assert result.err == "streamdac: RuntimeError: tensors of (STREAMDAC_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("STREAMDAC_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        run("info")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_that_asks_this_program(run: Run, shell: str) -> None:
    assert f"_STREAMDAC_COMPLETE={shell}_complete" in run("completion", shell).ok().out.decode()


def test_completion_knows_commands_and_options(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_STREAMDAC_COMPLETE", "bash_complete")

    def complete(line: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        return [row.partition(",")[2] for row in run("ignored").ok().out.decode().splitlines()]

    assert complete("streamdac enc") == ["encode"]
    assert "--frames-per-packet" in complete("streamdac encode --fr")


@pytest.mark.parametrize(("options", "shown"), [([], True), (["-q"], False)])
def test_progress_is_for_terminals_and_can_be_silenced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path, options: list[str], shown: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    target = str(tmp_path / "a.sdac")
    assert cli.main(["encode", str(SPEECH), "-o", target, "--model", str(weights), *options]) == 0
    assert ("speech.flac" in screen.getvalue()) == shown


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encode", "-", "-o", "x.sdac"], "stdin is a terminal: pipe audio into it"),
        (["encode", "tone:440,1", "-o", "-"], "stdout is a terminal"),
        (["decode", "-", "-o", "x.wav"], "stdin is a terminal: pipe a stream into it"),
        (["decode", str(SPEECH), "-o", "-"], "stdout is a terminal"),
    ],
)
def test_neither_audio_nor_streams_are_typed_or_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: Path, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    near, far = os.openpty()
    said = io.StringIO()
    with open(near, "rb"), open(far) as typed, open(os.dup(far), "w") as shown:
        for name, stream in (("stdin", typed), ("stdout", shown), ("stderr", said)):
            monkeypatch.setattr(sys, name, stream)
        assert cli.main([*words, "--model", str(weights)]) == 2
        monkeypatch.undo()
    assert message in said.getvalue()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_no_finite_number_is_refused_as_one(run: Run, value: str) -> None:
    result = run("live", "-i", "tone:440", "-o", "null:", "--seconds", value)
    assert result.code == 2
    assert f"{value} is not" in result.err or "is not in the range" in result.err
