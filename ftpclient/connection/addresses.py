"""Server addresses: ``[USER@]HOST[:PORT]``, with or without ``ftpd://``, or ``[USER@]unix:PATH``.

Lives here: parsing and showing.
Lives elsewhere: saved names and the default (servers.py), connecting (connection.py).
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from ftpwire.errors import FtpError

DEFAULT_PORT = 1234

_ADDRESS = (
    r"(?:(?P<user>[^@\s:/]+)@)?(?:\[(?P<six>[^\]\s]+)\]|(?P<host>[^@:\s\[\]/]+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
)


class BadAddress(FtpError):
    """It is not a server's address."""

    code = "bad-address"
    exit_code = 2


_LOCAL = r"(?:(?P<user>[^@\s:/]+)@)?unix:(?P<path>.+)"
_SCHEME = r"(?!unix:)([A-Za-z][A-Za-z0-9+.-]*)://"
_PASSWORD = r"[^@/:]+:(?!/|[0-9]{1,5}/)[^@]*@"
"""A password, as it appears before a host; but not a port and a path, nor a path with an @."""
SCHEME = "ftpd"
FORMS = "[USER@]HOST[:PORT], ftpd://[USER@]HOST[:PORT] or [USER@]unix:PATH"


def check_no_password(text: str) -> None:
    """Refuse ``USER:PASSWORD@HOST``, with or without a scheme. The error does not repeat it.

    Other users can see a command line in the list of processes, and it is in the shell's history.

    Raises BadAddress.
    """
    _, rest = without_scheme(text)
    if ":" not in rest.partition("@")[0] or rest.startswith("unix:"):
        return
    if re.match(_PASSWORD, rest):
        raise BadAddress(
            "a password does not belong in a server's address: leave it out, and set FTP_PASSWORD, "
            "use --password-stdin, or save a token with ftp login"
        )


def without_scheme(text: str) -> tuple[str | None, str]:
    """Return the scheme of a URL in lower case, or None if it has none, and the rest."""
    found = re.match(_SCHEME, text) if "://" in text else None
    return (None, text) if found is None else (found[1].lower(), text[found.end() :])


class ServerAddress(NamedTuple):
    """The address of a server, and the user to log in as (None for the current user).

    Attributes:
        path: Path of a Unix socket on this machine; host and port are not used then.
    """

    host: str
    port: int = DEFAULT_PORT
    user: str | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Parse ``[USER@]HOST[:PORT]``, the same after ``ftpd://``, or ``[USER@]unix:PATH``.

        An IPv6 address is written in brackets.

        Raises:
            BadAddress: It is none of these, or contains a password.
        """
        text = text.strip()
        check_no_password(text)
        local = re.fullmatch(_LOCAL, text) if "unix:" in text else None
        if local is not None:
            return cls("localhost", 0, local["user"], os.path.abspath(local["path"]))
        scheme, rest = without_scheme(text)
        found = re.fullmatch(_ADDRESS, rest if scheme is None else rest.removesuffix("/"))
        if found is None or scheme not in (None, SCHEME):
            raise BadAddress(f"{text!r} is not a server: {_advice(scheme, rest)}")
        port = int(found["port"] or DEFAULT_PORT)
        if not 0 < port < 65536:
            raise BadAddress(f"{text!r}: {port} is not a port")
        user = found["user"] if scheme is None else _decoded(found["user"])
        return cls(found["six"] or found["host"], port, user)

    @property
    def endpoint(self) -> str:
        """``HOST:PORT``, as in the known hosts; or ``unix:PATH``."""
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def login(self) -> str:
        """The user name to log in with."""
        return self.user or current_user()

    def __str__(self) -> str:
        return f"{self.login}@{self.endpoint}"


def _decoded(user: str | None) -> str | None:
    """Return the user name from a URL, with ``%XX`` decoded. Raises BadAddress."""
    if user is None or "%" not in user:
        return user
    from urllib.parse import unquote  # here, because hardly any name needs it

    name = unquote(user)
    if any(character.isspace() or character in "@:/" for character in name):
        raise BadAddress(f"{user!r} in ftpd://… is not a user name")
    return name


def _advice(scheme: str | None, rest: str) -> str:
    """Return what to write instead of an invalid address."""
    if scheme not in (None, SCHEME):
        return f"the scheme must be {SCHEME}://, e.g. {SCHEME}://{rest.partition('/')[0]}"
    if scheme is not None and "/" in rest:
        return f"it cannot have a path: write {SCHEME}://{rest.partition('/')[0]}"
    user, at, host = rest.rpartition("@")
    if _is_ipv6(host):
        return f"write brackets: {user}{at}[{host}], followed by :PORT if needed"
    return f"write {FORMS}"


def _is_ipv6(host: str) -> bool:
    import ipaddress  # here, because only errors need it

    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


def current_user() -> str:
    """Return the name of the user who runs this program."""
    try:
        import getpass  # here, because it is needed only if no name is given

        return getpass.getuser()
    except (OSError, KeyError):
        return "anonymous"
