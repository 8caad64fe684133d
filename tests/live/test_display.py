from __future__ import annotations

import io
import os
import sys

import pytest

from streamdac.frontends.chain import Settings
from streamdac.frontends.device_names import may_feed_back
from streamdac.frontends.display import Display, bar, press, screen
from streamdac.frontends.keyboard import Keyboard
from streamdac.frontends.live_status import Split, Status

SPLIT = Split(2.0, 13.33, 0, 2.67, 0.5, 1.0, 1.5, 3.0, 4.0)
STATUS = Status(
    1.0, "m", "native", "mic", "out", 48_000, 48_000, -20.0, -80.0, 4, 3.0, 9.0, True, False, 75, 3, SPLIT, 21, 22, 3, 4, 1, 2,
    0, 0, 0, 0, 0, 12.0, 0.1, 21.0, SPLIT.total,
)  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_screen_shows_all_parts_and_their_sum() -> None:
    text = "\n".join(screen(STATUS))
    assert "28.0 ms = device in 2.0 + hop 13.3 + conversion 2.7" in text
    assert "look-ahead" not in text, "nothing is left out"
    assert "muted" in text
    assert "3 of 75 hops lost" in text
    assert "drift +12 ppm" in text


def test_it_is_drawn_over_itself_and_leaves_nothing() -> None:
    terminal = Terminal()
    display = Display(terminal)
    display.draw(STATUS)
    lines = terminal.getvalue().count("\n")
    display.draw(STATUS)
    assert terminal.getvalue().count("\n") == 2 * lines
    assert f"\x1b[{lines}A" in terminal.getvalue()
    display.say("a message")
    display.draw(STATUS)
    display.clear()
    assert terminal.getvalue().endswith(f"\x1b[{lines}A\r\x1b[J")


def test_where_there_is_no_terminal_only_messages_come() -> None:
    stream = io.StringIO()
    display = Display(stream)
    display.draw(STATUS)
    display.say("a message")
    display.clear()
    assert stream.getvalue() == "a message\n"


@pytest.mark.parametrize(("db", "marks"), [(-80, 0), (-60, 0), (-30, 15), (0, 30), (6, 30)])
def test_the_meter_is_linear_in_db(db: float, marks: int) -> None:
    assert bar(db).count("#") == marks


def test_keys_change_the_settings_within_their_bounds() -> None:
    settings = Settings(2)
    for key in ("+", "up", "=", "+"):
        assert press(key, settings, 4)
    assert settings.codebooks == 4
    for key in ("-", "down", "_", "-", "-"):
        assert press(key, settings, 4)
    assert settings.codebooks == 1
    press("m", settings, 4)
    press("o", settings, 4)
    assert (settings.muted, settings.original) == (True, True)
    press("m", settings, 4)
    assert not settings.muted
    assert not press("q", settings, 4)
    assert press("x", settings, 4)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gives_single_keys_and_is_as_before() -> None:
    import pty
    import termios

    main, terminal = pty.openpty()
    try:
        before = termios.tcgetattr(terminal)
        with Keyboard(terminal) as keys:
            assert keys.active
            for sent, wanted in ((b"m", "m"), (b"\x1b[A", "up"), (b"\x1bOB", "down")):
                os.write(main, sent)
                assert keys.wait(5) == wanted
            assert keys.wait(0) is None
        assert termios.tcgetattr(terminal) == before
    finally:
        os.close(main)
        os.close(terminal)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_that_is_gone_gives_no_keys_and_harms_nothing() -> None:
    main, terminal = os.openpty()
    try:
        with Keyboard(terminal) as keys:
            os.close(main)
            assert keys.wait(0.01) is None
    finally:
        os.close(terminal)


def test_a_pipe_gives_no_keys() -> None:
    reader, writer = os.pipe()
    try:
        os.write(writer, b"q")
        with Keyboard(reader) as keys:
            assert not keys.active
            assert keys.wait(0) is None
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("source", "target", "howls"),
    [
        ("MacBook Pro Microphone", "MacBook Pro Speakers", True),
        ("HDA Intel PCH: ALC257 Analog (hw:0,0)", "HDA Intel PCH: ALC257 Analog (hw:0,0)", True),
        ("USB Headset", "MacBook Pro Speakers", False),
        ("system", "system", False),
        (None, "MacBook Pro Speakers", False),
    ],
)
def test_a_microphone_and_a_loudspeaker_in_one_case_are_warned_of(
    source: str | None, target: str | None, howls: bool
) -> None:
    assert may_feed_back(source, target) is howls
