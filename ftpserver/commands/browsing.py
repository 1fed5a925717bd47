"""Looking without changing: stat, list, hash."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from ftpserver.homes import fresh_digest, keep_digest
from ftpwire import paths
from ftpwire.digests import StoredDigest
from ftpwire.errors import SourceChanged
from ftpwire.messages import (
    Entry,
    Found,
    Hash,
    Hashed,
    List,
    Listed,
    Message,
    Page,
    Problem,
    Progress,
    Stat,
)
from ftpwire.streams import ReadAhead

if TYPE_CHECKING:
    from ftpserver.session import Session

_PROGRESS_EVERY = 1.0
"""Seconds between notices about long work."""
_ENTRY_OVERHEAD = 128
"""Most bytes of an entry besides its path, target and digest."""


def stat(session: Session, request: Stat) -> Message:
    """Tell about one path."""
    entry = session.home.entry(request.path, follow=request.follow, digest=request.digest)
    return Found(entry)


def list_directory(session: Session, request: List) -> Message:
    """Stream a listing in pages that fit a control frame."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    size = 0
    listing = session.home.list(
        request.path,
        recursive=request.recursive,
        follow=request.follow,
        digest=request.digest,
    )
    for item in listing:
        cost = _ENTRY_OVERHEAD + len(item.path)
        if isinstance(item, Entry):
            cost += len(item.target or b"")
        else:
            cost += len(item.message)
        if size + cost > session.page_size and size:
            session.send(Page(entries, problems))
            session.progressed(size)
            entries, problems, size = [], [], 0
        if isinstance(item, Entry):
            entries.append(item)
        else:
            problems.append(item)
        size += cost
    if size:
        session.send(Page(entries, problems))
    return Listed()


def hash_file(session: Session, request: Hash) -> Message:
    """Tell a file's digest: the kept one while it is true, else computed and kept."""
    fd, info = session.home.tree.open_file(paths.split(request.path))
    try:
        stored = fresh_digest(fd, info)
        if stored is not None:
            return Hashed(stored, info.st_size)
        digest = _read_digest(session, fd, info.st_size)
        after = os.fstat(fd)
        if (after.st_size, after.st_mtime_ns) != (info.st_size, info.st_mtime_ns):
            raise SourceChanged(f"{paths.show(request.path)}: changed while it was read")
        keep_digest(fd, StoredDigest(digest, info.st_size, info.st_mtime_ns))
        return Hashed(digest, info.st_size)
    finally:
        os.close(fd)


def _read_digest(session: Session, fd: int, size: int) -> bytes:
    told = time.monotonic()
    with ReadAhead(fd, size) as source:
        for piece in source:
            session.progressed(len(piece))
            if time.monotonic() - told >= _PROGRESS_EVERY:
                told = time.monotonic()
                session.notice(Progress(source.size, size))
        return source.digest()
