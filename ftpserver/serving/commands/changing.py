"""Changing the tree: directories, links, attributes, removing, moving, copying."""

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
"""Most bytes by which the problems of a `Copied` make it longer, besides themselves."""


def change(
    exchange: Exchange, workspace: Workspace, request: MakeDir | MakeLink | SetAttributes
) -> None:
    """Have the next commit do it, in its turn, and answer."""
    workspace.change(request, request_id=exchange.request_id)


def remove(exchange: Exchange, workspace: Workspace, request: Remove) -> Message | None:
    """Remove a file or link with the batch; a directory or a tree at once."""
    if workspace.remove_later(request, request_id=exchange.request_id):
        return None
    exchange.commit()
    return workspace.remove(request)


def drop_kept(exchange: Exchange, workspace: Workspace, request: DropKept) -> Message:
    """Drop interrupted uploads of the account."""
    return workspace.drop_kept(request)


def begin_tree(exchange: Exchange, workspace: Workspace, request: BeginTree) -> Message:
    """From here on, what is put at or below the path goes to a hidden tree."""
    workspace.begin_tree(request)
    return Done()


def end_tree(exchange: Exchange, workspace: Workspace, request: EndTree) -> Message:
    """Put the tree in its place at once, or drop it."""
    workspace.end_tree(request)
    return Done()


def move(exchange: Exchange, workspace: Workspace, request: Move) -> Message:
    """Rename, or copy to another file system and remove."""
    workspace.move(request)
    return Done()


def copy(exchange: Exchange, workspace: Workspace, request: Copy) -> Message:
    """Copy a file or a tree inside the home. Problems that the client's frames have no room for are
    counted only."""
    copied = workspace.copy(request)
    room = exchange.page_size - len(messages.encode(replace(copied, problems=[])))
    for told, problem in enumerate(copied.problems):
        room -= len(messages.encode(problem))
        if room < _OVERHEAD:
            more = copied.more_problems + len(copied.problems) - told
            return replace(copied, problems=copied.problems[:told], more_problems=more)
    return copied
