"""The trash of a home where whole homes are looked at, handed over, and removed."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from ftpserver.accounts.new_home import _has_contents
from ftpserver.accounts.removal import remove_home
from ftpserver.isolation import homes
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.walk import walk
from ftpwire import paths
from ftpwire.errors import Forbidden, InvalidPath
from ftpwire.messages import Failed, Get, MakeLink, Remove
from tests.ftpserver.storage.trash.conftest import Bin


def test_it_is_not_walked(bin_: Bin):
    bin_.put(b"/t/a", parents=True)
    bin_.put(b"/b")
    bin_.rm(b"/t", recursive=True)
    with os.scandir(bin_.files) as entries:
        assert ".ftpd-trash" in {entry.name for entry in entries}
    fd = os.open(bin_.files, os.O_RDONLY)
    try:
        assert [found.path for found in walk(fd)] == [b"b"]
        everything = {found.path for found in walk(fd, staging=True)}
    finally:
        os.close(fd)
    assert any(path.startswith(b".ftpd-trash/") for path in everything)


def test_what_is_below_a_home_and_called_so_is_counted(bin_: Bin):
    """Nobody can have put it there by name; it takes room all the same."""
    bin_.put(b"/d/a", b"12345", parents=True)
    (bin_.files / "d" / ".ftpd-trash").mkdir()
    (bin_.files / "d" / ".ftpd-trash" / "file").write_bytes(b"123")
    home = Home(bin_.files, durable=False)
    counted = home.count()
    home.close()
    assert (counted.size, counted.files) == (8, 4)


def test_what_lies_in_it_without_being_an_operation_is_counted(bin_: Bin):
    trash = bin_.files / ".ftpd-trash"
    home = Home(bin_.files, durable=False)
    trash.mkdir()
    (trash / "index").write_bytes(b"12")  # no operation is above it
    (trash / "something").mkdir()
    (trash / "something" / "index").write_bytes(b"345")
    counted = home.count()
    home.close()
    assert (counted.size, counted.files) == (5, 3)


@pytest.mark.parametrize("target", [b".ftpd-trash", b"../.ftpd-trash/x", b"/.ftpd-trash/x/0"])
def test_no_link_leads_there(bin_: Bin, target):
    bin_.session.change(MakeLink(b"/link", target))
    [(_, outcome)] = bin_.session.commit()
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.to_error(), InvalidPath)
    assert not (bin_.files / "link").is_symlink()


def test_a_link_that_leads_there_is_not_followed_by_who_has_rules(bin_: Bin):
    bin_.put(b"/a", b"secret")
    name = bin_.rm(b"/a")
    [thing] = bin_.things(name)
    os.symlink(f".ftpd-trash/{name}/{thing}", bin_.files / "link")
    limited = bin_.open(permissions=str(Permissions.parse("read-only")))
    with pytest.raises(Forbidden, match="links into the trash are not followed"):
        limited.open(Get(b"/link"))


@pytest.mark.parametrize("kept", [False, True])
def test_a_home_with_something_in_its_trash_is_not_empty(bin_: Bin, kept):
    bin_.put(b"/a")
    name = bin_.rm(b"/a")
    if not kept:
        for one in bin_.directory(name).iterdir():
            one.unlink()
        bin_.directory(name).rmdir()
    assert _has_contents(bin_.files) == kept


def test_removing_a_home_takes_it_along(bin_: Bin):
    bin_.put(b"/t/a", parents=True)
    bin_.put(b"/b")
    os.chmod(bin_.files / "t", 0)
    bin_.rm(b"/t", recursive=True)
    bin_.session.close()
    remove_home(bin_.files)
    assert not bin_.files.exists()


def test_it_is_handed_over_with_staging(bin_: Bin, monkeypatch):
    bin_.put(b"/a")
    bin_.rm(b"/a")
    given = []
    monkeypatch.setattr(homes, "_give", lambda fd, identity: given.append(_path_of(fd)))
    monkeypatch.setattr(
        homes, "_hand_over_below", lambda fd, before, identity: given.append(_path_of(fd))
    )
    identity = homes.Identity(12345, 12345)
    account = replace(bin_.account, own_home=True)
    fd = os.open(bin_.files, os.O_RDONLY)
    try:
        homes.hand_over(account, fd, identity)
    finally:
        os.close(fd)
    assert {os.path.basename(path).encode() for path in given} == paths.RESERVED


def _path_of(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def test_removing_is_refused_by_name(bin_: Bin):
    bin_.put(b"/a")
    bin_.rm(b"/a")
    with pytest.raises(InvalidPath):
        bin_.session.remove(Remove(b"/.ftpd-trash", recursive=True))
