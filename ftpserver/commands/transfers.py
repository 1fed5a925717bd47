"""The bytes of files, out and in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ftpserver.homes import fresh_digest
from ftpserver.uploads import SMALL
from ftpwire import digests, paths
from ftpwire.errors import SourceChanged, StoredFileDamaged
from ftpwire.messages import Get, Message, Put, Ready, Sending, Sent
from ftpwire.streams import ReadAhead

if TYPE_CHECKING:
    from ftpserver.session import Session


def get(session: Session, request: Get) -> Message:
    """Send a file, and at its end the digest of what was sent.

    When a digest is kept beside the file and still claims to be true, the bytes must have it:
    otherwise the disk has lost them, and the client is told instead of given them.
    """
    fd, info = session.home.tree.open_file(paths.split(request.path))
    try:
        size = info.st_size
        session.send(Sending(size, info.st_mode & 0o7777, info.st_mtime_ns))
        if size <= session.data_size and not request.offset:
            data = os.pread(fd, size, 0) if size else b""
            digest: bytes | None = digests.digest(data)
            sent = len(data)
            if data:
                session.send_data(memoryview(data))
        else:
            digest, sent = _stream(session, fd, request.offset, size)
        if sent != max(0, size - request.offset) or _changed(fd, info):
            raise SourceChanged(f"{paths.show(request.path)}: changed while it was read")
        stored = fresh_digest(fd, info)
        if digest is None:
            digest = stored
        elif stored not in (None, digest):
            raise StoredFileDamaged(
                f"{paths.show(request.path)}: damaged on the server's disk: "
                "its bytes no longer have the digest they were stored with"
            )
        return Sent(size, digest)
    finally:
        os.close(fd)


def _stream(session: Session, fd: int, offset: int, size: int) -> tuple[bytes | None, int]:
    """Send a large file; returns the whole file's digest, if it was all read, and the count."""
    with ReadAhead(fd, max(0, size - offset), offset=offset) as source:
        for piece in source:
            for start in range(0, len(piece), session.data_size):
                session.send_data(piece[start : start + session.data_size])
        return (None if offset else source.digest()), source.size


def _changed(fd: int, before: os.stat_result) -> bool:
    now = os.fstat(fd)
    return (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns)


def put(session: Session, request: Put) -> Message | None:
    """Receive a file into staging. The batch's commit gives it its name, and answers."""
    uploads = session.uploads
    if request.ask:
        session.commit()
        uploads.check(request)
    elif request.size is not None and request.size <= SMALL:
        data, sent = session.receive_small(request.size)
        uploads.stage_small(session.request_id, request, data, sent)
        return None
    with uploads.stage_large(session.request_id, request) as staging:
        if request.ask:
            session.send(Ready())
            session.flush()
        staging.finish(session.receive_large(staging.sink, staging.expect))
    return None
