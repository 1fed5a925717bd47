"""Comparing two trees, one here and one on the server, into a plan.

Lives here: walking the local tree along with the remote one's listing, and what differs.
Lives elsewhere: the listing (transfer/listing.py), what a plan is (plan.py), what is left out
(filters.py), finding renamed files and carrying the plan out (job.py).

No file costs a request. The server lists all of a directory before those in it, and these one
after another: so only one directory's names, and what has to be changed, are kept at a time.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.sync.filters import IGNORE_FILE, MAX_IGNORE_FILE, Filter, file_rules
from ftpclient.sync.kept_times import KeptTimes
from ftpclient.sync.plan import Options, Plan, Route, Step
from ftpclient.transfer.calls import GetCall, check_digest
from ftpclient.transfer.listing import Listing
from ftpclient.transfer.local_tree import LocalTree, checked_parts, grantable
from ftpclient.transfer.report import Result, Status
from ftpclient.transfer.spool import Spool, Table
from ftpwire import beneath, digests, paths
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    CommandError,
    InvalidPath,
    NotNewer,
    NotRegular,
    from_oserror,
)
from ftpwire.messages import Entry, Failed, FileType, Get, Hash, Hashed, List, Problem, Sent
from ftpwire.streams import ReadAhead

_POLL_EVERY = 1024
"""Local files between two looks at what the server has sent. A power of two."""
_PARTIAL_SECONDS = 24 * 3600.0
"""How long what an interrupted download has left is spared, for it to be gone on with."""
_STEPS_IN_MEMORY = 256 * 1024
"""Bytes of deletions of one directory that may have to go one by one."""
_MOST_MISSING = 100_000
"""Files that may have been renamed. Of more, the rest is sent and deleted."""
_OPEN_RULES = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_Item = TypeVar("_Item")

_NOUNS = {"file": "a file", "dir": "a directory", "link": "a link", "other": "something special"}


class _Doom:
    """A directory of the target that is to be deleted, with all that is in it.

    Args:
        replacement: What comes in its place.
        keep_steps: Something in it may be protected; then the rest has to go one by one.

    Attributes:
        protected: Something in it stays, and so must the directory.
        movable: Files in it may be renamed into place before it goes.
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
        """Something in it."""
        self._count += step.count
        self._size += step.size
        if self.keeps_steps:
            self._keep(step)

    def _keep(self, step: Step) -> None:
        if self._steps is None:
            self._steps = Spool(Step, in_memory=_STEPS_IN_MEMORY)
        self._steps.add(step)

    def take(self, inner: _Doom) -> None:
        """A directory in it, complete."""
        if inner.protected:
            self.protected = True
            for step in inner.steps():
                self._keep(step)
        else:
            self.add(inner.step())

    def steps(self) -> Iterable[Step]:
        """Those of what may go of it."""
        return () if self._steps is None else self._steps

    def close(self) -> None:
        """Forget the steps."""
        if self._steps is not None:
            self._steps.close()
            self._steps = None

    def step(self) -> Step:
        """The deletion of all of it at once."""
        why = _EXTRA if self.replacement is None else _IN_THE_WAY
        return Step("delete", self.path, "dir", self._size, why=why, count=self._count)


_EXTRA = "not in the source"
_IN_THE_WAY = "in the way"


class _Awaited(msgspec.Struct, frozen=True):
    """A remote directory whose pages are still to come.

    Attributes:
        kind, source, target: As those of `_Directory`.
        replacement: Of a doomed one: what comes in its place.
        movable, keep_steps: As those of `_Doom`.
    """

    kind: Literal["both", "new", "doomed"]
    source: Entry | None = None
    target: Entry | None = None
    replacement: Entry | None = None
    movable: bool = True
    keep_steps: bool = False

    def at(self, path: bytes) -> _Directory:
        """The directory, which has this path."""
        found = _Directory(path, self.kind, self.source, self.target)
        if self.kind == "doomed":
            found.doom = _Doom(path, self.replacement, keep_steps=self.keep_steps)
            found.doom.movable = self.movable
        return found


