"""The files of a remote tree, looked up by path, without keeping them in memory.

Lives here: a temporary table on disk.
Lives elsewhere: listing (listing.py), deciding what need not be sent again (file_upload.py).
"""

from __future__ import annotations

import os
import threading

from ftpclient.transfer.spool import TemporaryTable
from ftpwire import paths
from ftpwire.messages import Entry, Page
from ftpwire.paths import RemotePath


class RemoteIndex:
    """Remote files that have a digest, by path. Thread-safe: ``_lock`` guards ``_table``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._table = TemporaryTable(
            "path BLOB PRIMARY KEY, size INT, mode INT, mtime_ns INT, digest BLOB"
        )

    def add(self, root: RemotePath, page: Page) -> None:
        """Add the entries of a page of a listing of ``root``. Raises SpoolFull."""
        directory = paths.child(root, page.directory) if page.directory else root
        rows: list[tuple[object, ...]] = [
            (paths.child(directory, e.path), e.size, e.mode, e.mtime_ns, e.digest)
            for e in page.entries
            if e.digest is not None
        ]
        with self._lock:
            self._table.add(rows)

    def get(self, path: RemotePath) -> Entry | None:
        """Return the file at a path, if it has a digest."""
        with self._lock:
            row = self._table.run(
                "SELECT size, mode, mtime_ns, digest FROM item WHERE path = ?", (path,)
            ).fetchone()
        if row is None:
            return None
        size, mode, mtime_ns, digest = row
        return Entry(path, "file", size, mode, mtime_ns, None, digest)

    def has(self, path: RemotePath, info: os.stat_result, digest: bytes) -> bool:
        """Return whether a path has a file with the same bytes, mode and mtime."""
        entry = self.get(path)
        return (
            entry is not None
            and entry.digest == digest
            and entry.mode == info.st_mode & 0o777
            and entry.mtime_ns == info.st_mtime_ns
        )

    def close(self) -> None:
        """Remove the table."""
        self._table.close()
