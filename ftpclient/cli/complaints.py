"""What failed, on stderr: a line each, and one line for ten and more of one cause in a row.

Lives here: holding failures back until it is known how many there are. Lives elsewhere: the words
(app.py), the exit status (main.py).
"""

from __future__ import annotations

from collections.abc import Callable

from ftpwire.errors import CommandError, FtpError

MANY = 10
"""So many failures of one cause in a row are one line."""


class Complaints:
    """Failures that are not printed yet: all of one cause.

    Args:
        write: Prints a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._cause: object = None
        self._lines: list[str] = []
        self._count = 0

    def add(self, error: FtpError, text: str) -> None:
        """Say that something failed, soon."""
        cause = _cause_of(error, text)
        if cause != self._cause:
            self.flush()
            self._cause = cause
        self._count += 1
        if self._count < MANY:
            self._lines.append(text)

    def flush(self) -> None:
        """Print what is held back: something else comes now."""
        count, self._count = self._count, 0
        lines, self._lines = self._lines, []
        self._cause = None
        if count >= MANY:
            lines = [f"{lines[0]} (the first of {count:,} such failures in a row)"]
        for line in lines:
            self._write(line)


def _cause_of(error: FtpError, text: str) -> object:
    """What two failures have in common; an error without a code of its own has only its words."""
    if error.code != CommandError.code:
        return error.code
    return text.partition(": ")[2] or text
