"""The memory of this process: settings of the C library's allocator and of Python's collector.

Lives here: giving freed memory back, and exempting what stays from garbage collection.
Lives elsewhere: the allocations.
"""

from __future__ import annotations

import ctypes
import gc

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BLOCK = 4 * 1024 * 1024
_ARENAS = 2
"""Few arenas: memory that threads free in each of them stays there, and Python's lock hardly lets
two threads allocate at the same time."""


def return_memory() -> None:
    """Make glibc return large blocks to the system when they are freed.

    Each password hash takes 19 MiB. By default, after the first such block malloc takes further
    ones from its arenas, one arena for each of many threads, where they stay: 1.6 MB for each of
    200 idle sessions instead of some tens of KB. Other C libraries need no such setting.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        mallopt(_M_ARENA_MAX, _ARENAS)


def keep_what_is_there() -> None:
    """Free what importing and starting have left behind, and exempt the rest from collection.

    The first is one or two MiB. The rest are modules, settings and the database's tables: they stay
    as long as the process. A full collection stops all threads while it looks at every object: 20
    ms and more, again and again while sessions have thousands of small files under way. Most of
    these objects would be those that stay.
    """
    return_what_is_free()
    gc.freeze()


def return_what_is_free() -> None:
    """Return unused memory to the system: some MiB after a few busy sessions, which glibc keeps
    between blocks in use, and garbage that waits for Python's collector.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
