"""`ftpd user`: what can be set of accounts, how they are shown, moved elsewhere and removed."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import nullcontext

import pytest

from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.tokens import Tokens
from ftpserver.database import open_state
from ftpwire.errors import LoginRefused


@pytest.fixture
def add(ftpd):
    """Adds an account; gives its record."""

    def add_account(name: str, *options: str, status: int = 0):
        found, out, err = ftpd(
            "user", "add", name, "--password-stdin", "--json", *options, stdin=b"correct-horse\n"
        )
        assert found == status, err
        if status:
            return err
        record = json.loads(out)
        done = [record.pop(name) for name in ("action", "status", "error")]
        assert done == ["user-add", "done", None]
        return record

    return add_account


@pytest.fixture
def show(ftpd):
    def show_account(name: str):
        return json.loads(ftpd("user", "show", name, "--json")[1])

    return show_account


EVERYTHING = (
    *("--quota", "10MiB", "--max-files", "100"),
    *("--permit", "read-only", "--permit", "/in=upload-only"),
    *("--network", "10.0.0.0/8", "--network", "fd00::/8"),
    *("--expires", "2030-12-31", "--max-sessions", "3", "--limit-rate", "1MiB"),
)
EVERYTHING_SHOWN = {
    "total": 10 * 2**20,
    "total_files": 100,
    "permissions": ["read-only", "/in=upload-only"],
    "networks": ["10.0.0.0/8", "fd00::/8"],
    "expires": "2030-12-31T00:00:00Z",
    "max_sessions": 3,
    "limit_rate": 2**20,
}


def test_everything_can_be_given_at_once(add, show):
    record = add("alice", *EVERYTHING)
    assert record.items() >= EVERYTHING_SHOWN.items()
    assert show("alice").items() >= EVERYTHING_SHOWN.items()


def test_what_is_set_changes_and_the_rest_stays(ftpd, add, show):
    add("alice", *EVERYTHING)
    assert ftpd("user", "set", "alice", "--quota", "1G")[:2] == (0, "changed alice\n")
    assert show("alice").items() >= (EVERYTHING_SHOWN | {"total": 2**30}).items()


@pytest.mark.parametrize("word", ["none", "unlimited", "NONE"])
def test_limits_can_be_lifted(ftpd, add, word):
    add("alice", *EVERYTHING)
    out = ftpd(
        *("user", "set", "alice", "--json", "--quota", word, "--max-files", word),
        *("--permit", "all", "--network", "any", "--expires", "never"),
        *("--max-sessions", word, "--limit-rate", word),
    )[1]
    record = json.loads(out)
    assert [record[name] for name in EVERYTHING_SHOWN] == [
        *(None, None, ["all"], [], None, None, None)
    ]


def test_a_time_from_now(add):
    record = add("alice", "--expires", "30d")
    expected = time.strftime("%Y-%m-%dT%H", time.gmtime(time.time() + 30 * 24 * 3600))
    assert record["expires"].startswith(expected)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--quota", "-1"), id="negative"),
        pytest.param(("--max-files", "-1"), id="negative-count"),
        pytest.param(("--max-files", "1.5"), id="half-a-file"),
        pytest.param(("--max-files", "٣"), id="other-digits"),
        pytest.param(("--permit", "everything"), id="no-right"),
        pytest.param(("--permit", "in=all"), id="relative-prefix"),
        pytest.param(("--permit", "/.ftpd-staging=all"), id="reserved-prefix"),
        pytest.param(("--network", "10.0.0.0/33"), id="no-network"),
        pytest.param(("--network", "any", "--network", "10.0.0.0/8"), id="any-and-one"),
        pytest.param(("--expires", "tomorrow"), id="no-date"),
        pytest.param(("--limit-rate", "0"), id="no-rate"),
        pytest.param((), id="nothing"),
    ],
)
def test_what_cannot_be_set(ftpd, add, show, options):
    add("alice")
    before = show("alice")
    status, out, err = ftpd("user", "set", "alice", *options)
    assert (status, out) == (2, "") and err
    assert show("alice") == before


@pytest.mark.parametrize(
    "arguments",
    [("set", "nobody", "--quota", "1MiB"), ("disable", "nobody"), ("enable", "nobody")]
    + [("rename", "nobody", "somebody"), ("remove", "nobody", "--delete-home", "-y")],
)
def test_nobody(ftpd, engine, arguments):
    status, _, err = ftpd("user", *arguments)
    assert (status, err) == (5, "ftpd: nobody: no such account\n")


def log_in(root, name: str = "alice", password: str = "correct-horse"):
    engine = open_state(root / ".ftpd")
    try:
        return Accounts(engine, root).log_in(name, password)
    finally:
        engine.dispose()


def test_disabling_and_enabling(ftpd, add, root):
    add("alice")
    assert ftpd("user", "disable", "alice")[1] == "disabled alice\n"
    with pytest.raises(LoginRefused):
        log_in(root)
    assert ftpd("user", "list")[1].split("\t")[5] == "disabled"
    assert ftpd("user", "enable", "alice")[1] == "enabled alice\n"
    log_in(root)


def test_enabling_reports_that_the_time_is_over(ftpd, add):
    add("alice", "--expires", "2020-01-01")
    assert "expired on 2020-01-01" in ftpd("user", "enable", "alice")[1]
    assert ftpd("user", "list")[1].split("\t")[4:6] == ["2020-01-01T00:00:00Z", "expired"]


def test_renaming_keeps_home_and_password(ftpd, add, show, root):
    add("alice")
    (root / "alice" / "file").write_text("stays")
    assert ftpd("user", "rename", "alice", "anna")[1] == "renamed alice to anna\n"
    assert show("anna")["home"] == str(root / "alice")
    log_in(root, "anna")
    assert "an account of that name exists" in add("anna", status=1)


def test_a_name_that_became_free_gets_no_home_of_another(ftpd, add, root):
    add("alice")
    ftpd("user", "rename", "alice", "anna")
    assert "home of another account" in add("alice", status=1)


def test_a_home_where_nothing_was_stored_is_free(ftpd, add, root):
    add("alice")
    staging = root / "alice" / ".ftpd-staging"
    staging.mkdir()
    (staging / "lock").write_bytes(b"")
    ftpd("user", "remove", "alice")
    add("alice")
    ftpd("user", "remove", "alice")
    (staging / "u-left").write_bytes(b"of an upload")
    assert "isn't empty" in add("alice", status=1)


def test_showing_for_people(ftpd, add):
    add("alice", *EVERYTHING)
    status, out, err = ftpd("user", "show", "alice")
    assert (status, err) == (0, "")
    for text in (
        *("0 B of 10.0 MiB", "0 of 100", "read-only /in=upload-only", "10.0.0.0/8, fd00::/8"),
        *("2030-12-31T00:00:00Z", "at most 3", "1.0 MiB/s", "open"),
    ):
        assert text in out


def test_a_table_on_a_terminal(ftpd, add, monkeypatch):
    add("alice", "--quota", "1GiB")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    out = ftpd("user", "list")[1]
    assert "PERMISSIONS" in out.splitlines()[0] and "TRASH" in out.splitlines()[0]
    assert "alice" in out and "1.0 GiB" in out and "never" in out


def test_raw_numbers_in_a_pipe(ftpd, add, root):
    add("alice", "--quota", "1GiB")
    row = ["alice", "0", "0", str(2**30), "-", "open", "all", f"{root}/alice"]
    assert ftpd("user", "list")[1] == "\t".join(row) + "\n"


# removing ------------------------------------------------------------------------------------


def test_a_home_is_removed_on_purpose_only(ftpd, add, root):
    add("alice")
    (root / "alice" / "file").write_text("precious")
    status, _, err = ftpd("user", "remove", "alice", "--delete-home")
    assert status == 2 and "--yes" in err
    assert (root / "alice" / "file").exists()
    assert ftpd("user", "show", "alice")[0] == 0
    status, out, _ = ftpd("user", "remove", "alice", "--delete-home", "-y")
    assert (status, out) == (0, f"removed alice and {root}/alice\n")
    assert not (root / "alice").exists()
    add("alice")


@pytest.mark.parametrize(("answer", "removed"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_terminal_is_asked(ftpd, add, root, monkeypatch, answer, removed):
    from ftpserver.cli import users

    add("alice")
    (root / "alice" / "file").write_bytes(bytes(2048))
    monkeypatch.setattr(users.sys, "stdin", Terminal())
    requested = []

    def confirm(text, **options):
        requested.append(text)
        if answer != "y\n":
            raise users.click.Abort

    monkeypatch.setattr(users.click, "confirm", confirm)
    monkeypatch.setattr(sys, "argv", ["ftpd"])
    with pytest.raises(SystemExit) if not removed else nullcontext():
        users.user.main(
            ["remove", "alice", "--delete-home", "--root", str(root)], standalone_mode=not removed
        )
    assert requested == [f"Purge {root}/alice with 1 files (2.0 KiB)?"]
    assert (root / "alice").exists() is not removed


class Terminal:
    def isatty(self) -> bool:
        return True


def test_a_new_account_of_the_name_gets_no_token(ftpd, add, root):
    add("alice")
    engine = open_state(root / ".ftpd")
    try:
        accounts = Accounts(engine, root)
        tokens = Tokens(engine, accounts)
        issued = tokens.issue(accounts.get("alice"), "old")
        assert tokens.log_in("alice", issued.secret)
        ftpd("user", "remove", "alice")
        add("alice")
        with pytest.raises(LoginRefused):
            tokens.log_in("alice", issued.secret)
        assert tokens.of(accounts.get("alice")) == []
    finally:
        engine.dispose()


# elsewhere -----------------------------------------------------------------------------------


def test_an_export_makes_the_same_accounts_elsewhere(ftpd, add, root, tmp_path):
    add("alice", *EVERYTHING)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_bytes(b"12345")
    add("bob", "--home", str(tmp_path / "far"))
    ftpd("user", "disable", "bob")
    lines = ftpd("user", "export")[1]
    other = tmp_path / "other"
    status, out, err = ftpd(
        "user", "import", "--root", str(other), stdin=lines.encode(), with_root=False
    )
    assert (status, out, err) == (0, "2 added\n", "")
    assert ftpd("user", "export", "--root", str(other), with_root=False)[1] == lines
    log_in(other)
    listed = ftpd("user", "list", "--json", "--root", str(other), with_root=False)[1].splitlines()
    alice, bob = map(json.loads, listed)
    assert alice["home"] == str(other / "alice") and (other / "alice").is_dir()
    assert bob["home"] == str(tmp_path / "far") and bob["used"] == 5


def test_homes_below_the_root_go_where_the_root_goes(ftpd, add, root, tmp_path):
    add("alice")
    (root / "alice" / "file").write_bytes(b"12345")
    ftpd("user", "rename", "alice", "alicia")
    add("bob", "--home", str(root / "team" / "bob"))
    add("carol", "--home", str(tmp_path / "elsewhere"))
    assert ftpd("recount")[0] == 0
    exported = ftpd("user", "export")[1].encode()
    moved = tmp_path / "moved"
    root.rename(moved)

    def homes(place) -> dict[str, str]:
        lines = ftpd("user", "list", "--json", "--root", str(place), with_root=False)[1]
        return {one["name"]: one["home"] for one in map(json.loads, lines.splitlines())}

    def expected(place) -> dict[str, str]:
        return {
            "alicia": f"{place}/alice",
            "bob": f"{place}/team/bob",
            "carol": f"{tmp_path}/elsewhere",
        }

    assert homes(moved) == expected(moved)
    assert ftpd("check", "--root", str(moved), with_root=False)[0] == 0
    arguments = ("user", "add", "alice", "--root", str(moved), "--password-stdin")
    err = ftpd(*arguments, stdin=b"correct-horse\n", with_root=False)[2]
    assert "is the home of another account" in err
    imported = tmp_path / "imported"
    arguments = ("user", "import", "--root", str(imported))
    assert ftpd(*arguments, stdin=exported, with_root=False)[0] == 0
    assert homes(imported) == expected(imported)


def test_an_export_without_passwords(ftpd, add, root, tmp_path):
    add("alice")
    lines = ftpd("user", "export", "--no-passwords")[1]
    assert "argon2" not in lines
    other = str(tmp_path / "other")
    ftpd("user", "import", "--root", other, stdin=lines.encode(), with_root=False)
    with pytest.raises(LoginRefused):
        log_in(tmp_path / "other")
    with pytest.raises(LoginRefused):
        log_in(tmp_path / "other", password="")


def test_an_update_changes_what_is_there(ftpd, add, show, root, tmp_path):
    add("alice", "--quota", "1MiB")
    lines = ftpd("user", "export")[1]
    ftpd("user", "set", "alice", "--quota", "2MiB")
    file = tmp_path / "accounts"
    file.write_text(lines + json.dumps({"name": "bob"}) + "\n\n")
    assert ftpd("user", "import", str(file))[0] == 1
    assert show("alice")["total"] == 2 * 2**20
    assert ftpd("user", "import", str(file), "--update")[1] == "1 added, 1 updated\n"
    assert show("alice")["total"] == 2**20
    log_in(root)


def test_an_update_leaves_what_a_line_does_not_name(ftpd, add, show):
    before = add("alice", *EVERYTHING)
    ftpd("user", "disable", "alice")
    line = json.dumps({"name": "alice", "quota": 5})
    assert ftpd("user", "import", "--update", stdin=line.encode())[0] == 0
    after = show("alice")
    assert {name for name in before if after[name] != before[name]} == {"total", "free", "disabled"}
    assert after["total"] == 5 and after["disabled"]
    ftpd("user", "import", "--update", stdin=b'{"name": "alice", "networks": [], "quota": null}')
    assert (show("alice")["networks"], show("alice")["total"]) == ([], None)
    assert ftpd("user", "import", "--update", stdin=b'{"name": "alice"}')[0] == 0


def test_an_update_of_the_password_ends_tokens_another_does_not(ftpd, add, show, root):
    add("alice")
    engine = open_state(root / ".ftpd")
    accounts = Accounts(engine, root)
    Tokens(engine, accounts).issue(accounts.get("alice"), "one")
    engine.dispose()
    lines = ftpd("user", "export")[1].encode()
    assert ftpd("user", "import", "--update", stdin=lines)[0] == 0
    assert show("alice")["tokens"] == 1
    ftpd("user", "passwd", "alice", "--password-stdin", stdin=b"another-one\n")
    assert ftpd("user", "import", "--update", stdin=lines)[0] == 0
    assert show("alice")["tokens"] == 0
    log_in(root)


BAD_LINES = {
    "no-json": b"rubbish",
    "no-object": b"[1]",
    "deep": b"[" * 30_000,
    "no-utf-8": b'{"name": "\xff"}',
    "no-name": b"{}",
    "bad-name": b'{"name": "../x"}',
    "unknown-field": b'{"name": "bob", "qouta": 5}',
    "negative": b'{"name": "bob", "quota": -1}',
    "too-large": b'{"name": "bob", "quota": 9223372036854775808}',
    "wrong-type": b'{"name": "bob", "disabled": "yes"}',
    "rights": b'{"name": "bob", "permissions": ["some"]}',
    "network": b'{"name": "bob", "networks": ["10.0.0.0/99"]}',
    "expires": b'{"name": "bob", "expires": "soon"}',
    "password": b'{"name": "bob", "password_hash": "secret"}',
    "other-hash": b'{"name": "bob", "password_hash": "$2b$12$abc"}',
    "costly-hash": b'{"name": "bob", "password_hash":'
    b'"$argon2id$v=19$m=4194304,t=2,p=1$YWFhYWFhYWE$YWFhYWFhYWFhYWFhYWFhYQ"}',
    "home-above-the-root": b'{"name": "bob", "home": "../here"}',
    "home-above-the-root-later": b'{"name": "bob", "home": "a/../../here"}',
    "empty-home": b'{"name": "bob", "home": ""}',
    "home-of-no-directory": b'{"name": "bob", "home": "/dev/null/x"}',
    "twice": b'{"name": "good"}',
    "exists": b'{"name": "alice"}',
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_wrong_line_stops_all_of_it(ftpd, add, root, line):
    add("alice")
    status, out, err = ftpd("user", "import", stdin=b'{"name": "good"}\n\n' + line + b"\n")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1 and err[:-1].isprintable()
    if b"/dev/null" not in line:
        assert "line 3: " in err
    assert [line.split()[0] for line in ftpd("user", "list")[1].splitlines()] == ["alice"]
    assert sorted(os.listdir(root)) == [".ftpd", "alice"]


# roots that are none, and that are damaged ---------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("user", "list"),
        ("user", "show", "alice"),
        ("user", "set", "alice", "--quota", "1MiB"),
        ("user", "passwd", "alice", "--password-stdin"),
        ("user", "remove", "alice"),
        ("user", "export"),
        ("token", "list", "alice"),
        ("token", "revoke", "1234"),
        ("invite", "--list"),
        ("why", "alice", "login"),
        ("log",),
        ("recount",),
        ("scrub",),
        ("check",),
        ("backup", "/nonexistent/place"),
    ],
    ids=" ".join,
)
def test_a_mistyped_root_is_no_new_one(ftpd, root, arguments):
    typed = root / "tpyo"
    status, out, err = ftpd(*arguments, "--root", str(typed), with_root=False)
    assert (status, out) == (1, "")
    assert f"{typed}: no server has been started here" in err
    assert not typed.exists()


def test_what_goes_wrong_on_the_disk_is_one_line(ftpd, add, root):
    add("alice")
    (root / ".ftpd" / "state.db").unlink()
    (root / ".ftpd" / "state.db").mkdir()
    status, out, err = ftpd("user", "add", "bob", "--password-stdin", stdin=b"correct-horse\n")
    assert (status, out) == (1, "")
    assert err.startswith("ftpd: ") and err.count("\n") == 1


def test_a_damaged_file_is_one_line_for_every_command(ftpd, add, root, monkeypatch):
    add("alice")
    (root / ".ftpd" / "state.db").write_bytes(b"no database" * 1000)
    for arguments in (("user", "list"), ("user", "show", "alice"), ("why", "alice", "login")):
        status, out, err = ftpd(*arguments)
        assert (status, out) == (1, "")
        assert err == f"ftpd: {root}/.ftpd/state.db: file is not a database\n"


def test_a_shared_home_is_warned_of(ftpd, add, tmp_path):
    team = str(tmp_path / "team")
    add("alice", "--home", team)
    status, _, err = ftpd(
        *("user", "add", "bob", "--password-stdin", "--home", team), stdin=b"correct-horse\n"
    )
    assert status == 0
    assert "warning: alice can see and change the same files" in err


# new passwords -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["add", "passwd"])
def test_a_short_password_is_refused_unless_it_is_meant(ftpd, root, command):
    name = "alice"
    if command == "passwd":
        assert ftpd("user", "add", name, "--generate")[0] == 0
    line = ("user", command, name, "--password-stdin")
    status, _, err = ftpd(*line, stdin=b"1234567\n")
    assert (status, err) == (1, "ftpd: the password is shorter than 8 characters\n")
    assert ftpd(*line, "--weak", stdin=b"1234567\n")[0] == 0
    log_in(root, name, "1234567")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_password_can_be_made(ftpd, root, as_json):
    status, out, _ = ftpd("user", "add", "alice", "--generate", *(["--json"] if as_json else []))
    assert status == 0
    password = json.loads(out)["password"] if as_json else out.split()[-1]
    assert len(password) >= 20
    log_in(root, "alice", password)
    assert ftpd("user", "add", "bob", "--generate", "--password-stdin", stdin=b"x\n")[0] == 2


@pytest.mark.parametrize("text", ["5", "1", "4095"])
def test_a_small_quota_needs_a_unit(ftpd, add, show, text):
    add("alice")
    status, _, err = ftpd("user", "set", "alice", "--quota", text)
    assert status == 2 and f"{text}MiB" in err and f"{text}B" in err
    assert ftpd("user", "set", "alice", "--quota", f"{text}B")[0] == 0
    assert show("alice")["total"] == int(text)
    assert ftpd("user", "set", "alice", "--quota", "0")[0] == 0
