"""Kept uploads: what the server keeps of interrupted uploads until they are resumed.

Lives here: listing and dropping them.
Lives elsewhere: resuming one (file_upload.py), showing them (cli/commands/kept.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ftpclient.connection.connection import Connection
from ftpclient.transfer.streamed import replies
from ftpwire.errors import ProtocolError
from ftpwire.messages import (
    KEPT,
    DropKept,
    KeptDropped,
    KeptUpload,
    ListKept,
)
from ftpwire.paths import RemotePath


def kept_uploads(connection: Connection) -> Iterator[KeptUpload]:
    """Iterate over the account's kept uploads. Raises ProtocolError if the server is too old."""
    _need(connection)
    for reply in replies(connection, ListKept()):
        yield from reply.uploads


def drop(connection: Connection, path: RemotePath | None) -> KeptDropped:
    """Drop the kept uploads of a path, or all. Raises NotFound, Busy, ProtocolError (as above)."""
    _need(connection)
    return connection.ask(DropKept(path))


def _need(connection: Connection) -> None:
    if KEPT not in connection.server.features:
        raise ProtocolError("this server is too old to list kept uploads")
