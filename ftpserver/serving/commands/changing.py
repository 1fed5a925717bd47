"""Changing the tree: directories, links, attributes, removing, moving, copying."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from stat import S_ISDIR, S_ISGID
from typing import TYPE_CHECKING

from ftpserver.serving.commands.moving import (
    MovingByCopy,
    error_of,
    give_group,
    remove_in_place,
    ticker,
    ticker_on,
)
from ftpserver.serving.commands.transfers import has_grown
from ftpserver.storage.atomic_tree import AtomicTree
from ftpserver.storage.digest_xattr import fresh_digest
from ftpserver.storage.home import MODE_BITS
from ftpserver.storage.kept import KeptStaging
from ftpserver.storage.upload import Receiving
from ftpwire import paths
from ftpwire.errors import (
    AlreadyExists,
    Cancelled,
    CommandError,
    DiskFailed,
    DiskFull,
    InvalidPath,
    IsADirectory,
    NotRegular,
    QuotaExceeded,
    SourceChanged,
    from_oserror,
)
from ftpwire.job_end import ENDINGS, STAYS, JobEnd
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    Done,
    DropKept,
    EndTree,
    Entry,
    Failed,
    MakeDir,
    MakeLink,
    Message,
    Move,
    Problem,
    Put,
    Remove,
    Removed,
    Sent,
    SetAttributes,
)
from ftpwire.paths import Parts
from ftpwire.streams import ReadAhead

if TYPE_CHECKING:
    from ftpserver.serving.session import Session

_MAX_PROBLEMS = 100


def add_to_batch(session: Session, request: MakeDir | MakeLink | SetAttributes) -> None:
    """Have the next commit do it, in its turn, and answer."""
    session.uploads.add_change(session.request_id, request)


def remove(session: Session, request: Remove) -> Message | None:
    """Remove a file or a tree; what became free is the account's again.

    Files and links join the batch: removing many of them costs no sync, and no statement, each.
    """
    if not request.recursive and _is_no_directory(session, request.path):
        with suppress(DiskFull):  # the accounts can't be written to: removing is what mends it
            session.uploads.add_change(session.request_id, request)
            return None
    session.commit()
    try:
        with session.server.ledger.freeing(session.user.id) as settle:
            tally = session.home.remove(
                request.path, recursive=request.recursive, tick=ticker_on(session), settle=settle
            )
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        tally = remove_in_place(session, request.path)
    return Removed(tally.files, tally.directories, tally.size + tally.staged)


def _is_no_directory(session: Session, path: bytes) -> bool:
    """Whether a file or link is there now; what the batch is going to put there doesn't count."""
    parts = paths.split(path)
    if not parts:
        return False
    try:
        directory, name = session.home.tree.parent(parts)
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)
    except FileNotFoundError:
        return False
    return not S_ISDIR(info.st_mode)


def drop_kept(session: Session, request: DropKept) -> Message:
    """Drop interrupted uploads of the account."""
    kept = KeptStaging(session.home, session.server.ledger, session.user.id)
    return kept.drop(request.upload, request.size, request.mtime_ns)


def begin_tree(session: Session, request: BeginTree) -> Message:
    """From here on, what is put at or below the path goes to a hidden tree."""
    if session.tree is not None:
        raise CommandError("a tree is under way already")
    session.tree = AtomicTree(
        session.home, session.server.ledger, session.user.id, request.path, mode=request.mode
    )
    return Done()


def end_tree(session: Session, request: EndTree) -> Message:
    """Put the tree in its place at once, or drop it."""
    tree, session.tree = session.tree, None
    if tree is None:
        raise CommandError("no tree is under way")
    tick = ticker_on(session)
    if request.commit:
        try:
            tree.commit(tick)
        except (OSError, CommandError):
            tree.abort(tick)
            raise
    else:
        tree.abort(tick)
    return Done()


def move(session: Session, request: Move) -> Message:
    """Rename; a file that is replaced gives its room back."""
    replace = request.overwrite == "always"
    try:
        with session.server.ledger.freeing(session.user.id) as settle:
            session.home.move(request.source, request.target, replace=replace, settle=settle)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise

        def copy_all(copy: Copy) -> Copied:
            return _Copying(session, copy, moving=True).run()

        return MovingByCopy(session, request, copy_all).run()
    return Done()


