"""Moving and removing where the file system can't rename.

Lives here: what a move and a removal do then, step by step. Lives elsewhere: copying (copying.py),
one step of a removal (storage/in_place.py), staging (storage/atomic_tree.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from ftpserver.storage.file_systems import refuse_mounts
from ftpserver.storage.home_staging import Tally
from ftpserver.storage.in_place import Guard, RemovalInPlace
from ftpserver.workspace.copying import Copying
from ftpserver.workspace.observer import ticker, ticker_on
from ftpserver.workspace.scope import Scope
from ftpwire import paths
from ftpwire.errors import (
    Cancelled,
    CommandError,
    InvalidPath,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import Copy, Move
from ftpwire.paths import Parts


def remove_in_place(scope: Scope, path: bytes, may_go: Guard | None = None) -> Tally:
    """Remove a tree file by file, where its file system can't move it away at once.

    Each step is settled. A CANCEL ends it between two; the same command goes on with the rest.

    Raises:
        Cancelled, CommandError: The text says how much was removed.
    """
    guard = {} if may_go is None else {"may_go": may_go}
    removal = RemovalInPlace(scope.home, paths.split(path), **guard)
    observer = scope.observer
    tick = ticker(observer)
    try:
        while not removal.done:
            with scope.freeing() as settle:
                removal.step(settle)
            tick()
            observer.look_for_cancel()
    except BaseException as error:
        gone = removal.tally.files + removal.tally.directories
        observer.has_removed(gone, removal.tally.size)
        if not isinstance(error, (OSError, Cancelled)):
            raise  # the connection was lost, for one
        if not gone and isinstance(error, OSError):
            raise from_oserror(error, paths.show(path)) from None
        text = f"{paths.show(path)}: {gone} in it were removed; the same command goes on"
        if isinstance(error, Cancelled):
            observer.remark(text)
            raise
        reason = from_oserror(error, "")
        raise type(reason)(f"{text}, and failed now: {reason}") from None
    if removal.kept:
        tally = removal.tally
        observer.has_removed(tally.files + tally.directories, tally.size)
        raise SourceChanged(
            f"{paths.show(path)}: {removal.kept} in it changed while it was moved, and stay there"
        )
    return removal.tally


class MovingByCopy:
    """A move to where no rename leads: another file system, or out of a lower layer of overlay.

    What is moved is copied to staging of the target's file system and gets its name there at
    once; then the source is removed. What changes in the source meanwhile stays there.

    Args:
        in_tree: A hidden tree is under way in the home: no other one can be begun.
    """

    def __init__(self, scope: Scope, request: Move, *, in_tree: bool) -> None:
        self._scope = scope
        self._in_tree = in_tree
        self._request = request
        self._source = paths.split(request.source)
        self._target = paths.split(request.target)

    def run(self) -> None:
        """Move it. Raises what `Home.move` would, and what copying does."""
        home, request = self._scope.home, self._request
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

    def _move_tree(self, info: os.stat_result) -> None:
        scope, request = self._scope, self._request
        if scope.home.is_inside(self._target, self._source):
            text = f"{paths.show(request.source)}: can't be moved into itself"
            raise InvalidPath(text, path=request.source)
        if self._in_tree:
            raise CommandError("a tree is under way already")
        tree = scope.tree(request.target, info.st_mode, elsewhere=True)
        try:
            self._copy()
            tree.commit(ticker_on(scope.observer))
        except BaseException:
            tree.abort(ticker_on(scope.observer))
            raise
        with self._saying_that_it_is_there():
            remove_in_place(scope, request.source, self._is_moved)

    def _move_file(self, before: os.stat_result) -> None:
        scope, request = self._scope, self._request
        self._copy()
        with self._saying_that_it_is_there():
            now = scope.home.stat(self._source, follow=False)
            if not _is_same(before, now) or before.st_ino != now.st_ino:
                raise SourceChanged(f"{paths.show(request.source)}: changed while it was moved")
            with scope.freeing() as settle:
                scope.home.remove(
                    request.source, recursive=False, tick=lambda: None, settle=settle, final=True
                )

    def _copy(self) -> None:
        request = self._request
        copy = Copy(request.source, request.target, True, request.overwrite)
        copying = Copying(self._scope, copy, moving=True)
        copying.run()
        if copying.first_error is not None:
            raise copying.first_error

    @contextmanager
    def _saying_that_it_is_there(self) -> Iterator[None]:
        try:
            yield
        except CommandError as error:
            there = paths.show(self._request.target)
            raise error.with_text(f"{there} is there, whole; {error}") from None
        except OSError as error:
            there, source = paths.show(self._request.target), paths.show(self._request.source)
            raise from_oserror(error, f"{there} is there, whole; {source}") from None

    def _is_moved(self, below: Parts, info: os.stat_result) -> bool:
        """Whether something of the source is at the target, as it is now."""
        try:
            there = self._scope.home.stat((*self._target, *below), follow=False)
        except OSError:
            return False
        return _is_same(info, there)


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return False
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
