"""Long listings in flat memory: kept on disk once they are large.

Lives here: a queue of entries, and a sort, that both use a temporary file beyond a limit.
"""

from __future__ import annotations

import heapq
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import msgspec

from ftpwire.messages import Entry

_IN_MEMORY = 4 * 1024 * 1024
_RUN = 10_000
"""Entries sorted in memory at a time."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Entry]).decode
_CHUNK = 500


class EntryQueue:
    """Entries kept in the order they were added, to be iterated over once or more."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)
        self._pending: list[Entry] = []

    def add(self, entry: Entry) -> None:
        """Append one."""
        self._pending.append(entry)
        if len(self._pending) >= _CHUNK:
            self._store()

    def _store(self) -> None:
        data = _encode(self._pending)
        self._file.write(len(data).to_bytes(4, "big") + data)
        self._pending = []

    def __iter__(self) -> Iterator[Entry]:
        if self._pending:
            self._store()
        at = 0
        while True:
            self._file.seek(at)
            head = self._file.read(4)
            if not head:
                break
            size = int.from_bytes(head, "big")
            data = self._file.read(size)
            at += 4 + size
            yield from _decode(data)
        self._file.seek(0, 2)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()


def sort(
    entries: Iterable[Entry], key: Callable[[Entry], Any], *, reverse: bool = False
) -> Iterator[Entry]:
    """Sort entries in flat memory: beyond some thousands by merging runs from disk."""
    run: list[Entry] = []
    runs: list[EntryQueue] = []
    try:
        for entry in entries:
            run.append(entry)
            if len(run) >= _RUN:
                runs.append(_stored(sorted(run, key=key, reverse=reverse)))
                run = []
        run.sort(key=key, reverse=reverse)
        if runs:
            yield from heapq.merge(*runs, run, key=key, reverse=reverse)
        else:
            yield from run
    finally:
        for stored in runs:
            stored.close()


def _stored(run: list[Entry]) -> EntryQueue:
    queue = EntryQueue()
    for entry in run:
        queue.add(entry)
    return queue
