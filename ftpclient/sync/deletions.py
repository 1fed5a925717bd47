"""The deletions of a sync in its target, and their limits.

Lives here: what is deleted with a directory, closed directories, files that may be renamed instead,
the limits.
Lives elsewhere: which entries are extra or in the way (policy.py), finding renamed files
(renames.py), deleting (apply.py).
"""

from __future__ import annotations

from contextlib import closing

from ftpclient.sync.directories import Awaited, Deletion, Directory, deletion_step, join
from ftpclient.sync.local_reader import LocalReader, check_depth
from ftpclient.sync.plan import Options, Plan, Route, Step
from ftpclient.sync.remote_reader import RemoteReader
from ftpclient.sync.troubles import Troubles
from ftpclient.transfer.selection import Filter
from ftpclient.transfer.spool import Table
from ftpwire import paths
from ftpwire.errors import AlreadyExists, CommandError, SafetyLimit
from ftpwire.messages import Entry

_MOST_MISSING = 100_000
"""Maximum number of files to remember as possibly renamed. Others are sent and deleted."""


class Deletions:
    """The deletions of a plan.

    Attributes:
        missing: Remote files that would be deleted, by size. They may have been renamed.
    """

    def __init__(
        self,
        plan: Plan,
        route: Route,
        local: LocalReader,
        remote: RemoteReader,
        troubles: Troubles,
    ) -> None:
        self.missing: dict[int, list[bytes]] = {}
        self._missing_count = 0
        self._stays: set[bytes] = set()
        """Remote directories that are not in the source, but of which nothing is deleted."""
        self._plan = plan
        self._route = route
        self._local = local
        self._remote = remote
        self._troubles = troubles

    def add_remote(self, path: bytes, there: Entry) -> None:
        """Add a remote file or link."""
        self._plan.remove(deletion_step(path, there))
        self._note_missing(path, there)

    def _note_missing(self, path: bytes, there: Entry) -> None:
        if there.type == "file" and there.size and self._missing_count < _MOST_MISSING:
            self._missing_count += 1
            self.missing.setdefault(there.size, []).append(path)

    def note_what_stays(self, deletion: Deletion) -> None:
        """Note whether a complete directory stays.

        If an entry in it is protected, and its other deletions were not kept one by one, all of it
        stays.
        """
        if deletion.protected and not deletion.keeps_steps:
            self._stays.add(deletion.path)

    def forget_what_stays(self) -> None:
        """Remove from ``missing`` what is in directories that stay. Called after all deletions."""
        if not self._stays:
            return
        kept = {
            size: [path for path in there if not self._is_in_what_stays(path)]
            for size, there in self.missing.items()
        }
        self.missing = {size: there for size, there in kept.items() if there}

    def _is_in_what_stays(self, path: bytes) -> bool:
        while path and path not in self._stays:
            path = path.rpartition(b"/")[0]
        return bool(path)

    def take_remote(self, here: Directory, deletion: Deletion, theirs: Table[Entry]) -> None:
        """Add the entries of a remote directory that is to be deleted."""
        for name, there in self._remote.polling(theirs.items()):
            if here.leaves_out(there):
                deletion.protected = True
            elif there.type == "dir":
                here.below[name] = Awaited(
                    "deletion", movable=deletion.movable, keep_steps=here.filter.active
                )
            else:
                path = join(here.path, name)
                deletion.add(deletion_step(path, there))
                if deletion.movable:
                    self._note_missing(path, there)

    def take_local(self, deletion: Deletion, rules: Filter) -> None:
        """Add the entries of a local directory that is to be deleted, and of those below it."""
        try:
            check_depth(deletion.path)
            with self._local.open(deletion.path) as fd:
                below = list(self._local.entries(fd, deletion.path, Filter()))
        except (OSError, CommandError) as error:
            self._troubles.local(deletion.path, error)
            deletion.protected = True
            return
        for local in below:
            path = join(deletion.path, local.path)
            if rules.leaves_out(local):
                deletion.protected = True
            elif local.type == "dir":
                with closing(Deletion(path, None, keep_steps=rules.active)) as inner:
                    self.take_local(inner, rules.below(local.path))
                    deletion.take(inner)
            else:
                deletion.add(deletion_step(path, local))

    def add_extra(self, deletion: Deletion) -> bool:
        """Add a complete directory that is not in the source. Return True if all of it goes."""
        for step in deletion.steps() if deletion.protected else (deletion.step(),):
            if not self._troubles.is_too_long(step.path, b""):
                self._plan.remove(step)
        return not deletion.protected

    def make_way(self, deletion: Deletion) -> bool:
        """Add a complete directory that something else replaces. Return False if it cannot go."""
        if deletion.protected:
            shown = paths.show(self._route.target(deletion.path))
            text = f"{shown}: a directory is in the way, and not everything in it may be deleted"
            self._troubles.report(deletion.path, AlreadyExists(text))
            return False
        self._plan.remove(deletion.step(), obstacle=True)
        return True

    def open_closed(self, here: Directory, mode: int) -> None:
        """Let the owner write to a directory of the target in which something changes.

        Args:
            mode: The mode that it gets at the end.
        """
        assert here.target is not None
        if here.changed and here.target.mode & 0o700 != 0o700:
            mode = (mode & 0o777) | 0o700
            self._plan.openings.add(Step("attributes", here.path, "dir", mode=mode))


def check_limits(plan: Plan, options: Options, source: str) -> None:
    """Refuse a plan that deletes more than allowed.

    Args:
        source: The source's root, for display.

    Raises:
        SafetyLimit
    """
    if not plan.doomed:
        return
    what = "1 entry" if plan.doomed == 1 else f"{plan.doomed} entries"
    if options.max_delete is not None and plan.doomed > options.max_delete:
        raise SafetyLimit(
            f"{what} would be deleted, but --max-delete is {options.max_delete}: "
            "nothing was changed"
        )
    if options.force:
        return
    if plan.source_is_empty:
        raise SafetyLimit(
            f"{source} is empty, and {what} would be deleted: nothing was changed "
            "(use --force to delete anyway)"
        )
    if plan.unreadable:
        raise SafetyLimit(
            f"part of {source} could not be read, and {what} would be deleted: "
            "nothing was changed (use --force to delete anyway)"
        )


def kept_back(count: int) -> SafetyLimit:
    """Return the error for entries that were not deleted after the transfers."""
    return SafetyLimit(
        f"{count} {'entry was' if count == 1 else 'entries were'} not deleted, "
        "because not everything could be transferred (use --force to delete anyway)"
    )


def may_delete_before(plan: Plan, options: Options) -> bool:
    """Return whether deleting first would free space, but was not requested."""
    return options.delete and not options.delete_before and plan.freed > 0
