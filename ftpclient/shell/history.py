"""The history of shell lines, which is kept between runs.

Lives here: the file, which is private and bounded. Errors of the file are ignored.
Lives elsewhere: joining continued lines (lexer.py).

The file has one line for each: the server, a tab, and the line. Lines of earlier versions have no
server. A line that continues in the next one ends with a carriage return, which typed lines never
contain; earlier versions read it as two lines.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from prompt_toolkit.history import History

from ftpclient.connection import files
from ftpclient.shell.lexer import whole_lines

_GOES_ON = "\r\n"
_WITH_SERVER = re.compile(r"(\S+@\S+)\t(.*)", re.DOTALL)

_PASSWORD = "(?:password|passwd|passphrase|secret|token|api[_-]?key)"
_SECRETS = (
    re.compile(r"://[^\s/@:]*:[^\s/@]+@"),  # in a URL
    re.compile(rf"(?i)\b\w*{_PASSWORD}=\S"),
    re.compile(rf"(?i)(?<!\S)--?(?:{_PASSWORD}|pass)[= ]+[^-\s]"),
    # of curl and others, which are local commands
    re.compile(r"(?:^\W*!|\|).*(?<!\S)(?:-u|--user|--proxy-user)[= ]?[^\s:]+:\S"),
)
"""Patterns of passwords in our commands and in local ones (``!curl …``)."""

KEPT = 1000
"""Lines that are kept at least; the file is truncated to them when it has twice as many."""


class LineHistory(History):
    """The lines of earlier shells and of this one.

    Args:
        path: The file; None for the user's own.
        is_secret: Returns True for lines that must not be kept. Lines that look as if they had a
            password are never kept.
        is_command: Returns True for lines that begin with a command. Any other line may be a
            password typed at the prompt by mistake: the arrow keys recall it, but it isn't
            written to the file.
        server: Returns the current server; empty for none.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        is_secret: Callable[[str], bool] = lambda line: False,
        is_command: Callable[[str], bool] = lambda line: True,
        server: Callable[[], str] = str,
    ) -> None:
        super().__init__()
        self._server = server
        self._servers: dict[str, set[str]] = {}
        self.path = path or files.directory() / "history"
        self._is_secret = is_secret
        self._is_command = is_command

    def load_history_strings(self) -> Iterable[str]:
        """Return the lines in the file, newest first."""
        try:
            text = self.path.read_bytes().decode("utf-8", "surrogateescape")
            lines = [_read(line) for line in text.replace(_GOES_ON, "\r").split("\n")[:-1]]
            if len(lines) >= 2 * KEPT:
                lines = lines[-KEPT:]
                kept = "".join(_written(line, server) for server, line in lines)
                files.write_private(self.path, kept)
        except (OSError, ValueError):
            return []
        for server, line in lines:
            self._servers.setdefault(line, set()).add(server)
        return [line for _, line in lines[::-1]]

    def last_of_server(self, begins: str) -> str | None:
        """Return the last line given to the current server that continues ``begins``."""
        server = self._server()
        for line in reversed(self.get_strings()):
            if line.startswith(begins) and line != begins and server in self._servers.get(line, ()):
                return line
        return None

    def append_string(self, string: str) -> None:
        """Add a line, unless it has a secret or begins with a blank."""
        if not string.strip() or string.startswith(" ") or shows_password(string):
            return
        if not self._is_secret(string):
            self._servers.setdefault(string, set()).add(self._server())
            super().append_string(string)

    def store_string(self, string: str) -> None:
        """Append a line to the file. Other shells may append at the same time."""
        if not self._is_command(string):
            return
        server = self._server()
        data = "".join(_written(line, server) for _, line in whole_lines(string.split("\n")))
        try:
            files.make_parent(self.path)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            fd = os.open(self.path, flags, 0o600)
        except OSError:
            return
        with os.fdopen(fd, "wb") as file:
            file.write(data.encode("utf-8", "surrogateescape"))


def shows_password(line: str) -> bool:
    """Return whether a line looks as if it had a password."""
    return any(secret.search(line) for secret in _SECRETS)


def _read(line: str) -> tuple[str, str]:
    """Return the server and the shell line in a line of the file."""
    line = line.replace("\r", "\n")
    found = _WITH_SERVER.fullmatch(line)
    return ("", line) if found is None else (found[1], found[2])


def _written(line: str, server: str) -> str:
    line = line.replace("\r", "").replace("\n", _GOES_ON)
    return f"{server}\t{line}\n" if server else f"{line}\n"
