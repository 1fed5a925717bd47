"""The policy of a sync: what it does about differences, in each direction.

Lives here: the direction and the effect of the options: which tree is the source, and what is
transferred, replaced, skipped or reported.
Lives elsewhere: finding differences (diff.py), what is deleted with a directory (deletions.py), the
resulting steps (plan.py).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing
from typing import Any, ClassVar

from msgspec import structs

from ftpclient.connection.connection import Connection
from ftpclient.sync.apply import Replica
from ftpclient.sync.deletions import Deletions
from ftpclient.sync.directories import (
    IN_THE_WAY,
    Awaited,
    Deletion,
    Directory,
    bytes_of,
    deletion_step,
    join,
)
from ftpclient.sync.kept_times import Ask, KeptTimes, ask_disk, ask_server
from ftpclient.sync.local_reader import (
    LocalReader,
    check_depth,
    is_partial,
    is_recent,
)
from ftpclient.sync.plan import Options, Plan, Route, Step
from ftpclient.sync.remote_reader import RemoteReader
from ftpclient.sync.troubles import Troubles
from ftpclient.transfer.local_modes import grantable
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.patterns import IGNORE_FILE, file_rules
from ftpclient.transfer.placing import checked_parts
from ftpclient.transfer.report import Result
from ftpclient.transfer.selection import Filter, local_rules
from ftpclient.transfer.spool import Table
from ftpwire import paths
from ftpwire.errors import AlreadyExists, BadMessage, CommandError, InvalidPath, NotNewer
from ftpwire.messages import Entry, Problem

_NOUNS = {"file": "a file", "dir": "a directory", "link": "a link", "other": "a special file"}

OnResult = Callable[[Result], None]
MakePolicy = Callable[[Connection, Route, LocalTree | None, Options, OnResult], "Policy"]


class Policy(ABC):
    """Decides about each difference that the comparison finds, and fills a plan.

    Args:
        tree: The local root; None if a download is going to make it.
        report: Called with what cannot be mirrored or is skipped.

    Attributes:
        target_disk: The disk of the target, for display.
        odd_times: Number of entries that have another time in the target, because its disk cannot
            store that of the source.
        first_odd_time: The path of the first of those.
        first_withheld: Of a download, the first directory that doesn't get the source's mode.
    """

    target_disk: ClassVar[str]

    def __init__(
        self,
        connection: Connection,
        route: Route,
        tree: LocalTree | None,
        options: Options,
        report: OnResult,
    ) -> None:
        self.plan = Plan()
        self.options = options
        follow = options.copy_links
        self.remote = RemoteReader(connection, route, follow=follow and not route.upload)
        followed = route.local if follow and route.upload else None
        self.local = LocalReader(tree, self.remote.poll, self.local_trouble, followed)
        self.troubles = Troubles(route, report)
        self.deletions = Deletions(self.plan, route, self.local, self.remote, self.troubles)
        self.times = KeptTimes(self._ask_for_times(connection))
        self.odd_times = 0
        self.first_odd_time: bytes | None = None
        self.first_withheld: bytes | None = None
        self._route = route

    @abstractmethod
    def replica_class(self) -> type[Replica[Any]]:
        """Return the class that carries out the steps, imported only when there is a plan."""

    @abstractmethod
    def _ask_for_times(self, connection: Connection) -> Ask:
        """Return the function that asks the target's disk about times."""

    @abstractmethod
    def pair(self, local: Entry, there: Entry) -> tuple[Entry, Entry]:
        """Return source and target of an entry that both trees have."""

    @abstractmethod
    def read_rules(self, here: Directory, fd: int, theirs: Table[Entry]) -> bytes:
        """Return the source's .ftpignore file of a directory. Raises OSError, CommandError."""

    @property
    def quick(self) -> bool:
        """True if files of the same size, time and mode are regarded as the same."""
        return not self.options.checksum

    # what could not be read ----------------------------------------------------------------

    def local_trouble(self, path: bytes, error: OSError | CommandError) -> None:
        """Report a local path that cannot be read."""
        self.troubles.local(path, error)

    def remote_trouble(self, path: bytes, problem: Problem) -> None:
        """Report a remote path that cannot be read."""
        self.troubles.remote(path, problem)

    def rules_trouble(self, directory: bytes, error: OSError | CommandError) -> None:
        """Report an unreadable .ftpignore file: it is unknown what is left out of a directory."""
        self.plan.cannot_read(self.troubles.in_source(join(directory, IGNORE_FILE), error))

    # the roots -----------------------------------------------------------------------------

    @abstractmethod
    def make_root(self, source: Entry, rules: Filter) -> Directory | None:
        """Plan to make the target's root.

        Returns:
            The directory to compare with the remote listing; None if there is nothing to list.
        """

    # what both trees have ------------------------------------------------------------------

    @abstractmethod
    def leaves_out(
        self, rules: Filter, name: bytes, info: os.stat_result, there: Entry | None
    ) -> bool:
        """Return whether a local entry is left out.

        If both trees have it, that of the source decides.
        """

    def note_local(self, *, there_too: bool) -> None:
        """Note that a local entry exists that isn't left out."""
        if there_too:
            self.plan.source_is_empty = False

    def meet(self, here: Directory, local: Entry, there: Entry) -> None:
        """Decide about an entry that both trees have."""
        source, target = self.pair(local, there)
        path = join(here.path, local.path)
        if source.type == "other":
            self.troubles.pass_over(path)
        elif source.type != target.type:
            if self._keeps():
                self._pass_by(path)
            else:
                self._change_type(here, path, source, target)
        elif source.type == "dir":
            here.below[local.path] = Awaited("both", source, target)
        elif self.options.ignore_existing:
            self._pass_by(path)
        elif source.type == "link" and source.target == target.target:
            self._unchanged(path, source)
        elif self.options.update and target.mtime_ns > source.mtime_ns:
            shown = paths.show(self._route.target(path))
            self.troubles.report(path, NotNewer(f"{shown}: newer than the source"), skipped=True)
        elif source.type == "link":
            self._transfer(here, path, source, "target", target)
        elif source.size != target.size:
            self._transfer(here, path, source, "size", target)
        elif self.options.checksum and source.size:
            here.pairs.append((local, there))
        elif source.mtime_ns != target.mtime_ns:
            here.times.append((source, target))
        else:
            self._same_bytes(path, source, target)

    def _keeps(self) -> bool:
        """Return whether nothing may be replaced by an entry of another type."""
        return self.options.existing or self.options.ignore_existing

    def _pass_by(self, path: bytes) -> None:
        shown = paths.show(self._route.target(path))
        self.troubles.report(path, AlreadyExists(f"{shown}: exists"), skipped=True)

    def compared(self, here: Directory, local: Entry, there: Entry, *, same: bool) -> None:
        """Decide about files of the same size whose digests are known."""
        source, target = self.pair(local, there)
        path = join(here.path, source.path)
        if same:
            self._same_bytes(path, source, target)
        else:
            self._transfer(here, path, source, "digest", target)

    def compare_times(self, here: Directory, source: Entry, target: Entry) -> None:
        """Decide about files that may differ only in time. What the disk stores is known."""
        path = join(here.path, source.path)
        if not self.options.by_time or self.times.are_same(source, target):
            self._same_bytes(path, source, target)
        else:
            self._transfer(here, path, source, "time", target)

    def not_compared(
        self, here: Directory, local: Entry, there: Entry, error: OSError | CommandError
    ) -> None:
        """Decide about files of the same size if a digest of one is not available."""
        self.compared(here, local, there, same=False)  # the transfer reports the error

    def _unchanged(self, path: bytes, source: Entry) -> None:
        """Count a file or link that needs no step."""
        self.plan.unchanged += 1

    def _same_bytes(self, path: bytes, source: Entry, target: Entry) -> None:
        why = self._attributes_differ(path, source, target)
        if not why:
            self._unchanged(path, source)
            return
        mode = source.mode & 0o777 if "mode" in why else None
        mtime_ns = source.mtime_ns if "time" in why else None
        self.plan.attributes.add(Step("attributes", path, "file", 0, mode, mtime_ns, why=why))

    def _attributes_differ(self, path: bytes, source: Entry, target: Entry) -> str:
        """Return which attributes have to be set, for display; empty if none."""
        found = []
        if source.mode & 0o777 != target.mode & 0o777:
            found.append("mode")
        if not self.times.are_same(source, target):
            found.append("time")
        elif source.mtime_ns != target.mtime_ns:
            self.first_odd_time = path if self.first_odd_time is None else self.first_odd_time
            self.odd_times += 1
        return ", ".join(found)

    def _change_type(self, here: Directory, path: bytes, source: Entry, target: Entry) -> None:
        if not self.options.delete:
            shown = paths.show(self._route.target(path))
            text = f"{shown}: is {_NOUNS[target.type]}, but {_NOUNS[source.type]} in the source"
            self.troubles.report(path, AlreadyExists(f"{text} (use --delete to replace it)"))
        elif here.filter.leaves_out(structs.replace(target, path=source.path)):
            shown = paths.show(self._route.target(path))
            text = f"{shown}: {_NOUNS[target.type]} is in the way, but is left out of the sync"
            self.troubles.report(path, AlreadyExists(text))
        elif target.type == "dir":
            self._replace_directory(here, source, target)
        elif source.type == "dir":
            here.changed = True
            self.plan.remove(deletion_step(path, target, IN_THE_WAY), obstacle=True)
            self._new_directory(here, source)
        else:
            self._transfer(here, path, source, "type", target)

    @abstractmethod
    def _replace_directory(self, here: Directory, source: Entry, target: Entry) -> None:
        """Plan to replace a directory of the target by something else."""

    @abstractmethod
    def _new_directory(self, here: Directory, source: Entry) -> None:
        """Plan to make a directory of the source for which the path in the target is free."""

    # what only one of them has -------------------------------------------------------------

    @abstractmethod
    def only_here(self, here: Directory, local: Entry, replacement: Entry | None = None) -> None:
        """Decide about a local entry that is not on the server, or differs there in type."""

    def only_there(self, here: Directory, name: bytes, there: Entry) -> None:
        """Decide about a remote entry that does not exist locally."""
        if not here.leaves_out(there):
            self._only_there(here, name, there)

    @abstractmethod
    def _only_there(self, here: Directory, name: bytes, there: Entry) -> None: ...

    def ends(self, above: Directory, deletion: Deletion) -> None:
        """Add the deletion of a complete directory to the plan, or to the directory above it."""
        self.deletions.note_what_stays(deletion)
        if above.deletion is not None:
            above.deletion.take(deletion)
        elif deletion.replacement is None:
            above.changed |= self.deletions.add_extra(deletion)
        elif self.deletions.make_way(deletion):
            self._transfer(above, deletion.path, deletion.replacement, "type")

    def went_away(self, above: Directory, path: bytes, gone: Awaited, rules: Filter) -> None:
        """Decide about a remote directory that was removed before it was listed."""
        if gone.kind == "new":
            assert gone.source is not None
            self._end_directory(path, gone.source, "")
        elif gone.replacement is not None:
            self._transfer(above, path, gone.replacement, "type")

    # the steps -----------------------------------------------------------------------------

    def _make_directory(self, path: bytes, source: Entry) -> None:
        """Plan to make a directory that is not in the target."""
        self.plan.directories.add(Step("mkdir", path, "dir", mode=source.mode & 0o777, why="new"))

    def left(self, here: Directory) -> None:
        """Finish a directory of the source: everything in it was processed."""
        assert here.source is not None
        if here.kind == "new":
            self._end_directory(here.path, here.source, "")
            return
        assert here.target is not None
        source = self._granted(here.path, here.source, here.target)
        why = self._attributes_differ(here.path, source, here.target)
        if why or here.changed:
            self._end_directory(here.path, source, why)
        if not self._is_home(here.path):
            self.deletions.open_closed(here, source.mode)

    def _granted(self, path: bytes, source: Entry, target: Entry) -> Entry:
        """Return the source with the mode that the directory of the target may get."""
        return source

    def _end_directory(self, path: bytes, source: Entry, why: str) -> None:
        """Plan to set a directory's attributes after its contents are complete."""
        if self._is_home(path):
            return  # it belongs to the account, and is not part of its contents
        mode, mtime_ns = source.mode & 0o777, source.mtime_ns
        step = Step("attributes", path, "dir", mode=mode, mtime_ns=mtime_ns, why=why)
        self.plan.endings.add(step)

    def _is_home(self, path: bytes) -> bool:
        return not path and self._route.remote == paths.ROOT

    def _transfer(
        self,
        here: Directory,
        path: bytes,
        source: Entry,
        why: str,
        target: Entry | None = None,
    ) -> None:
        here.changed = True
        self._add_transfer(path, source, why, target)

    def _add_transfer(
        self, path: bytes, source: Entry, why: str, target: Entry | None = None
    ) -> None:
        step = Step(
            self._route.verb,
            path,
            source.type,
            bytes_of(source),
            source.mode & 0o777,
            source.mtime_ns,
            source.target,
            why,
        )
        self.plan.transfer(step, 0 if target is None else bytes_of(target))


