"""Files that a sync would send, and that the server has under another name.

Lives here: finding them by digest.
Lives elsewhere: planning transfers and deletions (policy.py, deletions.py), renaming (apply.py).

A remote file that would be deleted and a new local one may be the same. For pairs of the same size,
the stored digests are requested, all at once, and compared with those of the local files.
"""

from __future__ import annotations

from msgspec import structs

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.sync.plan import Route, Step
from ftpclient.sync.policy import Policy
from ftpclient.transfer.spool import Spool
from ftpwire import paths
from ftpwire.messages import Entry, Found, Stat


class Renames:
    """A search for renamed files, in the plan of an upload that deletes."""

    def __init__(self, connection: Connection, route: Route, policy: Policy) -> None:
        self._connection = connection
        self._route = route
        self._plan = policy.plan
        self._local = policy.local
        self._missing = policy.deletions.missing
        self._known: dict[bytes, list[Entry]] = {}
        """Files that may be renamed, by digest. Their paths are those of the plan."""
        self._moved: dict[bytes, int] = {}
        self._moved_below: dict[bytes, tuple[int, int]] = {}
        """Number and bytes of the files that are moved out of each directory."""

    def find(self) -> None:
        """Change the plan: replace transfers by renames, and drop their deletions."""
        plan = self._plan
        sizes = {step.size for step in plan.transfers if self._may_be_moved(step)}
        if not sizes:
            return
        self._look_up(sizes)
        if not self._known:
            return
        transfers, plan.transfers = plan.transfers, Spool(Step)
        for step in transfers:
            found = self._match(step) if self._may_be_moved(step) else None
            if found is None:
                plan.transfers.add(step)
            else:
                self._move(found, step)
        transfers.close()
        if self._moved:
            self._spare()

    def _may_be_moved(self, step: Step) -> bool:
        return step.why == "new" and step.type == "file" and step.size in self._missing

    def _look_up(self, sizes: set[int]) -> None:
        """Request the digests of the missing files of these sizes."""
        for size in sizes:
            for path in self._missing[size]:
                request = Stat(self._route.remote_path(path), digest=True)
                self._connection.submit(_Look(path, size, self._known), request)
        self._connection.wait_for_all()

    def _match(self, step: Step) -> Entry | None:
        """Return a file with the same bytes as a local one, preferably with the same name."""
        digest = self._local.digest(step.path)
        found = self._known.get(digest, []) if digest is not None else []
        if not found:
            return None
        name = paths.name_of(step.path)
        same_name = [one for one in found if paths.name_of(one.path) == name]
        entry = (same_name or found)[0]
        found.remove(entry)
        return entry

    def _move(self, entry: Entry, step: Step) -> None:
        plan = self._plan
        assert step.mode is not None
        plan.renames.add(
            Step(
                "rename",
                step.path,
                "file",
                step.size,
                step.mode if entry.mode & 0o777 != step.mode else None,
                step.mtime_ns if entry.mtime_ns != step.mtime_ns else None,
                why="same bytes",
                source=entry.path,
            )
        )
        plan.renamed += 1
        plan.files -= 1
        plan.size -= step.size
        plan.growth -= step.size
        plan.doomed -= 1
        plan.doomed_size -= step.size
        self._moved[entry.path] = step.size
        above = entry.path
        while b"/" in above:
            above = above.rpartition(b"/")[0]
            count, size = self._moved_below.get(above, (0, 0))
            self._moved_below[above] = count + 1, size + step.size

    def _spare(self) -> None:
        """Remove the renamed files from the deletions."""
        deletions, self._plan.deletions = self._plan.deletions, Spool(Step)
        for step in deletions:
            if step.path in self._moved:
                continue
            count, size = self._moved_below.get(step.path, (0, 0))
            rest = structs.replace(step, count=step.count - count, size=step.size - size)
            self._plan.deletions.add(rest)
        deletions.close()


class _Look(Call):
    """A request for one digest."""

    def __init__(self, path: bytes, size: int, known: dict[bytes, list[Entry]]) -> None:
        super().__init__()
        self._path = path
        self._size = size
        self._known = known

    def on_done(self) -> None:
        if not isinstance(self.reply, Found):
            return
        entry = self.reply.entry
        if entry.type == "file" and entry.size == self._size and entry.digest is not None:
            named = structs.replace(entry, path=self._path)
            self._known.setdefault(entry.digest, []).append(named)
