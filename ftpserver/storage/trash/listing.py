"""What is told about the trash: operations, the things in them, versions of one path.

Lives here: which operations and items an account may be told of, and what is told of each.
Lives elsewhere: what a thing holds (reading.py), restoring it (restoring.py).

One operation is in memory at a time. None is held meanwhile: what is told may be gone by the time
that somebody asks for it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Literal

from ftpserver.storage.digest_xattr import digest_by_name
from ftpserver.storage.home_rights import PermittedHome
from ftpserver.storage.permissions import Action
from ftpserver.storage.quota import GivenUp
from ftpserver.storage.trash.directory import Opened, is_gone, looking, names_in, open_trash
from ftpserver.storage.trash.glance import is_of
from ftpserver.storage.trash.index import Contents
from ftpserver.storage.trash.names import time_of
from ftpserver.storage.trash.policy import Policy
from ftpserver.storage.trash.things import (
    Thing,
    check_owner,
    is_directory,
    may_be_told,
    state_in,
    things_of,
)
from ftpserver.storage.walk import counted_size
from ftpwire import beneath, paths
from ftpwire.errors import Expired
from ftpwire.messages import ListTrash, TrashedOperation, TrashItem, TrashPage
from ftpwire.paths import Parts

_PAGE = 32 * 1024
"""About the most bytes of one page."""
_OVERHEAD = 160
"""Bytes that an operation or item takes besides its texts, at most."""
_FILES = ("file", "link")
_NOT_BELOW = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Why nothing is found below a thing: nothing of that name, or a file or link on the way."""


def pages(
    home: PermittedHome,
    account_id: int,
    policy: Policy,
    request: ListTrash,
    given_up: Sequence[GivenUp] = (),
) -> Iterator[TrashPage]:
    """What `ListTrash` asks for, in pages.

    Args:
        given_up: What else is told where all operations are asked for, the newest first.

    Raises:
        Expired: The operation that is asked for isn't there.
        NotFound: It is another account's.
    """
    trash = open_trash(home)
    if trash is None:
        if request.operation is not None:
            raise is_gone(request.operation)
        return
    gone = {one.name: one for one in given_up}
    if request.operation is not None or request.below or request.items or request.versions:
        gone = {}
    try:
        left = -1 if request.limit is None else request.limit
        gathered = _Gathered()
        if request.operation is None:
            there = names_in(trash)
            for name in there:  # given up, and something was added since
                gone.pop(name, None)
            names = sorted([*there, *gone], reverse=True)
        else:
            names = [request.operation]
        for name in names:
            if left == 0:
                break
            found: Iterator[TrashedOperation | TrashItem] = (
                iter([_told_given_up(gone[name])])
                if name in gone
                else _told(home, trash, account_id, policy, request, name)
            )
            for told in found:
                yield from gathered.add(told, name if isinstance(told, TrashItem) else None)
                left -= 1
                if left == 0:
                    break
        yield from gathered.flush()
    finally:
        if trash is not None:
            os.close(trash)


def _told_given_up(gone: GivenUp) -> TrashedOperation:
    return TrashedOperation(
        name=gone.name,
        time_ns=time_of(gone.name),
        words=gone.words,
        client=gone.client,
        expires=None,
        items=0,
        kept=0,
        size=0,
        files=0,
        counted=True,
        undone=False,
        first=b"",
        key=gone.key,
        given_up=gone.freed,
    )


class _Gathered:
    """What goes into the next page."""

    def __init__(self) -> None:
        self._operations: list[TrashedOperation] = []
        self._items: list[TrashItem] = []
        self._of: str | None = None
        self._size = 0

    def add(self, told: TrashedOperation | TrashItem, of: str | None) -> Iterator[TrashPage]:
        """Add something; a page that is full comes first."""
        if of != self._of or self._size > _PAGE:
            yield from self.flush()
        self._of = of
        self._size += _OVERHEAD
        if isinstance(told, TrashItem):
            self._items.append(told)
            self._size += len(told.path) + len(told.target or b"") + len(told.within or b"")
        else:
            self._operations.append(told)
            self._size += len(told.first) + len(told.words.encode())

    def flush(self) -> Iterator[TrashPage]:
        """What there is, as a page."""
        if self._operations or self._items:
            yield TrashPage(self._operations, self._of, self._items)
        self._operations, self._items, self._size = [], [], 0


def _told(
    home: PermittedHome,
    trash: int,
    account_id: int,
    policy: Policy,
    request: ListTrash,
    name: str,
) -> Iterator[TrashedOperation | TrashItem]:
    """What is told about one operation."""
    try:
        with looking(trash, name) as opened:
            contents = opened.contents()
            if request.operation is not None:
                check_owner(name, contents, account_id)
            elif not is_of(contents, account_id):
                return
            below = None if request.below is None else paths.split(request.below)
            shown = _Shown(home, opened, contents, below, versions=request.versions)
            if request.items or request.versions:
                yield from shown.items()
            else:
                summary = shown.operation(policy)
                if summary is not None:
                    yield summary
    except Expired:
        if request.operation is not None:
            raise  # of several, one that goes meanwhile isn't missed


