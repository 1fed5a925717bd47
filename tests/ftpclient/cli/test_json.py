"""What `ftp --json` prints is what docs/json.md says: each command, each kind, each key."""

from __future__ import annotations

import json
import os
import re
import shlex
from types import SimpleNamespace

import pytest

from ftpclient.cli import records
from ftpclient.cli.commands import viewing
from ftpclient.cli.group import SHELL_ONLY
from ftpclient.cli.main import remote
from ftpclient.cli.unfinished import Transfer
from ftpclient.connection import discovery
from ftpclient.connection.discovery import Found
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.transfer.report import Finding, Result
from ftpwire import errors
from ftpwire.messages import Entry, KeptUpload
from tests.json_document import Checked, kinds, mismatch, printed_by, words_of

ODD = os.fsdecode(b"\xff")


def test_every_command_is_in_the_document():
    assert words_of(remote, "ftp", *SHELL_ONLY) == {
        words for words in printed_by() if words.startswith("ftp ")
    }


@pytest.mark.parametrize("kind", kinds())
def test_examples_are_as_their_tables_say(kind):
    assert not mismatch(kinds()[kind].example, kind)


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"more": 1}, "['more'] not documented"),
        ({"size": None}, ["size=None"]),
        ({"exit": True}, ["exit=True"]),
        ({"exit": "1"}, ["exit='1'"]),
    ],
)
def test_what_is_not_as_documented_is_found(change, reported):
    kind = "failure" if "exit" in change else "digest"
    wrong = reported if isinstance(reported, str) else f"{reported} of another type"
    assert mismatch(kinds()[kind].example | change, kind) == wrong
    lacking = dict(list(kinds()[kind].example.items())[1:])
    assert "missing" in mismatch(lacking, kind)


def test_a_wrong_option_is_reported_as_json_wherever_json_stands(user):
    for words in (["ls", "--frob", "--json"], ["--json", "ls", "--frob"], ["ls", "--json", "-R1x"]):
        reported = json.loads(user.run(*words, status=2).err)
        assert not mismatch(reported, "failure") and reported["exit"] == 2


def test_a_documented_key_that_is_never_printed_is_found():
    with pytest.raises(AssertionError, match="documented, and never printed: .*'directory'"):
        Checked("ftp").check_complete({})


@pytest.fixture
def files(user):
    """Files here, and some on the server."""
    (user.home / "d" / "e").mkdir(parents=True)
    for name in ("a", "b", "d/f", "d/e/g", ODD):
        (user.home / name).write_text("123")
    (user.home / "other").write_text("4567")
    os.symlink("a", user.home / "l")
    user.run("put", "a", "b", ODD, "/")
    user.run("put", "--links", "l", "/")
    user.run("put", "-r", "d", "/")
    return user.home


SCRIPT = """
ls / | ls -d / | ls none! | stat a l | find d | tree d | hash a d! | du -ac d | df | pwd | whoami
status | cat none! | head none! | tail none! | diff a :none!
put a c | put a c | put -n b c | put none x! | put -r d new | put --dry-run -r d x | put a /no/x!
get a got | get a got | get -n b got | get none! | get --dry-run -r d x
sync d :m | sync -n --delete d :/d2 | touch m/f | sync d :m | touch m/extra | chmod 600 m/e/g
sync --delete -y d :m | check d :m
mkdir new! | mkdir -p p/q | rmdir p/q | rmdir none! | rmdir none*!
cp a cp | cp -n a cp | cp -r d d3 | cp --dry-run a x | cp a no/x!
mv cp mvd | mv -n mvd a | mv --dry-run a x | mv none x!
ln -s a ln | ln -s a ln! | chmod 644 a none! | chmod -R go-w d | chmod g+s a!
touch t | touch -c none | touch no/t! | rm --dry-run -r d3 | rm t none! | rm -f t none | rm -r d3
find m -type f -delete | check d :m! | rm ?
kept | kept none! | kept --drop --all
put -T other a | versions a | versions none! | restore a | undo -n | undo | restore a --at now
rm -r p | rm a none -f | trash | trash -l | trash ls 0000! | restore none!
servers | servers --default none! | token list | token revoke none! | frob! | ls --frob!
discover --timeout 0.05 --discovery-port 9!
"""
"""Command lines, those that fail with ! at their end."""


def lines_of(script):
    """Each line, and whether it fails."""
    for line in map(str.strip, script.replace("\n", "|").split("|")):
        if line:
            yield line.rstrip("!"), line.endswith("!")


@pytest.fixture
def user(start_server, at_a_command_line):
    return at_a_command_line(start_server(durable=False, open_registration=True))


