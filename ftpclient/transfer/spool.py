"""Long listings in constant memory: kept on disk once they are large.

Lives here: a queue of messages, a table of them by name, and a sort, all of which use a temporary
file beyond a limit; a limit for lists that must be in memory as a whole.
"""

from __future__ import annotations

import errno
import heapq
import io
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any, Generic, TypeVar

import msgspec

from ftpwire.errors import DiskFull, FtpError, TooLong
from ftpwire.messages import Entry

_IN_MEMORY = 4 * 1024 * 1024
_COPIED = 256 * 1024
_RUN = 10_000
"""Number of entries sorted in memory at a time."""
_CHUNK = 500

_LOOK_EACH = 1024 * 1024
"""Bytes after which the free space on disk is checked again."""
_LOOK_EACH_ROWS = 10_000
"""Rows of a table after which it is checked again."""
_LEAST_FREE = 0.1
_NAMES = 20_000
"""Number of names of one directory that are kept in memory."""
_MOST_HELD = 256 * 1024 * 1024
"""Maximum memory for a list that must be in memory as a whole, in bytes."""

_Item = TypeVar("_Item")


class SpoolFull(FtpError):
    """The disk for temporary files has no space for a listing, which may be an endless one."""

    code = DiskFull.code
    exit_code = DiskFull.exit_code


def check_space() -> None:
    """Check that temporary files may grow. Raises SpoolFull if less than 10% is free."""
    import tempfile  # here and below: most commands need no temporary file

    info = os.statvfs(tempfile.gettempdir())
    if info.f_bavail < info.f_blocks * _LEAST_FREE:
        raise _full()


def _full() -> SpoolFull:
    import tempfile

    return SpoolFull(
        f"{tempfile.gettempdir()}: less than 10% free, too little for this long listing "
        "(set TMPDIR to another directory)"
    )


def held(items: Iterable[_Item], size_of: Callable[[_Item], int], advice: str) -> Iterator[_Item]:
    """Iterate over items to be kept in memory, as long as they are not too many.

    Args:
        size_of: Returns the approximate size of an item in memory, in bytes.
        advice: What the user can do instead.

    Raises:
        TooLong
    """
    size = 0
    for item in items:
        size += size_of(item)
        if size > _MOST_HELD:
            raise TooLong(f"the server's list is too long to be kept in memory: {advice}")
        yield item


@contextmanager
def reporting_full() -> Iterator[None]:
    """Raise SpoolFull if a temporary table has no space left."""
    import sqlite3  # most commands need none

    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_FULL:
            raise
        raise _full() from None


class TemporaryTable:
    """A table in a temporary file. Close it after use.

    Args:
        columns: The column definitions in SQL.

    Attributes:
        run: Executes one statement.
    """

    def __init__(self, columns: str) -> None:
        import sqlite3
        import tempfile

        self._file = tempfile.NamedTemporaryFile(prefix="ftp-index-")
        self._connection = sqlite3.connect(
            self._file.name, isolation_level=None, check_same_thread=False
        )
        self.run = self._connection.execute
        self._rows = self._looked_at = 0
        self._connection.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-2048;"
            f"CREATE TABLE item ({columns}) WITHOUT ROWID; BEGIN"
        )

    def add(self, rows: list[tuple[Any, ...]]) -> None:
        """Add rows, replacing those with the same keys. Raises SpoolFull."""
        if not rows:
            return
        self._rows += len(rows)
        if self._rows >= self._looked_at + _LOOK_EACH_ROWS:
            self._looked_at = self._rows
            check_space()
        places = ", ".join("?" * len(rows[0]))
        with reporting_full():
            self._connection.executemany(f"INSERT OR REPLACE INTO item VALUES ({places})", rows)

    def close(self) -> None:
        """Remove the file."""
        self._connection.close()
        self._file.close()


