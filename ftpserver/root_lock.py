"""The lock held by the one server of a root."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ftpserver.errors import RootBusy, StateError


class RootLock:
    """A lock that the one server of a root holds until its process ends, for whatever reason.

    Raises:
        RootBusy: Another server holds it.
        StateError: The lock file cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            self._fd = self._open(path)
        except OSError as error:
            raise StateError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._fd, 32).decode("ascii", "replace").strip() or "?"
            os.close(self._fd)
            raise RootBusy(
                f"{directory.parent}: another ftpd serves this root (process {owner})", owner
            ) from None
        with suppress(OSError):  # the process id is only for administrators; the lock holds anyway
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{os.getpid()}\n".encode())

    @staticmethod
    def _open(path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @staticmethod
    def holder(directory: Path) -> int | None:
        """Return the process that holds it, or None if the kernel doesn't say (/proc/locks).

        Taking the lock to find out could make a server that starts at this moment fail.
        """
        try:
            info = os.stat(directory / "lock")
            lines = Path("/proc/locks").read_text().splitlines()
        except OSError:
            return None
        file = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
        for line in lines:
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == file:
                return int(fields[4])
        return None

    def release(self) -> None:
        """Release the lock, so that another server can use the root."""
        os.close(self._fd)
