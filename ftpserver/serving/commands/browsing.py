"""Handlers that change nothing: stat, list, hash, space, kept uploads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftpwire import messages
from ftpwire.messages import (
    Entry,
    Found,
    Hash,
    KeptUpload,
    List,
    Listed,
    ListKept,
    Message,
    Page,
    Problem,
    Space,
    Stat,
)

if TYPE_CHECKING:
    from ftpserver.serving.exchange import Exchange
    from ftpserver.storage.listing import Part
    from ftpserver.workspace.workspace import Workspace

_ENTRY_OVERHEAD = 128
"""Most bytes of an entry besides its path, target and digest."""
_NOTHING_LISTED = 32 * 1024
"""Bytes of work that a part counts for whose names are all left out."""


def stat(exchange: Exchange, workspace: Workspace, request: Stat) -> Message:
    """Describe one path."""
    return Found(workspace.stat(request))


def hash_file(exchange: Exchange, workspace: Workspace, request: Hash) -> Message:
    """Return a file's digest."""
    return workspace.hash(request)


def space(exchange: Exchange, workspace: Workspace, request: Space) -> Message:
    """Return the quota, what is used, held and free, and the figures of the disk."""
    return workspace.space(request)


def list_directory(exchange: Exchange, workspace: Workspace, request: List) -> Message:
    """Stream a listing in pages that fit a control frame."""
    pages = _Pages(exchange)
    for part in workspace.list_parts(request):
        pages.add(part)
    return Listed()


class _Pages:
    """Collects a listing into pages that fit a control frame."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._clear()

    def _clear(self) -> None:
        self._entries: list[Entry] = []
        self._problems: list[Problem] = []
        self._size = 0

    def add(self, part: Part) -> None:
        """Append a part. Sends pages that are full, and the last page of a directory."""
        directory, entries, problems, complete = part
        if not (entries or problems or complete):
            # A CANCEL is noticed, and other sessions have their turn, also where nothing is listed.
            self._exchange.progressed(_NOTHING_LISTED)
            return
        size = sum([_ENTRY_OVERHEAD + len(one.path) + len(one.target or b"") for one in entries])
        size += sum([_size_of(one) for one in problems])
        if self._size + size + len(directory) <= self._exchange.page_size:
            self._entries += entries
            self._problems += problems
            self._size += size
        else:
            items: list[Entry | Problem] = [*entries, *problems]
            for item in items:
                self._add_one(directory, item)
        if complete:
            self.send(directory, complete=True)

    def _add_one(self, directory: bytes, item: Entry | Problem) -> None:
        size = _size_of(item)
        if self._size and self._size + size + len(directory) > self._exchange.page_size:
            self.send(directory)
        if isinstance(item, Entry):
            self._entries.append(item)
        else:
            self._problems.append(item)
        self._size += size

    def send(self, directory: bytes, *, complete: bool = False) -> None:
        """Send what was collected of a directory."""
        self._exchange.send(Page(directory, self._entries, self._problems, complete))
        self._exchange.progressed(self._size)
        self._clear()


def _size_of(item: Entry | Problem) -> int:
    """Return the most bytes that one item takes of a page."""
    more = item.target or b"" if isinstance(item, Entry) else item.message.encode()
    return _ENTRY_OVERHEAD + len(item.path) + len(more)


def list_kept(exchange: Exchange, workspace: Workspace, request: ListKept) -> Message:
    """Stream the account's interrupted uploads, in pages that fit a control frame."""
    page: list[KeptUpload] = []
    left = exchange.page_size
    for one in workspace.kept(request):
        size = _ENTRY_OVERHEAD + len(one.path or b"")
        if page and size > left:
            exchange.send(messages.KeptUploads(page))
            page, left = [], exchange.page_size
        page.append(one)
        left -= size
        exchange.progressed(size)
    if page:
        exchange.send(messages.KeptUploads(page))
    return Listed()
