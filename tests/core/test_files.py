"""A file appears whole or not at all, and never over another unless asked."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from streamdac.errors import DeniedError, NoInputError, OutputError
from streamdac.files import unreadable, written_whole


def test_it_appears_at_the_end_with_the_usual_permissions(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    before = os.umask(0o027)
    try:
        with written_whole(target) as temporary:
            temporary.write_text("all of it")
            assert not target.exists()
            assert temporary.parent == target.parent
    finally:
        os.umask(before)
    assert target.read_text() == "all of it"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_breaks_it_off_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def half() -> None:
        with written_whole(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert list(tmp_path.iterdir()) == []


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(OutputError, match="is there already"), written_whole(target):
        pytest.fail("entered")
    with pytest.raises(ValueError, match="half way"), written_whole(target, force=True):
        raise ValueError("half way")
    assert target.read_text() == "old"
    with written_whole(target, force=True) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_errors_name_the_file_and_keep_their_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    within = tmp_path / "file" / "a.txt"
    with pytest.raises(OutputError, match=r"file/a.txt: (File exists|Not a directory)"), written_whole(within):
        pytest.fail("entered")
    with pytest.raises(OutputError, match=r"a.txt: No space left on device"), written_whole(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutputError, match="is a directory"), written_whole(tmp_path):
        pytest.fail("entered")
    assert type(unreadable("x", PermissionError(13, "Permission denied"))) is DeniedError
    assert type(unreadable("x", OSError(5, "Input/output error"))) is NoInputError


def test_an_error_about_another_file_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="other"), written_whole(tmp_path / "a.txt"):
        (tmp_path / "other").read_text()
    with pytest.raises(BrokenPipeError), written_whole(tmp_path / "a.txt"):
        raise BrokenPipeError


def test_a_long_name_is_no_hindrance(tmp_path: Path) -> None:
    for name in ("n" * 251 + ".wav", "ü" * 125 + ".wav"):
        with written_whole(tmp_path / name) as temporary:
            temporary.write_text("x")
        assert (tmp_path / name).exists()


def test_it_stays_where_permissions_cannot_be_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object, mode: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(os, "chmod", refuse)  # as on a share
    with written_whole(tmp_path / "a.txt") as temporary:
        temporary.write_text("hours of it")
    assert (tmp_path / "a.txt").read_text() == "hours of it"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_a_file_that_is_overwritten_keeps_its_permissions_and_a_link_to_it_its_target(
    tmp_path: Path, mode: int
) -> None:
    target, link = tmp_path / "folder" / "a.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    target.write_text("old")
    target.chmod(mode)
    link.symlink_to(Path("folder") / "a.txt")
    with written_whole(link, force=True) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_link_to_nothing_becomes_one_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.txt").symlink_to("a.txt")
    with written_whole(tmp_path / "link.txt") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "a.txt").read_text() == "x"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_regular_file_is_refused_and_stays(tmp_path: Path, force: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe is no regular file"), written_whole(tmp_path / "pipe", force=force):
        pytest.fail("entered")
    assert (tmp_path / "pipe").is_fifo()
