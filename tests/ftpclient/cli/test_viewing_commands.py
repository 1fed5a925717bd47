"""less and edit, with programs that stand for the user's own, on a real server."""

from __future__ import annotations

import os
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftpclient.cli import private_copies
from ftpclient.cli.commands import viewing
from ftpclient.shell.running import run_line
from ftpclient.transfer.report import Listener

MIB = 2**20


@pytest.fixture
def app(tmp_path, monkeypatch, app):
    """Temporary files lie where a test can look for them."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(viewing.tempfile, "tempdir", str(tmp_path / "temporary"))
    return app


@pytest.fixture
def left(tmp_path):
    """What lies among the temporary files: files, and directories without any."""
    return lambda: sorted(
        path
        for path in (tmp_path / "temporary").rglob("*")
        if not path.is_dir() or not list(path.iterdir())
    )


@pytest.fixture
def run(run, monkeypatch):
    """Runs a line as if at a terminal; gives its status, its output and its complaints."""
    monkeypatch.setattr(viewing, "_need_terminal", lambda *_: None)
    return run


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """Has a shell script be the editor; $1 is the file."""

    def use(script: str) -> None:
        program = tmp_path / "my editor"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o700)
        monkeypatch.setenv("EDITOR", f"'{program}'")

    monkeypatch.delenv("VISUAL", raising=False)
    return use


@pytest.mark.parametrize("line", ["less file", "more file", "edit file"])
def test_without_a_terminal(app, capfd, files, line):
    (files / "file").write_text("text")
    assert run_line(app, line) == 2
    assert "needs a terminal: " in capfd.readouterr().err


@pytest.mark.parametrize("name", ["n[1].txt", "d[1]/n*"])
def test_edit_makes_a_name_with_brackets(run, files, editor, name):
    (files / "d[1]").mkdir()
    editor('echo new > "$1"')
    assert run(f"edit {name}")[0] == 0
    assert (files / name).read_text() == "new\n"


# less ---------------------------------------------------------------------------------------


def test_less(run, files, left, monkeypatch):
    for name in ("a.txt", "b.txt"):
        (files / name).write_text(f"in {name}\n")
    monkeypatch.setenv("PAGER", "cat -n")
    assert run("less *.txt") == (0, "     1\tin a.txt\n     1\tin b.txt\n", "")
    assert left() == []


def test_less_shows_odd_names_and_what_links_lead_to(run, files, left, monkeypatch):
    (files / "-n [x]").write_text("text\n")
    (files / "link").symlink_to("-n [x]")
    monkeypatch.setenv("PAGER", "cat")
    assert run("less ./'-n [x]'") == (0, "text\n", "")
    assert run("less link") == (0, "text\n", "")
    assert left() == []


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        pytest.param("less nope", 5, "/nope: no such file or directory", id="not-found"),
        pytest.param("less d", 1, "/d: a directory (use -r)", id="directory"),
        pytest.param("less file", 1, "exit 3;: exit status 3", id="pager-fails"),
    ],
)
def test_less_refuses(run, files, left, monkeypatch, line, status, complaint):
    (files / "d").mkdir()
    (files / "file").write_text("text")
    monkeypatch.setenv("PAGER", "exit 3;")
    assert run(line) == (status, "", f"ftp: {complaint}\n")
    assert left() == []


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        pytest.param("less file", False, id="less"),
        pytest.param("diff here :file", False, id="diff"),
        pytest.param("edit file", False, id="edit-fetches"),
        pytest.param("edit new", True, id="edit-stores"),
    ],
)
def test_an_interruption_advises_no_second_run(
    app, run, files, local, left, editor, monkeypatch, line, kept
):
    """It could not go on: the copy is removed, and another edit begins with the server's file."""
    (files / "file").write_bytes(b"text of a line\n" * MIB)
    (local / "here").write_text("other\n")
    editor(f"head -c {15 * MIB} '{files}/file' > \"$1\"")
    moved = 0

    class Stopping(Listener):
        def advanced(self, count: int) -> None:
            nonlocal moved
            moved += count
            if moved >= 5 * MIB:
                app.interrupt.set()

    monkeypatch.setattr(private_copies, "listening", lambda *_: nullcontext(Stopping()))
    status, out, err = run(line)
    assert (status, out, err.splitlines()[-1]) == (130, "", "ftp: interrupted")
    assert moved >= 5 * MIB and ("to store it, run: put" in err) == kept


