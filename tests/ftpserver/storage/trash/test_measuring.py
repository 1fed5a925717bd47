"""Counting trees in the trash: without a lock, and never what somebody has taken meanwhile."""

from __future__ import annotations

import os
import stat

import pytest

from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpserver.storage.trash import measuring
from ftpserver.storage.trash.directory import Opened, alone, open_trash
from ftpserver.storage.trash.discarding import purge
from ftpserver.storage.trash.index import Contents, Measured, decode
from ftpserver.storage.trash.measuring import measure
from ftpserver.storage.walk import Usage
from ftpwire.messages import Remove, Space
from tests.ftpserver.storage.trash.conftest import Bin


def lines(bin_: Bin, name: str) -> list[Measured]:
    content = (bin_.directory(name) / "index").read_bytes()
    return [line for line in decode(content) if isinstance(line, Measured)]


def in_trash(bin_: Bin) -> tuple[int, int]:
    space = bin_.ledger.space(bin_.account.id)
    return space.trash, space.trash_files


def make_tree(bin_: Bin, path: bytes = b"/t") -> None:
    bin_.put(path + b"/a", b"12345", parents=True)
    bin_.put(path + b"/b/c", b"1234567890", parents=True)


def test_a_tree_is_counted_once(bin_: Bin):
    make_tree(bin_)
    name = bin_.rm(b"/t", recursive=True)
    assert in_trash(bin_) == (0, 0)
    bin_.measure()
    assert in_trash(bin_) == (15, 4)
    bin_.measure()
    assert in_trash(bin_) == (15, 4)
    [line] = lines(bin_, name)
    assert (line.size, line.files) == (15, 4)
    assert bin_.agrees()


def test_files_need_no_measuring(bin_: Bin):
    bin_.put(b"/a", b"123")
    name = bin_.rm(b"/a")
    assert in_trash(bin_) == (3, 1)
    bin_.measure()
    assert lines(bin_, name) == [] and in_trash(bin_) == (3, 1)


def test_what_cannot_be_opened_keeps_its_mode(bin_: Bin):
    make_tree(bin_)
    os.chmod(bin_.files / "t/b", 0)
    os.chmod(bin_.files / "t", 0)
    name = bin_.rm(b"/t", recursive=True)
    bin_.measure()
    assert in_trash(bin_) == (15, 4)
    [thing] = bin_.things(name)
    assert stat.S_IMODE((bin_.directory(name) / thing).stat().st_mode) == 0


def test_df_counts_first(bin_: Bin):
    make_tree(bin_)
    bin_.put(b"/stays", b"1")
    bin_.rm(b"/t", recursive=True)
    space = bin_.session.space(Space())
    assert (space.used, space.trash, space.trash_files) == (1, 15, 4)
    assert space.free == space.total - 1
    disk = os.statvfs(bin_.files)
    assert space.disk_free is not None and space.disk_free >= 15
    assert abs(space.disk_free - 15 - disk.f_bavail * disk.f_frsize) < 2**30


@pytest.mark.parametrize("how", ["restored", "part restored", "purged", "measured"])
def test_what_changes_during_the_count_is_not_counted_wrongly(bin_: Bin, monkeypatch, how):
    """Between the walk and the hold somebody is quicker."""
    make_tree(bin_)
    name = bin_.rm(b"/t", recursive=True)
    walk = measuring._walk

    def slow(trash, operation, item, tick) -> Usage | None:
        monkeypatch.setattr(measuring, "_walk", walk)
        counted = walk(trash, operation, item, tick)
        if how == "restored":
            bin_.restore(name)
        elif how == "part restored":
            bin_.restore(name, paths=[b"/t/b"])
        elif how == "purged":
            home = Home(bin_.files, durable=False)
            purge(home, bin_.ledger, bin_.account.id, trash, name)
            home.close()
        else:
            bin_.measure()
        return counted

    monkeypatch.setattr(measuring, "_walk", slow)
    bin_.measure()
    assert bin_.agrees()
    bin_.measure()
    assert bin_.agrees()
    left = {"restored": 0, "part restored": 5, "purged": 0, "measured": 15}[how]
    assert in_trash(bin_)[0] == left


def test_what_somebody_is_at_is_left_for_another_time(bin_: Bin):
    make_tree(bin_)
    name = bin_.rm(b"/t", recursive=True)
    home = Home(bin_.files, durable=False)
    trash = open_trash(home)
    assert trash is not None
    with alone(home, trash, name):
        assert measure(home, bin_.ledger, bin_.account.id) == 0
    assert measure(home, bin_.ledger, bin_.account.id) == 1
    os.close(trash)
    home.close()
    assert bin_.agrees()


def test_a_recount_finds_both_columns(bin_: Bin):
    make_tree(bin_)
    make_tree(bin_, b"/u")
    bin_.put(b"/file", b"123")
    bin_.rm(b"/t", recursive=True)
    bin_.measure()
    bin_.rm(b"/u", recursive=True)  # nobody counts that one
    bin_.rm(b"/file")
    before = bin_.ledger.space(bin_.account.id)
    assert (before.used, before.trash, before.trash_files) == (15, 18, 5)
    bin_.ledger.recounted(bin_.account.id, 1, 1)
    recount(bin_.ledger, bin_.account.id, Home(bin_.files, durable=False))
    assert bin_.ledger.space(bin_.account.id) == before
    assert bin_.agrees()


def test_lines_without_a_thing_do_not_count(bin_: Bin):
    """As a crash leaves them."""
    make_tree(bin_)
    name = bin_.rm(b"/t", recursive=True)
    bin_.measure()
    [thing] = bin_.things(name)
    (bin_.directory(name) / thing).rename(bin_.files / "back")
    recount(bin_.ledger, bin_.account.id, Home(bin_.files, durable=False))
    assert in_trash(bin_) == (0, 0)
    assert Contents.of(decode((bin_.directory(name) / "index").read_bytes())).measured


def test_homes_of_two_accounts(bin_: Bin, accounts):
    """Each counts its own."""
    bob = accounts.add("bob", "correct-horse", home=bin_.files)
    make_tree(bin_)
    bin_.session.remove(Remove(b"/t", recursive=True))
    home = Home(bin_.files, durable=False)
    assert measure(home, bin_.ledger, bob.id) == 0
    recount(bin_.ledger, bob.id, home)
    space = bin_.ledger.space(bob.id)
    assert (space.used, space.trash) == (15, 0)


def test_who_sees_that_it_is_counted_finds_it_in_the_books(bin_: Bin, monkeypatch):
    """Whoever looks holds nothing: another session's upload was refused for want of this room."""
    make_tree(bin_)
    name = bin_.rm(b"/t", recursive=True)
    seen = []
    append = Opened.append

    def watched(self, new, **options):
        append(self, new, **options)
        if lines(bin_, name):
            seen.append(in_trash(bin_))

    monkeypatch.setattr(Opened, "append", watched)
    bin_.measure()
    assert seen == [(15, 4)]
    assert bin_.agrees()
