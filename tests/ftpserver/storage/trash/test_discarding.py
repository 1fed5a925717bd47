"""Giving up what is in the trash: what goes, what stays, and that the books follow."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

import pytest

from ftpserver.errors import StateError
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import Tally
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.recount import recount
from ftpserver.storage.trash import discarding
from ftpserver.storage.trash.directory import Opened, alone, open_trash
from ftpserver.storage.trash.discarding import purge
from ftpserver.storage.trash.index import Contents, decode
from ftpserver.storage.trash.measuring import counted_in
from ftpserver.storage.walk import Usage
from ftpserver.workspace.observer import SilentObserver
from ftpwire.errors import Busy, Cancelled, DiskFull, Expired
from ftpwire.messages import Purge, Remove, Stat
from tests.ftpserver.storage.trash.conftest import Bin


@contextmanager
def trash_of(bin_: Bin) -> Iterator[tuple[Home, int]]:
    home = Home(bin_.files, durable=False, incarnation=bin_.ledger.incarnation)
    with closing(home):
        trash = open_trash(home)
        assert trash is not None
        try:
            yield home, trash
        finally:
            os.close(trash)


def gone(bin_: Bin, name: str, items: list[str] | None = None, **options) -> Tally:
    with trash_of(bin_) as (home, trash):
        return purge(home, bin_.ledger, bin_.account.id, trash, name, items, **options)


def make_tree(bin_: Bin) -> None:
    for path in (b"/t/a", b"/t/b/c", b"/t/b/d"):
        bin_.put(path, b"12345", parents=True)
    os.symlink("somewhere", bin_.files / "t" / "link")
    os.chmod(bin_.files / "t" / "b", 0)
    counted(bin_)


def counted(bin_: Bin) -> None:
    """Count the home, as what the test has put there itself needs it."""
    recount(bin_.ledger, bin_.account.id, Home(bin_.files, durable=False))


def test_a_whole_operation(bin_: Bin):
    bin_.put(b"/a", b"123")
    bin_.put(b"/b", b"4567")
    first = bin_.rm(b"/a")
    second = bin_.rm(b"/b")
    tally = gone(bin_, first)
    assert (tally.files, tally.directories, tally.size) == (1, 0, 3)
    assert [one.name for one in bin_.operations()] == [second]
    space = bin_.ledger.space(bin_.account.id)
    assert (space.used, space.trash, space.trash_files) == (0, 4, 1)
    assert bin_.agrees()
    with pytest.raises(Expired):
        gone(bin_, first)
    assert not bin_.ledger.was_evicted(bin_.account.id, first)


def test_for_want_of_space_is_remembered(bin_: Bin):
    bin_.put(b"/a", b"123")
    name = bin_.rm(b"/a")
    gone(bin_, name, for_space=True)
    assert bin_.ledger.was_evicted(bin_.account.id, name)
    assert bin_.ledger.evicted_lately() == (1, 3)


@pytest.mark.parametrize("measured", [False, True])
def test_a_tree_with_what_cannot_be_opened(bin_: Bin, measured):
    make_tree(bin_)
    name = bin_.rm(b"/t", recursive=True)
    if measured:
        bin_.measure()
    tally = gone(bin_, name)
    assert (tally.files, tally.directories, tally.size) == (4, 2, 15 + len("somewhere"))
    assert os.listdir(bin_.files / ".ftpd-trash") == []
    space = bin_.ledger.space(bin_.account.id)
    assert (space.used, space.used_files, space.trash, space.trash_files) == (0, 0, 0, 0)
    assert bin_.agrees()


def test_single_items(bin_: Bin):
    for path in (b"/a", b"/b", b"/c"):
        bin_.put(path, path * 10)
    bin_.begin("rm a b c")
    for path in (b"/a", b"/b", b"/c"):
        name = bin_.session.remove(Remove(path)).operation
    first, second, third = bin_.things(name)
    tally = gone(bin_, name, [second, "00000000-0", second])
    assert (tally.files, tally.size) == (1, 20)
    assert bin_.things(name) == [first, third]
    contents = Contents.of(decode((bin_.directory(name) / "index").read_bytes()))
    assert {one.name: one.became for one in contents.gone.values()} == {second: "purged"}
    assert bin_.ledger.space(bin_.account.id).trash == 40
    assert bin_.agrees()
    assert gone(bin_, name, [second]) == Tally()


def fails(monkeypatch, error: OSError, after: int = 0) -> None:
    """Let a rename fail that takes something out of the trash, after some that don't."""
    rename, left = discarding.rename_closed, [after]

    def renamed(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return rename(*arguments, **options)

    monkeypatch.setattr(discarding, "rename_closed", renamed)


def in_trash(bin_: Bin) -> tuple[int, int | None]:
    """Bytes and files in the trash, as the books and the disk both have it."""
    space = bin_.ledger.space(bin_.account.id)
    home = Home(bin_.files, durable=False)
    with closing(home), home.alone():
        assert Usage(space.trash, space.trash_files or 0) == counted_in(home, bin_.account.id)
    return space.trash, space.trash_files


def test_what_cannot_be_taken_out_is_in_the_trash(bin_: Bin, monkeypatch):
    """Although its purge was recorded: the directory decides."""
    make_tree(bin_)
    bin_.put(b"/a", b"123")
    bin_.begin("rm")
    bin_.session.remove(Remove(b"/a"))
    name = bin_.session.remove(Remove(b"/t", recursive=True)).operation
    bin_.measure()
    first, tree = bin_.things(name)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="as the disk says"):
        fails(patch, OSError(errno.EIO, "as the disk says"), after=1)
        gone(bin_, name, [first, tree])
    assert [(one.path, one.state) for one in bin_.items()] == [(b"/t", "kept"), (b"/a", "purged")]
    assert bin_.things(name) == [tree] and in_trash(bin_) == (24, 6)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="as the disk says"):
        fails(patch, OSError(errno.EIO, "as the disk says"))
        gone(bin_, name, for_space=True)
    assert [(one.name, one.kept, one.given_up) for one in bin_.operations()] == [(name, 1, None)]
    assert bin_.ledger.evicted_lately() == (0, 0)
    with pytest.raises(Expired) as caught:  # an item of it, whose reason is another one
        bin_.session.stat(Stat(b"/", in_trash=(name, first)))
    assert "to free space" not in str(caught.value)
    counted(bin_)
    assert not bin_.ledger.was_evicted(bin_.account.id, name)
    assert in_trash(bin_) == (24, 6)
    assert bin_.restore(name).items == 1 and (bin_.files / "t" / "a").exists()
    assert in_trash(bin_) == (0, 0)


