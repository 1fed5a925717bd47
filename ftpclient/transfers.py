"""The transfer engine: plan a transfer, keep the pipe full, verify, report.

Lives here: uploads and downloads of files and trees over one connection.
Lives elsewhere: what users ask for (client.py), the local side's files (local.py), frames and
replies (connection.py), showing it (progress.py).

Requests are sent ahead of their replies, so that a small file costs no round trip. Memory is
flat: a tree is walked while it is sent; a remote one is listed first, onto disk if it is long.
"""

from __future__ import annotations

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from ftpclient.connection import Call, Connection
from ftpclient.local import LocalTree, PartialFile, checked_parts
from ftpclient.reporting import Listener, Result, Summary
from ftpclient.spill import Spool
from ftpwire import beneath, digests, paths
from ftpwire.channel import Sink
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    CommandError,
    FtpError,
    IsADirectory,
    NotNewer,
    NotRegular,
    SourceChanged,
    VerificationFailed,
    from_oserror,
)
from ftpwire.messages import (
    Entry,
    Failed,
    Get,
    List,
    MakeDir,
    MakeLink,
    Overwrite,
    Page,
    Problem,
    Put,
    Ready,
    Reply,
    Request,
    Sending,
    Sent,
    SetAttributes,
)
from ftpwire.paths import RemotePath
from ftpwire.streams import ReadAhead, WriteBehind, write_all

SMALL = 256 * 1024
"""Files up to this many bytes are read and sent whole."""
ASK_FROM = 4 * 1024 * 1024
"""Larger uploads ask first; below, a round trip costs more than it can save."""
_KEEP_ALIVE_SECONDS = 10.0

_OPEN_SOURCE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True)
class Options:
    """How to transfer.

    Attributes:
        recursive: Directories with all their contents.
        copy_links: Transfer what links point to, instead of the links.
        overwrite: What to do when the target exists; ``older`` replaces it only if its mtime is
            before the source's.
    """

    recursive: bool = False
    copy_links: bool = False
    overwrite: Overwrite = "always"


def _skips(error: FtpError, overwrite: Overwrite) -> bool:
    """Whether a refusal is what the options asked for."""
    if overwrite == "never":
        return isinstance(error, AlreadyExists)
    return overwrite == "older" and isinstance(error, NotNewer)


class _Transfer:
    """What uploads and downloads have in common: options, results, totals."""

    def __init__(self, connection: Connection, options: Options, listener: Listener) -> None:
        self.connection = connection
        self.options = options
        self.listener = listener
        self.summary = Summary()
        self._began = time.monotonic()

    def finish(self) -> Summary:
        """Wait for all that is under way; the totals."""
        self.connection.wait_for_all()
        self.summary.seconds = time.monotonic() - self._began
        return self.summary

    def end(
        self,
        source: bytes,
        target: bytes,
        size: int,
        *,
        digest: bytes | None = None,
        error: FtpError | None = None,
        skipped: bool = False,
    ) -> None:
        """One file has ended."""
        status: Literal["done", "skipped", "failed"] = "done"
        if error is not None:
            skip = skipped or _skips(error, self.options.overwrite)
            status = "skipped" if skip else "failed"
        result = Result(source, target, size, status, digest, error)
        self.summary.add(result)
        self.listener.finished(result)


# uploads -----------------------------------------------------------------------------------


class _Change(Call):
    """A directory, a link or attributes on their way to the server. Heard of if it fails."""

    def __init__(self, transfer: Upload, source: bytes, target: bytes, count: bool) -> None:
        super().__init__()
        self._transfer = transfer
        self._source = source
        self._target = target
        self._count = count

    def on_done(self) -> None:
        if self.error is not None or self._count:
            self._transfer.end(self._source, self._target, 0, error=self.error)


class _PutCall(Call):
    """A file on its way to the server."""

    def __init__(self, transfer: Upload, source: bytes, target: bytes) -> None:
        super().__init__()
        self._transfer = transfer
        self._source = source
        self._target = target
        self.size = 0
        self.digest: bytes | None = None
        self.ready: Ready | None = None
        self.failure: FtpError | None = None
        """Why this side gave it up."""

    def on_reply(self, reply: Reply) -> bool:
        if isinstance(reply, Ready):
            self.ready = reply
            return False
        return True

    def on_done(self) -> None:
        self._transfer.end(
            self._source,
            self._target,
            self.size,
            digest=self.digest,
            error=self.failure or self.error,
        )


