"""Numbered requests of an account that are being processed, in any session or process.

Lives here: claiming and releasing a number. Lives elsewhere: the purpose of the numbers, and their
claims (serving/repeats.py), the locks (upload_locks.py).

A client that has lost its connection retries its requests over another one. The session of the lost
connection may still be processing the same request, or have it queued. So a session claims the
number of a request before it processes it: it locks one byte of a file in staging, at an offset
computed from the account, the operation and the number. The kernel releases the locks of a session
that has died.

Where a file system has no byte-range locks (NFS without its lock service, macOS), every claim
succeeds.
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
"""Bits of the offset that the number takes. The rest, of 62, is a hash of the account and the
operation. If two hashes collide, the sessions wait for each other, and nothing else happens."""


class RequestNumbers:
    """The numbers that one session has claimed of one operation. For one thread.

    Args:
        home: The home, open for changes.
        key: The client's key of the operation.
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
        """Claim a number. False: another session has it. Claiming twice is no error."""
        at = self._first + number
        for _ in range(2):  # again, as the other session may just have released it
            if try_range(self._fd, at):
                return True
            if is_range_locked(self._fd, at):
                return False
        return True  # the file system has no such locks

    def give_back(self, numbers: Iterable[int]) -> None:
        """Release numbers, so that other sessions can claim them."""
        for first, count in runs_of(numbers):
            unlock_range(self._fd, self._first + first, count)

    def close(self) -> None:
        """Release all numbers. Can be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def runs_of(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as runs of consecutive ones: the first number and the length of each run."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number == sum(found[-1]):
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((number, 1))
    return found