def test_a_full_disk_keeps_nothing_from_being_purged(bin_: Bin, monkeypatch):
    """Even where the reason cannot be recorded before: purging is what mends the disk."""
    for path in (b"/a", b"/b", b"/c"):
        bin_.put(path, b"123")
    bin_.begin("rm")
    for path in (b"/a", b"/b", b"/c"):
        name = bin_.session.remove(Remove(path)).operation

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "no space")

    def full_books(*arguments, **options):
        raise DiskFull("the server's disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Opened, "append", full)
        assert gone(bin_, name, bin_.things(name)[:1]).files == 1
        patch.setattr(Ledger, "begin_eviction", full_books)
        assert gone(bin_, name, for_space=True).files == 2
    assert bin_.ledger.evicted_lately() == (1, 6)
    assert bin_.agrees()


def test_books_that_fail_leave_nothing_open(bin_: Bin):
    """What was claimed by then is removed by the next start, which counts the home."""
    bin_.put(b"/a", b"123")
    name = bin_.rm(b"/a")

    def fail() -> None:
        raise StateError("the books cannot be read")

    with trash_of(bin_) as (home, trash):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(StateError):
            purge(home, bin_.ledger, bin_.account.id, trash, name, settling=fail)
        assert len(os.listdir("/proc/self/fd")) == before


def test_many_items_are_taken_out_some_at_a_time(bin_: Bin, monkeypatch):
    monkeypatch.setattr(discarding, "MOST_AT_ONCE", 2)
    bin_.begin("rm")
    for number in range(5):
        bin_.put(b"/%d" % number, b"x")
        name = bin_.session.remove(Remove(b"/%d" % number)).operation
    assert gone(bin_, name, bin_.things(name)).files == 5
    assert bin_.things(name) == []
    assert bin_.agrees()


def test_another_accounts_operation_is_not_there(bin_: Bin, accounts):
    bob = accounts.add("bob", "correct-horse", home=bin_.files)
    bin_.put(b"/a", b"123")
    name = bin_.rm(b"/a")
    with trash_of(bin_) as (home, trash), pytest.raises(Expired):
        purge(home, bin_.ledger, bob.id, trash, name)
    assert bin_.things(name) and bin_.agrees()


def test_who_is_at_it_is_not_waited_for_for_ever(bin_: Bin):
    bin_.put(b"/a", b"123")
    name = bin_.rm(b"/a")
    with trash_of(bin_) as (home, trash), alone(home, trash, name):
        with pytest.raises(Busy):
            gone(bin_, name, patience=0.0)
    assert bin_.agrees()


def test_others_get_the_home_on_the_way(bin_: Bin, monkeypatch):
    """A recount between two parts counts what is left, and what goes on settles the rest."""
    monkeypatch.setattr(discarding, "_PART_SECONDS", 0.0)
    make_tree(bin_)
    bin_.put(b"/t/e/f/g", b"x" * 100, parents=True)
    bin_.put(b"/stays", b"stays")
    bin_.begin("rm -r t")
    name = bin_.rm(b"/t", recursive=True)
    bin_.measure()
    seen = []

    def others() -> None:
        counted(bin_)
        seen.append(bin_.ledger.space(bin_.account.id).used)

    gone(bin_, name, tick=others)
    assert len(seen) >= 1
    assert bin_.ledger.space(bin_.account.id).used == 5
    assert bin_.agrees()


def killed_at(monkeypatch, step: str) -> Callable[[], None]:
    """Have a step fail as if the process ended there: nothing after it is done."""
    original = getattr(Home, step)
    calls = [0]

    def dies(self, *arguments, **options):
        calls[0] += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(Home, step, dies)
    return lambda: monkeypatch.setattr(Home, step, original)


@pytest.mark.parametrize("step", ["sync_dir", "drop_staged", "discard_tree"])
def test_a_crash_leaves_the_rest_to_the_next_start(bin_: Bin, monkeypatch, step):
    make_tree(bin_)
    bin_.put(b"/a", b"123")
    bin_.begin("rm")
    bin_.session.remove(Remove(b"/a"))

    name = bin_.session.remove(Remove(b"/t", recursive=True)).operation
    restore = killed_at(monkeypatch, step)
    with pytest.raises(KeyboardInterrupt):
        gone(bin_, name)
    restore()
    bin_.ledger.incarnation = "another"  # the next start: what is in staging is of a dead one
    bin_.ledger.run = "another"
    counted(bin_)
    assert bin_.agrees()
    assert bin_.ledger.space(bin_.account.id).used == 0


def test_the_home_is_counted_with_what_is_on_its_way_out(bin_: Bin, monkeypatch):
    """While it is in staging, it is used, and no trash."""
    make_tree(bin_)
    bin_.rm(b"/t", recursive=True)
    bin_.measure()
    before = bin_.ledger.space(bin_.account.id)
    [operation] = (bin_.files / ".ftpd-trash").iterdir()
    operation.rename(bin_.files / ".ftpd-staging" / f"{bin_.ledger.incarnation}-1.trash")
    counted(bin_)
    after = bin_.ledger.space(bin_.account.id)
    assert (after.used, after.used_files) == (before.trash, before.trash_files)
    assert (after.trash, after.trash_files) == (0, 0)


def test_directories_let_others_have_the_home_too(bin_: Bin, monkeypatch):
    monkeypatch.setattr(discarding, "_PART_SECONDS", 0.0)
    for number in range(600):
        (bin_.files / f"t/{number}").mkdir(parents=True)
    name = bin_.rm(b"/t", recursive=True)
    pauses = []
    with trash_of(bin_) as (home, trash):
        tick = partial(pauses.append, None)
        purge(home, bin_.ledger, bin_.account.id, trash, name, None, tick)
    assert len(pauses) > 2


def test_giving_up_many_small_operations_can_be_cancelled(bin_):
    """None of them takes so long that it is looked meanwhile."""

    class Watched(SilentObserver):
        looked = 0
        removed: tuple[int, int] | None = None

        def look_for_cancel(self) -> None:
            self.looked += 1
            if self.looked == 4:
                raise Cancelled("cancelled")

        def has_removed(self, files: int, size: int) -> None:
            self.removed = files, size

    for number in range(6):
        bin_.put(b"/file%d" % number)
        bin_.rm(b"/file%d" % number)
    observer = Watched()
    session = bin_.open(observer=observer)
    with pytest.raises(Cancelled):
        session.purge(Purge())
    assert observer.removed == (3, 12) and len(bin_.operations()) == 3
    assert bin_.agrees()
