"""The small files of one `PutFiles` request: staging them, and the outcome of each.

Lives here: the order in which a run of files joins the batch, and the outcome of each of its items.
Lives elsewhere: the batch and its commit (batch*.py, commit.py), the bytes of a file (staging.py),
the frames (serving/commands/transfers.py), the records of the audit log (audit/context.py).

The request means the same as its items would mean one after another. Lack of quota may force a
commit in the middle of a run: then it has a part in each of several batches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ftpserver.storage.batch_reservation import BatchReservation, Wanted
from ftpserver.storage.commit import Commit, Staged
from ftpserver.storage.home import Home
from ftpserver.storage.open_home import TURN_FILES
from ftpserver.storage.permissions import Action
from ftpserver.storage.staging import DROPPED_BITS, MODE_BITS
from ftpserver.storage.staging_dirs import StagingDir, StagingDirs
from ftpwire import digests, paths
from ftpwire.errors import BadRequest, CommandError, VerificationFailed
from ftpwire.messages import (
    MAX_BYTES,
    MAX_ITEMS,
    Failed,
    Finished,
    NewFiles,
    PutFiles,
    SetAttributes,
)
from ftpwire.paths import Parts


def size_of(request: PutFiles) -> int:
    """Return how many bytes of data follow a request.

    Raises:
        BadRequest: It has too many items or bytes. No memory was allocated for them.
    """
    size, items = 0, len(request.finished)
    for directory in request.directories:
        items += 1 + len(directory.files)
        for file in directory.files:
            size += file.size
    if items > MAX_ITEMS:
        raise BadRequest(f"{items} files and directories in one request: {MAX_ITEMS} at most")
    if size > MAX_BYTES:
        raise BadRequest(f"{size} bytes of files in one request: {MAX_BYTES} at most")
    return size


@dataclass(frozen=True, slots=True)
class FilesOutcome:
    """The outcome of a `PutFiles`.

    Attributes:
        total: The number of its items.
        failures: The items that failed, by index.
        paths: The paths of these as the client wrote them, by index.
    """

    total: int
    failures: dict[int, Failed]
    paths: dict[int, bytes] = field(default_factory=dict, compare=False)


class NewDirectory(NamedTuple):
    """A directory to be made, with its path already redirected."""

    parts: Parts
    mode: int


class NewAttributes(NamedTuple):
    """A directory to be given its attributes, with its path already redirected."""

    parts: Parts
    request: SetAttributes


ItemWork = Staged | NewDirectory | NewAttributes | Failed | None
"""The work left for one item of a run. `Failed`: nothing, it is refused. None: nothing."""


@dataclass(slots=True, eq=False)
class Part:
    """The items of a run that are in one batch. They are consecutive.

    Attributes:
        start: The index of the first item.
        staged: The files among the items.
        staging_dirs: The staging directories of these files.
        ends: True for the last part of a run.
    """

    run: FileRun
    start: int
    items: list[ItemWork] = field(default_factory=list)
    staged: list[Staged] = field(default_factory=list)
    staging_dirs: list[StagingDir] = field(default_factory=list)
    ends: bool = False

    def apply(
        self, commit: Commit, refused: Callable[[Staged], None], take_turn: Callable[[], None]
    ) -> None:
        """Make the changes that its items ask for.

        Args:
            refused: Called with each staged file that cannot be renamed to its target.
            take_turn: See `OpenHome`.
        """
        index = self.start - 1
        for item in self.items:
            index += 1
            if not index % TURN_FILES:
                take_turn()
            try:
                if type(item) is Staged:
                    commit.place(item)
                elif type(item) is NewDirectory:
                    commit.make_directory(item.parts, item.mode, parents=True, fill=True)
                elif type(item) is NewAttributes:
                    commit.set_attributes_of(item.parts, item.request)
                elif type(item) is Failed:
                    self.run.failures[index] = item
            except (CommandError, OSError) as error:
                if type(item) is Staged:
                    refused(item)
                self.run.failures[index] = self.run.failed(error, index)

    def fail(self, failure: Failed) -> None:
        """Record one failure for all items, because the batch failed. A directory for which nothing
        was requested has not failed."""
        for index, item in enumerate(self.items, self.start):
            if item is not None:
                self.run.failures[index] = item if type(item) is Failed else failure

    def finish(self) -> None:
        """Record that its batch is finished, with whatever outcome."""
        self.run.finished = self.start + len(self.items)


class MakeFailed(Protocol):
    """Makes a reply about a path from an error."""

    def __call__(self, error: CommandError | OSError, path: bytes) -> Failed: ...


class FileRun:
    """One `PutFiles` of which all bytes were received.

    Args:
        failed: Makes a reply about a path from an error.

    Attributes:
        failure: The argument ``failed``.
        failures: The items that failed, by index.
        files: The number of its files.
        item_count: The number of its items: files and directories.
        finished: How many of its items were in batches that are finished.
    """

    def __init__(self, request_id: int, request: PutFiles, failed: MakeFailed) -> None:
        self.request_id = request_id
        self.request = request
        self.failures: dict[int, Failed] = {}
        self.files = sum(len(one.files) for one in request.directories)
        self.item_count = len(request.directories) + self.files + len(request.finished)
        self.finished = 0
        self.failure = failed

    def outcome(self) -> FilesOutcome:
        """Return the outcome, once the last part is finished."""
        request = self.request
        if not self.failures:
            return FilesOutcome(self.item_count, {})
        failures = dict(sorted(self.failures.items()))
        return FilesOutcome(
            self.item_count,
            failures,
            {index: path for index, (path, _) in enumerate(paths_of(request)) if index in failures},
        )

    def fail_rest(self, error: CommandError | OSError) -> None:
        """Record one failure for all items that were not in a finished batch."""
        for index, (path, is_requested) in enumerate(paths_of(self.request)):
            if index >= self.finished and is_requested:
                self.failures[index] = self.failure(error, path)

    def failed(self, error: CommandError | OSError, index: int) -> Failed:
        """Return the reply about the item with this index."""
        return self.failure(error, path_of(self.request, index))


def paths_of(request: PutFiles) -> Iterator[tuple[bytes, bool]]:
    """Yield the paths of all items in the order of their indexes, and for each True if anything was
    requested for that path."""
    for directory in request.directories:
        yield directory.path, directory.make is not None
        for file in directory.files:
            yield paths.child(directory.path, file.name), True
    for finished in request.finished:
        yield finished.path, True


def path_of(request: PutFiles, index: int) -> bytes:
    """Return the path of the item with this index."""
    for directory in request.directories:
        if not index:
            return directory.path
        if index <= len(directory.files):
            return paths.child(directory.path, directory.files[index - 1].name)
        index -= 1 + len(directory.files)
    return request.finished[index].path


class Batch(Protocol):
    """The parts of the open batch that this module uses."""

    remarks: set[str]

    def part_of(self, run: FileRun, index: int) -> Part:
        """Return the part of a run in the open batch; add one that begins at ``index`` if there is
        none."""

    def stage_bytes(
        self,
        data: memoryview,
        digest: bytes,
        mode: int,
        mtime_ns: int | None,
        staging_dir: StagingDir,
    ) -> tuple[bytes, int]:
        """Write a file into staging; return its name there and its descriptor. Raises OSError."""


class _Directory(NamedTuple):
    """One of a run's directories, as far as it is known before anything is staged.

    Attributes:
        parts: Its path; None if that is invalid.
        base: The same, redirected.
        failure: The reason why it cannot be made; None if there is none.
        made: True if it is going to be made.
    """

    parts: Parts | None
    base: Parts
    failure: Failed | None
    made: bool


class RunStaging:
    """Stages the items of a run. For one thread.

    Args:
        data: The bytes of all files, one after another.
        keeps_open: True to leave files open until the commit, which syncs them one by one.
    """

    def __init__(
        self,
        batch: Batch,
        home: Home,
        staging_dirs: StagingDirs,
        reservation: BatchReservation,
        run: FileRun,
        data: bytes | bytearray,
        *,
        keeps_open: bool,
    ) -> None:
        self._batch = batch
        self._home = home
        self._staging_dirs = staging_dirs
        self._reservation = reservation
        self._run = run
        self._keeps_open = keeps_open
        self._data = memoryview(data)
        self._at = 0
        """The offset of the next file's bytes."""
        self._limited = not home.permissions.unlimited
        self._one_by_one = False
        """True if each item takes its own quota, because there isn't enough for all of them."""
        self._index = 0
        self._part: Part

    def stage(self) -> Part:
        """Stage all files. An item that is refused doesn't affect the others.

        Returns:
            The last part, which is in the open batch.

        Raises:
            StateError: The quota store cannot be read.
        """
        request = self._run.request
        self._part = self._batch.part_of(self._run, 0)
        directories = [(new, self._look_at(new)) for new in request.directories]
        wanted = [self._wanted(new, directory) for new, directory in directories]
        self._one_by_one = not self._reservation.take_together(len(self._data), wanted)
        for new, directory in directories:
            self._stage_directory(new, directory)
        known = {new.path: directory.parts for new, directory in directories}
        for finished in request.finished:
            self._finish(finished, known.get(finished.path))
        self._part.ends = True
        return self._part

    # directories -------------------------------------------------------------------------

    def _look_at(self, new: NewFiles) -> _Directory:
        """Split a directory's path and check it, once for all of its files."""
        try:
            parts = paths.split(new.path)
        except CommandError as error:
            return _Directory(None, (), self._failure(error, new.path), False)
        base = self._home.redirected(parts)
        if new.make is None:
            return _Directory(parts, base, None, False)
        try:
            self._permitted(parts)
        except CommandError as error:
            return _Directory(parts, base, self._failure(error, new.path), False)
        return _Directory(parts, base, None, True)

    def _wanted(self, new: NewFiles, directory: _Directory) -> Wanted:
        above = directory.made or self._run.request.parents
        return Wanted(directory.base, len(new.files), directory.made, above)

    def _stage_directory(self, new: NewFiles, directory: _Directory) -> None:
        self._add_directory(new, directory)
        if directory.parts is None:
            for file in new.files:
                self._at += file.size
                self._add(directory.failure)
            return
        # Longer names exceed the longest path, and any name does in a directory that is too deep.
        # They are split in full below, where the error says which limit is exceeded.
        longest = paths.MAX_PATH - len(new.path.rstrip(b"/")) - 1
        if len(directory.parts) >= paths.MAX_DEPTH:
            longest = 0
        if new.files:
            self._stage_files(new, directory.parts, directory.base, longest)

    def _stage_files(self, new: NewFiles, parts: Parts, base: Parts, longest: int) -> None:
        """Stage the files of one directory.

        The loop runs for each of very many files: whatever is the same for all of them is computed
        before it.

        Args:
            parts, base: The path of the directory, and the same redirected.
            longest: The longest name in bytes that its path leaves space for.
        """
        # the one name that is redirected although its directory is not: the target of a tree
        apart = self._home.name_apart(parts)
        limited, one_by_one = self._limited, self._one_by_one
        batch, part, data, end = self._batch, self._part, self._data, self._at
        stage_bytes, digest_of, keeps_open = batch.stage_bytes, digests.digest, self._keeps_open
        request = self._run.request
        overwrite, parents = request.overwrite, request.parents
        are_names = paths.are_names([file.name for file in new.files], longest)
        take_turn = self._home.take_turn
        staging_dir: StagingDir | None = None
        for file in new.files:
            if not self._index % TURN_FILES:
                take_turn()
            leaf, size, digest, parent = file.name, file.size, file.digest, base
            start = end
            end += size
            try:
                if not are_names and not (paths.is_name(leaf) and len(leaf) <= longest):
                    paths.split(paths.child(new.path, paths.check_name(leaf)))
                if limited:
                    self._permitted((*parts, leaf))
                content = data[start:end]
                if digest_of(content) != digest:
                    raise VerificationFailed("the data does not match the digest sent with it")
                if leaf == apart:
                    target = self._home.redirected((*parts, leaf))
                    parent, leaf, staging_dir = target[:-1], target[-1], None
                if one_by_one:
                    self._reservation.take(size, (*parent, leaf), parents)
                    part = self._next_part()
                    # taking quota may have committed the batch and closed its handles
                    staging_dir = None
                if staging_dir is None:
                    staging_dir = self._staging_dirs.of(parent)
                    part.staging_dirs.append(staging_dir)
                try:
                    name, fd = stage_bytes(content, digest, file.mode, file.mtime_ns, staging_dir)
                except BaseException:
                    self._reservation.give_back(None, size)
                    raise
            except (CommandError, OSError) as error:
                self._refuse(error, paths.child(new.path, file.name))
                part = self._part
                continue
            if not keeps_open:
                os.close(fd)
                fd = -1
            # positional arguments: by keyword this takes twice as long
            staged = Staged(
                name,
                parent,
                leaf,
                size,
                file.mtime_ns,
                overwrite,
                staging_dir,
                fd,
                None,
                parents,
                digest,
            )
            part.items.append(staged)
            part.staged.append(staged)
            self._index += 1
            if file.mode & ~MODE_BITS:
                batch.remarks.add(DROPPED_BITS)
            if leaf is not file.name:
                staging_dir = None
        self._at = end

    def _add_directory(self, new: NewFiles, directory: _Directory) -> None:
        if new.make is None:
            self._add(None)
        elif directory.failure is not None:
            self._add(directory.failure)
        else:
            try:
                if self._one_by_one:
                    self._reservation.take(0, directory.base, True)
                    self._reservation.will_make(directory.base)
                    self._next_part()
            except CommandError as error:
                self._refuse(error, new.path)
            else:
                self._add(NewDirectory(directory.base, new.make))

    def _finish(self, finished: Finished, parts: Parts | None) -> None:
        """Add the request's final attributes of a directory.

        Args:
            parts: Its path, if that was split already.
        """
        change = SetAttributes(finished.path, finished.mode, finished.mtime_ns)
        try:
            parts = self._permitted(paths.split(finished.path) if parts is None else parts)
        except CommandError as error:
            self._refuse(error, finished.path)
        else:
            self._add(NewAttributes(self._home.redirected(parts), change))

    # all of these ------------------------------------------------------------------------

    def _permitted(self, parts: Parts) -> Parts:
        """Return ``parts``. Raises Forbidden unless something may be made there."""
        if self._limited:
            self._home.require(Action.CREATE, parts)
        return parts

    def _next_part(self) -> Part:
        """Return the part that takes the next item. It is a new one if taking quota has committed
        the batch."""
        self._part = self._batch.part_of(self._run, self._index)
        return self._part

    def _add(self, item: ItemWork) -> None:
        self._part.items.append(item)
        self._index += 1

    def _refuse(self, error: CommandError | OSError, path: bytes) -> None:
        self._next_part()
        self._add(self._failure(error, path))

    def _failure(self, error: CommandError | OSError, path: bytes) -> Failed:
        return self._run.failure(error, path)
