"""Downloads: files and trees from the server to here.

Lives here: what happens to the bytes that come, resuming, directories whose times come last.
Lives elsewhere: what all transfers share (job.py), writing below a destination (local_tree.py).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ftpclient.connection.connection import Call, Connection
from ftpclient.transfer import preflight
from ftpclient.transfer.job import (
    RESUME_FROM,
    SMALL,
    Options,
    Transfer,
    list_pages,
    same_time_and_size,
)
from ftpclient.transfer.local_tree import LocalTree, PartialFile, checked_parts
from ftpclient.transfer.report import Listener
from ftpclient.transfer.spool import Spool
from ftpwire import digests, paths
from ftpwire.channel import Sink
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    Cancelled,
    CommandError,
    ConnectionLost,
    FtpError,
    IsADirectory,
    NotNewer,
    NotRegular,
    StoredFileDamaged,
    VerificationFailed,
    from_oserror,
)
from ftpwire.messages import Entry, Failed, Get, List, Page, Problem, Reply, Sending, Sent
from ftpwire.paths import RemotePath
from ftpwire.streams import WriteBehind, write_all

if TYPE_CHECKING:
    from ftpclient.transfer.pool import Crew


_UNDONE = "nothing was fetched"


def mismatch(source: RemotePath, *, encrypted: bool) -> VerificationFailed:
    """The error when what arrived doesn't have the digest that the server tells.

    That is the one the file was stored with, as long as one is kept.
    """
    if encrypted:
        return StoredFileDamaged(
            f"{paths.show(source)}: damaged on the server's disk: "
            "its bytes no longer have the digest they were stored with"
        )
    return VerificationFailed(
        f"{paths.show(source)}: what arrived is not what was stored: damaged on the way, or on the "
        "server's disk (`ftpd scrub` there tells)"
    )


class _Directory:
    """A local directory whose contents are under way: its mode and times come last."""

    __slots__ = ("above", "below", "entry", "open", "parts")

    def __init__(self, parts: tuple[bytes, ...], entry: Entry, above: _Directory | None) -> None:
        self.parts = parts
        self.entry = entry
        self.above = above
        self.below: dict[bytes, _Directory] = {}
        """Directories in it whose own pages are still to come."""
        self.open = 1  # itself, until it was walked; and one for each thing inside
        if above is not None:
            above.open += 1


class GetCall(Call):
    """A file on its way from the server, into whatever ``open_target`` gives."""

    streams = True
    asked_offset = 0

    def __init__(self) -> None:
        super().__init__()
        self.info: Sending | None = None
        self.received = 0
        self._small = bytearray()

    def on_reply(self, reply: Reply) -> bool:
        assert isinstance(reply, Sending)
        if self.info is not None:
            raise BadMessage("the server began a file twice")
        if reply.offset not in (0, self.asked_offset) or reply.offset > reply.size:
            raise BadMessage("the server began in the wrong place")
        self.info = reply
        try:
            self.begin(reply)
        except (OSError, CommandError) as error:
            self.fail(error)
        return False

    def on_frame(self, size: int) -> None:
        self.received += size
        if self.info is None or self.info.offset + self.received > self.info.size:
            raise BadMessage("the server sent more bytes than it had announced")

    def on_ending(self) -> None:
        if self.info is None:
            raise BadMessage("the server ended a file that it had not begun")

    def on_data(self, data: memoryview) -> None:
        self._small += data

    def begin(self, info: Sending) -> None:
        """The file's size is known: prepare a sink if it is large."""

    def fail(self, error: OSError | CommandError) -> None:
        """The local side failed: what still comes is passed over."""


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
    ) -> None:
        super().__init__()
        self._transfer = transfer
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
        replace = self._transfer.options.overwrite != "never"
        self._partial = PartialFile(self._tree, self._parts, replace=replace, resume=resume)

    def fail(self, error: OSError | CommandError) -> None:
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(self._shown))
        if self._failure is None:
            self._failure = error
        self.sink = _Nowhere()

    def on_done(self) -> None:
        digest = None
        try:
            if self.error is None and self._failure is None:
                digest = self._complete()
        except (OSError, CommandError) as error:
            self.fail(error)
        finally:
            self._give_up_rest()
        size = self.info.size if self.info is not None else 0
        self._transfer.downloaded(
            self._source,
            self._shown,
            size,
            digest,
            self.error or self._failure,
            self._directory,
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
        if size != self.info.size or self.ending.digest not in (None, digest):
            raise mismatch(self._source, encrypted=self._transfer.connection.encrypted)

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

    def __init__(
        self,
        connection: Connection,
        options: Options,
        listener: Listener,
        chief: Download | None = None,
    ) -> None:
        super().__init__(connection, options, listener, chief)
        self._own_trees: dict[bytes, LocalTree] = {}
        """Of a worker: handles are not shared between threads."""
        self._follow_target = True

    def helper(self, connection: Connection) -> Download:
        """A transfer that works for this one, on a connection of its own."""
        return Download(connection, self.options, self.listener, self)

    def give_back(self) -> None:
        for tree in self._own_trees.values():
            tree.close()
        self._own_trees.clear()

    def _get_for(
        self, top: bytes, source: RemotePath, entry: Entry, shown: bytes, parts: tuple[bytes, ...]
    ) -> None:
        """Get one file that the chief has met."""
        assert isinstance(self._chief, Download)
        self._chief.go_on()
        tree = self._own_trees.get(top)
        try:
            if tree is None:
                follow = self._chief._follow_target
                tree = self._own_trees[top] = LocalTree(top, follow=follow)
            self._add_one(source, entry, shown, tree, parts, None)
        except (OSError, CommandError) as error:
            self._failed(source, shown, error)

    def add(self, source: RemotePath, entry: Entry, target: bytes, *, follow: bool = True) -> None:
        """Get a remote file, link or directory to exactly the local path ``target``.

        Args:
            follow: Whether the target may be a link to the directory that is meant.
        """
        self._follow_target = follow
        parent, name = os.path.split(target.rstrip(b"/"))
        try:
            if entry.type == "dir":
                self._add_tree(source, entry, target)
                return
            tree = LocalTree(parent or b".")
            try:
                if entry.type == "file":
                    here = parent or b"."
                    preflight.check_get(
                        here, entry.size, lambda: preflight.here_of(here, (name,)), _UNDONE
                    )
                self._add_one(source, entry, target, tree, (name,), None)
                self.connection.wait_for_all()
            finally:
                tree.close()
        except (OSError, CommandError) as error:
            self._failed(source, target, error)

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
            self._failed(source, shown, error)

    def _failed(self, source: RemotePath, shown: bytes, error: OSError | CommandError) -> None:
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(shown))
        self.end(source, shown, 0, error=error, skipped=isinstance(error, NotRegular))

    def _add_tree(self, source: RemotePath, root: Entry, target: bytes) -> None:
        if not self.options.recursive:
            raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
        listing = Spool(Page)
        try:
            # what is here already can be compared with the digests that are kept there
            files, size = self._list(source, listing, digest=os.path.isdir(target))
            self.announce(files, size)
            preflight.check_get(target, size, lambda: _here(target, listing), _UNDONE)
            self.expect(size)
            try:
                os.mkdir(target, 0o700)
            except FileExistsError:
                pass
            self._tree = LocalTree(target, follow=self._follow_target)
            try:
                late = self._get_all(source, target, root, listing)
                self.connection.wait_for_all()
                self._join()
                for directory in late:
                    self._walked(directory)
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

    def _note(self, path: RemotePath, problem: Problem) -> None:
        text = f"{paths.show(path)}: {problem.message}"
        error = Failed(problem.code, text).to_error()
        self.end(path, b"", 0, error=error)

    def _get_all(
        self, source: RemotePath, target: bytes, root: Entry, listing: Spool[Page]
    ) -> list[_Directory]:
        """Get a tree in the order of its listing. A directory is left when another comes that
        isn't below it; what it will be is kept with the one it is in until then.

        Returns:
            The directories that are to be left when the crew has got all files.
        """
        late: list[_Directory] = []
        leave = self._walked if self._crew is None else late.append
        stack = [_Directory((), root, None)]
        for page in listing:
            parts = checked_parts(page.directory) if page.directory else ()
            while stack[-1].parts != parts[: len(stack[-1].parts)]:
                leave(stack.pop())
            here = stack[-1]
            if here.parts != parts:
                if here.parts != parts[:-1] or parts[-1] not in here.below:
                    raise BadMessage("the server listed a directory that it had not named")
                here = here.below.pop(parts[-1])
                stack.append(here)
            for entry in page.entries:
                self._get_entry(source, target, here, entry)
        while stack:
            leave(stack.pop())
        return late

    def _walked(self, directory: _Directory) -> None:
        """All pages of a directory, and of those in it, were met."""
        for unlisted in directory.below.values():  # it went away while the tree was listed
            self._left(unlisted)
        self._left(directory)

    def _get_entry(self, source: RemotePath, target: bytes, here: _Directory, entry: Entry) -> None:
        self.go_on()
        parts = (*here.parts, *checked_parts(entry.path))
        below = b"/".join(parts)
        path = paths.child(source, below)
        shown = target.rstrip(b"/") + b"/" + below
        try:
            if entry.type == "dir":
                here.below[parts[-1]] = _Directory(parts, entry, here)
                self._tree.make_dir(parts, entry.mode)
            elif self._crew is not None and self.hands(entry.size) is None:
                self._crew.give(lambda worker: worker._get_for(target, path, entry, shown, parts))
            else:
                self._add_one(path, entry, shown, self._tree, parts, here)
        except (OSError, CommandError) as error:
            self._failed(path, shown, error)

    def _add_one(
        self,
        source: RemotePath,
        entry: Entry,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
        directory: _Directory | None,
    ) -> None:
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
            replace = self.options.overwrite != "never"
            tree.make_link(parts, entry.target, entry.mtime_ns, replace=replace)
            self.end(source, shown, 0)
            return
        if self.options.resume and self._is_here(source, entry, shown, tree, parts):
            return
        crew = self.hands(entry.size)
        if crew is not None:
            self._get_in_pieces(crew, source, shown, tree, parts)
            return
        call = _Download(self, source, shown, tree, parts, directory)
        request = call.request(entry)
        if directory is not None:
            directory.open += 1
        try:
            self.connection.submit(call, request)
        finally:
            call.not_sent()

    def _get_in_pieces(
        self,
        crew: Crew[Any],
        source: RemotePath,
        shown: bytes,
        tree: LocalTree,
        parts: tuple[bytes, ...],
    ) -> None:
        from ftpclient.transfer.pieces import Fetch

        replace = self.options.overwrite != "never"
        partial = PartialFile(tree, parts, replace=replace, resume=self.options.resume)
        fetch = Fetch(self, crew, source, shown, partial)
        try:
            digest = fetch.run()
        except ConnectionLost as error:
            self.end(source, shown, fetch.size, error=error)
            raise
        self.end(source, shown, fetch.size, digest=digest)

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
    ) -> None:
        """A file has come in, or failed."""
        self.end(source, shown, size, digest=digest, error=error)
        if directory is not None:
            self._left(directory)

    def _left(self, directory: _Directory) -> None:
        """Something of a directory is finished; with the last of it, so is the directory."""
        directory.open -= 1
        if directory.open:
            return
        entry = directory.entry
        try:
            self._tree.finish_dir(directory.parts, entry.mode, entry.mtime_ns)
        except Cancelled:
            return  # given up as a whole: it stays as it is for now
        except OSError as error:
            shown = b"/".join(directory.parts)
            self.end(shown, shown, 0, error=from_oserror(error, paths.show(shown)))
        if directory.above is not None:
            self._left(directory.above)


