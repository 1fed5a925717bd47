"""Moving and removing where the file system can't rename.

Lives here: what a move and a removal do then, step by step. Lives elsewhere: requests and copying
(changing.py), one step of a removal (storage/in_place.py), staging (storage/atomic_tree.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ftpserver.accounts.accounts import Account
from ftpserver.storage.atomic_tree import AtomicTree
from ftpserver.storage.file_systems import refuse_mounts
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import Tally
from ftpserver.storage.in_place import Guard, RemovalInPlace
from ftpwire import paths
from ftpwire.errors import (
    Cancelled,
    CommandError,
    ConnectionLost,
    InvalidPath,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import Copied, Copy, Done, Failed, Message, Move, Problem
from ftpwire.paths import Parts


class Session(Protocol):
    """What is needed of a session."""

    tree: AtomicTree | None

    @property
    def home(self) -> Home: ...

    @property
    def user(self) -> Account: ...

    @property
    def server(self) -> Any: ...

    def commit(self) -> None: ...

    def remark(self, text: str) -> None: ...

    def look_for_cancel(self) -> None: ...

    def has_removed(self, files: int, size: int) -> None: ...

    def tell_progress(self, total: int | None) -> Callable[[int], None]: ...


def ticker(session: Session) -> Callable[[], None]:
    """Something to call often during long work, so that the client knows that it goes on."""
    tell = session.tell_progress(None)
    return lambda: tell(0)


def ticker_on(session: Session) -> Callable[[], None]:
    """As `ticker`, for work that is finished also when the client is gone: it has begun, and
    its room would be lost."""
    tick = ticker(session)

    def tick_on() -> None:
        with suppress(ConnectionLost):
            tick()

    return tick_on


def remove_in_place(session: Session, path: bytes, may_go: Guard | None = None) -> Tally:
    """Remove a tree file by file, where its file system can't move it away at once.

    Each step is settled. A CANCEL ends it between two; the same command goes on with the rest.

    Raises:
        Cancelled, CommandError: The text says how much was removed.
    """
    guard = {} if may_go is None else {"may_go": may_go}
    removal = RemovalInPlace(session.home, paths.split(path), **guard)
    tick = ticker(session)
    try:
        while not removal.done:
            with session.server.ledger.freeing(session.user.id) as settle:
                removal.step(settle)
            tick()
            session.look_for_cancel()
    except BaseException as error:
        gone = removal.tally.files + removal.tally.directories
        session.has_removed(gone, removal.tally.size)
        if not isinstance(error, (OSError, Cancelled)):
            raise  # the connection was lost, for one
        if not gone and isinstance(error, OSError):
            raise from_oserror(error, paths.show(path)) from None
        text = f"{paths.show(path)}: {gone} in it were removed; the same command goes on"
        if isinstance(error, Cancelled):
            session.remark(text)
            raise
        reason = from_oserror(error, "")
        raise type(reason)(f"{text}, and failed now: {reason}") from None
    if removal.kept:
        tally = removal.tally
        session.has_removed(tally.files + tally.directories, tally.size)
        raise SourceChanged(
            f"{paths.show(path)}: {removal.kept} in it changed while it was moved, and stay there"
        )
    return removal.tally


class MovingByCopy:
    """A move to where no rename leads: another file system, or out of a lower layer of overlay.

    What is moved is copied to staging of the target's file system and gets its name there at
    once; then the source is removed. What changes in the source meanwhile stays there.

    Args:
        copy: Copies, and keeps groups.
    """

    def __init__(self, session: Session, request: Move, copy: Callable[[Copy], Copied]) -> None:
        self._session = session
        self._copied = copy
        self._request = request
        self._source = paths.split(request.source)
        self._target = paths.split(request.target)

    def run(self) -> Message:
        """Move it. Raises what `Home.move` would, and what copying does."""
        session, home, request = self._session, self._session.home, self._request
        session.commit()
        home.check_move(request.source, request.target, replace=request.overwrite == "always")
        directory, name = home.tree.parent(self._source)
        try:
            refuse_mounts(directory, name, request.source)
            if os.fstatvfs(directory).f_flag & os.ST_RDONLY:  # it could be copied, and not removed
                raise from_oserror(OSError(errno.EROFS, ""), paths.show(request.source))
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)
        if stat.S_ISDIR(info.st_mode):
            self._move_tree(info)
        else:
            self._move_file(info)
        return Done()

    def _move_tree(self, info: os.stat_result) -> None:
        session, request = self._session, self._request
        if session.home.is_inside(self._target, self._source):
            raise InvalidPath(f"{paths.show(request.source)}: can't be moved into itself")
        if session.tree is not None:
            raise CommandError("a tree is under way already")
        tree = session.tree = AtomicTree(
            session.home,
            session.server.ledger,
            session.user.id,
            request.target,
            mode=info.st_mode,
            elsewhere=True,
        )
        try:
            self._copy(recursive=True)
            tree.commit(ticker_on(session))
        except BaseException:
            tree.abort(ticker_on(session))
            raise
        finally:
            session.tree = None
        with self._saying_that_it_is_there():
            remove_in_place(session, request.source, self._is_moved)

    def _move_file(self, before: os.stat_result) -> None:
        session, request = self._session, self._request
        self._copy(recursive=True)
        with self._saying_that_it_is_there():
            now = session.home.stat(self._source, follow=False)
            if not _is_same(before, now) or before.st_ino != now.st_ino:
                raise SourceChanged(f"{paths.show(request.source)}: changed while it was moved")
            with session.server.ledger.freeing(session.user.id) as settle:
                session.home.remove(
                    request.source, recursive=False, tick=lambda: None, settle=settle
                )

    def _copy(self, *, recursive: bool) -> None:
        request = self._request
        copy = Copy(request.source, request.target, recursive, request.overwrite)
        copied = self._copied(copy)
        if copied.problems:
            raise error_of(copied.problems[0])

    @contextmanager
    def _saying_that_it_is_there(self) -> Iterator[None]:
        try:
            yield
        except CommandError as error:
            there = paths.show(self._request.target)
            raise type(error)(f"{there} is there, whole; {error}") from None
        except OSError as error:
            there, source = paths.show(self._request.target), paths.show(self._request.source)
            raise from_oserror(error, f"{there} is there, whole; {source}") from None

    def _is_moved(self, below: Parts, info: os.stat_result) -> bool:
        """Whether something of the source is at the target, as it is now."""
        try:
            there = self._session.home.stat((*self._target, *below), follow=False)
        except OSError:
            return False
        return _is_same(info, there)


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return False
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def give_group(fd: int, group: int) -> None:
    """Have something open belong to a group, where the server may."""
    if os.fstat(fd).st_gid != group:
        with suppress(PermissionError):
            os.fchown(fd, -1, group)


def error_of(problem: Problem) -> CommandError:
    error = Failed(problem.code, problem.message).to_error()
    return error if isinstance(error, CommandError) else CommandError(str(error))
