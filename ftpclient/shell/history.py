"""The lines that were given to the shell, kept between runs.

Lives here: the file, private and bounded. A history that can't be kept is no reason to fail.
Lives elsewhere: where a line goes on in the next (lexer.py).

The file has a line for each. One that goes on in the next ends with a carriage return, which no
line has that was typed: to earlier versions they are two lines.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import History

from ftpclient.connection import files
from ftpclient.shell.lexer import whole_lines

_GOES_ON = "\r\n"

KEPT = 1000
"""Lines that are kept at least; the file is cut back to them when it has twice as many."""


class LineHistory(History):
    """Lines of earlier shells and of this one.

    Args:
        path: The file; None for the user's own.
        is_secret: Tells lines that must not be kept.
    """

    def __init__(
        self, path: Path | None = None, *, is_secret: Callable[[str], bool] = lambda line: False
    ) -> None:
        super().__init__()
        self.path = path or files.directory() / "history"
        self._is_secret = is_secret

    def load_history_strings(self) -> Iterable[str]:
        """The lines kept, newest first."""
        try:
            text = self.path.read_bytes().decode("utf-8", "surrogateescape")
            lines = [_read(line) for line in text.replace(_GOES_ON, "\r").split("\n")[:-1]]
            if len(lines) >= 2 * KEPT:
                lines = lines[-KEPT:]
                files.write_private(self.path, "".join(map(_written, lines)))
        except (OSError, ValueError):
            return []
        return lines[::-1]

    def append_string(self, string: str) -> None:
        """Remember a line. One with a secret is forgotten, and so is one after a blank."""
        if string.strip() and not string.startswith(" ") and not self._is_secret(string):
            super().append_string(string)

    def store_string(self, string: str) -> None:
        """Append to the file: other shells may do so at the same time."""
        data = "".join(_written(line) for _, line in whole_lines(string.split("\n")))
        try:
            files.make_parent(self.path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(self.path, flags, 0o600)
        except OSError:
            return
        with os.fdopen(fd, "wb") as file:
            file.write(data.encode("utf-8", "surrogateescape"))


def _read(line: str) -> str:
    return line.replace("\r", "\n")


def _written(line: str) -> str:
    return line.replace("\r", "").replace("\n", _GOES_ON) + "\n"
