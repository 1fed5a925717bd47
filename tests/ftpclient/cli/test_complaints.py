"""Many failures of one cause are one line; few, and those between successes, are a line each."""

from __future__ import annotations

import json

import pytest

from ftpclient.cli.complaints import MANY, Complaints
from ftpserver.storage.permissions import Permissions
from ftpwire.errors import CommandError, Forbidden, NotFound


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def complaints(lines) -> Complaints:
    return Complaints(lines.append)


@pytest.mark.parametrize("count", [1, MANY - 1])
def test_few_are_a_line_each(complaints, lines, count):
    for number in range(count):
        complaints.add(NotFound(""), f"/{number}: not there")
    complaints.flush()
    assert lines == [f"/{number}: not there" for number in range(count)]


@pytest.mark.parametrize("count", [MANY, 60_000])
def test_many_are_one_line(complaints, lines, count):
    for number in range(count):
        complaints.add(NotFound(""), f"/{number}: not there")
    complaints.flush()
    assert lines == [f"/0: not there (the first of {count:,} such failures in a row)"]
    complaints.flush()
    assert len(lines) == 1


def test_another_cause_is_another_row(complaints, lines):
    for kind, count in ((NotFound, 12), (Forbidden, 2), (NotFound, 11)):
        for number in range(count):
            complaints.add(kind(""), f"/{kind.__name__}{number}: no")
    complaints.flush()
    assert [line.partition(":")[0] for line in lines] == [
        "/NotFound0",
        "/Forbidden0",
        "/Forbidden1",
        "/NotFound0",
    ]


def test_without_a_code_the_words_are_the_cause(complaints, lines):
    for number in range(20):
        complaints.add(CommandError(""), f"/{number}: {'odd' if number % 2 else 'even'}")
    complaints.flush()
    assert len(lines) == 20


def test_few_complaints_are_kept_of_many(complaints):
    for number in range(100_000):
        complaints.add(NotFound(""), f"/{number}: not there")
    assert len(complaints._lines) < MANY


# commands -----------------------------------------------------------------------------------


NAMES = [f"f{number:02}" for number in range(30)]


@pytest.mark.parametrize("command", ["rm", "cat", "stat", "hash", "chmod 644", "mkdir"])
def test_commands_with_many_failures(run, files, command):
    if command == "mkdir":
        for name in NAMES:
            (files / name).touch()
    status, _, err = run(f"{command} {' '.join(NAMES)}")
    assert status in (1, 5)
    assert err.count("\n") == 1
    assert "f00: " in err and "(the first of 30 such failures in a row)" in err


def test_a_success_ends_a_row(run, files):
    (files / "good").touch()
    line = " ".join([*NAMES[:6], "good", *NAMES[6:12]])
    status, _, err = run(f"hash {line}")
    assert status == 1
    assert err.count("\n") == 12


def test_the_last_line_of_another_kind_comes_last(run, files):
    (files / "d").mkdir()
    status, _, err = run(f"cat {' '.join(NAMES)} d")
    assert status == 1
    first, second = err.splitlines()
    assert "(the first of 30" in first and "/d: " in second


def test_transfers_with_many_failures(run, files, local, plain_user_files):
    status, _, err = run("get -r t")
    assert status == 6
    assert err.count("\n") == 1 and "(the first of 30 such failures in a row)" in err
    out = run("get -r t --json")[1]
    assert sum(json.loads(line).get("status") == "failed" for line in out.splitlines()) == 30


@pytest.mark.parametrize("as_json", [True, False])
def test_what_the_server_reports_of_a_failure_is_in_the_record(server, request, files, as_json):
    (files / "d").mkdir()
    server.accounts.change("alice", permissions=Permissions.parse("/d=read-only"))
    run = request.getfixturevalue("run")  # which logs in
    status, _, err = run("mkdir d/new" + " --json" * as_json)
    assert status == 6
    if not as_json:
        assert err.startswith("ftp: read-only below /d: /d/new cannot be changed")
        return
    record = json.loads(err)
    assert (record["error"], record["rule"], record["path"]) == (
        "forbidden",
        "/d=read-only",
        "/d/new",
    )


@pytest.fixture
def plain_user_files(files, monkeypatch):
    """Files that the server cannot open."""
    from ftpserver.workspace import reading_many
    from ftpwire import beneath

    (files / "t").mkdir()
    for name in NAMES:
        (files / "t" / name).write_text("x")
    real = beneath.Tree.open_file

    def refuse(self, parts, *rest):
        if parts[0] == b"t":
            raise PermissionError(13, "Permission denied")
        return real(self, parts, *rest)

    monkeypatch.setattr(beneath.Tree, "open_file", refuse)
    monkeypatch.setattr(reading_many, "_read", lambda *_: None)  # nor together with others