class Upload(_Transfer):
    """Files and trees from here to the server. ``add`` what to send, then ``finish``."""

    def add(self, source: bytes, target: RemotePath) -> None:
        """Send a local file, link or directory to exactly ``target``."""
        try:
            info = os.stat(source, follow_symlinks=self.options.copy_links)
            self._add(source, target, info, ())
        except (OSError, CommandError) as error:
            self._fail(source, target, error)

    def _fail(self, source: bytes, target: RemotePath, error: OSError | CommandError) -> None:
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(source))
        self.end(source, target, 0, error=error, skipped=isinstance(error, NotRegular))

    def _add(
        self,
        source: bytes,
        target: RemotePath,
        info: os.stat_result,
        above: tuple[tuple[int, int], ...],
    ) -> None:
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            self._put(source, target)
        elif kind == stat.S_IFDIR:
            self._add_directory(source, target, info, above)
        elif kind == stat.S_IFLNK:
            self._submit_change(
                source,
                target,
                MakeLink(target, os.readlink(source), info.st_mtime_ns, self.options.overwrite),
                count=True,
            )
        else:
            raise NotRegular(f"{paths.show(source)}: not a regular file, directory or link")

    def _add_directory(
        self,
        source: bytes,
        target: RemotePath,
        info: os.stat_result,
        above: tuple[tuple[int, int], ...],
    ) -> None:
        if not self.options.recursive:
            raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
        identity = (info.st_dev, info.st_ino)
        if identity in above:
            raise CommandError(f"{paths.show(source)}: the link leads into its own parents")
        mode = stat.S_IMODE(info.st_mode) & 0o777
        # what is inside comes next, so it must be possible to write; its own mode comes last
        self._submit_change(source, target, MakeDir(target, mode | 0o700, parents=True))
        follow = self.options.copy_links
        with os.scandir(source) as entries:
            for entry in entries:
                below = paths.child(target, entry.name)
                try:
                    self._add(
                        entry.path, below, entry.stat(follow_symlinks=follow), (*above, identity)
                    )
                except (OSError, CommandError) as error:
                    self._fail(entry.path, below, error)
        self._submit_change(source, target, SetAttributes(target, mode, info.st_mtime_ns))

    def _submit_change(
        self, source: bytes, target: bytes, request: Request, *, count: bool = False
    ) -> None:
        self.connection.submit(_Change(self, source, target, count), request)

    def _put(self, source: bytes, target: RemotePath) -> None:
        fd = os.open(source, _OPEN_SOURCE)
        try:
            info = beneath.regular(fd)
            if info.st_size <= SMALL:
                self._put_small(source, target, fd, info)
            else:
                self._put_large(source, target, fd, info)
        finally:
            os.close(fd)

    def _put_small(self, source: bytes, target: RemotePath, fd: int, info: os.stat_result) -> None:
        data = os.read(fd, info.st_size + 1) if info.st_size else b""
        size = len(data)
        if size != info.st_size:
            raise SourceChanged(f"{paths.show(source)}: changed while it was read")
        call = _PutCall(self, source, target)
        call.size = size
        call.digest = digest = digests.digest(data)
        self.connection.submit(call, self._request(target, info), size)
        if size:
            self.connection.send_data(call, data)
        self.connection.send_end(call, Sent(size, digest))
        self.listener.advanced(size)

    def _request(self, target: RemotePath, info: os.stat_result, *, ask: bool = False) -> Put:
        return Put(
            target,
            info.st_size,
            info.st_mode & 0o777,
            info.st_mtime_ns,
            self.options.overwrite,
            ask,
            secrets.token_bytes(16) if ask else None,
        )

    def _put_large(self, source: bytes, target: RemotePath, fd: int, info: os.stat_result) -> None:
        ask = info.st_size > ASK_FROM
        call = _PutCall(self, source, target)
        call.size = info.st_size
        self.connection.submit(call, self._request(target, info, ask=ask))
        if ask and not self._is_ready(call):
            return
        self.listener.started(source, info.st_size)
        try:
            with ReadAhead(fd, info.st_size) as pieces:
                if not self._send_pieces(call, pieces):
                    return
            now = os.fstat(fd)
            if pieces.size != info.st_size or now.st_mtime_ns != info.st_mtime_ns:
                raise SourceChanged(f"{paths.show(source)}: changed while it was sent")
        except (OSError, CommandError) as error:
            self._give_up(call, source, error)
            return
        call.digest = pieces.digest()
        self.connection.send_end(call, Sent(pieces.size, call.digest))

    def _give_up(self, call: _PutCall, source: bytes, error: OSError | CommandError) -> None:
        """The source failed in the middle: have the server drop what it got."""
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(source))
        call.failure = error
        self.connection.send_cancel(call)
        self.connection.wait_for(call)

    def _is_ready(self, call: _PutCall) -> bool:
        """Wait for the server to say that the bytes may come."""
        while call.ready is None and not call.done:
            self.connection.pump()
        if call.done and call.ready is None:
            self.connection.send_cancel(call)  # closes what the refused request has opened
            return False
        return True

    def _send_pieces(self, call: _PutCall, pieces: Iterable[memoryview]) -> bool:
        """Send a file's bytes; False when the server has refused them meanwhile."""
        for piece in pieces:
            self.connection.send_data(call, piece)
            self.listener.advanced(len(piece))
            if call.done:
                self.connection.send_cancel(call)
                return False
        return True

    def add_stream(self, fd: int, target: RemotePath) -> None:
        """Send what can be read from a pipe or terminal until its end."""
        call = _PutCall(self, b"-", target)
        request = Put(target, None, overwrite=self.options.overwrite, ask=True)
        self.connection.submit(call, request)
        if not self._is_ready(call):
            return
        self.listener.started(b"-", None)
        said = time.monotonic()

        def while_waiting() -> None:
            nonlocal said
            self.connection.check()
            if time.monotonic() - said > _KEEP_ALIVE_SECONDS:
                said = time.monotonic()
                self.connection.keep_alive(call)

        try:
            with ReadAhead(fd, None, while_waiting=while_waiting) as pieces:
                if not self._send_pieces(call, pieces):
                    return
        except OSError as error:
            self._give_up(call, b"-", error)
            return
        call.size = pieces.size
        call.digest = pieces.digest()
        self.connection.send_end(call, Sent(call.size, call.digest))


