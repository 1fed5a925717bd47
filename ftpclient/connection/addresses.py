"""Which server: ``[USER@]HOST[:PORT]``, or ``[USER@]unix:PATH``, as people write it.

Lives here: parsing and showing. Lives elsewhere: saved names and the default (servers.py),
connecting (connection.py).
"""

from __future__ import annotations

import getpass
import os
import re
from dataclasses import dataclass

from ftpwire.errors import FtpError

DEFAULT_PORT = 1234

_ADDRESS = re.compile(
    r"(?:(?P<user>[^@\s]*)@)?(?:\[(?P<six>[^\]\s]+)\]|(?P<host>[^@:\s\[\]/]+))(?::(?P<port>[0-9]{1,5}))?"
)


class BadAddress(FtpError):
    """Not a server's address."""

    code = "bad-address"
    exit_code = 2


_LOCAL = re.compile(r"(?:(?P<user>[^@\s/]*)@)?unix:(?P<path>.+)")


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is, and as whom to log in (None: as the current user).

    Attributes:
        path: Of a Unix socket of this machine; host and port say nothing then.
    """

    host: str
    port: int = DEFAULT_PORT
    user: str | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Read ``[USER@]HOST[:PORT]``, IPv6 addresses in brackets, or ``[USER@]unix:PATH``.

        Raises:
            BadAddress: It is neither.
        """
        local = _LOCAL.fullmatch(text.strip())
        if local is not None and local["user"] != "":
            return cls("localhost", 0, local["user"], os.path.abspath(local["path"]))
        found = _ADDRESS.fullmatch(text.strip())
        if found is None or found["user"] == "":
            raise BadAddress(
                f"{text!r} is not a server: write [USER@]HOST[:PORT] or [USER@]unix:PATH"
            )
        port = int(found["port"] or DEFAULT_PORT)
        if not 0 < port < 65536:
            raise BadAddress(f"{text!r}: {port} is not a port")
        return cls(found["six"] or found["host"], port, found["user"])

    @property
    def endpoint(self) -> str:
        """``HOST:PORT``, the key of its pin; or ``unix:PATH``."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def login(self) -> str:
        """The name to log in with."""
        return self.user or current_user()

    def __str__(self) -> str:
        return f"{self.login}@{self.endpoint}"


def current_user() -> str:
    """The name of whoever runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "anonymous"
