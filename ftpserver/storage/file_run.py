"""Many small files of one request: taking them in, and what becomes of each.

Lives here: what of a `PutFiles` goes to which batch, in order, and the outcome of each thing.
Lives elsewhere: the batch and its commit (batch.py, commit.py), a file's bytes (staging.py), the
frames (serving/commands/transfers.py), the audit log's lines (audit/context.py).

It means exactly its parts, one after another. A want of room may have the batch committed in the
middle of it: then a run has a part in each of several batches.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from ftpserver.storage.batch_room import BatchRoom, Wanted
from ftpserver.storage.commit import Commit, Staged
from ftpserver.storage.home import Home
from ftpserver.storage.open_home import TURN_FILES
from ftpserver.storage.permissions import Action
from ftpserver.storage.places import Place, Places
from ftpserver.storage.staging import DROPPED_BITS, MODE_BITS
from ftpwire import digests, paths
from ftpwire.errors import BadRequest, CommandError, VerificationFailed
from ftpwire.messages import (
    MOST_BYTES,
    MOST_ITEMS,
    Failed,
    Finished,
    NewFiles,
    PutFiles,
    SetAttributes,
)
from ftpwire.paths import Parts


def size_of(request: PutFiles) -> int:
    """How many bytes follow it.

    Raises:
        BadRequest: It is about too much. Nothing was made room for.
    """
    size, items = 0, len(request.finished)
    for directory in request.directories:
        items += 1 + len(directory.files)
        for file in directory.files:
            size += file.size
    if items > MOST_ITEMS:
        raise BadRequest(f"{items} files and directories in one request: {MOST_ITEMS} at most")
    if size > MOST_BYTES:
        raise BadRequest(f"{size} bytes of files in one request: {MOST_BYTES} at most")
    return size


@dataclass(frozen=True, slots=True)
class FilesOutcome:
    """What became of a `PutFiles`.

    Attributes:
        total: How many things it was about.
        failures: What was not done, by its index.
        paths: Those of what was not done, as they were asked for, by the same.
    """

    total: int
    failures: dict[int, Failed]
    paths: dict[int, bytes] = field(default_factory=dict, compare=False)


class NewDirectory(NamedTuple):
    """A directory to be made, where it leads."""

    parts: Parts
    mode: int


class NewAttributes(NamedTuple):
    """A directory that is filled, where it leads."""

    parts: Parts
    request: SetAttributes


Thing = Staged | NewDirectory | NewAttributes | Failed | None
"""What is left to do about one thing of a run; `Failed`: nothing, it is refused. None: nothing."""


@dataclass(slots=True, eq=False)
class Part:
    """What of a run is in one batch: things that follow one another.

    Attributes:
        start: The index of the first.
        staged: The files among them.
        places: Where these are staged.
        ends: It is the run's last one.
    """

    run: FileRun
    start: int
    things: list[Thing] = field(default_factory=list)
    staged: list[Staged] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    ends: bool = False

    def apply(
        self, commit: Commit, refused: Callable[[Staged], None], take_turn: Callable[[], None]
    ) -> None:
        """Do what it is about.

        Args:
            refused: Called with a file that can't be put in its place.
            take_turn: See `OpenHome`.
        """
        index = self.start - 1
        for thing in self.things:
            index += 1
            if not index % TURN_FILES:
                take_turn()
            try:
                if type(thing) is Staged:
                    commit.place(thing)
                elif type(thing) is NewDirectory:
                    commit.make_directory(thing.parts, thing.mode, parents=True, fill=True)
                elif type(thing) is NewAttributes:
                    commit.set_attributes_of(thing.parts, thing.request)
                elif type(thing) is Failed:
                    self.run.failures[index] = thing
            except (CommandError, OSError) as error:
                if type(thing) is Staged:
                    refused(thing)
                self.run.failures[index] = self.run.failed(error, index)

    def fail(self, failure: Failed) -> None:
        """None of it is called done, for one reason; a directory of which nothing was asked has
        not failed."""
        for index, thing in enumerate(self.things, self.start):
            if thing is not None:
                self.run.failures[index] = thing if type(thing) is Failed else failure

    def finish(self) -> None:
        """Its batch is over, whatever became of it."""
        self.run.finished = self.start + len(self.things)


class Tell(Protocol):
    """Makes an error the answer about a path."""

    def __call__(self, error: CommandError | OSError, path: bytes) -> Failed: ...


class FileRun:
    """One `PutFiles`, from when all its bytes are there.

    Args:
        failed: Makes an error the answer about a path.

    Attributes:
        failure: That.
        failures: What was not done, by its index.
        files: How many files it has.
        things: How many things it is about.
        finished: So many of these were in batches that are finished.
    """

    def __init__(self, request_id: int, request: PutFiles, failed: Tell) -> None:
        self.request_id = request_id
        self.request = request
        self.failures: dict[int, Failed] = {}
        self.files = sum(len(one.files) for one in request.directories)
        self.things = len(request.directories) + self.files + len(request.finished)
        self.finished = 0
        self.failure = failed

    def outcome(self) -> FilesOutcome:
        """What became of it, when its last part is done."""
        request = self.request
        if not self.failures:
            return FilesOutcome(self.things, {})
        failures = dict(sorted(self.failures.items()))
        return FilesOutcome(
            self.things,
            failures,
            {
                index: path
                for index, (path, _) in enumerate(things_of(request))
                if index in failures
            },
        )

    def fail_rest(self, error: CommandError | OSError) -> None:
        """Nothing of it is done but what was in batches that are finished."""
        for index, (path, is_asked) in enumerate(things_of(self.request)):
            if index >= self.finished and is_asked:
                self.failures[index] = self.failure(error, path)

    def failed(self, error: CommandError | OSError, index: int) -> Failed:
        """The answer about the thing of an index."""
        return self.failure(error, path_of(self.request, index))


def things_of(request: PutFiles) -> Iterator[tuple[bytes, bool]]:
    """The paths of all things that it is about, in the order of their indexes, and whether anything
    was asked for that path."""
    for directory in request.directories:
        yield directory.path, directory.make is not None
        for file in directory.files:
            yield paths.child(directory.path, file.name), True
    for finished in request.finished:
        yield finished.path, True


def path_of(request: PutFiles, index: int) -> bytes:
    """The path of the thing that has an index."""
    for directory in request.directories:
        if not index:
            return directory.path
        if index <= len(directory.files):
            return paths.child(directory.path, directory.files[index - 1].name)
        index -= 1 + len(directory.files)
    return request.finished[index].path


class Batch(Protocol):
    """The batch that a run goes to, as far as this module knows it."""

    remarks: set[str]

    def part_of(self, run: FileRun, index: int) -> Part:
        """The part of a run that is in the batch which is open now; it begins with that index where
        there is none yet."""

    def stage_bytes(
        self, data: memoryview, digest: bytes, mode: int, mtime_ns: int | None, place: Place
    ) -> tuple[bytes, int]:
        """Write a file into staging: its name there, and its descriptor. Raises OSError."""


class _Directory(NamedTuple):
    """One of a run's directories, as far as it is known before anything is staged.

    Attributes:
        parts: As its path says; None where that is no path.
        base: Where that leads.
        made: It is going to be made.
    """

    parts: Parts | None
    base: Parts
    failure: Failed | None
    made: bool


class RunStaging:
    """Takes the things of a run in. For one thread.

    Args:
        data: The bytes of all files, one after another.
        keeps_open: Leave files open until the commit, which syncs them one by one.
    """

    def __init__(
        self,
        batch: Batch,
        home: Home,
        places: Places,
        room: BatchRoom,
        run: FileRun,
        data: bytes | bytearray,
        *,
        keeps_open: bool,
    ) -> None:
        self._batch = batch
        self._home = home
        self._places = places
        self._room = room
        self._run = run
        self._keeps_open = keeps_open
        self._data = memoryview(data)
        self._at = 0
        """Where the bytes of the next file begin."""
        self._limited = not home.permissions.unlimited
        self._one_by_one = False
        """Whether each takes its own room: there isn't enough for all of them."""
        self._index = 0
        self._part: Part

    def stage(self) -> Part:
        """Stage all files; what is refused is an outcome by itself.

        Returns:
            The part that is in the batch which is open now.

        Raises:
            StateError: The books can't be read.
        """
        request = self._run.request
        self._part = self._batch.part_of(self._run, 0)
        directories = [(new, self._look_at(new)) for new in request.directories]
        wanted = [self._wanted(new, directory) for new, directory in directories]
        self._one_by_one = not self._room.take_together(len(self._data), wanted)
        for new, directory in directories:
            self._stage_directory(new, directory)
        known = {new.path: directory.parts for new, directory in directories}
        for finished in request.finished:
            self._finish(finished, known.get(finished.path))
        self._part.ends = True
        return self._part

    # directories -------------------------------------------------------------------------

    def _look_at(self, new: NewFiles) -> _Directory:
        """Split a directory's path, once for all of its files."""
        try:
            parts = paths.split(new.path)
        except CommandError as error:
            return _Directory(None, (), self._failure(error, new.path), False)
        base = self._home.network_of(parts)
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
        # a longer name makes no path, nor does any where that is too deep: the error tells which
        longest = paths.MAX_PATH - len(new.path.rstrip(b"/")) - 1
        if len(directory.parts) >= paths.MAX_DEPTH:
            longest = 0
        if new.files:
            self._stage_files(new, directory.parts, directory.base, longest)

    def _stage_files(self, new: NewFiles, parts: Parts, base: Parts, longest: int) -> None:
        """Stage the files of one directory. What is done here is done for each of very many: all
        that is the same for all of them was found out before.

        Args:
            parts, base: The directory, as its path says and where it leads.
            longest: Bytes of the longest name that its path leaves room for.
        """
        # a name that leads elsewhere: to a tree that is on its way to just there
        apart = self._home.name_apart(parts)
        limited, one_by_one = self._limited, self._one_by_one
        batch, part, data, end = self._batch, self._part, self._data, self._at
        stage_bytes, digest_of, keeps_open = batch.stage_bytes, digests.digest, self._keeps_open
        request = self._run.request
        overwrite, parents = request.overwrite, request.parents
        are_names = paths.are_names([file.name for file in new.files], longest)
        take_turn = self._home.take_turn
        place: Place | None = None
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
                its = data[start:end]
                if digest_of(its) != digest:
                    raise VerificationFailed("what arrived has another digest than what was sent")
                if leaf == apart:
                    target = self._home.network_of((*parts, leaf))
                    parent, leaf, place = target[:-1], target[-1], None
                if one_by_one:
                    self._room.take(size, (*parent, leaf), parents)
                    part = self._next_part()
                    place = None  # the batch may have ended, and what it held open
                if place is None:
                    place = self._places.of(parent)
                    part.places.append(place)
                try:
                    name, fd = stage_bytes(its, digest, file.mode, file.mtime_ns, place)
                except BaseException:
                    self._room.give_back(None, size)
                    raise
            except (CommandError, OSError) as error:
                self._refuse(error, paths.child(new.path, file.name))
                part = self._part
                continue
            if not keeps_open:
                os.close(fd)
                fd = -1
            # by position: with names it takes twice as long
            staged = Staged(
                name,
                parent,
                leaf,
                size,
                file.mtime_ns,
                overwrite,
                place,
                fd,
                None,
                parents,
                digest,
            )
            part.things.append(staged)
            part.staged.append(staged)
            self._index += 1
            if file.mode & ~MODE_BITS:
                batch.remarks.add(DROPPED_BITS)
            if leaf is not file.name:
                place = None
        self._at = end

    def _add_directory(self, new: NewFiles, directory: _Directory) -> None:
        if new.make is None:
            self._add(None)
        elif directory.failure is not None:
            self._add(directory.failure)
        else:
            try:
                if self._one_by_one:
                    self._room.take(0, directory.base, True)
                    self._room.will_make(directory.base)
                    self._next_part()
            except CommandError as error:
                self._refuse(error, new.path)
            else:
                self._add(NewDirectory(directory.base, new.make))

    def _finish(self, finished: Finished, parts: Parts | None) -> None:
        """Args: ``parts``: Its path, if that was split already."""
        change = SetAttributes(finished.path, finished.mode, finished.mtime_ns)
        try:
            parts = self._permitted(paths.split(finished.path) if parts is None else parts)
        except CommandError as error:
            self._refuse(error, finished.path)
        else:
            self._add(NewAttributes(self._home.network_of(parts), change))

    # all of these ------------------------------------------------------------------------

    def _permitted(self, parts: Parts) -> Parts:
        """Raises Forbidden unless something may be made there."""
        if self._limited:
            self._home.require(Action.CREATE, parts)
        return parts

    def _next_part(self) -> Part:
        """The part to go on with. Room was taken: the batch may have been committed for it."""
        self._part = self._batch.part_of(self._run, self._index)
        return self._part

    def _add(self, thing: Thing) -> None:
        self._part.things.append(thing)
        self._index += 1

    def _refuse(self, error: CommandError | OSError, path: bytes) -> None:
        self._next_part()
        self._add(self._failure(error, path))

    def _failure(self, error: CommandError | OSError, path: bytes) -> Failed:
        return self._run.failure(error, path)
