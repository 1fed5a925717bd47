"""The lock that the one server of a root holds."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from ftpserver.errors import RootBusy, StateError


class RootLock:
    """Held by the one server of a root, until it ends in whatever way.

    Raises:
        RootBusy: Another one holds it.
        StateError: It can't be made.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "lock"
        try:
            self._fd = self._open(path)
        except OSError as error:
            raise StateError(f"{path}: can't be written: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._fd, 32).decode("ascii", "replace").strip()
            os.close(self._fd)
            raise RootBusy(
                f"{directory.parent}: another ftpd serves this root (process {owner or '?'})"
            ) from None
        with suppress(OSError):  # whose it is is told to administrators only; the lock holds anyway
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
        """The process that holds it, where the kernel says so (/proc/locks).

        It isn't tried: a server that starts in this moment would find it taken.
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
        """Let another server have the root."""
        os.close(self._fd)
