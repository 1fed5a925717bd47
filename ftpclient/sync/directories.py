"""The state of directories during the comparison of a sync, until they are complete.

Lives here: a remote directory whose pages have not arrived, one that is being compared, one that is
to be deleted with everything in it; relative paths.
Lives elsewhere: comparing (diff.py), what is done about differences (policy.py, deletions.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from ftpclient.sync.plan import Step
from ftpclient.transfer.selection import Filter
from ftpclient.transfer.spool import Spool, Table
from ftpwire.messages import Entry

EXTRA = "not in the source"
IN_THE_WAY = "in the way"
_STEPS_IN_MEMORY = 256 * 1024
"""Size in bytes of deletions in one directory that are kept in memory."""

Kind = Literal["both", "new", "deletion"]
"""The kind of a remote directory. ``both``: it also exists locally; ``new``: it exists only on the
server, to be downloaded; ``deletion``: only on the server, to be deleted."""


def join(directory: bytes, name: bytes) -> bytes:
    """Return the path of an entry in a directory. Paths are relative to the roots of the trees."""
    if directory and name:
        return directory + b"/" + name
    return directory or name


def parts_of(path: bytes) -> tuple[bytes, ...]:
    """Return the components of a path; none for the root."""
    return tuple(path.split(b"/")) if path else ()


def is_within(path: bytes, directory: bytes) -> bool:
    """Return whether a path is below a directory, and not the directory itself."""
    return path.startswith(directory + b"/") if directory else bool(path)


def bytes_of(entry: Entry) -> int:
    """Return the size of an entry in bytes; 0 for anything but a file."""
    return entry.size if entry.type == "file" else 0


def deletion_step(path: bytes, entry: Entry, why: str = EXTRA) -> Step:
    """Return the step that deletes a file or link, in the state in which it was found."""
    return Step("delete", path, entry.type, bytes_of(entry), mtime_ns=entry.mtime_ns, why=why)


class Deletion:
    """A directory of the target that is to be deleted, with everything in it.

    Args:
        replacement: The entry that replaces it, if any.
        keep_steps: True if something in it may be protected; then the rest is deleted one by one.

    Attributes:
        protected: True if something in it stays, so that the directory has to stay, too.
        movable: True if files in it may be renamed into place before it is deleted.
    """

    def __init__(self, path: bytes, replacement: Entry | None, *, keep_steps: bool) -> None:
        self.path = path
        self.replacement = replacement
        self.protected = False
        self.movable = replacement is None
        self.keeps_steps = keep_steps
        self._steps: Spool[Step] | None = None
        self._count = 1
        self._size = 0

    def add(self, step: Step) -> None:
        """Add an entry in it."""
        self._count += step.count
        self._size += step.size
        if self.keeps_steps:
            self._keep(step)

    def _keep(self, step: Step) -> None:
        if self._steps is None:
            self._steps = Spool(Step, in_memory=_STEPS_IN_MEMORY)
        self._steps.add(step)

    def take(self, inner: Deletion) -> None:
        """Add a complete directory in it."""
        if inner.protected:
            self.protected = True
            for step in inner.steps():
                self._keep(step)
        else:
            self.add(inner.step())

    def steps(self) -> Iterator[Step]:
        """Iterate over the steps that delete what may go, one by one."""
        return iter(() if self._steps is None else self._steps)

    def close(self) -> None:
        """Discard the steps."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def step(self) -> Step:
        """Return the step that deletes all of it at once."""
        why = EXTRA if self.replacement is None else IN_THE_WAY
        return Step("delete", self.path, "dir", self._size, why=why, count=self._count)


class Awaited(msgspec.Struct, frozen=True):
    """A remote directory whose pages have not arrived.

    Attributes:
        kind, source, target: As in `Directory`.
        replacement, movable, keep_steps: As in `Deletion`.
    """

    kind: Kind
    source: Entry | None = None
    target: Entry | None = None
    replacement: Entry | None = None
    movable: bool = True
    keep_steps: bool = False

    def at(self, path: bytes) -> Directory:
        """Return the directory with this path."""
        found = Directory(path, self.kind, self.source, self.target)
        if self.kind == "deletion":
            found.deletion = Deletion(path, self.replacement, keep_steps=self.keep_steps)
            found.deletion.movable = self.movable
        return found


@dataclass(slots=True)
class Directory:
    """A remote directory that is being compared.

    Attributes:
        source, target: The directory in each of the two trees.
        deletion: Set if it is to be deleted.
        below: Directories in it whose pages have not arrived.
        changed: True if something will be made or removed in it, which changes its mtime.
        later: Local directories in it that have no counterpart, with what replaces them.
        pairs: Files in it whose digests must be compared: the local and the remote one.
        times: Files in it that differ only in time: source and target.
    """

    path: bytes
    kind: Kind
    source: Entry | None = None
    target: Entry | None = None
    deletion: Deletion | None = None
    filter: Filter = field(default_factory=Filter)
    below: Table[Awaited] = field(default_factory=lambda: Table(Awaited))
    changed: bool = False
    later: list[tuple[Entry, Entry | None]] = field(default_factory=list)
    pairs: list[tuple[Entry, Entry]] = field(default_factory=list)
    times: list[tuple[Entry, Entry]] = field(default_factory=list)

    def close(self) -> None:
        """Remove what is kept on disk."""
        self.below.close()
        if self.deletion is not None:
            self.deletion.close()

    def leaves_out(self, entry: Entry) -> bool:
        """Return whether an entry in it is left out."""
        return self.filter.leaves_out(entry)