class ToServer(Policy):
    """The policy of a sync to the server: the local tree is the source."""

    target_disk = "server's disk"

    def replica_class(self) -> type[Replica[Any]]:
        from ftpclient.sync.remote_replica import RemoteReplica

        return RemoteReplica

    def _ask_for_times(self, connection: Connection) -> Ask:
        return ask_server(connection)

    def pair(self, local: Entry, there: Entry) -> tuple[Entry, Entry]:
        return local, there

    def read_rules(self, here: Directory, fd: int, theirs: Table[Entry]) -> bytes:
        return local_rules(fd)

    def local_trouble(self, path: bytes, error: OSError | CommandError) -> None:
        self.plan.cannot_read(self.troubles.local(path, error))

    def make_root(self, source: Entry, rules: Filter) -> Directory | None:
        if not self.options.existing:
            self._new_tree(b"", source, rules)
        return None

    def leaves_out(
        self, rules: Filter, name: bytes, info: os.stat_result, there: Entry | None
    ) -> bool:
        return rules.leaves_out_local(name, info)

    def note_local(self, *, there_too: bool) -> None:
        self.plan.source_is_empty = False

    def _replace_directory(self, here: Directory, source: Entry, target: Entry) -> None:
        here.below[source.path] = Awaited(
            "deletion", replacement=source, movable=False, keep_steps=here.filter.active
        )

    def _new_directory(self, here: Directory, source: Entry) -> None:
        here.later.append((source, None))

    def only_here(self, here: Directory, local: Entry, replacement: Entry | None = None) -> None:
        if not is_partial(local) and not self.options.existing:
            here.changed |= self._new(join(here.path, local.path), local, here.filter)

    def _only_there(self, here: Directory, name: bytes, there: Entry) -> None:
        if self.troubles.is_too_long(here.path, name) or not self.options.delete:
            return
        if there.type == "dir":
            here.below[name] = Awaited("deletion", keep_steps=here.filter.active)
        else:
            here.changed = True
            self.deletions.add_remote(join(here.path, name), there)

    def went_away(self, above: Directory, path: bytes, gone: Awaited, rules: Filter) -> None:
        if gone.kind == "both":
            assert gone.source is not None
            if not self.options.existing:
                self._new_tree(path, gone.source, rules)
        else:
            super().went_away(above, path, gone, rules)

    def _new(self, path: bytes, local: Entry, rules: Filter) -> bool:
        """Plan the upload of a new entry. Return False if it cannot be stored."""
        if self.troubles.is_too_long(path, b""):
            return False
        if local.path in paths.RESERVED:
            shown = paths.show(self._route.local_path(path))
            error = InvalidPath(f"{shown}: this name is reserved for the server")
            self.troubles.report(path, error, skipped=True)
            return False
        if local.type == "other":
            self.troubles.pass_over(path)
            return False
        if local.type == "dir":
            self._new_tree(path, local, rules.below(local.path))
        else:
            self._add_transfer(path, local, "new")
        return True

    def _new_tree(self, path: bytes, source: Entry, rules: Filter) -> None:
        """Plan the upload of a directory with everything in it."""
        self._make_directory(path, source)
        try:
            check_depth(path)
            with self.local.open(path) as fd:
                data = local_rules(fd)
                rules = rules.with_rules(file_rules(data)) if data else rules
                entries = self.local.entries(fd, path, rules)
                below = [local for local in entries if not is_partial(local)]
        except (OSError, CommandError) as error:
            self.local_trouble(path, error)
            below = []
        for local in below:
            self.plan.source_is_empty = False
            self._new(join(path, local.path), local, rules)
        self._end_directory(path, source, "")


