"""The remote tree of a sync, as it is compared.

Lives here: its listing, which is asked for once; and what is asked besides: .ftpignore files and
digests.
Lives elsewhere: taking pages ahead (transfer/listing.py), what is found there (diff.py, policy.py).

The server answers in order: what is asked besides waits for all of the listing.
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
"""Things between two looks at what the server has sent. A power of two."""

_Item = TypeVar("_Item")


class RemoteReader:
    """Reads the remote tree; ``follow``: through its links."""

    def __init__(self, connection: Connection, route: Route, *, follow: bool = False) -> None:
        self._follow = follow
        self.connection = connection
        self._route = route
        self._listing: Listing | None = None

    @contextmanager
    def listed(self, *, digest: bool) -> Iterator[Listing]:
        """The listing of all of it.

        Args:
            digest: With the digests of files, which the server computes on the way.
        """
        request = List(self._route.remote, recursive=True, follow=self._follow, digest=digest)
        self._listing = Listing(self.connection, request)
        with closing(self._listing):
            if digest:
                self._listing.finish()
            yield self._listing

    def poll(self) -> None:
        """Take what the server has sent. Raises Interrupted."""
        if self._listing is None:
            self.connection.check()
        else:
            self._listing.poll()

    def polling(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, with a look now and then at what the server has sent."""
        for number, item in enumerate(items):
            if not number & (POLL_EVERY - 1):
                self.poll()
            yield item

    def settle(self) -> None:
        """Have the listing sent to its end, so that what is asked next is answered."""
        if self._listing is not None:
            self._listing.finish()

    def rules(self, directory: bytes, entries: Table[Entry]) -> bytes:
        """The .ftpignore file of a directory; nothing where there is none.

        Args:
            entries: What is in the directory.

        Raises:
            CommandError: It can't be had.
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
        """Ask for the digests of files that the listing told none of; by their names."""
        asked: dict[bytes, Call] = {}
        for entry in entries:
            if entry.digest is None:
                call = asked[entry.path] = Call()
                path = self._route.remote_path(join(directory, entry.path))
                self.connection.submit(call, Hash(path))
        return asked

    def digest_of(self, entry: Entry, asked: dict[bytes, Call]) -> bytes:
        """A file's digest, as it was told or is answered. Raises CommandError."""
        if entry.digest is not None:
            return entry.digest
        call = asked[entry.path]
        self.connection.wait_for(call)
        if call.error is not None:
            raise call.error
        assert isinstance(call.reply, Hashed)
        return call.reply.digest


class _Fetch(GetCall):
    """A small file into memory."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def on_data(self, data: memoryview) -> None:
        if len(self.data) <= MAX_IGNORE_FILE:
            self.data += data
