"""`ftpd trash` and the accounts' own settings of it, with a server that runs and without one."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from ftpserver.admin import verify
from ftpserver.audit.files import FILE_NAME
from ftpserver.cli import tables
from ftpserver.daemon import control_server
from ftpserver.errors import StateError
from ftpserver.root_lock import RootLock
from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpserver.storage.trash.policy import Policy
from ftpserver.workspace.workspace import Workspace
from ftpwire.errors import Busy
from ftpwire.messages import Move, Operation, Remove
from tests.ftpserver.test_migration import VERSION_3
from tests.peer import eventually


@pytest.fixture
def removed(start_server, dial):
    """Has alice remove files by her client; returns the server."""

    def remove(*names: str, server=None, contents: bytes = b"123", recursive=False):
        server = server or start_server()
        alice = server.accounts.get("alice")
        for name in names:
            place = alice.home / name
            if recursive:
                place.mkdir()
                place = place / "inner"
            place.write_bytes(contents)
        recount(server.service.ledger, alice.id, Home(alice.home))
        peer = dial(server)
        for number, name in enumerate(names):
            peer.ask(Operation(b"%8d" % number, f"rm {name}"))
            assert peer.ask(Remove(b"/" + name.encode(), recursive)).trashed
        peer.close()
        return server

    return remove


@pytest.fixture(params=["running", "stopped"])
def there(request, removed, start_server):
    """The home of alice, who has removed the files one and two, while the server runs or not."""
    server = removed("one", "two")
    if request.param == "stopped":
        start_server.finish(server)
    return server.settings.root / "alice"


def ids(ftpd) -> list[str]:
    """Of alice's operations, the newest first."""
    status, out, err = ftpd("trash", "list", "alice", "--json")
    assert (status, err) == (0, "")
    return [json.loads(line)["id"] for line in out.splitlines()]


def sound(root) -> bool:
    return [one for one in verify.check(root) if one.kind != "mode"] == []


def test_lists_in_a_pipe_can_be_cut(ftpd, removed, monkeypatch):
    server = removed("one")
    alice = server.accounts.get("alice")
    (alice.home / "tree").mkdir()
    with Workspace(alice, server.service.ledger, policy=Policy) as workspace:
        workspace.begin_operation(Operation(b"spaces..", "rm -r 'a  b\tc'"))
        workspace.remove(Remove(b"/tree", True))
        eventually(lambda: json.loads(listed(ftpd)[0])["counted"], "the tree is measured")
    newest, oldest = map(json.loads, listed(ftpd, "alice"))
    first, second = ftpd("trash", "list", "alice")[1].splitlines()
    shown = [newest["id"], newest["time"], r"rm -r 'a  b\tc'", "/tree", "0", "1", "yes"]
    assert first.split("\t") == shown
    assert second.split("\t") == [oldest["id"], oldest["time"], "rm one", "/one", "3", "1", "yes"]
    (line,) = ftpd("trash", "list")[1].splitlines()
    assert line.split("\t") == ["alice", "3", "2", "2", oldest["time"], "yes"]
    with monkeypatch.context() as terminal:
        terminal.setattr(tables, "on_terminal", lambda: True)
        head, line = ftpd("trash", "list")[1].splitlines()
        assert head.split() == ["NAME", "SIZE", "OPERATIONS", "OLDEST"]
        assert line.split() == ["alice", "3", "B", "2", oldest["time"]]
        head, _, line = ftpd("trash", "list", "alice")[1].splitlines()
        assert head.split() == ["ID", "TIME", "COMMAND", "CONTENTS"]
        assert line.endswith("Z  rm one           1 file, 3 B")
        assert ftpd("trash", "empty", "alice", "-y")[0] == 0
        assert (
            ftpd("trash", "list")[1] == ftpd("trash", "list", "alice")[1] == "the trash is empty\n"
        )


# restoring ---------------------------------------------------------------------------------