# edit ---------------------------------------------------------------------------------------


def test_edit(run, files, left, editor):
    (files / "file.txt").write_text("old\n")
    (files / "file.txt").chmod(0o640)
    editor('echo new >> "$1"')
    assert run("edit file.txt")[0] == 0
    assert (files / "file.txt").read_text() == "old\nnew\n"
    assert (files / "file.txt").stat().st_mode & 0o777 == 0o640
    assert left() == []


def test_edit_makes_a_file(run, files, left, editor):
    editor('echo new > "$1"')
    assert run("edit new.txt")[0] == 0
    assert (files / "new.txt").read_text() == "new\n"
    assert (files / "new.txt").stat().st_mode & 0o777 == 0o644
    assert left() == []


def test_edit_of_a_link_changes_what_it_leads_to(run, files, editor):
    (files / "d").mkdir()
    (files / "d" / "file").write_text("old\n")
    (files / "d" / "link").symlink_to("file")
    (files / "link").symlink_to("/d/link")
    editor('echo new > "$1"')
    assert run("edit link")[0] == 0
    assert (files / "d" / "file").read_text() == "new\n"
    assert (files / "link").is_symlink() and (files / "d" / "link").is_symlink()


@pytest.mark.parametrize("script", ["true", 'touch "$1"', 'rm "$1"'])
def test_edit_stores_nothing_when_nothing_changed(run, files, left, editor, script):
    (files / "file").write_text("old\n")
    before = (files / "file").stat()
    editor(script)
    assert run("edit file") == (0, "", "ftp: /file: not changed\n")
    assert (files / "file").stat().st_ino == before.st_ino
    assert left() == []


@pytest.mark.parametrize(
    ("end", "number"), [("exit 1", 1), ("kill -9 $$", 137), ("kill -HUP $$", 129)]
)
def test_edit_keeps_the_copy_when_the_editor_fails(run, files, left, editor, end, number):
    (files / "file").write_text("old\n")
    editor(f'echo new > "$1"; {end}')
    status, _, err = run("edit file")
    assert status == 1 and err.endswith(f"my editor': exit status {number}\n")
    assert (files / "file").read_text() == "old\n"
    (kept,) = left()
    assert kept.read_text() == "new\n"
    assert f"ftp: your version is kept; to store it, run: put {kept} /file\n" in err
    assert run(f"put {kept} /file")[0] == 0
    assert (files / "file").read_text() == "new\n"


def test_edit_keeps_nothing_when_the_editor_fails_and_nothing_changed(run, files, left, editor):
    (files / "file").write_text("old\n")
    editor("exit 1")
    status, _, err = run("edit file")
    assert status == 1 and "kept" not in err
    assert left() == []


def test_edit_reports_where_the_copy_is_also_when_it_is_to_be_quiet(app, run, files, left, editor):
    (files / "my file").write_text("old\n")
    (files / "link").symlink_to("my file")
    app.quiet = True
    editor('echo new > "$1"; exit 1')
    err = run("edit link")[2]
    (kept,) = left()
    assert f"to store it, run: put {kept} '/my file'\n" in err


@pytest.mark.system
def test_edit_keeps_the_copy_when_the_server_is_gone(
    app, run, server, start_server, tmp_path, files, left, editor
):
    (files / "file").write_text("old\n")
    begun, go_on = tmp_path / "begun", tmp_path / "go on"
    os.mkfifo(begun)
    os.mkfifo(go_on)
    editor(f"echo new > \"$1\"; echo > '{begun}'; read x < '{go_on}'")

    def stop() -> None:
        begun.read_text()
        start_server.finish(server)
        go_on.write_text("\n")

    stopping = threading.Thread(target=stop)
    stopping.start()
    try:
        status, _, err = run("edit file")
    finally:
        stopping.join()
    assert status == 4
    (kept,) = left()
    assert kept.read_text() == "new\n"
    assert f"put {kept} /file\n" in err


def test_edit_keeps_the_copy_when_there_is_no_space(run, server, files, left, editor):
    (files / "file").write_text("old\n")
    server.accounts.change("alice", quota=10)
    editor('echo much longer than that > "$1"')
    status, _, err = run("edit file")
    assert status == 7
    (kept,) = left()
    assert kept.read_text() == "much longer than that\n"
    assert f"put {kept} /file\n" in err


