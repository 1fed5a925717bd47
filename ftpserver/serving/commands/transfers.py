"""Handlers that transfer the bytes of files, in both directions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ftpserver.storage.batch import SMALL
from ftpserver.workspace.reading import OpenFile
from ftpwire import digests, holes
from ftpwire.beneath import clamped_mtime_ns
from ftpwire.errors import SourceChanged, VerificationFailed
from ftpwire.holes import Hole
from ftpwire.messages import (
    Get,
    GetFiles,
    Message,
    Put,
    PutFiles,
    PutPiece,
    Ready,
    Sending,
    SendingFiles,
    Sent,
    Taken,
)
from ftpwire.streams import ReadAhead, grown

if TYPE_CHECKING:
    from ftpserver.serving.exchange import Exchange
    from ftpserver.storage.upload import Receiving
    from ftpserver.workspace.workspace import Workspace


_WHOLE = 128 * 1024
"""Most bytes of a file that is read as a whole before it is sent."""
_MAX_SENT_FILE = 64
"""Most bytes that one file takes of a `SendingFiles`."""


def get(exchange: Exchange, workspace: Workspace, request: Get) -> Message:
    """Send a file, and after it the digest of what was sent.

    If a digest is stored beside the file and is not outdated, the bytes must match it: otherwise
    the disk has damaged them. A small file that doesn't match is refused. For a large one the
    stored digest is sent and the client compares. That is the same check, and hashing here as well
    would cost a tenth of the whole transfer.
    """
    with workspace.open(request) as file:
        offset, hasher = file.start(request.offset, request.prefix)
        left = file.size - offset
        count = left if request.length is None else min(request.length, left)
        exchange.transferring(count, sends=True)
        exchange.send(
            Sending(file.size, file.info.st_mode & 0o7777, clamped_mtime_ns(file.info), offset)
        )
        sparse = request.holes and file.may_have_holes
        if request.length is not None:
            return _send_piece(exchange, file, offset, count, sparse=sparse)
        digest, sent = _send_rest(exchange, file, offset, hasher, sparse=sparse)
        if sent != left:
            raise file.changed()
        kept = file.kept_digest()
        grew = file.has_grown(digest or kept)
        return Sent(file.size, file.confirmed(digest, kept), grew)


def _send_piece(
    exchange: Exchange, file: OpenFile, offset: int, count: int, *, sparse: bool
) -> Sent:
    """Send some bytes unhashed: other sessions send the rest meanwhile, and the client hashes all.

    Raises:
        SourceChanged: The file has changed. If it only grew, the client asks at the end whether it
            still begins with the pieces.
    """
    _send_as_it_is(exchange, file.fd, offset, count, sparse=sparse)
    if not file.is_larger() and not file.is_as_before():
        raise file.changed()
    return Sent(file.size, file.kept_digest())


def _send_as_it_is(exchange: Exchange, fd: int, offset: int, count: int, *, sparse: bool) -> None:
    """Send bytes without hashing them."""
    is_direct = exchange.can_send_files
    for start, stop, is_hole in holes.extents(fd, offset, offset + count, sparse=sparse):
        if is_hole:
            exchange.send_hole(stop - start)
        elif is_direct:
            exchange.send_file(fd, start, stop - start)
        else:
            _send_through_memory(exchange, fd, start, stop - start)


def _send_through_memory(exchange: Exchange, fd: int, offset: int, count: int) -> None:
    buffer = memoryview(bytearray())
    start, end = offset, offset + count
    while offset < end:
        wanted = min(grown((offset - start) // 2), exchange.data_size, end - offset)
        if wanted > len(buffer):
            buffer = memoryview(bytearray(wanted))
        read = os.preadv(fd, [buffer[:wanted]], offset)
        if not read:
            raise SourceChanged("the file became shorter while it was read")
        exchange.send_data(buffer[:read])
        offset += read


def _send_rest(
    exchange: Exchange,
    file: OpenFile,
    offset: int,
    hasher: digests.new | None,
    *,
    sparse: bool,
) -> tuple[bytes | None, int]:
    """Send a file from an offset to its end, in the cheapest way.

    Returns:
        The whole file's digest, or None if nothing was hashed; and the number of bytes sent.
    """
    if not offset and file.size <= min(exchange.data_size, _WHOLE):
        data = file.read(0, file.size) if file.size else b""
        digest = digests.digest(data)
        if data:
            exchange.send_data(memoryview(data))
        return digest, len(data)
    if file.kept_digest() is not None:
        if exchange.can_send_files:
            _send_as_it_is(exchange, file.fd, offset, file.size - offset, sparse=sparse)
            return None, file.size - offset
        hasher = None
    return _stream(exchange, file, offset, hasher, sparse=sparse)


def _stream(
    exchange: Exchange,
    file: OpenFile,
    offset: int,
    hasher: digests.new | None,
    *,
    sparse: bool,
) -> tuple[bytes | None, int]:
    hashes = hasher is not None
    left = file.size - offset
    with ReadAhead(
        file.fd, left, offset=offset, hasher=hasher, hashes=hashes, sparse=sparse
    ) as source:
        exchange.on_long_wait = source.go_idle
        try:
            for piece in source:
                if isinstance(piece, Hole):
                    exchange.send_hole(piece.size)
                    continue
                for start in range(0, len(piece), exchange.data_size):
                    exchange.send_data(piece[start : start + exchange.data_size])
        finally:
            exchange.on_long_wait = None
        return (source.digest() if hashes else None), source.size


def get_files(exchange: Exchange, workspace: Workspace, request: GetFiles) -> Message:
    """Send many small files. All are read before the first reply, which then waits for no disk."""
    files, data = workspace.get_files(request)
    exchange.transferring(len(data), sends=True)
    exchange.sends_files(files)
    # one less, for the bytes of the message itself
    most = max(1, exchange.page_size // _MAX_SENT_FILE - 1)
    for start in range(0, len(files), most):
        exchange.send(SendingFiles(files[start : start + most]))
    view = memoryview(data)
    for start in range(0, len(data), exchange.data_size):
        exchange.send_data(view[start : start + exchange.data_size])
    return Sent(len(data))


def put(exchange: Exchange, workspace: Workspace, request: Put) -> None:
    """Receive a file into staging. The batch's commit gives it its name and replies."""
    workspace.expect(request)  # before it counts as a transfer, and others give way to it
    if request.ask:
        exchange.commit()
        workspace.check(request)
    elif request.size is not None and request.size <= SMALL:
        data, sent = exchange.receive_small(request.size)
        workspace.stage(request, data, sent, request_id=exchange.request_id)
        return
    exchange.transferring(request.size)
    with workspace.receive(request, request_id=exchange.request_id) as receiving:
        try:
            _receive(exchange, receiving, request)
        except BaseException:
            exchange.has_received(receiving.staging.total)
            raise


