"""Which numbered requests of an account are under way, in whatever session or process.

Lives here: claiming a number, and giving it back. Lives elsewhere: what numbers are for, and who
claims them (serving/repeats.py), the locks (upload_locks.py).

A client that has lost its connection asks again over another one. The session of the lost one may
still be at the same request, or have it before itself. So a session claims the number of a request
before it does it: the lock of one byte of a file in staging, at a place that the account, the
operation and the number make. The system gives back what a session held that has died.

Where a file system has no locks of a file's parts (NFS without its lock service, macOS), everything
can be claimed by everybody.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from hashlib import blake2b

from ftpserver.storage.home_staging import NUMBERS_NAME
from ftpserver.storage.open_home import OpenHome, give_to_owner
from ftpserver.storage.upload_locks import is_range_locked, try_range, unlock_range

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_NUMBER_BITS = 32
"""Of a place in the file; the others, of 62, are made of the account and the operation. Two of
these that collide wait for each other, and nothing else."""


class RequestNumbers:
    """What one session has claimed, of one operation. For one thread.

    Args:
        home: Open, and it may be changed.
        key: The client's id of the operation.
    """

    def __init__(self, home: OpenHome, account_id: int, key: bytes) -> None:
        made = blake2b(b"%d/%b" % (account_id, key), digest_size=8).digest()
        self._first = int.from_bytes(made, "big") >> (_NUMBER_BITS + 2) << _NUMBER_BITS
        self._fd = os.open(NUMBERS_NAME, _OPEN, 0o600, dir_fd=home.staging_fd)
        try:
            give_to_owner(home.fd, self._fd)
        except BaseException:
            self.close()
            raise

    def claim(self, number: int) -> bool:
        """Claim a number, unless another session has. It may be one's own already."""
        at = self._first + number
        for _ in range(2):  # once more: it may have been given back just then
            if try_range(self._fd, at):
                return True
            if is_range_locked(self._fd, at):
                return False
        return True  # there are no such locks

    def give_back(self, numbers: Iterable[int]) -> None:
        """Let others claim these."""
        for first, count in runs_of(numbers):
            unlock_range(self._fd, self._first + first, count)

    def close(self) -> None:
        """Give all of them back. Can be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers as runs of consecutive ones: the first of each, and how many they are."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == sum(found[-1]):
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((number, 1))
    return found