def measure(sources: Iterable[bytes], options: Options) -> tuple[int, int]:
    """Count the files and bytes that an upload of ``sources`` will send, for progress only."""
    files = size = 0
    for source in sources:
        todo = [source]
        while todo:
            path = todo.pop()
            try:
                info = os.stat(path, follow_symlinks=options.copy_links)
                if stat.S_ISDIR(info.st_mode) and options.recursive and len(todo) < 10_000:
                    with os.scandir(path) as entries:
                        for entry in entries:
                            if entry.is_dir(follow_symlinks=False):
                                todo.append(entry.path)
                            elif entry.is_file(follow_symlinks=options.copy_links):
                                files += 1
                                size += entry.stat(follow_symlinks=options.copy_links).st_size
                elif stat.S_ISREG(info.st_mode):
                    files += 1
                    size += info.st_size
            except OSError:
                continue  # the transfer itself will tell
    return files, size


# downloads ---------------------------------------------------------------------------------


class _ListCall(Call):
    """A listing on its way: pages are handed to ``take``."""

    streams = True

    def __init__(self, take: Callable[[Page], None]) -> None:
        super().__init__()
        self._take = take

    def on_reply(self, reply: Reply) -> bool:
        if isinstance(reply, Page):
            self._take(reply)
        return False


def list_pages(connection: Connection, request: List) -> Iterator[Page]:
    """The pages of a listing, as they come. Raises the listing's error."""
    waiting: list[Page] = []
    call = _ListCall(waiting.append)
    connection.submit(call, request)
    while True:
        while waiting:
            yield waiting.pop(0)
        if call.done:
            break
        connection.pump()
    if call.error is not None:
        raise call.error


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

    def __init__(self) -> None:
        super().__init__()
        self.info: Sending | None = None
        self.received = 0
        self._small = bytearray()

    def on_reply(self, reply: Reply) -> bool:
        if isinstance(reply, Sending):
            self.info = reply
            try:
                self.begin(reply)
            except (OSError, CommandError) as error:
                self.fail(error)
        return False

    def on_data(self, data: memoryview) -> None:
        self.received += len(data)
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

    def begin(self, info: Sending) -> None:
        if info.size > SMALL:
            self._transfer.listener.started(self._source, info.size)
            self._open()
            assert self._partial is not None
            self._writer = WriteBehind(self._partial.fd)
            self.sink = _CountingSink(self._writer, self._transfer.listener)

    def _open(self) -> None:
        replace = self._transfer.options.overwrite != "never"
        self._partial = PartialFile(self._tree, self._parts, replace=replace)

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
            self._open()
            assert self._partial is not None
            write_all(self._partial.fd, self._small)
            self._transfer.listener.advanced(len(self._small))
        else:
            digest = self._writer.finish()
            self._verify(self._writer.size, digest)
        assert self._partial is not None
        self._partial.place(self.info.mode, self.info.mtime_ns)
        return digest

    def _verify(self, size: int, digest: bytes) -> None:
        assert self.info is not None and isinstance(self.ending, Sent)
        if size != self.info.size or self.ending.digest not in (None, digest):
            raise VerificationFailed(
                f"{paths.show(self._source)}: what arrived is not what the server sent "
                f"({size} of {self.info.size} bytes): damaged on the way"
            )

    def _give_up_rest(self) -> None:
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
        if self._partial is not None:
            self._partial.drop()


