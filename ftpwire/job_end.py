"""When one failure is the end of a whole job: nothing that follows could succeed.

A full disk, one that is read-only or gone, an account without room: a job of a million files would
fail a million times. What was done stays, and the same command goes on later.

Lives here: which failures these are, and how many of them. Lives elsewhere: stopping, and what is
said then (ftpclient/transfer/job.py, ftpserver/serving/commands/changing.py).
"""

from __future__ import annotations

from ftpwire.errors import (
    CommandError,
    DiskFailed,
    DiskFull,
    DiskGone,
    FtpError,
    QuotaExceeded,
    ReadOnly,
)

SMALL = 1024 * 1024
"""Where a file of so many bytes, or fewer, finds no room, there is none."""
IN_A_ROW = 3
"""So many files without room, and nothing stored between them, are the end in any case."""

STAYS = "what was done stays, and the same command goes on later"
"""What is said when a job has ended before all of it was tried."""

NO_ROOM = (QuotaExceeded, DiskFull)
ENDINGS = (QuotaExceeded, DiskFull, ReadOnly, DiskGone, DiskFailed)
"""What can be the end of a job."""


class JobEnd:
    """Looks at the failures of one job, in their order."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def stored(self) -> None:
        """Something found room."""
        self._in_a_row = 0

    def is_reached(self, error: FtpError, size: int, *, at_target: bool = True) -> bool:
        """Whether a failure is the end.

        Args:
            size: Bytes of the file that failed; 0 for directories and links.
            at_target: It is about what is written to. What is read from is the end only when it is
                gone: one file that can't be read says nothing about the others.
        """
        if not isinstance(error, ENDINGS):
            return False
        if not at_target:
            return isinstance(error, DiskGone) and self._is_third()
        if isinstance(error, NO_ROOM) and _has_figures(error):
            # a file too large for what is left says nothing about smaller ones
            return self._is_third() or max(size, _needed(error)) <= SMALL
        return True

    def _is_third(self) -> bool:
        self._in_a_row += 1
        return self._in_a_row >= IN_A_ROW


def _has_figures(error: CommandError) -> bool:
    """Whether it was refused by its size; else the disk was full when it was written."""
    return isinstance(error, QuotaExceeded) or error.needed is not None


def _needed(error: CommandError) -> int:
    return error.needed or 0 if isinstance(error, DiskFull) else 0
