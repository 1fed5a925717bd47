"""What a terminal shows at several widths: progress, listings, plans, errors, the prompt.

The screens are kept in docs/screens/terminal. Lines that are longer than the terminal is wide, as
only names and sentences are, are kept as the terminal breaks them.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace

import pytest

from ftpclient.cli import app as app_module
from ftpclient.cli import render, status_line, trashed
from ftpclient.cli.headway import Headway, line
from ftpclient.connection.addresses import ServerAddress
from ftpclient.shell import prompt
from ftpclient.shell.running import run_line
from ftpwire.cells import cells
from ftpwire.messages import SpaceInfo, TrashedOperation
from tests import screens

WIDTHS = [30, 60, 100, 200]
MIB = 2**20
NAME = "annual-report-of-the-whole-company-2026-final.tar.gz"
WIDE_NAME = "日本語のとても長い名前のファイル.jpeg"

pytestmark = pytest.mark.parametrize("columns", WIDTHS)


class FakeTerminal(io.StringIO):
    """What is printed to a terminal."""

    def isatty(self) -> bool:
        return True


class Typing(io.StringIO):
    """What somebody answers at a terminal: seen there, as a terminal echoes it."""

    def __init__(self, answer: str, screen: FakeTerminal) -> None:
        super().__init__(answer)
        self._screen = screen

    def isatty(self) -> bool:
        return True

    def readline(self, size: int = -1, /) -> str:
        typed = super().readline(size)
        self._screen.write(typed)
        return typed


def broken(text: str, columns: int) -> str:
    """A text as a terminal shows it: lines that are too long are broken."""
    found = []
    for whole in screens.plain(text).splitlines():
        begin = ""
        for character in whole:
            if cells(begin + character) > columns:
                found.append(begin)
                begin = ""
            begin += character
        found.append(begin)
    return "\n".join(found)


def check(name: str, text: str, columns: int) -> None:
    screens.check(f"terminal/{name}-{columns}", broken(text, columns), columns=columns)


@pytest.fixture(autouse=True)
def environment(monkeypatch, columns) -> Iterator[None]:
    monkeypatch.setattr(status_line, "_EVERY_SECONDS", 3600)  # no line comes by chance
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("LS_COLORS", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@contextmanager
def terminal(monkeypatch, answer: str = "") -> Iterator[FakeTerminal]:
    screen = FakeTerminal()
    with redirect_stdout(screen), redirect_stderr(screen):
        monkeypatch.setattr(sys, "stdin", Typing(answer, screen))
        yield screen


@pytest.fixture
def seen(app, monkeypatch) -> Callable[..., str]:
    """Runs lines of the shell on a terminal; gives what was typed and printed."""

    def run(*lines: str, answer: str = "") -> str:
        with terminal(monkeypatch, answer) as screen:
            for one in lines:
                screen.write(f"> {one}\n")
                run_line(app, one)
            return screen.getvalue()

    return run


@pytest.fixture
def tree(files):
    """Alice's files, the same each time."""
    (files / "docs").mkdir()
    (files / "empty").mkdir()
    for name, size in (
        (NAME, 12_345_678),
        (WIDE_NAME, 4096),
        ("a\x1b[31m\nb", 1),
        ("run.sh", 20),
        ("docs/plan.txt", 2000),
        *((f"docs/{number:04}.txt", 1000) for number in range(30)),
    ):
        with open(files / name, "wb") as file:
            file.truncate(size)
        os.chmod(files / name, 0o755 if name == "run.sh" else 0o644)
    (files / "latest").symlink_to("docs/plan.txt")
    for place in (*files.rglob("*"), files):
        if not place.name.startswith(".ftpd"):
            os.utime(place, (1_767_323_045, 1_767_323_045), follow_symlinks=False)
    for directory in ("docs", "empty"):
        (files / directory).chmod(0o755)
    return files


