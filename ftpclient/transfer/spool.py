"""Long listings in flat memory: kept on disk once they are large.

Lives here: a queue of messages, and a sort, that both use a temporary file beyond a limit.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO, Any, Generic, TypeVar

import msgspec

from ftpwire.messages import Entry

_IN_MEMORY = 4 * 1024 * 1024
_RUN = 10_000
"""Entries sorted in memory at a time."""
_CHUNK = 500

_Item = TypeVar("_Item")


class Spool(Generic[_Item]):
    """Messages kept in the order they were added, to be iterated over. Close it afterwards.

    Args:
        kind: The type of what is kept, for decoding.
        in_memory: Bytes from which on it is kept on disk.
    """

    def __init__(self, kind: type[_Item], *, in_memory: int = _IN_MEMORY) -> None:
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=in_memory)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(kind).decode

    def add(self, item: _Item) -> None:
        """Append one."""
        data = self._encode(item)
        self._file.seek(0, os.SEEK_END)  # somebody may be reading
        self._file.write(len(data).to_bytes(4, "big") + data)

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
    spool = Spool(list[Entry], in_memory=1)  # one of many
    for at in range(0, len(run), _CHUNK):
        spool.add(run[at : at + _CHUNK])
    return spool
