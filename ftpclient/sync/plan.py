"""The plan of a sync: its steps, kept on disk if there are many.

Lives here: the options, one step, the plan with its phases and totals.
Lives elsewhere: comparing two trees (diff.py), carrying out the plan (job.py, apply.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import msgspec

from ftpclient.transfer.selection import Limits
from ftpclient.transfer.spool import Spool
from ftpwire import paths
from ftpwire.errors import CommandError
from ftpwire.messages import Entry, FileType
from ftpwire.paths import RemotePath

AnyBytes = str | bytes
Action = Literal["put", "get", "mkdir", "delete", "attributes", "rename"]


class Step(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """One change in the target.

    Attributes:
        path: The path that changes, relative to both roots; empty for the roots themselves.
        type: The type that it will have; with ``delete``, the one that it has.
        size: Number of bytes that are sent, or deleted.
        mode, mtime_ns: The values to set; with ``attributes`` and ``rename``, None if the present
            one is right. With ``delete``, those of the file or link: a changed one is not deleted.
        target: The target of a link.
        why: The reason, for display. Empty if the step only serves another one and isn't shown.
        source: With ``rename``, the old path.
        count: With ``delete``, the number of files, links and directories.
    """

    action: Action
    path: bytes
    type: FileType = "file"
    size: int = 0
    mode: int | None = None
    mtime_ns: int | None = None
    target: bytes | None = None
    why: str = ""
    source: bytes = b""
    count: int = 1

    @property
    def entry(self) -> Entry:
        """The source of a transfer, as an entry."""
        assert self.mode is not None and self.mtime_ns is not None
        return Entry(
            paths.name_of(self.path), self.type, self.size, self.mode, self.mtime_ns, self.target
        )


@dataclass(frozen=True)
class Options:
    """How to mirror.

    Attributes:
        delete: True to remove from the target what is not in the source.
        delete_before: True to remove it before the transfers, to free space for them.
        max_delete: Change nothing if more entries than this would be removed.
        force: True to delete even if the source is empty, or part of it cannot be read.
        dry_run: True to change nothing at all.
        checksum: True to compare the digests of files, not their mtimes.
        size_only: True to regard files of the same size as the same; differing mtimes are set.
        update: True to leave files alone that are newer in the target.
        patterns: Patterns to leave out (True) or include (False); the last match decides.
        resume: True to use what an earlier try has transferred of a large file.
        copy_links: True to follow the links of the source, instead of mirroring them.
        parallel: The number of connections for the files; None to choose.
        files_from: Paths below the source: nothing else is mirrored or deleted. A directory stands
            for everything in it. A path that does not exist is a failure. Iterated over once.
        min_age, max_age: Limits on the seconds since the last change of a file.
        max_size: The maximum size of a file in bytes. What a limit leaves out is not deleted
            either.
        existing: True to make nothing new: only what is in the target is updated.
        ignore_existing: True to leave files and links alone that are in the target.
        directories: Directories below the source, or the source itself (an empty path): only these
            are compared, without the directories in them; a directory that the target doesn't
            have is sent with everything in it. None for all. Only for a sync to the server.

    Raises:
        ValueError: ``checksum`` and ``size_only`` exclude each other.
    """

    delete: bool = False
    max_delete: int | None = None
    force: bool = False
    dry_run: bool = False
    checksum: bool = False
    update: bool = False
    patterns: tuple[tuple[bool, str], ...] = ()
    resume: bool = True
    delete_before: bool = False
    copy_links: bool = False
    parallel: int | None = None
    files_from: Iterable[AnyBytes] | None = None
    min_age: float | None = None
    max_age: float | None = None
    max_size: int | None = None
    existing: bool = False
    ignore_existing: bool = False
    size_only: bool = False
    directories: Iterable[AnyBytes] | None = None

    def __post_init__(self) -> None:
        if self.checksum and self.size_only:
            raise ValueError("checksum and size_only exclude each other")

    @property
    def by_time(self) -> bool:
        """True if files of the same size are the same only if their mtimes are."""
        return not (self.checksum or self.size_only)

    def limits(self) -> Limits | None:
        """Return the limits on files; ages count from now."""
        if self.min_age is self.max_age is self.max_size is None:
            return None
        now = time.time_ns()
        return Limits(
            self.max_size,
            None if self.max_age is None else now - int(self.max_age * 10**9),
            None if self.min_age is None else now - int(self.min_age * 10**9),
        )


@dataclass(frozen=True)
class Route:
    """The two roots, and which one is the source.

    Attributes:
        upload: True to sync from the local tree to the server, False for the reverse.
        local: The local root, as typed.
    """

    upload: bool
    local: bytes
    remote: RemotePath

    @property
    def verb(self) -> Literal["put", "get"]:
        return "put" if self.upload else "get"

    def source(self, path: bytes) -> bytes:
        """Return the full path of an entry in the source."""
        return self.local_path(path) if self.upload else self.remote_path(path)

    def target(self, path: bytes) -> bytes:
        """Return the full path of an entry in the target."""
        return self.remote_path(path) if self.upload else self.local_path(path)

    def local_path(self, path: bytes) -> bytes:
        return paths.child(self.local, path) if path else self.local

    def remote_path(self, path: bytes) -> RemotePath:
        return paths.child(self.remote, path) if path else self.remote

    def shown_target(self) -> str:
        """Return the target's root for display."""
        return (":" if self.upload else "") + paths.show(self.target(b""))

    def shown_source(self) -> str:
        """Return the source's root for display."""
        return ("" if self.upload else ":") + paths.show(self.source(b""))


