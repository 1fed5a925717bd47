"""What administrators see of the trash: what is in it, and what is wrong with it."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest

from ftpserver.admin import trash, trash_work, verify, verify_trash
from ftpserver.admin.trash_work import TrashWork
from ftpserver.cli import tables
from ftpserver.root_lock import RootLock
from ftpserver.settings.table import Settings
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.ownership import Ownership, identity
from ftpserver.storage.recount import clean, recount
from ftpserver.storage.trash import discarding
from ftpserver.storage.trash.names import INDEX_NAME, new_name
from ftpserver.storage.trash.operation import Command, Operation
from ftpwire import paths, trash_names
from ftpwire.errors import Busy, Cancelled, Forbidden, NotFound

TRASH = ".ftpd-trash"
NS = 10**9


@pytest.fixture
def alice(accounts):
    account = accounts.add("alice", "secret")
    (account.home / "keep").write_bytes(b"stays")
    return account


@pytest.fixture
def removed(alice, change):
    """Puts files into alice's trash (and directories, whose names end in a slash), as her session
    does; returns the operation's name."""

    def remove(*names: str, began: float = 1_800_000_000, words: str = "") -> str:
        home = Home(alice.home)
        operation = Operation(
            home, Command(alice.id, "alice", words), lambda: new_name(int(began * NS))
        )
        trees = 0
        with operation.writing():
            for name in names:
                place = alice.home / name.rstrip("/")
                if name.endswith("/"):
                    place.mkdir()
                    trees += 1
                else:
                    place.write_bytes(b"removed")
                what = "tree" if name.endswith("/") else "removed"
                item = operation.item(what, (os.fsencode(place.name),))
                operation.announce([item])
                operation.take(home.fd, os.fsencode(place.name), item)
            operation.sync()
        assert operation.name is not None
        operation.close()
        home.close()
        files = len(names) - trees
        change(
            "UPDATE account SET used = used + ?, files = files + ?, trash_bytes = trash_bytes + ?,"
            " trash_files = trash_files + ? WHERE name = 'alice'",
            *(7 * files, len(names), 7 * files, files),
        )
        return operation.name

    change("UPDATE account SET used = 5, files = 1 WHERE name = 'alice'")
    return remove


def findings(root):
    return [(one.kind, one.path, one.expected) for one in verify.check(root)]


# check -------------------------------------------------------------------------------------


def test_a_sound_trash(root, removed):
    removed("a", "b")
    assert findings(root) == []


def test_a_thing_without_a_line(root, alice, removed):
    name = removed("a")
    stray = alice.home / TRASH / name / "stray"
    stray.mkdir()
    path = f"/{TRASH}/{name}/stray".encode()
    assert ("trash", path, "a line about it in the index") in findings(root)


def test_a_line_without_a_thing_is_no_fault(root, alice, removed):
    removed("a")
    name = removed("b/")
    (thing,) = set((alice.home / TRASH / name).iterdir()) - {
        alice.home / TRASH / name / os.fsdecode(INDEX_NAME)
    }
    thing.rename(alice.home / "b")
    assert findings(root) == []


def test_an_index_that_cannot_be_read(root, alice, removed):
    name = removed("a")
    index = alice.home / TRASH / name / os.fsdecode(INDEX_NAME)
    index.write_bytes(b"\x00\x01 no lines\n")
    found = findings(root)
    path = f"/{TRASH}/{name}/".encode()
    assert ("trash", path + b"index", "an index that can be read") in found
    assert sum(expected == "a line about it in the index" for _, _, expected in found) == 1


def test_what_is_no_operation(root, alice, removed):
    removed("a")
    (alice.home / TRASH / "left over").write_bytes(b"")
    assert ("trash", f"/{TRASH}/left over".encode(), "an operation") in findings(root)


def test_sums_that_are_wrong(root, removed, change):
    removed("a", "b")
    change("UPDATE account SET trash_bytes = 1, trash_files = 1")
    assert findings(root) == [("trash", None, "14 bytes, 2 files (of the indexes)")]


def test_the_trash_that_may_not_be_looked_at_is_reported(root, alice, removed, monkeypatch):
    removed("a")

    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(verify_trash, "glance", forbidden)
    ((kind, path, _),) = findings(root)
    assert kind == "trash" and path.startswith(f"/{TRASH}/".encode())


def test_what_is_on_its_way_beside_a_server_is_no_fault(root, alice, removed, monkeypatch):
    removed("a")
    wrong = verify_trash.TrashProblem(b".ftpd-trash/x", "a line", "none")
    looks = [[wrong], []]

    def look(home):
        looked = real(home)
        looked.wrong += looks.pop(0) if looks else []
        return looked

    real = verify_trash.look
    monkeypatch.setattr(verify_trash, "look", look)
    lock = RootLock(root / ".ftpd")
    try:
        assert findings(root) == []
        looks = [[wrong], [wrong]]
        assert findings(root) == [("trash", b"/.ftpd-trash/x", "a line")]
    finally:
        lock.release()


# listing -----------------------------------------------------------------------------------


