"""Looking without changing: stat, list, hash, space, kept uploads."""

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
    from ftpserver.workspace.workspace import Workspace

_ENTRY_OVERHEAD = 128
"""Most bytes of an entry besides its path, target and digest."""


def stat(exchange: Exchange, workspace: Workspace, request: Stat) -> Message:
    """Tell about one path."""
    return Found(workspace.stat(request))


def hash_file(exchange: Exchange, workspace: Workspace, request: Hash) -> Message:
    """Tell a file's digest."""
    return workspace.hash(request)


def space(exchange: Exchange, workspace: Workspace, request: Space) -> Message:
    """Tell total, used, held and free, and what the disk has and keeps."""
    return workspace.space(request)


def list_directory(exchange: Exchange, workspace: Workspace, request: List) -> Message:
    """Stream a listing in pages that fit a control frame."""
    pages = _Pages(exchange)
    for directory, item in workspace.list(request):
        if item is None:
            pages.send(directory, complete=True)
        else:
            pages.add(directory, item)
    return Listed()


class _Pages:
    """Collects what is listed into pages that fit a control frame."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._clear()

    def _clear(self) -> None:
        self._entries: list[Entry] = []
        self._problems: list[Problem] = []
        self._size = 0

    def add(self, directory: bytes, item: Entry | Problem) -> None:
        """Append; a page that is full is sent first."""
        size = _ENTRY_OVERHEAD + len(item.path)
        if isinstance(item, Entry):
            size += len(item.target or b"")
        else:
            size += len(item.message.encode())
        if self._size and self._size + size + len(directory) > self._exchange.page_size:
            self.send(directory)
        if isinstance(item, Entry):
            self._entries.append(item)
        else:
            self._problems.append(item)
        self._size += size

    def send(self, directory: bytes, *, complete: bool = False) -> None:
        """Send what was collected for a directory."""
        self._exchange.send(Page(directory, self._entries, self._problems, complete))
        self._exchange.progressed(self._size)
        self._clear()


def list_kept(exchange: Exchange, workspace: Workspace, request: ListKept) -> Message:
    """Stream the account's interrupted uploads, as many at a time as fit a control frame."""
    page: list[KeptUpload] = []
    room = exchange.page_size
    for one in workspace.kept(request):
        size = _ENTRY_OVERHEAD + len(one.path or b"")
        if page and size > room:
            exchange.send(messages.KeptUploads(page))
            page, room = [], exchange.page_size
        page.append(one)
        room -= size
        exchange.progressed(size)
    if page:
        exchange.send(messages.KeptUploads(page))
    return Listed()