def test_every_command_prints_what_the_document_says(user, files, monkeypatch, capfdbinary):
    user.running.accounts.change("alice", max_files=10_000)
    checked, unexpected = Checked("ftp"), []

    def run(words, *, fails=False, given=b""):
        done = user.run("--json", *words, status=None, given=given)
        if bool(done.status) != fails:
            unexpected.append((words, done.status, done.err))
        words = [word for word in words if word != "--password-stdin"]
        name = " ".join(words[:2]) if words[0] in ("token", "trash") else words[0]
        name = "trash ls" if name in ("trash", "trash -l") else name
        if f"ftp {name}" in printed_by():
            checked.output(name, done.text)
        checked.complaints(words[0], done.err)

    for line, fails in lines_of(SCRIPT):
        run([ODD if word == "?" else word for word in shlex.split(line)], fails=fails)
    run(["rm", "-r", "d"])
    newest = user.run("--json", "trash").records[0]["id"]
    for words in (["ls", newest], ["ls", newest, "d"], ["get", newest, "/d/f", "from-trash"]):
        run(["trash", *words])
    run(["mkdir", "d"])
    run(["trash", "restore", newest], fails=True)
    run(["trash", "restore", newest, "--to", "/again"])
    run(["trash", "empty", newest])
    run(["trash", "empty"])
    run(["-c", "ls"])
    run(["completion", "bash"])
    for line in (
        *("alias ll='ls -l' ; alias", "set", "set bell", "history", "bookmark here", "close"),
        *("close ; open", "open here", "ls / > x & jobs", "ls / > x & wait", "resume"),
    ):
        done = user.run("-c", f"{line} --json")
        checked.output(re.split(" [;&] ", line)[-1].split()[0], done.text)
    for line in ("lpwd", f"lmkdir {shlex.quote('new')}", "lmkdir new", "cd d", "lcd d"):
        done = user.run("--json", "-c", f"{line} --json", status=None)
        checked.output(line.split()[0], done.text)
        checked.complaints(line, done.err)
    done = user.run("--json", "batch", "-", given=b"ls none\n", status=None)
    checked.complaints("batch", done.err)

    address = f"alice@{user.server}"
    run(["login", address, "--name", "home", "--expires", "30d"])
    run(["servers"])
    run(["servers", "--default", "home"])
    run(["token", "list"])
    listed = user.run("--json", "token", "list").records
    run(["token", "revoke", listed[0]["id"]])
    run(["login", address, "--name", "home"])
    run(["logout"])
    run(["logout", "--forget", "other.example"], fails=True)
    run(["servers", "--remove", "home"])
    run(["--password-stdin", "passwd"], given=b"secret\nother-secret\n")

    user.password = "other-secret"
    monkeypatch.setattr(viewing, "_need_terminal", lambda *_: None)
    for text in ("text", "text", "more"):  # made, the same, changed
        user.environment["EDITOR"] = f"sh -c 'echo {text} >$1' ftp"
        run(["edit", "edited"])
    user.environment["EDITOR"] = "false"
    run(["edit", "edited"], fails=True)
    monkeypatch.setattr(KnownHosts, "remove", lambda *_: True)
    run(["forget", "files.example"])
    run(["servers", "--new-key", "files.example"])
    user.password = "correct-horse"
    run(["register", f"carol@{user.server}", "--no-save"])
    run(["register", f"dave@{user.server}"])
    assert not unexpected, "\n".join(map(str, unexpected))
    _finish(checked, user, monkeypatch)


def _finish(checked, user, monkeypatch):
    """What a plain server and a pipe don't bring about."""
    facts = {"needed": 5, "free": None, "what": "bytes", "retry_after": 3, "rule": "/=none"}
    error = errors.QuotaExceeded("no room", path=b"/\xff", **facts)
    checked.record("failure", records.error_record(error, line=3))
    for kind in ("put", "get"):
        result = Result(b"\xff", b"/\xff", 3, "failed", error=error)
        checked.record("transfer", records.result_record(result, kind))
    grown = Result(b"a", b"/a", 3, "done", remark="it grew")
    checked.record("transfer", records.result_record(grown, "put"))
    step = SimpleNamespace(action="put", type="file", why="new", count=1, size=3)
    failed = Result(b"\xff", b"/\xff", 3, "failed", error=error, step=step)
    checked.record("step", records.result_record(failed, ""))
    checked.record(
        "step",
        records.result_record(
            Result(b"a", b"/a", 3, "done", remark="it grew", step=step, digest=bytes(32)), ""
        ),
    )
    checked.record("change", records.action_record("copy", b"/\xff", error=error, status="failed"))
    entry = Entry(path=b"l", type="link", size=1, mode=0o777, mtime_ns=0, target=b"\xff")
    checked.record("entry", records.entry_record(entry, b"/l"))
    unread = Finding(b"\xff", "unreadable", error="forbidden", message="/x: no permission")
    checked.record("difference", records.finding_record(unread))
    checked.record("line", records.history_record(1, "ls"))
    transfer = Transfer("alice@files", "/", "/home/alice", "put big.iso /", 1)
    checked.record("unfinished transfer", records.unfinished_record(1, transfer))
    kept = KeptUpload(path=b"/\xff", size=1, total=2, touched=3, until=4)
    checked.record("kept upload", records.kept_record(kept))
    found = Found("files", 21021, "0.1.0", None, ["192.0.2.1"])
    monkeypatch.setattr(discovery, "discover", lambda *_, **__: [found])
    checked.output("discover", user.run("--json", "discover").text)
    checked.check_complete({"touched": {"depth"}})
