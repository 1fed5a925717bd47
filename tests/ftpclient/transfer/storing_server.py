"""A server in a script that stores what it is sent, and keeps account of it in memory.

Lives here: uploads, whole or many at once, each told as the things that it comes to.
Lives elsewhere: frames (tests/peer.py), the real one (ftpserver).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ftpwire import digests, paths
from ftpwire.frames import Kind
from ftpwire.messages import (
    MANY_FILES,
    MAX_BYTES,
    MAX_ITEMS,
    Done,
    Entry,
    Failed,
    FilesStored,
    ItemFailure,
    MakeDir,
    MakeLink,
    NotStored,
    Put,
    PutFiles,
    Ready,
    Remove,
    Removed,
    SetAttributes,
    Stored,
)
from tests.lying_server import LyingServer, dir_entry
from tests.peer import Frame, Peer

Answer = Callable[[Peer, Frame, list[ItemFailure], int], None]


class StoringServer(LyingServer):
    """Stores what comes.

    Args:
        many: Whether it takes many files in one request.
        keeps: Whether it keeps the contents of files.
        refuse: Says why something of a path is not done, by the code of an error; None: it is.
        answer: Answers a `PutFiles`: called with the peer, the request, what failed of it, and how
            many things it was about.

    Attributes:
        requests: All that came, in its order.
        done: What was done, as tuples: a verb, a path, and what else there is to it.
        files: The contents of files by their paths.
    """

    def __init__(
        self,
        *,
        many: bool = True,
        keeps: bool = True,
        refuse: Callable[[str, bytes], str | None] = lambda verb, path: None,
        answer: Answer | None = None,
        **fields: Any,
    ) -> None:
        features = [MANY_FILES] if many else []
        super().__init__(greet=lambda peer: peer.greet(features=features), **fields)
        self.root = self._found
        self.requests: list[Any] = []
        self.done: list[tuple[Any, ...]] = []
        self.files: dict[bytes, bytes] = {}
        self.directories = {b"/": (0o755, 0)}
        self._keeps = keeps
        self._refuse = refuse
        self._answer = answer or tell_all

    def _found(self, path: bytes) -> Entry | None:
        if path in self.directories:
            return dir_entry(path)
        if path in self.files:
            return Entry(path, "file", len(self.files[path]), 0o644, 5)
        return None

    def answer(self, peer: Peer, requested: Frame) -> None:
        message = requested.message
        self.requests.append(message)
        match message:
            case PutFiles():
                self._take_many(peer, requested)
            case Put():
                self._take_one(peer, requested)
            case MakeDir() | MakeLink() | SetAttributes():
                code = self._do(message)
                peer.reply(requested, Done() if code is None else Failed(code, "refused"))
            case Remove(path=path):
                self.done.append(("remove", path))
                peer.reply(requested, Removed(1, 0, 0))
            case _:
                super().answer(peer, requested)

    def _do(self, message: Any) -> str | None:
        """Do one thing; why not, or None."""
        path = message.path
        match message:
            case MakeDir():
                made: tuple[Any, ...] = ("mkdir", path, message.mode)
            case SetAttributes():
                made = ("attributes", path, message.mode, message.mtime_ns)
            case MakeLink():
                made = ("link", path, message.target)
        code = self._refuse(made[0], path)
        if code is None:
            self.done.append(made)
            if made[0] == "mkdir":
                self.directories[path] = (message.mode, 0)
        return code

    def _store(self, path: bytes, data: bytes, mode: int, mtime_ns: int | None) -> str | None:
        code = self._refuse("file", path)
        if not self._keeps:
            data = b""
        if code is None:
            self.done.append(("file", path, data, mode, mtime_ns))
            self.files[path] = data
        return code

    def _take_one(self, peer: Peer, requested: Frame) -> None:
        put = requested.message
        if put.ask:
            peer.reply(requested, Ready())
        data, end = received(peer)
        if end.kind == Kind.CANCEL:
            peer.reply(requested, Failed("cancelled", "as you wish"))
            return
        assert end.message.digest == digests.digest(data)
        code = self._store(put.path, data, put.mode, put.mtime_ns)
        peer.reply(requested, Stored(len(data)) if code is None else Failed(code, "refused"))

    def _take_many(self, peer: Peer, requested: Frame) -> None:
        put: PutFiles = requested.message
        data, end = received(peer)
        if end.kind == Kind.CANCEL:
            peer.reply(requested, Failed("cancelled", "as you wish"))
            return
        assert end.message.size == len(data) <= MAX_BYTES and len(requested.payload) <= 64 * 1024
        view, failures, index = memoryview(data), [], 0
        for directory in put.directories:
            if directory.make is not None:
                code = self._do(MakeDir(directory.path, directory.make, parents=True, fill=True))
                if code is not None:
                    failures.append(ItemFailure(index, code, "refused"))
            index += 1
            for new in directory.files:
                piece, view = bytes(view[: new.size]), view[new.size :]
                assert new.digest == digests.digest(piece)
                path = paths.child(directory.path, new.name)
                code = self._store(path, piece, new.mode, new.mtime_ns)
                if code is not None:
                    failures.append(ItemFailure(index, code, "refused"))
                index += 1
        for one in put.finished:
            code = self._do(SetAttributes(one.path, one.mode, one.mtime_ns))
            if code is not None:
                failures.append(ItemFailure(index, code, "refused"))
            index += 1
        assert not view and index <= MAX_ITEMS
        self._answer(peer, requested, failures, index)


def tell_all(peer: Peer, requested: Frame, failures: list[ItemFailure], count: int) -> None:
    """The honest answer."""
    if failures:
        peer.reply(requested, NotStored(failures))
    peer.frame(Kind.END, requested.request_id, FilesStored(count - len(failures)))


def received(peer: Peer) -> tuple[bytes, Frame]:
    """The bytes of an upload, and the frame that ended it."""
    data = bytearray()
    while (frame := peer.read()).kind == Kind.DATA:
        data += frame.payload
    return bytes(data), frame
