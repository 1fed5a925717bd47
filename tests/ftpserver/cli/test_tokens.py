"""`ftpd user tokens`, `ftpd token` and `ftpd invite` as they are typed: what is printed, and the
exit status."""

from __future__ import annotations

import json
import time

import pytest

from ftpserver.accounts.invitations import Invitations
from ftpserver.accounts.tokens import Tokens
from ftpserver.audit.files import FILE_NAME
from ftpserver.cli import tables
from ftpserver.database import open_state
from ftpwire.errors import LoginRefused, RegistrationClosed


@pytest.fixture
def alice(engine, accounts):
    return accounts.add("alice", "correct-horse")


@pytest.fixture
def tokens(engine, accounts) -> Tokens:
    return Tokens(engine, accounts)


def test_tokens_are_listed(ftpd, tokens, alice):
    assert ftpd("token", "list", "alice") == (0, "", "")
    name = "my  laptop\t\x1b[2J"
    made = tokens.issue(alice, name, 3600)
    tokens.log_in("alice", made.secret)
    status, out, err = ftpd("token", "list", "alice")
    assert (status, err) == (0, "") and made.secret not in out
    (line,) = out.splitlines()
    identifier, shown, *times, parent = line.split("\t")
    assert (identifier, shown, parent) == (made.id, r"my  laptop\t\x1b[2J", "-")
    assert len(times) == 3 and all(time.startswith("20") for time in times)
    assert out == ftpd("user", "tokens", "alice")[1]
    record = json.loads(ftpd("token", "list", "alice", "--json")[1])
    assert record["id"] == made.id and record["name"] == name
    assert set(record) == {"id", "name", "created", "expires", "used", "parent"}


def test_one_token_is_revoked(ftpd, tokens, alice):
    made, other = tokens.issue(alice, "one"), tokens.issue(alice, "two")
    assert ftpd("token", "revoke", made.id) == (0, f"revoked {made.id}\n", "")
    with pytest.raises(LoginRefused):
        tokens.log_in("alice", made.secret)
    assert tokens.log_in("alice", other.secret)
    status, out, err = ftpd("token", "revoke", made.id)
    assert (status, out) == (5, "") and "no such token" in err


def test_tokens_of_an_account_are_listed(ftpd, tokens, alice, monkeypatch):
    assert ftpd("user", "tokens", "alice") == (0, "", "")
    made = tokens.issue(alice, "laptop\x1b[2J", 3600)
    other = tokens.issue(alice, "", None, made.id)
    tokens.log_in("alice", made.secret)
    status, out, err = ftpd("user", "tokens", "alice")
    assert (status, err) == (0, "")
    first, second = (line.split("\t") for line in out.splitlines())
    assert first[:2] == [made.id, "laptop\\x1b[2J"] and first[5] == "-"
    assert all(time.startswith("20") for time in first[2:5])
    assert second[:2] + second[3:4] == [other.id, "-", "-"] and second[5] == made.id
    record = json.loads(ftpd("user", "tokens", "alice", "--json")[1].splitlines()[0])
    assert record == json.loads(ftpd("token", "list", "alice", "--json")[1].splitlines()[0])
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    monkeypatch.setattr(tables, "width", lambda: 120)
    head, first, second = ftpd("user", "tokens", "alice")[1].splitlines()
    assert ftpd("token", "list", "alice")[1].splitlines() == [head, first, second]
    assert head.split("  ")[0] == "ID" and head.endswith("MADE WITH")
    assert first.startswith(f"{made.id}  laptop\\x1b[2J  20") and "never" in second.split()
    assert ftpd("user", "tokens", "alice", "--revoke-all")[0] == 0
    assert ftpd("user", "tokens", "alice") == (0, "no tokens\n", "")


def test_tokens_of_an_account_are_revoked(ftpd, root, tokens, alice, accounts):
    bob = tokens.issue(accounts.add("bob", "correct-horse"), "of bob")
    made, *_ = (tokens.issue(alice, name) for name in ("one", "two", "three"))
    status, out, err = ftpd("user", "tokens", "alice", "--revoke", bob.id)
    assert (status, out) == (5, "") and "no such token" in err, "it isn't a token of alice"
    assert ftpd("user", "tokens", "alice", "--revoke", made.id) == (0, f"revoked {made.id}\n", "")
    with pytest.raises(LoginRefused):
        tokens.log_in("alice", made.secret)
    done = (0, "revoked 2 tokens of alice\n", "")
    assert ftpd("user", "tokens", "alice", "--revoke-all") == done
    assert tokens.of(alice) == [] and tokens.log_in("bob", bob.secret)
    ftpd("user", "tokens", "bob")
    lines = (root / ".ftpd" / FILE_NAME).read_text().splitlines()
    reported = [(one["event"], one["user"], one["outcome"]) for one in map(json.loads, lines)]
    assert reported == [("token-revoke", "alice", outcome) for outcome in ("failed", "ok", "ok")]
    assert json.loads(lines[1])["details"] == {"token_id": made.id}
    assert json.loads(lines[2])["details"] == {"revoke_all": True}


def test_all_alone_revokes_nothing(ftpd, tokens, alice):
    tokens.issue(alice, "one")
    status, out, err = ftpd("user", "tokens", "alice", "--all")
    assert (status, out) == (2, "") and "--revoke-all revokes them" in err
    assert len(tokens.of(alice)) == 1


