"""Uploads of files and trees from the local machine to the server.

Lives here: sources that the user named, and walking trees.
Lives elsewhere: files (file_upload.py), the base of all transfers (job.py), the listing of what the
server already has (remote_index.py).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import closing
from functools import partial

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.transfer.file_upload import OPEN_SOURCE, FileUpload, check_time
from ftpclient.transfer.job import Options, Unrepeatable
from ftpclient.transfer.listing import find, list_pages
from ftpclient.transfer.named import Named, look
from ftpclient.transfer.path_list import looking_here
from ftpclient.transfer.remote_index import RemoteIndex
from ftpclient.transfer.removal import Apart, remove_empty
from ftpclient.transfer.report import Listener, Summary
from ftpclient.transfer.run_size import MOST_EACH
from ftpclient.transfer.selection import Filter, with_ignore_file
from ftpclient.transfer.spool import Spool
from ftpwire import paths
from ftpwire.errors import (
    CommandError,
    ConnectionLost,
    Forbidden,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotRegular,
    SourceChanged,
)
from ftpwire.messages import List, MakeDir, MakeLink, Request, SetAttributes
from ftpwire.paths import RemotePath

_ONCE = "it cannot be read again, and nothing was stored"


def _check_has_end(source: bytes, fd: int, info: os.stat_result) -> None:
    """Refuse a device such as /dev/zero, which would fill the account. Raises NotRegular."""
    if not stat.S_ISCHR(info.st_mode) or os.isatty(fd):
        return
    if info.st_rdev != os.stat(os.devnull).st_rdev:
        raise NotRegular(
            f"{paths.show(source)}: a device, which may have no end (use put - NAME < DEVICE)"
        )


def _is_directory(entry: os.DirEntry[bytes], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False  # the next access to it reports the error


def _check_length(target: RemotePath) -> None:
    if len(target) > paths.MAX_PATH:
        raise InvalidPath(f"{paths.show(target[:40])}…: longer than {paths.MAX_PATH} bytes")


class _Change(Call):
    """A request for a directory, a link or attributes. Reports its failure."""

    def __init__(
        self,
        transfer: Upload,
        source: bytes,
        target: bytes,
        count: bool,
        then: Callable[[], None] | None,
    ) -> None:
        super().__init__()
        self._then = then
        self._transfer = transfer
        self._source = source
        self._target = target
        self._count = count

    def on_done(self) -> None:
        if isinstance(self.error, ConnectionLost) and not self._count:
            return  # a directory is sent again on the new connection; only its failure is reported
        if self.error is not None or self._count:
            self._transfer.end(self._source, self._target, 0, error=self.error)
        if self.error is None and self._then is not None:
            self._then()


class _Filled(msgspec.Struct, frozen=True):
    """A directory whose contents were sent, and the attributes it gets now.

    Attributes:
        goes: True to remove it from the local disk once it is empty.
    """

    source: bytes
    target: bytes
    mode: int
    mtime_ns: int
    goes: bool


class Upload(FileUpload):
    """An upload of files and trees. ``add`` the sources, then ``finish``."""

    def __init__(self, connection: Connection, options: Options, listener: Listener) -> None:
        super().__init__(connection, options, listener)
        self._late: Spool[_Filled] | None = None
        """Directories that get their attributes after the workers have filled them."""
        self._apart = Apart()
        self._emptied: Spool[bytes] | None = None
        """Local directories that may have become empty, each after those in it."""
        self._links: list[tuple[bytes, RemotePath, os.stat_result]] = []
        """Named links to directories: removed if everything behind them was stored."""

    def worker(self, connection: Connection) -> FileUpload:
        """Return a worker for this transfer, with a connection of its own."""
        return FileUpload(connection, self.options, self.listener, self)

    def finish(self) -> Summary:
        if self.workers.pool is not None:
            self.send_collected()  # make the directories before the workers' last files need them
        self.workers.finish()
        if self._late is not None:
            with closing(self._late) as late:
                self._late = None
                for one in late:
                    self._finish_directory(one)
        self.settle()
        self._remove_directories()
        return super().finish()

    def _remove_directories(self) -> None:
        """Remove the sources that have become empty."""
        links, self._links = self._links, []
        if not self.summary.failed:
            for source, target, info in links:
                self._remove_now(source, target, info)
        if self._emptied is None:
            return
        with closing(self._emptied) as emptied:
            self._emptied = None
            for source in emptied:
                self.connection.check()
                try:
                    remove_empty(source)
                except OSError as error:
                    self.fail(source, RemotePath(b""), error)

    def _finish_directory(self, filled: _Filled) -> None:
        """Send the last request about a directory whose contents were sent."""
        source, target = filled.source, RemotePath(filled.target)
        request = SetAttributes(target, filled.mode, filled.mtime_ns)
        then = partial(self._note_emptied, source) if filled.goes else None
        self._submit_change(source, target, request, then=then)

    def _note_emptied(self, source: bytes) -> None:
        if self._emptied is None:
            self._emptied = Spool(bytes)
        self._emptied.add(source)

    def stop_workers(self) -> None:
        super().stop_workers()
        self._links.clear()
        if self._late is not None:
            self._late.close()
            self._late = None
        if self._emptied is not None:
            self._emptied.close()
            self._emptied = None
        if self.index is not None:
            self.index.close()
            self.index = None

    def add(self, source: bytes, target: RemotePath) -> None:
        """Send a local file, link or directory to exactly ``target``."""
        try:
            info = os.stat(source, follow_symlinks=self.options.copy_links)
            if stat.S_ISDIR(info.st_mode) and self.options.recursive and self.options.resume:
                self._look_up(target)
            self._add(source, target, info, (), self._filter())
        except (OSError, CommandError) as error:
            self.fail(source, target, error)

    def add_file(self, source: bytes, target: RemotePath) -> None:
        """Send what was a regular file a moment ago to exactly ``target``.

        As ``add``, but saves a lookup: the file is examined only after it was opened.
        """
        if self.workers.may_share:  # workers need its size
            self.add(source, target)
            return
        self.go_on()
        try:
            _check_length(target)
            self.put(source, target, None, follow=False)
        except OSError as error:
            if error.errno == errno.ELOOP:  # it has become a link
                self.add(source, target)
            else:
                self.fail(source, target, error)
        except CommandError as error:
            self.fail(source, target, error)

    def add_named(self, source: bytes, target: RemotePath) -> None:
        """Send what the user named to exactly ``target``.

        A link is followed, unless the options say otherwise. A FIFO, a device and a descriptor are
        read until their end.
        """
        options = self.options
        try:
            if options.links:
                named = Named(source, os.lstat(source))
            else:
                named = look(source, trust=options.copy_links)
            if named.is_node:
                self._add_node(named, target)
                return
            self._set_goes(source, target, named)
            if stat.S_ISDIR(named.info.st_mode) and options.recursive and options.resume:
                self._look_up(target)
            self._choose(source, target, named.info)
            self._add(source, target, named.info, (), self._filter(), named=True)
        except (OSError, CommandError) as error:
            self.fail(source, target, error, named=True)

    def _set_goes(self, source: bytes, target: RemotePath, named: Named) -> None:
        """Find out what to remove of a named source once it is stored.

        Raises:
            OSError, CommandError: It cannot be moved.
        """
        self.goes = self.options.remove_source
        if not self.goes:
            return
        is_directory = stat.S_ISDIR(named.info.st_mode)
        if named.is_link and is_directory:
            self.goes = False
            self._links.append((source.rstrip(b"/"), target, named.info))
        elif is_directory:
            self._apart.check(self.connection, source, target)
        else:
            self._apart.check(self.connection, os.path.dirname(source), paths.parent_of(target))

    def _filter(self) -> Filter:
        """Return the filter of a tree's root."""
        return self.options.selection.filter(lambda: self.connection.check())

    def _choose(self, source: bytes, target: RemotePath, info: os.stat_result) -> None:
        """If only some paths of a tree are wanted, find out which of them exist."""
        only = self.options.selection.only
        if only is None:
            return
        if not stat.S_ISDIR(info.st_mode):
            raise NotADirectory(
                f"{paths.show(source)}: not a directory, but a list of paths below it was given"
            )
        for name, error in only.choose(looking_here(source, follow=self.options.copy_links)):
            self.connection.check()
            self.end(paths.child(source, name), paths.child(target, name), 0, error=error)

    def _look_up(self, target: RemotePath) -> None:
        """Find out what an earlier try may have stored at the target."""
        self.send_collected()  # so that the listing includes what earlier sources have stored
        entry = find(self.connection, target, digest=True)
        if entry is None or entry.type != "dir":
            return
        if self.index is None:
            self.index = RemoteIndex()
        try:
            for page in list_pages(self.connection, List(target, recursive=True, digest=True)):
                self.index.add(target, page)
        except Forbidden:
            pass  # a drop box cannot be listed: everything is sent

    def _add(
        self,
        source: bytes,
        target: RemotePath,
        info: os.stat_result,
        above: tuple[tuple[int, int], ...],
        rules: Filter,
        *,
        named: bool = False,
    ) -> None:
        self.go_on()
        check_time(source, info)
        _check_length(target)
        kind = stat.S_IFMT(info.st_mode)
        if kind == stat.S_IFREG:
            workers = self.workers
            workers.expect(info.st_size)
            known = info if named else None
            if workers.pool is None or workers.for_pieces(info.st_size, self.connection):
                self.put(source, target, known)
            else:
                goes = self.goes
                workers.pool.give(
                    lambda worker: worker.send_for(self, source, target, known, goes=goes),
                    small=info.st_size <= MOST_EACH,
                    first=self.send_collected,  # else workers make the directories, in any mode
                )
        elif kind == stat.S_IFDIR:
            self._add_directory(source, target, info, above, rules)
        elif kind == stat.S_IFLNK:
            self._submit_change(
                source,
                target,
                MakeLink(target, os.readlink(source), info.st_mtime_ns, self.options.overwrite),
                count=True,
                then=self._removing(source, target, info),
            )
        else:
            raise NotRegular(f"{paths.show(source)}: not a regular file, directory or link")

    def _add_directory(
        self,
        source: bytes,
        target: RemotePath,
        info: os.stat_result,
        above: tuple[tuple[int, int], ...],
        rules: Filter,
    ) -> None:
        """Send a directory without what ``rules`` leave out."""
        if not self.options.recursive:
            raise IsADirectory(f"{paths.show(source)}: a directory (use -r)")
        identity = (info.st_dev, info.st_ino)
        if len(above) > paths.MAX_DEPTH:  # deeper than servers accept, and than Python's stack
            raise InvalidPath(f"{paths.show(source)}: more than {paths.MAX_DEPTH} directories deep")
        if identity in above:
            raise CommandError(f"{paths.show(source)}: a link to a directory above it")
        if self.options.selection.ignore_files:
            rules = with_ignore_file(rules, source)
        mode = stat.S_IMODE(info.st_mode) & 0o777
        # writable until its contents are sent; its own mode is set last
        self._submit_change(source, target, MakeDir(target, mode | 0o700, parents=True, fill=True))
        follow = self.options.copy_links
        inside: list[os.DirEntry[bytes]] = []
        prefix = paths.child(target, b"")
        at_once = not rules.active and not self.workers.may_share
        with os.scandir(source) as entries:  # closed before descending: only one is open
            for entry in entries:
                if at_once and entry.is_file(follow_symlinks=False):
                    self.add_file(entry.path, RemotePath(prefix + entry.name))
                elif _is_directory(entry, follow=follow):
                    inside.append(entry)
                else:
                    self._add_entry(entry, target, (*above, identity), rules)
        while inside:
            self._add_entry(inside.pop(), target, (*above, identity), rules)
        filled = _Filled(source, target, mode, info.st_mtime_ns, self.goes)
        if self.workers.pool is None:
            self._finish_directory(filled)
            return
        if self._late is None:
            self._late = Spool(_Filled)
        self._late.add(filled)

    def _add_entry(
        self,
        entry: os.DirEntry[bytes],
        target: RemotePath,
        above: tuple[tuple[int, int], ...],
        rules: Filter,
    ) -> None:
        below = paths.child(target, entry.name)
        try:
            try:
                info = entry.stat(follow_symlinks=self.options.copy_links)
            except OSError:
                if rules.active and rules.excludes(entry.name, is_directory=False):
                    return  # a link whose target does not exist
                raise
            if not rules.leaves_out_local(entry.name, info):
                self._add(entry.path, below, info, above, rules.below(entry.name))
        except (OSError, CommandError) as error:
            self.fail(entry.path, below, error)

    def _submit_change(
        self,
        source: bytes,
        target: RemotePath,
        request: Request,
        *,
        count: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        self.change(_Change(self, source, target, count, then), request)

    def _add_node(self, named: Named, target: RemotePath) -> None:
        """Send the bytes of a FIFO, a device or a descriptor until its end."""
        self.go_on()
        source, fd = named.path, named.descriptor
        if (source, target) in self.spent:
            raise Unrepeatable(f"{paths.show(source)}: {_ONCE}")
        opened = -1
        if fd is None:
            fd = opened = os.open(source, OPEN_SOURCE)
        try:
            if opened >= 0:
                os.set_blocking(opened, True)
                if not named.is_same(os.fstat(opened)):
                    raise SourceChanged(f"{paths.show(source)}: was replaced meanwhile")
                _check_has_end(source, opened, named.info)
            self.add_stream(fd, target, source=source)
            self.connection.wait_for_all()
        except ConnectionLost as error:
            if (source, target) not in self.spent:
                raise
            lost = Unrepeatable(f"{paths.show(source)}: {error}: {_ONCE}")
            self.fail(source, target, lost, named=True)
            if self._lost:
                raise  # other files can be sent again
        finally:
            if opened >= 0:
                os.close(opened)
