"""How long the kernel lets a thread of the server compute before other programs get their turn.

Lives here: the setting for Linux. Lives elsewhere: which thread of the process works
(serving/turns.py).

Python runs one thread at a time. While the kernel lets other programs compute instead of that
thread, the whole process waits: for several of their slices on a busy machine. With Linux 6.12 and
later, a thread can choose the length of its own slice. That doesn't change its share. A thread with
long slices is interrupted less often, and resumes sooner after it has waited (docs/decisions/0032).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import struct
import sys
from typing import NamedTuple

logger = logging.getLogger("ftpd")

LONG_NANOSECONDS = 100_000_000
"""Nanoseconds of a long slice: a tenth of a second, the most that Linux accepts."""

_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""struct sched_attr, sched_setattr(2): size, policy, flags, nice, priority, and runtime, which is
the slice of an ordinary thread; deadline and period, which don't apply to one."""
_ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH)
_NUMBERS = {"x86_64": (314, 315), "aarch64": (274, 275), "riscv64": (274, 275)}
"""The numbers of sched_setattr and sched_getattr by machine: most C libraries lack both."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Scheduling(NamedTuple):
    """How the kernel schedules a thread.

    Attributes:
        policy: ``os.SCHED_OTHER`` or another policy.
        slice: Nanoseconds of an ordinary thread's slice; 0 if the kernel doesn't report it.
    """

    policy: int
    flags: int
    nice: int
    priority: int
    slice: int


def scheduling_of(thread: int = 0) -> Scheduling:
    """Return how a thread is scheduled.

    Args:
        thread: The thread's number in the system; 0 for the calling thread.

    Raises:
        OSError: The system doesn't report it.
    """
    data = ctypes.create_string_buffer(_ATTRIBUTES.size)
    _call(1, thread, data, _ATTRIBUTES.size, 0)
    _, policy, flags, nice, priority, slice_, _, _ = _ATTRIBUTES.unpack(data.raw)
    return Scheduling(policy, flags, nice, priority, slice_)


def lengthen_slices() -> None:
    """Request long slices for the calling thread, and for all threads and processes that it starts.

    Their share of the processor stays the same, and so do policy and niceness. A thread with a
    real-time policy, or with the idle policy, is left alone. It is a hint: if the system doesn't
    support or permit it, the server works without it, and says so in the debug log.
    """
    try:
        now = scheduling_of()
        if now.policy not in _ORDINARY:
            return
        attributes = _ATTRIBUTES.pack(_ATTRIBUTES.size, *now._replace(slice=LONG_NANOSECONDS), 0, 0)
        _call(0, 0, attributes, 0)
    except OSError as error:
        logger.debug("the time slices stay as they are: %s", error.strerror)


def _call(which: int, *arguments: int | bytes | ctypes.Array[ctypes.c_char]) -> None:
    """Call sched_setattr (0) or sched_getattr (1). Raises OSError."""
    numbers = _NUMBERS.get(os.uname().machine)
    if numbers is None or sys.maxsize < 2**32:  # 32-bit systems have other numbers
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    made = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    if _libc.syscall(ctypes.c_long(numbers[which]), *made) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
