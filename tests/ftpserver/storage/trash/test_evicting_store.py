"""Nobody is refused for want of room that the trash holds."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

import pytest
from sqlalchemy import update

from ftpserver.schema import account as table
from ftpserver.storage import batch
from ftpserver.storage.home import Home
from ftpserver.storage.quota import Lease
from ftpserver.storage.trash import discarding, evicting_store, eviction_lock
from ftpserver.storage.trash.directory import alone, open_trash
from ftpserver.storage.trash.evicting_store import EvictingLeaseStore
from ftpserver.storage.upload import Receiving
from ftpserver.workspace.workspace import Workspace
from ftpwire import digests
from ftpwire.errors import Cancelled, CommandError, DiskFull, QuotaExceeded
from ftpwire.messages import Failed, MakeDir, Purge, Put, Remove, Sent, Stored
from tests.ftpserver.storage.trash.conftest import Bin
from tests.peer import eventually

KIB = 1024


class Saving:
    """A session of alice's whose books give up trash."""

    def __init__(self, bin_: Bin) -> None:
        self.bin = bin_
        self.reported: list[int] = []
        self.quota_store = EvictingLeaseStore(
            bin_.ledger,
            lambda: self.session.home,
            bin_.account.id,
            lambda freed, operations: self.reported.append(freed),
        )
        self.session: Workspace = bin_.open()
        self.session._evicting_store = self.quota_store

    def put(self, path: bytes, size: int) -> None:
        data = bytes(size)
        sent = Sent(size, digests.digest(data))
        if size > 64 * KIB:
            with self.session.receive(Put(path, size)) as receiving:
                write(receiving, data)
                receiving.finish(sent)
        else:
            self.session.stage(Put(path, size), data, sent)
        [(_, outcome)] = self.session.commit()
        if isinstance(outcome, Failed):
            raise outcome.to_error()
        assert outcome == Stored(size)


def write(receiving: Receiving, data: bytes) -> None:
    receiving.expect(len(data))
    receiving.staging.sink.write(memoryview(data))


@pytest.fixture
def saving(bin_: Bin) -> Saving:
    return Saving(bin_)


def limit(bin_: Bin, **values: int | None) -> None:
    with bin_.ledger._engine.begin() as connection:
        connection.execute(update(table).values(values))


def space(bin_: Bin):
    return bin_.ledger.space(bin_.account.id)


def kept(bin_: Bin) -> list[str]:
    trash = bin_.files / ".ftpd-trash"
    return sorted(os.listdir(trash)) if trash.exists() else []


def test_only_as_much_as_is_needed_the_oldest_first(bin_: Bin, saving: Saving):
    names = []
    for number in range(4):
        bin_.put(b"/%d" % number, bytes(100 * KIB))
        names.append(bin_.rm(b"/%d" % number))
    limit(bin_, quota=450 * KIB)
    saving.put(b"/new", 200 * KIB)  # 50 KiB are free beside the trash
    assert kept(bin_) == names[2:]
    assert saving.reported == [200 * KIB]
    assert bin_.ledger.was_evicted(bin_.account.id, names[0])
    assert space(bin_).used == 200 * KIB
    assert bin_.agrees()


def test_versions_go_before_what_was_removed(bin_: Bin, saving: Saving):
    bin_.put(b"/removed", bytes(100 * KIB))
    bin_.put(b"/replaced", bytes(100 * KIB))
    removed = bin_.rm(b"/removed")
    bin_.over(b"/replaced", b"new")
    limit(bin_, quota=210 * KIB)
    saving.put(b"/new", 100 * KIB)
    assert kept(bin_) == [removed]
    assert bin_.agrees()


def test_of_a_large_operation_its_oldest_items_go(bin_: Bin, saving: Saving):
    for number in range(5):
        bin_.put(b"/%d" % number, bytes(100 * KIB))
    bin_.begin("rm")
    for number in range(5):
        name = bin_.session.remove(Remove(b"/%d" % number)).operation
    limit(bin_, quota=500 * KIB)
    saving.put(b"/new", 150 * KIB)
    states = {one.path: one.state for one in bin_.items(operation=name)}
    assert [path for path, state in states.items() if state == "kept"] == [b"/4", b"/3", b"/2"]
    assert bin_.agrees()


