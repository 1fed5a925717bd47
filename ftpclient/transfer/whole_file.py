"""Small files that are here as a whole: placed at once, with no hidden name before their own.

Lives here: giving such a file its name where nothing has it yet. Lives elsewhere: files on their
way in, and those that replace something (partial_file.py).

The file has no name until it is complete (O_TMPFILE), and gets it by a link, which never replaces
anything: so a process that is killed leaves nothing behind, neither half a file nor a hidden one.
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
        *(errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS),  # from opening it
        *(errno.ENOENT, errno.EPERM, errno.EXDEV),  # no /proc; or no links
    }
)
"""What a file system answers that can't do this: it isn't tried there again."""


class WholeFiles:
    """Places files, and knows on which file systems that can't be done in this way.

    For one thread.
    """

    def __init__(self) -> None:
        self._without: set[int] = set()
        """Devices of these."""
        self._gives: dict[int, bool] = {}
        """Modes that files were made with in one directory, and whether they got just these:
        neither the umask nor a default ACL took anything from them."""

    def turn_to(self) -> None:
        """What comes next goes to another directory, or later."""
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
        """Make a file of a name that is free.

        Args:
            above: Its directory, open.
            mode: Permission bits of it.
            durable: It is on the disk then, whatever happens to the machine.

        Returns:
            False when it was not made, for whatever reason: something has its name, or the file
            system can't do it like this. A `PartialFile` can, or says why not.

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
                return False  # the disk is full, as a rule
            os.utime(fd, ns=(time.time_ns(), mtime_ns))
            got = self._gives.get(mode)
            if got is None:
                got = self._gives[mode] = stat.S_IMODE(os.fstat(fd).st_mode) == mode
            if not got:
                os.fchmod(fd, mode)
            if durable:
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
