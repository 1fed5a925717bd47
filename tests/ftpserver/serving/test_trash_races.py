"""Several sessions at one trash: undoing the same, restoring what is given up, counting meanwhile.

Each is tried in every way of serving. ROUNDS says how often, instead of what is usual.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpserver.storage.trash import directory
from ftpwire.frames import Kind
from ftpwire.messages import (
    Done,
    Failed,
    ListTrash,
    Move,
    Operation,
    Purge,
    Put,
    Remove,
    Removed,
    Restore,
    Restored,
    Sent,
    Stored,
)
from tests.ftpserver.storage.trash.steps import disagreements
from tests.hostile.conftest import WAYS, Serve, Site, each_way, serve, way  # noqa: F401
from tests.peer import PATIENCE, Peer

KIB = 1024
_keys = itertools.count(1)


class Someone:
    """A session of alice's. Whatever it asks for ends in an answer."""

    def __init__(self, site: Site) -> None:
        self.peer: Peer = site.user()

    def begin(self) -> None:
        """What follows is a command of its own."""
        assert self.peer.ask(Operation(next(_keys).to_bytes(8, "big"))) == Done()

    def put(self, path: bytes, data: bytes) -> Any:
        """Upload a file; the answer."""
        number = self.peer.request(Put(path, len(data), parents=True))
        self.peer.frame(Kind.DATA, number, data)
        self.peer.frame(Kind.END, number, Sent(len(data)))
        found = self.peer.answer()
        assert found.request_id == number
        return found.message

    def remove(self, path: bytes, **options: bool) -> str:
        """Remove something; the name of the operation."""
        found = self.peer.ask(Remove(path, **options))
        assert isinstance(found, Removed) and found.trashed, found
        assert found.operation is not None
        return found.operation

    def restore(self, name: str) -> Restored | Failed:
        """Restore an operation."""
        found = self.peer.ask(Restore(name))
        assert isinstance(found, (Restored, Failed)), found
        return found

    def operations(self) -> list[str]:
        """The names of those in the trash, the newest first."""
        number = self.peer.request(ListTrash())
        found: list[str] = []
        while (frame := self.peer.answer()).kind != Kind.END:
            assert frame.request_id == number and frame.kind == Kind.REPLY, frame.message
            found += [one.name for one in frame.message.operations]
        return found


