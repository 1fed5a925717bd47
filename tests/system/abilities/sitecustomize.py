"""Takes abilities from the interpreters of a server under test, its children included.

Python imports this at its start where this directory is on PYTHONPATH. Variables say what it takes:

- WITHOUT_RENAME_FLAGS: the kernel refuses renames with flags, as some file systems do.
- BUSY_SECONDS: no database is waited for longer, as if the usual time had passed.
- LEASE_SECONDS: leases last so long, and are looked after five times in that.
- DIES_BETWEEN_RENAMES: the process kills itself between the two renames that then replace a tree.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import sys

_RENAMEAT2 = {"x86_64": 316, "aarch64": 276}
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _INVALID = 0x7FFF0000, 0x00050016
_NUMBER_AT, _FLAGS_AT = 0, 48
"""In what the kernel shows of a call: its number, the lower half of its fifth argument."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def refuse_rename_flags() -> None:
    """From now on renameat2(2) with flags fails with EINVAL, in this process and its children."""
    steps = (
        (_LOAD, 0, 0, _NUMBER_AT),
        (_EQUAL, 0, 3, _RENAMEAT2[platform.machine()]),
        (_LOAD, 0, 0, _FLAGS_AT),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _INVALID),
        (_RETURN, 0, 0, _ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = _Program(len(steps), ctypes.cast(code, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0:
        libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no seccomp here")


def be_impatient(seconds: float) -> None:
    """Wait so long for a database that others write to."""
    from ftpserver import migration

    migration.BUSY_SECONDS = seconds  # before anything has imported it


def hurry(seconds: int) -> None:
    """Have leases last so long."""
    from ftpserver.storage import incarnations

    incarnations.LEASE_SECONDS = seconds  # before anything has imported it


def die_between_renames() -> None:
    """Replacing a tree in two steps ends this process after the first of them."""
    rename = os.rename

    def dying(*arguments: object, **options: object) -> None:
        rename(*arguments, **options)  # type: ignore[arg-type]
        if sys._getframe(1).f_code.co_name == "_swap_in_two":
            os.kill(os.getpid(), signal.SIGKILL)

    os.rename = dying  # type: ignore[assignment]


if "WITHOUT_RENAME_FLAGS" in os.environ:
    refuse_rename_flags()
if "DIES_BETWEEN_RENAMES" in os.environ:
    die_between_renames()
if "BUSY_SECONDS" in os.environ:
    be_impatient(float(os.environ["BUSY_SECONDS"]))
if "LEASE_SECONDS" in os.environ:
    hurry(int(os.environ["LEASE_SECONDS"]))
