"""Downloads of files to their target paths, one after another.

Lives here: which local files may be replaced, what is here already in whole or in part, trying
again after a file changed.
Lives elsewhere: what is done with the received bytes (file_call.py, fetch_pieces.py), trees
(tree_download.py), sources that the user named (download.py).
"""

from __future__ import annotations

from typing import Any

from msgspec import structs

from ftpclient.connection.connection import Connection
from ftpclient.transfer import job
from ftpclient.transfer.calls import asks_for_holes
from ftpclient.transfer.file_call import Contents, FileCall, Item
from ftpclient.transfer.folding import Folding, SameNames
from ftpclient.transfer.get_files import GetFilesRuns, Wanted
from ftpclient.transfer.job import Options, Stopped, Transfer, same_time_and_size
from ftpclient.transfer.listing import find
from ftpclient.transfer.local_modes import withheld
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.removal import Fetched, remove_fetched
from ftpclient.transfer.report import Listener
from ftpwire import paths
from ftpwire.errors import (
    AlreadyExists,
    BadMessage,
    Cancelled,
    CommandError,
    ConnectionLost,
    DiskFull,
    FtpError,
    NotNewer,
    NotRegular,
    SourceChanged,
    from_oserror,
)
from ftpwire.messages import Entry, Get, Sent, SentFile
from ftpwire.paths import Parts, RemotePath

_REMOVED_AT_ONCE = 64
"""Number of received files to collect before the server is asked to remove them."""


