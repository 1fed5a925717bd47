"""Long listings in flat memory: kept on disk once they are large.

Lives here: a queue of messages, and a sort, that both use a temporary file beyond a limit.
"""

from __future__ import annotations

import errno
import heapq
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO, Any, Generic, TypeVar

import msgspec

from ftpwire.errors import DiskFull, FtpError
from ftpwire.messages import Entry

_IN_MEMORY = 4 * 1024 * 1024
_RUN = 10_000
"""Entries sorted in memory at a time."""
_CHUNK = 500

_LOOK_EACH = 1024 * 1024
"""Bytes after which the room that is left is looked at again."""
_LEAST_FREE = 0.1

_Item = TypeVar("_Item")


class SpoolFull(FtpError):
    """The disk of temporary files has no room for a listing, which may be one without end."""

    code = DiskFull.code
    exit_code = DiskFull.exit_code


def check_room() -> None:
    """Look whether temporary files may grow. Raises SpoolFull below a tenth of free room."""
    info = os.statvfs(tempfile.gettempdir())
    if info.f_bavail < info.f_blocks * _LEAST_FREE:
        raise _full()


def _full() -> SpoolFull:
    return SpoolFull(
        f"{tempfile.gettempdir()}: less than 10 % is free, and the listing is long: give another "
        "directory with TMPDIR"
    )


class Spool(Generic[_Item]):
    """Messages kept in the order they were added, to be iterated over. Close it afterwards.

    Args:
        kind: The type of what is kept, for decoding.
        in_memory: Bytes from which on it is kept on disk.

    Raises:
        SpoolFull: From ``add``: the disk has no room for more.
    """

    def __init__(self, kind: type[_Item], *, in_memory: int = _IN_MEMORY) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=in_memory)
        self._in_memory = in_memory
        self._size = self._looked_at = 0
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def add(self, item: _Item) -> None:
        """Append one."""
        data = self._encode(item)
        self._size += len(data)
        if self._size >= self._looked_at + _LOOK_EACH:
            self._looked_at = self._size
            if self._size > self._in_memory:
                check_room()
        try:
            self._file.seek(0, os.SEEK_END)  # somebody may be reading
            self._file.write(len(data).to_bytes(4, "big") + data)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise _full() from None

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
    entries: Iterable[Entry], key: Callable[[Entry], Any], *, reverse: bool = False
) -> Iterator[Entry]:
    """Sort entries in flat memory: beyond some thousands by merging runs from disk."""
    run: list[Entry] = []
    runs: list[Spool[list[Entry]]] = []
    try:
        for entry in entries:
            run.append(entry)
            if len(run) >= _RUN:
                runs.append(_stored(sorted(run, key=key, reverse=reverse)))
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


def _stored(run: list[Entry]) -> Spool[list[Entry]]:
    check_room()
    spool = Spool(list[Entry], in_memory=1)  # one of many
    for at in range(0, len(run), _CHUNK):
        spool.add(run[at : at + _CHUNK])
    return spool