@dataclass(slots=True)
class _Directory:
    """A remote directory that is being compared.

    Attributes:
        kind: ``both``: also here; ``new``: only there, to be downloaded; ``doomed``: only there.
        source, target: The directory in each of the two trees.
        below: Those in it whose pages are still to come.
        changed: Something is going to be made or removed in it, which changes its mtime.
        later: Local directories in it that have no counterpart, with what replaces them.
        pairs: Files in it whose digests must be compared.
        times: Files in it that only differ in time.
    """

    path: bytes
    kind: Literal["both", "new", "doomed"]
    source: Entry | None = None
    target: Entry | None = None
    doom: _Doom | None = None
    filter: Filter = field(default_factory=Filter)
    below: Table[_Awaited] = field(default_factory=lambda: Table(_Awaited))
    changed: bool = False
    later: list[tuple[Entry, Entry | None]] = field(default_factory=list)
    pairs: list[tuple[Entry, Entry]] = field(default_factory=list)
    times: list[tuple[Entry, Entry]] = field(default_factory=list)

    def close(self) -> None:
        """Forget what is kept on disk."""
        self.below.close()
        if self.doom is not None:
            self.doom.close()


class Comparison:
    """Fills a plan.

    Args:
        tree: The local root; None where a download is going to make it.
        tell: Hears of what can't be mirrored or is passed over.

    Attributes:
        missing: Of an upload: files that would be deleted, by size. They may have been renamed.
        odd_times: What has another time in the target, because its disk can't keep that of the
            source: how many, and the first.
        first_withheld: Of a download: the first directory that doesn't get the source's mode.
    """

    def __init__(
        self,
        connection: Connection,
        route: Route,
        tree: LocalTree | None,
        options: Options,
        rules: Filter,
        tell: Callable[[Result], None],
    ) -> None:
        self.plan = Plan()
        self.missing: dict[int, list[bytes]] = {}
        self._missing_count = 0
        self.odd_times = 0
        self.first_odd_time: bytes | None = None
        self.first_withheld: bytes | None = None
        self._times = KeptTimes(connection, route.upload)
        self._longest = paths.MAX_PATH - len(paths.child(route.remote, b""))
        """Bytes of the longest relative path that a request can name."""
        self._connection = connection
        self._route = route
        self._upload = route.upload
        self._tree = tree
        self._options = options
        self._rules = rules
        self._tell = tell
        self._listing: Listing | None = None
        self._stack: list[_Directory] = []

    def run(self, source: Entry, target: Entry | None) -> None:
        """Compare the trees whose roots are these; None for one that has to be made."""
        if target is None and self._upload:
            self._new_local_tree(b"", source, self._rules)
            return
        root = _Directory(b"", "both", source, target)
        if target is None:
            root.kind = "new"
            self.plan.directories.add(_mkdir(b"", source))
        root.filter = self._rules
        request = List(self._route.remote, recursive=True, digest=self._options.checksum)
        self._listing = Listing(self._connection, request)
        try:
            if self._options.checksum:
                self._listing.finish()  # digests are asked for, and computed, on the way
            self._compare_with(root)
        finally:
            self._listing.close()
            for directory in self._stack:  # of a comparison that was not ended
                directory.close()

    # the remote tree, in its order ---------------------------------------------------------

    def _compare_with(self, root: _Directory) -> None:
        assert self._listing is not None
        stack = self._stack
        for path, entries, problems in self._listing.directories():
            self._poll()
            while stack and not _is_within(path, stack[-1].path):
                self._leave()
            if stack:
                above, _, name = path.rpartition(b"/")
                awaited = stack[-1].below.pop(name) if above == stack[-1].path else None
                if awaited is None:
                    continue  # it, or one that it is in, is left out
                here = awaited.at(path)
                here.filter = stack[-1].filter.below(name)
            elif path:
                continue  # the root could not be read
            else:
                here = root
            stack.append(here)
            self._take(here, entries, problems)
        while stack:
            self._leave()

    def _take(self, here: _Directory, theirs: Table[Entry], problems: Table[Problem]) -> None:
        for name, problem in self._polling(problems.items()):
            self._remote_trouble(_join(here.path, name), problem)
        if here.doom is not None:
            here.doom.protected |= bool(problems)
            self._take_doomed(here, here.doom, theirs)
        elif b"" in problems:
            return  # nothing is known of it
        elif here.kind == "new":
            self._take_new(here, theirs)
        else:
            self._compare(here, theirs, problems)

    def _leave(self) -> None:
        """All that is in the innermost directory was seen."""
        here = self._stack[-1]
        for name, unlisted in self._polling(here.below.items()):
            # it went away while the tree was listed
            self._take_unlisted(here, _join(here.path, name), unlisted, here.filter.below(name))
        self._stack.pop()
        with closing(here):
            self._left(here)

    def _left(self, here: _Directory) -> None:
        if here.doom is not None:
            self._finish_doom(self._stack[-1], here.doom)
            return
        assert here.source is not None
        if here.kind == "new":
            self._end_directory(here.path, here.source, "")
            return
        assert here.target is not None
        source = here.source
        if not self._upload:
            source = self._granted(here.path, source, here.target)
        why = self._attributes_differ(here.path, source, here.target)
        if why or here.changed:
            self._end_directory(here.path, source, why)
        closed = here.target.mode & 0o700 != 0o700
        if here.changed and closed and not self._is_home(here.path):
            mode = (source.mode & 0o777) | 0o700
            self.plan.openings.add(Step("attributes", here.path, "dir", mode=mode))

    def _granted(self, path: bytes, source: Entry, target: Entry) -> Entry:
        """The source, with the mode that a local directory may get of it: the root's own stays."""
        mode = grantable(source.mode, target.mode) if path else target.mode & 0o777
        if path and mode != source.mode & 0o777:
            self.first_withheld = self.first_withheld or path
        return msgspec.structs.replace(source, mode=mode)

    def _take_unlisted(self, above: _Directory, path: bytes, gone: _Awaited, rules: Filter) -> None:
        if gone.kind == "both" and self._upload:
            assert gone.source is not None
            self._new_local_tree(path, gone.source, rules)
        elif gone.kind == "new":
            assert gone.source is not None
            self._end_directory(path, gone.source, "")
        elif gone.replacement is not None:
            self._transfer(above, path, gone.replacement, "type")

    def _end_directory(self, path: bytes, source: Entry, why: str) -> None:
        if self._is_home(path):
            return  # it belongs to the account: it is not one of the things in it
        mode, mtime_ns = source.mode & 0o777, source.mtime_ns
        step = Step("attributes", path, "dir", mode=mode, mtime_ns=mtime_ns, why=why)
        self.plan.endings.add(step)

    def _is_home(self, path: bytes) -> bool:
        return not path and self._route.remote == paths.ROOT

    # a directory that both trees have ------------------------------------------------------

    def _compare(self, here: _Directory, theirs: Table[Entry], problems: Table[Problem]) -> None:
        try:
            with self._open(here.path) as fd:
                if not self._read_rules(here, fd, theirs):
                    return
                self._scan(here, fd, theirs, problems)
                self._ask_times(here, fd)
        except OSError as error:
            self._local_trouble(here.path, error)
            return  # what only the server seems to have may be here, where it can't be seen
        for name, entry in self._polling(theirs.items()):
            self._only_there(here, name, entry)
        later, here.later = here.later, []
        for entry, replacement in later:
            self._only_here(here, entry, replacement)
        pairs, here.pairs = here.pairs, []
        if pairs:
            self._compare_digests(here, pairs)
        times, here.times = here.times, []
        for source, target in times:
            self._compare_times(here, source, target)

    def _scan(
        self,
        here: _Directory,
        fd: int,
        theirs: Table[Entry],
        problems: Table[Problem],
    ) -> None:
        """Look at what is here, taking from ``theirs`` what is there as well."""
        rules = here.filter if here.filter.active else None
        by_time = not self._options.checksum
        encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        unchanged = 0
        seen = False
        with os.scandir(fd) as found:
            for number, item in enumerate(found):
                if not number & (_POLL_EVERY - 1):
                    self._poll()
                name = item.name.encode(encoding, errors)
                there = theirs.pop(name)
                try:
                    info = item.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # removed since the directory was read
                except OSError as error:
                    self._local_trouble(_join(here.path, name), error)
                    continue
                mode = info.st_mode
                if rules is not None and rules.excludes(name, is_directory=stat.S_ISDIR(mode)):
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
                seen = seen or self._upload or there is not None
                if name in problems:
                    continue
                if self._is_too_long(here.path, name):
                    continue
                local = _local_entry(fd, name, info)
                if there is not None:
                    self._meet(here, local, there)
                elif local.type == "dir":
                    here.later.append((local, None))  # when this one is closed again
                else:
                    self._only_here(here, local, None)
        self.plan.unchanged += unchanged
        if seen or unchanged:
            self.plan.source_is_empty = False

    def _meet(self, here: _Directory, local: Entry, there: Entry) -> None:
        """Something has the same name in both trees."""
        source, target = (local, there) if self._upload else (there, local)
        path = _join(here.path, local.path)
        if source.type == "other":
            self._pass_over(path)
        elif source.type != target.type:
            self._change_type(here, path, source, target)
        elif source.type == "dir":
            here.below[local.path] = _Awaited("both", source, target)
        elif source.type == "link" and source.target == target.target:
            self.plan.unchanged += 1
        elif self._options.update and target.mtime_ns > source.mtime_ns:
            shown = paths.show(self._route.target(path))
            self._report(path, NotNewer(f"{shown}: is newer"), skipped=True)
        elif source.type == "link":
            self._transfer(here, path, source, "target", target)
        elif source.size != target.size:
            self._transfer(here, path, source, "size", target)
        elif self._options.checksum and source.size:
            here.pairs.append((source, target))
        elif source.mtime_ns != target.mtime_ns:
            here.times.append((source, target))
        else:
            self._same_bytes(path, source, target)

    def _compare_times(self, here: _Directory, source: Entry, target: Entry) -> None:
        """Files that are the same but for their times."""
        path = _join(here.path, source.path)
        if self._options.checksum or self._times.are_same(source, target):
            self._same_bytes(path, source, target)
        else:
            self._transfer(here, path, source, "time", target)

    def _same_bytes(self, path: bytes, source: Entry, target: Entry) -> None:
        why = self._attributes_differ(path, source, target)
        if not why:
            self.plan.unchanged += 1
            return
        mode = source.mode & 0o777 if "mode" in why else None
        mtime_ns = source.mtime_ns if "time" in why else None
        step = Step("attributes", path, "file", 0, mode, mtime_ns, why=why)
        self.plan.attributes.add(step)

    def _change_type(self, here: _Directory, path: bytes, source: Entry, target: Entry) -> None:
        if not self._options.delete:
            shown = paths.show(self._route.target(path))
            text = f"{shown}: {_NOUNS[target.type]} is there, the source has {_NOUNS[source.type]}"
            self._report(path, AlreadyExists(f"{text} (--delete replaces it)"))
        elif target.type == "dir":
            if self._upload:
                here.below[source.path] = _Awaited(
                    "doomed",
                    replacement=source,
                    movable=False,
                    keep_steps=here.filter.active,
                )
            else:
                here.later.append((target, source))
        elif source.type == "dir":
            here.changed = True
            step = Step("delete", path, target.type, _bytes_of(target), why=_IN_THE_WAY)
            self.plan.remove(step, obstacle=True)
            if self._upload:
                here.later.append((source, None))
            else:
                self._expect_new(here, source)
        else:
            self._transfer(here, path, source, "type", target)

    def _transfer(
        self,
        here: _Directory,
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
            _bytes_of(source),
            source.mode & 0o777,
            source.mtime_ns,
            source.target,
            why,
        )
        self.plan.transfer(step, 0 if target is None else _bytes_of(target))

    # what only one of them has -------------------------------------------------------------

    def _only_here(self, here: _Directory, local: Entry, replacement: Entry | None) -> None:
        path = _join(here.path, local.path)
        if _is_partial(local) and (self._upload or _is_recent(local)):
            return
        if self._upload:
            here.changed |= self._new_local(path, local, here.filter)
        elif self._options.delete:
            here.changed = True
            if local.type != "dir":
                self.plan.remove(_deletion(path, local))
                return
            with closing(_Doom(path, replacement, keep_steps=here.filter.active)) as doom:
                self._doom_local_tree(doom, here.filter.below(local.path))
                self._finish_doom(here, doom)

    def _only_there(self, here: _Directory, name: bytes, there: Entry) -> None:
        if here.filter.active and here.filter.excludes(name, is_directory=there.type == "dir"):
            return
        path = _join(here.path, name)
        if not self._upload:
            self.plan.source_is_empty = False
        if self._is_too_long(here.path, name):
            return
        if not self._upload:
            self._new_remote(here, path, there)
        elif self._options.delete:
            if there.type == "dir":
                here.below[name] = _Awaited("doomed", keep_steps=here.filter.active)
            else:
                here.changed = True
                self._remove_remote(path, there)

    def _remove_remote(self, path: bytes, there: Entry) -> None:
        self.plan.remove(_deletion(path, there))
        self._note_missing(path, there)

    def _note_missing(self, path: bytes, there: Entry) -> None:
        if there.type == "file" and there.size and self._missing_count < _MOST_MISSING:
            self._missing_count += 1
            self.missing.setdefault(there.size, []).append(path)

    # new in the source: here

    def _new_local(self, path: bytes, local: Entry, rules: Filter) -> bool:
        """Plan the upload of something new; False when it can't be stored."""
        if self._is_too_long(path, b""):
            return False
        if local.path == paths.STAGING:
            shown = paths.show(self._route.local_path(path))
            error = InvalidPath(f"{shown}: this name is reserved for the server")
            self._report(path, error, skipped=True)
        elif local.type == "other":
            self._pass_over(path)
        elif local.type == "dir":
            self._new_local_tree(path, local, rules.below(local.path))
            return True
        else:
            self._add_transfer(path, local, "new")
            return True
        return False

    def _new_local_tree(self, path: bytes, source: Entry, rules: Filter) -> None:
        """Plan the upload of a directory with all that is in it."""
        self.plan.directories.add(_mkdir(path, source))
        try:
            _check_depth(path)
            with self._open(path) as fd:
                data = self._local_rules(fd)
                rules = rules.with_rules(file_rules(data)) if data else rules
                below = [
                    local for local in self._entries(fd, path, rules) if not _is_partial(local)
                ]
        except (OSError, CommandError) as error:
            self._local_trouble(path, error)
            below = []
        for local in below:
            if not _is_partial(local):
                self.plan.source_is_empty = False
                self._new_local(_join(path, local.path), local, rules)
        self._end_directory(path, source, "")

    # new in the source: there

    def _take_new(self, here: _Directory, theirs: Table[Entry]) -> None:
        """A remote directory that is not here."""
        if not self._read_rules(here, -1, theirs):
            return
        for name, there in self._polling(theirs.items()):
            self._only_there(here, name, there)

    def _new_remote(self, here: _Directory, path: bytes, there: Entry) -> None:
        if len(checked_parts(there.path)) != 1:
            raise BadMessage("the server sent a path where a name belongs")
        if there.type == "other":
            self._pass_over(path)
        elif there.type == "dir":
            self._expect_new(here, there)
        else:
            self._transfer(here, path, there, "new")

    def _expect_new(self, here: _Directory, there: Entry) -> None:
        here.changed = True
        path = _join(here.path, there.path)
        self.plan.directories.add(_mkdir(path, there))
        here.below[there.path] = _Awaited("new", there)

    # only in the target

    def _take_doomed(self, here: _Directory, doom: _Doom, theirs: Table[Entry]) -> None:
        """A remote directory that the source hasn't."""
        for name, there in self._polling(theirs.items()):
            if here.filter.active and here.filter.excludes(name, is_directory=there.type == "dir"):
                doom.protected = True
                continue
            path = _join(here.path, name)
            if there.type == "dir":
                here.below[name] = _Awaited(
                    "doomed", movable=doom.movable, keep_steps=here.filter.active
                )
            else:
                doom.add(_deletion(path, there))
                if doom.movable:
                    self._note_missing(path, there)

    def _doom_local_tree(self, doom: _Doom, rules: Filter) -> None:
        """A local directory that the source hasn't."""
        try:
            _check_depth(doom.path)
            with self._open(doom.path) as fd:
                below = list(self._entries(fd, doom.path, None))
        except (OSError, CommandError) as error:
            self._local_trouble(doom.path, error)
            doom.protected = True
            return
        for local in below:
            path = _join(doom.path, local.path)
            if rules.active and rules.excludes(local.path, is_directory=local.type == "dir"):
                doom.protected = True
            elif local.type == "dir":
                with closing(_Doom(path, None, keep_steps=rules.active)) as inner:
                    self._doom_local_tree(inner, rules.below(local.path))
                    doom.take(inner)
            else:
                doom.add(_deletion(path, local))

    def _finish_doom(self, above: _Directory, doom: _Doom) -> None:
        """All that is in a doomed directory is known."""
        if above.doom is not None:
            above.doom.take(doom)
        elif doom.replacement is None:
            above.changed |= not doom.protected
            for step in doom.steps() if doom.protected else (doom.step(),):
                if not self._is_too_long(step.path, b""):
                    self.plan.remove(step)
        elif doom.protected:
            shown = paths.show(self._route.target(doom.path))
            text = f"{shown}: a directory is in the way, and not all of it may be deleted"
            self._report(doom.path, AlreadyExists(text))
        else:
            self.plan.remove(doom.step(), obstacle=True)
            self._transfer(above, doom.path, doom.replacement, "type")

    # the local side ------------------------------------------------------------------------

    @contextmanager
    def _open(self, path: bytes) -> Iterator[int]:
        """A handle of a local directory."""
        assert self._tree is not None
        fd = self._tree.open_dir(_parts(path))
        try:
            yield fd
        finally:
            os.close(fd)

    def _entries(self, fd: int, path: bytes, rules: Filter | None) -> Iterator[Entry]:
        """What is in a local directory that has no counterpart."""
        self._poll()
        with os.scandir(fd) as found:
            for item in found:
                name = os.fsencode(item.name)
                try:
                    info = item.stat(follow_symlinks=False)
                    local = _local_entry(fd, name, info)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._local_trouble(_join(path, name), error)
                    continue
                is_directory = local.type == "dir"
                if rules is not None and rules.active:
                    if rules.excludes(name, is_directory=is_directory):
                        continue
                yield local

    def _polling(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """The items, with a look now and then at what the server has sent. Raises Interrupted."""
        for number, item in enumerate(items):
            if not number & (_POLL_EVERY - 1):
                self._poll()
            yield item

    def _poll(self) -> None:
        if self._listing is None:
            self._connection.check()
        else:
            self._listing.poll()

    # .ftpignore ----------------------------------------------------------------------------

    def _read_rules(self, here: _Directory, fd: int, theirs: Table[Entry]) -> bool:
        """Take the rules that the source has in a directory.

        Returns:
            False when they can't be read: it isn't known then what may be sent or deleted.
        """
        try:
            data = self._local_rules(fd) if self._upload else self._remote_rules(here, theirs)
            rules = file_rules(data)
        except (OSError, CommandError) as error:
            self._rules_trouble(here.path, error)
            return False
        here.filter = here.filter.with_rules(rules)
        return True

    def _rules_trouble(self, directory: bytes, error: OSError | CommandError) -> None:
        path = _join(directory, IGNORE_FILE)
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(self._route.source(path)))
        self._report(path, error)
        self.plan.cannot_read(error)

    def _local_rules(self, fd: int) -> bytes:
        try:
            file = os.open(IGNORE_FILE, _OPEN_RULES, dir_fd=fd)
        except FileNotFoundError:
            return b""
        except OSError as error:
            if error.errno == errno.ELOOP:
                return b""  # as in git: links are not followed
            raise
        with os.fdopen(file, "rb") as opened:
            if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return b""
            return _bounded(opened.read(MAX_IGNORE_FILE + 1))

    def _remote_rules(self, here: _Directory, theirs: Table[Entry]) -> bytes:
        entry = theirs.get(IGNORE_FILE)
        if entry is None or entry.type != "file":
            return b""
        assert self._listing is not None
        self._listing.finish()
        call = _Fetch()
        path = self._route.remote_path(_join(here.path, IGNORE_FILE))
        self._connection.submit(call, Get(path))
        self._connection.wait_for(call)
        if call.error is not None:
            raise call.error
        assert isinstance(call.ending, Sent)
        data = _bounded(bytes(call.data))
        check_digest(path, call.ending.digest, digests.digest(data), self._connection)
        return data

    # digests -------------------------------------------------------------------------------

    def _compare_digests(self, here: _Directory, pairs: list[tuple[Entry, Entry]]) -> None:
        """Compare files of the same size. What digest is not kept on the server is asked for."""
        asked: dict[bytes, Call] = {}
        for pair in pairs:
            remote = pair[1] if self._upload else pair[0]
            if remote.digest is None:
                call = asked[remote.path] = Call()
                there = self._route.remote_path(_join(here.path, remote.path))
                self._connection.submit(call, Hash(there))
        for source, target in pairs:
            remote = target if self._upload else source
            path = _join(here.path, remote.path)
            digest = remote.digest or self._result(asked[remote.path])
            if digest is not None and self.local_digest(path) == digest:
                self._same_bytes(path, source, target)
            else:
                self._transfer(here, path, source, "digest", target)

    def _result(self, call: Call) -> bytes | None:
        self._connection.wait_for(call)
        return call.reply.digest if isinstance(call.reply, Hashed) else None

    def local_digest(self, path: bytes) -> bytes | None:
        """A local file's digest; None when it can't be read, or is no file."""
        assert self._tree is not None
        try:
            with self._tree.reading(_parts(path)) as fd:
                with ReadAhead(fd, os.fstat(fd).st_size) as pieces:
                    for _ in pieces:
                        self._connection.check()
                    return pieces.digest()
        except (OSError, CommandError):
            return None  # whoever transfers it will say

    # times ---------------------------------------------------------------------------------

    def _ask_times(self, here: _Directory, fd: int) -> None:
        """Find out which times the target's disk can keep, for all in a directory at once."""
        directories = [(here.source, here.target)]
        directories += [(one.source, one.target) for _, one in here.below.items()]
        pairs = list(here.times)
        pairs += [
            (source, target)
            for source, target in directories
            if source is not None and target is not None
        ]
        if not self._times.missing(pairs):
            return
        if self._listing is not None:
            self._listing.finish()  # the answer comes after it
        self._times.ask(pairs, fd)

    def _attributes_differ(self, path: bytes, source: Entry, target: Entry) -> str:
        """What has to be set: for people, and empty for nothing."""
        found = []
        if source.mode & 0o777 != target.mode & 0o777:
            found.append("mode")
        if self._times.are_same(source, target):
            if source.mtime_ns != target.mtime_ns:
                if self.first_odd_time is None:
                    self.first_odd_time = path
                self.odd_times += 1
        else:
            found.append("time")
        return ", ".join(found)

    # telling -------------------------------------------------------------------------------

    def _report(self, path: bytes, error: CommandError, *, skipped: bool = False) -> None:
        source, target = self._route.source(path), self._route.target(path)
        step = Step(self._route.verb, path)
        status: Status = "skipped" if skipped else "failed"
        self._tell(Result(source, target, 0, status, error=error, step=step))

    def _is_too_long(self, directory: bytes, name: bytes) -> bool:
        """Whether no request can name it; that is a failure of its own, and the rest goes on."""
        if len(directory) + 1 + len(name) <= self._longest:
            return False
        path = _join(directory, name)
        if len(path) <= self._longest:
            return False
        shown = paths.show(self._route.source(path)[:40])
        self._report(path, InvalidPath(f"{shown}…: longer than {paths.MAX_PATH} bytes"))
        return True

    def _pass_over(self, path: bytes) -> None:
        shown = paths.show(self._route.source(path))
        error = NotRegular(f"{shown}: not a regular file, directory or link")
        self._report(path, error, skipped=True)

    def _local_trouble(self, path: bytes, error: OSError | CommandError) -> None:
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(self._route.local_path(path)))
        self._report(path, error)
        if self._upload:
            self.plan.cannot_read(error)

    def _remote_trouble(self, path: bytes, problem: Problem) -> None:
        text = f"{paths.show(self._route.remote_path(path))}: {problem.message}"
        error = Failed(problem.code, text).to_error()
        if not isinstance(error, CommandError):
            error = CommandError(text)
        self._report(path, error)
        if not self._upload:
            self.plan.cannot_read(error)