class _Shown:
    """One operation, as far as an account may see it."""

    def __init__(
        self,
        home: PermittedHome,
        opened: Opened,
        contents: Contents,
        below: Parts | None,
        *,
        versions: bool,
    ) -> None:
        self._home = home
        self._opened = opened
        self._contents = contents
        self._below = below
        self._versions = versions

    def _things(self) -> Iterator[Thing]:
        """What may be told, and is at or below the path that is asked for, newest first."""
        for thing in reversed(things_of(self._opened, self._contents)):
            if thing.name and not thing.is_there and thing.name not in self._contents.gone:
                continue  # a crash came before it went
            if not self._is_meant(thing) or not may_be_told(self._home, thing):
                continue
            yield thing

    def _is_meant(self, thing: Thing) -> bool:
        below = self._below
        if below is None:
            return True
        if self._versions:
            return thing.path == below or self._holds(thing, below)
        at = (thing.path,) if thing.target is None else (thing.path, thing.target)
        return any(one[: len(below)] == below for one in at) or self._holds(thing, below)

    def _holds(self, thing: Thing, below: Parts) -> bool:
        """Whether something above a path holds something at that path."""
        if not thing.is_there or below[: len(thing.path)] != thing.path or below == thing.path:
            return False
        return self._inside(thing, below) is not None

    def _inside(self, thing: Thing, below: Parts) -> tuple[os.stat_result, bytes | None] | None:
        """The state of what a directory in the trash holds at a path, and its digest if one is
        kept. Links are not followed."""
        names = [thing.name.encode(), *below[len(thing.path) :]]
        try:
            directory = beneath.open_below(self._opened.fd, names[:-1])
        except PermissionError:
            return None  # closed by its mode: what is in it shows when it is back
        except OSError as error:
            if error.errno not in _NOT_BELOW:
                raise
            return None
        try:
            return _look(directory, names[-1])
        finally:
            os.close(directory)

    def operation(self, policy: Policy) -> TrashedOperation | None:
        """What is told of the operation as a whole; None where nothing of it may be told."""
        count = kept = size = files = 0
        counted = True
        first: Thing | None = None
        for thing in self._things():
            count, first = count + 1, thing
            info = state_in(self._opened, thing.name) if thing.is_there else None
            if info is None:
                continue
            kept += 1
            bytes_of, files_of = self._amount(thing, info)
            counted = counted and bytes_of is not None
            size, files = size + (bytes_of or 0), files + (files_of or 0)
        begin = self._contents.begin
        if first is None:
            return None
        time_ns = time_of(self._opened.name)
        return TrashedOperation(
            self._opened.name,
            time_ns,
            "" if begin is None else begin.words,
            None if begin is None or begin.client is None else bytes.fromhex(begin.client),
            time_ns // 10**9 + policy.seconds if policy.on else None,
            count,
            kept,
            size,
            files,
            counted,
            self._contents.undone is not None,
            paths.join(*first.path),
            None if begin is None else begin.undoes,
            None if begin is None or begin.key is None else bytes.fromhex(begin.key),
        )

    def items(self) -> Iterator[TrashItem]:
        """Each item."""
        for thing in self._things():
            item = self._version(thing) if self._versions else self._item(thing)
            if item is not None:
                yield item

    def _item(self, thing: Thing) -> TrashItem | None:
        if not thing.is_there:
            return self._absent(thing)
        looked = _look(self._opened.fd, thing.name.encode())
        if looked is None:
            return None  # somebody has taken it just now
        info, digest = looked
        size, files = self._amount(thing, info)
        kind = beneath.entry_type(info.st_mode)
        what = "found" if thing.is_found else thing.item.what
        return TrashItem(
            thing.name,
            what,
            paths.join(*thing.path),
            kind,
            size,
            files,
            beneath.told_time(info),
            "kept",
            thing.item.time,
            None,
            digest,
        )

    def _absent(self, thing: Thing) -> TrashItem:
        """What is told of something that isn't in the trash any more, or never was."""
        item, after = thing.item, thing.item.after
        state: Literal["kept", "restored", "purged"] = "restored"
        if item.what == "moved":
            state = "kept"
        elif item.name:
            state, after = self._contents.gone[item.name].became, None
        return TrashItem(
            item.name,
            item.what,
            paths.join(*thing.path),
            "dir" if item.what == "tree" else "file",
            None if after is None else after.size,
            None,
            0 if after is None else after.mtime_ns,
            state,
            item.time,
            None if thing.target is None else paths.join(*thing.target),
        )

    def _amount(self, thing: Thing, info: os.stat_result) -> tuple[int | None, int | None]:
        """Bytes and files of something that is there; None where a tree isn't counted yet."""
        if not is_directory(info) or (thing.item.what == "removed" and not thing.is_found):
            return counted_size(info), 1
        measured = self._contents.measured.get(thing.name)
        return (None, None) if measured is None else (measured.size, measured.files)

    def _version(self, thing: Thing) -> TrashItem | None:
        """A file or link that can be restored to the path that is asked for."""
        below = self._below
        if not thing.is_there:
            return None
        if below is None or thing.path == below:
            item = self._item(thing)
            return item if item is not None and item.type in _FILES else None
        found = self._inside(thing, below)
        if found is None or not self._home.permits(Action.LIST, below):
            return None
        info, digest = found
        kind = beneath.entry_type(info.st_mode)
        if kind not in _FILES:
            return None
        return TrashItem(
            thing.name,
            thing.item.what,
            paths.join(*below),
            kind,
            counted_size(info),
            1,
            beneath.told_time(info),
            "kept",
            thing.item.time,
            None,
            digest,
            paths.join(*thing.path),
        )


def _look(directory: int, name: bytes) -> tuple[os.stat_result, bytes | None] | None:
    """The state of something, and the digest that is kept beside it; None when nothing is there."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    is_file = stat.S_ISREG(info.st_mode)
    return info, digest_by_name(directory, name, info) if is_file else None