def test_an_operation_is_restored(ftpd, there, root):
    newest, oldest = ids(ftpd)
    assert ftpd("trash", "restore", "alice", oldest) == (0, "restored 1 entry\n", "")
    assert (there / "one").read_bytes() == b"123" and not (there / "two").exists()
    status, out, err = ftpd("trash", "restore", "alice", newest, "--to", "/back/here")
    assert (status, err) == (0, "")
    assert (there / "back" / "here" / "two").read_bytes() == b"123"


def test_what_is_in_the_way_stays_unless_forced(ftpd, there):
    newest, _ = ids(ftpd)
    (there / "two").write_bytes(b"other")
    status, out, err = ftpd("trash", "restore", "alice", newest)
    assert status == 12 and "/two" in err and out == "restored 0 entries\n"
    assert (there / "two").read_bytes() == b"other"
    status, out, err = ftpd("trash", "restore", "alice", newest, "--force")
    assert (status, out, err) == (0, "restored 1 entry\n", "")
    assert (there / "two").read_bytes() == b"123"


def test_an_account_that_may_nothing_gets_its_things_back_all_the_same(ftpd, there):
    assert ftpd("user", "set", "alice", "--permit", "none")[0] == 0
    assert ftpd("trash", "restore", "alice", ids(ftpd)[0])[0] == 0
    assert (there / "two").exists()


def test_what_there_is_not_is_reported(ftpd, there):
    for words, status in (
        (("restore", "alice", "ffffffff"), 5),
        (("restore", "alice", "x"), 5),
        (("restore", "nobody", "ffff"), 5),
        (("list", "nobody"), 5),
        (("empty", "nobody", "-y"), 5),
        (("empty",), 2),
        (("empty", "alice", "--all"), 2),
    ):
        ended, out, err = ftpd("trash", *words)
        assert (ended, out) == (status, "") and err.count("\n") == 1, words


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes something for others")
def test_what_root_makes_for_it_is_the_home_owners(ftpd, there):
    newest, _ = ids(ftpd)
    os.chown(there, 12345, 12345)
    assert ftpd("trash", "restore", "alice", newest, "--to", "/back/here")[0] == 0
    assert (there / "back").stat().st_uid == (there / "back" / "here").stat().st_uid == 12345


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes something for others")
def test_what_was_roots_before_stays_so(ftpd, there):
    """An administrator may have put a directory there that its user isn't to change."""
    newest, _ = ids(ftpd)
    os.chown(there, 12345, 12345)
    (there / "roots").mkdir()
    assert ftpd("trash", "restore", "alice", newest, "--to", "/roots/here")[0] == 0
    assert (there / "roots").stat().st_uid == 0
    assert (there / "roots" / "here").stat().st_uid == 12345


# emptying ----------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["alice", "--all"])
def test_the_trash_is_emptied(ftpd, there, root, whose):
    status, out, err = ftpd("trash", "empty", whose, "-y")
    assert (status, out, err) == (0, "purged 2 operations: 6 B freed\n", "")
    assert ftpd("trash", "list")[1] == ""
    assert not any((there / ".ftpd-trash").glob("*")) and sound(root)
    assert ftpd("trash", "empty", whose, "-y") == (0, "the trash was empty\n", "")


def test_only_what_is_older_goes(ftpd, there):
    trash = there / ".ftpd-trash"
    first, second = sorted(os.listdir(trash))
    old = f"{int(first[:16], 16) - 4 * 86400 * 10**9:016x}{first[16:]}"
    (trash / first).rename(trash / old)
    assert ftpd("trash", "empty", "alice", "--older", "5d", "-y")[1] == "the trash was empty\n"
    assert ftpd("trash", "empty", "alice", "--older", "3d", "-y")[0] == 0
    assert os.listdir(trash) == [second]


def test_all_is_also_what_accounts_have_left_that_are_gone(ftpd, there, root):
    ftpd("user", "remove", "alice")
    assert ftpd("user", "add", "heir", "--generate", "--home", str(there))[0] == 0
    assert ftpd("trash", "list")[1] == ""
    assert ftpd("trash", "empty", "heir", "-y")[1] == "the trash was empty\n"
    assert ftpd("trash", "empty", "--all", "-y")[1].startswith("purged 2 operations: 6 B")
    assert not list(there.glob(".ftpd-trash/*"))
    assert json.loads(ftpd("user", "show", "heir", "--json")[1])["used"] == 0


