"""Comparing only some directories of a local tree with a remote one, for a watched tree.

Lives here: which of them exist on both sides; reaching them from the roots; listing each one.
Lives elsewhere: comparing a directory (diff.py), which directories changed (tree_changes.py).

Only the directories themselves are listed, not their subdirectories. In each directory above them,
the .ftpignore file is read, which costs no request.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice

from ftpclient.connection.connection import Connection
from ftpclient.sync.diff import Comparison
from ftpclient.sync.directories import Awaited, Directory, join, parts_of
from ftpclient.sync.local_reader import local_entry
from ftpclient.sync.plan import Route
from ftpclient.sync.policy import Policy
from ftpclient.transfer.listing import find
from ftpclient.transfer.path_list import path_below
from ftpclient.transfer.selection import Filter
from ftpclient.transfer.spool import Table
from ftpwire import paths
from ftpwire.errors import CommandError, InvalidPath, NotADirectory, NotFound
from ftpwire.messages import Entry, Problem, Stat

MAX_DIRECTORIES = 1000
"""If more directories than this are named, the whole trees are compared, with one request."""
_AT_ONCE = 100
"""Number of paths to look up at once."""


class PartialComparison(Comparison):
    """Compares directories of a local tree with those of a remote one, which is the target."""

    def __init__(self, policy: Policy, rules: Filter, connection: Connection, route: Route) -> None:
        super().__init__(policy, rules)
        self._connection = connection
        self._route = route
        self._there: dict[bytes, Entry] = {}
        """Remote directories that were looked up."""

    def run_within(self, source: Entry, target: Entry | None, directories: Iterable[bytes]) -> None:
        """Compare the directories with these paths below the roots. See `Options.directories`.

        Raises:
            InvalidPath: A path leads out of the root, or the source is on the server.
        """
        if not self._route.upload:
            raise InvalidPath("single directories can only be compared for a sync to the server")
        wanted = {path and path_below(path) for path in directories}
        if target is None or len(wanted) > MAX_DIRECTORIES:
            self.run(source, target)
            return
        wanted = self._replace_missing_there({self._nearest_here(path) for path in wanted})
        root = Directory(b"", "both", source, target)
        root.filter = self._rules
        self._note_whether_empty()
        try:
            for path in sorted({*wanted, *_all_above(wanted)}, key=parts_of):
                self._leave_until(path)
                here = self._reach(path) if path else root
                if here is None:
                    continue
                if path in wanted:
                    self._compare_alone(here)
                else:
                    self._pass(here)
            self._leave_until(None)
        finally:
            self._close()

    # which directories ---------------------------------------------------------------------

    def _nearest_here(self, path: bytes) -> bytes:
        """Return the path, or the nearest directory above it that exists."""
        while path:
            try:
                with self._local.open(path):
                    return path
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    return path  # it cannot be read, which the comparison reports
            path = path.rpartition(b"/")[0]
        return path

    def _replace_missing_there(self, wanted: set[bytes]) -> set[bytes]:
        """Replace paths that are no remote directories by the nearest ones above them."""
        asked = iter(sorted({*wanted, *_all_above(wanted)} - {b""}))
        while batch := list(islice(asked, _AT_ONCE)):
            self._look_up(batch)
        return {self._nearest_there(path) for path in wanted}

    def _look_up(self, batch: list[bytes]) -> None:
        connection, route = self._connection, self._route
        connection.ask_ahead(*(Stat(route.remote_path(path)) for path in batch))
        try:
            for path in batch:
                entry = find(connection, route.remote_path(path))
                if entry is not None and entry.type == "dir":
                    self._there[path] = entry
        finally:
            connection.forget_ahead()

    def _nearest_there(self, path: bytes) -> bytes:
        for above in reversed([path, *_above(path)]):
            if above and above not in self._there:
                return above.rpartition(b"/")[0]
        return path

    def _note_whether_empty(self) -> None:
        """Find out whether the whole source is empty: the compared directories don't show it."""
        with self._local.open(b"") as fd:
            rules = Directory(b"", "both", filter=self._rules)
            with closing(Table(Entry)) as nothing:
                if not self._read_rules(rules, fd, nothing):
                    return
            first = next(self._local.entries(fd, b"", rules.filter), None)
        self._plan.source_is_empty = first is None

    # reaching them ----------------------------------------------------------------------------

    def _reach(self, path: bytes) -> Directory | None:
        """Return a directory whose parent is on the top of the stack.

        None if it is excluded, or was already processed with its parent.
        """
        above, _, name = path.rpartition(b"/")
        if not self._stack or self._stack[-1].path != above:
            return None
        parent = self._stack[-1]
        if parent.source is not None:
            awaited = parent.below.pop(name)
            if awaited is None:
                return None
            here = awaited.at(path)
        elif parent.filter.excludes(name, is_directory=True):
            return None
        else:
            try:
                with self._local.open(path) as fd:
                    here = Directory(path, "both", local_entry(fd, name, os.fstat(fd)))
            except OSError as error:
                self._policy.local_trouble(path, error)
                return None
            here.target = self._there[path]
        here.filter = parent.filter.below(name)
        return here

    def _pass(self, here: Directory) -> None:
        """Enter a directory only to reach others below it."""
        was_compared = bool(self._stack) and self._stack[-1].source is not None
        if was_compared:
            self._policy.left(here)
        here.source = here.target = None
        try:
            with self._local.open(here.path) as fd, closing(Table(Entry)) as nothing:
                may_enter = self._read_rules(here, fd, nothing)
        except OSError as error:
            self._policy.local_trouble(here.path, error)
            may_enter = False
        if may_enter:
            self._stack.append(here)
        else:
            here.close()

    # comparing -----------------------------------------------------------------------------

    def _compare_alone(self, here: Directory) -> None:
        """Compare a directory, but not the subdirectories that exist on both sides."""
        with self._remote.listed(here.path, recursive=False, digest=self._checksum) as listing:
            pages = listing.directories()
            try:
                page = next(pages, None)
            except CommandError as error:
                self._not_there(here, error)
                return
            if page is None or page[1].get(b"") is not None:  # replaced by something else
                self._not_there(here, NotADirectory(f"{paths.show(here.path)}: not a directory"))
                return
            self._stack.append(here)
            self._take(here, *page[1:])
            for _ in pages:  # closes what belongs to the page
                pass
        for name in [name for name, one in here.below.items() if one.kind == "deletion"]:
            self._list_deletion(join(here.path, name))

    def _not_there(self, here: Directory, error: CommandError) -> None:
        """Process a directory that could not be listed: it has just been removed, or
        the account may not list it."""
        assert here.source is not None
        here.close()
        if not isinstance(error, (NotFound, NotADirectory)):
            problem = Problem(b"", error.code, str(error))
            self._policy.remote_trouble(here.path, problem)
        elif self._stack:
            gone = Awaited("both", here.source, here.target)
            self._policy.went_away(self._stack[-1], here.path, gone, here.filter)
        else:
            self._policy.make_root(here.source, self._rules)

    def _list_deletion(self, path: bytes) -> None:
        """Process the contents of a remote directory that is to be deleted."""
        try:
            with self._remote.listed(path) as listing:
                self._follow(listing, start=path)
        except (NotFound, NotADirectory):
            return  # already deleted
        self._leave_until(path)

    def _not_listed(self, here: Directory, name: bytes, awaited: Awaited) -> None:
        if awaited.kind != "both":
            super()._not_listed(here, name, awaited)
            return
        with closing(awaited.at(join(here.path, name))) as below:  # only its attributes count
            self._policy.left(below)

    def _left(self, here: Directory) -> None:
        if here.source is not None:
            super()._left(here)


def _above(path: bytes) -> Iterator[bytes]:
    """Iterate over the directories above a path, the nearest first; the root is the last."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def _all_above(wanted: Iterable[bytes]) -> set[bytes]:
    return {above for path in wanted for above in _above(path)}
