"""Listing the trash: operations, the items in them, versions of one path.

Lives here: which operations and items an account may see, and what is shown of each.
Lives elsewhere: reading an item's contents (reading.py), restoring it (restoring.py).

One operation is in memory at a time, and none is locked: what was listed may be gone by the time a
client asks for it.
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
from ftpserver.storage.quota import EvictedOperation
from ftpserver.storage.trash.directory import Opened, is_gone, looking, names_in, open_trash
from ftpserver.storage.trash.entries import (
    TrashEntry,
    check_owner,
    entries_of,
    is_directory,
    may_be_shown,
    state_in,
)
from ftpserver.storage.trash.glance import is_of
from ftpserver.storage.trash.index import Contents
from ftpserver.storage.trash.names import time_of
from ftpserver.storage.trash.policy import Policy
from ftpserver.storage.walk import counted_size
from ftpwire import beneath, paths
from ftpwire.errors import Expired
from ftpwire.messages import ListTrash, TrashedOperation, TrashItem, TrashPage
from ftpwire.paths import Parts

_PAGE = 32 * 1024
"""The size in bytes that a page doesn't exceed by much."""
_OVERHEAD = 160
"""The most bytes that an operation or item takes besides its texts."""
_FILES = ("file", "link")
_NOT_BELOW = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""Errors that mean that an item has nothing at a path: no such name, or a file or link above it."""


def pages(
    home: PermittedHome,
    account_id: int,
    policy: Policy,
    request: ListTrash,
    evicted: Sequence[EvictedOperation] = (),
) -> Iterator[TrashPage]:
    """Yield the reply to `ListTrash` in pages.

    Args:
        evicted: Operations that were purged to free space, which a list of all operations also
            contains; the newest first.

    Raises:
        Expired: The requested operation isn't there.
        NotFound: It belongs to another account.
    """
    trash = open_trash(home)
    if trash is None:
        if request.operation is not None:
            raise is_gone(request.operation)
        return
    gone = {one.name: one for one in evicted}
    if request.operation is not None or request.below or request.items or request.versions:
        gone = {}
    try:
        left = -1 if request.limit is None else request.limit
        gathered = _Gathered()
        if request.operation is None:
            there = names_in(trash)
            for name in there:  # purged, and made again when something was added since
                gone.pop(name, None)
            names = sorted([*there, *gone], reverse=True)
        else:
            names = [request.operation]
        for name in names:
            if left == 0:
                break
            found: Iterator[TrashedOperation | TrashItem] = (
                iter([_entry_of_purged(gone[name])])
                if name in gone
                else _entries(home, trash, account_id, policy, request, name)
            )
            for entry in found:
                yield from gathered.add(entry, name if isinstance(entry, TrashItem) else None)
                left -= 1
                if left == 0:
                    break
        yield from gathered.flush()
    finally:
        if trash is not None:
            os.close(trash)


def _entry_of_purged(gone: EvictedOperation) -> TrashedOperation:
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
    """Collects the entries of the next page."""

    def __init__(self) -> None:
        self._operations: list[TrashedOperation] = []
        self._items: list[TrashItem] = []
        self._of: str | None = None
        self._size = 0

    def add(self, entry: TrashedOperation | TrashItem, of: str | None) -> Iterator[TrashPage]:
        """Add an entry. Yield the page before it first, if that is full or of another operation.

        Args:
            of: The operation of an item; None for an operation.
        """
        if of != self._of or self._size > _PAGE:
            yield from self.flush()
        self._of = of
        self._size += _OVERHEAD
        if isinstance(entry, TrashItem):
            self._items.append(entry)
            self._size += len(entry.path) + len(entry.target or b"") + len(entry.within or b"")
        else:
            self._operations.append(entry)
            self._size += len(entry.first) + len(entry.words.encode())

    def flush(self) -> Iterator[TrashPage]:
        """Yield what was collected as a page, if there is anything."""
        if self._operations or self._items:
            yield TrashPage(self._operations, self._of, self._items)
        self._operations, self._items, self._size = [], [], 0


def _entries(
    home: PermittedHome,
    trash: int,
    account_id: int,
    policy: Policy,
    request: ListTrash,
    name: str,
) -> Iterator[TrashedOperation | TrashItem]:
    """Yield what is shown of one operation."""
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
            raise  # in a list of all, an operation that is gone by now is just left out


class _Shown:
    """The part of one operation that an account may see."""

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

    def _entries(self) -> Iterator[TrashEntry]:
        """Yield the items that may be shown and match the requested path, the newest first."""
        for entry in reversed(entries_of(self._opened, self._contents)):
            if entry.name and not entry.is_there and entry.name not in self._contents.gone:
                continue  # a crash came before it was moved to the trash
            if not self._matches(entry) or not may_be_shown(self._home, entry):
                continue
            yield entry

    def _matches(self, entry: TrashEntry) -> bool:
        below = self._below
        if below is None:
            return True
        if self._versions:
            return entry.path == below or self._holds(entry, below)
        at = (entry.path,) if entry.target is None else (entry.path, entry.target)
        return any(one[: len(below)] == below for one in at) or self._holds(entry, below)

    def _holds(self, entry: TrashEntry, below: Parts) -> bool:
        """Return whether an item that was above a path contains something at that path."""
        if not entry.is_there or below[: len(entry.path)] != entry.path or below == entry.path:
            return False
        return self._inside(entry, below) is not None

    def _inside(
        self, entry: TrashEntry, below: Parts
    ) -> tuple[os.stat_result, bytes | None] | None:
        """Return the state of what a tree in the trash contains at a path, and its digest if one is
        stored; None if there is nothing. Links are not followed."""
        names = [entry.name.encode(), *below[len(entry.path) :]]
        try:
            directory = beneath.open_below(self._opened.fd, names[:-1])
        except PermissionError:
            return None  # its mode denies access: the contents can be seen once it is restored
        except OSError as error:
            if error.errno not in _NOT_BELOW:
                raise
            return None
        try:
            return _look(directory, names[-1])
        finally:
            os.close(directory)

    def operation(self, policy: Policy) -> TrashedOperation | None:
        """Summarize the operation. Return None if no item of it may be shown."""
        count = kept = size = files = 0
        counted = True
        first: TrashEntry | None = None
        for entry in self._entries():
            count, first = count + 1, entry
            info = state_in(self._opened, entry.name) if entry.is_there else None
            if info is None:
                continue
            kept += 1
            bytes_of, files_of = self._amount(entry, info)
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
        """Yield the items, or the versions, that were asked for."""
        for entry in self._entries():
            item = self._version(entry) if self._versions else self._item(entry)
            if item is not None:
                yield item

    def _item(self, entry: TrashEntry) -> TrashItem | None:
        if not entry.is_there:
            return self._absent(entry)
        looked = _look(self._opened.fd, entry.name.encode())
        if looked is None:
            return None  # just taken out by another session
        info, digest = looked
        size, files = self._amount(entry, info)
        kind = beneath.entry_type(info.st_mode)
        what = "found" if entry.is_found else entry.item.what
        return TrashItem(
            entry.name,
            what,
            paths.join(*entry.path),
            kind,
            size,
            files,
            beneath.clamped_mtime_ns(info),
            "kept",
            entry.item.time,
            None,
            digest,
        )

    def _absent(self, entry: TrashEntry) -> TrashItem:
        """Describe an item that is no longer in the trash, or never was."""
        item, after = entry.item, entry.item.after
        state: Literal["kept", "restored", "purged"] = "restored"
        if item.what == "moved":
            state = "kept"
        elif item.name:
            state, after = self._contents.gone[item.name].became, None
        return TrashItem(
            item.name,
            item.what,
            paths.join(*entry.path),
            "dir" if item.what == "tree" else "file",
            None if after is None else after.size,
            None,
            0 if after is None else after.mtime_ns,
            state,
            item.time,
            None if entry.target is None else paths.join(*entry.target),
        )

    def _amount(self, entry: TrashEntry, info: os.stat_result) -> tuple[int | None, int | None]:
        """Return the bytes and files of an item that is there; None for a tree that isn't measured
        yet."""
        if not is_directory(info) or (entry.item.what == "removed" and not entry.is_found):
            return counted_size(info), 1
        measured = self._contents.measured.get(entry.name)
        return (None, None) if measured is None else (measured.size, measured.files)

    def _version(self, entry: TrashEntry) -> TrashItem | None:
        """Describe the file or link that can be restored to the requested path, if there is one."""
        below = self._below
        if not entry.is_there:
            return None
        if below is None or entry.path == below:
            item = self._item(entry)
            return item if item is not None and item.type in _FILES else None
        found = self._inside(entry, below)
        if found is None or not self._home.permits(Action.LIST, below):
            return None
        info, digest = found
        kind = beneath.entry_type(info.st_mode)
        if kind not in _FILES:
            return None
        return TrashItem(
            entry.name,
            entry.item.what,
            paths.join(*below),
            kind,
            counted_size(info),
            1,
            beneath.clamped_mtime_ns(info),
            "kept",
            entry.item.time,
            None,
            digest,
            paths.join(*entry.path),
        )


def _look(directory: int, name: bytes) -> tuple[os.stat_result, bytes | None] | None:
    """Return the state of a file and its stored digest, if any; None if nothing is there."""
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    is_file = stat.S_ISREG(info.st_mode)
    return info, digest_by_name(directory, name, info) if is_file else None
