"""Moving and removing where the file system cannot rename.

Lives here: moving by copying, and removing file by file. Lives elsewhere: copying (copying.py), one
step of a removal (storage/in_place.py), staging (storage/atomic_tree.py).
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
    """Remove a tree file by file, because its file system cannot move it away at once.

    Each step is settled. A CANCEL takes effect between two steps; repeating the command removes the
    rest.

    Args:
        path: The tree.
        may_go: A function that returns whether a file may be removed. Files that must stay are
            left, with the directories above them.

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
            raise  # for example, a lost connection
        if not gone and isinstance(error, OSError):
            raise from_oserror(error, paths.show(path)) from None
        text = (
            f"{paths.show(path)}: removed {gone} files and directories in it; run the same command "
            "again to remove the rest"
        )
        if isinstance(error, Cancelled):
            observer.remark(text)
            raise
        reason = from_oserror(error, "")
        raise type(reason)(f"{text}; it failed with: {reason}") from None
    if removal.kept:
        tally = removal.tally
        observer.has_removed(tally.files + tally.directories, tally.size)
        raise SourceChanged(
            f"{paths.show(path)}: {removal.kept} files and directories in it changed during the "
            "move and were left there"
        )
    return removal.tally


class MovingByCopy:
    """A move that no rename can do: to another file system, or out of a lower layer of an overlay.

    The source is copied to staging on the target's file system and gets its name there at once;
    then the source is removed. What has changed in the source meanwhile stays there.

    Args:
        in_tree: True if the session has begun an atomic tree: it cannot begin another one.
    """

    def __init__(self, scope: Scope, request: Move, *, in_tree: bool) -> None:
        self._scope = scope
        self._in_tree = in_tree
        self._request = request
        self._source = paths.split(request.source)
        self._target = paths.split(request.target)

    def run(self) -> None:
        """Move the source. Raises the errors of `Home.move`, and those of copying."""
        home, request = self._scope.home, self._request
        home.check_move(request.source, request.target, replace=request.overwrite == "always")
        directory, name = home.tree.parent(self._source)
        try:
            refuse_mounts(directory, name, request.source)
            # refused before the copy: the source couldn't be removed afterwards
            if os.fstatvfs(directory).f_flag & os.ST_RDONLY:
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
            text = f"{paths.show(request.source)}: cannot be moved into itself"
            raise InvalidPath(text, path=request.source)
        if self._in_tree:
            raise CommandError("this needs an atomic tree, and another one has been begun already")
        tree = scope.tree(request.target, info.st_mode, elsewhere=True)
        try:
            self._copy()
            tree.commit(ticker_on(scope.observer))
        except BaseException:
            tree.abort(ticker_on(scope.observer))
            raise
        with self._copy_complete():
            remove_in_place(scope, request.source, self._is_moved)

    def _move_file(self, before: os.stat_result) -> None:
        scope, request = self._scope, self._request
        self._copy()
        with self._copy_complete():
            now = scope.home.stat(self._source, follow=False)
            if not _is_same(before, now) or before.st_ino != now.st_ino:
                raise SourceChanged(f"{paths.show(request.source)}: changed during the move")
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
    def _copy_complete(self) -> Iterator[None]:
        """Add to errors that the copy is complete, and only removing the source failed."""
        try:
            yield
        except CommandError as error:
            raise error.with_text(f"{self._complete_text()}: {error}") from None
        except OSError as error:
            source = paths.show(self._request.source)
            raise from_oserror(error, f"{self._complete_text()}: {source}") from None

    def _complete_text(self) -> str:
        target = paths.show(self._request.target)
        return f"the copy {target} is complete, but removing the source failed"

    def _is_moved(self, below: Parts, info: os.stat_result) -> bool:
        """Return whether the target has a copy of something in the source that is still current."""
        try:
            there = self._scope.home.stat((*self._target, *below), follow=False)
        except OSError:
            return False
        return _is_same(info, there)


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    if stat.S_IFMT(one.st_mode) != stat.S_IFMT(other.st_mode):
        return False
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)