def copy(session: Session, request: Copy) -> Message:
    """Copy a file or a tree inside the home, through staging like any upload."""
    return _Copying(session, request).run()


class _Copying:
    """One copy command.

    Args:
        moving: Group and setgid are what the source has, where they may be.
    """

    def __init__(self, session: Session, request: Copy, *, moving: bool = False) -> None:
        self._session = session
        self._request = request
        self._moving = moving
        self._source = paths.split(request.source)
        self._target = paths.split(request.target)
        self._files = 0
        self._directories = 0
        self._size = 0
        self._problems: list[Problem] = []
        self._job_end = JobEnd()
        self._over: CommandError | None = None
        """What nothing that follows could succeed after."""
        self._tick = ticker(session)

    def run(self) -> Copied:
        """Copy it. Raises CommandError, OSError when nothing could be copied."""
        home, request = self._session.home, self._request
        entry = home.entry(request.source, follow=not request.links, digest=False)
        if entry.type == "dir":
            if not request.recursive:
                raise IsADirectory(f"{paths.show(request.source)}: a directory (use -r)")
            if home.is_inside(self._target, self._source):
                raise InvalidPath(f"{paths.show(request.source)}: can't be copied into itself")
            self._copy_tree(entry)
        else:
            with self._naming_target():
                self._session.uploads.check(Put(request.target, overwrite=request.overwrite))
            try:
                self._copy_one(entry, self._source, self._target)
            except ENDINGS as error:
                raise self._at(self._target, error) from None
            self._commit(b"")
            if self._problems:
                raise error_of(self._problems[0])
        return Copied(self._files, self._directories, self._size, self._problems)

    def _copy_tree(self, root: Entry) -> None:
        directories = [(self._target, root)]
        self._make_dir(self._target, root)
        self._commit(b"")
        if self._problems:
            raise error_of(self._problems[0])
        listing = self._session.home.list(
            self._request.source, recursive=True, follow=False, digest=False
        )
        for directory, item in listing:
            if item is None:
                continue
            path = b"/".join(part for part in (directory, item.path) if part)
            if isinstance(item, Problem):
                self._note(Problem(path, item.code, item.message))
                continue
            if self._copy_item(path, item) and item.type == "dir":
                directories.append(((*self._target, *path.split(b"/")), item))
            if self._session.uploads.full:
                self._commit(path)
            if self._over is not None:
                break
            self._tick()
        self._commit(b"")
        for target, entry in reversed(directories):
            self._session.uploads.add_change(0, self._dressing(target, entry))
        self._commit(b"")
        if self._over is not None:
            raise self._over

    def _copy_item(self, path: bytes, item: Entry) -> bool:
        """Copy one thing of a tree; False when it failed, which is noted."""
        below = tuple(path.split(b"/"))
        target = (*self._target, *below)
        try:
            if item.type == "dir":
                self._make_dir(target, item)
            else:
                self._copy_one(item, (*self._source, *below), target)
        except Cancelled:
            raise
        except OSError as error:
            self._failed(path, from_oserror(error, ""), item.size)
        except CommandError as error:
            self._failed(path, error, item.size if item.type == "file" else 0)
        else:
            self._job_end.stored()
            return True
        return False

    def _failed(self, path: bytes, error: CommandError, size: int) -> None:
        """Something failed: that is noted, or the end of all of it."""
        # a file that can't be read says nothing about those that follow
        at_target = not isinstance(error, DiskFailed)
        if self._over is None and self._job_end.is_reached(error, size, at_target=at_target):
            target = (*self._target, *path.split(b"/")) if path else self._target
            self._over = self._at(target, error, f": {STAYS}")
        else:
            self._note(Problem(path, error.code, str(error)))

    @contextmanager
    def _naming_target(self) -> Iterator[None]:
        """Put the target before what is there, and isn't to be replaced."""
        try:
            yield
        except (IsADirectory, AlreadyExists) as error:
            raise type(error)(f"{paths.show(self._request.target)}: {error}") from None

    def _at(self, target: tuple[bytes, ...], error: CommandError, rest: str = "") -> CommandError:
        """The same error with its path, and whose disk it is."""
        where = "" if isinstance(error, QuotaExceeded) else " (the server's disk)"
        text = f"{paths.show(paths.join(*target))}: {error}{where}{rest}"
        return type(error)(text, needed=error.needed, free=error.free)

    def _dressing(self, target: Parts, entry: Entry) -> SetAttributes:
        """What gives a directory its mode and time, once it is filled."""
        setgid = None
        if self._moving:
            self._give_group(target)
            setgid = bool(entry.mode & S_ISGID)
        path, mode = paths.join(*target), entry.mode & MODE_BITS
        return SetAttributes(path, mode, entry.mtime_ns, setgid=setgid)

    def _give_group(self, target: Parts) -> None:
        """A directory that was moved keeps its group, as with rename(2), where it may."""
        home = self._session.home
        try:
            group = home.stat((*self._source, *target[len(self._target) :]), follow=False).st_gid
            fd = home.tree.open_dir(home.place_of(target))
        except OSError:
            return  # the change that follows says what is wrong
        try:
            give_group(fd, group)
        finally:
            os.close(fd)

    def _make_dir(self, target: Parts, source: Entry) -> None:
        """Make a directory with the mode of its source: in a directory of a group that the server
        is not in it can't be changed afterwards."""
        self._directories += 1
        mode = source.mode & MODE_BITS | 0o700
        self._session.uploads.add_change(
            0, MakeDir(paths.join(*target), mode, parents=True, fill=True)
        )

    def _copy_one(self, entry: Entry, source: Parts, target: Parts) -> None:
        uploads = self._session.uploads
        overwrite = self._request.overwrite
        if entry.type == "link":
            assert entry.target is not None
            link = MakeLink(paths.join(*target), entry.target, entry.mtime_ns, overwrite)
            uploads.add_change(0, link)
            self._files += 1
            return
        if entry.type != "file":
            raise NotRegular("not a regular file, directory or link")
        try:
            size = self._copy_file(source, target)
        except SourceChanged:  # once more: it may be quiet by now
            size = self._copy_file(source, target)
        self._files += 1
        self._size += size

    def _copy_file(self, source: tuple[bytes, ...], target: tuple[bytes, ...]) -> int:
        """Copy a file, as large as it is when it is opened; returns its size."""
        fd, info = self._session.home.tree.open_file(source)
        try:
            put = Put(
                paths.join(*target),
                info.st_size,
                info.st_mode & MODE_BITS,
                info.st_mtime_ns,
                self._request.overwrite,
            )
            with self._receiving(put, target) as receiving:
                if self._moving:
                    give_group(receiving.staging.fd, info.st_gid)
                digest = self._fill(receiving, fd, info)
                has_grown(self._session, paths.join(*source), fd, info, digest)
        finally:
            os.close(fd)
        return info.st_size

    @contextmanager
    def _receiving(self, put: Put, target: Parts) -> Iterator[Receiving]:
        """Receive a file; what keeps it from being staged is about the target, not the source."""
        with ExitStack() as stack:
            try:
                receiving = stack.enter_context(self._session.uploads.receiving(0, put))
            except OSError as error:
                reason = from_oserror(error, "")
                if not isinstance(reason, ENDINGS):  # of these the path is told with the rest
                    reason = from_oserror(error, paths.show(paths.join(*target)))
                raise reason from None
            yield receiving

    def _fill(self, receiving: Receiving, fd: int, info: os.stat_result) -> bytes:
        """Copy the bytes; they are read only where no digest is kept that could go along;
        returns that of the bytes."""
        digest = fresh_digest(fd, info)
        if digest is not None and receiving.copy(fd, info.st_size, digest, self._copied):
            return digest
        with ReadAhead(fd, info.st_size) as pieces:
            for piece in pieces:
                receiving.staging.sink.write(piece)
                self._copied(len(piece))
        if pieces.size != info.st_size:
            raise SourceChanged("changed while it was copied")
        digest = pieces.digest()
        receiving.finish(Sent(info.st_size, digest))
        return digest

    def _copied(self, count: int) -> None:
        self._session.progressed(count)
        self._tick()

    def _commit(self, path: bytes) -> None:
        for _, outcome in self._session.uploads.commit():
            if isinstance(outcome, Failed):
                self._failed(path, error_of(Problem(path, outcome.code, outcome.message)), 0)

    def _note(self, problem: Problem) -> None:
        if len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(problem)
