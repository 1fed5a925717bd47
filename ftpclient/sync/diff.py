"""Comparing a local tree with a remote one.

Lives here: walking the local tree along with the listing of the remote one, finding differences.
Lives elsewhere: reading the trees (local_reader.py, remote_reader.py), what is left out
(transfer/selection.py), what is done about a difference (policy.py, deletions.py).

No file costs a request. The server lists each directory before those in it, and one after another.
So the names of only one directory at a time, and what has to be changed, are kept.
"""

from __future__ import annotations

import os
import stat
import sys
from contextlib import closing

from ftpclient.sync.directories import Awaited, Directory, is_within, join
from ftpclient.sync.local_reader import local_entry
from ftpclient.sync.policy import Policy
from ftpclient.sync.remote_reader import POLL_EVERY
from ftpclient.transfer.listing import Listing
from ftpclient.transfer.patterns import file_rules
from ftpclient.transfer.selection import Filter
from ftpclient.transfer.spool import Table
from ftpwire.errors import CommandError
from ftpwire.messages import Entry, Problem

_PAIRS = 1000
"""Number of files of one directory whose digests or times are compared together."""


class Comparison:
    """Compares two trees. The policy turns the differences into a plan."""

    def __init__(self, policy: Policy, rules: Filter) -> None:
        self._policy = policy
        self._plan = policy.plan
        self._local = policy.local
        self._remote = policy.remote
        self._checksum = policy.options.checksum
        self._quick = policy.quick
        self._rules = rules
        self._stack: list[Directory] = []

    def run(self, source: Entry, target: Entry | None) -> None:
        """Compare the trees with these roots. ``target`` is None if it has to be made."""
        if target is not None:
            root: Directory | None = Directory(b"", "both", source, target)
        else:
            root = self._policy.make_root(source, self._rules)
        if root is None:
            return
        root.filter = self._rules
        try:
            with self._remote.listed(digest=self._checksum) as listing:
                self._follow(listing, root)
                self._leave_until(None)
        finally:
            self._close()

    def _close(self) -> None:
        for directory in self._stack:  # not empty only if the comparison failed
            directory.close()

    def run_for_two(self, local: Entry, there: Entry) -> None:
        """Compare one local entry with a remote one. They are not both directories."""
        here = Directory(b"", "both")
        self._policy.meet(here, local, there)
        self._compare_files(here)

    # the remote tree, in the server's order ------------------------------------------------

    def _follow(self, listing: Listing, root: Directory | None = None, start: bytes = b"") -> None:
        """Process a listing. Directories that may not be complete stay on the stack.

        Args:
            root: The root of the trees, if it is listed.
            start: The path of the directory that is listed.
        """
        stack = self._stack
        for below, entries, problems in listing.directories():
            path = join(start, below)
            self._remote.poll()
            self._leave_until(path)
            if stack:
                above, _, name = path.rpartition(b"/")
                awaited = stack[-1].below.pop(name) if above == stack[-1].path else None
                if awaited is None:
                    continue  # it is left out, or a directory above it is
                here = awaited.at(path)
                here.filter = stack[-1].filter.below(name)
            elif path or root is None:
                continue  # the root could not be read
            else:
                here = root
            stack.append(here)
            self._take(here, entries, problems)

    def _leave_until(self, path: bytes | None) -> None:
        """Finish the directories that are not above a path; all if it is None."""
        stack = self._stack
        while stack and (path is None or not is_within(path, stack[-1].path)):
            self._leave()

    def _take(self, here: Directory, theirs: Table[Entry], problems: Table[Problem]) -> None:
        for name, problem in self._remote.polling(problems.items()):
            # a problem has no type; it is mostly that of a directory that cannot be listed
            if name and here.filter.active and here.filter.excludes(name, is_directory=True):
                continue
            self._policy.remote_trouble(join(here.path, name), problem)
        if here.deletion is not None:
            here.deletion.protected |= bool(problems)
            self._policy.deletions.take_remote(here, here.deletion, theirs)
        elif b"" in problems:
            return  # its contents are unknown
        elif here.kind == "new":
            if self._read_rules(here, -1, theirs):
                self._only_there(here, theirs)
        else:
            self._compare(here, theirs, problems)

    def _leave(self) -> None:
        """Finish the innermost directory: everything in it was processed."""
        here = self._stack[-1]
        for name, awaited in self._remote.polling(here.below.items()):
            self._not_listed(here, name, awaited)
        self._stack.pop()
        with closing(here):
            if here.deletion is not None:
                self._policy.ends(self._stack[-1], here.deletion)
            else:
                self._left(here)

    def _not_listed(self, here: Directory, name: bytes, awaited: Awaited) -> None:
        """Process a directory that was awaited, but is not in the listing."""
        path = join(here.path, name)
        self._policy.went_away(here, path, awaited, here.filter.below(name))

    def _left(self, here: Directory) -> None:
        """Process a directory of the source after everything in it."""
        self._policy.left(here)

    # a directory that both trees have ------------------------------------------------------

    def _compare(self, here: Directory, theirs: Table[Entry], problems: Table[Problem]) -> None:
        try:
            with self._local.open(here.path) as fd:
                if not self._read_rules(here, fd, theirs):
                    return
                self._scan(here, fd, theirs, problems)
                self._ask_all_times(here, fd)
        except OSError as error:
            self._policy.local_trouble(here.path, error)
            return  # what seems to exist only on the server may exist here, unreadable
        self._only_there(here, theirs)
        later, here.later = here.later, []
        for entry, replacement in later:
            self._policy.only_here(here, entry, replacement)
        self._compare_files(here)

    def _compare_files(self, here: Directory) -> None:
        """Compare the files of a directory that may be the same."""
        self._compare_digests(here)
        self._compare_times(here)

    def _compare_times(self, here: Directory) -> None:
        times, here.times = here.times, []
        for source, target in times:
            self._policy.compare_times(here, source, target)

    def _only_there(self, here: Directory, theirs: Table[Entry]) -> None:
        for name, there in self._remote.polling(theirs.items()):
            self._policy.only_there(here, name, there)

    def _read_rules(self, here: Directory, fd: int, theirs: Table[Entry]) -> bool:
        """Apply the rules of the source's .ftpignore file in a directory.

        Returns:
            False if it cannot be read: then it is unknown what may be sent or deleted.
        """
        try:
            rules = file_rules(self._policy.read_rules(here, fd, theirs))
        except (OSError, CommandError) as error:
            self._policy.rules_trouble(here.path, error)
            return False
        here.filter = here.filter.with_rules(rules)
        return True

    def _scan(
        self,
        here: Directory,
        fd: int,
        theirs: Table[Entry],
        problems: Table[Problem],
    ) -> None:
        """Process the local entries; remove from ``theirs`` those that exist in both trees."""
        policy = self._policy
        rules = here.filter if here.filter.active else None
        by_time, follows, take = self._quick, self._local.follows, theirs.taker
        encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        unchanged = 0
        with os.scandir(fd) as found:
            for number, item in enumerate(found):
                if not number & (POLL_EVERY - 1):
                    self._remote.poll()
                name = item.name.encode(encoding, errors)
                there = take(name, None)
                try:
                    info = item.stat(follow_symlinks=follows)
                except OSError as error:
                    if self._local.is_gone(item, error):
                        continue
                    if rules is None or not rules.excludes(name, is_directory=False):
                        policy.local_trouble(join(here.path, name), error)
                    continue
                mode = info.st_mode
                if rules is not None and policy.leaves_out(rules, name, info, there):
                    continue
                if (
                    there is not None
                    and by_time
                    and there.size == info.st_size
                    and there.mtime_ns == info.st_mtime_ns
                    and there.type == "file"
                    and mode & 0o170777 == stat.S_IFREG | there.mode & 0o777
                ):
                    unchanged += 1
                    continue
                policy.note_local(there_too=there is not None)
                if name in problems:
                    continue
                if policy.troubles.is_too_long(here.path, name):
                    continue
                local = local_entry(fd, name, info)
                if there is not None:
                    policy.meet(here, local, there)
                    if len(here.pairs) >= _PAIRS:
                        self._compare_digests(here)
                    if len(here.times) >= _PAIRS:
                        self._ask_times(here.times, fd)
                        self._compare_times(here)
                elif local.type == "dir":
                    here.later.append((local, None))  # processed after this directory is closed
                else:
                    policy.only_here(here, local)
        self._plan.unchanged += unchanged
        if unchanged:
            self._plan.source_is_empty = False

    def _compare_digests(self, here: Directory) -> None:
        """Compare files of the same size. Digests the listing doesn't have are requested."""
        pairs, here.pairs = here.pairs, []
        calls = self._remote.ask_digests(here.path, (there for _, there in pairs))
        for local, there in pairs:
            try:
                digest = self._remote.digest_of(there, calls)
                same = self._local.hash(join(here.path, local.path)) == digest
            except (OSError, CommandError) as error:
                self._policy.not_compared(here, local, there, error)
            else:
                self._policy.compared(here, local, there, same=same)

    def _ask_all_times(self, here: Directory, fd: int) -> None:
        """Find out which times the target's disk can keep, for a whole directory at once."""
        directories = [(here.source, here.target)]
        directories += [(one.source, one.target) for _, one in here.below.items()]
        pairs = list(here.times)
        pairs += [
            (source, target)
            for source, target in directories
            if source is not None and target is not None
        ]
        self._ask_times(pairs, fd)

    def _ask_times(self, pairs: list[tuple[Entry, Entry]], fd: int) -> None:
        if self._policy.times.missing(pairs):
            self._remote.settle()  # the reply comes after the whole listing
            self._policy.times.ask(pairs, fd)
