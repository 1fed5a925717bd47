"""Handlers of the trash: the operation that requests belong to, listing, restoring, purging."""

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
"""Most bytes that a list adds to a message, besides its items."""
_PAGE = 128
"""Most bytes of a `TrashPage` besides the items in its lists."""


def begin_operation(exchange: Exchange, workspace: Workspace, request: Operation) -> Message:
    """Begin an operation: what is removed or replaced from now on belongs to it."""
    workspace.begin_operation(request)
    exchange.repeats.begin_operation(request.id)
    return Done()


def list_trash(exchange: Exchange, workspace: Workspace, request: ListTrash) -> Message:
    """Stream the contents of the trash, in pages that fit a control frame."""
    pages = _Pages(exchange)
    for part in workspace.list_trash(request):
        pages.add(part)
    pages.send()
    return Listed()


class _Pages:
    """Collects operations, or items of one of them, into pages that fit a control frame."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._clear(None)

    def _clear(self, of: str | None) -> None:
        self._of = of
        self._operations: list[TrashedOperation] = []
        self._items: list[TrashItem] = []
        self._size = 0

    def add(self, part: TrashPage) -> None:
        """Append a part. A page that is full, or about another operation, is sent first."""
        if part.of != self._of:
            self.send()
            self._of = part.of
        for operation in part.operations:
            self._send_if_full(operation)
            self._operations.append(operation)
        for item in part.items:
            self._send_if_full(item)
            self._items.append(item)

    def _send_if_full(self, one: TrashedOperation | TrashItem) -> None:
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
    """Undo an operation. Conflicts and paths that don't fit a client's frame are only counted."""
    return _shortened(workspace.restore(request), exchange.page_size)


def _shortened(restored: Restored, page_size: int) -> Restored:
    left = page_size - len(messages.encode(replace(restored, conflicts=[], paths=[]))) - _OVERHEAD
    for count, conflict in enumerate(restored.conflicts):
        left -= len(messages.encode(conflict))
        if left < 0:
            more = restored.more_conflicts + len(restored.conflicts) - count
            shortened = restored.conflicts[:count]
            return replace(restored, conflicts=shortened, more_conflicts=more, paths=[])
    for count, path in enumerate(restored.paths):
        left -= len(messages.encode(path))
        if left < 0:
            return replace(restored, paths=restored.paths[:count])
    return restored


def purge(exchange: Exchange, workspace: Workspace, request: Purge) -> Message:
    """Purge items of the trash."""
    return workspace.purge(request)
