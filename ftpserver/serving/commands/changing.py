"""Handlers that change the tree: directories, links, attributes, removing, moving, copying."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from ftpwire import messages
from ftpwire.messages import (
    BeginTree,
    Copy,
    Done,
    DropKept,
    EndTree,
    MakeDir,
    MakeLink,
    Message,
    Move,
    Remove,
    SetAttributes,
)

if TYPE_CHECKING:
    from ftpserver.serving.exchange import Exchange
    from ftpserver.workspace.workspace import Workspace


_OVERHEAD = 16
"""Most bytes that a list of problems adds to a `Copied`, besides the problems themselves."""


def change(
    exchange: Exchange, workspace: Workspace, request: MakeDir | MakeLink | SetAttributes
) -> None:
    """Add a change to the batch. Its commit makes the change and replies."""
    workspace.change(request, request_id=exchange.request_id)


def remove(exchange: Exchange, workspace: Workspace, request: Remove) -> Message | None:
    """Remove a file or link with the batch; a directory or a tree at once."""
    if workspace.remove_later(request, request_id=exchange.request_id):
        return None
    exchange.commit()
    return workspace.remove(request)


def drop_kept(exchange: Exchange, workspace: Workspace, request: DropKept) -> Message:
    """Delete interrupted uploads of the account."""
    return workspace.drop_kept(request)


def begin_tree(exchange: Exchange, workspace: Workspace, request: BeginTree) -> Message:
    """Begin a hidden tree. What is put at or below the path goes there from now on."""
    workspace.begin_tree(request)
    return Done()


def end_tree(exchange: Exchange, workspace: Workspace, request: EndTree) -> Message:
    """Publish the tree in one step, or discard it."""
    workspace.end_tree(request)
    return Done()


def move(exchange: Exchange, workspace: Workspace, request: Move) -> Message:
    """Rename, or copy to another file system and remove."""
    workspace.move(request)
    return Done()


def copy(exchange: Exchange, workspace: Workspace, request: Copy) -> Message:
    """Copy a file or a tree inside the home. Problems that don't fit the client's frames are only
    counted."""
    copied = workspace.copy(request)
    left = exchange.page_size - len(messages.encode(replace(copied, problems=[])))
    for count, problem in enumerate(copied.problems):
        left -= len(messages.encode(problem))
        if left < _OVERHEAD:
            more = copied.more_problems + len(copied.problems) - count
            return replace(copied, problems=copied.problems[:count], more_problems=more)
    return copied
