"""A file that is written at any offset, and appears whole.

Lives here: one open file of an account, from its first byte to its last `publish`.
Lives elsewhere: uploads that come from their first byte to their last (storage/upload.py), which
cost less; staging, room and the commit (storage/batch.py).

What is written goes to a file in staging. `publish` gives that the file's name, as a commit does:
hashed, with mode and time, synced, renamed, settled. It is a stored file then, which nothing is
written to any more: the next write begins with a copy of it (a reflink, where the file system has
them). So a reader sees one published state or another, never a mixture, whatever crashes when.
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
"""Of a publication among the outcomes of a batch: requests have none below 0."""


class Writer:
    """One open file. For the thread of its workspace.

    The first error is the last word: writing, publishing and closing raise it again, because nobody
    can say what the file would be made of. `drop` always works; so does leaving the context.

    Args:
        uploads: Its own.
        request: The file's path, mode, time, and whether it may replace another one. Its size is
            not looked at.
        content: An open file whose bytes it begins with; None: it begins empty.
        resume: Begin with what an earlier `keep` has left instead, if that is there.
        require: Given what is done to the path; raises Forbidden unless the account, as it is
            then, may do that.
        before_commit: Called before it is published: commits what others have asked for earlier.
        on_end: Called when it has ended.

    Raises:
        CommandError, OSError: It is refused, or there is no room.
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
        """The file as it was published last, open so that no other one gets its inode's number."""
        self._context: AbstractContextManager[Receiving] | None = None
        self._receiving: Receiving | None = None
        self._goes_to_tree = False
        self._size = 0
        self._hashed = 0
        self._hasher: digests.new | None = digests.new()
        """Of the first ``_hashed`` bytes, while they come one after another; else None."""
        self._stored: Stored | None = None
        self._identity: tuple[int, int] | None = None
        """Of the file as it was published last."""
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

    # what is in staging ------------------------------------------------------------------

    @property
    def _staged(self) -> Receiving:
        assert self._receiving is not None
        return self._receiving

    @property
    def is_in_tree(self) -> bool:
        """Whether what was written and not published goes to a tree that is on its way."""
        return self._receiving is not None and self._goes_to_tree

    @property
    def _is_there(self) -> bool:
        """Whether what was published last is still what is there."""
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
        """End the file in staging: without an error it joins the batch."""
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
            pass  # the one that it was given

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Something that spoils the file when it fails."""
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
        """Its bytes, as they are now."""
        return self._size

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes at an offset; behind the end, zeros come before them. None change nothing.

        Raises:
            QuotaExceeded, DiskFull, OSError
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
        """Bytes as they were written, published or not: fewer at the end."""
        with self._step():
            fd = self._published if self._receiving is None else self._staged.staging.fd
            return os.pread(fd, max(0, min(count, self._size - offset)), offset)

    def truncate(self, size: int) -> None:
        """Make it shorter, or longer with zeros."""
        with self._step():
            fd = self._writable()
            self._grow(size)
            os.ftruncate(fd, size)
            self._size = size
            if size < self._hashed:
                self._hasher = None

    def set_attributes(self, *, mode: int | None = None, mtime_ns: int | None = None) -> None:
        """Give it another mode or time: with the next `publish`, or at once where nothing was
        written since the last one."""
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
                raise NotFound(f"{paths.show(request.path)}: another file is there by now, or none")
            self._before_commit()
            self._uploads.add_change(_ID, change)
            _raise_failed(self._uploads.commit_now(_ID))

    def _writable(self) -> int:
        """The descriptor in staging: a copy of what was published, if nothing is there yet."""
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
            self._hasher = None  # it is read once more at the end

    def _digest(self) -> bytes:
        """Of all bytes, of which those are read that were not hashed on the way."""
        if self._hasher is None:
            self._hashed, self._hasher = 0, digests.new()
        hash_range(self._staged.staging.fd, self._hashed, self._size, self._hasher)
        self._hashed = self._size
        return self._hasher.digest()

    # its end -----------------------------------------------------------------------------

    def publish(self) -> Stored:
        """Give it its name, whole and durable, with its mode and time; it can be written further.

        Raises:
            CommandError, OSError: It isn't published; what was before is still there.
        """
        with self._step():
            if self._receiving is None and self._stored is not None:
                return self._stored  # nothing was written since
            self._require(self._request)
            self._before_commit()
            staged = self._staged
            os.ftruncate(staged.staging.fd, self._size)
            staged.seal(self._size, self._digest())
            if self._is_there:  # it may replace its own earlier state in any case
                staged.overwrite = "always"
                staged.keep_replaced = False
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
        """Publish what was written since the last time, and end it.

        Raises:
            CommandError, OSError: As `publish`; it has ended, and what was not published is gone.
        """
        try:
            return self.publish()
        finally:
            self.drop()

    def keep(self) -> bool:
        """End it, and keep what was written and not published, to be resumed by the account.

        Returns:
            Whether something is kept. False also after an error.
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
            kept = False  # a full disk, for one: better nothing than something doubtful
        self.drop()
        return kept

    def drop(self) -> None:
        """End it. What was published stays; what was not is gone. Can be called twice."""
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
