"""Restoring: undoing an operation line by line, the last line first.

Lives here: choosing the lines, the locks, the quota, the result.
Lives elsewhere: the items of an operation (entries.py), undoing one line (taking_back.py), the
operation that records the restoring itself (operation.py).

The operation that is restored from is held exclusively all the time: no other session restores from
it, measures it or purges it. The home is locked for the renames only. A crash loses nothing: an
item that was renamed is back, and its line, whose item is gone, counts as done; what it replaced is
in the trash, in one of the two operations.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ftpserver.storage.commit import Commit, lstat
from ftpserver.storage.group_sync import Syncs
from ftpserver.storage.home import Home
from ftpserver.storage.quota import LeaseStore, QuotaStore
from ftpserver.storage.staging_dirs import StagingDirs
from ftpserver.storage.trash.directory import Opened, alone, is_gone, looking, open_trash
from ftpserver.storage.trash.entries import TrashEntry, check_owner, entries_of
from ftpserver.storage.trash.index import Contents, Undone
from ftpserver.storage.trash.operation import NoSpace, Operation
from ftpserver.storage.trash.steps import AlreadyDone, Batch, NeedsAlone, Step
from ftpserver.storage.trash.taking_back import TakingBack
from ftpwire import paths
from ftpwire.errors import CommandError, DiskFull, NotFound, from_oserror
from ftpwire.messages import Problem, Restore, Restored
from ftpwire.paths import Parts

_TOGETHER = 100
"""Most files that are restored under one lock, and settled in one transaction."""
_MOST_REPORTED = 100
"""Most conflicts, and most paths, that a reply names."""


class Restoring:
    """Carries out one `Restore` request. For one thread, and one run.

    Args:
        into: The operation that records the restoring itself: what it replaces or removes goes
            there. It must differ from the one that is restored from.
        tick: A function that is called between two steps. It may raise to end the restoring; what
            was restored by then stays.
    """

    def __init__(
        self,
        home: Home,
        quota_store: QuotaStore,
        lease_store: LeaseStore,
        account_id: int,
        request: Restore,
        into: Operation,
        *,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._home = home
        self._quota_store = quota_store
        self._lease_store = lease_store
        self._account_id = account_id
        self._request = request
        self._into = into
        self._tick = tick
        self._wanted = _topmost([paths.split(path) for path in request.paths])
        self._target = None if request.target is None else paths.split(request.target)
        self._held = ExitStack()
        self._is_ready = False
        self._items = self._already = self._gone = self._more = 0
        self._conflicts: list[Problem] = []
        self._paths: list[bytes] = []
        self._opened: Opened
        self._contents: Contents
        self._taking: TakingBack

    def run(self) -> Restored:
        """Restore, or only find out what that would do.

        Raises:
            Expired, NotFound: There is no such operation.
            Busy: Other sessions hold the operation.
            Forbidden, QuotaExceeded, DiskFull: Nothing can be restored.
            Cancelled: The request was cancelled; what was restored by then stays.
        """
        home, name = self._home, self._request.operation
        if not self._request.look:
            home.check_writable()
        trash = open_trash(home)
        if trash is None:
            raise is_gone(name)
        try:
            look = self._request.look
            with looking(trash, name) if look else alone(home, trash, name) as opened:
                self._opened, self._contents = opened, opened.contents()
                check_owner(name, self._contents, self._account_id)
                self._taking = TakingBack(home, self._request, opened, self._contents, self._into)
                try:
                    with self._held:
                        self._walk()
                        if not look:
                            self._close_operation()
                finally:
                    if self._taking.unmeasured:
                        self._quota_store.measure_soon(self._account_id)
        except NoSpace:
            raise DiskFull("the disk has no space for the records that restoring needs") from None
        finally:
            os.close(trash)
        return Restored(
            self._items,
            self._already,
            self._gone,
            self._conflicts,
            self._more,
            self._into.name if self._is_ready else None,
            self._paths,
        )

    def _close_operation(self) -> None:
        """If all of the operation was undone, record that, so that nothing more is added to it."""
        request, by = self._request, self._into.name
        part = request.items or request.paths or request.target is not None
        if part or self._conflicts or by is None or not self._is_ready:
            return
        self._opened.append([Undone(by, time.time_ns())])
        self._quota_store.close_operation(self._account_id, request.operation)

    # choosing the items ------------------------------------------------------------------

    def _walk(self) -> None:
        waiting: list[Step] = []
        met: set[Parts] = set()
        for entry in reversed(entries_of(self._opened, self._contents)):
            for step in self._steps(entry, met):
                if self._is_simple(step):
                    waiting.append(step)
                    if len(waiting) >= _TOGETHER:
                        self._do(waiting)
                        waiting = []
                    continue
                self._do(waiting)
                waiting = []
                self._do([step], alone=True)
        self._do(waiting)
        for path in self._wanted:
            if path not in met:
                shown = paths.show(paths.join(*path))
                error = NotFound(f"{shown}: not found in this operation")
                self._report_problem(error, paths.join(*path))

    def _steps(self, entry: TrashEntry, met: set[Parts]) -> Iterator[Step]:
        """Yield the steps for an item. Add to ``met`` each requested path that is the item's path,
        above it or below it."""
        request = self._request
        if request.items and entry.name not in request.items:
            return
        if not entry.name and self._target is not None:
            return  # nothing is kept that could be restored elsewhere
        if not self._wanted:
            yield from self._whole(entry)
            return
        both = (entry.path,) if entry.target is None else (entry.path, entry.target)
        at = [one for one in self._wanted if any(p[: len(one)] == one for p in both)]
        if at:
            met.update(at)
            yield from self._whole(entry)
            return
        for path in self._wanted:
            if path[: len(entry.path)] == entry.path and entry.name:
                yield from self._part(entry, path, met)

    def _whole(self, entry: TrashEntry) -> Iterator[Step]:
        if entry.name and not entry.is_there:
            gone = self._contents.gone.get(entry.name)
            if gone is not None and gone.became == "purged":
                self._gone += 1
            elif gone is not None or self._taking.at(entry.path) is not None:
                self._already += 1
            else:
                self._gone += 1
            return
        yield self._step(entry)

    def _part(self, entry: TrashEntry, path: Parts, met: set[Parts]) -> Iterator[Step]:
        """Yield the step for a part of a tree, if the tree has that part."""
        below = path[len(entry.path) :]
        if entry.is_there:
            step = self._step(entry, below)
            with self._taking.way(step) as way:
                has_it = way is not None
            if has_it:
                met.add(path)
                yield step
                return
        if entry.item.what == "tree" and self._taking.at(path) is not None:
            met.add(path)
            self._already += 1

    def _step(self, entry: TrashEntry, below: Parts = ()) -> Step:
        path = (*entry.path, *below)
        if self._target is None:
            return Step(entry, path, below)
        return Step(entry, (*self._target, path[-1]), below, exact=False)

    def _is_simple(self, step: Step) -> bool:
        """Return whether a step involves files only, so that it can be done under one lock with
        others."""
        if self._request.look:
            return True
        if step.entry.item.what == "moved" or step.below or not self._home.can_exchange():
            return False
        if step.entry.name:
            info = lstat(self._opened.fd, step.entry.name.encode())
            if info is None or stat.S_ISDIR(info.st_mode):
                return False
        try:
            there = self._taking.at(step.to)
            return not (there is not None and there.is_dir) and not self._missing(step.to)
        except (OSError, CommandError):
            return True  # the step itself will raise this error

    def _missing(self, parts: Parts) -> int:
        """Return how many directories above a path are missing."""
        for count in range(len(parts) - 1, 0, -1):
            try:
                self._home.stat(parts[:count], follow=True)
                return len(parts) - 1 - count
            except FileNotFoundError:
                continue
            except (OSError, CommandError):
                return 0  # the step itself will raise this error
        return len(parts) - 1

    # doing the steps ---------------------------------------------------------------------

    def _do(self, steps: Sequence[Step], *, alone: bool = False) -> None:
        """Do some steps, and make them durable."""
        if not steps:
            return
        self._tick()
        if self._request.look:
            for step in steps:
                with self._reporting(step):
                    self._report_done(self._taking.take_back(step, None))
            return
        if not self._is_ready:
            refusals = [self._refusal(step) for step in steps]
            if None not in refusals:
                self._report_all(steps, refusals)  # without making an operation
                return
            self._held.enter_context(self._into.writing())
            self._is_ready = True
        left = self._do_locked(steps, alone=alone)
        if left:
            self._do(left[:1], alone=True)
            self._do(left[1:])

    def _refusal(self, step: Step) -> CommandError | AlreadyDone | None:
        """Return the error that would prevent a step, or None if only trying can show that."""
        try:
            self._taking.take_back(step, None)
        except (CommandError, AlreadyDone) as error:
            return error
        except OSError:
            pass
        finally:
            self._taking.imagined.clear()
        return None

    def _report_all(
        self, steps: Sequence[Step], refusals: Sequence[CommandError | AlreadyDone | None]
    ) -> None:
        for step, refusal in zip(steps, refusals, strict=True):
            with self._reporting(step):
                if refusal is not None:
                    raise refusal

    def _do_locked(self, steps: Sequence[Step], *, alone: bool) -> Sequence[Step]:
        """Do steps under one lock. Return the steps that are left; the first of them needs the home
        locked exclusively.

        Args:
            alone: True to lock the home exclusively; then there is one step only.
        """
        with ExitStack() as held:
            if alone:
                missing = self._missing(steps[0].to)
                try:
                    if missing and steps[0].entry.item.what != "restored":
                        lease = self._lease_store.reserve(self._account_id, 0, files=missing)
                        held.callback(self._lease_store.release, lease)
                except CommandError as error:
                    self._report_problem(error, steps[0].path)
                    return ()
            staging_dirs = StagingDirs(self._home)
            held.callback(staging_dirs.close)
            # this lease is held until everything below is done: after a crash before it is settled,
            # the home is counted again
            settle = held.enter_context(self._lease_store.freeing(self._account_id))
            held.enter_context(self._home.alone() if alone else self._home.shared())
            batch = Batch(alone, Commit(self._home, staging_dirs, Syncs()))
            held.callback(batch.close)
            try:
                if len(steps) > 1:
                    self._announce(steps, batch)
                for number, step in enumerate(steps):
                    try:
                        with self._reporting(step):
                            self._report_done(self._taking.take_back(step, batch))
                    except NeedsAlone:
                        return steps[number:]
                return ()
            finally:
                try:
                    self._sync(batch)
                finally:
                    if batch.is_changed:
                        made = batch.commit.files
                        freed = batch.freed, batch.freed_files - made
                        settle(*freed, batch.trash, batch.trash_files)

    def _announce(self, steps: Sequence[Step], batch: Batch) -> None:
        """Append, by one write, the lines for the files that the steps will move to the trash, as
        far as that can be foreseen. If a file isn't moved there after all, its line is skipped."""
        for step in steps:
            try:
                line = self._taking.foreseen(step)
            except (OSError, CommandError):
                continue  # the step itself will raise this error
            if line is not None:
                batch.announced[id(step)] = line
        if batch.announced:
            self._into.announce(list(batch.announced.values()))

    def _sync(self, batch: Batch) -> None:
        """Make names and lines durable."""
        if not batch.is_changed:
            return
        if batch.commit.files and self._home.durable:
            batch.commit.sync()
        # target directories first: otherwise a power cut could leave a file in neither directory
        self._into.sync()
        for fd in batch.touched.values():
            self._home.sync_dir(fd)
        self._home.sync_dir(self._opened.fd)
        self._into.announce([])  # lines about what isn't kept were not synced one by one
        if batch.lines:
            self._opened.append(batch.lines)

    @contextmanager
    def _reporting(self, step: Step) -> Iterator[None]:
        """Run one step in the context. If it fails, record that in the result and go on."""
        try:
            yield
        except AlreadyDone:
            self._already += 1
        except CommandError as error:
            self._report_problem(error, step.path)
        except OSError as error:
            failed = from_oserror(error, paths.show(step.path), step.path)
            self._report_problem(failed, step.path)

    def _report_done(self, path: Parts) -> None:
        self._items += 1
        if len(self._paths) < _MOST_REPORTED:
            self._paths.append(paths.join(*path))

    def _report_problem(self, error: CommandError, path: bytes) -> None:
        if len(self._conflicts) < _MOST_REPORTED:
            self._conflicts.append(Problem(path, error.code, str(error)))
        else:
            self._more += 1


def _topmost(wanted: list[Parts]) -> list[Parts]:
    """Return the paths that are not below another one of them, without duplicates."""
    chosen = set(wanted)
    return [
        path
        for path in dict.fromkeys(wanted)
        if not any(path[:count] in chosen for count in range(len(path)))
    ]