class _CountingSink:
    """A sink that tells the listener."""

    def __init__(self, sink: Sink, listener: Listener) -> None:
        self._sink = sink
        self._listener = listener
        self.buffer = sink.buffer

    def filled(self, count: int) -> None:
        self._sink.filled(count)
        self._listener.advanced(count)

    def write(self, data: memoryview) -> None:
        self._sink.write(data)
        self._listener.advanced(len(data))


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


class Download(_Transfer):
    """Files and trees from the server to here. ``add`` what to get, then ``finish``."""

    def add(self, source: RemotePath, entry: Entry, target: bytes) -> None:
        """Get a remote file, link or directory to exactly the local path ``target``."""
        parent, name = os.path.split(target.rstrip(b"/"))
        try:
            if entry.type == "dir":
                self._add_tree(source, entry, target)
                return
            tree = LocalTree(parent or b".")
            try:
                self._add_one(source, entry, target, tree, (name,), None)
                self.connection.wait_for_all()
            finally:
                tree.close()
        except (OSError, CommandError) as error:
            self._failed(source, target, error)

    def _failed(self, source: RemotePath, shown: bytes, error: OSError | CommandError) -> None:
        if isinstance(error, OSError):
            error = from_oserror(error, paths.show(shown))
        self.end(source, shown, 0, error=error, skipped=isinstance(error, NotRegular))

    def _add_tree(self, source: RemotePath, root: Entry, target: bytes) -> None:
        if not self.options.recursive:
            raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
        listing = Spool(Page)
        try:
            files, size = self._list(source, listing)
            self.listener.totals(files, size)
            try:
                os.mkdir(target, 0o700)
            except FileExistsError:
                pass
            self._tree = LocalTree(target)
            try:
                self._get_all(source, target, root, listing)
                self.connection.wait_for_all()
            finally:
                self._tree.close()
        finally:
            listing.close()

    def _list(self, source: RemotePath, listing: Spool[Page]) -> tuple[int, int]:
        files = size = 0
        request = List(source, recursive=True, follow=self.options.copy_links)
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
    ) -> None:
        """Get a tree in the order of its listing. A directory is left when another comes that
        isn't below it; what it will be is kept with the one it is in until then."""
        stack = [_Directory((), root, None)]
        for page in listing:
            parts = checked_parts(page.directory) if page.directory else ()
            while stack[-1].parts != parts[: len(stack[-1].parts)]:
                self._walked(stack.pop())
            here = stack[-1]
            if here.parts != parts:
                if here.parts != parts[:-1] or parts[-1] not in here.below:
                    raise BadMessage("the server listed a directory that it had not named")
                here = here.below.pop(parts[-1])
                stack.append(here)
            for entry in page.entries:
                self._get_entry(source, target, here, entry)
        while stack:
            self._walked(stack.pop())

    def _walked(self, directory: _Directory) -> None:
        """All pages of a directory, and of those in it, were met."""
        for unlisted in directory.below.values():  # it went away while the tree was listed
            self._left(unlisted)
        self._left(directory)

    def _get_entry(self, source: RemotePath, target: bytes, here: _Directory, entry: Entry) -> None:
        parts = (*here.parts, *checked_parts(entry.path))
        below = b"/".join(parts)
        path = paths.child(source, below)
        shown = target.rstrip(b"/") + b"/" + below
        try:
            if entry.type == "dir":
                here.below[parts[-1]] = _Directory(parts, entry, here)
                self._tree.make_dir(parts, entry.mode)
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
            assert entry.target is not None
            replace = self.options.overwrite != "never"
            tree.make_link(parts, entry.target, entry.mtime_ns, replace=replace)
            self.end(source, shown, 0)
            return
        call = _Download(self, source, shown, tree, parts, directory)
        if directory is not None:
            directory.open += 1
        self.connection.submit(call, Get(source))

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
        except OSError as error:
            shown = b"/".join(directory.parts)
            self.end(shown, shown, 0, error=from_oserror(error, paths.show(shown)))
        if directory.above is not None:
            self._left(directory.above)


class StreamCall(GetCall):
    """A file's bytes to a descriptor that is no file: a pipe, a terminal."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.digest = digests.new()
        self.failure: OSError | None = None
        self._fd = fd

    def on_data(self, data: memoryview) -> None:
        self.received += len(data)
        if self.failure is not None:
            return
        self.digest.update(data)
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
    call = StreamCall(fd)
    connection.submit(call, Get(source))
    while not call.done:
        connection.pump()
        if call.failure is not None:
            connection.cancel_all()
            raise call.failure
    if call.error is not None:
        raise call.error
    digest = call.digest.digest()
    ending = call.ending
    assert isinstance(ending, Sent)
    if ending.size != call.received or ending.digest not in (None, digest):
        raise VerificationFailed(f"{paths.show(source)}: damaged on the way")
    return call.received, digest
