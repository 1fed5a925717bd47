"""Undoing one line of an operation: the renames, and the lines that record them.

Lives here: for each kind of line, the conditions, and what is done about a file that is in the way.
Lives elsewhere: choosing the items, the home's lock, the quota (restoring.py).

A replaced file is exchanged with what is at its path, so that the name is never without a file.
Where names cannot be exchanged, the present file gets a second name in the trash first, and is then
replaced by one rename; the home is locked exclusively meanwhile.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ftpserver.storage import file_systems
from ftpserver.storage.commit import lstat
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Action
from ftpserver.storage.trash.directory import Opened
from ftpserver.storage.trash.glance import counted_as
from ftpserver.storage.trash.index import Contents, Gone, Item, Measured, State, What
from ftpserver.storage.trash.operation import Operation
from ftpserver.storage.trash.steps import (
    AlreadyDone,
    Batch,
    NameAt,
    NeedsAlone,
    Seen,
    Step,
    conflict,
    look,
    movable,
    names_beside,
    opened_directory,
)
from ftpserver.storage.walk import counted_size
from ftpwire import beneath, paths
from ftpwire.messages import MakeDir, Restore
from ftpwire.paths import Parts

_JUST_TAKEN = "something else was put there just now"
_TOO_MANY_BESIDE = "too many files were restored beside it"


@dataclass(frozen=True)
class DryRunPath:
    """The state of a path after the steps of a dry run.

    Attributes:
        seen: Its state; None if nothing would be there.
        names: Where it is now, as a path below the operation's directory; empty if it is in the
            home.
        home: Where it is now, if it is in the home.
    """

    seen: Seen | None = None
    names: Parts = ()
    home: Parts = ()


class DryRunState:
    """The changes of a dry run: what would be where if all of its steps had been done."""

    def __init__(self) -> None:
        self._at: dict[Parts, DryRunPath] = {}
        self._below = Counter[Parts]()
        """For each path, how many keys of `_at` are equal to it or below it. Mostly none are, and
        `_pop_below` need not search."""

    def clear(self) -> None:
        """Forget all changes."""
        self._at.clear()
        self._below.clear()

    def put(self, path: Parts, placed: DryRunPath) -> None:
        """Record that something is at a path, with all that is in it."""
        self._pop_below(path)
        self._set(path, placed)

    def move(self, source: Parts, target: Parts, moved: Seen) -> None:
        """Record that something in the home was moved to another path."""
        found, rest = self.find(source)
        placed = DryRunPath(moved, home=source)
        if found is not None:
            names = (*found.names, *rest) if found.names else ()
            placed = DryRunPath(moved, names, (*found.home, *rest))
        below = self._pop_below(source)
        self.put(target, placed)
        for path, one in below.items():
            self._set((*target, *path[len(source) :]), one)
        self._set(target, placed)
        self._set(source, DryRunPath())

    def find(self, path: Parts) -> tuple[DryRunPath | None, Parts]:
        """Return what would be at a path, or at the nearest path above it that was changed, and the
        rest of the path below that. Return None and the path if nothing was changed there."""
        for count in range(len(path), 0, -1):
            found = self._at.get(path[:count])
            if found is not None:
                return found, path[count:]
        return None, path

    def _set(self, path: Parts, placed: DryRunPath) -> None:
        if path not in self._at:
            self._below.update(path[:count] for count in range(1, len(path) + 1))
        self._at[path] = placed

    def _pop_below(self, path: Parts) -> dict[Parts, DryRunPath]:
        if not self._below[path]:
            return {}
        below = {one: self._at[one] for one in self._at if one[: len(path)] == path}
        for one in below:
            del self._at[one]
            self._below.subtract(one[:count] for count in range(1, len(one) + 1))
        return below


class TakingBack:
    """Undoes an operation, item by item. Hold the home's lock, and the operation exclusively.

    Args:
        opened: The operation that is restored from.
        contents: The content of its index.
        into: The operation that records the restoring itself.

    Attributes:
        imagined: The changes of a dry run.
        unmeasured: True if there are trees in the trash that have to be measured.
    """

    def __init__(
        self, home: Home, request: Restore, opened: Opened, contents: Contents, into: Operation
    ) -> None:
        self.imagined = DryRunState()
        self.unmeasured = False
        self._home = home
        self._request = request
        self._opened = opened
        self._contents = contents
        self._into = into

    def at(self, parts: Parts) -> Seen | None:
        """Return what is at a path; in a dry run, what would be there after its steps so far."""
        placed, rest = self.imagined.find(parts)
        if placed is not None and (placed.seen is None or not rest):
            return placed.seen
        try:
            if placed is None:
                directory, name = self._home.tree.parent(parts)
            elif placed.names:
                *above, name = (*placed.names, *rest)
                directory = beneath.open_below(self._opened.fd, above)
            else:
                directory, name = self._home.tree.parent((*placed.home, *rest))
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return look(directory, name)
        finally:
            os.close(directory)

    @contextmanager
    def way(self, step: Step) -> Iterator[tuple[int, bytes] | None]:
        """Open the directory in the trash that contains an item, or a part of it, within the
        context. Yield its descriptor and the name in it; None if there is no such part. Directories
        whose modes deny access are made accessible meanwhile, except in a dry run. No link is
        followed."""
        names = [step.entry.name.encode(), *step.below]
        with ExitStack() as stack:
            fd = self._opened.fd
            for name in names[:-1]:
                try:
                    fd = stack.enter_context(
                        opened_directory(fd, name, change=not self._request.look)
                    )
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                        raise
                    yield None
                    return
            yield (fd, names[-1]) if lstat(fd, names[-1]) is not None else None

    def take_back(self, step: Step, batch: Batch | None) -> Parts:
        """Do one step. Return the path that was changed, which differs from the step's path if the
        item was restored beside something else.

        Args:
            batch: The changes under the present lock; None for a dry run.

        Raises:
            CommandError, OSError: The step cannot be done; nothing is changed.
            AlreadyDone: The step has been done before.
            NeedsAlone: The step needs the home's lock exclusively.
        """
        what = step.entry.item.what
        if what == "moved":
            return self._move_back(step, batch)
        if what == "restored":
            return self._take_again(step, batch)
        return self._put_back(step, batch)

    def foreseen(self, step: Step) -> Item | None:
        """Return the line for the file that a step will move to the trash; None if it won't move
        any, or moves a directory."""
        there = self.at(step.to)
        if there is None or there.is_dir:
            return None
        if step.entry.item.what == "restored":
            return self._line("removed", step.to)
        with self.way(step) as way:
            seen = None if way is None else look(*way)
        if seen is None or self._chosen(step, there) != "replace":
            return None
        return self._line("replaced", step.to, after=seen.state, source=step.entry.name)

    # items that were removed or replaced -------------------------------------------------

    def _put_back(self, step: Step, batch: Batch | None) -> Parts:
        with self.way(step) as way:
            seen = None if way is None else look(*way)
            if way is None or seen is None:
                raise AlreadyDone
            self._check_rights(step, seen)
            there = self.at(step.to)
            is_second = there is not None and os.path.samestat(there.info, seen.info)
            is_swapped = not is_second and self._is_swapped(step, seen, there)
            if is_second or is_swapped:
                how = "place"
            else:
                how = self._chosen(step, there)
            if batch is None:
                to = self._free_beside(step.to) if how == "beside" else step.to
                names = (step.entry.name.encode(), *step.below)
                self.imagined.put(to, DryRunPath(seen, names))
                return to
            if is_second:
                self._drop_second_name(step, way, seen, batch)
                raise AlreadyDone
            if is_swapped:
                assert there is not None
                self._finish_swap(step, way, seen, there, batch)
                return step.to
            to = step.to
            directory, name = self._parent(to, batch)
            try:
                if how == "replace":
                    assert there is not None
                    self._swap(step, way, seen, (directory, name), there, batch)
                else:
                    to = self._put(step, way, seen, (directory, name), there, batch)
                batch.touch(directory)
            finally:
                os.close(directory)
            if step.below:
                batch.touch(way[0])
            return to

    def _free_beside(self, parts: Parts) -> Parts:
        """Return the path to restore something under when its own is taken."""
        *above, name = parts
        for free in names_beside(name):
            if self.at((*above, free)) is None:
                return (*above, free)
        raise conflict(parts, _TOO_MANY_BESIDE)

    def _check_rights(self, step: Step, seen: Seen) -> None:
        """Raise Forbidden unless the account's current permissions allow restoring it there."""
        home, whole = self._home, seen.is_dir
        path = (*step.entry.path, *step.below)
        paths.split(paths.join(*step.to))
        home.require(Action.LIST, path, whole=whole)
        if not step.exact or self._request.conflict == "beside":
            # under another name it may be readable although its former path isn't
            home.require(Action.READ, path, whole=whole)
        home.require(Action.CREATE, step.to, whole=whole)

    def _chosen(self, step: Step, there: Seen | None) -> str:
        """Return what to do: ``place`` it at a free path, ``replace`` what is there, or restore it
        ``beside`` that.

        Raises:
            Conflict: Something is there that must stay.
        """
        if there is None:
            return "place"
        how: str = self._request.conflict
        if step.exact and not step.below and there.is_still(step.entry.item.after):
            how = "replace"
        if how == "skip":
            raise conflict(step.to, "something else is there")
        if how == "replace":
            self._home.require(Action.REPLACE, step.to, whole=there.is_dir)
        return how

    def _parent(self, parts: Parts, batch: Batch) -> tuple[int, bytes]:
        """Open the directory that something is restored to, and make it if it is missing. Return
        its descriptor and the name in it."""
        try:
            return self._home.tree.parent(parts)
        except FileNotFoundError:
            if not batch.alone:
                raise NeedsAlone from None
        batch.commit.make_dir(MakeDir(paths.join(*parts[:-1]), parents=True))
        return self._home.tree.parent(parts)

    def _put(
        self,
        step: Step,
        way: NameAt,
        seen: Seen,
        destination: NameAt,
        there: Seen | None,
        batch: Batch,
    ) -> Parts:
        """Rename an item to its former name, or to a free name beside it. Return its new path."""

        def note(path: Parts) -> Item:
            return self._line("restored", path, after=seen.state, source=step.entry.name)

        to = self._rename(way, seen, destination, step.to, there, note)
        self._is_back(step, seen, batch)
        return to

    def _rename(
        self,
        source: NameAt,
        seen: Seen,
        destination: NameAt,
        to: Parts,
        there: Seen | None,
        note: Callable[[Parts], Item],
    ) -> Parts:
        """Rename something to a free name: to ``to``, or to one beside it if something is there.
        Return its new path.

        Args:
            note: A function that returns the line about it, given its new path.
        """
        directory, name = destination
        with movable((source, seen)):
            for free in [name] if there is None else names_beside(name):
                if there is not None and lstat(directory, free) is not None:
                    continue
                path = (*to[:-1], free)
                self._into.announce([note(path)], sync=False)
                try:
                    beneath.rename_new(*source, directory, free)
                    return path
                except FileExistsError:
                    if there is None:
                        raise conflict(path, _JUST_TAKEN) from None
        raise conflict(to, _TOO_MANY_BESIDE)

    def _swap(
        self,
        step: Step,
        way: NameAt,
        seen: Seen,
        destination: NameAt,
        there: Seen,
        batch: Batch,
    ) -> None:
        """Exchange an item with what is at its path, and move that to the trash."""
        if there.is_dir and not batch.alone:
            raise NeedsAlone
        line = batch.announced.pop(id(step), None)
        if line is None:
            line = self._replacing(step.to, seen, there, step.entry.name)
        with movable((way, seen), (destination, there)):
            if self._home.can_exchange():
                self._exchange(way, destination, there, line, step.to, batch)
            else:
                self._replace_in_two(way, seen, destination, there, line)
        self._has_taken(there, batch)
        self._is_back(step, seen, batch)

    def _line(
        self,
        what: What,
        path: Parts,
        *,
        target: Parts | None = None,
        after: State | None = None,
        source: str | None = None,
    ) -> Item:
        number = self._request.number
        return self._into.item(what, path, target=target, after=after, number=number, source=source)

    def _replacing(self, path: Parts, seen: Seen, there: Seen, source: str | None) -> Item:
        """Announce that something is replaced. Return the line."""
        what: What = "tree" if there.is_dir else "replaced"
        line = self._line(what, path, after=seen.state, source=source)
        self._into.announce([line])
        return line

    def _exchange(
        self, way: NameAt, destination: NameAt, there: Seen, line: Item, to: Parts, batch: Batch
    ) -> None:
        try:
            beneath.exchange(*way, *destination)
        except beneath.Unsupported:
            self._home.cannot_exchange(self._home.staging_fd)
            raise NeedsAlone from None
        except FileNotFoundError:
            if batch.alone:
                raise
            raise NeedsAlone from None  # what was there is gone: try again, locked exclusively
        try:
            came_out = os.stat(way[1], dir_fd=way[0], follow_symlinks=False)
            if not os.path.samestat(came_out, there.info):
                raise conflict(to, _JUST_TAKEN)
            self._into.take(*way, line)
        except BaseException:
            beneath.exchange(*way, *destination)
            raise

    def _replace_in_two(
        self, source: NameAt, seen: Seen, destination: NameAt, there: Seen, line: Item
    ) -> None:
        """Replace what is there, which goes to the trash, without an exchange. A file gets a second
        name in the trash first, so that its path is never without a file. Hold the home's lock
        exclusively: a file that another session put there meanwhile would be lost."""
        into = self._into
        if not seen.is_dir and not there.is_dir:
            try:
                into.link(*destination, line)
            except OSError:
                pass  # the file system has no hard links: use two renames
            else:
                try:
                    into.sync()
                    os.rename(
                        source[1], destination[1], src_dir_fd=source[0], dst_dir_fd=destination[0]
                    )
                except BaseException:
                    into.unlink(line)
                    raise
                return
        into.take(*destination, line)
        try:
            beneath.rename_new(*source, *destination)
        except BaseException:
            into.give_back(line, *destination)
            raise

    def _has_taken(self, taken: Seen, batch: Batch) -> None:
        """Count something that was moved to the trash: a file at once, a tree once it is
        measured."""
        if taken.is_dir:
            self.unmeasured = True
        else:
            batch.add(counted_size(taken.info), 1)

    def _is_back(self, step: Step, seen: Seen, batch: Batch) -> None:
        """Record that an item, or a part of it, has left the trash and no longer counts there."""
        entry, contents = step.entry, self._contents
        if not entry.is_found:  # an item without a line has never counted
            known = counted_as(contents, entry.item, seen.info)
            batch.add(-known.size, -known.files)
        if step.below:
            self.unmeasured = True
            part = contents.measured[entry.name] = Measured(entry.name, None, None)
            batch.lines.append(part)
            return
        gone = contents.gone[entry.name] = Gone(entry.name, "restored", self._into.name)
        batch.lines.append(gone)

    # finishing what a crash interrupted --------------------------------------------------

    def _is_swapped(self, step: Step, seen: Seen, there: Seen | None) -> bool:
        """Return whether a crash ended an earlier try between the exchange and moving what came out
        to the trash. In that case, what came out has the item's name."""
        after = step.entry.item.after
        return (
            step.exact
            and not step.below
            and there is not None
            and after is not None
            and seen.is_exactly(after)
            and not there.is_still(after)
        )

    def _finish_swap(self, step: Step, way: NameAt, seen: Seen, there: Seen, batch: Batch) -> None:
        line = self._replacing(step.to, there, seen, step.entry.name)
        with movable((way, seen)):
            self._into.take(*way, line)
        self._has_taken(seen, batch)
        self._is_back(step, there, batch)

    def _drop_second_name(self, step: Step, way: NameAt, seen: Seen, batch: Batch) -> None:
        """Remove the second name that a file was given in the trash before a crash kept it from
        being replaced."""
        os.unlink(way[1], dir_fd=way[0])
        batch.freed += counted_size(seen.info)
        batch.freed_files += 1
        self._is_back(step, seen, batch)

    # items that were moved ---------------------------------------------------------------

    def _move_back(self, step: Step, batch: Batch | None) -> Parts:
        home, after, target = self._home, step.entry.item.after, step.entry.target
        assert target is not None
        there, moved = self.at(step.to), self.at(target)
        if there is not None and after is not None and there.info.st_ino == after.inode:
            raise AlreadyDone  # moved back before, or the move was to its own path
        if moved is None or after is None or moved.info.st_ino != after.inode:
            raise conflict(target, "what was moved there is no longer there")
        home.require(Action.LIST, target, whole=moved.is_dir)
        home.require(Action.DELETE, target, whole=moved.is_dir)
        home.require(Action.CREATE, step.to, whole=moved.is_dir)
        how: str = "place" if there is None else self._request.conflict
        if how == "skip":
            raise conflict(step.to, "something else is there")
        if how == "replace" and there is not None:
            home.require(Action.REPLACE, step.to, whole=there.is_dir)
        to = step.to
        if batch is None:
            if how == "beside":
                to = self._free_beside(to)
            self.imagined.move(target, to, moved)
            return to
        if not batch.alone:
            raise NeedsAlone

        def note(path: Parts) -> Item:
            return self._line("moved", target, target=path, after=moved.state)

        with ExitStack() as stack:
            source = home.tree.parent(target)
            stack.callback(os.close, source[0])
            destination = self._parent(step.to, batch)
            stack.callback(os.close, destination[0])
            if how == "replace" and there is not None:
                line = self._replacing(step.to, moved, there, None)
                with movable((source, moved), (destination, there)):
                    self._replace_in_two(source, moved, destination, there, line)
                self._into.announce([note(step.to)], sync=False)
                self._has_taken(there, batch)
            else:
                to = self._rename(source, moved, destination, to, there, note)
            # in this order: otherwise a power cut could leave it in neither directory
            batch.touch(destination[0])
            batch.touch(source[0])
        return to

    # items that were restored ------------------------------------------------------------

    def _take_again(self, step: Step, batch: Batch | None) -> Parts:
        """Move an item that was restored to the trash again."""
        home, there = self._home, self.at(step.to)
        if there is None:
            raise AlreadyDone
        if not there.is_still(step.entry.item.after) and self._request.conflict != "replace":
            raise conflict(step.to, "it has changed since it was restored")
        home.require(Action.DELETE, step.to, whole=there.is_dir)
        if batch is None:
            self.imagined.put(step.to, DryRunPath())
            return step.to
        if there.is_dir and not batch.alone:
            raise NeedsAlone
        directory, name = home.tree.parent(step.to)
        try:
            if there.is_dir:
                file_systems.refuse_mounts(directory, name, step.path)
            line = batch.announced.pop(id(step), None)
            if line is None:
                line = self._line("tree" if there.is_dir else "removed", step.to)
                self._into.announce([line])
            with movable(((directory, name), there)):
                info = self._into.take(directory, name, line)
            if not os.path.samestat(info, there.info):
                self._into.give_back(line, directory, name)
                raise conflict(step.to, _JUST_TAKEN)
            self._has_taken(there, batch)
            batch.touch(directory)
        finally:
            os.close(directory)
        return step.to
