"""Uploads of files to their target paths on the server, one after another.

Lives here: reading, what the server has already in whole or in part, trying again after a file
changed.
Lives elsewhere: trees and sources that the user named (upload.py), streams (stream_upload.py),
pieces (send_pieces.py), the listing of what the server has (remote_index.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call, UnaryCall
from ftpclient.transfer import job
from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.job import (
    RESUME_FROM,
    SMALL,
    EmptySource,
    Options,
    Transfer,
    same_time_and_size,
)
from ftpclient.transfer.listing import find
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.put_files import FileRuns
from ftpclient.transfer.remote_index import RemoteIndex
from ftpclient.transfer.removal import remove_sent
from ftpclient.transfer.report import Listener, Result
from ftpclient.transfer.waiting import KeepAlive
from ftpwire import beneath, digests, growing, holes, paths
from ftpwire.errors import (
    BadMessage,
    Busy,
    CommandError,
    ConnectionLost,
    NotFound,
    NotRegular,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import (
    HOLES,
    KEPT,
    DropKept,
    KeptDropped,
    NewFile,
    Put,
    RequestBase,
    Sent,
)
from ftpwire.paths import RemotePath
from ftpwire.streams import ReadAhead

OPEN_SOURCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def check_time(source: bytes, info: os.stat_result) -> None:
    """Refuse an mtime that no message can carry. Raises CommandError."""
    if not -(2**63) <= info.st_mtime_ns < 2**63:
        raise CommandError(f"{paths.show(source)}: its modification time is out of range")


class FileUpload(Transfer):
    """An upload of files and streams.

    Attributes:
        index: What the server already has of the tree, if that was listed.
        spent: Sources that cannot be read a second time, with their targets.
        goes: True to remove the next file from the local disk after it is stored.
    """

    _among_others = False
    """True in a worker: the parent makes the directories of the files, maybe later."""

    def __init__(
        self,
        connection: Connection,
        options: Options,
        listener: Listener,
        parent: FileUpload | None = None,
    ) -> None:
        super().__init__(connection, options, listener, parent)
        self.index: RemoteIndex | None = None
        self.goes = False
        self.spent: set[tuple[bytes, RemotePath]] = set()
        self._runs = FileRuns(self)

    def send_collected(self) -> None:
        self._runs.flush()

    def change(self, call: Call, request: RequestBase) -> None:
        """Send a request about a directory, together with the files around it."""
        self._runs.change(call, request)

    def submit(self, call: Call, request: RequestBase, cost: int = 0) -> None:
        """Send a request after everything that was added before. As `Connection.submit`."""
        self._runs.flush()
        self.connection.submit(call, request, cost)

    def settle(self) -> None:
        if not self._runs.is_empty:
            try:
                (self._parent or self).go_on()
            except BaseException:
                self._runs.drop()  # not requested yet
                raise
            self._runs.flush()
        super().settle()

    def stop_workers(self) -> None:
        super().stop_workers()
        self._runs.drop()

    def go_on_with(self, connection: Connection) -> None:
        super().go_on_with(connection)
        self._runs = FileRuns(self)

    def send_for(
        self,
        parent: FileUpload,
        source: bytes,
        target: RemotePath,
        named: os.stat_result | None,
        *,
        goes: bool = False,
    ) -> None:
        """Send one file that the parent has found. If it ``goes``, it is removed afterwards."""
        if parent.listener.enough:
            return
        parent.go_on()
        self.index = parent.index
        self._among_others = self._runs.parents = True
        self.goes = goes
        try:
            self.put(source, target, named)
        except (OSError, CommandError) as error:
            self.fail(source, target, error)

    def fail(
        self,
        source: bytes,
        target: RemotePath,
        error: OSError | CommandError,
        *,
        named: bool = False,
    ) -> None:
        """Report something that cannot be uploaded.

        Args:
            named: True if the user named it, so that skipping it counts as a failure.
        """
        local = isinstance(error, OSError)
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(source))
        skipped = isinstance(error, NotRegular) and not named
        self.end(source, target, 0, error=error, skipped=skipped, local=local)

    def put(
        self,
        source: bytes,
        target: RemotePath,
        named: os.stat_result | None,
        *,
        follow: bool = True,
    ) -> None:
        """Send a file.

        Args:
            named: The state of the file at this path, if it was looked up: only that file is
                sent.
            follow: True to follow a link at this path; else a link is an OSError, ``ELOOP``.
        """
        flags = OPEN_SOURCE if follow else OPEN_SOURCE | os.O_NOFOLLOW
        try:
            self._put_once(source, target, named, flags)
        except SourceChanged:  # try again: by now it may be complete, or replaced by another file
            self.tries_again(source)
            self._put_once(source, target, named, flags)

    def _put_once(
        self, source: bytes, target: RemotePath, named: os.stat_result | None, flags: int
    ) -> None:
        """Send a file. Raises SourceChanged if it changed meanwhile, other than by growing."""
        fd = os.open(source, flags)
        try:
            info = beneath.regular(fd)
            check_time(source, info)
            if named is not None and not os.path.samestat(named, info):
                raise SourceChanged(f"{paths.show(source)}: was replaced meanwhile")
            first = b"" if info.st_size else os.read(fd, SMALL)
            if first and not (info := os.fstat(fd)).st_size:  # its size says nothing, e.g. in /proc
                self.add_stream(fd, target, source=source, first=first, info=info)
                return
            if first:  # another process has just begun to write it
                os.lseek(fd, 0, os.SEEK_SET)
            if info.st_size <= SMALL:
                self._put_small(source, target, fd, info)
            elif not self._is_there(source, target, fd, info):
                self._put_large(source, target, fd, info, resume=self.options.resume)
        finally:
            os.close(fd)

    def _put_small(self, source: bytes, target: RemotePath, fd: int, info: os.stat_result) -> None:
        data = os.read(fd, info.st_size + 1) if info.st_size else b""
        size, grew = info.st_size, len(data) > info.st_size
        if not size and self.options.no_empty:
            raise EmptySource(f"{paths.show(source)}: empty, so it is not stored")
        if grew:
            data = data[:size]
        digest = digests.digest(data)
        if len(data) < size or (grew and not growing.begins_with(fd, size, digest)):
            raise SourceChanged(f"{paths.show(source)}: changed while it was read")
        if self.index is not None and self.index.has(target, info, digest):
            self.advanced(size)
            self.end(source, target, size, digest=digest, unchanged=True)
            self._remove_sent(source, target, info)
            return
        name = target[target.rfind(b"/") + 1 :]
        new = NewFile(name, size, info.st_mode & 0o777, info.st_mtime_ns, digest)
        remark = job.grew(size) if grew else None
        result = Result(source, target, size, "done", digest, remark=remark)
        self._runs.add(new, result, data, self._removing(source, target, info))

    def _is_there(self, source: bytes, target: RemotePath, fd: int, info: os.stat_result) -> bool:
        """Return whether the target already has the same bytes, from an earlier try."""
        if not self.options.resume:
            return False
        if self.index is not None:
            entry = self.index.get(target)
        else:
            large = info.st_size > RESUME_FROM
            entry = find(self.connection, target, digest=True) if large else None
        if (
            entry is None
            or entry.digest is None
            or entry.mode != info.st_mode & 0o777
            or not same_time_and_size(info, entry.size, entry.mtime_ns)
            or self.hash_local(fd, info.st_size) != entry.digest
        ):
            return False
        self.advanced(info.st_size)
        self.end(source, target, info.st_size, digest=entry.digest, unchanged=True)
        self._remove_sent(source, target, info)
        return True

    def _removing(
        self, source: bytes, target: RemotePath, info: os.stat_result
    ) -> Callable[[], None] | None:
        """Return the function that removes a file once it is stored, if it goes."""
        return partial(self._remove_now, source, target, info) if self.goes else None

    def _remove_sent(self, source: bytes, target: RemotePath, info: os.stat_result) -> None:
        """Remove a file that is stored, if it goes."""
        if self.goes:
            self._remove_now(source, target, info)

    def _remove_now(self, source: bytes, target: RemotePath, info: os.stat_result) -> None:
        try:
            remove_sent(source, info)
        except (OSError, SourceChanged) as error:
            self.fail(source, target, error)

    def _request(
        self,
        target: RemotePath,
        info: os.stat_result,
        *,
        ask: bool,
        resume: bool,
        pieces: bool,
    ) -> Put:
        return Put(
            target,
            info.st_size,
            info.st_mode & 0o777,
            info.st_mtime_ns,
            self.options.overwrite,
            ask,
            resume,
            self._among_others,
            pieces,
        )

    def _put_large(
        self,
        source: bytes,
        target: RemotePath,
        fd: int,
        info: os.stat_result,
        *,
        resume: bool,
    ) -> None:
        ask = info.st_size > RESUME_FROM
        call = PutCall(self, source, target)
        call.size = info.st_size
        call.asks = ask
        call.then = self._removing(source, target, info)
        pool = self.workers.for_pieces(info.st_size, self.connection) if ask else None
        in_pieces = pool is not None
        request = self._request(target, info, ask=ask, resume=resume, pieces=in_pieces)
        self.submit(call, request)
        if ask and not call.is_ready():
            return
        self.started(source, info.st_size)
        hasher = digests.new()
        sparse = HOLES in self.connection.server.features and holes.may_have(info)
        offset = call.ready.offset if call.ready is not None else 0
        if offset and not resume:
            raise BadMessage("the server resumed an upload that it was asked to restart")
        try:
            if offset and not self._agrees(call, fd, hasher):
                self._supersede(call)
                self._put_large(source, target, fd, info, resume=False)
                return
            self.advanced(offset)
            self.reached(target, offset)
            if pool is not None and call.ready is not None and call.ready.key is not None:
                sent = self._send_in_pieces(
                    pool, call, call.ready.key, fd, offset, hasher, sparse=sparse
                )
            else:
                sent = self._send_from(call, fd, offset, hasher, sparse=sparse)
            if not sent:
                return
            digest = hasher.digest()
            if growing.has_grown(fd, info, digest, self._keeping_alive(call)):
                call.remark = job.grew(info.st_size)
        except SourceChanged as error:
            if call.replaced:
                raise  # raised by the second try, which has taken over
            self._supersede(call)
            self._drop_kept(target, info)
            raise SourceChanged(f"{paths.show(source)}: {error}") from None
        except (OSError, CommandError) as error:
            call.give_up(source, error)
            return
        except ConnectionLost as error:
            if not call.done:  # another connection was lost: the server keeps the bytes
                self.end(source, target, info.st_size, error=error)
                self._supersede(call)
            raise
        call.digest = digest
        self.connection.send_end(call, Sent(info.st_size, call.digest))

    def _keep_alive(self, call: PutCall) -> KeepAlive:
        connection = self.connection
        return KeepAlive(lambda: connection.keep_alive(call), connection.protocol.silence)

    def _keeping_alive(self, call: PutCall) -> Callable[[int], None]:
        """Return a function to call regularly while the source is read and nothing is sent."""
        keep_alive = self._keep_alive(call)

        def tick(_: int) -> None:
            self.connection.check()
            keep_alive.tick()

        return tick

    def _send_from(
        self, call: PutCall, fd: int, offset: int, hasher: digests.new, *, sparse: bool
    ) -> bool:
        """Send a file from an offset on. Return False if the server refused it meanwhile.

        Args:
            sparse: True to send its holes as holes.
        """
        left = call.size - offset
        with ReadAhead(fd, left, offset=offset, hasher=hasher, sparse=sparse) as pieces:
            if not call.send(pieces):
                return False
        if pieces.size != left:
            raise SourceChanged("became shorter while it was sent")
        return True

    def _send_in_pieces(
        self,
        pool: ConnectionPool[Any],
        call: PutCall,
        key: bytes,
        fd: int,
        offset: int,
        hasher: digests.new,
        *,
        sparse: bool,
    ) -> bool:
        """Send a file from an offset on over several connections. Returns as `_send_from`."""
        from ftpclient.transfer.send_pieces import Send

        return Send(self, pool, call, key, fd, sparse=sparse).run(offset, hasher)

    def _agrees(self, call: PutCall, fd: int, hasher: digests.new) -> bool:
        """Return whether the source begins with the bytes that the server has.

        Hashes those bytes of the source into ``hasher``.
        """
        assert call.ready is not None
        offset = call.ready.offset
        if offset > call.size:
            return False
        self.hash_into(hasher, fd, offset, self._keep_alive(call).tick)
        return hasher.digest() == call.ready.digest

    def _supersede(self, call: PutCall) -> None:
        call.replaced = True
        self.connection.send_cancel(call)
        self.connection.wait_for(call)

    def _drop_kept(self, target: RemotePath, info: os.stat_result) -> None:
        """Ask the server to drop the kept bytes of a source that has changed since.

        No later upload could resume from them, and they would use up quota for days.
        """
        if KEPT not in self.connection.server.features:
            return
        # if the reply is lost, the bytes are kept, as by a server without this request
        call = UnaryCall[KeptDropped]()
        self.submit(call, DropKept(target, info.st_size, info.st_mtime_ns))
        try:
            self.connection.result(call)
        except (NotFound, Busy):
            pass  # there was too little to keep, or another session is resuming from it

    @property
    def took_input(self) -> bool:
        """True if a stream was read from, which cannot be read again."""
        return bool(self.spent)

    def add_stream(
        self,
        fd: int,
        target: RemotePath,
        *,
        source: bytes = b"-",
        first: bytes = b"",
        info: os.stat_result | None = None,
        mode: int | None = None,
        parents: bool = False,
    ) -> None:
        """Send what can be read from a descriptor until its end; see `send_stream`."""
        from ftpclient.transfer.stream_upload import MODE, Stream, send_stream

        self.send_collected()
        stream = Stream(source, fd, first, info, MODE if mode is None else mode)
        parents = parents or self._among_others
        send_stream(self, stream, target, self.spent, parents=parents)