def test_what_cannot_fit_costs_nothing(bin_: Bin, saving: Saving):
    bin_.put(b"/a", bytes(100 * KIB))
    bin_.put(b"/stays", bytes(100 * KIB))
    name = bin_.rm(b"/a")
    limit(bin_, quota=250 * KIB)
    with pytest.raises(QuotaExceeded, match="151.0 KiB needed, 150.0 KiB free of ") as caught:
        saving.put(b"/new", 151 * KIB)
    assert (caught.value.needed, caught.value.free) == (151 * KIB, 150 * KIB)
    assert kept(bin_) == [name] and saving.reported == []
    saving.put(b"/new", 150 * KIB)
    assert kept(bin_) == []
    assert bin_.agrees()


def test_a_tree_that_nobody_has_counted_is_space_as_well(bin_: Bin, saving: Saving):
    bin_.put(b"/t/a/b", bytes(200 * KIB), parents=True)
    bin_.rm(b"/t", recursive=True)
    limit(bin_, quota=210 * KIB)
    assert space(bin_).trash == 0
    saving.put(b"/new", 205 * KIB)
    assert kept(bin_) == []
    assert bin_.agrees()


def test_the_number_of_files(bin_: Bin, saving: Saving):
    names = []
    for number in range(5):
        bin_.put(b"/%d" % number, b"")
        names.append(bin_.rm(b"/%d" % number))
    limit(bin_, max_files=6)
    for number in range(3):
        saving.session.change(MakeDir(b"/d%d" % number))
        saving.session.commit()
    assert kept(bin_) == names[2:]
    limit(bin_, max_files=3)
    with pytest.raises(QuotaExceeded, match="the limit is 3 files and directories: 1 needed, 0 f"):
        saving.put(b"/one-more", 1)
    assert kept(bin_) == names[2:]
    assert bin_.agrees()


def test_an_upload_that_grows(bin_: Bin, saving: Saving):
    bin_.put(b"/a", bytes(300 * KIB))
    bin_.rm(b"/a")
    limit(bin_, quota=310 * KIB)
    with saving.session.receive(Put(b"/new", None)) as receiving:
        for _ in range(3):
            write(receiving, bytes(100 * KIB))
        receiving.finish(Sent(300 * KIB, digests.digest(bytes(300 * KIB))))
    assert saving.session.commit() == [(0, Stored(300 * KIB))]
    assert kept(bin_) == []
    assert bin_.agrees()


def test_what_somebody_is_at_stays(bin_: Bin, saving: Saving):
    for path in (b"/a", b"/b"):
        bin_.put(path, bytes(100 * KIB))
    first, second = bin_.rm(b"/a"), bin_.rm(b"/b")
    limit(bin_, quota=200 * KIB)
    home = Home(bin_.files, durable=False)
    trash = open_trash(home)
    assert trash is not None
    with alone(home, trash, first):
        saving.put(b"/new", 100 * KIB)
        with pytest.raises(QuotaExceeded, match="0 B free of .*, and 100.0 KiB in the trash"):
            saving.put(b"/newer", 100 * KIB)
    os.close(trash)
    home.close()
    assert kept(bin_) == [first]
    assert bin_.ledger.was_evicted(bin_.account.id, second)
    assert bin_.agrees()


def test_the_only_one_that_helps_is_waited_for_a_moment(bin_: Bin, saving: Saving, monkeypatch):
    """As while the server writes down what it has counted there."""
    bin_.put(b"/a", bytes(100 * KIB))
    name = bin_.rm(b"/a")
    limit(bin_, quota=100 * KIB)
    home = Home(bin_.files, durable=False)
    trash = open_trash(home)
    assert trash is not None
    with ExitStack() as held:
        held.enter_context(alone(home, trash, name))
        purge = evicting_store.purge

        def then_let_go(*arguments, **options):
            if options["patience"]:
                held.close()
            return purge(*arguments, **options)

        monkeypatch.setattr(evicting_store, "purge", then_let_go)
        saving.put(b"/new", 100 * KIB)
    os.close(trash)
    home.close()
    assert kept(bin_) == [] and bin_.agrees()