class Table(Generic[_Item]):
    """Items by name; on disk if they are many. Close it after use.

    Args:
        kind: The type of the items, for decoding.
        in_memory: How many items are kept in memory.

    Raises:
        SpoolFull: When an item is set: the disk is full.
    """

    def __init__(self, kind: type[_Item], *, in_memory: int = _NAMES) -> None:
        self._few: dict[bytes, _Item] = {}
        self._in_memory = in_memory
        self._stored: TemporaryTable | None = None
        self._kind = kind
        self._decode: Callable[[bytes], _Item]

    def __setitem__(self, name: bytes, item: _Item) -> None:
        self._few[name] = item
        if len(self._few) >= self._in_memory:
            self._store()

    def update(self, items: dict[bytes, _Item]) -> None:
        """Set many items at once, only as many as fit in memory. Raises SpoolFull."""
        self._few.update(items)
        if len(self._few) >= self._in_memory:
            self._store()

    def _store(self) -> None:
        if self._stored is None:
            self._stored = TemporaryTable("name BLOB PRIMARY KEY, item BLOB")
            self._decode = msgspec.msgpack.Decoder(self._kind).decode
        encode = msgspec.msgpack.Encoder().encode
        self._stored.add([(key, encode(one)) for key, one in self._few.items()])
        self._few.clear()

    def get(self, name: bytes) -> _Item | None:
        """Return the item with a name, or None."""
        found = self._few.get(name)
        if found is None and self._stored is not None:
            row = self._stored.run("SELECT item FROM item WHERE name = ?", (name,)).fetchone()
            found = None if row is None else self._decode(row[0])
        return found

    def __contains__(self, name: bytes) -> bool:
        return self.get(name) is not None

    @property
    def taker(self) -> Callable[[bytes, None], _Item | None]:
        """`pop`, to be called in a loop that sets nothing; faster if all items are in memory."""
        return self.pop if self._stored is not None else self._few.pop

    def pop(self, name: bytes, default: None = None) -> _Item | None:
        """Remove and return the item with a name; None if there is none."""
        found = self._few.pop(name, None)
        if self._stored is not None:
            with reporting_full():
                row = self._stored.run(
                    "DELETE FROM item WHERE name = ? RETURNING item", (name,)
                ).fetchone()
            if found is None and row is not None:
                found = self._decode(row[0])
        return found

    def items(self) -> Iterator[tuple[bytes, _Item]]:
        """Iterate over all names and items. Nothing may be set or removed meanwhile."""
        if self._stored is not None:
            for name, item in self._stored.run("SELECT name, item FROM item"):
                if name not in self._few:
                    yield name, self._decode(item)
        yield from self._few.items()

    def __bool__(self) -> bool:
        return any(True for _ in self.items())

    def close(self) -> None:
        """Discard all items, and remove the file."""
        self._few.clear()
        if self._stored is not None:
            self._stored.close()
            self._stored = None


class Spool(Generic[_Item]):
    """Messages in the order in which they were added, for iteration. Close it after use.

    Args:
        kind: The type of the items, for decoding.
        in_memory: Size in bytes above which it is kept on disk.

    Raises:
        SpoolFull: From ``add``: the disk is full.
    """

    def __init__(self, kind: type[_Item], *, in_memory: int = _IN_MEMORY) -> None:
        self._file: IO[bytes] = io.BytesIO()
        self._in_memory = in_memory
        self._on_disk = False
        self._size = self._looked_at = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def add(self, item: _Item) -> None:
        """Append an item."""
        data = self._encode(item)
        self._size += len(data)
        if self._size >= self._looked_at + _LOOK_EACH:
            self._looked_at = self._size
            if self._size > self._in_memory:
                check_space()
        try:
            self._file.seek(0, os.SEEK_END)  # an iterator may have moved the position
            self._file.write(len(data).to_bytes(4, "big") + data)
            if self._size > self._in_memory and not self._on_disk:
                self._move_to_disk()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _full() from None

    def _move_to_disk(self) -> None:
        import tempfile

        self._on_disk = True
        in_memory, self._file = self._file, tempfile.TemporaryFile(prefix="ftp-spool-")
        in_memory.seek(0)
        while some := in_memory.read(_COPIED):
            self._file.write(some)
        in_memory.close()

    def __iter__(self) -> Iterator[_Item]:
        at = 0
        while True:
            self._file.seek(at)
            head = self._file.read(4)
            if not head:
                return
            size = int.from_bytes(head, "big")
            at += 4 + size
            yield self._decode(self._file.read(size))

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def sort(
    entries: Iterable[_Item],
    key: Callable[[_Item], Any],
    *,
    reverse: bool = False,
    kind: type[_Item] = Entry,  # type: ignore[assignment]
) -> Iterator[_Item]:
    """Sort entries in constant memory: long lists by merging sorted parts from disk.

    Args:
        kind: The type of the items, if not entries; msgspec must be able to encode it.
    """
    run: list[_Item] = []
    runs: list[Spool[list[_Item]]] = []
    try:
        for entry in entries:
            run.append(entry)
            if len(run) >= _RUN:
                runs.append(_stored(sorted(run, key=key, reverse=reverse), kind))
                run = []
        run.sort(key=key, reverse=reverse)
        if runs:
            stored = (chain.from_iterable(one) for one in runs)
            yield from heapq.merge(*stored, run, key=key, reverse=reverse)
        else:
            yield from run
    finally:
        for one in runs:
            one.close()


def _stored(run: list[_Item], kind: type[_Item]) -> Spool[list[_Item]]:
    check_space()
    spool = Spool[list[_Item]](list[kind], in_memory=1)  # type: ignore[valid-type]  # one of many
    for at in range(0, len(run), _CHUNK):
        spool.add(run[at : at + _CHUNK])
    return spool
