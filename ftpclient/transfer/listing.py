"""Listings: the entry at a remote path, or the pages of a tree.

Lives here: requesting them; checking pages; receiving pages at any time, and storing them on disk
if they are many, or handing them on as they arrive.
Lives elsewhere: what a listing is used for (client.py, the transfers, sync/diff.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.transfer.placing import checked_parts
from ftpclient.transfer.spool import Spool, SpoolFull, Table
from ftpwire import paths
from ftpwire.errors import BadMessage, NotADirectory, NotFound
from ftpwire.messages import Entry, List, Page, Problem, Stat
from ftpwire.paths import RemotePath

_AHEAD = 64
"""Pages kept in memory before the rest goes to disk."""


def checked_page(page: Page) -> Page:
    """Return the page, after checking that every name in it is a single component.

    Raises:
        BadMessage: A name or link in it is not valid.
    """
    if page.directory:
        checked_parts(page.directory)
    # the fast path: most pages are valid, and a long listing has many
    if not paths.are_names([entry.path for entry in page.entries]):
        _check_names(page)
    for entry in [one for one in page.entries if one.type == "link"]:
        if entry.target is None or b"\0" in entry.target:
            raise BadMessage(f"the server sent an unusable link: {paths.show(entry.path)}")
    for problem in page.problems:
        if problem.path and not paths.is_name(problem.path):
            raise BadMessage(f"the server sent an unusable name: {paths.show(problem.path)}")
    return page


def _check_names(page: Page) -> None:
    for entry in page.entries:
        name = entry.path
        if not paths.is_name(name) and (name or page.directory):
            checked_parts(name or b"..")
            raise BadMessage(f"the server sent an unusable name: {paths.show(name)}")


class Listing(Call):
    """A listing being received. Iterate once; call ``poll`` during long work between two pages.

    The server closes the connection if the client reads nothing for a minute, and a slow local
    disk may need longer than that for one directory.
    """

    streams = True
    reads_only = True

    def __init__(self, connection: Connection, request: List) -> None:
        super().__init__()
        self._connection = connection
        self._waiting: deque[Page] = deque()
        self._spilled: Spool[Page] | None = None
        self._closed = False
        self._full: SpoolFull | None = None
        connection.submit(self, request)

    def on_reply(self, reply: Page) -> bool:
        if not self._closed:
            checked_page(reply)
            if self._spilled is None and len(self._waiting) >= _AHEAD:
                self._spilled = Spool(Page)
            if self._spilled is None:
                self._waiting.append(reply)
            else:
                try:
                    self._spilled.add(reply)
                except SpoolFull as error:  # raised later, in the code that iterates
                    self._full = error
                    self._closed = True
                    self._connection.cancel_later(self)
        return False

    def __iter__(self) -> Iterator[Page]:
        while True:
            self._check_full()
            while self._waiting:
                yield self._waiting.popleft()
            if self._spilled is not None:
                # pages that arrive while the spool is read are newer, and wait in memory again
                spool, self._spilled = self._spilled, None
                try:
                    yield from spool
                finally:
                    spool.close()
            elif self.done:
                break
            else:
                self._connection.pump()
        if self.error is not None:
            raise self.error

    def directories(self) -> Iterator[tuple[bytes, Table[Entry], Table[Problem]]]:
        """Iterate over whole directories, however many pages each one has.

        Yields:
            Its path, its entries by name, and its problems by name. The tables are closed when
            the next directory is requested.
        """
        pages = iter(self)
        page = next(pages, None)
        while page is not None:
            path = page.directory
            following = None
            with closing(Table(Entry)) as entries, closing(Table(Problem)) as problems:
                while True:
                    entries.update({entry.path: entry for entry in page.entries})
                    problems.update({problem.path: problem for problem in page.problems})
                    if page.complete:
                        break
                    self.poll()
                    following = next(pages, None)
                    if following is None or following.directory != path:
                        break
                    page, following = following, None
                yield path, entries, problems
            page = following or next(pages, None)

    def poll(self) -> None:
        """Receive what has arrived, without waiting. Raises Interrupted."""
        self._check_full()
        if self.done:
            self._connection.check()
        else:
            self._connection.poll()

    def finish(self) -> None:
        """Wait for the rest of the listing, so that the connection is free again."""
        while not (self.done or self._full):
            self._connection.pump()
        self._check_full()

    def _check_full(self) -> None:
        if self._full is not None:
            raise self._full

    def close(self) -> None:
        """Discard the pages that were not iterated over."""
        self._closed = True
        self._waiting.clear()
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None


class _ListCall(Call):
    """A listing being received.

    Attributes:
        pages: Pages that have arrived and were not taken yet.
    """

    streams = True
    reads_only = True

    def __init__(self) -> None:
        super().__init__()
        self.pages: deque[Page] = deque()
        self._is_wanted = True

    def on_reply(self, reply: Page) -> bool:
        checked_page(reply)
        if self._is_wanted:
            self.pages.append(reply)
        return False

    def let_go(self) -> None:
        self._is_wanted = False
        self.pages.clear()


def list_ahead(connection: Connection, request: List) -> None:
    """Send the request for a listing that `list_pages` takes later, if it is needed.

    It is sent along with another request, whose reply decides that, to save a round trip.
    """
    connection.submit_ahead(_ListCall(), request)


def list_pages(connection: Connection, request: List) -> Iterator[Page]:
    """Iterate over the pages of a listing as they arrive. Raises the listing's error."""
    call = connection.take_ahead(request)
    if call is None:
        call = _ListCall()
        connection.submit(call, request)
    assert isinstance(call, _ListCall)
    try:
        while True:
            while call.pages:
                yield call.pages.popleft()
            if call.done:
                break
            connection.pump()
    finally:
        if not call.done:
            call.let_go()
            connection.cancel_later(call)
    if call.error is not None:
        raise call.error


def to_fetch(path: RemotePath, follow: bool) -> Stat:
    """Return the request to send about a path before it is fetched."""
    return Stat(path, follow, digest=True)


def find(
    connection: Connection, path: RemotePath, *, follow: bool = False, digest: bool = False
) -> Entry | None:
    """Return the entry at a remote path, or None if there is none."""
    try:
        reply = connection.ask(Stat(path, follow, digest))
    except (NotFound, NotADirectory):
        return None
    return reply.entry