class _Fetch(GetCall):
    """A small file into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def on_data(self, data: memoryview) -> None:
        if len(self.data) <= MAX_IGNORE_FILE:
            self.data += data


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_IGNORE_FILE:
        raise CommandError(f"a {paths.show(IGNORE_FILE)} file is too large for a list of patterns")
    return data


def _join(directory: bytes, name: bytes) -> bytes:
    if directory and name:
        return directory + b"/" + name
    return directory or name


def _parts(path: bytes) -> tuple[bytes, ...]:
    return tuple(path.split(b"/")) if path else ()


def _is_within(path: bytes, directory: bytes) -> bool:
    return path.startswith(directory + b"/") if directory else bool(path)


def _bytes_of(entry: Entry) -> int:
    return entry.size if entry.type == "file" else 0


def _mkdir(path: bytes, source: Entry) -> Step:
    return Step("mkdir", path, "dir", mode=source.mode & 0o777, why="new")


def _deletion(path: bytes, entry: Entry) -> Step:
    return Step("delete", path, entry.type, _bytes_of(entry), why=_EXTRA)


def _local_entry(fd: int, name: bytes, info: os.stat_result) -> Entry:
    """Something in the local directory ``fd``, as the server would tell of it. Raises OSError."""
    kind = cast(FileType, beneath.entry_type(info.st_mode))
    target = os.readlink(name, dir_fd=fd) if kind == "link" else None
    mode = stat.S_IMODE(info.st_mode)
    return Entry(name, kind, info.st_size, mode, told_time(info), target)


def told_time(info: os.stat_result) -> int:
    """An mtime, or the nearest that a message can carry: some file systems go beyond 2262."""
    return min(max(info.st_mtime_ns, -(2**63)), 2**63 - 1)


def _is_partial(local: Entry) -> bool:
    """Whether it is what an interrupted download has left."""
    name = local.path
    return name.startswith(paths.PARTIAL_PREFIX) and name.endswith(paths.PARTIAL_SUFFIX)


def _is_recent(local: Entry) -> bool:
    return time.time_ns() - local.mtime_ns < _PARTIAL_SECONDS * 1e9


def _check_depth(path: bytes) -> None:
    if path.count(b"/") >= paths.MAX_DEPTH:
        raise InvalidPath(f"{paths.show(path[:40])}…: more than {paths.MAX_DEPTH} directories deep")