def test_what_was_made_with_a_token_is_shown_and_revoked_with_it(ftpd, tokens, alice):
    made = tokens.issue(alice, "one")
    tokens.issue(alice, "two", None, made.id)
    lines = ftpd("token", "list", "alice")[1].splitlines()
    assert [line.split("\t")[5] for line in lines] == ["-", made.id]
    reported = f"revoked {made.id}, and 1 token made with it\n"
    assert ftpd("token", "revoke", made.id) == (0, reported, "")
    assert tokens.of(alice) == []


def test_all_tokens_are_revoked(ftpd, tokens, alice, accounts):
    bob = tokens.issue(accounts.add("bob", "correct-horse"), "of bob")
    mine = [tokens.issue(alice, "one"), tokens.issue(alice, "two")]
    assert ftpd("token", "revoke", "--all", "alice") == (0, "revoked 2 tokens of alice\n", "")
    for one in mine:
        with pytest.raises(LoginRefused):
            tokens.log_in("alice", one.secret)
    assert tokens.log_in("bob", bob.secret)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["user", "tokens", "nobody"], 5),
        (["user", "tokens"], 2),
        (["user", "tokens", "nobody", "--revoke-all"], 5),
        (["user", "tokens", "alice", "--revoke", "x"], 5),
        (["user", "tokens", "alice", "--revoke", "x", "--revoke-all"], 2),
        (["token", "list", "nobody"], 5),
        (["token", "revoke", "--all", "nobody"], 5),
        (["token", "revoke"], 2),
        (["token", "revoke", "x", "--all", "alice"], 2),
        (["token", "revoke", "\x1b[31m"], 5),
        (["invite", "--revoke", "nothing"], 5),
        (["invite", "--list", "--revoke", "x"], 2),
        (["invite", "--uses", "0"], 2),
        (["invite", "--quota", "much"], 2),
        (["invite", "--expires", "soon"], 2),
    ],
)
def test_what_can_not_be_done(ftpd, alice, words, status):
    found, out, err = ftpd(*words)
    assert (found, out) == (status, "")
    assert err and "Traceback" not in err and "\x1b" not in err


def test_a_root_that_is_not_there_is_not_made(ftpd, tmp_path):
    status, out, err = ftpd("invite", "--root", str(tmp_path / "typo"), with_root=False)
    assert (status, out) == (5, "") and "typo" in err
    assert not (tmp_path / "typo").exists()


# invitations -------------------------------------------------------------------------------


def find(root, code: str):
    engine = open_state(root / ".ftpd")
    try:
        return Invitations(engine).find(code)
    finally:
        engine.dispose()


def test_the_code_is_all_that_is_printed(ftpd, root):
    status, out, err = ftpd("invite")
    assert (status, err) == (0, "")
    found = find(root, out.strip())
    assert (found.quota, found.uses) == (None, 1)
    assert abs(found.expires - time.time() - 7 * 24 * 3600) < 60


def test_what_it_is_good_for(ftpd, root):
    out = ftpd("invite", "--quota", "1GiB", "--uses", "30", "--expires", "never", "--json")[1]
    record = json.loads(out)
    found = find(root, record["code"])
    assert (found.quota, found.uses, found.expires) == (2**30, 30, None)
    assert {name: record[name] for name in ("id", "quota", "uses", "expires")} == {
        "id": found.id,
        "quota": 2**30,
        "uses": 30,
        "expires": None,
    }


def test_invitations_are_listed_and_revoked(ftpd, root, engine, monkeypatch):
    assert ftpd("invite", "--list") == (0, "", "")
    code = ftpd("invite", "--quota", "5MiB", "--uses", "2")[1].strip()
    (line,) = ftpd("invite", "--list")[1].splitlines()
    identifier, uses, quota, created, expires = line.split("\t")
    assert (uses, quota) == ("2", str(5 * 1024**2)) and code not in line
    (record,) = [json.loads(one) for one in ftpd("invite", "--list", "--json")[1].splitlines()]
    assert "code" not in record and identifier == record["id"]
    assert (created, expires) == (record["created"], record["expires"])
    with monkeypatch.context() as terminal:
        terminal.setattr(tables, "on_terminal", lambda: True)
        head, line = ftpd("invite", "--list")[1].splitlines()
        assert head.split() == ["ID", "USES", "QUOTA", "CREATED", "EXPIRES"]
        assert line.split() == [identifier, "2", "5.0", "MiB", created, expires]
    assert ftpd("invite", "--revoke", record["id"]) == (0, f"revoked {record['id']}\n", "")
    with pytest.raises(RegistrationClosed):
        find(root, code)


def test_a_promise_that_the_disk_can_not_hold_is_warned_of(ftpd, root):
    status, out, err = ftpd("invite", "--quota", "1000000TiB")
    assert status == 0 and find(root, out.strip())
    assert err.startswith("ftpd: warning: ") and "quotas promise" in err


def test_the_quota_of_the_server_is_a_promise(ftpd, root):
    assert ftpd("invite")[2] == ""
    (root / ".ftpd" / "ftpd.toml").write_text('default-quota = "1000000TiB"\n')
    assert "quotas promise" in ftpd("invite")[2]
    (root / ".ftpd" / "ftpd.toml").write_text("default-quota = nonsense")
    status, out, err = ftpd("invite")
    assert (status, err) == (0, "") and find(root, out.strip())
