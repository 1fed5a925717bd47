"""Finding out from the trash whether a repeated request was done before.

Lives here: finding the index lines of one request. Lives elsewhere: recorded replies, which are
looked up first (ledger.py), the caller (serving/repeats.py).

A reply is recorded after the work. If the server dies between the two, the work is done and there
is no reply. Then what was removed is in the trash, and its line has the number of the request; a
move has such a line, too.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from ftpserver.storage.home_reading import ReadableHome
from ftpserver.storage.trash.directory import exists, open_trash, read_index
from ftpserver.storage.trash.index import Contents, Item, decode
from ftpserver.storage.walk import counted_size
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import InvalidPath
from ftpwire.messages import Done, Message, Move, Remove, Removed

_REMOVED = frozenset({"removed", "tree"})


def done_before(home: ReadableHome, name: Callable[[], str], request: Message) -> Message | None:
    """Return the reply to a numbered request that was done, according to the index of its
    operation; None if the index doesn't show that it was done.

    Args:
        name: A function that returns the operation's name.

    Raises:
        OSError: The trash cannot be read.
    """
    if not isinstance(request, Remove | Move):
        return None
    trash = open_trash(home)
    if trash is None:
        return None
    try:
        operation = name()
        directory = os.open(operation, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=trash)
    except FileNotFoundError:
        return None
    finally:
        os.close(trash)
    try:
        contents = Contents.of(decode(read_index(directory)))
        if isinstance(request, Remove):
            return _removed(directory, contents, operation, request)
        return _moved(home, contents, request)
    finally:
        os.close(directory)


def _removed(directory: int, contents: Contents, operation: str, request: Remove) -> Message | None:
    for item in contents.items:
        if item.number != request.number or item.what not in _REMOVED:
            continue
        if exists(directory, os.fsencode(item.name)):
            return _described(directory, item, operation)
        if item.name in contents.gone:  # it was removed, and has left the trash since
            return Removed(0, 0, 0, operation, trashed=True)
    return None


def _described(directory: int, item: Item, operation: str) -> Removed:
    """Return the reply about a removed item. The contents of a tree are not counted."""
    info = os.stat(item.name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode):
        return Removed(1, 0, counted_size(info), operation, trashed=True)
    return Removed(0, int(item.what != "tree"), 0, operation, trashed=True)


def _moved(home: ReadableHome, contents: Contents, request: Move) -> Message | None:
    for item in contents.items:
        if item.number != request.number or item.what != "moved" or item.after is None:
            continue
        there = _inode(home, request.target)
        if there == item.after.inode and _inode(home, request.source) is None:
            return Done()
    return None


def _inode(home: ReadableHome, path: bytes) -> int | None:
    """Return the inode number of what is at a path; None if nothing is there."""
    try:
        return home.stat(paths.split(path), follow=False).st_ino
    except (FileNotFoundError, NotADirectoryError, InvalidPath):
        return None
