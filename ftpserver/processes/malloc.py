"""The process's memory: what the C library and Python's collector of cycles are told about it.

Lives here: giving freed memory back, and what is there for good.
Lives elsewhere: who allocates it.
"""

from __future__ import annotations

import ctypes
import gc

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BLOCK = 4 * 1024 * 1024
_ARENAS = 2
"""Few: what threads leave in each of them stays there, and Python's lock lets hardly two
of them allocate at the same time."""


def return_memory() -> None:
    """Have glibc give large blocks back to the system when they are freed.

    Each password hash takes 19 MiB. By default the first such block teaches malloc to take the
    next ones from its arenas, one for each of many threads, where they stay: 1.6 MB for each of
    200 idle sessions instead of some tens of KB. Other C libraries need no telling.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
        mallopt(_M_ARENA_MAX, _ARENAS)


def keep_what_is_there() -> None:
    """Give back what importing and starting have left behind, one or two MiB, and have Python's
    collector look no more at what there is: modules, settings, the database's tables stay as long
    as the process.

    A full collection stops all threads while it looks at every object: 20 ms and more, again and
    again where sessions have thousands of small files under way. Most of it were these objects.
    """
    return_what_is_free()
    gc.freeze()


def return_what_is_free() -> None:
    """Give back to the system what nobody uses any more: some MiB after a few busy sessions, which
    glibc keeps in between what is used, and some that waits for Python's collector.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