class FromServer(Policy):
    """The policy of a sync from the server: the remote tree is the source."""

    target_disk = "local disk"

    def replica_class(self) -> type[Replica[Any]]:
        from ftpclient.sync.local_replica import LocalReplica

        return LocalReplica

    def _ask_for_times(self, connection: Connection) -> Ask:
        return ask_disk

    def pair(self, local: Entry, there: Entry) -> tuple[Entry, Entry]:
        return there, local

    def read_rules(self, here: Directory, fd: int, theirs: Table[Entry]) -> bytes:
        return self.remote.rules(here.path, theirs)

    def remote_trouble(self, path: bytes, problem: Problem) -> None:
        self.plan.cannot_read(self.troubles.remote(path, problem))

    def make_root(self, source: Entry, rules: Filter) -> Directory | None:
        if self.options.existing:
            return None
        self._make_directory(b"", source)
        return Directory(b"", "new", source)

    def leaves_out(
        self, rules: Filter, name: bytes, info: os.stat_result, there: Entry | None
    ) -> bool:
        if there is not None:
            return rules.leaves_out(there)
        return rules.leaves_out_local(name, info)

    def _granted(self, path: bytes, source: Entry, target: Entry) -> Entry:
        """Keep the root's own mode; other directories get what `grantable` allows."""
        mode = grantable(source.mode, target.mode) if path else target.mode & 0o777
        if path and mode != source.mode & 0o777:
            self.first_withheld = self.first_withheld or path
        return structs.replace(source, mode=mode)

    def _replace_directory(self, here: Directory, source: Entry, target: Entry) -> None:
        here.later.append((target, source))

    def _new_directory(self, here: Directory, source: Entry) -> None:
        here.changed = True
        here.below[source.path] = Awaited("new", source)
        self._make_directory(join(here.path, source.path), source)

    def only_here(self, here: Directory, local: Entry, replacement: Entry | None = None) -> None:
        if not self.options.delete or (is_partial(local) and is_recent(local)):
            return
        here.changed = True
        path = join(here.path, local.path)
        if local.type != "dir":
            self.plan.remove(deletion_step(path, local))
            return
        with closing(Deletion(path, replacement, keep_steps=here.filter.active)) as deletion:
            self.deletions.take_local(deletion, here.filter.below(local.path))
            self.ends(here, deletion)

    def _only_there(self, here: Directory, name: bytes, there: Entry) -> None:
        self.plan.source_is_empty = False
        if self.options.existing or self.troubles.is_too_long(here.path, name):
            return
        if len(checked_parts(there.path)) != 1:
            raise BadMessage("the server sent a path instead of a name")
        path = join(here.path, name)
        if there.type == "other":
            self.troubles.pass_over(path)
        elif there.type == "dir":
            self._new_directory(here, there)
        else:
            self._transfer(here, path, there, "new")


def policy_for(
    connection: Connection, route: Route, tree: LocalTree | None, options: Options, report: OnResult
) -> Policy:
    """Return the policy for a sync's direction."""
    kind = ToServer if route.upload else FromServer
    return kind(connection, route, tree, options, report)
