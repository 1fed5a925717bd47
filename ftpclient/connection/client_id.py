"""Which client program this is, and which of its commands is under way.

Lives here: the id of the program, which a file keeps; an operation: the id of a command, its words,
the numbers of its requests.
Lives elsewhere: what a server keeps of an operation (ftpwire/messages.py, docs/protocol.md), saying
it on a connection (driver.py), which command is one (guard.py, cli/group.py, the shell).

The id of the program is no secret: it is what "my last command" means, to a server that several
programs of a user change things on.
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
"""Bytes of either id."""
MOST_WORDS = 200
"""Characters of a command's words that a server takes."""
_NAME = "client-id"


def client_id(path: Path | None = None) -> bytes:
    """The id of this client program, drawn at its first use. Where no file can keep it, it is of
    this process.

    Args:
        path: The file; None for the user's own.
    """
    return _kept(path or files.directory() / _NAME)


@cache
def _kept(path: Path) -> bytes:
    try:
        found = _read(path)
        if found is None:
            with files.locked(path):  # several may be the first
                found = _read(path)
                if found is None:
                    found = os.urandom(SIZE)
                    files.write_private(path, found.hex() + "\n")
    except OSError as error:  # no home, a read-only or a full disk, or somebody else's
        log.debug("%s: no id of this client is kept: %s", path, error)
        return os.urandom(SIZE)
    return found


def _read(path: Path) -> bytes | None:
    """The id in a file; None where there is no file, or something else is in it."""
    try:
        found = bytes.fromhex(path.read_bytes().decode("ascii").strip())
    except (FileNotFoundError, ValueError):
        return None
    return found if len(found) == SIZE else None


class Operation:
    """A command under way: what all of its connections say, and the numbers of its requests.

    Any thread may use it. In a child process it is another one.

    Args:
        words: The command, as its user would write it, without secrets; or what makes these words,
            once they are needed.
        keep: False: what it removes and replaces is gone at once.

    Attributes:
        id: Drawn for each.
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
        self._begin()  # the parent goes on with the numbers of the other

    @property
    def words(self) -> str:
        """The command, as far as a server takes it."""
        if not isinstance(self._words, str):
            self._words = self._words()
        text = printable(self._words)
        return text if len(text) <= MOST_WORDS else text[: MOST_WORDS - 1] + "…"

    def request(self) -> messages.Operation:
        """What a connection says of it, before its first request that changes something."""
        return messages.Operation(self.id, self.words, client_id(), self.keep)

    def numbered(self, request: _Change) -> _Change:
        """The request with the next number, unless it has one already: with this number it can be
        sent again when its answer was lost."""
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
    """Have what this thread or task does meanwhile belong to an operation.

    Args:
        client: With this client; None: with any.
    """
    token = _in_force.set((*_in_force.get(), (client, operation)))
    try:
        yield operation
    finally:
        _in_force.reset(token)


@contextmanager
def grouped(client: object, words: str, *, keep: bool) -> Iterator[None]:
    """Have what this thread or task does with a client meanwhile be one operation: part of the one
    that it belongs to already, unless nothing of this is to be kept."""
    if keep and in_force(client) is not None:
        yield
        return
    with under(Operation(words, keep=keep), client):
        yield


def in_force(client: object) -> Operation | None:
    """The operation that a client's requests belong to in this thread or task."""
    for whose, operation in reversed(_in_force.get()):
        if whose is None or whose is client:
            return operation
    return None
