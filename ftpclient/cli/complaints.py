"""Failures on stderr: one line for each, or one for ten or more in a row with the same cause.

Lives here: holding failures back until their number is known. Lives elsewhere: their texts
(app.py), the exit status (main.py).
"""

from __future__ import annotations

from collections.abc import Callable

from ftpwire.errors import CommandError, FtpError

MANY = 10
"""From this number on, failures in a row with the same cause share one line."""


class Complaints:
    """Failures that are not printed yet, all with the same cause.

    Args:
        write: A function that prints a line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._cause: object = None
        self._lines: list[str] = []
        self._count = 0

    def add(self, error: FtpError, text: str) -> None:
        """Add a failure, to be printed later."""
        cause = _cause_of(error, text)
        if cause != self._cause:
            self.flush()
            self._cause = cause
        self._count += 1
        if self._count < MANY:
            self._lines.append(text)

    def flush(self) -> None:
        """Print the failures that are held back, before any other output."""
        count, self._count = self._count, 0
        lines, self._lines = self._lines, []
        self._cause = None
        if count >= MANY:
            lines = [f"{lines[0]} (the first of {count:,} such failures in a row)"]
        for line in lines:
            self._write(line)


def _cause_of(error: FtpError, text: str) -> object:
    """Return the error's code, or its text without the path if the code is the general one."""
    if error.code != CommandError.code:
        return error.code
    return text.partition(": ")[2] or text
