"""What `ftpd` commands leave in the audit log, and how `ftpd log` tells it."""

from __future__ import annotations

import json
import os

import click
import pytest

from ftpserver.audit.record import Record
from ftpserver.audit.writer import FILE_NAME
from ftpserver.cli import main
from ftpserver.cli.audit import AUDITED
from ftpserver.cli.log import told


@pytest.fixture
def ftpd(root, monkeypatch, capsys, quick_passwords):
    """Runs a command line on the root; gives exit status, output and errors."""
    monkeypatch.setenv("FTPD_PASSWORD", "the secret itself")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ftpd", *arguments, "--root", str(root)])
        status = 0
        try:
            main.main()
        except SystemExit as ended:
            status = ended.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def records(root):
    def read() -> list[dict]:
        return [json.loads(line) for line in (root / ".ftpd" / FILE_NAME).read_text().splitlines()]

    return read


def test_every_command_that_is_named_exists():
    for words in AUDITED:
        command = main.cli
        for word in words.split():
            assert isinstance(command, click.Group)
            command = command.commands[word]
        assert hasattr(command.callback, "__wrapped__"), words


def test_administration_is_recorded(ftpd, records):
    ftpd("user", "add", "alice", "--quota", "10MiB")
    ftpd("user", "set", "alice", "--max-sessions", "3", "--json")
    ftpd("user", "passwd", "alice")
    ftpd("user", "list")
    ftpd("user", "show", "alice")
    assert ftpd("user", "set", "nobody", "--quota", "1MiB")[0] == 5
    assert ftpd("user", "nonsense")[0] == 2
    added, changed, password, failed = records()
    assert (added["event"], added["user"], added["outcome"]) == ("user-add", "alice", "ok")
    assert added["by"] and added["details"] == {"quota": 10 * 2**20}
    assert changed["details"] == {"max_sessions": 3}
    assert password["event"] == "user-passwd" and "details" not in password
    assert (failed["user"], failed["outcome"], failed["code"]) == ("nobody", "failed", "not-found")


def test_no_secret_is_in_it(ftpd, root, records):
    ftpd("user", "add", "alice")
    status, out, _ = ftpd("invite", "--uses", "2", "--json")
    assert status == 0
    text = (root / ".ftpd" / FILE_NAME).read_text()
    assert "secret" not in text
    assert json.loads(out)["code"] not in text
    assert records()[1]["details"]["uses"] == 2


def test_looking_leaves_nothing(ftpd, root):
    ftpd("user", "list")
    ftpd("invite", "--list")
    ftpd("log")
    assert not (root / ".ftpd" / FILE_NAME).exists()


def test_the_log_is_told_and_filtered(ftpd, root):
    ftpd("user", "add", "alice", "--quota", "10MiB")
    ftpd("user", "add", "bob")
    ftpd("user", "remove", "carol")
    status, out, err = ftpd("log")
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, "", 3)
    assert "user-add" in lines[0] and "alice by " in lines[0] and "quota=10485760" in lines[0]
    assert "failed (not-found: carol: no such account)" in lines[2]
    assert ftpd("log", "--user", "bob")[1].splitlines() == [lines[1]]
    assert ftpd("log", "--event", "user-remove")[1].splitlines() == [lines[2]]
    assert ftpd("log", "--failed")[1].splitlines() == [lines[2]]
    assert ftpd("log", "--lines", "2")[1].splitlines() == lines[1:]
    assert ftpd("log", "--since", "1h")[1].splitlines() == lines
    assert ftpd("log", "--since", "2030-01-01")[1] == ""
    stored = (root / ".ftpd" / FILE_NAME).read_text()
    assert ftpd("log", "--json")[1] == stored


def test_lines_that_are_torn_are_told(ftpd, root):
    ftpd("user", "add", "alice")
    with (root / ".ftpd" / FILE_NAME).open("a") as file:
        file.write('{"time":\n')
    status, out, err = ftpd("log")
    assert (status, out.count("\n")) == (0, 1)
    assert err == "ftpd: 1 line is no record\n"


def test_where_no_server_was_ever_started(ftpd, root):
    status, out, err = ftpd("log")
    assert (status, out) == (1, "") and "no server was ever started" in err


def test_a_wrong_moment(ftpd):
    assert ftpd("log", "--since", "yesterdayish")[0] == 2


def test_the_file_stays_the_server_s(ftpd, root, monkeypatch):
    """Whoever administers as root leaves a file that the server's own user can go on with."""
    owners = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda fd, *owner: owners.append(owner))
    ftpd("user", "add", "alice")
    state = (root / ".ftpd").stat()
    assert owners == [(state.st_uid, state.st_gid)]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        pytest.param(
            {"user": "alice", "address": "10.0.0.1", "path": "/a b", "size": 2048, "seconds": 0.5},
            "2030-01-01T00:00:00Z  put  alice from 10.0.0.1  /a b  2.0 KiB  0.500 s",
            id="put",
        ),
        pytest.param(
            {"event": "move", "user": "alice", "path": "/a", "target": "/b"},
            "2030-01-01T00:00:00Z  move  alice  /a  ->  /b",
            id="move",
        ),
        pytest.param(
            {"path": "/\x1b[2J\u202e", "outcome": "refused", "code": "quota", "reason": "a\nb"},
            "2030-01-01T00:00:00Z  put  -  /\\x1b[2J\\u202e  refused (quota: a\\nb)",
            id="escapes",
        ),
        pytest.param(
            {"path": "/\ufffd", "path_b64": "L/8="},
            "2030-01-01T00:00:00Z  put  -  /\\xff",
            id="no-utf-8",
        ),
        pytest.param(
            {"event": "remove", "path": "/d", "files": 12, "size": 0},
            "2030-01-01T00:00:00Z  remove  -  /d  12 files  0 B",
            id="tree",
        ),
        pytest.param(
            {"event": "dropped", "count": 7, "outcome": "failed"},
            "2030-01-01T00:00:00Z  dropped  -  7 others not recorded  failed",
            id="dropped",
        ),
        pytest.param(
            {"event": "user-set", "user": "a", "by": "root", "details": {"x": ["1", "\x07"]}},
            "2030-01-01T00:00:00Z  user-set  a by root  x=1,\\x07",
            id="details",
        ),
    ],
)
def test_a_record_for_people(fields, line):
    values = {"time": "2030-01-01T00:00:00.000Z", "event": "put", "outcome": "ok"} | fields
    assert told(Record(**values)) == line


@pytest.mark.parametrize(("event", "told"), [("logn", "login"), ("user-ad", "user-add")])
def test_an_event_that_is_mistyped(ftpd, engine, event, told):
    assert ftpd("log", "--event", event) == (0, "", f"ftpd: {event}: did you mean {told}?\n")
    assert ftpd("log", "--event", told)[2] == ftpd("log", "--event", "xyz")[2] == ""
