"""Commands that root gives: what they make belongs to the user whose server it is."""

from __future__ import annotations

import os
import pwd

import pytest

from ftpserver.cli import options
from ftpserver.cli.options import act_as_owner

NOBODY = pwd.getpwnam("nobody")


@pytest.fixture
def alice(accounts):
    return accounts.add("alice", "secret")


@pytest.fixture
def became(monkeypatch):
    """What the process became, without becoming it."""
    became = {}
    monkeypatch.setattr(os, "setgroups", lambda groups: became.update(groups=groups))
    monkeypatch.setattr(os, "setegid", lambda gid: became.update(gid=gid))
    monkeypatch.setattr(os, "seteuid", lambda uid: became.update(uid=uid))
    return became


def owned_by(monkeypatch, owners: dict[str, int]) -> None:
    """Have paths belong to others, by their last name."""
    stat = options._stat

    def reported(path):
        info = stat(path)
        if info is None or path.name not in owners:
            return info
        fields = list(info)
        fields[4] = owners[path.name]
        return os.stat_result(fields)

    monkeypatch.setattr(options, "_stat", reported)


@pytest.mark.parametrize(
    ("owners", "uid"),
    [
        pytest.param({"root": NOBODY.pw_uid, ".ftpd": NOBODY.pw_uid}, NOBODY.pw_uid, id="all"),
        pytest.param({"root": NOBODY.pw_uid}, None, id="root-serves"),
        pytest.param({"root": 0, "state.db": NOBODY.pw_uid}, NOBODY.pw_uid, id="the-accounts"),
        pytest.param({}, None, id="root"),
    ],
)
def test_whose_server_it_is(monkeypatch, became, root, accounts, owners, uid):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owners = {"root": 0, ".ftpd": 0, "state.db": owners.get(".ftpd", 0)} | owners
    owned_by(monkeypatch, owners)
    act_as_owner(root)
    assert became.get("uid") == uid
    if uid is not None:
        assert (became["gid"], NOBODY.pw_gid in became["groups"]) == (NOBODY.pw_gid, True)


def test_before_there_are_accounts_it_is_the_roots_owner(monkeypatch, became, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "root").mkdir()
    owned_by(monkeypatch, {"root": 4242})
    act_as_owner(tmp_path / "root")  # a user without a name, as in containers
    assert became["uid"] == 4242


def test_who_is_not_root_stays(monkeypatch, became, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / "root").mkdir()
    owned_by(monkeypatch, {"root": 4242})
    act_as_owner(tmp_path / "root")
    assert became == {}


@pytest.mark.parametrize(
    "command",
    [
        ["user", "add", "bob", "--generate"],
        ["user", "set", "alice", "--quota", "1GiB"],
        ["user", "remove", "alice"],
        ["invite"],
        ["recount"],
    ],
    ids=" ".join,
)
def test_the_commands_that_make_something(monkeypatch, became, ftpd, root, alice, command):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owned_by(monkeypatch, {"root": 0, ".ftpd": 4242, "state.db": 4242})
    assert ftpd(*command)[0] == 0
    assert became["uid"] == 4242


@pytest.mark.parametrize("command", [["user", "list"], ["token", "list", "alice"], ["check"]])
def test_those_that_look_stay_root(monkeypatch, became, ftpd, alice, command):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    owned_by(monkeypatch, {".ftpd": 4242, "state.db": 4242})
    assert ftpd(*command)[0] == 0
    assert became == {}


def test_a_program_that_the_user_can_not_read_makes_nothing(monkeypatch, became, ftpd, root, alice):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(options, "_can_read", lambda path: False)
    owned_by(monkeypatch, {".ftpd": 4242, "state.db": 4242})
    status, _, err = ftpd("user", "add", "bob", "--generate")
    assert status == 1 and "4242 cannot read this program" in err
    assert not (root / "bob").exists()


def test_a_root_that_can_become_nobody_makes_nothing(monkeypatch, ftpd, root, alice):
    def refuse(*given):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "setgroups", refuse)
    owned_by(monkeypatch, {".ftpd": 4242, "state.db": 4242})
    status, _, err = ftpd("user", "add", "bob", "--generate")
    assert status == 1 and "cannot become the server's user" in err
    assert not (root / "bob").exists()
