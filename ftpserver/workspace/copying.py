"""Copying inside a home: a file or a tree, through staging like any upload.

Lives here: one copy command, recording what fails, and deciding which errors end it. Lives
elsewhere: staging and committing (storage/batch.py), moving by a copy (moving.py).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from stat import S_ISGID

from ftpserver.storage.staging import MODE_BITS
from ftpserver.storage.upload import Receiving
from ftpserver.workspace.observer import ticker
from ftpserver.workspace.reading import OpenFile
from ftpserver.workspace.scope import Scope
from ftpwire import paths
from ftpwire.errors import (
    AlreadyExists,
    Cancelled,
    CommandError,
    DiskFailed,
    InvalidPath,
    IsADirectory,
    NotRegular,
    QuotaExceeded,
    SourceChanged,
    from_oserror,
)
from ftpwire.holes import Hole
from ftpwire.job_end import ENDINGS, STAYS, JobEnd
from ftpwire.messages import (
    Copied,
    Copy,
    Entry,
    Failed,
    FileType,
    MakeDir,
    MakeLink,
    Problem,
    Put,
    Sent,
    SetAttributes,
)
from ftpwire.paths import Parts
from ftpwire.streams import ReadAhead

_MAX_PROBLEMS = 100


@dataclass(frozen=True)
class _Item:
    """Something that waits in the batch for its outcome.

    Attributes:
        path: Its path relative to the source; empty for the source itself.
        size: The size of a file in bytes; 0 for anything else.
    """

    path: bytes
    type: FileType
    size: int


class Copying:
    """Carries out one copy command.

    Args:
        moving: True to copy the group and the setgid bit, too, as far as permitted.
    """

    def __init__(self, scope: Scope, request: Copy, *, moving: bool = False) -> None:
        self._home = scope.home
        self._uploads = scope.uploads
        self._observer = scope.observer
        self._request = request
        self._moving = moving
        self._source = paths.split(request.source)
        self._target = paths.split(request.target)
        self._files = 0
        self._directories = 0
        self._size = 0
        self._failures: list[Problem] = []
        self._skipped: list[Problem] = []
        """The first errors, and the first existing files that were not to be replaced."""
        self._failure_count = self._skip_count = 0
        self._first_failure: CommandError | None = None
        self._first_skip: CommandError | None = None
        self._waiting: dict[int, _Item] = {}
        """The items that are in the batch, by the ids of their outcomes."""
        self._ids = itertools.count(1)
        self._filled: dict[bytes, tuple[Parts, Entry]] = {}
        """Directories that get their mode and time at the end: the target and the source of each,
        by path."""
        self._job_end = JobEnd()
        self._over: CommandError | None = None
        """The error that ends the command, because nothing after it could succeed."""
        self._tick = ticker(scope.observer)

    def run(self) -> Copied:
        """Copy the source. Raises CommandError, OSError if nothing could be copied."""
        home, request = self._home, self._request
        entry = home.entry(request.source, follow=not request.links, digest=False)
        if entry.type == "dir":
            if not request.recursive:
                raise IsADirectory(
                    f"{paths.show(request.source)}: a directory", path=request.source
                )
            if home.is_inside(self._target, self._source):
                text = f"{paths.show(request.source)}: cannot be copied into itself"
                raise InvalidPath(text, path=request.source)
            self._copy_tree(entry)
        else:
            with self._naming_target():
                self._uploads.check(Put(request.target, overwrite=request.overwrite))
            try:
                self._copy_one(b"", entry, self._source, self._target)
            except ENDINGS as error:
                raise self._at(self._target, error) from None
            self._commit()
            self._raise_what_failed()
        return self._result()

    def _result(self) -> Copied:
        """Return the reply. If it cannot name everything, errors come before skipped files."""
        problems = (self._failures + self._skipped)[:_MAX_PROBLEMS]
        more = self._failure_count + self._skip_count - len(problems)
        return Copied(self._files, self._directories, self._size, problems, more, self._skip_count)

    def _raise_what_failed(self) -> None:
        """Raise the first error, if there is one: without the root, nothing can be copied."""
        if self._over is not None:
            raise self._over
        if self.first_error is not None:
            raise self.first_error

    @property
    def first_error(self) -> CommandError | None:
        """The first error, with its path; if there is none, the first skipped file."""
        return self._first_failure or self._first_skip

    def _copy_tree(self, root: Entry) -> None:
        self._make_dir(b"", self._target, root)
        self._commit()
        self._raise_what_failed()
        listing = self._home.list(self._request.source, recursive=True, follow=False, digest=False)
        for directory, item in listing:
            if item is None:
                continue
            path = b"/".join(part for part in (directory, item.path) if part)
            if isinstance(item, Problem):
                self._note(path, _error_in(Failed(item.code, item.message)))
                continue
            self._copy_item(path, item)
            if self._uploads.full:
                self._commit()
            if self._over is not None:
                break
            self._tick()
        self._commit()
        # children before parents: a parent's final mode may deny access to its children
        for path, (target, entry) in reversed(self._filled.items()):
            change = self._attributes(target, entry)
            self._uploads.add_change(self._id(_Item(path, "dir", 0)), change)
        self._commit(counts=False)
        if self._over is not None:
            raise self._over

    def _copy_item(self, path: bytes, item: Entry) -> None:
        """Copy one entry of a tree. Record it if that fails."""
        below = tuple(path.split(b"/"))
        target = (*self._target, *below)
        try:
            if item.type == "dir":
                self._make_dir(path, target, item)
            else:
                self._copy_one(path, item, (*self._source, *below), target)
        except Cancelled:
            raise
        except OSError as error:
            self._failed(path, from_oserror(error, ""), item.size)
        except CommandError as error:
            self._failed(path, error, item.size if item.type == "file" else 0)
        else:
            self._job_end.stored()

    def _failed(self, path: bytes, error: CommandError, size: int) -> None:
        """Record that something failed, or that this ends the command."""
        # a file that cannot be read says nothing about the files after it
        at_target = not isinstance(error, DiskFailed)
        if self._over is None and self._job_end.is_reached(error, size, at_target=at_target):
            target = (*self._target, *path.split(b"/")) if path else self._target
            self._over = self._at(target, error, f": {STAYS}")
        else:
            self._note(path, error)

    @contextmanager
    def _naming_target(self) -> Iterator[None]:
        """Add the target's path to errors about what exists there."""
        try:
            yield
        except (IsADirectory, AlreadyExists) as error:
            named = error.with_text(f"{paths.show(self._request.target)}: {error}")
        except OSError as error:
            named = from_oserror(error, paths.show(self._request.target))
        else:
            return
        named.path = self._request.target
        raise named

    def _at(self, target: tuple[bytes, ...], error: CommandError, rest: str = "") -> CommandError:
        """Return an error with its path and, for a full disk, that it is the server's."""
        where = "" if isinstance(error, QuotaExceeded) else " (the server's disk)"
        path = paths.join(*target)
        shown = paths.show(path)
        about = str(error) if shown in str(error) else f"{shown}: {error}"
        named = error.with_text(f"{about}{where}{rest}")
        named.path = path
        return named

    def _attributes(self, target: Parts, entry: Entry) -> SetAttributes:
        """Return the change that gives a directory its mode and time, once it is filled."""
        setgid = None
        if self._moving:
            self._give_group(target)
            setgid = bool(entry.mode & S_ISGID)
        path, mode = paths.join(*target), entry.mode & MODE_BITS
        return SetAttributes(path, mode, entry.mtime_ns, setgid=setgid)

    def _give_group(self, target: Parts) -> None:
        """Give a moved directory the group of its source, as rename(2) would, if permitted."""
        home = self._home
        try:
            group = home.stat((*self._source, *target[len(self._target) :]), follow=False).st_gid
            fd = home.tree.open_dir(home.redirected(target))
        except OSError:
            return  # the SetAttributes that follows will report this error
        try:
            _give_group(fd, group)
        finally:
            os.close(fd)

    def _make_dir(self, path: bytes, target: Parts, source: Entry) -> None:
        """Make a directory, at once with the mode of its source. If it inherits a group that the
        server isn't in, the mode cannot be set afterwards."""
        mode = source.mode & MODE_BITS | 0o700
        make = MakeDir(paths.join(*target), mode, parents=True, fill=True)
        self._uploads.add_change(self._id(_Item(path, "dir", 0)), make)
        self._filled[path] = target, source

    def _id(self, item: _Item) -> int:
        """Return a new id for the outcome of something that joins the batch."""
        number = next(self._ids)
        self._waiting[number] = item
        return number

    def _copy_one(self, path: bytes, entry: Entry, source: Parts, target: Parts) -> None:
        uploads = self._uploads
        overwrite = self._request.overwrite
        if entry.type == "link":
            assert entry.target is not None
            link = MakeLink(paths.join(*target), entry.target, entry.mtime_ns, overwrite)
            uploads.add_change(self._id(_Item(path, "link", 0)), link)
            return
        if entry.type != "file":
            raise NotRegular("not a regular file, directory or link")
        try:
            self._copy_file(path, source, target)
        except SourceChanged:  # try once more: the writer may be done by now
            self._copy_file(path, source, target)

    def _copy_file(self, path: bytes, source: Parts, target: Parts) -> None:
        """Copy the bytes that a file has when it is opened."""
        opened = self._home.tree.open_file(source)
        with OpenFile(*opened, paths.join(*source), self._observer) as file:
            put = Put(
                paths.join(*target),
                file.size,
                file.info.st_mode & MODE_BITS,
                file.info.st_mtime_ns,
                self._request.overwrite,
            )
            number = self._id(_Item(path, "file", file.size))
            with self._receiving(number, put, target) as receiving:
                if self._moving:
                    _give_group(receiving.staging.fd, file.info.st_gid)
                file.has_grown(self._fill(receiving, file))

    @contextmanager
    def _receiving(self, number: int, put: Put, target: Parts) -> Iterator[Receiving]:
        """Receive a file within the context. Errors in staging it name the target, not the
        source."""
        with ExitStack() as stack:
            path = paths.join(*target)
            try:
                receiving = stack.enter_context(self._uploads.receiving(number, put))
            except CommandError as error:
                error.path = error.path or path
                raise
            except OSError as error:
                reason = from_oserror(error, "", path)
                if not isinstance(reason, ENDINGS):  # _at() adds the path to these
                    reason = from_oserror(error, paths.show(path), path)
                raise reason from None
            yield receiving

    def _fill(self, receiving: Receiving, file: OpenFile) -> bytes:
        """Copy the bytes, and return their digest. They are read only if there is no stored digest,
        or the file system cannot copy them by itself."""
        digest = file.kept_digest()
        if digest is not None and receiving.copy(file.fd, file.size, digest, self._copied):
            return digest
        sink = receiving.staging.sink
        with ReadAhead(file.fd, file.size, sparse=file.may_have_holes) as pieces:
            for piece in pieces:
                if isinstance(piece, Hole):
                    sink.hole(piece.size)
                else:
                    sink.write(piece)
                self._copied(len(piece))
        if pieces.size != file.size:
            raise SourceChanged("changed while it was copied")
        digest = pieces.digest()
        receiving.finish(Sent(file.size, digest))
        return digest

    def _copied(self, count: int) -> None:
        self._observer.progressed(count)
        self._tick()

    def _commit(self, *, counts: bool = True) -> None:
        """Commit the batch.

        Args:
            counts: True to count what it contains as copied; False if that was counted before.
        """
        outcomes = self._uploads.commit()
        waiting, self._waiting = self._waiting, {}  # those without an outcome have failed before
        for number, outcome in outcomes:
            item = waiting[number]
            if isinstance(outcome, Failed):
                self._filled.pop(item.path, None)  # don't change what is there instead
                self._failed(item.path, _error_in(outcome), item.size)
            elif not counts:
                pass
            elif item.type == "dir":
                self._directories += 1
            else:
                self._files += 1
                self._size += item.size

    def _note(self, path: bytes, error: CommandError) -> None:
        """Record that something wasn't copied. The error is about the source, unless it has another
        path."""
        error.path = error.path or paths.join(*self._source, *filter(None, path.split(b"/")))
        if self._request.overwrite == "never" and isinstance(error, AlreadyExists):
            found = self._skipped
            self._skip_count += 1
            self._first_skip = self._first_skip or error.with_traceback(None)
        else:
            found = self._failures
            self._failure_count += 1
            self._first_failure = self._first_failure or error.with_traceback(None)
        if len(found) < _MAX_PROBLEMS:
            found.append(Problem(path, error.code, str(error)))


def _give_group(fd: int, group: int) -> None:
    """Change the group of an open file, if the server may."""
    if os.fstat(fd).st_gid != group:
        with suppress(PermissionError):
            os.fchown(fd, -1, group)


def _error_in(failed: Failed) -> CommandError:
    error = failed.to_error()
    return error if isinstance(error, CommandError) else CommandError(str(error))
