"""A server that lies as a test says, and is honest in all else.

Lives here: the answers of an honest server with one tree, each of which a test can replace.
Lives elsewhere: frames and the listening socket (peer.py), the lies (the tests).

    server = LyingServer(pages=[Page(b"", [file_entry(b"a", mode=0o7777)], [], True)])
    client = connect(fake(server), retries=0)
"""

from __future__ import annotations

from pathlib import Path

from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import (
    Entry,
    Failed,
    Found,
    Get,
    List,
    Listed,
    LoggedIn,
    Page,
    Sending,
    Sent,
    Space,
    SpaceInfo,
    Stat,
    WhoAmI,
)
from tests.peer import Frame, Peer

MIB = 1024 * 1024
DATA = b"what the server sends"


def file_entry(path: bytes, **fields) -> Entry:
    return Entry(path, **{"type": "file", "size": len(DATA), "mode": 0o644, "mtime_ns": 5} | fields)


def dir_entry(path: bytes) -> Entry:
    return Entry(path, "dir", 0, 0o755, 5)


def link_entry(path: bytes, target: bytes | None) -> Entry:
    return Entry(path, "link", 0, 0o777, 5, target)


class LyingServer:
    """Answers as an honest server with one tree would, wherever a test doesn't say otherwise.

    Args:
        pages: What is listed.
        root: What is told about the paths that are asked for.
        get: Sends a file: called with the peer and the request's id.
        ask: Looks at each request first; returns whether it has answered it.
    """

    def __init__(self, *, pages=None, root=None, get=None, ask=None, greet=None) -> None:
        self.pages = pages if pages is not None else [Page(b"", [], [], True)]
        self.root = root or (lambda path: dir_entry(path))
        self.get = get or send_file
        self.ask = ask or (lambda peer, requested: False)
        self.greet = greet or (lambda peer: peer.greet())

    def __call__(self, peer: Peer) -> None:
        self.greet(peer)
        while True:
            requested = peer.read()
            if requested.kind == Kind.CANCEL:
                continue
            if not self.ask(peer, requested):
                self.answer(peer, requested)

    def answer(self, peer: Peer, requested: Frame) -> None:
        match requested.message:
            case Stat(path=path):
                entry = self.root(path)
                answer = Failed("not-found", "nothing") if entry is None else Found(entry)
                peer.reply(requested, answer)
            case List():
                for page in self.pages:
                    peer.reply(requested, page)
                peer.frame(Kind.END, requested.request_id, Listed())
            case Get():
                self.get(peer, requested.request_id)
            case WhoAmI():
                peer.reply(requested, LoggedIn("alice"))
            case Space():
                peer.reply(requested, SpaceInfo(0, 0))
            case request:
                peer.reply(requested, Failed("failed", f"{type(request).__name__}: no"))


def send_file(peer: Peer, number: int, data: bytes = DATA, **fields) -> None:
    peer.reply(number, Sending(**{"size": len(data), "mode": 0o644, "mtime_ns": 5} | fields))
    for at in range(0, len(data), MIB):
        peer.frame(Kind.DATA, number, data[at : at + MIB])
    peer.frame(Kind.END, number, Sent(len(data), digests.digest(data)))


def contents(directory: Path) -> set[str]:
    """All below a directory; a partial file fails the test."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*")}
    assert not {name for name in found if ".part" in name}, found
    return found