def together(*actions: Callable[[], Any]) -> list[Any]:
    """Do several things at the same time; what each of them returned."""
    barrier = threading.Barrier(len(actions))
    results: list[Any] = [None] * len(actions)
    failures: list[BaseException] = []

    def do(number: int, action: Callable[[], Any]) -> None:
        try:
            barrier.wait(PATIENCE)
            results[number] = action()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=do, args=one) for one in enumerate(actions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return results


def wrong_in(site: Site) -> list[str]:
    """What the books say and the disk doesn't, while nobody is at work."""
    server = site.server
    account = server.accounts.get("alice")
    return disagreements(server.service.ledger, account.id, account.home)


def contents(files: Path) -> dict[str, bytes]:
    """What alice sees."""
    return {
        str(path.relative_to(files)): path.read_bytes()
        for path in files.rglob("*")
        if path.is_file() and not path.relative_to(files).parts[0].startswith(".ftpd-")
    }


def files_of(site: Site) -> Path:
    return site.server.accounts.get("alice").home


def two_sessions_undo_the_same(start: Serve, rounds: int) -> None:
    site = start()
    files = files_of(site)
    one, other = Someone(site), Someone(site)
    for _ in range(rounds):
        one.begin()
        for number in range(5):
            assert isinstance(one.put(b"/f%d" % number, b"old %d" % number), Stored)
            assert isinstance(one.put(b"/tree/sub/g%d" % number, b"g"), Stored)
        one.put(b"/moved", b"moved")
        before = contents(files)
        one.begin()
        one.put(b"/f0", b"new 0")
        one.put(b"/f1", b"new 1")
        assert one.peer.ask(Move(b"/moved", b"/f2")) == Done()
        one.remove(b"/f3")
        one.remove(b"/f4")
        name = one.remove(b"/tree", recursive=True)
        one.begin()
        other.begin()
        found = together(*(lambda who=who, name=name: who.restore(name) for who in (one, other)))
        assert contents(files) == before, found
        done = [answer for answer in found if isinstance(answer, Restored)]
        assert all(not answer.conflicts for answer in done), found
        assert sum(answer.items for answer in done) == 7, found
        assert all(answer.code in ("busy", "expired") for answer in found if answer not in done)
        assert not wrong_in(site)
        one.begin()
        for path in (b"/f0", b"/f1", b"/f2", b"/f3", b"/f4", b"/moved"):
            one.remove(path)
        one.remove(b"/tree", recursive=True)
        assert isinstance(one.peer.ask(Purge()), Removed)
    assert not wrong_in(site)


def room_is_made_while_another_session_restores(start: Serve, rounds: int) -> None:
    """A full quota: uploads give up what is being restored, one file or all of it."""
    site = start(quota=1024 * KIB)
    files = files_of(site)
    one, other = Someone(site), Someone(site)
    for count in range(rounds):
        one.begin()
        old = {f"old{number}": bytes([number]) * 64 * KIB for number in range(10)}
        for name, data in old.items():
            assert isinstance(one.put(b"/" + name.encode(), data), Stored)
        for name in old:
            operation = one.remove(b"/" + name.encode())
        new = {f"new{number}": bytes([100 + number]) * 64 * KIB for number in range(10)}

        def fill(new: dict[str, bytes] = new) -> list[str]:
            stored = []
            for name, data in new.items():
                answer = one.put(b"/" + name.encode(), data)
                if isinstance(answer, Stored):
                    stored.append(name)
                else:
                    assert answer.code == "quota", answer
            return stored

        one.begin()
        other.begin()
        stored, restored = together(fill, lambda name=operation: other.restore(name))
        there = contents(files)
        assert {name: there[name] for name in stored} == {name: new[name] for name in stored}
        back = there.keys() & old.keys()
        assert {name: there[name] for name in back} == {name: old[name] for name in back}
        assert there.keys() == {*stored, *back}
        if isinstance(restored, Restored):
            assert restored.items == len(back), (restored, back)
        else:
            assert restored.code in ("expired", "busy") and not back, restored
        assert not wrong_in(site), (count, stored, restored)
        one.begin()
        for name in there:
            one.peer.ask(Remove(b"/" + name.encode(), final=True))
        one.peer.ask(Purge())
    assert not wrong_in(site)


def an_operation_is_purged_while_another_session_restores(start: Serve, rounds: int) -> None:
    site = start()
    files = files_of(site)
    one, other = Someone(site), Someone(site)
    for _ in range(rounds):
        one.begin()
        for number in range(3):
            one.put(b"/f%d" % number, b"f%d" % number)
            one.put(b"/tree/g%d" % number, b"g")
        one.begin()
        for number in range(3):
            one.remove(b"/f%d" % number)
        name = one.remove(b"/tree", recursive=True)
        other.begin()
        purged, restored = together(
            lambda name=name: one.peer.ask(Purge(name)),
            lambda name=name: other.restore(name),
        )
        if isinstance(restored, Restored) and restored.items:
            assert restored.items == 4 and len(contents(files)) == 6, (purged, restored)
            other.begin()
            for number in range(3):
                other.remove(b"/f%d" % number)
            other.remove(b"/tree", recursive=True)
        else:
            assert not contents(files), (purged, restored)
        assert not wrong_in(site)
        one.peer.ask(Purge())
        assert one.operations() == []
    assert not wrong_in(site)


def the_home_is_counted_meanwhile(start: Serve, rounds: int) -> None:
    """Beside removing, overwriting, restoring and giving up: the books are right at the end."""
    site = start(quota=1024 * KIB)
    account = site.server.accounts.get("alice")
    ledger = site.server.service.ledger
    over = threading.Event()

    def work(top: bytes) -> Callable[[], None]:
        def do() -> None:
            someone = Someone(site)
            for number in range(rounds):
                someone.begin()
                for name in (b"a", b"b", b"sub/c"):
                    answer = someone.put(top + b"/" + name, name * (1 + number) * 10 * KIB)
                    assert isinstance(answer, Stored) or answer.code == "quota", answer
                someone.peer.ask(Remove(top + b"/a"))
                found = someone.peer.ask(Remove(top + b"/sub", recursive=True))
                names = someone.operations()
                if names:
                    someone.begin()
                    someone.restore(names[number % len(names)])
                if isinstance(found, Removed) and found.operation and number % 3 == 0:
                    someone.peer.ask(Purge(found.operation))

        return do

    def count() -> int:
        counted = 0
        while not over.is_set():
            recount(ledger, account.id, Home(account.home))
            counted += 1
        return counted

    def all_work() -> None:
        try:
            together(work(b"/one"), work(b"/other"))
        finally:
            over.set()

    counted, _ = together(count, all_work)
    assert counted
    assert not wrong_in(site)


RACES = {
    two_sessions_undo_the_same: (6, 300),
    room_is_made_while_another_session_restores: (4, 200),
    an_operation_is_purged_while_another_session_restores: (4, 200),
    the_home_is_counted_meanwhile: (8, 400),
}
"""How often each is done: for every day, and before a release."""
each_race = pytest.mark.parametrize("race", RACES, ids=lambda race: race.__name__)


@each_way
@each_race
def test_at_the_same_time(serve, way, race):  # noqa: F811
    race(serve, RACES[race][0])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
@each_race
def test_many_times(serve, way, race):  # noqa: F811
    race(serve, int(os.environ.get("ROUNDS") or RACES[race][1]))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "race", [two_sessions_undo_the_same, an_operation_is_purged_while_another_session_restores]
)
def test_control_nobody_holds_an_operation(serve, race, monkeypatch):  # noqa: F811
    """The same without the lock of an operation: it has to be noticed."""
    monkeypatch.setattr(directory, "_hold", lambda *arguments: None)
    with pytest.raises(AssertionError):
        race(serve, 300)
