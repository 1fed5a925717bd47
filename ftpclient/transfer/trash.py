"""The trash: what a server keeps of what was removed and replaced.

Lives here: asking for it, the newest operation of somebody, the versions of a file.
Lives elsewhere: what is asked by one request (verbs.py), getting files out of it (download.py),
showing it (cli/commands/trash.py), that a server has one (connection/protocol.py).
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from ftpclient.connection.connection import Connection
from ftpclient.transfer.spool import held
from ftpclient.transfer.streamed import replies
from ftpwire import paths, trash_names
from ftpwire.errors import BadMessage, Expired, NotFound
from ftpwire.messages import InTrash, ListTrash, TrashedOperation, TrashItem, TrashPage
from ftpwire.paths import RemotePath

UNDO_SECONDS = 3600
"""For so long "the last operation" is what somebody means without naming it."""
_ITEM = re.compile(r"[0-9a-f]{8}-[0-9]{1,10}")
_UNDOING = ("undo", "Client.undo", "AsyncClient.undo")
"""What operations are called that are given as an undo."""
_AROUND = 400
"""Bytes of memory that are kept with what is told of one thing, about."""
_ADVICE = "name an operation, or a path"


class Trashed(NamedTuple):
    """One thing that an operation has changed.

    Attributes:
        operation: The operation's name.
    """

    operation: str
    item: TrashItem

    @property
    def in_trash(self) -> InTrash:
        """Where it lies, for verbs that read there."""
        return self.operation, self.item.name


@dataclass(frozen=True)
class Version:
    """What was at a path before, and can be put back.

    Attributes:
        operation: What has removed or replaced it.
    """

    operation: TrashedOperation
    item: TrashItem

    @property
    def in_trash(self) -> InTrash:
        """Where it lies, for verbs that read there."""
        return self.operation.name, self.item.name

    @property
    def place(self) -> RemotePath:
        """Its path below what lies there: ``/`` is that itself; else it is in a tree."""
        within = self.item.within
        below = self.item.path[len(within.rstrip(b"/")) :] if within is not None else b""
        return RemotePath(below or b"/")

    @property
    def until_ns(self) -> int:
        """Until when it was what is at the path: nanoseconds since 1970."""
        return self.item.time_ns


def _checked(page: TrashPage) -> TrashPage:
    """A page in which names are such, and paths absolute: they are shown, and files are called by
    them.

    Raises:
        BadMessage: The server sent something else.
    """
    if page.items and page.of is None:
        raise BadMessage("the server sent things of the trash without their operation")
    for one in page.operations:
        if not trash_names.is_name(one.name):
            raise BadMessage("the server sent an unusable name of an operation")
        if one.given_up is None or one.first:  # of what is gone, no path is known
            _check_path(one.first)
    for item in page.items:
        if item.name and not _ITEM.fullmatch(item.name):
            raise BadMessage("the server sent an unusable name of something in the trash")
        for path in (item.path, item.target, item.within):
            if path is not None:
                _check_path(path)
    return page


def _check_path(path: bytes) -> None:
    names = path[1:].split(b"/") if path != b"/" else []
    if not path.startswith(b"/") or not all(map(paths.is_name, names)):
        raise BadMessage(f"the server sent an unusable path: {paths.show(path)}")


def _pages(connection: Connection, request: ListTrash) -> Iterator[TrashPage]:
    return replies(connection, request, _checked)


def operations(
    connection: Connection,
    *,
    below: RemotePath | None = None,
    since: float | None = None,
    limit: int | None = None,
) -> list[TrashedOperation]:
    """The operations of the account, the newest first.

    Args:
        below: Only those that have changed something at this path or below it.
        since: Only those that began after this moment, in seconds since 1970.
        limit: So many of the newest, at most.

    Raises:
        ProtocolError: The server keeps no trash.
        TooLong: They are so many that they can't be kept in memory.
    """
    pages = _pages(connection, ListTrash(below=below, limit=limit))
    told = (one for page in pages for one in page.operations)
    found = list(held(told, _size_of_operation, _ADVICE))
    return [one for one in found if since is None or one.time_ns >= since * 10**9]


def items(
    connection: Connection, operation: str | None, *, below: RemotePath | None = None
) -> list[Trashed]:
    """What an operation has changed, or all of them, the newest first.

    Raises:
        Expired: It isn't in the trash any more.
        NotFound: It never was.
        ProtocolError, TooLong: As `operations`.
    """
    return _items(connection, ListTrash(operation, below, items=True))


def _items(connection: Connection, request: ListTrash) -> list[Trashed]:
    told = (
        Trashed(page.of or "", item) for page in _pages(connection, request) for item in page.items
    )
    return list(held(told, lambda one: _AROUND + len(one.item.path), _ADVICE))


def versions(connection: Connection, path: RemotePath) -> list[Version]:
    """What was at a path before and can be put back, the newest first.

    Raises ProtocolError, TooLong as `operations`.
    """
    found = _items(connection, ListTrash(below=path, items=True, versions=True))
    known = {one.name: one for one in operations(connection, below=path)} if found else {}
    return [Version(known[one.operation], one.item) for one in found if one.operation in known]


def is_undo(one: TrashedOperation) -> bool:
    """Whether it was given as an undo: other ways of restoring have words of their own."""
    return one.undoes is not None and one.words.split(" ", 1)[0] in _UNDOING


def newest(
    known: Iterable[TrashedOperation], client: bytes | None, own: Collection[bytes] = ()
) -> TrashedOperation:
    """The operation that "undo" means.

    That is the newest with one of the ids ``own``; else the newest of a client program of the last
    hour. One that was undone is none of these. Undoing is an operation, too: undoing the newest
    again is doing it again. But where something was in the way of that, it is the same operation
    once more: for the rest of it, and nothing that is back is taken away.

    Args:
        known: All operations, the newest first.
        client: The id of the client program; None: only ``own`` counts.

    Raises:
        Expired: It was given up for room. None before it is meant.
        NotFound: There is none.
    """
    known = list(known)
    by_name = {one.name: one for one in known}
    found = [one for one in known if not one.undone]
    since = (time.time() - UNDO_SECONDS) * 10**9
    of_client = (one for one in found if one.client == client is not None and one.time_ns >= since)
    for one in (*(one for one in found if one.key in own), *of_client):
        if one.given_up is not None:
            command = paths.printable(one.words) or "the last command"
            raise Expired(
                f"{command}: can't be undone: the server needed its room (trash lists all)"
            )
        undone = by_name.get(one.undoes or "") if is_undo(one) else None
        if undone is not None and not undone.undone and undone.given_up is None:
            return undone
        return one
    raise NotFound(f"nothing to undo{' (trash lists all)' if known else ': the trash is empty'}")


def all_of_command(
    one: TrashedOperation, known: Iterable[TrashedOperation]
) -> list[TrashedOperation]:
    """An operation, and the others of the same command that were not undone, the newest first: one
    of very many things, or of sessions that were in each other's way, has several.

    Args:
        known: All operations, the newest first.
    """
    if one.key is None:
        return [one]
    return [
        other
        for other in known
        if other.name == one.name
        or (other.key == one.key and not other.undone and other.given_up is None)
    ]


def at_time(found: Iterable[Version], moment_ns: int) -> Version | None:
    """The version that was at its path at a moment; None if what is there now was, or nothing.

    Args:
        found: All versions of the path, the newest first.
    """
    later = None
    for one in found:
        if one.until_ns <= moment_ns:
            break
        later = one
    return later


def _size_of_operation(one: TrashedOperation) -> int:
    return _AROUND + len(one.words) + len(one.first)
