"""The trash: which operation requests belong to, what it holds, restoring, removing for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ftpwire import messages
from ftpwire.messages import (
    Done,
    Listed,
    ListTrash,
    Message,
    Operation,
    Purge,
    Restore,
    Restored,
    TrashedOperation,
    TrashItem,
    TrashPage,
)

if TYPE_CHECKING:
    from ftpserver.serving.exchange import Exchange
    from ftpserver.workspace.workspace import Workspace

_OVERHEAD = 16
"""Most bytes by which a list in a message makes it longer, besides what is in it."""
_PAGE = 128
"""Most bytes of a `TrashPage` besides what is in its lists."""


def begin_operation(exchange: Exchange, workspace: Workspace, request: Operation) -> Message:
    """From here on, what is removed and replaced belongs to another operation."""
    workspace.begin_operation(request)
    exchange.repeats.begin_operation(request.id)
    return Done()


def list_trash(exchange: Exchange, workspace: Workspace, request: ListTrash) -> Message:
    """Stream what is in the trash, in pages that fit a control frame."""
    pages = _Pages(exchange)
    for part in workspace.list_trash(request):
        pages.add(part)
    pages.send()
    return Listed()


class _Pages:
    """Collects operations, and items of one of them, into pages that fit a control frame."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._clear(None)

    def _clear(self, of: str | None) -> None:
        self._of = of
        self._operations: list[TrashedOperation] = []
        self._items: list[TrashItem] = []
        self._size = 0

    def add(self, part: TrashPage) -> None:
        """Append what is in a part; a page that is full, or about another operation, is sent
        first."""
        if part.of != self._of:
            self.send()
            self._of = part.of
        for operation in part.operations:
            self._make_room(operation)
            self._operations.append(operation)
        for item in part.items:
            self._make_room(item)
            self._items.append(item)

    def _make_room(self, one: TrashedOperation | TrashItem) -> None:
        size = len(messages.encode(one))
        if self._size and self._size + size + _PAGE > self._exchange.page_size:
            self.send()
        self._size += size

    def send(self) -> None:
        """Send what was collected, if anything was."""
        of, size = self._of, self._size
        if size:
            self._exchange.send(TrashPage(self._operations, of, self._items))
            self._exchange.progressed(size)
        self._clear(of)


def restore(exchange: Exchange, workspace: Workspace, request: Restore) -> Message:
    """Take back what an operation has done. Conflicts and paths that the client's frames have no
    room for are counted only."""
    return _shortened(workspace.restore(request), exchange.page_size)


def _shortened(restored: Restored, page_size: int) -> Restored:
    room = page_size - len(messages.encode(replace(restored, conflicts=[], paths=[]))) - _OVERHEAD
    for told, conflict in enumerate(restored.conflicts):
        room -= len(messages.encode(conflict))
        if room < 0:
            more = restored.more_conflicts + len(restored.conflicts) - told
            shortened = restored.conflicts[:told]
            return replace(restored, conflicts=shortened, more_conflicts=more, paths=[])
    for told, path in enumerate(restored.paths):
        room -= len(messages.encode(path))
        if room < 0:
            return replace(restored, paths=restored.paths[:told])
    return restored


def purge(exchange: Exchange, workspace: Workspace, request: Purge) -> Message:
    """Remove from the trash for good."""
    return workspace.purge(request)