def test_no_other_session_takes_what_became_free(bin_: Bin, saving: Saving, monkeypatch):
    """Another one asks for room at every step."""
    for number in range(4):
        bin_.put(b"/%d" % number, bytes(100 * KIB))
        bin_.rm(b"/%d" % number)
    limit(bin_, quota=400 * KIB)
    ledger = bin_.ledger
    turn = ledger.reserve_freed
    taken: list[Lease] = []

    def greedily(*arguments: object) -> Lease:
        held = turn(*arguments)
        try:
            taken.append(ledger.reserve(bin_.account.id, 1, files=0))
        except QuotaExceeded:
            pass
        return held

    monkeypatch.setattr(ledger, "reserve_freed", greedily)
    saving.put(b"/new", 300 * KIB)
    for lease in taken:
        ledger.release(lease)
    assert bin_.agrees()
    assert space(bin_).used == 300 * KIB


def test_two_sessions_need_space_at_the_same_time(bin_: Bin):
    """Together they need all that there is: each gets its part."""
    for number in range(8):
        bin_.put(b"/%d" % number, bytes(100 * KIB))
        bin_.rm(b"/%d" % number)
    limit(bin_, quota=800 * KIB)
    both = threading.Barrier(2)
    failed: list[BaseException] = []

    def store(number: int) -> None:
        try:
            saving = Saving(bin_)
            both.wait()
            saving.put(b"/new%d" % number, 400 * KIB)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failed and kept(bin_) == []
    assert bin_.agrees()


class Held:
    """A removal from the trash that is held in its middle: nothing of it is in the trash any more,
    and nothing is free yet."""

    def __init__(self, monkeypatch) -> None:
        self.is_under_way, self.may_go_on = threading.Event(), threading.Event()
        self.others_wait = threading.Event()
        self._holder: threading.Thread | None = None
        run, flock_until = discarding._Discarding.run, eviction_lock.flock_until

        def held(discarding, staged: bytes):
            if threading.current_thread() is self._holder:
                self.is_under_way.set()
                assert self.may_go_on.wait(60)
            return run(discarding, staged)

        def waiting(fd: int, how: int, deadline: float, tick: Callable[[], None]) -> bool:
            def ticked() -> None:
                self.others_wait.set()
                tick()

            return flock_until(fd, how, deadline, ticked)

        monkeypatch.setattr(discarding._Discarding, "run", held)
        monkeypatch.setattr(eviction_lock, "flock_until", waiting)

    def begin(self, action: Callable[[], object]) -> Doing:
        """Do something until it is held."""
        doing = Doing(action)
        self._holder = doing.thread
        doing.thread.start()
        assert self.is_under_way.wait(60)
        return doing

    def meanwhile(self, action: Callable[[], object]) -> Doing:
        """Do something else, and go on when that waits, or has ended."""
        doing = Doing(action)
        doing.thread.start()
        eventually(lambda: self.others_wait.is_set() or not doing.thread.is_alive())
        self.may_go_on.set()
        return doing


