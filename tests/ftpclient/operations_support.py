"""A server that keeps operations and the answers of numbered requests, and can lose either.

Lives here: the server of the tests of operations. Lives elsewhere: a whole one (ftpserver/).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ftpwire import messages
from ftpwire.frames import Kind
from ftpwire.messages import (
    IF_SAME,
    TRASH,
    ChangeFor,
    Copied,
    Done,
    Failed,
    LoggedIn,
    Operation,
    Page,
    Put,
    Remove,
    Removed,
    Restore,
    Restored,
    Stored,
    WhoAmI,
)
from tests.lying_server import LyingServer, dir_entry
from tests.peer import Frame, Peer

NAME = "0" * 16 + "-" + "7f3a" * 2


class TrashServer:
    """Does each change once for each operation and number, and records what it was told.

    Args:
        trash: Whether it says that it keeps any.
        final: Whether it keeps none for this account.
        lose: At which of the changes, counted from 0, the connection ends: ``request``, before it
            was done, or ``answer``, after that.

    Attributes:
        done: What was changed, in its order.
        entry, pages: What is told of paths and listed.
        other: Looks at each request first; returns whether it has answered it.
        reported: All that came, connection by connection.
    """

    def __init__(
        self, *, trash: bool = True, final: bool = False, lose: dict[int, str] | None = None
    ) -> None:
        self.trash = trash
        self.final = final
        self.lose = dict(lose or {})
        self.done: list[ChangeFor[Any]] = []
        self.reported: list[list[Any]] = []
        self.answers: dict[tuple[bytes, int], Any] = {}
        self.answer: Callable[[Any], Any] = answer
        self.entry = dir_entry
        self.pages = [Page(b"", [], [], True)]
        self.other: Callable[[Peer, Frame], bool] = lambda peer, requested: False
        self._count = 0
        self._lock = threading.Lock()

    @property
    def operations(self) -> list[Operation]:
        """What was said of operations."""
        return [one for reported in self.reported for one in reported if isinstance(one, Operation)]

    def requests(self, kind: type = ChangeFor) -> list[Any]:
        """What was asked for of a kind, also what was lost."""
        return [one for reported in self.reported for one in reported if isinstance(one, kind)]

    def __call__(self, peer: Peer) -> None:
        reported: list[Any] = []
        with self._lock:
            self.reported.append(reported)
        session = _Session(self, reported)
        features = [IF_SAME, *([TRASH] if self.trash else [])]
        LyingServer(
            pages=self.pages,
            ask=session.ask,
            root=lambda path: self.entry(path),
            greet=lambda peer: peer.greet(features=features),
        )(peer)

    def loses(self) -> str | None:
        with self._lock:
            self._count += 1
            return self.lose.get(self._count - 1)


class _Session:
    def __init__(self, server: TrashServer, reported: list[Any]) -> None:
        self._server = server
        self._reported = reported
        self._operation: bytes | None = None

    def ask(self, peer: Peer, requested: Frame) -> bool:
        if requested.kind != Kind.REQUEST:
            return self._ends(peer, requested)
        if self._server.other(peer, requested):
            return True
        message = requested.message
        self._reported.append(message)
        if isinstance(message, Operation):
            self._operation = message.id
            peer.reply(requested, Done())
            return True
        if isinstance(message, WhoAmI):
            peer.reply(requested, LoggedIn("alice", final=self._server.final))
            return True
        if isinstance(message, Put):
            return True  # its END is answered
        if not isinstance(message, ChangeFor):
            return False
        lost = self._server.loses()
        if lost == "request":
            raise EOFError
        reply = self._once(message)
        if lost == "answer":
            raise EOFError
        peer.reply(requested, reply)
        return True

    def _ends(self, peer: Peer, requested: Frame) -> bool:
        if requested.kind == Kind.END:
            peer.reply(requested, Stored(messages.decode_sent(requested.payload).size))
        return True

    def _once(self, message: Any) -> Any:
        server = self._server
        key = (self._operation or b"", message.number)
        if message.again and key in server.answers:
            return server.answers[key]
        server.done.append(message)
        reply = server.answer(message)
        if message.number:
            server.answers[key] = reply
        return reply


def answer(message: Any) -> Any:
    """What becomes of a change."""
    match message:
        case Remove(path=b"/missing"):
            return Failed("not-found", "/missing: nothing")
        case Remove():
            return Removed(1, 0, 5, NAME, not message.final)
        case messages.Copy():
            return Copied(1, 0, 5)
        case Restore():
            return Restored(1, operation=NAME)
        case messages.Purge():
            return Removed(1, 0, 5)
        case _:
            return Done()