def test_an_earlier_version_finds_nothing_once_it_was_emptied_without_a_server(
    ftpd, removed, start_server
):
    server = removed("one")
    start_server.finish(server)
    ftpd("trash", "empty", "--all", "-y")
    assert os.listdir(server.settings.root / "alice") == [".ftpd-staging"]


def test_it_asks_first(ftpd, there, monkeypatch):
    status, _, err = ftpd("trash", "empty", "alice")
    assert status == 2 and "--yes" in err and len(ids(ftpd)) == 2


def test_it_is_recorded(ftpd, there, root):
    ftpd("trash", "restore", "alice", ids(ftpd)[0])
    ftpd("trash", "empty", "alice", "-y")
    ftpd("trash", "list")
    lines = map(json.loads, (root / ".ftpd" / FILE_NAME).read_text().splitlines())
    events = [(one["event"], one["user"]) for one in lines if one.get("by") and "user" in one]
    assert events == [("trash-restore", "alice"), ("trash-empty", "alice")]


def test_a_root_that_a_server_holds_which_cannot_be_asked(ftpd, there, root, monkeypatch):
    server_socket = root / ".ftpd" / "control.sock"
    server_socket.unlink(missing_ok=True)
    lock = None
    try:
        lock = RootLock(root / ".ftpd")
    except Exception:
        pass  # the server has it
    status, out, err = ftpd("trash", "empty", "alice", "-y")
    if lock is not None:
        lock.release()
    assert (status, out) == (1, "") and "another ftpd serves this root" in err
    assert len(ids(ftpd)) == 2


# accounts ----------------------------------------------------------------------------------


def test_an_account_has_settings_of_its_own(ftpd, accounts):
    words = ("--trash-days", "30", "--trash-max", "20")
    status, _, err = ftpd("user", "add", "bob", "--generate", *words)
    assert (status, err) == (0, "")
    assert (accounts.get("bob").trash_days, accounts.get("bob").trash_max) == (30, 20)
    assert "kept for 30 days, at most 20 %" in ftpd("user", "show", "bob")[1]
    ftpd("user", "set", "bob", "--trash-days", "default", "--trash-max", "default")
    assert (accounts.get("bob").trash_days, accounts.get("bob").trash_max) == (None, None)
    for wrong in ("-1", "x", "40000", "1.5"):
        status, _, err = ftpd("user", "set", "bob", "--trash-days", wrong)
        assert status == 2 and "trash-days" in err
    assert ftpd("user", "set", "bob", "--trash-max", "101")[0] == 2


def test_an_export_has_them(ftpd, accounts):
    accounts.add("bob", "secret", trash_days=3, trash_max=4)
    (line,) = ftpd("user", "export")[1].splitlines()
    ftpd("user", "remove", "bob")
    assert ftpd("user", "import", "-", stdin=line.encode())[0] == 0
    assert (accounts.get("bob").trash_days, accounts.get("bob").trash_max) == (3, 4)


def test_an_account_that_keeps_nothing_any_more_is_emptied_at_once(ftpd, there, root):
    status, _, err = ftpd("user", "set", "alice", "--trash-days", "0")
    assert status == 2 and "--yes" in err and len(ids(ftpd)) == 2
    assert "final" not in ftpd("user", "show", "alice")[1]
    status, out, err = ftpd("user", "set", "alice", "--trash-days", "0", "-y")
    assert (status, out) == (0, "changed alice\n") and "6 B freed" in err
    assert ids(ftpd) == [] and sound(root)
    assert "removals are final" in ftpd("user", "show", "alice")[1]


@pytest.mark.parametrize(
    "words",
    [("user", "set", "alice", "--trash-days", "0", "-y"), ("trash", "empty", "--all", "-y")],
)
def test_what_stays_because_somebody_is_at_it_is_reported(ftpd, there, monkeypatch, words):
    def purge(self, request):
        raise Busy("others are at it")

    monkeypatch.setattr(Workspace, "purge", purge)
    status, _, err = ftpd(*words)
    assert status == 1 and err.count("others are at it") == 2
    assert len(ids(ftpd)) == 2


