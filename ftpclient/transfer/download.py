"""Downloads: files and trees from the server to here.

Lives here: what happens to the bytes that come, resuming, directories whose times come last.
Lives elsewhere: what all transfers share (job.py), writing below a destination (local_tree.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.transfer import job, preflight
from ftpclient.transfer.calls import GetCall, check_digest, mismatch
from ftpclient.transfer.folding import Folding, SameNames, in_the_way
from ftpclient.transfer.job import (
    RESUME_FROM,
    SMALL,
    Enough,
    Options,
    Transfer,
    same_time_and_size,
)
from ftpclient.transfer.listing import find, list_pages
from ftpclient.transfer.local_tree import LocalTree, PartialFile, checked_parts, withheld
from ftpclient.transfer.named import Named, Targets, place_of
from ftpclient.transfer.node import Node, fetch
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.report import Listener, Summary
from ftpclient.transfer.spool import Spool, Table
from ftpwire import digests, paths
from ftpwire.channel import Sink
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    Cancelled,
    CommandError,
    ConnectionLost,
    DiskFull,
    FtpError,
    InvalidPath,
    IsADirectory,
    NotNewer,
    NotRegular,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import Entry, Failed, Get, List, Page, Problem, Sending, Sent
from ftpwire.paths import RemotePath
from ftpwire.streams import WriteBehind, write_all

_UNDONE = "nothing was fetched"


class _Directory:
    """A local directory whose contents are under way: its mode and times come last."""

    __slots__ = ("above", "below", "entry", "open", "parts", "refused")

    def __init__(self, parts: tuple[bytes, ...], entry: Entry, above: _Directory | None) -> None:
        self.refused: bool = above is not None and above.refused
        """Another directory has its place: nothing of it is fetched."""
        self.parts = parts
        self.entry = entry
        self.above = above
        self.below = Table(_Awaited)
        """Directories in it whose own pages are still to come."""
        self.open = 1  # itself, until it was walked; and one for each thing inside
        if above is not None:
            above.open += 1


class _Awaited(msgspec.Struct, frozen=True):
    """A directory that was made, and whose own pages are still to come."""

    entry: Entry
    refused: bool

    def within(self, above: _Directory, name: bytes) -> _Directory:
        """The directory, when they come."""
        found = _Directory((*above.parts, name), self.entry, above)
        found.refused = self.refused
        return found


class _Walked(msgspec.Struct, frozen=True):
    """A directory that is left when all files are there."""

    parts: tuple[bytes, ...]
    entry: Entry
    refused: bool


class _Download(GetCall):
    """One file of a download."""

    def __init__(
        self,
        transfer: Download,
        source: RemotePath,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
        directory: _Directory | None,
        replace: bool,
        *,
        again: bool = False,
    ) -> None:
        super().__init__()
        self._replace = replace
        self._transfer = transfer
        self._again = again
        self._source = source
        self._shown = shown
        self._tree = tree
        self._parts = parts
        self._directory = directory
        self._partial: PartialFile | None = None
        self._writer: WriteBehind | None = None
        self._failure: FtpError | None = None
        self._hasher = digests.new()
        self._offset = 0

    def request(self, entry: Entry) -> Get:
        """What to ask for: of a large file, only what an earlier try has not brought."""
        if entry.size > RESUME_FROM and self._transfer.options.resume:
            if PartialFile.has_part(self._tree, self._parts):
                self._open(resume=True)
            if self._partial is not None and 0 < self._partial.offset <= entry.size:
                self._offset = self.asked_offset = self._partial.offset
                try:
                    self._transfer.hash_into(self._hasher, self._partial.fd, self._offset)
                except BaseException:
                    self.not_sent()
                    raise
                return Get(self._source, self._offset, self._hasher.digest())
        return Get(self._source)

    def not_sent(self) -> None:
        """If it never came to be asked for: what an earlier try has left stays as it was."""
        if not self.request_id and self._partial is not None:
            self._partial.leave()
            self._partial = None

    def begin(self, info: Sending) -> None:
        if info.size <= SMALL and not info.offset:
            return
        self._transfer.started(self._source, info.size)
        if self._partial is None:
            self._open()
        assert self._partial is not None
        if info.offset != self._offset:
            self._offset, self._hasher = 0, digests.new()
        self._partial.start_at(self._offset)
        self._transfer.advanced(self._offset)
        self._writer = WriteBehind(self._partial.fd, hasher=self._hasher)
        self.sink = _CountingSink(self._writer, self._transfer, self.fail)

    def _open(self, *, resume: bool = False) -> None:
        self._partial = PartialFile(self._tree, self._parts, replace=self._replace, resume=resume)

    def fail(self, error: OSError | CommandError) -> None:
        if isinstance(error, OSError):
            error = self._tree.failure(error, self._shown)
        if self._failure is None:
            self._failure = error
            if self.request_id and not self.done:
                self._transfer.connection.send_cancel(self)  # the rest need not come
        self.sink = _Nowhere()

    def on_done(self) -> None:
        digest = None
        try:
            if self.error is None and self._failure is None:
                digest = self._complete()
        except AlreadyExists as error:
            self.fail(self._transfer.in_the_way(error, self._source, self._shown))
        except (OSError, CommandError) as error:
            self.fail(error)
        finally:
            self._give_up_rest()
        if isinstance(self.error, SourceChanged) and not (self._again or self._failure):
            self._transfer.get_again(self._source, self._once_more())
            return
        size = self.info.size if self.info is not None else 0
        ended = self.error
        if ended is None or isinstance(ended, Cancelled):  # by this side, when it failed here
            ended = self._failure or ended
        self._transfer.downloaded(
            self._source,
            self._shown,
            size,
            digest,
            ended,
            self._directory,
            local=ended is self._failure,
            remark=job.grew(size) if isinstance(self.ending, Sent) and self.ending.grew else None,
        )

    def _once_more(self) -> _Download:
        return _Download(
            self._transfer,
            self._source,
            self._shown,
            self._tree,
            self._parts,
            self._directory,
            self._replace,
            again=True,
        )

    def _complete(self) -> bytes:
        assert self.info is not None and isinstance(self.ending, Sent)
        if self._writer is None:
            digest = digests.digest(self._small)
            self._verify(len(self._small), digest)
            if self._partial is None:
                self._open()
            assert self._partial is not None
            self._partial.start_at(0)
            write_all(self._partial.fd, self._small)
            self._transfer.advanced(len(self._small))
        else:
            digest = self._writer.finish()
            self._verify(self._offset + self._writer.size, digest)
        assert self._partial is not None
        self._partial.place(self.info.mode, self.info.mtime_ns)
        return digest

    def _verify(self, size: int, digest: bytes) -> None:
        assert self.info is not None and isinstance(self.ending, Sent)
        connection = self._transfer.connection
        if size != self.info.size:
            raise mismatch(self._source, encrypted=connection.encrypted)
        check_digest(self._source, self.ending.digest, digest, connection)

    def _give_up_rest(self) -> None:
        """Leave nothing behind, except what an interrupted download can go on with."""
        if self._partial is None:
            return
        interrupted = isinstance(self.error, (ConnectionLost, Cancelled))
        kept = False
        if self._writer is not None:
            if interrupted and self._failure is None:
                kept = self._offset + self._writer.size >= RESUME_FROM and self._flushed()
            self._writer.__exit__(None, None, None)
        elif interrupted:
            kept = self._partial.offset >= RESUME_FROM
        if interrupted and self.info is not None:
            self._transfer.reached(self._shown, self.info.offset + self.received)
        if kept:
            self._partial.leave()
        else:
            self._partial.drop()

    def _flushed(self) -> bool:
        assert self._writer is not None
        try:
            self._writer.finish()
        except OSError:
            return False
        return True


class _CountingSink:
    """A sink that tells of its progress, and leads to nowhere once the disk fails."""

    def __init__(self, sink: Sink, transfer: Transfer, failed: Callable[[OSError], None]) -> None:
        self._sink = sink
        self._transfer = transfer
        self._failed = failed

    def buffer(self) -> memoryview:
        try:
            return self._sink.buffer()
        except OSError as error:
            self._give_up(error)
            return self._sink.buffer()

    def _give_up(self, error: OSError) -> None:
        self._failed(error)
        self._sink = _Nowhere()

    def filled(self, count: int) -> None:
        self._sink.filled(count)
        self._transfer.advanced(count)

    def write(self, data: memoryview) -> None:
        try:
            self._sink.write(data)
        except OSError as error:
            self._give_up(error)
        self._transfer.advanced(len(data))


class _Nowhere:
    """A sink for bytes that nobody wants any more."""

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(64 * 1024))

    def buffer(self) -> memoryview:
        return self._scratch

    def filled(self, count: int) -> None:
        pass

    def write(self, data: memoryview) -> None:
        pass


class Download(Transfer):
    """Files and trees from the server to here. ``add`` what to get, then ``finish``."""

    writes_here = True

    def __init__(
        self,
        connection: Connection,
        options: Options,
        listener: Listener,
        parent: Download | None = None,
    ) -> None:
        super().__init__(connection, options, listener, parent)
        self._own_trees: dict[bytes, LocalTree] = {}
        """Of a worker: handles are not shared between threads."""
        self._changed: list[tuple[RemotePath, _Download]] = []
        """Files that changed while the server read them, and are to be asked for once more."""
        self._follow_target = True
        self._made_root = False
        """Whether the named directory was made for this: else its mode is the user's."""
        self._told_withheld = False
        self._nodes: dict[tuple[RemotePath, bytes], Node] = {}
        """What files went into that can't be taken back: after a lost connection they go on."""
        folding = Folding() if parent is None else parent.same_names.folding
        self.same_names: SameNames = SameNames(folding, self._has)

    def worker(self, connection: Connection) -> Download:
        """A transfer that works for this one, on a connection of its own."""
        return Download(connection, self.options, self.listener, self)

    def close(self) -> Summary:
        for node in self._nodes.values():
            node.close()
        return super().close()

    def get_again(self, source: RemotePath, call: _Download) -> None:
        """A file changed while the server read it. It is asked for once more, when the next file
        is: not from here, where answers are being handed out."""
        self._changed.append((source, call))

    def _ask_again(self) -> None:
        while self._changed:
            source, call = self._changed.pop()
            self.tries_again(source)
            try:
                self.connection.submit(call, Get(source))
            finally:
                call.not_sent()

    def settle(self) -> None:
        super().settle()
        while self._changed:
            self._ask_again()
            super().settle()

    def go_on_with(self, connection: Connection) -> None:
        super().go_on_with(connection)
        self._changed.clear()  # all of it is added again

    def give_back(self) -> None:
        for tree in self._own_trees.values():
            tree.close()
        self._own_trees.clear()

    def _get_for(
        self, top: bytes, source: RemotePath, entry: Entry, shown: bytes, parts: tuple[bytes, ...]
    ) -> None:
        """Get one file that the parent has met."""
        assert isinstance(self._parent, Download)
        if self._parent.listener.enough:
            return
        self._parent.go_on()
        tree = self._own_trees.get(top)
        try:
            if tree is None:
                follow = self._parent._follow_target
                tree = self._own_trees[top] = LocalTree(top, follow=follow)
            self._add_one(source, entry, shown, tree, parts, None)
        except (OSError, CommandError) as error:
            self._failed(source, shown, error, tree)

    def add(
        self,
        source: RemotePath,
        entry: Entry,
        target: bytes,
        *,
        follow: bool = True,
        there: Targets | None = None,
    ) -> None:
        """Get a remote file, link or directory to exactly the local path ``target``.

        Args:
            follow: Whether the target may be a link to the directory that is meant.
            there: What was at the targets before the transfer began: bytes go into a FIFO or
                device, and through a link to a file.
        """
        self.go_on()
        self._follow_target = follow
        named: Named | None = None
        try:
            if self.options.overwrite != "never":
                self.same_names.check_named(source, target)
            if entry.type == "dir":
                self._add_tree(source, entry, target)
                return
            named = None if there is None else there.at(target, entry.type)
            if named is not None and named.is_node:
                self._add_into(source, entry, target, named)
            else:
                self._add_named(source, entry, target, named)
        except (OSError, CommandError) as error:
            if isinstance(error, BrokenPipeError) and named and named.descriptor is not None:
                raise  # our own output: the end of all of it, as of what is printed
            self._failed(source, target, error, named=True)

    def _add_named(
        self, source: RemotePath, entry: Entry, target: bytes, named: Named | None
    ) -> None:
        """Get a file or link to the path ``target``, or a file to where a link there leads."""
        here, name = os.path.split(target.rstrip(b"/"))
        through = named is not None and named.is_link and entry.type == "file"
        if named is not None and through:
            here, name = place_of(named)
        here = here or b"."
        tree = LocalTree(here)
        try:
            if named is not None and through and not named.is_same(tree.stat((name,))):
                raise SourceChanged(f"{paths.show(target)}: what it links to was moved meanwhile")
            if entry.type == "file":
                preflight.check_get(
                    here, entry.size, lambda: preflight.here_of(here, (name,)), _UNDONE
                )
            self._add_one(source, entry, target, tree, (name,), None, named=True)
            self.settle()
        finally:
            tree.close()

    def _add_into(self, source: RemotePath, entry: Entry, target: bytes, named: Named) -> None:
        """Write a file into a FIFO, a device or a descriptor."""
        node = self._nodes.get((source, target))
        if node is None:
            node = self._nodes[source, target] = Node(target, named.descriptor)
        if node.ended:
            return  # before a connection was lost
        try:
            node.open(named, self.connection, self.listener.remark)
            self.started(source, entry.size)
            self.advanced(node.written)
            size, digest = fetch(self.connection, source, node, self.advanced)
            node.close()
        except ConnectionLost as error:
            self.end(source, target, node.written, error=error)
            raise
        except BaseException:
            node.close()
            raise
        self.end(source, target, size, digest=digest)

    def _has(self, path: RemotePath) -> bool:
        """Whether something is at a remote path."""
        return find(self.connection, path) is not None

    def may_replace(
        self,
        source: RemotePath,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
        *,
        named: bool = False,
    ) -> bool:
        """Whether something that is at a place when the file comes may be replaced.

        Raises:
            AlreadyExists: It is another of the server's files, whose name is the same here.
        """
        if self.options.overwrite == "never":
            return False
        return named or self.same_names.may_replace(source, shown, tree, parts)

    def in_the_way(self, error: AlreadyExists, source: RemotePath, shown: bytes) -> AlreadyExists:
        """Why a file could not get its name."""
        return error if self.options.overwrite == "never" else in_the_way(error, source, shown)

    def add_below(
        self,
        source: RemotePath,
        entry: Entry,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
    ) -> None:
        """Get a remote file or link to a place below ``tree``, which is closed after ``finish``."""
        try:
            self._add_one(source, entry, shown, tree, parts, None)
        except (OSError, CommandError) as error:
            self._failed(source, shown, error, tree)

    def _failed(
        self,
        source: RemotePath,
        shown: bytes,
        error: OSError | CommandError,
        tree: LocalTree | None = None,
        *,
        named: bool = False,
    ) -> None:
        """Args: named: it was asked for by its name, so that leaving it out is a failure."""
        local = isinstance(error, (OSError, DiskFull))
        if isinstance(error, OSError) and tree is not None:
            error = tree.failure(error, shown)
        elif isinstance(error, OSError):
            error = from_oserror(error, paths.show(shown))
        skipped = isinstance(error, NotRegular) and not named
        self.end(source, shown, 0, error=error, skipped=skipped, local=local)

    def _add_tree(self, source: RemotePath, root: Entry, target: bytes) -> None:
        if not self.options.recursive:
            raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
        listing = Spool(Page)
        try:
            # what is here already can be compared with the digests that are kept there
            files, size = self._list(source, listing, digest=os.path.isdir(target))
            self.announce(files, size)
            preflight.check_get(target, size, lambda: self._here(target, listing), _UNDONE)
            self.workers.expect(size)
            try:
                os.mkdir(target, 0o700)
            except FileExistsError:
                made = False
            else:
                made = True
            self._tree = LocalTree(target, follow=self._follow_target)
            self._made_root = made
            try:
                if made:
                    self._tree.begin_root(root.mode)
                with closing(Spool(_Walked)) as late:
                    try:
                        self._get_all(source, target, root, listing, late)
                    except Enough:
                        self.settle()  # what is under way needs the tree
                        self.workers.finish()
                        raise
                    self.settle()
                    self.workers.finish()
                    for one in late:
                        self.connection.check()
                        self._finish(one.parts, one.entry, refused=one.refused)
            finally:
                self._tree.close()
        finally:
            listing.close()

    def _list(self, source: RemotePath, listing: Spool[Page], *, digest: bool) -> tuple[int, int]:
        files = size = 0
        request = List(source, recursive=True, follow=self.options.copy_links, digest=digest)
        for page in list_pages(self.connection, request):
            directory = paths.child(source, page.directory) if page.directory else source
            for problem in page.problems:
                self._note(paths.child(directory, problem.path), problem)
            for entry in page.entries:
                if entry.type == "file":
                    files += 1
                    size += entry.size
            listing.add(page)
        return files, size

    def _here(self, target: bytes, listing: Spool[Page]) -> int:
        """Bytes of a tree that are in ``target`` already, or make room when they are replaced."""
        here = 0
        for page in listing:
            self.connection.check()
            above = checked_parts(page.directory) if page.directory else ()
            for entry in page.entries:
                if entry.type == "file":
                    here += preflight.here_of(target, (*above, *checked_parts(entry.path)))
        return here

    def _note(self, path: RemotePath, problem: Problem) -> None:
        text = f"{paths.show(path)}: {problem.message}"
        error = Failed(problem.code, text).to_error()
        self.end(path, b"", 0, error=error)

    def _get_all(
        self,
        source: RemotePath,
        target: bytes,
        root: Entry,
        listing: Spool[Page],
        late: Spool[_Walked],
    ) -> None:
        """Get a tree in the order of its listing. A directory is left when another comes that
        isn't below it; what it will be is kept with the one it is in until then.

        Args:
            late: Gets the directories that are to be left when others have got all files.
        """
        stack = [_Directory((), root, None)]
        try:
            for page in listing:
                self.connection.check()
                parts = checked_parts(page.directory) if page.directory else ()
                while stack[-1].parts != parts[: len(stack[-1].parts)]:
                    self._walked(stack.pop(), late)
                here = stack[-1]
                if here.parts != parts:
                    awaited = here.below.pop(parts[-1]) if here.parts == parts[:-1] else None
                    if awaited is None:
                        raise BadMessage("the server listed a directory that it had not named")
                    here = awaited.within(here, parts[-1])
                    stack.append(here)
                for entry in page.entries:
                    self._get_entry(source, target, here, entry)
            while stack:
                self._walked(stack.pop(), late)
        finally:
            for directory in stack:
                directory.below.close()

    def _walked(self, directory: _Directory, late: Spool[_Walked]) -> None:
        """All pages of a directory, and of those in it, were met."""
        with closing(directory.below) as below:
            for name, awaited in below.items():  # it went away while the tree was listed
                self.connection.check()
                self._walked_one(awaited.within(directory, name), late)
        self._walked_one(directory, late)

    def _walked_one(self, directory: _Directory, late: Spool[_Walked]) -> None:
        if self.workers.pool is None:
            self._left(directory)
        else:
            late.add(_Walked(directory.parts, directory.entry, directory.refused))

    def _get_entry(self, source: RemotePath, target: bytes, here: _Directory, entry: Entry) -> None:
        self.go_on()
        parts = (*here.parts, *checked_parts(entry.path))
        if here.refused:
            if entry.type == "dir":
                here.below[parts[-1]] = _Awaited(entry, True)
            return
        below = b"/".join(parts)
        path = paths.child(source, below)
        shown = target.rstrip(b"/") + b"/" + below
        workers = self.workers
        try:
            if len(path) > paths.MAX_PATH and entry.type != "dir":  # no request can name it
                raise InvalidPath(f"{paths.show(path[:40])}…: longer than {paths.MAX_PATH} bytes")
            if entry.type == "dir":
                here.below[parts[-1]] = _Awaited(entry, False)
                self._make_dir(here, parts, entry, path, shown)
            elif workers.pool and not workers.for_pieces(entry.size, self.connection):
                workers.pool.give(lambda worker: worker._get_for(target, path, entry, shown, parts))
            else:
                self._add_one(path, entry, shown, self._tree, parts, here)
        except (OSError, CommandError) as error:
            self._failed(path, shown, error, self._tree)

    def _make_dir(
        self,
        here: _Directory,
        parts: tuple[bytes, ...],
        entry: Entry,
        path: RemotePath,
        shown: bytes,
    ) -> None:
        if self._tree.make_dir(parts, entry.mode) or self.options.overwrite == "never":
            return
        try:
            self.may_replace(path, shown, self._tree, parts)
        except AlreadyExists:
            here.below[parts[-1]] = _Awaited(entry, True)  # nothing inside may go to the other one
            raise

    def _add_one(
        self,
        source: RemotePath,
        entry: Entry,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
        directory: _Directory | None,
        *,
        named: bool = False,
    ) -> None:
        """Args: named: it was asked for by its name."""
        self._ask_again()
        if entry.type == "other":
            raise NotRegular(f"{paths.show(source)}: not a regular file, directory or link")
        if self.options.overwrite != "always":
            there = tree.stat(parts)
            if there is not None:
                if self.options.overwrite == "never":
                    raise AlreadyExists(f"{paths.show(shown)}: exists")
                if there.st_mtime_ns >= entry.mtime_ns:
                    raise NotNewer(f"{paths.show(shown)}: is as new")
        if entry.type == "link":
            if entry.target is None or b"\0" in entry.target:
                raise BadMessage("the server sent an unusable link")
            replace = self.may_replace(source, shown, tree, parts, named=named)
            try:
                tree.make_link(parts, entry.target, entry.mtime_ns, replace=replace)
            except AlreadyExists as error:
                raise self.in_the_way(error, source, shown) from None
            self.end(source, shown, 0)
            return
        if self.options.resume and self._is_here(source, entry, shown, tree, parts):
            return
        if named:
            tree.check_replaceable(parts)
        replace = self.may_replace(source, shown, tree, parts, named=named)
        pool = self.workers.for_pieces(entry.size, self.connection)
        if pool is not None:
            self._get_in_pieces(pool, source, shown, tree, parts, replace)
            return
        call = _Download(self, source, shown, tree, parts, directory, replace)
        request = call.request(entry)
        if directory is not None:
            directory.open += 1
        try:
            self.connection.submit(call, request)
        finally:
            call.not_sent()

    def _get_in_pieces(
        self,
        pool: ConnectionPool[Any],
        source: RemotePath,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
        replace: bool,
    ) -> None:
        from ftpclient.transfer.pieces import Fetch

        def fetch_once(*, resume: bool) -> None:
            partial = PartialFile(tree, parts, replace=replace, resume=resume)
            fetch = Fetch(self, pool, source, shown, partial)
            try:
                digest = fetch.run()
            except AlreadyExists as error:
                raise self.in_the_way(error, source, shown) from None
            except ConnectionLost as error:
                self.end(source, shown, fetch.size, error=error)
                raise
            remark = job.grew(fetch.size) if fetch.grew else None
            self.end(source, shown, fetch.size, digest=digest, remark=remark)

        try:
            fetch_once(resume=self.options.resume)
        except SourceChanged:
            self.tries_again(source)
            fetch_once(resume=False)

    def _is_here(
        self,
        source: RemotePath,
        entry: Entry,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
    ) -> bool:
        """Whether the same bytes are here already, from an earlier try."""
        if entry.digest is None:
            return False
        there = tree.stat(parts)
        if (
            there is None
            or there.st_mode & 0o7777 != entry.mode & 0o777
            or not same_time_and_size(there, entry.size, entry.mtime_ns)
        ):
            return False
        with tree.reading(parts) as fd:
            if self.hash_local(fd, entry.size) != entry.digest:
                return False
        self.advanced(entry.size)
        self.end(source, shown, entry.size, digest=entry.digest, unchanged=True)
        return True

    def downloaded(
        self,
        source: bytes,
        shown: bytes,
        size: int,
        digest: bytes | None,
        error: FtpError | None,
        directory: _Directory | None,
        *,
        local: bool,
        remark: str | None,
    ) -> None:
        """A file has come in, or failed."""
        self.end(source, shown, size, digest=digest, error=error, local=local, remark=remark)
        if directory is not None:
            self._left(directory)

    def _left(self, directory: _Directory) -> None:
        """Something of a directory is finished; with the last of it, so is the directory."""
        directory.open -= 1
        if directory.open:
            return
        self._finish(directory.parts, directory.entry, refused=directory.refused)
        if directory.above is not None:
            self._left(directory.above)

    def _finish(self, parts: tuple[bytes, ...], entry: Entry, *, refused: bool) -> None:
        """Give a directory its mode and times."""
        try:
            if not refused:
                mode = entry.mode if parts or self._made_root else None
                if self._tree.finish_dir(parts, mode, entry.mtime_ns):
                    self._tell_withheld(b"/".join(parts))
        except Cancelled:
            pass  # given up as a whole: it stays as it is for now
        except OSError as error:
            shown = b"/".join(parts)
            if error.errno != errno.ENAMETOOLONG:  # of which the listing has told already
                failure = self._tree.failure(error, shown)
                self.end(shown, shown, 0, error=failure, local=True)

    def _tell_withheld(self, path: bytes) -> None:
        if not self._told_withheld:
            self._told_withheld = True
            self.listener.remark(withheld(path))
