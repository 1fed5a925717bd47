"""A real server for the tests of programs that use the client.

Lives here: starting one in this process, its account, and what keeps the user's own settings out.
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
"""Of the account, unless another one is given."""

_HOST = "127.0.0.1"
_PATHS = {"unix", "certificate", "key"}
_VARIABLES = ("FTP_SERVER", "FTP_SERVER_KEY", "FTP_PASSWORD", "NETRC", "XDG_CONFIG_HOME")


@dataclass(frozen=True)
class LocalServer:
    """A server that runs in this process.

    Attributes:
        address: ``USER@HOST:PORT``, for `Client`.
        user, password: Of its account.
        root: The directory of all homes.
        home: The account's files.
        fingerprint: Of its key; None without TLS.
        known_hosts: A file with that key as its pin, for ``Client(known_hosts=…)``.
        environ: The variables that have `Client` and `ftp` use this server and temporary settings.
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
        """Make a further account; returns its address.

        Args:
            values: As of `Accounts.add`: ``quota``, ``permissions``, …

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

    Meanwhile ``os.environ`` names it: ``Client()`` and `ftp` use it without further arguments, and
    the user's own pins, tokens and saved servers are neither read nor written.

    Args:
        root: The directory of all homes, which stays; None for a temporary one.
        user, password: Of the account that is made, unless ``root`` has it already.
        quota: Of that account, in bytes; None for none.
        environ: False: leave ``os.environ`` alone. `LocalServer.environ` has what would be set.
        settings: Others of `ftpserver.settings.table.Settings`, as ``plaintext=True``. Unlike
            ``ftpd`` it doesn't wait for the disk (``durable=True`` does).

    Raises:
        StateError: The root can't be used.
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
            "workers": 1,  # what runs here is to be seen from here
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

    hashed = PasswordHasher(1, 8, 1).hash(password)  # in no time: nothing here is worth more
    running.accounts.add(name, "", password_hash=hashed, **values)


def _describe(running: FtpServer, user: str, password: str, config: Path) -> LocalServer:
    """What tests need to know; the files of a client that knows nothing but this server."""
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
    """Have these variables while the context is open, and none of the user's that say the same."""
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