def test_where_nothing_is_kept_nobody_is_asked(ftpd, accounts):
    accounts.add("bob", "secret")
    assert ftpd("user", "set", "bob", "--trash-days", "0") == (0, "changed bob\n", "")


def test_the_trash_is_shown_separately(ftpd, there):
    record = json.loads(ftpd("user", "show", "alice", "--json")[1])
    assert (record["used"], record["used_files"]) == (0, 0)
    assert (record["trash"], record["trash_files"]) == (6, 2)
    assert ftpd("user", "list")[1].split("\t")[1:3] == ["0", "6"]
    assert "6 B in 2 files, kept as set for the server" in ftpd("user", "show", "alice")[1]


# what else tells of it ---------------------------------------------------------------------


def test_a_recount_shows_it_separately_on_a_terminal(ftpd, removed, monkeypatch):
    removed("one", "two")
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    assert ftpd("recount", "alice")[1] == (
        "alice: 0 B, and 6 B in the trash; 0 files and directories\n"
    )


def test_status_reports_how_much_is_there(ftpd, removed):
    removed("one", "two")
    (line,) = [one for one in ftpd("status")[1].splitlines() if one.startswith("trash")]
    assert line.split(None, 1)[1] == "6 B in 2 operations, 0 purged for space today"


def test_status_counts_no_operations_that_keep_nothing(ftpd, removed):
    removed("one")
    (record,) = map(json.loads, ftpd("trash", "list", "alice", "--json")[1].splitlines())
    assert ftpd("trash", "restore", "alice", record["id"])[0] == 0
    assert ftpd("trash", "list")[1] == ""
    assert "0 B, 0 purged for space today" in ftpd("status")[1]


def test_status_counts_the_operations_that_the_list_counts(ftpd, removed, dial):
    """One was restored, one only moved a file, one removed a tree that is not measured yet, and one
    belongs to another account that has the same home."""
    server = removed("one", "two")
    alice = server.accounts.get("alice")
    other = server.accounts.add("other", "correct-horse", home=alice.home)
    restored, _ = (json.loads(line)["id"] for line in listed(ftpd, "alice"))
    assert ftpd("trash", "restore", "alice", restored)[0] == 0
    (alice.home / "tree" / "inner").mkdir(parents=True)
    with Workspace(alice, server.service.ledger, policy=Policy) as workspace:
        for key, words in ((b"moving..", "mv"), (b"removing", "rm -r")):
            workspace.begin_operation(Operation(key, words))
            if words == "mv":
                workspace.move(Move(b"/two", b"/three"))
            else:
                workspace.remove(Remove(b"/tree", True))
    with Workspace(other, server.service.ledger, policy=Policy) as workspace:
        workspace.begin_operation(Operation(b"other...", "rm"))
        workspace.remove(Remove(b"/three"))
    assert [len(listed(ftpd, name)) for name in ("alice", "other")] == [2, 1]
    counted = [json.loads(line)["operations"] for line in listed(ftpd)]
    assert counted == [2, 1]
    assert json.loads(ftpd("status", "--json")[1])["trash"]["operations"] == 3
    assert " in 3 operations" in ftpd("status")[1]
    emptied = json.loads(ftpd("trash", "empty", "alice", "-y", "--json")[1])
    assert emptied["operations"] == 2


def listed(ftpd, *names: str) -> list[str]:
    """The lines of `ftpd trash list --json`."""
    return ftpd("trash", "list", *names, "--json")[1].splitlines()


def test_status_of_a_server_whose_books_cannot_be_read(ftpd, removed, monkeypatch):
    server = removed("one")

    def fail():
        raise StateError("no")

    monkeypatch.setattr(server.trash, "totals", fail)
    assert control_server._trash_info(server) is None
    status, out, _ = ftpd("status")
    assert status == 0 and "trash" not in out


