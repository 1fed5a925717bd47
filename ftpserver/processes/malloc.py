"""The process's memory: what the C library is told about it.

Lives here: giving freed memory back. Lives elsewhere: who allocates it.
"""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE_BLOCK = 4 * 1024 * 1024
_ARENAS = 4


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
