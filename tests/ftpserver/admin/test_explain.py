"""`ftpd why`: the answer is the server's own, with what decides it, and nothing is done."""

from __future__ import annotations

import json
import os
import re
import time
from typing import Protocol

import pytest
from sqlalchemy import insert

from ftpserver.accounts import session_counts
from ftpserver.accounts.bans import Bans
from ftpserver.accounts.penalties import Offence
from ftpserver.clock import RUN
from ftpserver.daemon import control, control_server
from ftpserver.interfaces import request
from ftpserver.schema import session
from ftpserver.settings.table import Startups
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.permissions import Permissions
from ftpwire.units import human


@pytest.fixture
def alice(accounts):
    return accounts.add("alice", "secret")


@pytest.fixture
def why(ftpd):
    """Asks about alice; whether it is allowed, and the answer."""

    def ask(*question: str):
        status, out, err = ftpd("why", "alice", *question, "--json")
        assert err == "", err
        record = json.loads(out)
        assert (status, record["allowed"]) in ((0, True), (6, False))
        return record["allowed"], record

    return ask


@pytest.fixture
def stocked(alice, root):
    home = root / "alice"
    for place in ("dir", "pub", "in", "hidden"):
        (home / place).mkdir()
        (home / place / "file").write_bytes(b"there")
    (home / "empty").mkdir()
    (home / "link").symlink_to("hidden/file")
    os.mkfifo(home / "fifo")
    return home


RULES = "/pub=read-only /in=upload-only /hidden=none"


@pytest.mark.parametrize(
    ("question", "by", "notification"),
    [
        ("put /new", None, ""),
        ("put new", None, ""),
        ("put :/new", None, ""),
        ("put /dir/file", None, ""),
        ("put /pub/new", "permissions", "read-only below /pub"),
        ("put /in/new", None, ""),
        ("put /in/file", "permissions", "/in/file cannot be replaced"),
        ("put /missing/new", "files", "/missing/new: no such file"),
        ("put /dir", "files", "a directory is there"),
        ("put /link", None, ""),
        ("get /dir/file", None, ""),
        ("get /pub/file", None, ""),
        ("get /in/file", "permissions", "cannot be read"),
        ("get /hidden/file", "permissions", "closed below /hidden"),
        ("get --links /link", None, ""),
        ("get /link", "permissions", "a link leads to where other rights apply"),
        ("get /missing", "files", "no such file"),
        ("get /fifo", "files", "not a regular file"),
        ("get /dir", "files", "directory"),
        ("ls /", None, ""),
        ("ls /in", "permissions", "cannot be listed"),
        ("ls /missing", "files", "no such file"),
        ("mkdir /new", None, ""),
        ("mkdir /dir", "files", "exists"),
        ("mkdir /pub/new", "permissions", "cannot be changed"),
        ("mkdir /a/b", "files", "no such file"),
        ("rm /dir/file", None, ""),
        ("rm /empty", "files", "is a directory"),
        ("rm /dir", "files", "is a directory"),
        ("rm -r /dir", None, ""),
        ("rm -r /pub", "permissions", "cannot be changed"),
        ("rm /missing", "files", "no such file"),
        ("rm /link", None, ""),
        ("mv /dir /new", None, ""),
        ("mv /dir/file /fifo", None, ""),
        ("mv /dir/file /in/file", "permissions", "cannot be replaced"),
        ("mv /dir/file /in/new", None, ""),
        ("mv /in/file /new", "permissions", "cannot be removed"),
        ("mv /dir/file /a/b", "files", "/a/b: no such file"),
        ("mv /dir/file /empty", "files", "a directory is there"),
        ("mv /dir /fifo", "files", "a file is there"),
        ("mv /missing /new", "files", "no such file"),
        ("mv / /new", "permissions", "as a whole"),
    ],
)
def test_files(why, stocked, accounts, question, by, notification):
    accounts.change("alice", permissions=Permissions.parse(RULES))
    before = sorted(map(str, stocked.rglob("*")))
    allowed, record = why(*question.split())
    assert allowed is (by is None)
    if by is not None:
        assert record["decided_by"] == by
        assert notification in record["reason"]
    assert sorted(map(str, stocked.rglob("*"))) == before


@pytest.mark.parametrize(
    ("size", "allowed"), [("0", True), ("600", True), ("601", False), ("3GiB", False)]
)
def test_space_as_it_is_now(why, stocked, accounts, engine, alice, size, allowed):
    accounts.change("alice", quota=1000)
    Ledger(engine).reserve(alice.id, 400)
    found, record = why("put", "/new", size)
    assert found is allowed
    assert record["free"] == 600
    if not allowed:
        assert (record["decided_by"], record["code"]) == ("quota", "quota")
        assert " 600 B free of a quota of 1000 B" in record["reason"]
    assert accounts.get("alice").held == 400


