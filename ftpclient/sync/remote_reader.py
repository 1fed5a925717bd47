"""Reading the remote tree during the comparison of a sync.

Lives here: its listing, which is requested once; .ftpignore files and digests, which are requested
separately.
Lives elsewhere: receiving pages ahead of their use (transfer/listing.py), processing what is found
(diff.py, policy.py).

The server replies in order: separate requests wait for the end of the listing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from typing import TypeVar

from ftpclient.connection.connection import Connection
from ftpclient.connection.protocol import Call
from ftpclient.sync.directories import join
from ftpclient.sync.plan import Route
from ftpclient.transfer.calls import GetCall, check_digest
from ftpclient.transfer.listing import Listing
from ftpclient.transfer.patterns import IGNORE_FILE, MAX_IGNORE_FILE, bounded
from ftpclient.transfer.spool import Table
from ftpwire import digests
from ftpwire.messages import Entry, Get, Hash, Hashed, List, Sent

POLL_EVERY = 1024
"""Number of entries after which received pages are processed. A power of two."""

_Item = TypeVar("_Item")


class RemoteReader:
    """Reads the remote tree. ``follow``: True to follow its links."""

    def __init__(self, connection: Connection, route: Route, *, follow: bool = False) -> None:
        self._follow = follow
        self.connection = connection
        self._route = route
        self._listing: Listing | None = None

    @contextmanager
    def listed(
        self, path: bytes = b"", *, recursive: bool = True, digest: bool = False
    ) -> Iterator[Listing]:
        """Request a listing, by default of the whole tree.

        Args:
            path: The directory to list, relative to the root.
            recursive: False to list only that directory.
            digest: True to include digests of files; the server computes missing ones.
        """
        remote = self._route.remote_path(path)
        request = List(remote, recursive=recursive, follow=self._follow, digest=digest)
        self._listing = Listing(self.connection, request)
        with closing(self._listing):
            if digest:
                self._listing.finish()
            yield self._listing

    def poll(self) -> None:
        """Receive what the server has sent, without waiting. Raises Interrupted."""
        if self._listing is None:
            self.connection.check()
        else:
            self._listing.poll()

    def polling(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """Iterate over the items, calling ``poll`` regularly."""
        for number, item in enumerate(items):
            if not number & (POLL_EVERY - 1):
                self.poll()
            yield item

    def settle(self) -> None:
        """Receive the rest of the listing, so that the next request is answered."""
        if self._listing is not None:
            self._listing.finish()

    def rules(self, directory: bytes, entries: Table[Entry]) -> bytes:
        """Return the contents of a directory's .ftpignore file; empty if there is none.

        Args:
            entries: The entries of the directory.

        Raises:
            CommandError: It cannot be read.
        """
        entry = entries.get(IGNORE_FILE)
        if entry is None or entry.type != "file":
            return b""
        self.settle()
        call = _Fetch()
        path = self._route.remote_path(join(directory, IGNORE_FILE))
        self.connection.submit(call, Get(path))
        self.connection.wait_for(call)
        if call.error is not None:
            raise call.error
        assert isinstance(call.ending, Sent)
        data = bounded(bytes(call.data))
        check_digest(path, call.ending.digest, digests.digest(data), self.connection)
        return data

    def ask_digests(self, directory: bytes, entries: Iterable[Entry]) -> dict[bytes, Call]:
        """Request the digests of files that the listing has without one; return calls by name."""
        calls: dict[bytes, Call] = {}
        for entry in entries:
            if entry.digest is None:
                call = calls[entry.path] = Call()
                path = self._route.remote_path(join(directory, entry.path))
                self.connection.submit(call, Hash(path))
        return calls

    def digest_of(self, entry: Entry, calls: dict[bytes, Call]) -> bytes:
        """Return a file's digest, from the listing or a call's reply. Raises CommandError."""
        if entry.digest is not None:
            return entry.digest
        call = calls[entry.path]
        self.connection.wait_for(call)
        if call.error is not None:
            raise call.error
        assert isinstance(call.reply, Hashed)
        return call.reply.digest


class _Fetch(GetCall):
    """A small file being received into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def on_data(self, data: memoryview) -> None:
        if len(self.data) <= MAX_IGNORE_FILE:
            self.data += data
