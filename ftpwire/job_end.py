"""Failures that end a whole job, because nothing that follows could succeed.

With a full, read-only or missing disk, or an exhausted quota, a job of a million files would fail a
million times. What was done is kept, and the same command can continue later.

Lives here: which failures these are, and how many of them.
Lives elsewhere: stopping the job, and the messages about it (ftpclient/transfer/job.py,
ftpserver/serving/commands/changing.py).
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
"""If a file of at most this many bytes does not fit, nothing does."""
IN_A_ROW = 3
"""After this many files in a row that did not fit, the job ends in any case."""

STAYS = "what was done is kept; run the same command again to continue"
"""The advice when a job has ended early."""
CANCELLED = "cancelled; nothing was changed"
"""The message when the user answered a question before any change with no."""

NO_SPACE = (QuotaExceeded, DiskFull)
ENDINGS = (QuotaExceeded, DiskFull, ReadOnly, DiskGone, DiskFailed)
"""Errors that can end a job."""


class JobEnd:
    """Decides after which of its failures a job ends. It needs all of them, in order."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def stored(self) -> None:
        """Report that something could be stored."""
        self._in_a_row = 0

    def is_reached(self, error: FtpError, size: int, *, at_target: bool = True) -> bool:
        """Report a failure. Return True if it ends the job.

        Args:
            size: Bytes of the file that failed; 0 for directories and links.
            at_target: True if it is about the target. A failure of the source ends the job only if
                the file system is gone: one unreadable file says nothing about the others.
        """
        if not isinstance(error, ENDINGS):
            return False
        if not at_target:
            return isinstance(error, DiskGone) and self._is_third()
        if isinstance(error, NO_SPACE) and _has_figures(error):
            # a file too large for the free space says nothing about smaller ones
            return self._is_third() or max(size, _needed(error)) <= SMALL
        return True

    def _is_third(self) -> bool:
        self._in_a_row += 1
        return self._in_a_row >= IN_A_ROW


def _has_figures(error: CommandError) -> bool:
    """Return True if it was refused because of its size; False if the disk filled up meanwhile."""
    return isinstance(error, QuotaExceeded) or error.needed is not None


def _needed(error: CommandError) -> int:
    return error.needed or 0 if isinstance(error, DiskFull) else 0