class FileDownload(Transfer):
    """A download of files and links.

    Attributes:
        goes: True to remove the next file from the server after it has arrived.
    """

    writes_here = True

    def __init__(
        self,
        connection: Connection,
        options: Options,
        listener: Listener,
        parent: FileDownload | None = None,
    ) -> None:
        super().__init__(connection, options, listener, parent)
        self._own_trees: dict[bytes, LocalTree] = {}
        """The local trees of a worker: handles are not shared between threads."""
        self.goes = False
        self._fetched: list[Fetched] = []
        """Files that have arrived, and are to be removed from the server."""
        self._changed: list[tuple[Item, bool, Contents | None, bool]] = []
        """Files that changed while the server read them, and are to be requested again."""
        self._runs = self._new_runs()
        """Small files, which are requested together."""
        self._reported_withheld = False
        folding = Folding() if parent is None else parent.same_names.folding
        self.same_names: SameNames = SameNames(folding, self._has)

    def _new_runs(self) -> GetFilesRuns:
        return GetFilesRuns(self, self.connection, self._get_one, self._not_placed, self._is_placed)

    def send_collected(self) -> None:
        if not self._runs.has_some:
            return
        if self._parent is not None and self._parent.listener.enough:
            self._runs.drop()  # not requested yet
            return
        try:
            (self._parent or self).go_on()
        except Stopped:
            self._runs.drop()  # not requested yet
            raise
        self._runs.send()

    def drop_collected(self) -> None:
        """Discard the files that were collected and not requested yet."""
        self._runs.drop()

    def settle(self) -> None:
        super().settle()
        while self._changed or self._fetched or self._runs.singly:
            self._ask_again()
            self._remove_fetched()
            super().settle()

    def _remove_fetched(self) -> None:
        fetched, self._fetched = self._fetched, []
        if fetched:
            remove_fetched(self.connection, fetched, self.not_removed)

    def not_removed(self, source: RemotePath, error: FtpError) -> None:
        """Report that a file or link that arrived could not be removed from the server."""
        self.end(source, b"", 0, error=error)

    def _note_fetched(self, fetched: Fetched) -> None:
        """Note that something has arrived, so that it is removed from the server.

        Not from here, because replies may be being processed: with the next file that is added.
        """
        self._fetched.append(fetched)

    def go_on_with(self, connection: Connection) -> None:
        super().go_on_with(connection)
        self._changed.clear()  # everything is added again
        self._fetched.clear()
        self._runs = self._new_runs()

    def give_back(self) -> None:
        for tree in self._own_trees.values():
            tree.close()
        self._own_trees.clear()

    def get_for(
        self,
        parent: FileDownload,
        top: bytes,
        source: RemotePath,
        entry: Entry,
        shown: bytes,
        parts: Parts,
        *,
        follow: bool,
        goes: bool = False,
        new: bool = False,
    ) -> None:
        """Get one file of a tree that the parent is listing.

        Args:
            top: The local directory of the tree.
            follow: True if that may be a link.
            goes: True to remove the file from the server after it has arrived.
            new: True if its directory was made by this transfer, so that nothing is there yet.
        """
        if parent.listener.enough:
            return
        parent.go_on()
        tree = self._own_trees.get(top)
        try:
            if tree is None:
                durable = self.options.remove_source
                tree = self._own_trees[top] = LocalTree(top, follow=follow, durable=durable)
            self.goes = goes
            self.add_one(Item(source, shown, tree, parts), entry, new=new)
        except (OSError, CommandError) as error:
            self.fail(source, shown, error, tree)

    def add_below(self, item: Item, entry: Entry) -> None:
        """Get a remote file or link to a path below a tree. Keep the tree open until ``finish``."""
        try:
            self.add_one(item, entry)
        except (OSError, CommandError) as error:
            self.fail(item.source, item.shown, error, item.tree)

    def fail(
        self,
        source: RemotePath,
        shown: bytes,
        error: OSError | CommandError,
        tree: LocalTree | None = None,
        *,
        named: bool = False,
    ) -> None:
        """Report something that cannot be downloaded.

        Args:
            named: True if the user named it, so that skipping it counts as a failure.
        """
        local = isinstance(error, (OSError, DiskFull))
        if isinstance(error, OSError) and tree is not None:
            error = tree.failure(error, shown)
        elif isinstance(error, OSError):
            error = from_oserror(error, paths.show(shown))
        skipped = isinstance(error, NotRegular) and not named
        self.end(source, shown, 0, error=error, skipped=skipped, local=local)

    def report_withheld(self, directory: bytes) -> None:
        """Remark that a directory didn't get the server's whole mode: once, for the first one."""
        if not self._reported_withheld:
            self._reported_withheld = True
            self.listener.remark(withheld(directory))

    def _has(self, path: RemotePath) -> bool:
        """Return whether a remote path exists."""
        return find(self.connection, path) is not None

    def may_replace(self, item: Item, *, named: bool = False) -> bool:
        """Return whether something that is at the target when the file arrives may be replaced.

        Raises:
            AlreadyExists: It is another file of the server, and both have the same name here.
        """
        if self.options.overwrite == "never":
            return False
        return named or self.same_names.may_replace(*item)

    def add_one(
        self,
        item: Item,
        entry: Entry,
        contents: Contents | None = None,
        *,
        named: bool = False,
        new: bool = False,
    ) -> None:
        """Get a file or link.

        Args:
            contents: The directory to notify when the file has ended, if any.
            named: True if the user named it.
            new: True if its directory was made by this transfer, so that nothing is there yet.

        Raises:
            OSError, CommandError: The download could not be started.
        """
        if self._changed or self._runs.singly:
            self._ask_again()
        if len(self._fetched) >= _REMOVED_AT_ONCE:
            self._remove_fetched()
        if entry.type == "other":
            source = paths.show(item.source)
            raise NotRegular(f"{source}: not a regular file, directory or link")
        if self.options.overwrite != "always":
            self._check_older(item, entry)
        if entry.type == "link":
            self._make_link(item, entry, named)
            return
        if self.options.resume and not new and self._is_here(item, entry):
            return
        if named:
            item.tree.check_replaceable(item.parts)
        replace = self.may_replace(item, named=named)
        if not named and self._runs.takes(entry.size):
            if contents is not None:
                contents.open += 1
            self._runs.add(Wanted(item, entry.size, replace, contents, self.goes, new))
            return
        pool = self.workers.for_pieces(entry.size, self.connection)
        if pool is not None:
            self._get_in_pieces(pool, item, replace)
            return
        call = FileCall(self, item, replace, self._file_ended, contents, goes=self.goes)
        request = call.request(entry)
        if contents is not None:
            contents.open += 1
        try:
            self.connection.submit(call, request)
        finally:
            call.not_sent()

    def _check_older(self, item: Item, entry: Entry) -> None:
        """Raise AlreadyExists or NotNewer if the local file is to be kept."""
        there = item.tree.stat(item.parts)
        if there is None:
            return
        if self.options.overwrite == "never":
            raise AlreadyExists(f"{paths.show(item.shown)}: exists")
        if there.st_mtime_ns >= entry.mtime_ns:
            raise NotNewer(f"{paths.show(item.shown)}: the existing file is not older")

    def _make_link(self, item: Item, entry: Entry, named: bool) -> None:
        if entry.target is None or b"\0" in entry.target:
            raise BadMessage("the server sent an unusable link")
        replace = self.may_replace(item, named=named)
        try:
            item.tree.make_link(item.parts, entry.target, entry.mtime_ns, replace=replace)
        except AlreadyExists as error:
            raise item.taken(error, self.options.overwrite) from None
        self.end(item.source, item.shown, 0)
        if self.goes:
            self._note_fetched(Fetched(item.source, "link", 0, entry.mtime_ns, target=entry.target))

    def _is_here(self, item: Item, entry: Entry) -> bool:
        """Return whether the same bytes are here already, from an earlier try."""
        if entry.digest is None:
            return False
        there = item.tree.stat(item.parts)
        if (
            there is None
            or there.st_mode & 0o7777 != entry.mode & 0o777
            or not same_time_and_size(there, entry.size, entry.mtime_ns)
        ):
            return False
        with item.tree.reading(item.parts) as fd:
            if self.hash_local(fd, entry.size) != entry.digest:
                return False
        self.advanced(entry.size)
        if self.goes:
            item.tree.keep(item.parts)
        self.end(item.source, item.shown, entry.size, digest=entry.digest, unchanged=True)
        if self.goes:
            self._note_fetched(
                Fetched(item.source, "file", entry.size, entry.mtime_ns, entry.digest)
            )
        return True

    def _get_in_pieces(self, pool: ConnectionPool[Any], item: Item, replace: bool) -> None:
        from ftpclient.transfer.fetch_pieces import Fetch

        source, shown, tree, parts = item

        def fetch_once(*, resume: bool) -> None:
            partial = PartialFile(tree, parts, replace=replace, resume=resume)
            fetch = Fetch(self, pool, source, shown, partial)
            try:
                digest = fetch.run()
            except AlreadyExists as error:
                raise item.taken(error, self.options.overwrite) from None
            except ConnectionLost as error:
                self.end(source, shown, fetch.size, error=error)
                raise
            remark = job.grew(fetch.size) if fetch.grew else None
            self.end(source, shown, fetch.size, digest=digest, remark=remark)
            if self.goes:
                self._note_fetched(Fetched(source, "file", fetch.size, fetch.mtime_ns, digest))

        try:
            fetch_once(resume=self.options.resume)
        except SourceChanged:
            self.tries_again(source)
            fetch_once(resume=False)

    def _file_ended(self, call: FileCall, digest: bytes | None) -> None:
        """Report a file that has arrived or failed.

        One that changed while the server read it is requested again, but together with the next
        file: not from here, because replies are being processed.
        """
        item, failure = call.item, call.failure
        if isinstance(call.error, SourceChanged) and not (call.again or failure):
            self._changed.append((item, call.replace, call.contents, call.goes))
            return
        size = 0 if call.info is None else call.info.size
        error = call.error
        if error is None or isinstance(error, Cancelled):  # cancelled because it failed here
            error = failure or error
        remark = job.grew(size) if isinstance(call.ending, Sent) and call.ending.grew else None
        self.end(
            item.source,
            item.shown,
            size,
            digest=digest,
            error=error,
            local=error is failure,
            remark=remark,
        )
        if error is None and call.goes and call.info is not None:
            self._note_fetched(Fetched(item.source, "file", size, call.info.mtime_ns, digest))
        if call.contents is not None:
            call.contents.ended()

    def _get_one(self, wanted: Wanted) -> None:
        """Get a small file by itself: it was the only one, or it differs from its listing."""
        item, _, replace, contents, goes, _ = structs.astuple(wanted)
        call = FileCall(self, item, replace, self._file_ended, contents, goes=goes)
        try:
            asks = asks_for_holes(self.connection)
            self.connection.submit(call, Get(item.source, holes=asks))
        finally:
            call.not_sent()

    def _not_placed(self, wanted: Wanted, error: OSError | CommandError) -> None:
        """Report a file that arrived in a run but could not be written."""
        item = wanted.item
        if isinstance(error, OSError):
            error = item.tree.failure(error, item.shown)
        self.end(item.source, item.shown, wanted.size, error=error, local=True)
        if wanted.contents is not None:
            wanted.contents.ended()

    def _is_placed(self, wanted: Wanted, sent: SentFile) -> None:
        """Note that a file that arrived in a run is to be removed from the server."""
        source = wanted.item.source
        self._note_fetched(Fetched(source, "file", wanted.size, sent.mtime_ns, sent.digest))

    def _ask_again(self) -> None:
        while self._runs.singly:
            self._get_one(self._runs.singly.pop())
        while self._changed:
            item, replace, contents, goes = self._changed.pop()
            self.tries_again(item.source)
            call = FileCall(self, item, replace, self._file_ended, contents, again=True, goes=goes)
            try:
                asks = asks_for_holes(self.connection)
                request = Get(item.source, holes=asks, in_trash=self.options.in_trash)
                self.connection.submit(call, request)
            finally:
                call.not_sent()