class Doing:
    """Something that a thread does."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self._action()
        except BaseException as error:
            self._error = error

    def end(self) -> None:
        """Wait for it. Raises what it has raised."""
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize("by", ["eviction", "purge"])
@pytest.mark.parametrize("needs", ["bytes", "files", "growing"])
def test_nobody_is_refused_while_another_gives_up_what_would_do(
    bin_: Bin, monkeypatch, by: str, needs: str
):
    """All of the trash is one operation, of which the first session needs a third."""
    bin_.put(b"/a", bytes(300 * KIB))
    name = bin_.rm(b"/a")
    first, second = Saving(bin_), Saving(bin_)
    limits = {"max_files": 1} if needs == "files" and by == "purge" else {"quota": 300 * KIB}
    if needs == "files" and by == "eviction":
        for number in range(2):
            bin_.put(b"/%d" % number, b"")
        bin_.begin("rm")
        for number in range(2):
            bin_.session.remove(Remove(b"/%d" % number))
        bin_.session.purge(Purge(name))
        limits = {"max_files": 2}
    limit(bin_, **limits)
    held = Held(monkeypatch)
    if by == "eviction":
        doing = held.begin(lambda: first.put(b"/first", 0 if needs == "files" else 100 * KIB))
    else:
        doing = held.begin(lambda: first.session.purge(Purge(name)))

    def store() -> None:
        if needs == "growing":
            with second.session.receive(Put(b"/second", None)) as receiving:
                for _ in range(2):
                    write(receiving, bytes(100 * KIB))
                receiving.finish(Sent(200 * KIB, digests.digest(bytes(200 * KIB))))
            assert second.session.commit() == [(0, Stored(200 * KIB))]
        else:
            second.put(b"/second", 0 if needs == "files" else 200 * KIB)

    other = held.meanwhile(store)
    doing.end()
    other.end()
    assert bin_.agrees() and held.others_wait.is_set()


def test_who_waits_for_another_s_eviction_waits_for_a_while_only(bin_: Bin, monkeypatch):
    bin_.put(b"/a", bytes(300 * KIB))
    bin_.rm(b"/a")
    limit(bin_, quota=300 * KIB)
    first, second = Saving(bin_), Saving(bin_)
    second.quota_store._others = 0.0
    held = Held(monkeypatch)
    doing = held.begin(lambda: first.put(b"/first", 100 * KIB))
    with pytest.raises(QuotaExceeded):
        second.put(b"/second", 200 * KIB)
    held.may_go_on.set()
    doing.end()
    second.put(b"/second", 200 * KIB)
    assert bin_.agrees()


def test_who_waits_can_be_cancelled(bin_: Bin, monkeypatch):
    bin_.put(b"/a", bytes(300 * KIB))
    bin_.rm(b"/a")
    limit(bin_, quota=300 * KIB)
    first, second = Saving(bin_), Saving(bin_)

    def tick() -> None:
        raise Cancelled("by its client")

    second.quota_store._tick = tick
    held = Held(monkeypatch)
    doing = held.begin(lambda: first.put(b"/first", 100 * KIB))
    with pytest.raises(Cancelled):
        second.put(b"/second", 200 * KIB)
    held.may_go_on.set()
    doing.end()
    assert space(bin_).held == 0


def test_a_lease_that_could_not_grow_enough_is_settled_whole(bin_: Bin, saving: Saving):
    bin_.put(b"/a", bytes(100 * KIB))
    bin_.rm(b"/a")
    limit(bin_, quota=100 * KIB)
    held = saving.quota_store.reserve(bin_.account.id, 50 * KIB)
    assert held.size == 50 * KIB
    with pytest.raises(QuotaExceeded):
        saving.quota_store.extend(held, 51 * KIB)
    saving.quota_store.extend(held, 50 * KIB)
    assert (held.size, space(bin_).held) == (100 * KIB, 100 * KIB)
    saving.quota_store.release(held)
    assert bin_.agrees()


# the disk ---------------------------------------------------------------------------------------


@pytest.fixture
def disk(bin_: Bin, monkeypatch) -> list[int]:
    """A disk of as many bytes as that list says, on which there is nothing but the home."""
    size = [300 * KIB]

    def free(self: Home, fd: int | None = None) -> int:
        there = bin_.ledger.space(bin_.account.id)
        return max(0, size[0] - there.used - there.trash)

    monkeypatch.setattr(Home, "disk_free", free)
    monkeypatch.setattr(batch, "SHARES_STEP", 0)  # the disk is asked for each file
    return size


def test_a_full_disk(bin_: Bin, saving: Saving, disk):
    names = []
    for number in range(3):
        bin_.put(b"/%d" % number, bytes(100 * KIB))
        names.append(bin_.rm(b"/%d" % number))
    saving.put(b"/new", 200 * KIB)
    assert kept(bin_) == names[2:] and saving.reported == [200 * KIB]
    assert bin_.agrees()


def test_the_server_makes_space_over_all_accounts(bin_: Bin, saving: Saving, disk, accounts):
    accounts.add("bob", "correct-horse")
    with bin_.ledger._engine.begin() as connection:
        whose = update(table).where(table.c.name == "bob")
        connection.execute(whose.values(used=500 * KIB, trash_bytes=500 * KIB))
    requested = []

    def free_space(account_id: int, size: int) -> bool:
        requested.append((account_id, size))
        disk[0] += 500 * KIB
        return True

    bin_.ledger.on_disk_full = free_space
    saving.put(b"/new", 400 * KIB)
    assert requested == [(bin_.account.id, 400 * KIB)]
    assert bin_.agrees()


def test_a_disk_that_stays_full(bin_: Bin, saving: Saving, disk):
    bin_.put(b"/a", bytes(100 * KIB))
    name = bin_.rm(b"/a")
    with pytest.raises(DiskFull):
        saving.put(b"/new", 301 * KIB)
    assert kept(bin_) == [name], "nothing is given up in vain"
    assert space(bin_).held == 0
    disk[0] = 150 * KIB
    bin_.ledger.on_disk_full = lambda account_id, size: False
    saving.put(b"/new", 150 * KIB)
    with pytest.raises(CommandError, match="the disk is full"):
        saving.put(b"/newer", 100 * KIB)
    assert space(bin_).held == 0 and bin_.agrees()


@pytest.mark.parametrize("free", [0, 2**30])
def test_books_that_cannot_be_written(bin_: Bin, saving: Saving, monkeypatch, free):
    """Their disk may be another one than the home's: then its trash is no help, and stays."""
    bin_.put(b"/a", b"123")
    name = bin_.rm(b"/a")
    monkeypatch.setattr(Home, "disk_free", lambda self, fd=None: free)
    reserve = bin_.ledger.reserve_step

    def full_until_it_is_gone(*arguments: object) -> Lease:
        if kept(bin_):
            raise DiskFull("the server's disk is full")
        return reserve(*arguments)

    monkeypatch.setattr(bin_.ledger, "reserve_step", full_until_it_is_gone)
    if free:
        with pytest.raises(DiskFull):
            saving.put(b"/new", 1)
        assert kept(bin_) == [name]
    else:
        saving.put(b"/new", 1)
        assert kept(bin_) == []


