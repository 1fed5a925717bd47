"""Writing a file at any offset; readers see published states only.

Lives here: one open file of an account, from its first byte to its last `publish`.
Lives elsewhere: uploads that are written in order (storage/upload.py), which cost less; staging,
quota and the commit (storage/batch.py).

The bytes are written to a file in staging. `publish` commits it under the file's name: hashed, with
mode and time, synced, renamed, settled. From then on it is a stored file that is never written to
again: the next write begins with a copy of it (a reflink, where the file system supports them). So
a reader sees one published state or another, never a mixture, even after a crash.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from msgspec.structs import replace

from ftpserver.errors import StateError
from ftpserver.storage.batch import Uploads
from ftpserver.storage.resumable import hash_range
from ftpserver.storage.staging import copy_range
from ftpserver.storage.upload import Receiving
from ftpwire import digests, paths
from ftpwire.errors import Cancelled, CommandError, FtpError, NotFound
from ftpwire.messages import Failed, Message, Put, SetAttributes, Stored

_ID = -1
"""The id of a publication's outcome in a batch. The ids of requests are never negative."""


class Writer:
    """One open file. For the thread of its workspace.

    After the first error, writing, publishing and closing raise that error again, because the
    file's content is no longer known. `drop` always works; so does leaving the context.

    Args:
        uploads: The writer's own batch.
        request: The file's path, mode, time, and whether it may replace another file. The size in
            it is ignored.
        content: A descriptor of a file whose bytes it begins with; None to begin empty.
        resume: True to begin with what an earlier `keep` has kept instead, if that exists.
        require: A function that takes a request for the path, and raises Forbidden unless the
            account's current permissions allow it.
        before_commit: A function that is called before publishing, to commit earlier requests.
        on_end: A function that is called when the writer is closed.

    Raises:
        CommandError, OSError: It is refused, or there is no space.
    """

    def __init__(
        self,
        uploads: Uploads,
        request: Put,
        *,
        content: int | None = None,
        resume: bool = False,
        require: Callable[[Message], None] = lambda request: None,
        before_commit: Callable[[], None] = lambda: None,
        on_end: Callable[[Writer], None] = lambda writer: None,
    ) -> None:
        self._uploads = uploads
        self._request = replace(request, size=None, ask=False, pieces=False)
        self._require = require
        self._before_commit = before_commit
        self._on_end = on_end
        self._error: Exception | None = None
        self._published = -1
        """The descriptor of the file as it was published last. While it is open, no other file gets
        its inode number, so `_is_there` can rely on that."""
        self._context: AbstractContextManager[Receiving] | None = None
        self._receiving: Receiving | None = None
        self._goes_to_tree = False
        self._size = 0
        self._hashed = 0
        self._hasher: digests.new | None = digests.new()
        """The hasher of the first ``_hashed`` bytes; None once they weren't written in order."""
        self._stored: Stored | None = None
        self._identity: tuple[int, int] | None = None
        """The device and inode of the file as it was published last."""
        self._stage()
        try:
            kept = uploads.kept_writing.resume(self._request, self._staged) if resume else 0
            if kept:
                self._begin_with(kept)
            elif content is not None:
                self._copy(content)
        except BaseException:
            self.drop()
            raise

    # the file in staging -----------------------------------------------------------------

    @property
    def _staged(self) -> Receiving:
        assert self._receiving is not None
        return self._receiving

    @property
    def is_in_tree(self) -> bool:
        """True if there are unpublished bytes, and they go to an atomic tree that isn't committed
        yet."""
        return self._receiving is not None and self._goes_to_tree

    @property
    def _is_there(self) -> bool:
        """True if the file that was published last is still at the path."""
        return self._identity is not None and (
            self._uploads.identity(self._request.path) == self._identity
        )

    def _stage(self) -> None:
        """Begin a new file in staging."""
        self._context = self._uploads.receiving(_ID, self._request)
        self._receiving = self._context.__enter__()
        self._goes_to_tree = self._uploads.is_in_tree(self._request.path)
        self._size = 0
        self._begin_with(0)

    def _begin_with(self, size: int) -> None:
        self._size = size
        self._hashed, self._hasher = 0, None if size else digests.new()

    def _copy(self, source: int) -> None:
        size = os.fstat(source).st_size
        self._staged.grow(size)
        copy_range(source, self._staged.staging.fd, size)
        self._begin_with(size)

    def _leave_staging(self, error: BaseException | None) -> None:
        """Close the file in staging. Without an error, it joins the batch; else it is discarded."""
        context, self._context = self._context, None
        self._receiving = None
        if context is None:
            return
        if error is None:
            context.__exit__(None, None, None)
            return
        try:
            context.__exit__(type(error), error, None)
        except type(error):
            pass  # this is `error` itself, raised again by the context

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Run a step within the context. If it fails, all later steps raise the same error."""
        if self._error is not None:
            raise self._error
        try:
            yield
        except (OSError, FtpError) as error:
            self._error = error
            raise

    # writing -----------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The present size in bytes, published or not."""
        return self._size

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes at an offset. If the offset is behind the end, zeros fill the gap; but
        writing no bytes changes nothing.

        Raises:
            QuotaExceeded, DiskFull, OSError: The bytes cannot be stored.
        """
        view = memoryview(data)
        if not view:
            return
        with self._step():
            fd = self._writable()
            self._grow(offset + len(view))
            done = 0
            while done < len(view):
                done += os.pwrite(fd, view[done:], offset + done)
            self._hash(offset, view)

    def read(self, offset: int, count: int) -> bytes:
        """Return bytes as they were written, published or not; fewer than ``count`` at the end."""
        with self._step():
            fd = self._published if self._receiving is None else self._staged.staging.fd
            return os.pread(fd, max(0, min(count, self._size - offset)), offset)

    def truncate(self, size: int) -> None:
        """Set the size: cut the file off, or extend it with zeros."""
        with self._step():
            fd = self._writable()
            self._grow(size)
            os.ftruncate(fd, size)
            self._size = size
            if size < self._hashed:
                self._hasher = None

    def set_attributes(self, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        """Set the mode or the time: with the next `publish`, or at once if nothing was written
        since the last one."""
        with self._step():
            request = self._request
            self._request = replace(
                request,
                mode=request.mode if mode is None else mode,
                mtime_ns=request.mtime_ns if mtime_ns is None else mtime_ns,
            )
            if self._receiving is not None:
                self._staged.staging.become(self._request)
                return
            change = SetAttributes(request.path, mode, mtime_ns)
            self._require(change)
            if not self._is_there:
                raise NotFound(f"{paths.show(request.path)}: it was replaced or removed meanwhile")
            self._before_commit()
            self._uploads.add_change(_ID, change)
            _raise_failed(self._uploads.commit_now(_ID))

    def _writable(self) -> int:
        """Return the descriptor of the file in staging; if there is none, make a copy of what was
        published last."""
        if self._receiving is None:
            self._stage()
            self._copy(self._published)
        return self._staged.staging.fd

    def _forget_published(self) -> None:
        fd, self._published = self._published, -1
        if fd >= 0:
            os.close(fd)

    def _grow(self, size: int) -> None:
        self._staged.grow(size)
        self._size = max(self._size, size)

    def _hash(self, offset: int, data: memoryview) -> None:
        if self._hasher is None:
            return
        if offset == self._hashed:
            self._hasher.update(data)
            self._hashed += len(data)
        elif offset < self._hashed:
            self._hasher = None  # hashed bytes were overwritten: read all of them at the end

    def _digest(self) -> bytes:
        """Return the digest of all bytes. Those that were not hashed when written are read."""
        if self._hasher is None:
            self._hashed, self._hasher = 0, digests.new()
        hash_range(self._staged.staging.fd, self._hashed, self._size, self._hasher)
        self._hashed = self._size
        return self._hasher.digest()

    # publishing and closing --------------------------------------------------------------

    def publish(self) -> Stored:
        """Commit the file under its name, durably, with its mode and time. Writing can go on.

        Raises:
            CommandError, OSError: It isn't published; what was there before still is.
        """
        with self._step():
            if self._receiving is None and self._stored is not None:
                return self._stored  # nothing was written since
            self._require(self._request)  # permissions may have changed since it was opened
            self._before_commit()  # earlier requests for the same path take effect first
            staged = self._staged
            os.ftruncate(staged.staging.fd, self._size)
            staged.seal(self._size, self._digest())
            if self._is_there:  # replacing its own earlier state is always allowed
                staged.overwrite = "always"
                staged.keep_replaced = False
            # kept open after the commit has closed the staging file: the next write copies it
            published = os.dup(staged.staging.fd)
            info = os.fstat(published)
            try:
                self._leave_staging(None)
                outcome = self._uploads.commit_now(_ID)
                _raise_failed(outcome)
            except BaseException:
                os.close(published)
                raise
            assert isinstance(outcome, Stored)
            self._forget_published()
            self._published, self._stored = published, outcome
            self._identity = info.st_dev, info.st_ino
            return outcome

    def close(self) -> Stored:
        """Publish what was written since the last time, and close the writer.

        Raises:
            CommandError, OSError: See `publish`. The writer is closed in any case, and what was not
                published is gone.
        """
        try:
            return self.publish()
        finally:
            self.drop()

    def keep(self) -> bool:
        """Close the writer, and keep the unpublished bytes, so that the account can resume.

        Returns:
            True if something is kept; False also after an error.
        """
        kept = False
        try:
            if self._receiving is not None and self._error is None and self._size:
                staged = self._staged
                os.ftruncate(staged.staging.fd, self._size)
                kept = self._uploads.kept_writing.keep(
                    staged, self._request, self._size, self._digest()
                )
        except (OSError, CommandError, StateError):
            kept = False  # for example, a full disk: keep nothing rather than something incomplete
        self.drop()
        return kept

    def drop(self) -> None:
        """Close the writer and discard what was not published. Can be called twice."""
        try:
            self._forget_published()
            if self._context is not None:
                self._leave_staging(Cancelled("dropped"))
        finally:
            if self._error is None:
                self._error = CommandError("the file is closed")
            self._on_end(self)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.drop()


def _raise_failed(outcome: object) -> None:
    if isinstance(outcome, Failed):
        raise outcome.to_error()
