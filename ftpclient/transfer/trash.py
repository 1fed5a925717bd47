"""The trash: what a server keeps of files that were removed or replaced.

Lives here: listing it, finding the last operation of a client, the versions of a file.
Lives elsewhere: requests with one reply (verbs.py), getting files out of it (download.py), the
display (cli/commands/trash.py), whether a server has a trash (connection/protocol.py).
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
"""Age in seconds up to which an operation can be undone as "the last one", without naming it."""
_ITEM = re.compile(r"[0-9a-f]{8}-[0-9]{1,10}")
_UNDOING = ("undo", "Client.undo", "AsyncClient.undo")
"""The first word of operations that are undos."""
_AROUND = 400
"""Approximate memory for one trash entry, in bytes, without its path."""
_ADVICE = "name an operation, or a path"


class Trashed(NamedTuple):
    """One path that an operation has changed.

    Attributes:
        operation: The operation's name.
    """

    operation: str
    item: TrashItem

    @property
    def in_trash(self) -> InTrash:
        """The entry in the trash, for verbs that read there."""
        return self.operation, self.item.name


@dataclass(frozen=True)
class Version:
    """An earlier state of a path, which can be restored.

    Attributes:
        operation: The operation that removed or replaced it.
    """

    operation: TrashedOperation
    item: TrashItem

    @property
    def in_trash(self) -> InTrash:
        """The entry in the trash, for verbs that read there."""
        return self.operation.name, self.item.name

    @property
    def inner_path(self) -> RemotePath:
        """The path below that entry: ``/`` is the entry itself, else it is inside a tree."""
        within = self.item.within
        below = self.item.path[len(within.rstrip(b"/")) :] if within is not None else b""
        return RemotePath(below or b"/")

    @property
    def until_ns(self) -> int:
        """When this state was removed or replaced, in nanoseconds since 1970."""
        return self.item.time_ns


def _checked(page: TrashPage) -> TrashPage:
    """Return the page, after checking that names are valid and paths absolute.

    The paths are shown to the user, and files are created under these names.

    Raises:
        BadMessage: A name or path is not valid.
    """
    if page.items and page.of is None:
        raise BadMessage("the server sent trash entries without their operation")
    for one in page.operations:
        if not trash_names.is_name(one.name):
            raise BadMessage("the server sent an unusable name of an operation")
        if one.given_up is None or one.first:  # a purged operation has no path
            _check_path(one.first)
    for item in page.items:
        if item.name and not _ITEM.fullmatch(item.name):
            raise BadMessage("the server sent an unusable name of a trash entry")
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
    """Return the operations of the account, the newest first.

    Args:
        below: Return only those that changed something at this path or below it.
        since: Return only those that began after this moment, in seconds since 1970.
        limit: Return at most this many.

    Raises:
        ProtocolError: The server keeps no trash.
        TooLong: There are too many to keep in memory.
    """
    pages = _pages(connection, ListTrash(below=below, limit=limit))
    received = (one for page in pages for one in page.operations)
    found = list(held(received, _size_of_operation, _ADVICE))
    return [one for one in found if since is None or one.time_ns >= since * 10**9]


def items(
    connection: Connection, operation: str | None, *, below: RemotePath | None = None
) -> list[Trashed]:
    """Return what an operation, or all of them, have changed, the newest first.

    Raises:
        Expired: The operation is not in the trash any more.
        NotFound: There never was one with this name.
        ProtocolError, TooLong: As `operations`.
    """
    return _items(connection, ListTrash(operation, below, items=True))


def _items(connection: Connection, request: ListTrash) -> list[Trashed]:
    received = (
        Trashed(page.of or "", item) for page in _pages(connection, request) for item in page.items
    )
    return list(held(received, lambda one: _AROUND + len(one.item.path), _ADVICE))


def versions(connection: Connection, path: RemotePath) -> list[Version]:
    """Return the earlier states of a path that can be restored, the newest first.

    Raises:
        ProtocolError, TooLong: As `operations`.
    """
    found = _items(connection, ListTrash(below=path, items=True, versions=True))
    known = {one.name: one for one in operations(connection, below=path)} if found else {}
    return [Version(known[one.operation], one.item) for one in found if one.operation in known]


def is_undo(one: TrashedOperation) -> bool:
    """Return whether an operation is an undo. Other ways of restoring begin with other words."""
    return one.undoes is not None and one.words.split(" ", 1)[0] in _UNDOING


def newest(
    known: Iterable[TrashedOperation],
    client: bytes | None,
    own: Collection[bytes] = (),
    lister: str = "trash",
) -> TrashedOperation:
    """Return the operation that "undo" means.

    That is the newest one with an id in ``own``; if there is none, the newest one of this client
    program within the last hour. Undone operations don't count.

    An undo is an operation, too, so undoing it means to redo. But if it was incomplete because
    something was in the way, its original operation is returned again, to undo the rest: what is
    already restored is not taken away.

    Args:
        known: All operations, the newest first.
        client: The id of the client program; None to look only in ``own``.

    Raises:
        Expired: The server has purged its data to free space. No older one is returned.
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
                f"{command}: cannot be undone: the server has purged the old files to free space "
                f"({lister} lists all operations)"
            )
        undone = by_name.get(one.undoes or "") if is_undo(one) else None
        if undone is not None and not undone.undone and undone.given_up is None:
            return undone
        return one
    hint = f" ({lister} lists all operations)" if known else ": the trash is empty"
    raise NotFound(f"nothing to undo{hint}")


def all_of_command(
    one: TrashedOperation, known: Iterable[TrashedOperation]
) -> list[TrashedOperation]:
    """Return an operation and all others of the same command that were not undone, newest first.

    A command has several operations if it changed very many files, or used several sessions.

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
    """Return the state of a path at a moment; None if it did not exist or is the current one.

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