def test_a_little_space_for_the_trash_itself(bin_: Bin, saving: Saving):
    names = []
    for number in range(2):
        bin_.put(b"/%d" % number, b"x")
        names.append(bin_.rm(b"/%d" % number))
    assert saving.quota_store.free_space()
    assert kept(bin_) == names[1:]
    assert saving.quota_store.free_space()
    assert not saving.quota_store.free_space()


def count_looks(monkeypatch) -> list[str]:
    """Gets a name for each operation whose index is read as a whole."""
    looks = []
    glances = evicting_store.glances

    def counted(trash, account_id):
        for one in glances(trash, account_id):
            looks.append(one.name)
            yield one

    monkeypatch.setattr(evicting_store, "glances", counted)
    return looks


def test_a_trash_of_many_items_is_not_looked_at_for_each_small_file(
    bin_: Bin, accounts, monkeypatch
):
    saving = Saving(bin_)
    bin_.begin("rm")
    for number in range(130):
        bin_.put(b"/%d" % number, bytes(10))
        bin_.session.remove(Remove(b"/%d" % number))
    accounts.change("alice", quota=bin_.ledger.space(bin_.account.id).trash)
    looks = count_looks(monkeypatch)
    for number in range(3):
        saving.put(b"/new%d" % number, 10)
    assert len(looks) == 1
    assert len(bin_.things(looks[0])) == 127
    assert bin_.agrees()


def test_neither_is_one_of_many_operations(bin_: Bin, accounts, monkeypatch):
    saving = Saving(bin_)
    for number in range(130):
        bin_.put(b"/%d" % number, bytes(10))
        bin_.rm(b"/%d" % number)
    accounts.change("alice", quota=bin_.ledger.space(bin_.account.id).trash)
    looks = count_looks(monkeypatch)
    ticks = count()  # looking takes a second, and giving up nothing
    monkeypatch.setattr(evicting_store.time, "monotonic", lambda: float(min(next(ticks), 1)))
    for number in range(3):
        saving.put(b"/new%d" % number, 10)
    assert len(looks) == 130
    assert bin_.agrees()
