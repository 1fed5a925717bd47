"""The shell's history: private, bounded, and never a reason to fail."""

from __future__ import annotations

import os
import stat

import pytest

from ftpclient.shell.history import KEPT, LineHistory


@pytest.fixture
def path(tmp_path):
    return tmp_path / "settings" / "history"


def loaded(path) -> list[str]:
    """The lines of a new shell, oldest first."""
    return list(LineHistory(path).load_history_strings())[::-1]


def test_lines_are_kept_for_the_next_shell(path):
    history = LineHistory(path)
    for line in ("ls", "cd 'täglich'", "cat \udcff"):
        history.append_string(line)
    assert history.get_strings() == ["ls", "cd 'täglich'", "cat \udcff"]
    assert loaded(path) == ["ls", "cd 'täglich'", "cat \udcff"]


def test_shells_at_the_same_time(path):
    one, other = LineHistory(path), LineHistory(path)
    one.append_string("ls one")
    other.append_string("ls other")
    one.append_string("ls again")
    assert loaded(path) == ["ls one", "ls other", "ls again"]


def test_several_lines_pasted_at_once(path):
    LineHistory(path).append_string("cd a\nls")
    assert loaded(path) == ["cd a", "ls"]


def test_a_line_that_goes_on_is_one(path):
    history = LineHistory(path)
    for lines in ("put 'a\nb' \\\nc", "ls", "cd 'x\ny'\npwd"):  # the last two were pasted
        history.append_string(lines)
    assert loaded(path) == ["put 'a\nb' \\\nc", "ls", "cd 'x\ny'", "pwd"]
    # what earlier versions make of it
    assert path.read_text().split("\n") == ["put 'a", "b' \\", "c", "ls", "cd 'x", "y'", "pwd", ""]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_the_file_is_private(path, umask):
    before = os.umask(umask)
    try:
        LineHistory(path).append_string("ls")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("the secret", id="secret"),
        pytest.param("!curl -u alice:secret", id="secret-inside"),
        pytest.param(" ls", id="after-a-blank"),
        pytest.param("  ", id="blank"),
        pytest.param("", id="empty"),
    ],
)
def test_lines_that_are_not_kept(path, line):
    history = LineHistory(path, is_secret=lambda line: "secret" in line)
    history.append_string(line)
    assert history.get_strings() == []
    assert not path.exists()


def test_the_file_is_cut_back(path):
    path.parent.mkdir()
    path.write_text("".join(f"ls {number}\n" for number in range(2 * KEPT)))
    with path.open("a") as file:
        file.write("ls 'a\r\nb'\n")
    kept = [*(f"ls {number}" for number in range(KEPT + 1, 2 * KEPT)), "ls 'a\nb'"]
    assert loaded(path) == kept
    assert loaded(path) == kept
    assert len(path.read_text().splitlines()) == KEPT + 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_end_of_a_line_that_is_still_being_written_is_left_out(path):
    path.parent.mkdir()
    path.write_text("ls\nca")
    assert loaded(path) == ["ls"]


def test_a_history_that_can_t_be_kept(tmp_path):
    (tmp_path / "file").touch()
    history = LineHistory(tmp_path / "file" / "history")
    history.append_string("ls")
    assert history.get_strings() == ["ls"]
    assert loaded(tmp_path / "file" / "history") == []


@pytest.mark.parametrize(
    "line",
    [
        "open ftpd://bob:hunter2@files.example/",
        "alias x='open ftpd://u:hunter2@h/'",
        "put --proxy socks5://u:hunter2@h:1 a",
        "FTP_PASSWORD=hunter2 ls",
        "!env API_KEY=hunter2 make",
        "login --password hunter2 bob@h",
        "login --password=hunter2 bob@h",
        "!curl -u bob:hunter2 http://x",
        "!curl -ubob:hunter2 http://x",
        "!mysql --user root -pxyz --pass hunter2",
    ],
)
def test_a_line_with_a_password_is_kept_nowhere(tmp_path, line):
    path = tmp_path / "history"
    history = LineHistory(path)
    history.append_string("ls")
    history.append_string(line)
    assert list(history.get_strings()) == ["ls"]
    assert path.read_text() == "ls\n"


@pytest.mark.parametrize(
    "line",
    [
        "login --password-stdin bob@h",
        "put a:b user@host:/x",
        "get ftpd://bob@files.example:1234/a",
        "ls token passwords/secret=",
        "token revoke 12ab",
        "login --token-name laptop",
        "find . -name 'a:b@c'",
        "get -u alice@host:/p .",
    ],
)
def test_others_are_kept(tmp_path, line):
    path = tmp_path / "history"
    LineHistory(path).append_string(line)
    assert path.read_text() == f"{line}\n"


def test_what_is_no_command_may_be_a_password(tmp_path):
    """It can be had back with the arrow keys, to mend a slip."""
    path = tmp_path / "history"
    history = LineHistory(path, is_command=lambda line: line.startswith("ls"))
    for line in ("ls a", "correct-horse", "lx b"):
        history.append_string(line)
    assert path.read_text() == "ls a\n"
    assert list(history.get_strings()) == ["ls a", "correct-horse", "lx b"]
