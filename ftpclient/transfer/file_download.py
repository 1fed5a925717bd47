"""Downloads of files to their places here, one after another.

Lives here: what may be replaced, what is here already, whole or in pieces, asking once more.
Lives elsewhere: what becomes of the bytes (file_call.py, fetch_pieces.py), trees
(tree_download.py), what was asked for by its name (download.py).
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
"""Files that are here, when the server is asked to remove them."""


class FileDownload(Transfer):
    """Files and links from the server to here.

    Attributes:
        goes: Whether the next file is removed from the server when it is here.
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
        """Of a worker: handles are not shared between threads."""
        self.goes = False
        self._fetched: list[Fetched] = []
        """What is here, and is to be removed from the server."""
        self._changed: list[tuple[Item, bool, Contents | None, bool]] = []
        """Files that changed while the server read them, and are to be asked for once more."""
        self._runs = self._new_runs()
        """Small files, which are asked for together."""
        self._told_withheld = False
        folding = Folding() if parent is None else parent.same_names.folding
        self.same_names: SameNames = SameNames(folding, self._has)

    def _new_runs(self) -> GetFilesRuns:
        return GetFilesRuns(self, self.connection, self._get_one, self._not_placed, self._is_placed)

    def send_collected(self) -> None:
        if not self._runs.has_some:
            return
        if self._parent is not None and self._parent.listener.enough:
            self._runs.drop()  # it has not begun
            return
        try:
            (self._parent or self).go_on()
        except Stopped:
            self._runs.drop()  # as above
            raise
        self._runs.send()

    def drop_collected(self) -> None:
        """Leave out what was collected, and not asked for yet."""
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
        """Something that is here could not be removed from the server."""
        self.end(source, b"", 0, error=error)

    def _note_fetched(self, fetched: Fetched) -> None:
        """Something is here for good. It is not removed from here, where answers may be being
        handed out, but when the next file is asked for."""
        self._fetched.append(fetched)

    def go_on_with(self, connection: Connection) -> None:
        super().go_on_with(connection)
        self._changed.clear()  # all of it is added again
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
        """Get one file of a tree that the parent has met.

        Args:
            top: Where the tree goes here.
            follow: Whether that may be a link.
            goes: Whether it is removed from the server then.
            new: Its directory was made for it: nothing is expected there.
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
        """Get a remote file or link to a place below a tree, which is closed after ``finish``."""
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
        """Something can't be had.

        Args:
            named: It was asked for by its name, so that leaving it out is a failure.
        """
        local = isinstance(error, (OSError, DiskFull))
        if isinstance(error, OSError) and tree is not None:
            error = tree.failure(error, shown)
        elif isinstance(error, OSError):
            error = from_oserror(error, paths.show(shown))
        skipped = isinstance(error, NotRegular) and not named
        self.end(source, shown, 0, error=error, skipped=skipped, local=local)

    def tell_withheld(self, directory: bytes) -> None:
        """A directory didn't get all of the server's mode. Told once, of the first."""
        if not self._told_withheld:
            self._told_withheld = True
            self.listener.remark(withheld(directory))

    def _has(self, path: RemotePath) -> bool:
        """Whether something is at a remote path."""
        return find(self.connection, path) is not None

    def may_replace(self, item: Item, *, named: bool = False) -> bool:
        """Whether something that is at a place when the file comes may be replaced.

        Raises:
            AlreadyExists: It is another of the server's files, whose name is the same here.
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
            contents: Hears of it while it is on its way.
            named: It was asked for by its name.
            new: Its directory was made for it: nothing is expected there.

        Raises:
            OSError, CommandError: It was not begun.
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
        """Raises AlreadyExists, NotNewer when what is here is to be kept."""
        there = item.tree.stat(item.parts)
        if there is None:
            return
        if self.options.overwrite == "never":
            raise AlreadyExists(f"{paths.show(item.shown)}: exists")
        if there.st_mtime_ns >= entry.mtime_ns:
            raise NotNewer(f"{paths.show(item.shown)}: is as new")

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
        """Whether the same bytes are here already, from an earlier try."""
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
        """A file has come in, or failed. One that changed while the server read it is asked for
        once more, when the next file is: not from here, where answers are being handed out."""
        item, failure = call.item, call.failure
        if isinstance(call.error, SourceChanged) and not (call.again or failure):
            self._changed.append((item, call.replace, call.contents, call.goes))
            return
        size = 0 if call.info is None else call.info.size
        error = call.error
        if error is None or isinstance(error, Cancelled):  # by this side, when it failed here
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
        """Get a small file by itself: there were no others, or it is not as it was listed."""
        item, _, replace, contents, goes, _ = structs.astuple(wanted)
        call = FileCall(self, item, replace, self._file_ended, contents, goes=goes)
        try:
            asks = asks_for_holes(self.connection)
            self.connection.submit(call, Get(item.source, holes=asks))
        finally:
            call.not_sent()

    def _not_placed(self, wanted: Wanted, error: OSError | CommandError) -> None:
        """A file that came with others can't be placed."""
        item = wanted.item
        if isinstance(error, OSError):
            error = item.tree.failure(error, item.shown)
        self.end(item.source, item.shown, wanted.size, error=error, local=True)
        if wanted.contents is not None:
            wanted.contents.ended()

    def _is_placed(self, wanted: Wanted, sent: SentFile) -> None:
        """A file that came with others is here for good, and is to be removed from the server."""
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
