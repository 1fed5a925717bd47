"""The bytes of files, out and in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ftpserver.storage.batch import SMALL
from ftpserver.storage.digest_xattr import fresh_digest
from ftpserver.storage.listing import told_time
from ftpwire import digests, growing, paths
from ftpwire.errors import SourceChanged, StoredFileDamaged, VerificationFailed
from ftpwire.messages import Get, Message, Put, PutPiece, Ready, Sending, Sent, Taken
from ftpwire.streams import ReadAhead, grown

if TYPE_CHECKING:
    from ftpserver.serving.session import Session


_WHOLE = 128 * 1024
"""Files up to this many bytes are read whole before they are sent."""


def get(session: Session, request: Get) -> Message:
    """Send a file, and at its end the digest of what was sent.

    When a digest is kept beside the file and still claims to be true, the bytes must have it:
    otherwise the disk has lost them. Of a small file the client is told so instead of given the
    bytes. Of a large one the kept digest is sent and the client compares: that is the same check,
    and hashing here as well would cost a tenth of the whole transfer.
    """
    fd, info = session.home.tree.open_file(paths.split(request.path))
    try:
        size = info.st_size
        offset, hasher = _start(session, fd, request, size)
        left = size - offset
        count = left if request.length is None else min(request.length, left)
        session.transferring(count, sends=True)
        session.send(Sending(size, info.st_mode & 0o7777, told_time(info), offset))
        digest: bytes | None
        if request.length is not None:
            _send_piece(session, fd, offset, min(request.length, size - offset))
            # of one that grew, the client asks at the end whether it still begins with the pieces
            if os.fstat(fd).st_size <= size and not growing.is_as_before(fd, info):
                raise SourceChanged(f"{paths.show(request.path)}: changed while it was read")
            return Sent(size, fresh_digest(fd, info))
        if size <= min(session.data_size, _WHOLE) and not offset:
            data = os.pread(fd, size, 0) if size else b""
            digest = digests.digest(data)
            sent = len(data)
            if data:
                session.send_data(memoryview(data))
        elif fresh_digest(fd, info) is None:
            digest, sent = _stream(session, fd, offset, size, hasher)
        elif session.channel.tls is None:
            session.send_file(fd, offset, size - offset)
            digest, sent = None, size - offset
        else:
            digest, sent = _stream(session, fd, offset, size, None)
        stored = fresh_digest(fd, info)
        if sent != size - offset:
            raise SourceChanged(f"{paths.show(request.path)}: changed while it was read")
        grew = has_grown(session, request.path, fd, info, digest or stored)
        if digest is None:
            digest = stored
        elif stored not in (None, digest):
            raise StoredFileDamaged(
                f"{paths.show(request.path)}: damaged on the server's disk: "
                "its bytes no longer have the digest they were stored with"
            )
        return Sent(size, digest, grew)
    finally:
        os.close(fd)


def has_grown(
    session: Session, path: bytes, fd: int, before: os.stat_result, digest: bytes | None
) -> bool:
    """As `growing.has_grown`, for a file of the session: the client hears how far it is."""
    progress, done = session.tell_progress(before.st_size), 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        session.progressed(count)
        progress(done)

    try:
        return growing.has_grown(fd, before, digest, tick)
    except SourceChanged as error:
        raise SourceChanged(f"{paths.show(path)}: {error}") from None


def _start(session: Session, fd: int, request: Get, size: int) -> tuple[int, digests.new | None]:
    """Where to start sending, and what was hashed up to there (None: it wasn't).

    What the client has of the file counts only if the file still begins with it.
    """
    offset = min(request.offset, size)
    if not offset or request.prefix is None:
        return offset, None if offset else digests.new()
    hasher = digests.new()
    progress = session.tell_progress(size)
    with ReadAhead(fd, offset, hasher=hasher) as pieces:
        for piece in pieces:
            session.progressed(len(piece))
            progress(pieces.size)
    if hasher.digest() == request.prefix:
        return offset, hasher
    return 0, digests.new()


def _send_piece(session: Session, fd: int, offset: int, size: int) -> None:
    """Send some bytes as they are: others send the rest at the same time, and the client
    hashes all of it.

    Raises:
        SourceChanged: The file became shorter.
    """
    if session.channel.tls is None:
        session.send_file(fd, offset, size)
        return
    buffer = memoryview(bytearray())
    start, end = offset, offset + size
    while offset < end:
        wanted = min(grown((offset - start) // 2), session.data_size, end - offset)
        if wanted > len(buffer):
            buffer = memoryview(bytearray(wanted))
        count = os.preadv(fd, [buffer[:wanted]], offset)
        if not count:
            raise SourceChanged("it became shorter while it was read")
        session.send_data(buffer[:count])
        offset += count


def _stream(
    session: Session, fd: int, offset: int, size: int, hasher: digests.new | None
) -> tuple[bytes | None, int]:
    """Send a large file from an offset; returns the whole file's digest, if known, and the
    count of bytes sent."""
    hashes = hasher is not None
    with ReadAhead(fd, size - offset, offset=offset, hasher=hasher, hashes=hashes) as source:
        session.on_long_wait = source.rest
        try:
            for piece in source:
                for start in range(0, len(piece), session.data_size):
                    session.send_data(piece[start : start + session.data_size])
        finally:
            session.on_long_wait = None
        return (source.digest() if hashes else None), source.size


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
    session.transferring(request.size)
    with uploads.receiving(session.request_id, request) as receiving:
        if request.ask:
            there = receiving.resume(session.tell_progress(request.size))
            session.send(Ready(*there, receiving.take_pieces()))
            session.flush()
        sent = session.receive_large(receiving.staging.sink, receiving.expect, receiving.came)
        receiving.finish(sent, session.tell_progress(request.size))
    return None


def put_piece(session: Session, request: PutPiece) -> Message:
    """Receive a part of what another session of the account has an open `put` for."""
    left = request.size

    def expect(more: int) -> None:
        nonlocal left
        left -= more
        if left < 0:
            raise VerificationFailed(f"more bytes came than the {request.size} of the piece")

    session.transferring(request.size)
    with session.uploads.open_piece(request) as piece:
        sent = session.receive_large(piece, expect)
        piece.finish()
    if sent.size != request.size:
        raise VerificationFailed(f"{request.size} bytes arrived; {sent.size} were sent")
    return Taken()
