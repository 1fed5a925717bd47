"""Times that the disk of a sync's target can't keep.

Some file systems keep times to two seconds only, and each has an earliest and a latest. Such a file
has another time in the target for ever: to send it again would never end. So the target's disk is
asked what becomes of the source's time, and what has just that time counts as the same.

Lives here: asking, in batches. Lives elsewhere: whose disk that is (policy.py), trying it out
(ftpwire/beneath.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from ftpclient.connection.connection import Connection
from ftpwire import beneath, paths
from ftpwire.messages import MAX_TIMES, Entry, Space

_FINEST_NS = 100
"""Nanoseconds of the finest grain above one: what is no multiple of it was not rounded."""
_MOST = 10_000
"""Answers that are kept."""

Pair = tuple[Entry, Entry]
"""Source and target."""
Ask = Callable[[list[int], int], list[int]]
"""What becomes of times on a disk. It is given a handle of the local directory that they are in."""


class KeptTimes:
    """What the target's disk makes of times.

    Args:
        ask: Asks the target's disk.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._kept: dict[int, int] = {}

    def missing(self, pairs: Iterable[Pair]) -> set[int]:
        """The times that have to be asked about."""
        return {
            source.mtime_ns
            for source, target in pairs
            if _may_be_rounded(source, target) and source.mtime_ns not in self._kept
        }

    def ask(self, pairs: Iterable[Pair], directory: int) -> None:
        """Ask about them.

        Args:
            directory: A handle of the local one that they are in.
        """
        times = sorted(self.missing(pairs))
        if len(self._kept) + len(times) > _MOST:
            self._kept.clear()
        for start in range(0, len(times), MAX_TIMES):
            some = times[start : start + MAX_TIMES]
            self._kept.update(zip(some, self._ask(some, directory), strict=True))

    def are_same(self, source: Entry, target: Entry) -> bool:
        """Whether the target has the source's time, or what its disk makes of that."""
        if source.mtime_ns == target.mtime_ns:
            return True
        kept = self._kept.get(source.mtime_ns)
        return kept == target.mtime_ns and _may_be_rounded(source, target)


def ask_server(connection: Connection) -> Ask:
    """What asks a server for those of its disk."""

    def ask(times: list[int], directory: int) -> list[int]:
        room = connection.ask(Space(times))
        kept = room.kept_times
        # an older server doesn't know: then the time counts as one that can be set
        return kept if kept is not None and len(kept) == len(times) else times

    return ask


def ask_disk(times: list[int], directory: int) -> list[int]:
    """Those that the disk here keeps in a directory."""
    name = paths.PARTIAL_PREFIX + secrets.token_hex(8).encode() + paths.PARTIAL_SUFFIX
    try:
        return beneath.kept_times(directory, name, times)
    except OSError:
        return times  # nothing can be made there: whatever is done next says why


def _may_be_rounded(source: Entry, target: Entry) -> bool:
    return source.mtime_ns != target.mtime_ns and not target.mtime_ns % _FINEST_NS