def test_progress(columns):
    states = [
        Headway(0, 1000 * MIB, name=NAME),
        Headway(432 * MIB, 1000 * MIB, name=NAME, rate=12.3 * MIB),
        Headway(432 * MIB, 1000 * MIB, name=WIDE_NAME, rate=12.3 * MIB, files="  12/1000 files"),
        Headway(432 * MIB, 1000 * MIB, name="a\\x1b[31m\\nb", rate=900, files=" 999/1000 files"),
        Headway(432 * MIB, None, name="input", rate=12.3 * MIB),
        Headway(432 * MIB, 1000 * MIB, name=NAME, rate=12.3 * MIB, stalled=12),
        Headway(
            432 * MIB,
            1000 * MIB,
            name=NAME,
            waiting=(render.waiting_line(12.0, 4.0), "offline 12 s"),
        ),
        Headway(1000 * MIB, 1000 * MIB, name=NAME, rate=12.3 * MIB),
    ]
    drawn = [line(one, columns - 1) for one in states]
    assert max(map(cells, drawn)) < columns
    check("progress", "\n".join(drawn), columns)


def test_ls(seen, tree, columns):
    check("ls", seen("ls", "ls docs"), columns)


def test_ls_long(seen, tree, columns):
    check("ls-l", seen("ls -l", "ls -lh docs/plan.txt", "ls -Q run.sh a*"), columns)


def test_df(columns):
    rooms = [
        SpaceInfo(60 * MIB, 0, total=10 * 2**30, free=9 * 2**30, used_files=12, total_files=1000),
        SpaceInfo(
            60 * MIB,
            30 * MIB,
            disk_free=2**30,
            kept=28 * MIB,
            kept_uploads=2,
            trash=5 * MIB,
            trash_files=3,
        ),
    ]
    text = "\n".join("\n".join(render.space_lines(space)) for space in rooms)
    check("df", text, columns)


def test_trash(columns):
    def operation(name: str, seconds: int, words: str, **more) -> TrashedOperation:
        fields = {
            "client": None,
            "expires": 1_922_832_000,
            "items": 1,
            "kept": 1,
            "size": 12_345_678,
            "files": 300,
            "counted": True,
            "undone": False,
            "first": b"/docs",
        }
        begun = time.time_ns() - seconds * 10**9
        return TrashedOperation(name=name, time_ns=begun, words=words, **(fields | more))

    found = [
        operation("3f2a" + "0" * 28, 630, "rm -r /docs"),
        operation("9c01" + "0" * 28, 7300, f"put {NAME} /reports/2026/{NAME}", counted=False),
        operation("b7e4" + "0" * 28, 90_000, "mv a b", kept=0, size=0, files=0),
        operation("d000" + "0" * 28, 200_000, "", undone=True, items=3),
    ]
    text = "\n".join(trashed.Operations(found).lines(found, columns))
    assert all(cells(one) <= columns for one in text.splitlines())
    check("trash", text, columns)


def test_plan_before_a_question(seen, tree, local, columns):
    (local / "empty").mkdir()
    text = seen("sync --delete --force empty :/docs", answer="no\n")
    text += seen("rm -r --purge docs run.sh", answer="no\n")
    assert (tree / "docs" / "plan.txt").exists()
    check("plan", text, columns)


def test_errors(seen, tree, local, server, columns):
    server.accounts.change("alice", quota=20 * MIB)
    with open(local / "big.iso", "wb") as file:
        file.truncate(40 * MIB)
    lines = (
        "stat nope",
        "ls nope empty",
        "rm -r nope docs",
        "put big.iso",
        "frobnicate",
        "rm -x a",
    )
    check("errors", seen(*lines), columns)


def test_the_prompt(columns, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    client = SimpleNamespace(user="alice", address=ServerAddress("files.example", user="alice"))
    shown = []
    for cwd in ("/", "/docs", "/docs/2026/reports/final/and-more", f"/{WIDE_NAME}/x", f"/{NAME}"):
        client.cwd = cwd.encode()
        app = SimpleNamespace(known_client=client, shell=app_module.ShellState())
        text = "".join(part for _, part in prompt.parts(app, 0, columns))  # type: ignore[arg-type]
        directory = "/" + text.partition(":/")[2][:-2]
        assert cells(text) < columns
        assert cells(directory) <= max(12, columns // 3)
        shown.append(text)
    check("prompt", "\n".join(shown), columns)


def test_no_other_screens_are_kept(columns):
    names = (
        "progress",
        "ls",
        "ls-l",
        "df",
        "trash",
        "plan",
        "errors",
        "prompt",
        "log",
        "user-list",
    )
    assert screens.kept("terminal") == {f"terminal/{one}-{w}" for one in names for w in WIDTHS}
