"""A real server for the tests of programs that use the client.

Lives here: starting one in this process, its account, and ignoring the user's own settings.
Lives elsewhere: the pytest fixture (plugin.py), the server (ftpserver/daemon/server.py).

    from ftpclient import Client
    from ftpserver.testing import server

    def test_a_report_is_sent():
        with server() as there, Client() as client:
            client.write("/report", b"…")
            assert (there.home / "report").read_bytes() == b"…"
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftpserver.daemon.server import FtpServer

__all__ = ["PASSWORD", "LocalServer", "server"]

PASSWORD = "correct-horse"
"""The account's password, unless another one is given."""

_HOST = "127.0.0.1"
_PATHS = {"unix", "certificate", "key"}
_VARIABLES = ("FTP_SERVER", "FTP_SERVER_KEY", "FTP_PASSWORD", "NETRC", "XDG_CONFIG_HOME")


@dataclass(frozen=True)
class LocalServer:
    """A server that runs in this process.

    Attributes:
        address: ``USER@HOST:PORT``, for `Client`.
        user, password: The name and password of its account.
        root: The directory of all homes.
        home: The account's files.
        fingerprint: The fingerprint of the server's key; None without TLS.
        known_hosts: A file with that key as its pin, for ``Client(known_hosts=…)``.
        environ: Variables that make `Client` and `ftp` use this server and temporary settings.
        server: The server itself.
    """

    address: str
    user: str
    password: str
    root: Path
    home: Path
    fingerprint: str | None
    known_hosts: Path
    environ: dict[str, str]
    server: FtpServer

    def add_user(self, name: str, password: str = PASSWORD, **values: Any) -> str:
        """Make another account, and return its address.

        Args:
            values: Arguments of `Accounts.add`: ``quota``, ``permissions``, …

        Raises:
            NameTaken, BadAccount
        """
        _add(self.server, name, password, values)
        return f"{name}@{self.address.partition('@')[2]}"


@contextmanager
def server(
    root: str | os.PathLike[str] | None = None,
    *,
    user: str = "alice",
    password: str = PASSWORD,
    quota: int | None = None,
    environ: bool = True,
    **settings: Any,
) -> Iterator[LocalServer]:
    """Run a server in this process while the context is open, on a free port of this machine.

    Meanwhile ``os.environ`` refers to it: ``Client()`` and `ftp` use it without further arguments,
    and the user's own pins, tokens and saved servers are neither read nor written.

    Args:
        root: The directory of all homes, which is kept; None for a temporary one.
        user, password: The account that is made, unless ``root`` has it already.
        quota: The quota of that account, in bytes; None for no limit.
        environ: False to leave ``os.environ`` alone. `LocalServer.environ` has the variables.
        settings: Other fields of `ftpserver.settings.table.Settings`, such as ``plaintext=True``.
            Unlike ``ftpd``, it doesn't wait for the disk unless ``durable=True``.

    Raises:
        StateError: The root cannot be used.
        TypeError: There is no such setting.
    """
    from ftpserver.daemon.assembly import whole_server
    from ftpserver.settings.table import Settings

    with tempfile.TemporaryDirectory(prefix="ftpd-test-", ignore_cleanup_errors=True) as temporary:
        where = Path(temporary, "root") if root is None else Path(root)
        values: dict[str, Any] = {
            "host": _HOST,
            "port": 0,
            "durable": False,
            "grace": 1.0,
            "workers": 1,  # so that tests can inspect all that it does
        }
        values.update(settings)
        for name in _PATHS & values.keys():
            values[name] = Path(values[name])
        with whole_server(Settings(root=where, **values)) as running:
            if not any(account.name == user for account in running.accounts):
                _add(running, user, password, {} if quota is None else {"quota": quota})
            with running.running():
                there = _describe(running, user, password, Path(temporary, "config"))
                with _environ(there.environ if environ else {}):
                    yield there


def _add(running: FtpServer, name: str, password: str, values: dict[str, Any]) -> None:
    from argon2 import PasswordHasher

    hashed = PasswordHasher(1, 8, 1).hash(password)  # fast and weak: enough for tests
    running.accounts.add(name, "", password_hash=hashed, **values)


def _describe(running: FtpServer, user: str, password: str, config: Path) -> LocalServer:
    """Describe a server, and write the files of a client that knows only this server."""
    address = f"{user}@{running.address}"
    environ = {
        "FTP_SERVER": address,
        "FTP_PASSWORD": password,
        "XDG_CONFIG_HOME": str(config),
        "NETRC": os.devnull,
    }
    known_hosts = config / "ftp-client" / "known_hosts"
    known_hosts.parent.mkdir(mode=0o700, parents=True)
    if running.fingerprint is not None:
        known_hosts.write_text(f"{running.address} {running.fingerprint}\n")
        environ["FTP_SERVER_KEY"] = running.fingerprint
    root = running.settings.root.absolute()
    home = running.accounts.get(user).home
    return LocalServer(
        address,
        user,
        password,
        root,
        home,
        running.fingerprint,
        known_hosts,
        environ,
        running,
    )


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    """Set these variables while the context is open, and unset the user's own related ones."""
    if not values:
        yield
        return
    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