class Plan:
    """The steps of a sync in the order of their phases. Close it after use.

    Attributes:
        openings: Directories of the target that must be made writable before the rest.
        obstacles: Deletions that make way for something of another type.
        directories: New directories, each before those in it.
        renames: Files that are in the target under another name.
        transfers: Files and links.
        attributes: Attributes of files that are otherwise the same.
        deletions: Deletions of what is not in the source.
        endings: Attributes of directories, each after those in it.
        files, size: Number of files to transfer, and their bytes.
        growth: Bytes by which the target grows before anything is deleted.
        unchanged: Number of files and links that need no step.
        renamed: Number of renames.
        doomed, doomed_size: Number of entries to delete, and the bytes of their files.
        source_is_empty: True if nothing is in the source.
        unreadable: Number of parts of the source that could not be read.
        first_unreadable: The first error of those.
    """

    def __init__(self) -> None:
        self.openings = Spool(Step)
        self.obstacles = Spool(Step)
        self.directories = Spool(Step)
        self.renames = Spool(Step)
        self.transfers = Spool(Step)
        self.attributes = Spool(Step)
        self.deletions = Spool(Step)
        self.endings = Spool(Step)
        self.files = 0
        self.size = 0
        self.growth = 0
        self.unchanged = 0
        self.renamed = 0
        self.doomed = 0
        self.doomed_size = 0
        self._obstacle_size = 0
        self.source_is_empty = True
        self.unreadable = 0
        self.first_unreadable: CommandError | None = None

    def phases(self) -> tuple[Spool[Step], ...]:
        """Return the spools with all steps, in the order in which they are done."""
        return (
            self.openings,
            self.obstacles,
            self.directories,
            self.renames,
            self.transfers,
            self.attributes,
            self.deletions,
            self.endings,
        )

    def steps(self) -> Iterator[Step]:
        """Iterate over the steps that are shown."""
        for phase in self.phases():
            yield from (step for step in phase if step.why)

    def transfer(self, step: Step, instead_of: int = 0) -> None:
        """Add a file or link to be sent, which replaces one of ``instead_of`` bytes."""
        self.transfers.add(step)
        self.growth += step.size - instead_of
        if step.type == "file":
            self.files += 1
            self.size += step.size

    def remove(self, step: Step, *, obstacle: bool = False) -> None:
        """Add a deletion."""
        (self.obstacles if obstacle else self.deletions).add(step)
        if obstacle:
            self.growth -= step.size
            self._obstacle_size += step.size
        self.doomed += step.count
        self.doomed_size += step.size

    @property
    def freed(self) -> int:
        """The bytes by which the target shrinks when its extra files are deleted."""
        return self.doomed_size - self._obstacle_size

    def cannot_read(self, error: CommandError) -> None:
        """Note that a part of the source cannot be read."""
        self.unreadable += 1
        self.first_unreadable = self.first_unreadable or error

    def close(self) -> None:
        """Remove what is kept on disk."""
        for phase in self.phases():
            phase.close()
