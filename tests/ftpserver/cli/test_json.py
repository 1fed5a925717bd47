"""What `ftpd --json` prints is what docs/json.md says: each command, each kind, each key."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec
import pytest

from ftpserver.accounts.penalties import Offence
from ftpserver.audit.record import Record
from ftpserver.cli import records
from ftpserver.cli import start as cli_start
from ftpserver.cli.main import cli
from ftpserver.daemon import control
from ftpserver.serving.stats import SessionInfo
from ftpwire.messages import IssueToken, Operation, Remove
from tests.json_document import Checked, printed_by, words_of


def test_every_command_is_in_the_document():
    assert words_of(cli, "ftpd") == {words for words in printed_by() if words.startswith("ftpd ")}


@pytest.fixture
def run(ftpd):
    """Runs a command; what it prints has to be as documented."""

    def run_one(*words: str, fails: bool = False, stdin: bytes = b"", with_root: bool = True):
        status, out, err = ftpd(*words, "--json", stdin=stdin, with_root=with_root)
        assert bool(status) == fails, (words, status, err)
        for name in (" ".join(words[:2]), words[0]):
            if f"ftpd {name}" in printed_by():
                run_one.checked.output(name, out)
        run_one.checked.complaints(words[0], err)
        return [json.loads(line) for line in out.splitlines()]

    run_one.checked = Checked("ftpd")
    return run_one


def test_every_command_prints_what_the_document_says(
    run, start_server, dial, tmp_path, monkeypatch, capsys
):
    server = start_server()
    root = server.settings.root
    accounts(run, server, dial, tmp_path)
    running_server(run, server, dial)
    storage(run, server, tmp_path)
    trash(run, server, dial)
    settings(run, tmp_path)
    ends(run, server, monkeypatch, capsys)
    mistakes(run, root)
    rare_keys(run.checked)
    run.checked.check_complete({"account action": {"tokens", "sessions"}})


def accounts(run, server, dial, tmp_path):
    (made,) = run("user", "add", "bob", "--generate", "--quota", "1MiB")
    assert len(made["password"]) > 8 and made["action"] == "user-add"
    run("user", "passwd", "bob", "--generate")
    run("user", "set", "bob", "--limit-rate", "1MiB", "--expires", "2090-01-01")
    run("user", "disable", "bob")
    run("user", "enable", "bob")
    run("user", "rename", "bob", "carol")
    run("user", "add", "dave", "--generate", "--home", str(tmp_path / os.fsdecode(b"h\xff")))
    run("user", "list")
    run("user", "show", "carol")
    run("user", "remove", "dave")
    (carol, *_) = (one for one in run("user", "export") if one["name"] == "carol")
    run("user", "remove", "carol")
    run("user", "import", "-", stdin=json.dumps(carol).encode())
    peer = dial(server)
    made = [peer.ask(IssueToken(name)) for name in ("one", "two")]
    peer.close()
    run("user", "tokens", "alice")
    run("token", "list", "alice")
    run("token", "revoke", made[0].id)
    run("token", "revoke", "--all", "alice")
    peer = dial(server)
    made = [peer.ask(IssueToken(name)) for name in ("one", "two")]
    peer.close()
    run("user", "tokens", "alice", "--revoke", made[0].id)
    run("user", "tokens", "alice", "--revoke-all")
    (invited,) = run("invite", "--quota", "1MiB")
    run("invite", "--list")
    run("invite", "--revoke", invited["id"])
    run("why", "alice", "put", "/x", "5")
    run("why", "alice", "login", "192.0.2.1")
    run("why", "alice", "get", "/none", fails=True)


def running_server(run, server, dial):
    peer = dial(server)
    run("status")
    (seen, *_) = run("sessions")
    run("kick", str(seen["id"]))
    peer.close()
    server.service.limits.penalize("192.0.2.1", Offence.CRASH)
    run("bans")
    run("unban", "--all")
    run("reload")
    run("log")
    run("user", "show", "alice")


def storage(run, server, tmp_path):
    home = server.settings.root / "alice"
    for name in (b"good", b"\xff"):
        path = os.fsencode(home) + b"/" + name
        Path(os.fsdecode(path)).write_bytes(b"123")
    run("recount", "alice")
    run("scrub")
    rotten = os.fsencode(home) + b"/\xff"
    before = os.stat(rotten)
    Path(os.fsdecode(rotten)).write_bytes(b"124")
    os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))
    run("scrub", fails=True)
    run("check", "--read", fails=True)
    run("backup", str(tmp_path / "copy"))
    run("backup", "--keep", "1", str(tmp_path / "copies"))


def trash(run, server, dial):
    home = server.settings.root / "alice"
    peer = dial(server)
    for name in ("one", "two"):
        (home / name).write_bytes(b"123")
        peer.ask(Operation(name.encode() * 2 + b"\0\0", f"rm {name}"))
        peer.ask(Remove(b"/" + name.encode()))
    peer.close()
    run("trash", "list")
    (newest, _) = run("trash", "list", "alice")
    (home / "two").write_bytes(b"in the way")
    run("trash", "restore", "alice", newest["id"], fails=True)
    run("trash", "restore", "alice", newest["id"], "--force")
    run("trash", "empty", "alice", "--yes")
    run("trash", "empty", "--all", "--yes")


def settings(run, tmp_path):
    run("fingerprint")
    run("completion", "bash", with_root=False)
    run("certificate", "request", "files.example")
    run("config", "show")
    run("config", "check")
    run("service")
    unit = tmp_path / "ftpd.service"
    unit.write_text("[Service]\n")
    run("service", "--check", "--installed", str(unit), fails=True)


def ends(run, server, monkeypatch, capsys):
    monkeypatch.setattr(control, "ask_until_end", lambda *_: [None])
    run("stop")
    run("drain")
    cli_start._announce(server, cli_start._First("alice", "secret"), True)
    run.checked.output("start", capsys.readouterr().out)


def rare_keys(checked):
    """What takes more than a command to come about."""
    full = Record(
        *("2026-11-28T09:30:00.000Z", "move", "refused", "alice", "192.0.2.1", "7"),
        *(
            "/a",
            "L2E=",
            "/b",
            "L2I=",
            3,
            1,
            "18aa-7f3a",
            "00",
            0.5,
            "forbidden",
            "no",
            "root",
            "bob",
            "carol",
        ),
        *(2, {"uses": 1}),
    )
    checked.record("record", json.loads(msgspec.json.encode(full)))
    session = SessionInfo(7, "alice", "192.0.2.1:1", 0.0, "move", b"/\xff", b"/b", 0.0, 1, 2, 3.0)
    checked.record("session", records.session_record(session))


def mistakes(run, root):
    run("status", "--frob", fails=True)
    run("user", "show", "nobody", fails=True)
    run("user", "frob", fails=True)
    run("kick", "nobody", fails=True)
    file = root / ".ftpd" / "ftpd.toml"
    file.write_text("prot = 1\nstall = 0\n")
    run("config", "check", fails=True)
    file.unlink()
