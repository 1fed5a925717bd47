"""Uploads: files and trees from here to the server.

Lives here: reading, pipelining, resuming. Lives elsewhere: what all transfers share
(job.py), what the server has already (remote_index.py).
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable
from typing import Any

from ftpclient.connection.connection import Call, Connection
from ftpclient.transfer import job
from ftpclient.transfer.calls import PutCall
from ftpclient.transfer.job import (
    KEEP_ALIVE_SECONDS,
    RESUME_FROM,
    SMALL,
    EmptySource,
    Options,
    Transfer,
    Unrepeatable,
    same_time_and_size,
)
from ftpclient.transfer.listing import find, list_pages
from ftpclient.transfer.named import Named, look
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.remote_index import RemoteIndex
from ftpclient.transfer.report import Listener, Summary
from ftpclient.transfer.stream_upload import MODE, Stream, send_stream
from ftpwire import beneath, digests, growing, paths
from ftpwire.errors import (
    BadMessage,
    Busy,
    CommandError,
    ConnectionLost,
    Forbidden,
    InvalidPath,
    IsADirectory,
    NotFound,
    NotRegular,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import (
    KEPT,
    DropKept,
    List,
    MakeDir,
    MakeLink,
    Put,
    Request,
    Sent,
    SetAttributes,
)
from ftpwire.paths import RemotePath
from ftpwire.streams import ReadAhead

_OPEN_SOURCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def _check_has_end(source: bytes, fd: int, info: os.stat_result) -> None:
    """Refuse a device like /dev/zero: it would fill the account. Raises NotRegular."""
    if not stat.S_ISCHR(info.st_mode) or os.isatty(fd):
        return
    if info.st_rdev != os.stat(os.devnull).st_rdev:
        raise NotRegular(
            f"{paths.show(source)}: a device that may have no end (put - NAME < DEVICE reads it)"
        )


def _is_directory(entry: os.DirEntry[bytes], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False  # who looks at it next hears what is wrong with it


_ONCE = "what was read of it can't be read again, and nothing was stored"


class _Change(Call):
    """A directory, a link or attributes on their way to the server. Heard of if it fails."""

    def __init__(self, transfer: Upload, source: bytes, target: bytes, count: bool) -> None:
        super().__init__()
        self._transfer = transfer
        self._source = source
        self._target = target
        self._count = count

    def on_done(self) -> None:
        if isinstance(self.error, ConnectionLost) and not self._count:
            return  # nothing is told of a directory, unless it fails: nothing of it is lost
        if self.error is not None or self._count:
            self._transfer.end(self._source, self._target, 0, error=self.error)


class Upload(Transfer):
    """Files and trees from here to the server. ``add`` what to send, then ``finish``."""

    def __init__(
        self,
        connection: Connection,
        options: Options,
        listener: Listener,
        parent: Upload | None = None,
    ) -> None:
        super().__init__(connection, options, listener, parent)
        self._index: RemoteIndex | None = None
        self._late: list[tuple[bytes, RemotePath, SetAttributes]] = []
        """Attributes of directories, which come when others have filled them."""
        self._spent: set[tuple[bytes, RemotePath]] = set()
        """Sources that can't be read a second time, with their targets."""

    def worker(self, connection: Connection) -> Upload:
        """A transfer that works for this one, on a connection of its own."""
        return Upload(connection, self.options, self.listener, self)

    def finish(self) -> Summary:
        self.workers.finish()
        late, self._late = self._late, []
        for source, target, request in late:
            self._submit_change(source, target, request)
        return super().finish()

    def stop_workers(self) -> None:
        super().stop_workers()
        self._late.clear()
        if self._index is not None and self._parent is None:
            self._index.close()
            self._index = None

    def _send_for(
        self, parent: Upload, source: bytes, target: RemotePath, named: os.stat_result | None
    ) -> None:
        """Send one file that the parent has met."""
        if parent.listener.enough:
            return
        parent.go_on()
        self._index = parent._index
        self._among_others = True
        try:
            self._put(source, target, named)
        except (OSError, CommandError) as error:
            self._fail(source, target, error)

    _among_others = False
    """Whether somebody else makes the directories that files go into, maybe later."""

    def add(self, source: bytes, target: RemotePath) -> None:
        """Send a local file, link or directory to exactly ``target``."""
        try:
            info = os.stat(source, follow_symlinks=self.options.copy_links)
            if stat.S_ISDIR(info.st_mode) and self.options.recursive and self.options.resume:
                self._look_up(target)
            self._add(source, target, info, ())
        except (OSError, CommandError) as error:
            self._fail(source, target, error)

    def add_named(self, source: bytes, target: RemotePath) -> None:
        """Send what the user named to exactly ``target``.

        A link is followed, unless the options say otherwise; a FIFO, a device and a descriptor are
        read to their end.
        """
        options = self.options
        try:
            if options.links:
                named = Named(source, os.lstat(source))
            else:
                named = look(source, trust=options.copy_links)
            if named.is_node:
                self._add_node(named, target)
                return
            if stat.S_ISDIR(named.info.st_mode) and options.recursive and options.resume:
                self._look_up(target)
            self._add(source, target, named.info, (), named=True)
        except (OSError, CommandError) as error:
            self._fail(source, target, error, named=True)

    def _look_up(self, target: RemotePath) -> None:
        """Find out what an earlier try may have stored there already."""
        entry = find(self.connection, target, digest=True)
        if entry is None or entry.type != "dir":
            return
        if self._index is None:
            self._index = RemoteIndex()
        try:
            for page in list_pages(self.connection, List(target, recursive=True, digest=True)):
                self._index.add(target, page)
        except Forbidden:
            pass  # a drop box tells nothing: all of it is sent

    def _fail(
        self,
        source: bytes,
        target: RemotePath,
        error: OSError | CommandError,
        *,
        named: bool = False,
    ) -> None:
        """Args: named: it was asked for by its name, so that leaving it out is a failure."""
        local = isinstance(error, OSError)
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(source))
        skipped = isinstance(error, NotRegular) and not named
        self.end(source, target, 0, error=error, skipped=skipped, local=local)

    def _add(
        self,
        source: bytes,
        target: RemotePath,
        info: os.stat_result,
        above: tuple[tuple[int, int], ...],
        *,
        named: bool = False,
    ) -> None:
        self.go_on()
        if not -(2**63) <= info.st_mtime_ns < 2**63:
            raise CommandError(f"{paths.show(source)}: its time is beyond what can be sent")
        if len(target) > paths.MAX_PATH:
            raise InvalidPath(f"{paths.show(target[:40])}…: longer than {paths.MAX_PATH} bytes")
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            workers = self.workers
            workers.expect(info.st_size)
            known = info if named else None
            if workers.pool is None or workers.for_pieces(info.st_size, self.connection):
                self._put(source, target, known)
            else:
                workers.pool.give(lambda worker: worker._send_for(self, source, target, known))
        elif kind == stat.S_IFDIR:
            self._add_directory(source, target, info, above)
        elif kind == stat.S_IFLNK:
            self._submit_change(
                source,
                target,
                MakeLink(target, os.readlink(source), info.st_mtime_ns, self.options.overwrite),
                count=True,
            )
        else:
            raise NotRegular(f"{paths.show(source)}: not a regular file, directory or link")

    def _add_directory(
        self,
        source: bytes,
        target: RemotePath,
        info: os.stat_result,
        above: tuple[tuple[int, int], ...],
    ) -> None:
        if not self.options.recursive:
            raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
        identity = (info.st_dev, info.st_ino)
        if len(above) > paths.MAX_DEPTH:  # no server takes what is deeper, nor Python's stack
            raise InvalidPath(f"{paths.show(source)}: more than {paths.MAX_DEPTH} directories deep")
        if identity in above:
            raise CommandError(f"{paths.show(source)}: the link leads into its own parents")
        mode = stat.S_IMODE(info.st_mode) & 0o777
        # what is inside comes next, so it must be possible to write; its own mode comes last
        self._submit_change(source, target, MakeDir(target, mode | 0o700, parents=True, fill=True))
        follow = self.options.copy_links
        inside: list[os.DirEntry[bytes]] = []
        with os.scandir(source) as entries:  # closed before the next: one is open, however deep
            for entry in entries:
                if _is_directory(entry, follow=follow):
                    inside.append(entry)
                else:
                    self._add_entry(entry, target, (*above, identity))
        while inside:
            self._add_entry(inside.pop(), target, (*above, identity))
        attributes = SetAttributes(target, mode, info.st_mtime_ns)
        if self.workers.pool is None:
            self._submit_change(source, target, attributes)
        else:
            self._late.append((source, target, attributes))

    def _add_entry(
        self, entry: os.DirEntry[bytes], target: RemotePath, above: tuple[tuple[int, int], ...]
    ) -> None:
        below = paths.child(target, entry.name)
        try:
            info = entry.stat(follow_symlinks=self.options.copy_links)
            self._add(entry.path, below, info, above)
        except (OSError, CommandError) as error:
            self._fail(entry.path, below, error)

    def _submit_change(
        self, source: bytes, target: bytes, request: Request, *, count: bool = False
    ) -> None:
        self.connection.submit(_Change(self, source, target, count), request)

    def _put(self, source: bytes, target: RemotePath, named: os.stat_result | None) -> None:
        """Send a file.

        Args:
            named: What was found at its name, if its links were looked at: nothing else is sent.
        """
        try:
            self._put_once(source, target, named)
        except SourceChanged:  # once more: it may be quiet by now, or another file has its name
            self.tries_again(source)
            self._put_once(source, target, named)

    def _put_once(self, source: bytes, target: RemotePath, named: os.stat_result | None) -> None:
        """Raises SourceChanged when it was written to meanwhile, other than at its end."""
        fd = os.open(source, _OPEN_SOURCE)
        try:
            info = beneath.regular(fd)
            if named is not None and not os.path.samestat(named, info):
                raise SourceChanged(f"{paths.show(source)}: was replaced meanwhile")
            first = b"" if info.st_size else os.read(fd, SMALL)
            if first and not (info := os.fstat(fd)).st_size:  # its size says nothing, as in /proc
                self.add_stream(fd, target, source=source, first=first, info=info)
                return
            if first:  # it was begun just now
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
            raise EmptySource(f"{paths.show(source)}: is empty: not stored")
        if grew:
            data = data[:size]
        digest = digests.digest(data)
        if len(data) < size or (grew and not growing.begins_with(fd, size, digest)):
            raise SourceChanged(f"{paths.show(source)}: changed while it was read")
        self.advanced(size)
        if self._index is not None and self._index.has(target, info, digest):
            self.end(source, target, size, digest=digest, unchanged=True)
            return
        call = PutCall(self, source, target)
        call.size = size
        call.digest = digest
        call.remark = job.grew(size) if grew else None
        self.connection.submit(call, self._request(target, info), size)
        if size:
            self.connection.send_data(call, data)
        self.connection.send_end(call, Sent(size, digest))

    def _is_there(self, source: bytes, target: RemotePath, fd: int, info: os.stat_result) -> bool:
        """Whether the server has the same bytes at the target already, from an earlier try."""
        if not self.options.resume:
            return False
        if self._index is not None:
            entry = self._index.get(target)
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
        return True

    def _request(
        self,
        target: RemotePath,
        info: os.stat_result,
        *,
        ask: bool = False,
        resume: bool = True,
        pieces: bool = False,
    ) -> Put:
        return Put(
            target,
            info.st_size,
            info.st_mode & 0o777,
            info.st_mtime_ns,
            self.options.overwrite,
            ask,
            secrets.token_bytes(16) if ask else None,
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
        pool = self.workers.for_pieces(info.st_size, self.connection) if ask else None
        in_pieces = pool is not None
        request = self._request(target, info, ask=ask, resume=resume, pieces=in_pieces)
        self.connection.submit(call, request)
        if ask and not call.is_ready():
            return
        self.started(source, info.st_size)
        hasher = digests.new()
        offset = call.ready.offset if call.ready is not None else 0
        if offset and not resume:
            raise BadMessage("the server goes on with what it was to forget")
        try:
            if offset and not self._agrees(call, fd, hasher):
                self._supersede(call)
                self._put_large(source, target, fd, info, resume=False)
                return
            self.advanced(offset)
            self.reached(target, offset)
            if pool is not None and call.ready is not None and call.ready.key is not None:
                sent = self._send_in_pieces(pool, call, call.ready.key, fd, offset, hasher)
            else:
                sent = self._send_from(call, fd, offset, hasher)
            if not sent:
                return
            digest = hasher.digest()
            if growing.has_grown(fd, info, digest, self._keeping_alive(call)):
                call.remark = job.grew(info.st_size)
        except SourceChanged as error:
            if call.superseded:
                raise  # of the try that took over
            self._supersede(call)
            self._drop_kept(target, info)
            raise SourceChanged(f"{paths.show(source)}: {error}") from None
        except (OSError, CommandError) as error:
            call.give_up(source, error)
            return
        except ConnectionLost as error:
            if not call.done:  # another connection was lost: what came is kept for the next try
                self.end(source, target, info.st_size, error=error)
                self._supersede(call)
            raise
        call.digest = digest
        self.connection.send_end(call, Sent(info.st_size, call.digest))

    def _keeping_alive(self, call: PutCall) -> Callable[[int], None]:
        """Something to call while the source is read and nothing is there to send."""
        said = time.monotonic()

        def tick(_: int) -> None:
            nonlocal said
            self.connection.check()
            if time.monotonic() - said > KEEP_ALIVE_SECONDS:
                said = time.monotonic()
                self.connection.keep_alive(call)

        return tick

    def _send_from(self, call: PutCall, fd: int, offset: int, hasher: digests.new) -> bool:
        """Send a file from an offset on; False when the server has refused it meanwhile."""
        left = call.size - offset
        with ReadAhead(fd, left, offset=offset, hasher=hasher) as pieces:
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
    ) -> bool:
        """The same over several connections."""
        from ftpclient.transfer.pieces import Send

        with Send(self, pool, call, key, fd) as send:
            return send.run(offset, hasher)

    def _agrees(self, call: PutCall, fd: int, hasher: digests.new) -> bool:
        """Whether what the server has is what the source begins with; it is hashed on the way."""
        assert call.ready is not None
        offset = call.ready.offset
        if offset > call.size:
            return False
        self.hash_into(hasher, fd, offset, lambda: self.connection.keep_alive(call))
        return hasher.digest() == call.ready.digest

    def _supersede(self, call: PutCall) -> None:
        call.superseded = True
        self.connection.send_cancel(call)
        self.connection.wait_for(call)

    def _drop_kept(self, target: RemotePath, info: os.stat_result) -> None:
        """Have the server forget what it keeps of a source that isn't so any more: nothing goes on
        with it, and it would hold its room for days."""
        if KEPT not in self.connection.server.features:
            return
        call = Call()  # its answer may get lost: then it is kept, as if this were an older server
        self.connection.submit(call, DropKept(target, info.st_size, info.st_mtime_ns))
        try:
            self.connection.result(call)
        except (NotFound, Busy):
            pass  # too little had come to be kept, or another session has taken it over

    # streams -----------------------------------------------------------------------------

    def _add_node(self, named: Named, target: RemotePath) -> None:
        """Send what comes out of a FIFO, a device or a descriptor until its end."""
        self.go_on()
        source, fd = named.path, named.descriptor
        if (source, target) in self._spent:
            raise Unrepeatable(f"{paths.show(source)}: {_ONCE}")
        opened = -1
        if fd is None:
            fd = opened = os.open(source, _OPEN_SOURCE)
        try:
            if opened >= 0:
                os.set_blocking(opened, True)
                if not named.is_same(os.fstat(opened)):
                    raise SourceChanged(f"{paths.show(source)}: was replaced meanwhile")
                _check_has_end(source, opened, named.info)
            self.add_stream(fd, target, source=source)
            self.connection.wait_for_all()
        except ConnectionLost as error:
            if (source, target) not in self._spent:
                raise
            lost = Unrepeatable(f"{paths.show(source)}: {error}: {_ONCE}")
            self._fail(source, target, lost, named=True)
            if self._lost:
                raise  # others can be sent again
        finally:
            if opened >= 0:
                os.close(opened)

    @property
    def took_input(self) -> bool:
        """Whether a stream was read from, which can't be read again."""
        return bool(self._spent)

    def add_stream(
        self,
        fd: int,
        target: RemotePath,
        *,
        source: bytes = b"-",
        first: bytes = b"",
        info: os.stat_result | None = None,
        mode: int = MODE,
        parents: bool = False,
    ) -> None:
        """Send what can be read from a descriptor until its end; see `send_stream`."""
        stream = Stream(source, fd, first, info, mode)
        parents = parents or self._among_others
        send_stream(self, stream, target, self._spent, parents=parents)
