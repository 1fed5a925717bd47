"""The permission bits of files and directories below a destination.

Lives here: which bits a server may give to a directory that existed before, and which bits of a
mode the kernel lets this user set.
Lives elsewhere: writing there (local_tree.py).
"""

from __future__ import annotations

import errno
import os
import stat

from ftpwire import beneath, paths


def grantable(mode: int, had: int) -> int:
    """Return the permission bits that a server may give to a directory that existed before.

    Args:
        had: The mode that it has. If group or others have no write permission, they get none.
    """
    return mode & 0o777 & ~(0o022 & ~had)


def withheld(first: bytes) -> str:
    """Return the remark, shown once, that a directory did not get the server's whole mode."""
    return (
        f"{paths.show(first)}: existed before, so group and others don't get the write permission "
        "that they have on the server (use chmod to grant it); other directories likewise"
    )


def bits_for(info: os.stat_result, mode: int) -> int | None:
    """Return the mode to set for the given permission bits, or None to leave the mode.

    Directories keep setgid and sticky, which users who share them rely on. If the kernel would
    clear setgid, because this user isn't in the group, the mode is left.
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
    """Change a mode without following a link, even of a file that cannot be opened for reading.

    Args:
        exactly: True to set exactly this mode, even if the kernel clears setgid.
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
        else:  # fchmod(2) refuses a descriptor opened with O_PATH
            os.chmod(f"/proc/self/fd/{fd}", bits)
    finally:
        os.close(fd)