@pytest.mark.parametrize(("size", "by"), [("5MiB", "files"), ("3MiB", "quota"), ("500", "files")])
def test_of_two_reasons_the_one_that_the_client_gets(why, stocked, accounts, size, by):
    accounts.change("alice", quota=1000)
    allowed, record = why("put", "/missing/new", size)
    assert not allowed
    assert record["decided_by"] == by


def test_space_on_the_disk(why, stocked):
    disk = os.statvfs(stocked)
    free = disk.f_blocks * disk.f_frsize  # more than can be free at any time
    allowed, record = why("put", "/new", str(free + 1))
    assert not allowed
    assert (record["decided_by"], record["code"]) == ("disk", "disk-full")
    assert record["reason"].startswith(f"the disk is full: {human(free + 1)} needed, ")


def test_space_for_files(why, stocked, accounts, alice):
    accounts.change("alice", max_files=0)
    for question in (("put", "/new", "1"), ("mkdir", "/new")):
        allowed, record = why(*question)
        assert not allowed
        assert record["decided_by"] == "files quota"
        assert "0 files and directories" in record["reason"]
    assert why("rm", "/dir/file")[0]


@pytest.mark.parametrize(
    ("changes", "by"),
    [
        ({"disabled": True}, "disabled"),
        ({"expires": int(time.time()) - 1}, "expiry"),
        ({"expires": int(time.time()) + 3600}, None),
    ],
)
def test_accounts_that_are_closed(why, stocked, accounts, changes, by):
    accounts.change("alice", **changes)
    for question in (("login",), ("login", "192.0.2.1"), ("get", "/dir/file")):
        allowed, record = why(*question)
        assert allowed is (by is None)
        assert by is None or record["decided_by"] == by


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("192.0.2.1", False), ("2001:db8::1", False)],
)
def test_networks(ftpd, why, alice, address, allowed):
    ftpd("user", "set", "alice", "--network", "10.0.0.0/8")
    found, record = why("login", address)
    assert found is allowed
    assert allowed or record["decided_by"] == "network"
    assert why("login")[0]


def test_bans(why, alice, engine):
    bans = Bans(engine, 2, 600)
    for _ in range(2):
        bans.failed("192.0.2.1", "alice")
    allowed, record = why("login", "192.0.2.1")
    assert not allowed
    assert (record["decided_by"], record["code"]) == ("ban", "banned")
    assert "192.0.2.1" in record["reason"]
    assert why("login", "192.0.2.2")[0]


@pytest.fixture
def one_session(engine, alice):
    """Alice has a session on the running server."""
    with engine.begin() as connection:
        connection.execute(
            insert(session).values(
                id="1",
                account_id=alice.id,
                address="192.0.2.1",
                node="local",
                incarnation="running",
                since=int(time.time()),
                expires=int(time.time()) + 600,
            )
        )


def test_asking_takes_no_place(why, accounts, alice):
    accounts.change("alice", max_sessions=1)
    for _ in range(2):
        assert why("login")[0]


def test_sessions_of_a_running_server_count(why, accounts, one_session):
    assert why("login")[0]
    accounts.change("alice", max_sessions=1)
    allowed, record = why("login")
    assert not allowed
    assert (record["decided_by"], record["code"]) == ("sessions", "too-many")


def test_the_settings_of_the_server_count(why, one_session, root):
    (root / ".ftpd" / "ftpd.toml").write_text("max-user-sessions = 1\n")
    assert why("login")[1]["decided_by"] == "sessions"


def test_an_account_without_rights_is_not_called_closed(ftpd, alice, accounts):
    accounts.change("alice", permissions=Permissions.parse("none /pub=read-only"))
    status, out, _ = ftpd("why", "alice", "put", "/x")
    first, by, advice = out.splitlines()
    assert (status, by) == (6, "decided by: permissions")
    assert first == "refused: alice may not write to /x (rule: /=none)"
    assert advice == (
        "to change it: ftpd user set alice --permit RULE, which replaces all rules "
        "(now: none /pub=read-only)"
    )
    assert "may not list / (rule: /=none)" in ftpd("why", "alice", "ls", "/")[1]
    assert "closed account" not in ftpd("why", "alice", "rm", "/x")[1]


def test_for_people(ftpd, alice, accounts):
    accounts.change("alice", quota=2**20, permissions=Permissions.parse("no-delete"))
    status, out, _ = ftpd("why", "alice", "put", "/new", "3GiB")
    assert status == 6
    first, space, by, advice = out.splitlines()
    assert first.startswith("refused: 3.0 GiB needed, 1.0 MiB free of a quota of 1.0 MiB")
    assert (space, by) == ("space: 3.0 GiB needed, 1.0 MiB free", "decided by: quota")
    assert advice == "to change it: ftpd user set alice --quota SIZE"
    assert ftpd("why", "alice", "put", "/new")[:2] == (
        0,
        "allowed: nothing forbids it\nrule: /=no-delete\n",
    )
    assert ftpd("why", "alice", "login", "192.0.2.1")[1] == (
        "allowed: alice may log in from 192.0.2.1\n"
        "note: no server runs: bans and running sessions are unknown\n"
    )


