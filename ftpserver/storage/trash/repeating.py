"""Whether a request was done before: what the trash knows of it.

Lives here: finding the lines of one request. Lives elsewhere: answers that were noted, which come
first (ledger.py), who asks (serving/repeats.py).

An answer is noted after the work, so a server that dies between the two leaves the work without an
answer. What was removed then lies in the trash, under a line with the number of its request; what
was moved has a line there, too.
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
    """The answer to a numbered request that was done, as the index of its operation shows; None
    where it doesn't show that.

    Args:
        name: Returns the operation's name.

    Raises:
        OSError: The trash can't be read.
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
        if item.name in contents.gone:  # it was there, and was taken out of the trash since
            return Removed(0, 0, 0, operation, trashed=True)
        if exists(directory, os.fsencode(item.name)):
            return _described(directory, item, operation)
    return None


def _described(directory: int, item: Item, operation: str) -> Removed:
    """What was answered of it: of a tree nothing is counted."""
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
    """Of what is at a path; None where nothing is."""
    try:
        return home.stat(paths.split(path), follow=False).st_ino
    except (FileNotFoundError, NotADirectoryError, InvalidPath):
        return None
