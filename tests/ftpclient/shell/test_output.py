"""Where the output of a command goes: local files and local commands, on a real server."""

from __future__ import annotations

import errno
import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from ftpclient.shell import redirect
from ftpclient.shell.running import run_line
from ftpwire import standard
from tests.ftpclient.shell.shell_support import shell_of


@pytest.fixture(autouse=True)
def local_shell(monkeypatch):
    monkeypatch.setenv("SHELL", "/bin/sh")


@pytest.fixture
def numbers(files):
    """A remote file that is larger than a pipe."""
    (files / "numbers").write_text("".join(f"{number}\n" for number in range(100_000)))
    (files / "few").write_text("3\n1\n2\n")
    return files


# into files ---------------------------------------------------------------------------------


def test_output_into_a_file(run, numbers, local):
    assert run("cat few > out") == (0, "", "")
    assert (local / "out").read_text() == "3\n1\n2\n"
    assert run("ls>out;ls>>out;pwd >> out") == (0, "", "")
    assert (local / "out").read_text() == "few\nnumbers\nfew\nnumbers\n/\n"
    assert run("pwd >> new") == (0, "", "")
    assert (local / "new").read_text() == "/\n"
    assert sorted(os.listdir(local)) == ["new", "out"]
    assert run("pwd") == (0, "/\n", "")


def test_names_of_files(run, local, tmp_path):
    (tmp_path / "user").mkdir(exist_ok=True)
    (local / "sub dir").mkdir()
    assert run("pwd > 'a;b*'; pwd > ~/mine; pwd > \\~; lcd 'sub dir'; pwd > here") == (0, "", "")
    assert sorted(os.listdir(local)) == ["a;b*", "sub dir", "~"]
    assert (tmp_path / "user" / "mine").read_text() == "/\n"
    assert (local / "sub dir" / "here").read_text() == "/\n"


def test_output_of_a_command_that_fails_is_dropped(run, numbers, local):
    (local / "out").write_text("as it was")
    note = "ftp: out: not written, because cat failed\n"
    missing = "ftp: /nope: no such file or directory\n"
    assert run("cat few nope > out") == (1, "", missing + note)
    assert run("cat nope > new") == (5, "", missing + note.replace("out", "new"))
    assert (local / "out").read_text() == "as it was"
    assert os.listdir(local) == ["out"]
    assert run("cat few nope >> out")[0] == 1
    assert (local / "out").read_text() == "as it was3\n1\n2\n"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_modes_of_files(run, local, umask):
    before = os.umask(umask)
    try:
        assert run("pwd > new; pwd >> appended") == (0, "", "")
    finally:
        os.umask(before)
    for name in ("new", "appended"):
        assert stat.S_IMODE((local / name).stat().st_mode) == 0o666 & ~umask
    (local / "new").chmod(0o640)
    assert run("pwd > new") == (0, "", "")
    assert stat.S_IMODE((local / "new").stat().st_mode) == 0o640


def test_a_file_appears_whole(app, numbers, local, monkeypatch):
    """While the command runs, the old file is there."""
    (local / "out").write_text("as it was")
    seen = []
    cat = app.cat

    def cat_and_look(path):
        cat(path)
        seen.append((local / "out").read_text())

    monkeypatch.setattr(app, "cat", cat_and_look)
    assert run_line(app, "cat few > out") == 0
    assert seen == ["as it was"]
    assert (local / "out").read_text() == "3\n1\n2\n"


def test_a_link_stays_and_leads_to_the_new_file(run, local):
    (local / "real").mkdir()
    (local / "real" / "file").write_text("old")
    (local / "link").symlink_to("real/file")
    assert run("pwd > link") == (0, "", "")
    assert os.readlink(local / "link") == "real/file"
    assert (local / "real" / "file").read_text() == "/\n"
    (local / "nowhere").symlink_to("gone/file")
    status, _, err = run("pwd > nowhere")
    assert (status, "does not exist" in err) == (5, True)


def test_devices_and_descriptors_are_written_to(run, local):
    (local / "null").symlink_to("/dev/null")
    lines = "pwd > /dev/null; pwd > null; pwd >> /dev/null; pwd > /dev/stdout; pwd >> /dev/fd/1"
    assert run(lines) == (0, "/\n/\n", "")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.readlink(local / "null") == "/dev/null"