def _here(target: bytes, listing: Spool[Page]) -> int:
    """Bytes of a tree that are in ``target`` already, or make room when they are replaced."""
    here = 0
    for page in listing:
        above = checked_parts(page.directory) if page.directory else ()
        for entry in page.entries:
            if entry.type == "file":
                here += preflight.here_of(target, (*above, *checked_parts(entry.path)))
    return here


class StreamCall(GetCall):
    """A file's bytes as they come, for who can't take them back: they are verified at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.digest = digests.new()

    def on_data(self, data: memoryview) -> None:
        self.digest.update(data)
        self.take(data)

    def take(self, data: memoryview) -> None:
        """Bytes of the file; the view is good until this returns."""

    def result(self, source: RemotePath, *, encrypted: bool) -> tuple[int, bytes]:
        """Size and digest, once it is done.

        Raises:
            VerificationFailed: What was handed out is not what the server says that it stored.
        """
        if self.error is not None:
            raise self.error
        digest = self.digest.digest()
        ending = self.ending
        assert isinstance(ending, Sent)
        if ending.size != self.received or ending.digest not in (None, digest):
            raise mismatch(source, encrypted=encrypted)
        return self.received, digest


class _DescriptorCall(StreamCall):
    """To a descriptor that is no file: a pipe, a terminal."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._fd = fd

    def take(self, data: memoryview) -> None:
        if self.failure is not None:
            return
        try:
            write_all(self._fd, data)
        except OSError as error:
            self.failure = error


def stream(connection: Connection, source: RemotePath, fd: int) -> tuple[int, bytes]:
    """Write a remote file's bytes to ``fd`` as they come; returns size and digest.

    Raises:
        VerificationFailed: At the end: what was written is not what the server sent.
        BrokenPipeError: The reader is gone.
    """
    call = _DescriptorCall(fd)
    connection.submit(call, Get(source))
    while not call.done:
        connection.pump()
        if call.failure is not None:
            connection.cancel_all()
            raise call.failure
    return call.result(source, encrypted=connection.encrypted)
