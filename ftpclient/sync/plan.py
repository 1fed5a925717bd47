"""What a sync is going to do: steps, kept on disk when they are many.

Lives here: the options, one step, the plan with its phases and totals.
Lives elsewhere: comparing two trees (diff.py), carrying the plan out (job.py, apply.py).
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
    """One thing to do in the target.

    Attributes:
        path: What becomes different, relative to the two roots; empty for the roots themselves.
        type: Of what is there then; with ``delete``, of what is there now.
        size: Bytes that are sent, or deleted.
        mode, mtime_ns: What to set; with ``attributes`` and ``rename`` None for what is right.
            With ``delete``, what a file or link has: one that has another stays.
        target: Where a link points.
        why: For people. Empty for what only serves another step: it isn't shown.
        source: With ``rename``, the path before.
        count: With ``delete``, how many files, links and directories that is.
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
        """What the source of a transfer is."""
        assert self.mode is not None and self.mtime_ns is not None
        return Entry(
            paths.name_of(self.path), self.type, self.size, self.mode, self.mtime_ns, self.target
        )


@dataclass(frozen=True)
class Options:
    """How to mirror.

    Attributes:
        delete: Remove from the target what the source hasn't.
        delete_before: Remove it before the transfers, to make room for them.
        max_delete: Change nothing when more than this would be removed.
        force: Delete also when the source is empty, or a part of it can't be read.
        dry_run: Change nothing at all.
        checksum: Compare the digests of files, not their mtimes.
        size_only: Files of the same size are the same; where their mtimes differ, these are set.
        update: Leave files alone that are newer in the target.
        patterns: What is left out (True) or not (False), in order; the last that matches decides.
        resume: Use what an earlier try has left of a large file.
        copy_links: Follow the links of the source, instead of mirroring them.
        parallel: Connections for the files; None chooses.
        files_from: Paths below the source: nothing else is mirrored or deleted, and of directories
            all that is in them. One that the source hasn't is a failure. Iterated over once.
        min_age, max_age: Seconds since the last change of a file, at least and at most.
        max_size: The most bytes of a file. What is left out by a limit is not deleted either.
        existing: Make nothing new: only what is in the target is brought in line.
        ignore_existing: Leave files and links alone that are in the target.

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

    def __post_init__(self) -> None:
        if self.checksum and self.size_only:
            raise ValueError("checksum and size_only exclude each other")

    @property
    def by_time(self) -> bool:
        """Whether files of the same size are told apart by their mtimes."""
        return not (self.checksum or self.size_only)

    def limits(self) -> Limits | None:
        """What files have to be like, from now on."""
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
    """The two roots, and which is the source.

    Attributes:
        upload: From here to the server; else from there to here.
        local: As typed.
    """

    upload: bool
    local: bytes
    remote: RemotePath

    @property
    def verb(self) -> Literal["put", "get"]:
        return "put" if self.upload else "get"

    def source(self, path: bytes) -> bytes:
        """The full path of something in the source."""
        return self.local_path(path) if self.upload else self.remote_path(path)

    def target(self, path: bytes) -> bytes:
        """The full path of something in the target."""
        return self.remote_path(path) if self.upload else self.local_path(path)

    def local_path(self, path: bytes) -> bytes:
        return paths.child(self.local, path) if path else self.local

    def remote_path(self, path: bytes) -> RemotePath:
        return paths.child(self.remote, path) if path else self.remote

    def shown_target(self) -> str:
        """The target's root, for people."""
        return (":" if self.upload else "") + paths.show(self.target(b""))

    def shown_source(self) -> str:
        """The source's root, for people."""
        return ("" if self.upload else ":") + paths.show(self.source(b""))


class Plan:
    """The steps of a sync in the order of their phases. Close it afterwards.

    Attributes:
        openings: Directories of the target that must become writable before the rest.
        obstacles: Deletions that make way for something of another type.
        directories: New ones, each before those in it.
        renames: Files that are in the target under another name.
        transfers: Files and links.
        attributes: Of files that are the same otherwise.
        deletions: What the source hasn't.
        endings: Attributes of directories, each after those in it.
        files, size: How many files are transferred, and their bytes.
        growth: Bytes that the target has more before anything is deleted.
        unchanged: Files and links that need nothing.
        renamed: How many renames.
        doomed, doomed_size: How many things are deleted, and the bytes of their files.
        source_is_empty: Nothing is in the source.
        unreadable: Parts of the source that could not be read: how many, and why the first.
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
        """All steps, in the order in which they are done."""
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
        """The steps worth showing."""
        for phase in self.phases():
            yield from (step for step in phase if step.why)

    def transfer(self, step: Step, instead_of: int = 0) -> None:
        """Add a file or link to be sent, in the place of so many bytes."""
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
        """Bytes that the target has less when its extra files are deleted."""
        return self.doomed_size - self._obstacle_size

    def cannot_read(self, error: CommandError) -> None:
        """Note that a part of the source stays unknown."""
        self.unreadable += 1
        self.first_unreadable = self.first_unreadable or error

    def close(self) -> None:
        """Remove what is kept on disk."""
        for phase in self.phases():
            phase.close()