@pytest.mark.parametrize("operator", [">", ">>"])
def test_a_fifo_is_written_to(run, numbers, local, operator):
    os.mkfifo(local / "fifo")
    read = []
    reader = threading.Thread(target=lambda: read.append((local / "fifo").read_bytes()))
    reader.start()
    try:
        assert run(f"cat numbers {operator} fifo") == (0, "", "")
    finally:
        reader.join()
    assert read == [(numbers / "numbers").read_bytes()]
    assert stat.S_ISFIFO((local / "fifo").stat().st_mode)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param("rm few > sub", "sub: is a directory", id="directory"),
        pytest.param(
            "rm few > sub/no/file", "sub/no: no such file or directory", id="no-directory"
        ),
        pytest.param("rm few > new/", "new: no such file or directory", id="slash"),
        pytest.param("rm few > readonly", "readonly: permission denied", id="read-only"),
        pytest.param("rm few >> sub", "sub: is a directory", id="append-to-directory"),
        pytest.param(
            "rm few > /proc/nope", "/proc/nope: no such file or directory", id="no-files-there"
        ),
    ],
)
def test_a_file_that_can_t_be_written_lets_nothing_run(
    run, numbers, local, line, complaint, monkeypatch
):
    (local / "sub").mkdir()
    (local / "readonly").write_text("mine")
    real = os.access
    monkeypatch.setattr(  # as it is for everybody but root
        os, "access", lambda path, *a, **k: real(path, *a, **k) and path != b"readonly"
    )
    status, out, err = run(line)
    assert status != 0
    assert out == ""
    assert err == f"ftp: {complaint}\n"
    assert (numbers / "few").exists()
    assert sorted(os.listdir(local)) == ["readonly", "sub"]


def test_a_disk_that_is_full(run, numbers, local, monkeypatch):
    """Nothing is left of it, and the old file is as it was."""
    (local / "out").write_text("as it was")

    def fail(self, data):
        if self.fileno() == 1 and not self.dropping:
            self.fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        return len(data)

    monkeypatch.setattr(standard.Output, "write", fail)
    status, _, err = run("ls > out")
    assert status == 1
    assert err.startswith("ftp: out: the disk is full\n")
    assert (local / "out").read_text() == "as it was"
    assert os.listdir(local) == ["out"]


def test_an_interrupted_command_leaves_the_old_file(app, numbers, local, monkeypatch, capfd):
    (local / "out").write_text("as it was")
    space = app.client.space
    monkeypatch.setattr(app.client, "space", lambda: app.interrupt.set() or space())
    assert run_line(app, "df > out; rm few") == 130
    assert (local / "out").read_text() == "as it was"
    assert (numbers / "few").exists()


def test_a_file_that_is_replaced_while_it_is_opened(local, monkeypatch):
    """What was looked at is what is written to."""
    os.mkfifo(local / "fifo")
    look = redirect.look

    def swap(path):
        found = look(path)
        os.rename(local / "fifo", local / "other")
        (local / "fifo").write_text("another")
        return found

    monkeypatch.setattr(redirect, "look", swap)
    with (
        pytest.raises(Exception, match="replaced meanwhile"),
        redirect.opened(b"fifo", append=True),
    ):
        pass
    assert (local / "fifo").read_text() == "another"


def test_a_file_that_becomes_another_while_the_command_runs(run, numbers, local):
    """What the command itself has put there isn't lost to its output."""
    why = "was replaced meanwhile"
    assert run("get few > few") == (1, "", f"ftp: few: {why}\n")
    assert (local / "few").read_text() == "3\n1\n2\n"
    (local / "x").write_text("old")
    assert run("get -T few x > x") == (1, "", f"ftp: x: {why}\n")
    assert (local / "x").read_text() == "3\n1\n2\n"
    (local / "link").symlink_to("x")
    (local / "script").write_text("pwd > x\n")
    assert run("source script > link") == (1, "", f"ftp: link: {why}\n")
    assert (local / "x").read_text() == "/\n"
    assert sorted(os.listdir(local)) == ["few", "link", "script", "x"]


@pytest.mark.parametrize("operator", [">", ">>"])
@pytest.mark.parametrize(
    "words", ["put mine", "mput ./mine", "send mine", "put -r . --files-from=mine"]
)
def test_a_file_that_the_command_reads(run, numbers, local, words, operator):
    (local / "mine").write_text("mine")
    run("alias send='put -q'")
    name = "./mine" if operator == ">" else "mine"
    assert run(f"{words} {operator} {name}") == (
        2,
        "",
        f"ftp: {name}: put reads it, so its output cannot go there\n",
    )
    assert (local / "mine").read_text() == "mine"
    assert not (numbers / "mine").exists()


# into local commands ------------------------------------------------------------------------