def test_why_reports_whether_it_is_final(ftpd, accounts, root):
    alice = accounts.add("alice", "secret")
    (alice.home / "x").write_bytes(b"")
    ask = ("why", "alice", "rm", "/x")
    assert ftpd(*ask)[1].splitlines()[0] == "allowed: it goes to the trash for 7 days"
    assert json.loads(ftpd(*ask, "--json")[1])["trash_days"] == 7
    (root / ".ftpd" / "ftpd.toml").write_text("trash-days = 1\n")
    assert ftpd(*ask)[1].splitlines()[0] == "allowed: it goes to the trash for 1 day"
    (root / ".ftpd" / "ftpd.toml").write_text("trash-days = 0\n")
    assert "final: the server keeps no trash" in ftpd(*ask)[1]
    accounts.change("alice", trash_days=0)
    assert "final: the account keeps no trash" in ftpd(*ask)[1]
    assert json.loads(ftpd(*ask, "--json")[1])["trash_days"] is None
    accounts.change("alice", trash_days=30)
    assert "for 30 days" in ftpd(*ask)[1]
    assert json.loads(ftpd("why", "alice", "put", "/y", "--json")[1])["trash_days"] is None


def test_check_and_scrub_leave_what_is_there_alone(ftpd, there, root):
    status, out, _ = ftpd("check")
    assert (status, out.splitlines()[-1]) == (0, "checked 1 account, 0 files: no problems found")
    assert ftpd("scrub")[1].startswith("scrubbed 0 files")


def test_a_home_that_is_removed_takes_it_along(ftpd, removed, start_server):
    server = removed("one")
    start_server.finish(server)
    assert ftpd("user", "remove", "alice", "--delete-home", "-y")[0] == 0
    assert not (server.settings.root / "alice").exists()


def test_a_home_with_nothing_but_trash_that_is_empty_can_be_a_new_one(ftpd, removed, start_server):
    server = removed("one")
    start_server.finish(server)
    ftpd("trash", "empty", "--all", "-y")
    ftpd("user", "remove", "alice")
    status, _, err = ftpd("user", "add", "alice", "--generate")
    assert status == 0, err


def test_a_renamed_account_keeps_its_trash(ftpd, there):
    ftpd("user", "rename", "alice", "anna")
    assert ftpd("trash", "list", "anna")[1].count("\n") == 2


def test_the_first_start_with_trash_says_so_once(start_server, tmp_path, caplog):
    state = tmp_path / "root" / ".ftpd"
    state.mkdir(parents=True)
    with closing(sqlite3.connect(state / "state.db")) as connection:
        connection.executescript(VERSION_3.replace("NULL, 1000,", "NULL, NULL,"))
    server = start_server()
    assert "kept for 7 days" in caplog.text and "trash-days = 0" in caplog.text
    assert server.accounts.get("alice").trash_max == 10
    start_server.finish(server)
    caplog.clear()
    start_server()
    assert "kept for" not in caplog.text


def test_a_new_server_reveals_nothing_of_it(start_server, caplog):
    start_server()
    assert "trash" not in caplog.text


def test_trees_are_counted_at_once(ftpd, removed):
    server = removed("tree", recursive=True)
    eventually(lambda: server.accounts.get("alice").trash_bytes == 3)


def test_a_reload_takes_other_settings_over(removed):
    server = removed("one")
    server.load_settings = lambda: replace(server.settings, trash_days=0)
    assert "trash-days: 0" in server.reload()
    home = server.settings.root / "alice"
    eventually(lambda: not os.listdir(home / ".ftpd-trash"))


def test_the_log_has_how_much_a_tree_was(ftpd, removed):
    server = removed("tree", recursive=True)
    eventually(lambda: server.accounts.get("alice").trash_bytes == 3)
    ftpd("trash", "empty", "alice", "-y")

    def records():
        lines = ftpd("log", "--json", "--path", "/tree/inner")[1].splitlines()
        return {one["event"]: one for one in map(json.loads, lines)}

    eventually(lambda: "measured" in records())
    found = records()
    assert (found["measured"]["bytes"], found["measured"]["files"]) == (3, 2)
    assert found["measured"]["operation"] == found["remove"]["operation"]