def test_operations_are_listed_newest_first(alice, removed):
    first = removed("a", began=1_800_000_000, words="rm a")
    second = removed("b", "c", began=1_800_000_100)
    newest, oldest = trash.operations(alice)
    assert (newest.name, newest.items, newest.path) == (second, 2, b"/b")
    assert (oldest.name, oldest.began) == (first, 1_800_000_000)
    assert (oldest.size, oldest.files, oldest.counted) == (7, 1, True)


def test_what_others_have_in_a_shared_home_is_theirs(accounts, alice, removed):
    removed("a")
    other = accounts.add("bob", "secret", home=alice.home)
    assert trash.operations(other) == []


def test_an_operation_is_found_by_its_id(alice, removed):
    name = removed("a")
    random = name.rpartition("-")[2]
    assert trash.meant(alice, random[:4]) == name == trash.meant(alice, name)
    for wrong in (random[:3], "zzzz", "/", "ffff" if random[:4] != "ffff" else "eeee"):
        with pytest.raises(NotFound):
            trash.meant(alice, wrong)


def test_ids_are_as_short_as_they_can_be():
    names = [f"{1:016x}-aaaa0000", f"{2:016x}-aaaa1000", f"{3:016x}-bbbb0000"]
    assert list(trash_names.short_ids(names).values()) == ["aaaa0", "aaaa1", "bbbb"]
    assert trash_names.meant("aaaa", names) == names[:2]
    same = [f"{1:016x}-aaaa0000", f"{2:016x}-aaaa0000"]
    assert list(trash_names.short_ids(same).values()) == same


def test_list(ftpd, removed):
    removed("a", began=1_800_000_000, words="rm a")
    removed("b", "c", began=1_800_000_100)
    status, out, err = ftpd("trash", "list")
    assert (status, err) == (0, "")
    assert out == "alice\t21\t3\t2\t2027-01-15T08:00:00Z\tyes\n"
    status, out, err = ftpd("trash", "list", "alice")
    newest, oldest = out.splitlines()
    assert newest.endswith("\t-\t/b\t14\t2\tyes") and oldest.endswith("\trm a\t/a\t7\t1\tyes")
    record = json.loads(ftpd("trash", "list", "--json")[1])
    assert (record["size"], record["operations"], record["counted"]) == (21, 2, True)
    assert ftpd("trash", "list", "nobody")[0] == 5


def test_what_is_not_counted_is_reported(ftpd, removed, monkeypatch):
    removed("a/")
    assert ftpd("trash", "list")[1].endswith("\tno\n")
    assert ftpd("trash", "list", "alice")[1].endswith("\t/a\t0\t0\tno\n")
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    assert " 0 B and more " in ftpd("trash", "list")[1]
    assert ftpd("trash", "list", "alice")[1].endswith("not counted yet\n")


def test_reserved_name_is_private(alice, removed):
    removed("a")
    assert stat.S_IMODE((alice.home / os.fsdecode(paths.TRASH)).stat().st_mode) == 0o700


# emptying ----------------------------------------------------------------------------------


def test_what_a_stop_interrupts_the_next_start_removes(
    root, engine, accounts, ledger, alice, removed, monkeypatch
):
    monkeypatch.setattr(discarding, "_PART_SECONDS", 0.0)
    removed("a", "b")
    ownership = Ownership(identity(engine), root)
    work = TrashWork(
        *(accounts, ledger, ownership),
        lambda: Settings(root),
        stopping=lambda: not trash.operations(alice),  # once it has begun
    )
    with pytest.raises(Cancelled):
        work.empty("alice")
    assert trash.operations(alice) == []
    assert clean(Ledger(engine), alice.id, alice.home)
    recount(ledger, alice.id, Home(alice.home))
    found = accounts.get("alice")
    assert (found.used, found.files, found.trash_bytes) == (5, 1, 0)
    assert findings(root) == []


def test_the_home_of_another_server_is_left_alone(root, engine, accounts, ledger, alice, removed):
    removed("a")

    class Anothers:
        def claim(self, home, *, use):
            return "another server"

    work = TrashWork(accounts, ledger, Anothers(), lambda: Settings(root))
    done = work.empty()
    assert done.operations == 0 and "another server" in done.left[0]
    assert len(trash.operations(alice)) == 1
    with pytest.raises(Forbidden):
        work.restore("alice", trash.operations(alice)[0].name)


def test_a_session_that_never_lets_go_of_the_home_is_not_waited_for_for_ever(
    root, engine, accounts, ledger, alice, removed, monkeypatch
):
    monkeypatch.setattr(trash_work, "_PATIENCE", 0.1, raising=False)
    name = removed("a")
    work = TrashWork(*(accounts, ledger, Ownership(identity(engine), root)), lambda: Settings(root))
    found: list[object] = []

    def ask() -> None:
        try:
            work.restore("alice", name)
        except Busy as error:
            found.append(str(error))
        found.append(work.empty("alice").left)

    other = Home(alice.home)
    with other.alone():
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(20)
        assert not asking.is_alive()
    other.close()
    said = "a session has kept the home locked"
    assert said in found[0] and "alice: " + said in found[1][0]
    assert [one.name for one in trash.operations(alice)] == [name]