INTO_LOCAL = [
    ("cat few | sort", "1\n2\n3\n"),
    ("cat few|sort -r|head -1;pwd", "3\n/\n"),
    ("cat numbers | wc -l", "100000\n"),
    ("ls | cat", "few\nnumbers\n"),
    ("pwd | sh -c 'cat; echo a && echo b'", "/\na\nb\n"),
    ("cat few | grep 3 > sub/o", ""),
    ("cat few | grep nope || pwd", "/\n"),
    ("cat few | grep 3 && pwd", "3\n/\n"),
    ("ls --json | wc -l", "2\n"),
    ("lls | cat", "sub\n"),
    ("cat few | cat # | head -1", "3\n1\n2\n"),
]


def test_output_into_a_local_command(run, numbers, local):
    (local / "sub").mkdir()
    for line, out in INTO_LOCAL:
        assert run(line) == (0, out, ""), line
    assert (local / "sub" / "o").read_text() == "3\n"


STATUSES = [
    ("pwd | true", 0),
    ("pwd | exit 3", 3),
    ("cat nope | cat", 5),
    ("cat nope | exit 3", 3),
    ("cat numbers | head -1", 0),
    ("cat numbers | true", 0),
    ("ls -R / | kill -TERM $$", 128 + signal.SIGTERM),
    ("pwd | nonsense-that-nobody-has 2>/dev/null", 127),
]


def test_statuses_of_pipes(run, app, numbers):
    connection = app.client.connection
    for line, status in STATUSES:
        assert run(line)[0] == status, line
        assert run("whoami") == (0, "alice\n", ""), line
    assert app.client.connection is connection


def test_an_early_end_stops_no_batch(server, local, numbers, capfd):
    with shell_of(server, batch=True) as app:
        assert run_line(app, "cat numbers | head -1; cat few | grep -c nope; pwd") == 0
        assert capfd.readouterr() == ("0\n0\n/\n", "ftp: | grep -c nope: exit status 1\n")


def test_an_early_end_is_only_the_commands(run, numbers, local):
    """The output after it goes where it did before."""
    status, out, err = run("cat numbers | head -1; pwd > f; cat few | sort; pwd")
    assert (status, out, err) == (0, "0\n1\n2\n3\n/\n", "")
    assert (local / "f").read_text() == "/\n"


def test_complaints_go_past_the_pipe(run, numbers):
    assert run("cat few nope | wc -l") == (1, "3\n", "ftp: /nope: no such file or directory\n")


@pytest.mark.parametrize("line", ["edit few | cat", "less few > x", "cd / | cat", "exit >> x"])
def test_commands_without_output(run, app, numbers, local, line):
    status, out, err = run("rm few; " + line)
    assert (status, out) == (2, "")
    name = line.split()[0]
    why = "it needs the terminal" if name in ("edit", "less") else "it has no output"
    assert err == f"ftp: {name} cannot be used before '{line.split()[-2]}': {why}\n"
    assert (numbers / "few").exists()
    assert os.listdir(local) == []
    assert not app.shell.leaving


def test_a_local_shell_that_isn_t_there(run, numbers, monkeypatch):
    monkeypatch.setenv("SHELL", "/nowhere/sh")
    status, out, err = run("rm few | cat")
    assert (status, err) == (5, "ftp: /nowhere/sh: no such file or directory\n")
    assert (numbers / "few").exists()


def test_nothing_is_left_of_many_pipes(run, numbers, local):
    """No descriptor, and no process that nobody waited for."""
    run("pwd | cat; cat numbers | true; pwd > f")

    def held() -> tuple[list[str], list[str]]:
        # the server is in this process, too: its files come and go
        opened = [os.path.realpath(path) for path in Path("/proc/self/fd").iterdir()]
        ours = sorted(one for one in opened if one.startswith(str(local)) or "/pipe:" in one)
        children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
        return ours, " ".join(children).split()

    before = held()
    for _ in range(3):
        run("pwd | cat; cat numbers | true; cat nope | false; pwd > f; cat nope > f; pwd >> f")
    assert held() == before


def test_ctrl_c_of_a_command_in_a_pipe(app, numbers, monkeypatch, capfd):
    space = app.client.space
    monkeypatch.setattr(app.client, "space", lambda: app.interrupt.set() or space())
    assert run_line(app, "df | cat; rm few") == 130
    assert (numbers / "few").exists()
    assert run_line(app, "whoami") == 0


def test_a_local_command_gets_ctrl_c_as_usual(run):
    assert run("pwd | kill -INT $$; whoami") == (130, "", "")
