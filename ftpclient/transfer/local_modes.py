"""Which permission bits things below a destination get.

Lives here: what a server may give a directory that was here before, and what the kernel leaves of a
mode. Lives elsewhere: writing there (local_tree.py).
"""

from __future__ import annotations

import errno
import os
import stat

from ftpwire import beneath, paths


def grantable(mode: int, had: int) -> int:
    """The permission bits that a server may give a directory that was here already.

    Args:
        had: The mode that it has. Where group or others couldn't write they still can't.
    """
    return mode & 0o777 & ~(0o022 & ~had)


def withheld(first: bytes) -> str:
    """What a user is told, once, where a directory didn't get a mode of the server's."""
    return (
        f"{paths.show(first)}: was here before, so group and others don't get the right to write "
        "that they have on the server (chmod gives it); the same holds for other directories"
    )


def bits_for(info: os.stat_result, mode: int) -> int | None:
    """What to set so that something has permission bits; None: leave it.

    Directories keep setgid and sticky, by which others share them. Where the kernel would clear
    setgid, because this user isn't in the group, the mode stays.
    """
    bits = mode & 0o777
    if stat.S_ISDIR(info.st_mode):
        bits |= beneath.kept_bits(info)
        if bits == stat.S_IMODE(info.st_mode):
            return None
        if bits & stat.S_ISGID and not beneath.in_group(info.st_gid):
            return None
    return bits


def chmod(above: int, name: bytes, mode: int, *, exactly: bool = False) -> None:
    """Change a mode without following a link, also of what can't be opened for reading.

    Args:
        exactly: To just this, also where the kernel clears setgid.
    """
    fd = os.open(name, beneath.OPEN_ANY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=above)
    try:
        info = os.fstat(fd)
        if stat.S_ISLNK(info.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        bits = mode if exactly else bits_for(info, mode)
        if bits is None:
            return
        if beneath.O_PATH == os.O_RDONLY:
            os.chmod(fd, bits)
        else:  # fchmod(2) refuses a handle that can't read
            os.chmod(f"/proc/self/fd/{fd}", bits)
    finally:
        os.close(fd)
