"""put and get --dry-run: what would be done, without doing it.

Lives here: comparing each source with its target, and the resulting step.
Lives elsewhere: walking the trees (upload.py, tree_download.py: the walks are the same), the
display (cli/).

Nothing is changed on either side. A later real run may find something different.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec import structs

from ftpclient.connection.connection import Connection
from ftpclient.transfer import preflight
from ftpclient.transfer.download import Download
from ftpclient.transfer.file_upload import OPEN_SOURCE
from ftpclient.transfer.folding import Folding, SameNames
from ftpclient.transfer.job import EmptySource, Options, Transfer, same_time_and_size
from ftpclient.transfer.listing import find, list_pages
from ftpclient.transfer.placing import checked_parts
from ftpclient.transfer.report import Listener, Result, Summary
from ftpclient.transfer.spool import Spool, Table
from ftpclient.transfer.tree_download import UNDONE, TreeDownload
from ftpclient.transfer.upload import Upload
from ftpwire import beneath, digests, holes, paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    Forbidden,
    IsADirectory,
    NotADirectory,
    NotFound,
    NotNewer,
    NotRegular,
)
from ftpwire.messages import Entry, List, MakeDir, MakeLink, Page, Request, SetAttributes
from ftpwire.paths import RemotePath
from ftpwire.streams import ReadAhead

if TYPE_CHECKING:
    from ftpclient.transfer.named import Named

NEW, REPLACES = "new", "replaces"


@dataclass(frozen=True)
class PlannedStep:
    """One step that would be done, in the form of a sync's steps.

    Attributes:
        path: As named by the user, or found below a named directory.
        source: The old remote path of something that gets a new one.
    """

    action: str
    path: bytes
    type: str = "file"
    size: int = 0
    why: str = ""
    source: bytes = b""
    count: int = 1


class Rehearsal(Transfer):
    """A transfer that only reports: its results are ``planned`` and have a step.

    Attributes:
        verb: The action of its steps.
    """

    verb = "put"

    def planned(
        self,
        source: bytes,
        target: bytes,
        why: str,
        *,
        type: str = "file",
        size: int = 0,
        action: str = "",
        same: bool = False,
    ) -> None:
        """Report a step that would be done, or, if ``same``, a file that would stay unchanged."""
        step = PlannedStep(action or self.verb, source, type, size, why)
        self._report(Result(source, target, size, "planned", unchanged=same, step=step))

    def _report(self, result: Result) -> None:
        if result.step is None:
            step = PlannedStep(self.verb, result.source or result.target, size=result.size)
            result = structs.replace(result, step=step)
        if self._reported.was_before(result.source, result.target):
            return
        self._reported.add(result.source, result.target)
        if result.status != "planned":
            self.summary.add(result)
        elif result.step is not None and result.step.action == self.verb:
            self._counted().add(structs.replace(result, status="done"))
        self.listener.finished(result)

    def _counted(self) -> Summary:
        """Return the summary in which planned steps are counted."""
        return self.summary

    def replaces(self, target: bytes, kind: str, source_ns: int, target_ns: int) -> None:
        """Raise the error that would keep a file or link from replacing an existing target."""
        shown = paths.show(target)
        if kind == "dir":
            raise IsADirectory(f"{shown}: a directory is there")
        if self.options.overwrite == "never":
            raise AlreadyExists(f"{shown}: exists")
        if self.options.overwrite == "older" and target_ns >= source_ns:
            raise NotNewer(f"{shown}: the existing file is not older")


def check_permitted(connection: Connection, target: RemotePath, there: Entry | None) -> None:
    """Find out whether a file may be stored at a remote path, without changing anything.

    Raises:
        Forbidden
    """
    if there is not None and there.type != "file":
        target = paths.child(target, secrets.token_hex(16).encode())
    try:
        connection.ask(SetAttributes(target))  # without mode and time it changes nothing
    except Forbidden:
        raise
    except CommandError:
        pass  # usually: nothing exists there


def _digest_of(fd: int, size: int, check: Callable[[], None]) -> bytes:
    hasher = digests.new()
    with ReadAhead(fd, size, hasher=hasher, sparse=holes.are_in(fd, size)) as pieces:
        for _ in pieces:
            check()
    return hasher.digest()


class UploadRehearsal(Rehearsal, Upload):
    """A rehearsal of a put.

    Args:
        whole: True for `put --atomic`: a directory is to replace the existing one as a whole.
    """

    def __init__(
        self, connection: Connection, options: Options, listener: Listener, *, whole: bool = False
    ) -> None:
        # resume=True makes the base class look up the target; `_compares` keeps the user's choice
        super().__init__(
            connection, structs.replace(options, resume=True, remove_source=False), listener
        )
        self.made: RemotePath | None = None
        """A directory that would have been made before."""
        self._whole = Summary() if whole else None
        self._compares = options.resume
        self._top: RemotePath | None = None
        """The directory whose whole tree was listed into ``_there``."""
        self._there = Table(Entry)

    def stop_workers(self) -> None:
        super().stop_workers()
        self._there.close()

    def _counted(self) -> Summary:
        return self.summary if self._whole is None else self._whole

    def close(self) -> Summary:
        if self._whole is not None and not self.summary.failed:
            self.summary.done += self._whole.done
            self.summary.size += self._whole.size
            self._whole = None
        return super().close()

    def _look_up(self, target: RemotePath) -> None:
        self._there.close()
        self._top = target
        count = size = 0
        try:
            for page in list_pages(self.connection, List(target, recursive=True, digest=True)):
                if self._whole is not None:  # all of it is removed, so nothing is compared
                    count += len(page.entries)
                    size += sum(entry.size for entry in page.entries if entry.type == "file")
                    continue
                above = paths.child(target, page.directory) if page.directory else target
                for entry in page.entries:
                    self._there[paths.child(above, entry.path)] = entry
        except Forbidden:
            self._top = None  # a drop box only lets named paths be looked up
        except CommandError:
            pass  # nothing exists there
        if count:
            step = PlannedStep("remove", target, "dir", size, count=count + 1)
            self._report(Result(b"", target, size, "planned", step=step))

    def _is_known(self, target: RemotePath) -> bool:
        """Return whether a path is in the tree that was listed."""
        return self._top is not None and target.startswith(self._top.rstrip(b"/") + b"/")

    def _at(self, target: RemotePath) -> Entry | None:
        """Return the entry at a remote path, or None."""
        if self._is_known(target):
            return self._there.get(target)
        return find(self.connection, target, digest=True)

    def _check_named(self, target: RemotePath, there: Entry | None) -> None:
        """Find out whether a file or link named by the user may be stored at its target."""
        if self._is_known(target):
            return  # already found out for the tree
        check_permitted(self.connection, target, there)
        directory = paths.parent_of(target)
        if there is None and directory != self.made:
            above = find(self.connection, directory, follow=True)
            if above is None or above.type != "dir":
                error = NotFound if above is None else NotADirectory
                raise error(f"{paths.show(directory)}: no such directory on the server")

    def _choose(self, source: bytes, target: RemotePath, info: os.stat_result) -> None:
        if stat.S_ISDIR(info.st_mode):
            check_permitted(self.connection, target, find(self.connection, target))
        super()._choose(source, target, info)

    def put(
        self,
        source: bytes,
        target: RemotePath,
        named: os.stat_result | None,
        *,
        follow: bool = True,
    ) -> None:
        fd = os.open(source, OPEN_SOURCE if follow else OPEN_SOURCE | os.O_NOFOLLOW)
        try:
            info = beneath.regular(fd)
            if self.options.no_empty and not info.st_size:
                raise EmptySource(f"{paths.show(source)}: empty, so it is not stored")
            there = self._at(target)
            if there is not None and self._is_same(fd, info, there):
                self.planned(source, target, "", size=info.st_size, same=True)
                return
            self._check_named(target, there)
            if there is None:
                self.planned(source, target, NEW, size=info.st_size)
                return
            self.replaces(target, there.type, info.st_mtime_ns, there.mtime_ns)
            self.planned(source, target, REPLACES, size=info.st_size)
        finally:
            os.close(fd)

    def _is_same(self, fd: int, info: os.stat_result, there: Entry) -> bool:
        """Return whether a put would change nothing."""
        return (
            self._compares
            and there.digest is not None
            and there.mode == info.st_mode & 0o777
            and same_time_and_size(info, there.size, there.mtime_ns)
            and _digest_of(fd, info.st_size, self.connection.check) == there.digest
        )

    def _submit_change(
        self,
        source: bytes,
        target: RemotePath,
        request: Request,
        *,
        count: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        if isinstance(request, MakeDir):
            there = self._at(target)
            if there is not None and there.type == "link":
                there = find(self.connection, target, follow=True)
            if there is None:
                self.planned(source, target, NEW, type="dir", action="mkdir")
            elif there.type != "dir":
                raise NotADirectory(f"{paths.show(target)}: exists and is not a directory")
        elif isinstance(request, MakeLink):
            there, mtime_ns = self._at(target), request.mtime_ns or 0
            self._check_named(target, there)
            if there is not None:
                self.replaces(target, there.type, mtime_ns, there.mtime_ns)
            self.planned(source, target, NEW if there is None else REPLACES, type="link")

    def _add_node(self, named: Named, target: RemotePath) -> None:
        there = self._at(target)
        self._check_named(target, there)
        if there is not None:
            self.replaces(target, there.type, 0, there.mtime_ns)
        self.planned(named.path, target, NEW if there is None else REPLACES)


class DownloadRehearsal(Rehearsal, Download):
    """A rehearsal of a get."""

    verb = "get"

    def __init__(self, connection: Connection, options: Options, listener: Listener) -> None:
        super().__init__(connection, structs.replace(options, remove_source=False), listener)
        self.same_names = SameNames(Folding(tries=False), self._has)

    def _get_tree(self, source: RemotePath, entry: Entry, target: bytes, *, follow: bool) -> None:
        _TreeRehearsal(self, source, entry, target, follow=follow).run()

    def _add_named(
        self, source: RemotePath, entry: Entry, target: bytes, named: Named | None
    ) -> None:
        _check_writable(os.path.dirname(target.rstrip(b"/")) or b".")
        if entry.type == "file":
            preflight.check_get(target, entry.size, lambda: _size_of(target), UNDONE)
        self.compare(source, entry, target, None if named is None else named.info)

    def _add_into(self, source: RemotePath, entry: Entry, target: bytes, named: Named) -> None:
        self.planned(source, target, "", size=entry.size)

    def compare(
        self, source: RemotePath, entry: Entry, target: bytes, there: os.stat_result | None
    ) -> None:
        """Report what would be done with a file or link."""
        if entry.type == "other":
            raise NotRegular(f"{paths.show(source)}: not a regular file, directory or link")
        size = entry.size if entry.type == "file" else 0
        if there is None:
            self.planned(source, target, NEW, type=entry.type, size=size)
            return
        kind = beneath.entry_type(there.st_mode)
        self.replaces(target, kind, entry.mtime_ns, there.st_mtime_ns)
        same = self._is_same(entry, target, there)
        why = "" if same else REPLACES
        self.planned(source, target, why, type=entry.type, size=size, same=same)

    def _is_same(self, entry: Entry, target: bytes, there: os.stat_result) -> bool:
        """Return whether a get would find the file unchanged."""
        if (
            not self.options.resume
            or entry.type != "file"
            or entry.digest is None
            or not stat.S_ISREG(there.st_mode)
            or stat.S_IMODE(there.st_mode) != entry.mode & 0o777
            or not same_time_and_size(there, entry.size, entry.mtime_ns)
        ):
            return False
        fd = os.open(target, OPEN_SOURCE)
        try:
            return _digest_of(fd, entry.size, self.connection.check) == entry.digest
        finally:
            os.close(fd)


class _TreeRehearsal(TreeDownload):
    """A rehearsal of getting a tree."""

    _download: DownloadRehearsal

    def run(self) -> None:
        download, target = self._download, self._target
        self._choose()
        with closing(Spool(Page)) as listing:
            files, size = self._list(listing, digest=os.path.isdir(target))
            download.announce(files, size)
            preflight.check_get(target, size, lambda: self._here(listing), UNDONE)
            _check_writable(target)
            if not os.path.isdir(target):
                self._make(self._source, target)
            for page in listing:
                above = checked_parts(page.directory) if page.directory else ()
                for entry in page.entries:
                    download.go_on()
                    download.connection.check()
                    self._look(b"/".join((*above, *checked_parts(entry.path))), entry)

    def _make(self, source: RemotePath, target: bytes) -> None:
        if os.path.lexists(target):
            raise NotADirectory(f"{paths.show(target)}: exists and is not a directory")
        self._download.planned(source, target, NEW, type="dir", action="mkdir")

    def _look(self, path: bytes, entry: Entry) -> None:
        source, target = paths.child(self._source, path), paths.child(self._target, path)
        there = _look_at(target)
        try:
            if entry.type != "dir":
                self._download.compare(source, entry, target, there)
            elif there is None or not stat.S_ISDIR(there.st_mode):
                self._make(source, target)
        except (OSError, CommandError) as error:
            self._download.fail(source, target, error)


def _look_at(path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _size_of(path: bytes) -> int:
    there = _look_at(path)
    return 0 if there is None or not stat.S_ISREG(there.st_mode) else there.st_size


def _check_writable(path: bytes) -> None:
    """Raise Forbidden if nothing may be created in a local directory.

    If it does not exist, the nearest existing one above it is checked.
    """
    existing = os.path.abspath(path)
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        raise Forbidden(f"{paths.show(existing)}: permission denied")