# an editor that opens a window, and leaves ----------------------------------------------------


@pytest.fixture
def terminal(app, monkeypatch):
    """Standard input is a terminal, at which lines are typed; they may do something before."""

    def use(typed) -> None:
        monkeypatch.setattr(type(app), "can_ask", True)
        monkeypatch.setattr(viewing.sys, "stdin", SimpleNamespace(readline=typed))

    return use


def test_edit_waits_for_an_editor_that_returns_at_once(run, files, left, editor, terminal):
    (files / "file").write_text("old\n")

    def typed() -> str:
        (copy,) = left()
        copy.write_text("new\n")
        return "\n"

    terminal(typed)
    editor("true")
    status, _, err = run("edit file")
    assert status == 0
    assert (files / "file").read_text() == "new\n"
    assert "Press Enter when you have finished editing" in err
    assert 'EDITOR="code --wait"' in err
    assert left() == []


def test_edit_asks_nothing_after_an_editor_that_took_its_time(
    run, files, left, editor, terminal, monkeypatch
):
    (files / "file").write_text("old\n")
    monkeypatch.setattr(viewing, "_AT_ONCE_SECONDS", 0.0)
    terminal(lambda: pytest.fail("asked"))
    editor("true")
    assert run("edit file") == (0, "", "ftp: /file: not changed\n")
    assert left() == []


def test_edit_asks_nothing_when_the_file_was_changed(run, files, editor, terminal):
    (files / "file").write_text("old\n")
    terminal(lambda: pytest.fail("asked"))
    editor('echo new > "$1"')
    assert run("edit file")[0] == 0
    assert (files / "file").read_text() == "new\n"


def test_edit_keeps_what_a_window_may_still_have_open(run, files, left, editor, terminal):
    (files / "file").write_text("old\n")

    def typed() -> str:
        raise KeyboardInterrupt

    terminal(typed)
    editor("true")
    status, _, err = run("edit file")
    assert status == 130
    (kept,) = left()
    assert f"put {kept} /file\n" in err


@pytest.mark.parametrize(
    ("meanwhile", "name"),
    [
        pytest.param("echo theirs > '{}/file'", "file", id="changed"),
        pytest.param("rm '{}/file'", "file", id="removed"),
        pytest.param("echo theirs > '{}/new'", "new", id="made"),
    ],
)
def test_edit_never_overwrites_what_others_did(run, files, left, editor, meanwhile, name):
    (files / "file").write_text("old and longer\n")
    editor('echo mine > "$1"; ' + meanwhile.format(files))
    status, _, err = run(f"edit {name}")
    assert status == 1
    (kept,) = left()
    assert kept.read_text() == "mine\n"
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert err == (
        f"ftp: your version is kept; to store it, run: put {kept} /{name}\n"
        f"ftp: /{name}: changed on the server meanwhile; not stored\n"
    )
    if (files / name).exists():
        assert (files / name).read_text() == "theirs\n"


def test_edit_keeps_the_copy_when_it_cannot_be_stored(run, files, left, editor):
    (files / "d").mkdir()
    editor('echo mine > "$1"; rmdir ' + f"'{files}/d'")
    status, _, err = run("edit d/new")
    assert status == 5
    (kept,) = left()
    assert kept.read_text() == "mine\n"
    assert f"your version is kept; to store it, run: put {kept} /d/new\n" in err


@pytest.mark.parametrize("name", ["d", "d*"])
def test_edit_takes_one_file(run, files, left, editor, name):
    (files / "d").mkdir()
    (files / "d2").mkdir()
    editor("echo never")
    status, out, err = run(f"edit {name}")
    assert status in (1, 2) and out == ""
    assert err.count("\n") == 1
    assert left() == []


def test_without_a_program(run, files, monkeypatch):
    (files / "file").touch()
    monkeypatch.delenv("PAGER", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    assert run("less file") == (1, "", "ftp: less not found: set PAGER\n")


def test_the_copy_is_private_while_it_is_edited(run, files, editor, tmp_path):
    (files / "file").write_text("old\n")
    reported = tmp_path / "told"
    editor(f'stat -c %a "$(dirname "$1")" > \'{reported}\'')
    assert run("edit file")[0] == 0
    assert Path(reported).read_text() == "700\n"
    assert os.listdir() == []
