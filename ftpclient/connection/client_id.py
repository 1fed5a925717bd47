"""The identity of this client program, and of its commands.

Lives here: the ID of the program, which is stored in a file; operations: the ID of a command, its
words, and the numbers of its requests.
Lives elsewhere: what a server keeps for an operation (ftpwire/messages.py, docs/protocol.md),
sending it (driver.py), which command is an operation (guard.py, cli/group.py, the shell).

The ID of the program is no secret. It tells a server what "my last command" means when several
programs of a user change things.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from ftpclient.connection import files, forks, log
from ftpwire import messages
from ftpwire.messages import ChangeFor
from ftpwire.paths import printable

_Change = TypeVar("_Change", bound=ChangeFor[Any])

SIZE = 8
"""Size of both kinds of ID in bytes."""
MOST_WORDS = 200
"""Most characters of a command's words that a server accepts."""
_NAME = "client-id"


def client_id(path: Path | None = None) -> bytes:
    """Return the ID of this client program, which is drawn at its first use. If no file can store
    it, it is valid for this process.

    Args:
        path: The file; None for the user's own.
    """
    return _kept(path or files.directory() / _NAME)


@cache
def _kept(path: Path) -> bytes:
    try:
        found = _read(path)
        if found is None:
            with files.locked(path):  # several processes may be the first
                found = _read(path)
                if found is None:
                    found = os.urandom(SIZE)
                    files.write_private(path, found.hex() + "\n")
    except OSError as error:  # no home, a read-only or full disk, or a file of another user
        log.debug("%s: the ID of this client cannot be stored: %s", path, error)
        return os.urandom(SIZE)
    return found


def _read(path: Path) -> bytes | None:
    """Return the ID in a file; None if the file is missing or invalid."""
    try:
        found = bytes.fromhex(path.read_bytes().decode("ascii").strip())
    except (FileNotFoundError, ValueError):
        return None
    return found if len(found) == SIZE else None


class Operation:
    """A running command: the operation that all of its connections announce, and the numbers of its
    requests.

    Any thread may use it. In a child process it becomes another operation.

    Args:
        words: The command as its user would type it, without secrets; or a function that returns
            it, called when it is needed.
        keep: False to purge what it removes and replaces.

    Attributes:
        id: Random ID of the operation.
    """

    def __init__(self, words: str | Callable[[], str], *, keep: bool = True) -> None:
        self.keep = keep
        self._words = words
        self._begin()
        forks.follow(self)

    def _begin(self) -> None:
        self.id = os.urandom(SIZE)
        self._lock = threading.Lock()
        self._last = 0

    def _after_fork(self) -> None:
        self._begin()  # the parent continues to use the other ID and its numbers

    @property
    def words(self) -> str:
        """The command, shortened to what a server accepts."""
        if not isinstance(self._words, str):
            self._words = self._words()
        text = printable(self._words)
        return text if len(text) <= MOST_WORDS else text[: MOST_WORDS - 1] + "…"

    def request(self) -> messages.Operation:
        """Return the message to send before a connection's first request that changes something."""
        return messages.Operation(self.id, self.words, client_id(), self.keep)

    def numbered(self, request: _Change) -> _Change:
        """Return the request with the next number, unless it has one. With this number it can be
        sent again if its reply was lost."""
        if request.number:
            return request
        with self._lock:
            self._last += 1
            return structs.replace(request, number=self._last)


_in_force: ContextVar[tuple[tuple[object | None, Operation], ...]] = ContextVar(
    "operations", default=()
)


@contextmanager
def under(operation: Operation, client: object | None = None) -> Iterator[Operation]:
    """Make requests of this thread or task part of an operation, within the context.

    Args:
        client: Only requests of this client; None for all.
    """
    token = _in_force.set((*_in_force.get(), (client, operation)))
    try:
        yield operation
    finally:
        _in_force.reset(token)


@contextmanager
def grouped(client: object, words: str, *, keep: bool) -> Iterator[None]:
    """Make a client's requests of this thread or task one operation, within the context. Inside of
    another operation they are part of that one, unless nothing of them is to be kept."""
    if keep and in_force(client) is not None:
        yield
        return
    with under(Operation(words, keep=keep), client):
        yield


def in_force(client: object) -> Operation | None:
    """Return the operation that a client's requests in this thread or task belong to."""
    for owner, operation in reversed(_in_force.get()):
        if owner is None or owner is client:
            return operation
    return None