# what only a running server knows ----------------------------------------------------------

ADDRESS = "192.0.2.1"


def test_penalties(why, start_server):
    limits = start_server().service.limits
    limits.penalize(ADDRESS, Offence.TOO_LATE)
    assert why("login", ADDRESS)[0]  # the control: it isn't refused yet
    limits.penalize(ADDRESS, Offence.TOO_LATE)
    allowed, record = why("login", ADDRESS)
    assert not allowed and not limits.admit("one", ADDRESS)
    assert (record["decided_by"], record["code"]) == ("penalty", None)
    assert re.fullmatch(
        r"connections from 192\.0\.2\.1 are refused for another \d+ seconds: .*", record["reason"]
    )
    assert record["advice"].startswith(f"ftpd unban {ADDRESS};")
    assert why("login", "192.0.2.2")[0] and why("login")[0]
    limits.unban(ADDRESS)
    assert why("login", ADDRESS)[0]


def test_the_share_of_an_address(why, start_server):
    """Its oldest connection makes room after a moment; until then there is none."""
    now = 0.0
    limits = start_server(max_startups=Startups(4, 100, 8)).service.limits
    limits.unauthenticated._clock = lambda: now
    for number in range(2):
        assert why("login", ADDRESS)[1]["note"] is None
        assert limits.admit(number, ADDRESS)
    allowed, record = why("login", ADDRESS)
    assert not allowed and not limits.admit(2, ADDRESS)
    assert (record["decided_by"], record["note"]) == ("connections", None)
    assert "192.0.2.1 has 2 connections that have not logged in, the limit is 2" in record["reason"]
    assert "max-startups" in record["advice"]
    now = 2.0
    allowed, record = why("login", ADDRESS)
    assert allowed and "a new one closes the oldest" in record["note"]
    assert limits.unauthenticated.count(ADDRESS) == 2  # asking ended none
    assert why("login", "192.0.2.2")[1]["note"] is None


@pytest.mark.parametrize("options", [{}, pytest.param({"workers": 2}, marks=pytest.mark.system)])
def test_the_cap_of_sessions(why, start_server, dial, monkeypatch, options):
    monkeypatch.setattr(session_counts, "MOST", 2)
    server = start_server(**options)
    dial(server)
    assert why("login")[0]
    dial(server)
    allowed, record = why("login")
    assert not allowed
    assert (record["decided_by"], record["code"]) == ("sessions", "too-many")
    assert record["reason"] == "too many sessions: alice has 2, the limit is 2"
    assert "ftpd user set alice --max-sessions" in record["advice"]
    server.accounts.change("alice", max_sessions=5)
    assert why("login")[0]


def test_a_ban_is_reported_by_the_clock_of_the_server(why, start_server):
    """The system's clock was set back by a year since the server began."""
    server = start_server(ban_after=1, ban_time=600)
    bans = server.service.limits._bans
    bans._clock = lambda: RUN.now() + 365 * 24 * 3600
    bans.failed("192.0.2.9", "alice")
    allowed, record = why("login", "192.0.2.9")
    assert not allowed and record["decided_by"] == "ban"
    assert record["reason"].endswith("refused for another 10 minutes")


def test_a_server_that_does_not_know_the_question(why, start_server, monkeypatch):
    """Of an older version."""
    start_server()

    class Older(Protocol):
        @request
        def status(self) -> control.Status: ...

    monkeypatch.setattr(control_server, "Control", Older)
    allowed, record = why("login", ADDRESS)
    assert allowed and record["note"].startswith("the server could not be asked about connections")


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"disabled": True}, "ftpd user enable alice"),
        ({"expires": 1}, "ftpd user set alice --expires never"),
    ],
)
def test_what_to_do_is_reported(why, alice, accounts, changes, advice):
    accounts.change("alice", **changes)
    assert why("login")[1]["advice"] == advice


@pytest.mark.parametrize(
    ("question", "status"),
    [
        ("put", 2),
        ("put /a 5 6", 2),
        ("put /a much", 2),
        ("mv /a", 2),
        ("ls /a -r", 2),
        ("ls /a -L", 2),
        ("login nowhere", 2),
        ("dance", 2),
    ],
)
def test_what_is_no_question(ftpd, alice, question, status):
    found, out, err = ftpd("why", "alice", *question.split())
    assert (found, out) == (status, "") and err


def test_nobody(ftpd, alice):
    assert ftpd("why", "bob", "login")[0] == 5


def test_a_home_that_is_gone(why, alice, root):
    (root / "alice").rmdir()
    allowed, record = why("put", "/new")
    assert not allowed and record["decided_by"] == "files"