def _receive(exchange: Exchange, receiving: Receiving, request: Put) -> None:
    offset = 0
    if request.ask:
        offset, digest = receiving.resume(exchange.progress_reporter(request.size))
        exchange.send(Ready(offset, digest, receiving.take_pieces()))
        exchange.flush()
    sent = exchange.receive_large(
        receiving.staging.sink,
        receiving.expect,
        receiving.came,
        receiving.look,
        after=offset,
    )
    receiving.finish(sent, exchange.progress_reporter(request.size))


def put_files(exchange: Exchange, workspace: Workspace, request: PutFiles) -> None:
    """Receive many small files, and stage them. The batch's commit gives them their names and
    replies. Nothing is staged before all bytes have come."""
    size = workspace.expect_files(request)
    data, sent = exchange.receive_small(size)
    if sent.size != len(data):
        raise VerificationFailed(f"{len(data)} bytes arrived; {sent.size} were sent")
    workspace.stage_files(request, data, request_id=exchange.request_id)


def put_piece(exchange: Exchange, workspace: Workspace, request: PutPiece) -> Message:
    """Receive a part of a file for which another session of the account has an open `put`."""
    left = request.size

    def expect(more: int) -> None:
        nonlocal left
        left -= more
        if left < 0:
            raise VerificationFailed(f"more bytes came than the {request.size} of the piece")

    exchange.transferring(request.size)
    with workspace.receive_piece(request) as piece:
        sent = exchange.receive_large(piece, expect)
        piece.finish()
    if sent.size != request.size:
        raise VerificationFailed(f"{request.size} bytes arrived; {sent.size} were sent")
    return Taken()
