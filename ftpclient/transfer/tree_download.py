"""The download of a tree: its directories, whose modes and times are set last.

Lives here: the order of the listing, when a directory is finished.
Lives elsewhere: getting a file (file_download.py), making directories (local_tree.py).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import closing

import msgspec
from msgspec import structs

from ftpclient.connection.connection import Connection
from ftpclient.transfer import preflight
from ftpclient.transfer.file_call import Item
from ftpclient.transfer.file_download import FileDownload
from ftpclient.transfer.job import Enough, Options
from ftpclient.transfer.listing import find, list_ahead, list_pages, to_fetch
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.path_list import looking_there
from ftpclient.transfer.placing import checked_parts
from ftpclient.transfer.removal import Apart, Fetched, remove_empty_there, remove_fetched
from ftpclient.transfer.run_size import MOST_EACH
from ftpclient.transfer.selection import Walk
from ftpclient.transfer.spool import Spool, Table
from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists, BadMessage, Cancelled, CommandError, InvalidPath
from ftpwire.messages import Entry, Failed, List, Page, Problem
from ftpwire.paths import Parts, RemotePath

UNDONE = "nothing was fetched"
"""The end of the message of a refusal before the first byte."""


class _Directory:
    """A local directory whose contents are being received. Its mode and times are set last."""

    __slots__ = (
        *("above", "below", "entry", "new", "open", "parts", "refused"),
        *("shown", "source", "tree"),
    )

    def __init__(
        self, tree: TreeDownload, parts: Parts, entry: Entry, above: _Directory | None
    ) -> None:
        self.refused: bool = above is not None and above.refused
        """True if it has the same name here as another directory: nothing in it is fetched."""
        self.new = False
        """True if this transfer made it, so that it is empty."""
        self.tree = tree
        self.parts = parts
        self.source, self.shown = tree.places_of(parts)
        """The prefixes of the names in it: on the server, and here."""
        self.entry = entry
        self.above = above
        self.below = Table(_Awaited)
        """Directories in it whose own pages have not been processed."""
        self.open = 1  # one for itself, until it was walked, and one for each entry under way
        if above is not None:
            above.open += 1

    def ended(self) -> None:
        """Note that an entry is finished; with the last one, finish the directory."""
        self.open -= 1
        if self.open:
            return
        self.tree.finish(self.parts, self.entry, refused=self.refused)
        if self.above is not None:
            self.above.ended()


class _Awaited(msgspec.Struct, frozen=True):
    """A directory that was made, and whose own pages have not been processed."""

    entry: Entry
    refused: bool
    new: bool

    def within(self, above: _Directory, name: bytes) -> _Directory:
        """Return the directory, to process its pages."""
        found = _Directory(above.tree, (*above.parts, name), self.entry, above)
        found.refused, found.new = self.refused, self.new
        return found


class _Walked(msgspec.Struct, frozen=True):
    """A directory to be finished after all files have arrived."""

    parts: Parts
    entry: Entry
    refused: bool


def _sync_directory(path: bytes) -> None:
    """Sync the names in a directory to disk. Raises OSError."""
    fd = os.open(path, beneath.OPEN_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory and name else directory or name


def ask_ahead(connection: Connection, options: Options, source: RemotePath, target: bytes) -> None:
    """Send the first requests of a `TreeDownload` of ``source`` together, to save a round trip.

    These are the lookup, as by `to_fetch`, and the listing. Sends nothing if the download would
    begin with other requests.
    """
    if (
        not options.recursive
        or options.selection.only is not None
        or options.remove_source
        or options.in_trash is not None
    ):
        return
    question = to_fetch(source, follow=not options.links)
    if not connection.is_ahead(question):
        connection.ask_ahead(question)
    list_ahead(connection, _listing(options, source, True, digest=_compares(target)))


def _listing(options: Options, place: RemotePath, recursive: bool, *, digest: bool) -> List:
    return List(place, recursive, options.copy_links, digest, options.in_trash)


def _compares(target: bytes) -> bool:
    """Return whether there are local files to compare with the digests stored by the server."""
    return os.path.isdir(target)


class TreeDownload:
    """The download of one tree, from its listing to the last of its directories.

    Args:
        download: Gets the files.
        root: The entry at ``source``.
        target: The local directory to create or write into.
        follow: True if that may be a link to a directory.
        stays: Remote directories that are not removed even when they become empty.
    """

    def __init__(
        self,
        download: FileDownload,
        source: RemotePath,
        root: Entry,
        target: bytes,
        *,
        follow: bool,
        stays: Collection[bytes] = (),
    ) -> None:
        self._stays = stays
        self._emptied: Spool[bytes]
        """Remote directories that may have become empty, each after those in it."""
        self._download = download
        self._source = source
        self._root = root
        self._target = target
        self._follow = follow
        self._tree: LocalTree
        self._made_root = False
        """True if this transfer made the target directory; else its mode is left to the user."""

    def run(self) -> None:
        """Get the tree. Raises OSError, CommandError if it cannot be started."""
        download = self._download
        digest = _compares(self._target)
        durable = download.options.remove_source
        link = self._named_link() if durable else None
        if durable and link is None:
            Apart().check(download.connection, self._target, self._source)
        failed = download.summary.failed
        self._choose()
        with closing(Spool(bytes)) as self._emptied, closing(Spool(Page)) as listing:
            files, size = self._list(listing, digest=digest)
            download.announce(files, size)
            preflight.check_get(self._target, size, lambda: self._here(listing), UNDONE)
            download.workers.expect(size)
            try:
                os.mkdir(self._target, 0o700)
            except FileExistsError:
                pass
            else:
                self._made_root = True
            if durable:
                _sync_directory(os.path.dirname(os.path.abspath(self._target)))
            tree = LocalTree(self._target, follow=self._follow, durable=durable)
            with closing(tree) as self._tree:
                if self._made_root:
                    self._tree.begin_root(self._root.mode)
                self._get(listing)
            for path in self._emptied:
                directory = RemotePath(path)
                remove_empty_there(download.connection, directory, download.not_removed)
            download.settle()
        if link is not None and download.summary.failed == failed:
            remove_fetched(download.connection, [link], download.not_removed)
            download.settle()

    def _named_link(self) -> Fetched | None:
        """If the source is a link, return what must still be there for the link to be removed.

        The target of the link stays.
        """
        entry = find(self._download.connection, self._source)
        if entry is None or entry.type != "link":
            return None
        self._download.goes = False
        return Fetched(self._source, "link", 0, entry.mtime_ns, target=entry.target)

    def places_of(self, parts: Parts) -> tuple[bytes, bytes]:
        """Return the prefixes of the names in a directory of the tree: on the server, and here."""
        below = b"".join([part + b"/" for part in parts])
        return paths.child(self._source, below), self._target.rstrip(b"/") + b"/" + below

    def _note_emptied(self, parts: Parts) -> None:
        path = paths.child(self._source, b"/".join(parts)) if parts else self._source
        if path != paths.ROOT and path not in self._stays:
            self._emptied.add(path)

    def _get(self, listing: Spool[Page]) -> None:
        download = self._download
        with closing(Spool(_Walked)) as late:
            try:
                self._get_all(listing, late)
            except Enough:
                download.drop_collected()
                download.settle()  # files under way need the tree
                download.workers.finish()
                raise
            download.settle()
            download.workers.finish()
            for one in late:
                download.connection.check()
                self.finish(one.parts, one.entry, refused=one.refused)

    def _list(self, listing: Spool[Page], *, digest: bool) -> tuple[int, int]:
        files = size = 0
        walk = Walk(self._download.options.selection.filter(self._download.connection.check))
        for page in self._pages(walk, digest=digest):
            here = walk.enter(page.directory)
            if here is None:
                continue
            if here.active:
                entries = [entry for entry in page.entries if not here.leaves_out(entry)]
                problems = [  # mostly of directories: a problem doesn't have a type
                    one
                    for one in page.problems
                    if not (one.path and here.excludes(one.path, is_directory=True))
                ]
                page = structs.replace(page, entries=entries, problems=problems)
            for problem in page.problems:
                self._note(page.directory, problem)
            for entry in page.entries:
                if entry.type == "file":
                    files += 1
                    size += entry.size
            listing.add(page)
        return files, size

    def _pages(self, walk: Walk, *, digest: bool) -> Iterator[Page]:
        """Iterate over the pages of the tree, in the server's order.

        If only some paths are chosen: those of the directories on the way to them, and below them.
        """
        only = self._download.options.selection.only
        if only is None:
            yield from self._pages_of(b"", recursive=True, digest=digest)
            return
        todo = [b""]
        while todo:
            path = todo.pop()
            if path and not only.is_above(path):
                yield from self._pages_of(path, recursive=True, digest=digest)
                continue
            below = []
            for page in self._pages_of(path, recursive=False, digest=digest):
                found = walk.selected(path, page.entries)
                below += [_join(path, entry.path) for entry in found if entry.type == "dir"]
                yield page
            todo += reversed(below)

    def _pages_of(self, path: bytes, *, recursive: bool, digest: bool) -> Iterator[Page]:
        """Iterate over the pages of a directory, or of the whole tree below it."""
        options = self._download.options
        place = paths.child(self._source, path) if path else self._source
        request = _listing(options, place, recursive, digest=digest)
        try:
            for page in list_pages(self._download.connection, request):
                yield structs.replace(page, directory=_join(path, page.directory)) if path else page
        except CommandError as error:
            if not path:
                raise
            self._download.end(place, b"", 0, error=error)

    def _choose(self) -> None:
        """If only some paths are wanted, find out which of them exist, and report the others."""
        download = self._download
        only = download.options.selection.only
        if only is None:
            return
        follow = download.options.copy_links
        look = looking_there(download.connection, self._source, follow=follow)
        for name, error in only.choose(look):
            shown = paths.child(self._target, name)
            download.end(paths.child(self._source, name), shown, 0, error=error)

    def _note(self, directory: bytes, problem: Problem) -> None:
        above = paths.child(self._source, directory) if directory else self._source
        path = paths.child(above, problem.path) if problem.path else above
        error = Failed(problem.code, f"{paths.show(path)}: {problem.message}").to_error()
        self._download.end(path, b"", 0, error=error)

    def _here(self, listing: Spool[Page]) -> int:
        """Return how many bytes of the tree are here already, or are freed when it is replaced."""
        here = 0
        for page in listing:
            self._download.connection.check()
            above = checked_parts(page.directory) if page.directory else ()
            for entry in page.entries:
                if entry.type == "file":
                    here += preflight.here_of(self._target, (*above, *checked_parts(entry.path)))
        return here

    def _get_all(self, listing: Spool[Page], late: Spool[_Walked]) -> None:
        """Get everything in the order of the listing.

        A directory is complete when one comes that is not below it. Until its own pages come, it is
        kept in ``below`` of the directory it is in.

        Args:
            late: Gets the directories to be finished after the workers have received all files.
        """
        stack = [_Directory(self, (), self._root, None)]
        stack[0].new = self._made_root
        try:
            for page in listing:
                self._download.connection.check()
                parts = checked_parts(page.directory) if page.directory else ()
                while stack[-1].parts != parts[: len(stack[-1].parts)]:
                    self._walked(stack.pop(), late)
                here = stack[-1]
                if here.parts != parts:
                    awaited = here.below.pop(parts[-1]) if here.parts == parts[:-1] else None
                    if awaited is None:
                        raise BadMessage(
                            "the server listed a directory that is not in its parent directory"
                        )
                    here = awaited.within(here, parts[-1])
                    stack.append(here)
                for entry in page.entries:
                    self._get_entry(here, entry)
            while stack:
                self._walked(stack.pop(), late)
        finally:
            for directory in stack:
                directory.below.close()

    def _walked(self, directory: _Directory, late: Spool[_Walked]) -> None:
        """Finish a directory: all pages of it, and of those in it, were processed."""
        with closing(directory.below) as below:
            for name, awaited in below.items():  # removed while the tree was listed: no pages
                self._download.connection.check()
                self._walked_one(awaited.within(directory, name), late)
        self._walked_one(directory, late)

    def _walked_one(self, directory: _Directory, late: Spool[_Walked]) -> None:
        if self._download.workers.pool is None:
            directory.ended()
        else:
            late.add(_Walked(directory.parts, directory.entry, directory.refused))

    def _get_entry(self, here: _Directory, entry: Entry) -> None:
        download = self._download
        download.go_on()
        name = entry.path
        if not name:  # names were checked on arrival, except for the root's empty one
            checked_parts(name)
        parts = (*here.parts, name)
        if here.refused:
            if entry.type == "dir":
                here.below[name] = _Awaited(entry, True, False)
            return
        path, shown = RemotePath(here.source + name), here.shown + name
        workers, goes = download.workers, download.goes
        try:
            if len(path) > paths.MAX_PATH and entry.type != "dir":  # too long for a request
                raise InvalidPath(f"{paths.show(path[:40])}…: longer than {paths.MAX_PATH} bytes")
            if entry.type == "dir":
                here.below[name] = _Awaited(entry, False, False)
                self._make_dir(here, Item(path, shown, self._tree, parts), entry)
            elif workers.pool and not workers.for_pieces(entry.size, download.connection):
                workers.pool.give(
                    lambda worker: worker.get_for(
                        download,
                        self._target,
                        path,
                        entry,
                        shown,
                        parts,
                        follow=self._follow,
                        goes=goes,
                        new=here.new,
                    ),
                    small=entry.size <= MOST_EACH,
                )
            else:
                item = Item(path, shown, self._tree, parts)
                download.add_one(item, entry, here, new=here.new)
        except (OSError, CommandError) as error:
            download.fail(path, shown, error, self._tree)

    def _make_dir(self, here: _Directory, item: Item, entry: Entry) -> None:
        made = self._tree.make_dir(item.parts, entry.mode)
        if made:
            here.below[item.parts[-1]] = _Awaited(entry, False, True)
            return
        if self._download.options.overwrite == "never":
            return
        try:
            self._download.may_replace(item)
        except AlreadyExists:
            # nothing in it may be written into the other directory
            here.below[item.parts[-1]] = _Awaited(entry, True, False)
            raise

    def finish(self, parts: Parts, entry: Entry, *, refused: bool) -> None:
        """Set the mode and times of a directory after all of its contents have arrived."""
        try:
            if not refused:
                mode = entry.mode if parts or self._made_root else None
                if self._tree.finish_dir(parts, mode, entry.mtime_ns):
                    self._download.report_withheld(b"/".join(parts))
                if self._download.goes:
                    self._note_emptied(parts)
        except Cancelled:
            pass  # the whole transfer was aborted
        except OSError as error:
            shown = b"/".join(parts)
            if error.errno != errno.ENAMETOOLONG:  # already reported with the listing
                failure = self._tree.failure(error, shown)
                self._download.end(shown, shown, 0, error=failure, local=True)
