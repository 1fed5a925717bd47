"""Times that the disk of a sync's target cannot store.

Some file systems store times with a resolution of two seconds, and each has an earliest and a
latest time. A file there has another time than its source forever, and would be sent again by each
sync. So the target's disk is asked how it would store the source's time; a file with just that time
counts as the same.

Lives here: asking, in batches.
Lives elsewhere: which disk is asked (policy.py), trying it out (ftpwire/beneath.py).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable

from ftpclient.connection.connection import Connection
from ftpwire import beneath, paths
from ftpwire.messages import MAX_TIMES, Entry, Space

_FINEST_NS = 100
"""The finest resolution above 1 ns, in nanoseconds. A time that is no multiple of it was not
rounded."""
_MOST = 10_000
"""Maximum number of answers to remember."""

Pair = tuple[Entry, Entry]
"""Source and target."""
Ask = Callable[[list[int], int], list[int]]
"""Returns the times that a disk would store. Gets a descriptor of the files' local directory."""


class KeptTimes:
    """The times that the target's disk stores in place of others.

    Args:
        ask: Asks the target's disk.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._kept: dict[int, int] = {}

    def missing(self, pairs: Iterable[Pair]) -> set[int]:
        """Return the times that have to be asked about."""
        return {
            source.mtime_ns
            for source, target in pairs
            if _may_be_rounded(source, target) and source.mtime_ns not in self._kept
        }

    def ask(self, pairs: Iterable[Pair], directory: int) -> None:
        """Ask about the missing times.

        Args:
            directory: A descriptor of the files' local directory.
        """
        times = sorted(self.missing(pairs))
        if len(self._kept) + len(times) > _MOST:
            self._kept.clear()
        for start in range(0, len(times), MAX_TIMES):
            some = times[start : start + MAX_TIMES]
            self._kept.update(zip(some, self._ask(some, directory), strict=True))

    def are_same(self, source: Entry, target: Entry) -> bool:
        """Return whether the target has the source's time, or the one its disk stores instead."""
        if source.mtime_ns == target.mtime_ns:
            return True
        kept = self._kept.get(source.mtime_ns)
        return kept == target.mtime_ns and _may_be_rounded(source, target)


def ask_server(connection: Connection) -> Ask:
    """Return a function that asks a server about its disk."""

    def ask(times: list[int], directory: int) -> list[int]:
        space = connection.ask(Space(times))
        kept = space.kept_times
        # an older server doesn't know: then every time is assumed to be stored exactly
        return kept if kept is not None and len(kept) == len(times) else times

    return ask


def ask_disk(times: list[int], directory: int) -> list[int]:
    """Return the times that the local disk would store in a directory."""
    name = paths.PARTIAL_PREFIX + secrets.token_hex(8).encode() + paths.PARTIAL_SUFFIX
    try:
        return beneath.kept_times(directory, name, times)
    except OSError:
        return times  # nothing can be created there; the next access reports the error


def _may_be_rounded(source: Entry, target: Entry) -> bool:
    return source.mtime_ns != target.mtime_ns and not target.mtime_ns % _FINEST_NS
