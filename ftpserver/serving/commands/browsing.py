"""Looking without changing: stat, list, hash."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ftpserver.serving.commands.transfers import has_grown
from ftpserver.storage.digest_xattr import fresh_digest, keep_digest
from ftpserver.storage.kept import KeptStaging
from ftpserver.storage.permissions import Action
from ftpwire import messages, paths
from ftpwire.digests import StoredDigest
from ftpwire.errors import Forbidden, NotFound, SourceChanged
from ftpwire.messages import (
    Entry,
    Found,
    Hash,
    Hashed,
    KeptUpload,
    List,
    Listed,
    ListKept,
    Message,
    Page,
    Problem,
    Stat,
)
from ftpwire.streams import ReadAhead

if TYPE_CHECKING:
    from ftpserver.serving.session import Session

_ENTRY_OVERHEAD = 128
"""Most bytes of an entry besides its path, target and digest."""


def stat(session: Session, request: Stat) -> Message:
    """Tell about one path. Where nothing is listed, a file that is there is not found either, and
    with the same words: what puts something there says whether a name is taken."""
    listed = session.home.permits(Action.LIST, paths.split(request.path))
    try:
        entry = session.home.entry(request.path, follow=request.follow, digest=request.digest)
        if listed or entry.type == "dir":
            return Found(entry)
    except FileNotFoundError:
        if listed:
            raise
    try:
        session.home.require(Action.LIST, paths.split(request.path))
    except Forbidden as refused:
        raise NotFound(str(refused)) from None
    raise NotFound(f"{paths.show(request.path)}: no such file or directory")


def list_directory(session: Session, request: List) -> Message:
    """Stream a listing in pages that fit a control frame."""
    pages = _Pages(session)
    listing = session.home.list(
        request.path,
        recursive=request.recursive,
        follow=request.follow,
        digest=request.digest,
    )
    for directory, item in listing:
        if item is None:
            pages.send(directory, complete=True)
        else:
            pages.add(directory, item)
    return Listed()


def list_kept(session: Session, request: ListKept) -> Message:
    """Stream the account's interrupted uploads, as many at a time as fit a control frame."""
    page: list[KeptUpload] = []
    room = session.page_size
    for one in KeptStaging(session.home, session.server.ledger, session.user.id).uploads():
        size = _ENTRY_OVERHEAD + len(one.path or b"")
        if page and size > room:
            session.send(messages.KeptUploads(page))
            page, room = [], session.page_size
        page.append(one)
        room -= size
        session.progressed(size)
    if page:
        session.send(messages.KeptUploads(page))
    return Listed()


class _Pages:
    """Collects what is listed into pages that fit a control frame."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._clear()

    def _clear(self) -> None:
        self._entries: list[Entry] = []
        self._problems: list[Problem] = []
        self._size = 0

    def add(self, directory: bytes, item: Entry | Problem) -> None:
        """Append; a page that is full is sent first."""
        size = _ENTRY_OVERHEAD + len(item.path)
        size += len(item.target or b"") if isinstance(item, Entry) else len(item.message)
        if self._size and self._size + size + len(directory) > self._session.page_size:
            self.send(directory)
        if isinstance(item, Entry):
            self._entries.append(item)
        else:
            self._problems.append(item)
        self._size += size

    def send(self, directory: bytes, *, complete: bool = False) -> None:
        """Send what was collected for a directory."""
        self._session.send(Page(directory, self._entries, self._problems, complete))
        self._session.progressed(self._size)
        self._clear()


def hash_file(session: Session, request: Hash) -> Message:
    """Tell a file's digest: the kept one while it is true, else computed and kept.

    Of a file that grows meanwhile it is the digest of what was there when it was opened. One that
    changes in another way is read once more.
    """
    try:
        return _hash(session, request)
    except SourceChanged:
        return _hash(session, request)


def _hash(session: Session, request: Hash) -> Message:
    fd, info = session.home.tree.open_file(paths.split(request.path))
    try:
        stored = fresh_digest(fd, info)
        if stored is not None:
            return Hashed(stored, info.st_size)
        digest = _read_digest(session, fd, info.st_size)
        if not has_grown(session, request.path, fd, info, digest):
            keep_digest(fd, StoredDigest(digest, info.st_size, info.st_mtime_ns))
        return Hashed(digest, info.st_size)
    finally:
        os.close(fd)


def _read_digest(session: Session, fd: int, size: int) -> bytes:
    progress = session.tell_progress(size)
    with ReadAhead(fd, size) as source:
        for piece in source:
            session.progressed(len(piece))
            progress(source.size)
        return source.digest()
