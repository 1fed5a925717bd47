"""Restoring: an operation is taken back, line by line, the last one first.

Lives here: which lines are meant, the locks, the books, what is told of it.
Lives elsewhere: what lies in an operation (things.py), what is done about each line
(taking_back.py), the operation that the restoring is itself (operation.py).

The operation that is restored from is held alone all the while: nobody else restores from it,
counts it or gives it up. The home is locked for the renames only. A crash loses nothing: what was
renamed is back, and its line, of which the thing is gone, is done; what it replaced lies in the
trash, in either of the two operations.
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
from ftpserver.storage.places import Places
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.trash.directory import Opened, alone, is_gone, looking, open_trash
from ftpserver.storage.trash.index import Contents, Undone
from ftpserver.storage.trash.operation import NoRoom, Operation
from ftpserver.storage.trash.steps import Already, Batch, NeedsAlone, Step
from ftpserver.storage.trash.taking_back import TakingBack
from ftpserver.storage.trash.things import Thing, check_owner, things_of
from ftpwire import paths
from ftpwire.errors import CommandError, DiskFull, NotFound, from_oserror
from ftpwire.messages import Problem, Restore, Restored
from ftpwire.paths import Parts

_TOGETHER = 100
"""Files that are restored under one lock, and settled in one step."""
_MOST_TOLD = 100
"""Conflicts, and paths, that an answer names."""


class Restoring:
    """One `Restore`. For one thread, and one run.

    Args:
        into: The operation that the restoring is itself: what it replaces or takes away goes there.
            It must be another one than that which is restored from.
        tick: Called between two steps; may raise what ends it. What is restored by then stays.
    """

    def __init__(
        self,
        home: Home,
        quota_store: QuotaStore,
        account_id: int,
        request: Restore,
        into: Operation,
        *,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._home = home
        self._quota_store = quota_store
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
        """Restore, or look what that would do.

        Raises:
            Expired, NotFound: There is no such operation.
            Busy: Others are at it.
            Forbidden, QuotaExceeded, DiskFull: Nothing can be restored.
            Cancelled: What is back stays.
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
        except NoRoom:
            raise DiskFull("the disk has no room for the notes that restoring takes") from None
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
        """If all of it was undone, say so, and have nothing more added to it."""
        request, by = self._request, self._into.name
        part = request.items or request.paths or request.target is not None
        if part or self._conflicts or by is None or not self._is_ready:
            return
        self._opened.append([Undone(by, time.time_ns())])
        self._quota_store.close_operation(self._account_id, request.operation)

    # which things ------------------------------------------------------------------------

    def _walk(self) -> None:
        waiting: list[Step] = []
        met: set[Parts] = set()
        for thing in reversed(things_of(self._opened, self._contents)):
            for step in self._steps(thing, met):
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
                self._tell(NotFound(f"{shown}: nothing of that is in it"), paths.join(*path))

    def _steps(self, thing: Thing, met: set[Parts]) -> Iterator[Step]:
        """What is to be done about a thing. Adds those paths to ``met`` that were asked for, and
        that it is at, below or above."""
        request = self._request
        if request.items and thing.name not in request.items:
            return
        if not thing.name and self._target is not None:
            return  # nothing of it is kept that could go elsewhere
        if not self._wanted:
            yield from self._whole(thing)
            return
        places = (thing.path,) if thing.target is None else (thing.path, thing.target)
        at = [one for one in self._wanted if any(p[: len(one)] == one for p in places)]
        if at:
            met.update(at)
            yield from self._whole(thing)
            return
        for path in self._wanted:
            if path[: len(thing.path)] == thing.path and thing.name:
                yield from self._part(thing, path, met)

    def _whole(self, thing: Thing) -> Iterator[Step]:
        if thing.name and not thing.is_there:
            gone = self._contents.gone.get(thing.name)
            if gone is not None and gone.became == "purged":
                self._gone += 1
            elif gone is not None or self._taking.at(thing.path) is not None:
                self._already += 1
            else:
                self._gone += 1
            return
        yield self._step(thing)

    def _part(self, thing: Thing, path: Parts, met: set[Parts]) -> Iterator[Step]:
        """A part of a tree, if it has it."""
        below = path[len(thing.path) :]
        if thing.is_there:
            step = self._step(thing, below)
            with self._taking.way(step) as way:
                has_it = way is not None
            if has_it:
                met.add(path)
                yield step
                return
        if thing.item.what == "tree" and self._taking.at(path) is not None:
            met.add(path)
            self._already += 1

    def _step(self, thing: Thing, below: Parts = ()) -> Step:
        path = (*thing.path, *below)
        if self._target is None:
            return Step(thing, path, below)
        return Step(thing, (*self._target, path[-1]), below, exact=False)

    def _is_simple(self, step: Step) -> bool:
        """Whether no directory is touched by it, so that it can be done together with others."""
        if self._request.look:
            return True
        if step.thing.item.what == "moved" or step.below or not self._home.can_exchange():
            return False
        if step.thing.name:
            info = lstat(self._opened.fd, step.thing.name.encode())
            if info is None or stat.S_ISDIR(info.st_mode):
                return False
        try:
            there = self._taking.at(step.to)
            return not (there is not None and there.is_dir) and not self._missing(step.to)
        except (OSError, CommandError):
            return True  # its turn will tell

    def _missing(self, parts: Parts) -> int:
        """How many directories above a path are missing."""
        for count in range(len(parts) - 1, 0, -1):
            try:
                self._home.stat(parts[:count], follow=True)
                return len(parts) - 1 - count
            except FileNotFoundError:
                continue
            except (OSError, CommandError):
                return 0  # its turn will tell
        return len(parts) - 1

    # doing it ----------------------------------------------------------------------------

    def _do(self, steps: Sequence[Step], *, alone: bool = False) -> None:
        """Do some of it, and make that durable."""
        if not steps:
            return
        self._tick()
        if self._request.look:
            for step in steps:
                with self._telling(step):
                    self._tell_done(self._taking.take_back(step, None))
            return
        if not self._is_ready:
            refusals = [self._refusal(step) for step in steps]
            if None not in refusals:
                self._tell_all(steps, refusals)  # and no operation is made for it
                return
            self._held.enter_context(self._into.writing())
            self._is_ready = True
        left = self._do_locked(steps, alone=alone)
        if left:
            self._do(left[:1], alone=True)
            self._do(left[1:])

    def _refusal(self, step: Step) -> CommandError | Already | None:
        """What would keep a step from being done; None where that has to be tried."""
        try:
            self._taking.take_back(step, None)
        except (CommandError, Already) as error:
            return error
        except OSError:
            pass
        finally:
            self._taking.imagined.clear()
        return None

    def _tell_all(
        self, steps: Sequence[Step], refusals: Sequence[CommandError | Already | None]
    ) -> None:
        for step, refusal in zip(steps, refusals, strict=True):
            with self._telling(step):
                if refusal is not None:
                    raise refusal

    def _do_locked(self, steps: Sequence[Step], *, alone: bool) -> Sequence[Step]:
        """Do steps under one lock; returns those that are left, of which the first one needs to be
        done alone."""
        with ExitStack() as held:
            if alone:
                missing = self._missing(steps[0].to)
                try:
                    if missing and steps[0].thing.item.what != "restored":
                        lease = self._quota_store.reserve(self._account_id, 0, files=missing)
                        held.callback(self._quota_store.release, lease)
                except CommandError as error:
                    self._tell(error, steps[0].path)
                    return ()
            places = Places(self._home)
            held.callback(places.close)
            settle = held.enter_context(self._quota_store.freeing(self._account_id))
            held.enter_context(self._home.alone() if alone else self._home.shared())
            batch = Batch(alone, Commit(self._home, places, Syncs()))
            held.callback(batch.close)
            try:
                if len(steps) > 1:
                    self._announce(steps, batch)
                for number, step in enumerate(steps):
                    try:
                        with self._telling(step):
                            self._tell_done(self._taking.take_back(step, batch))
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
        """Write down what files the steps are going to put into the trash, as far as that can be
        seen, in one step for all. A line about what doesn't come after all tells nothing."""
        for step in steps:
            try:
                line = self._taking.foreseen(step)
            except (OSError, CommandError):
                continue  # its turn will tell
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
        # first where things went to, or a power cut could find them in neither
        self._into.sync()
        for fd in batch.touched.values():
            self._home.sync_dir(fd)
        self._home.sync_dir(self._opened.fd)
        self._into.announce([])  # lines about what isn't kept were not synced one by one
        if batch.lines:
            self._opened.append(batch.lines)

    @contextmanager
    def _telling(self, step: Step) -> Iterator[None]:
        """One step: what keeps it from being done is told of it, and the rest goes on."""
        try:
            yield
        except Already:
            self._already += 1
        except CommandError as error:
            self._tell(error, step.path)
        except OSError as error:
            self._tell(from_oserror(error, paths.show(step.path), step.path), step.path)

    def _tell_done(self, path: Parts) -> None:
        self._items += 1
        if len(self._paths) < _MOST_TOLD:
            self._paths.append(paths.join(*path))

    def _tell(self, error: CommandError, path: bytes) -> None:
        if len(self._conflicts) < _MOST_TOLD:
            self._conflicts.append(Problem(path, error.code, str(error)))
        else:
            self._more += 1


def _topmost(wanted: list[Parts]) -> list[Parts]:
    """Those paths that are below none of the others, each once."""
    chosen = set(wanted)
    return [
        path
        for path in dict.fromkeys(wanted)
        if not any(path[:count] in chosen for count in range(len(path)))
    ]
