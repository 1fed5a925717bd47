"""Small files whose bytes are all in memory: written without a hidden name.

Lives here: creating such a file if its name is free.
Lives elsewhere: files that arrive in parts, and those that replace something (partial_file.py).

The file has no name until it is complete (O_TMPFILE). It gets its name by link(2), which never
replaces a file. So a killed process leaves nothing behind, neither half a file nor a hidden one.
"""

from __future__ import annotations

import errno
import os
import stat
import time

_UNNAMED = getattr(os, "O_TMPFILE", 0)
_FLAGS = _UNNAMED | os.O_WRONLY | os.O_CLOEXEC
_NEVER = frozenset(
    {
        *(errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS),  # from open(2)
        *(errno.ENOENT, errno.EPERM, errno.EXDEV),  # no /proc; or no hard links
    }
)
"""Errors of file systems that do not support this: it is not tried there again."""


class WholeFiles:
    """Writes files, and remembers the file systems that don't support this.

    For use by one thread.
    """

    def __init__(self) -> None:
        self._without: set[int] = set()
        """The devices of these file systems."""
        self._gives: dict[int, bool] = {}
        """Modes of files created in one directory. True: the files got exactly this mode, because
        neither the umask nor a default ACL took any bits away."""

    def turn_to(self) -> None:
        """Prepare for another directory, or for a later time."""
        self._gives.clear()

    def place(
        self,
        above: int,
        name: bytes,
        data: memoryview | bytes,
        mode: int,
        mtime_ns: int,
        *,
        durable: bool,
    ) -> bool:
        """Create a file under a name that is free.

        Args:
            above: A descriptor of its directory.
            mode: Its permission bits.
            durable: True to sync it to disk.

        Returns:
            False if it was not created: the name is taken, the file system doesn't support this,
            or another error occurred. Then use a `PartialFile`, which works or raises the error.

        Raises:
            OSError: Its name could not be synced.
        """
        if not _UNNAMED or (self._without and os.fstat(above).st_dev in self._without):
            return False
        mode &= 0o777
        try:
            fd = os.open(b".", _FLAGS, mode, dir_fd=above)
        except OSError as error:
            self._failed(above, error)
            return False
        try:
            if os.write(fd, data) != len(data):
                return False  # usually because the disk is full
            os.utime(fd, ns=(time.time_ns(), mtime_ns))
            got = self._gives.get(mode)
            if got is None:
                got = self._gives[mode] = stat.S_IMODE(os.fstat(fd).st_mode) == mode
            if not got:
                os.fchmod(fd, mode)
            if durable:  # before the link: a crash must not leave the name without bytes
                os.fsync(fd)
            os.link(b"/proc/self/fd/%d" % fd, name, dst_dir_fd=above, follow_symlinks=True)
        except OSError as error:
            self._failed(above, error)
            return False
        finally:
            os.close(fd)
        if durable:
            os.fsync(above)
        return True

    def _failed(self, above: int, error: OSError) -> None:
        if error.errno in _NEVER:
            self._without.add(os.fstat(above).st_dev)
