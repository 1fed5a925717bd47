"""Saved servers: names for addresses, and the default server.

Lives here: the file of names, and how ``-s`` and FTP_SERVER become an address.
Lives elsewhere: parsing addresses (addresses.py), credentials (credentials.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ftpclient.connection import files
from ftpclient.connection.addresses import (
    BadAddress,
    ServerAddress,
    check_no_password,
    without_scheme,
)
from ftpwire.errors import AlreadyExists, NotFound
from ftpwire.paths import printable

ENVIRONMENT = "FTP_SERVER"
KEY = "FTP_SERVER_KEY"
"""Environment variable with the fingerprint of the key of FTP_SERVER's server."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class Server(msgspec.Struct, frozen=True):
    """A server to use.

    Attributes:
        address: Its address.
        plaintext: True to connect without TLS.
    """

    address: ServerAddress
    plaintext: bool = False


class _Saved(msgspec.Struct, omit_defaults=True):
    address: str
    plaintext: bool = False
    path: str = ""
    """The directory to start in; empty for the home."""

    def server(self) -> Server:
        return Server(ServerAddress.parse(self.address), self.plaintext)


class _Contents(msgspec.Struct):
    default: str | None = None
    servers: dict[str, _Saved] = {}


class SavedServers:
    """The user's names for servers, and the default. A server without a name has its address as
    key.

    Args:
        path: The file; None for the user's own.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._file = files.JsonFile(path or files.directory() / "servers.json", _Contents)

    def find(self, text: str) -> Server:
        """Return the server for a saved name or an address. Raises BadAddress."""
        saved = self._file.read().servers
        if text in saved:
            return saved[text].server()
        address = ServerAddress.parse(text)
        known = saved.get(str(address))
        return Server(address) if known is None else known.server()

    def default(self) -> Server:
        """Return the server of the last log-in, else the local machine."""
        contents = self._file.read()
        saved = None if contents.default is None else contents.servers.get(contents.default)
        return Server(ServerAddress("localhost")) if saved is None else saved.server()

    def all(self) -> Iterator[tuple[str, Server, bool]]:
        """Yield each name, its server, and True if it is the default; sorted by name."""
        contents = self._file.read()
        for name, saved in sorted(contents.servers.items()):
            yield name, saved.server(), name == contents.default

    def names(self) -> frozenset[str]:
        """Return all names, and the addresses of servers without one."""
        return frozenset(self._file.read().servers)

    def start_of(self, name: str) -> str:
        """Return the directory that a saved server starts in; empty for the home."""
        saved = self._file.read().servers.get(name)
        return "" if saved is None else saved.path

    def bookmark(self, server: Server, name: str, user: str, path: str) -> None:
        """Save a server and a directory under a name. The default does not change.

        Raises:
            AlreadyExists: The name belongs to another server.
        """
        address = str(server.address._replace(user=user))
        with self._file.changing() as contents:
            there = contents.servers.get(name)
            if there is not None and there.address != address:
                raise AlreadyExists(
                    f"{name}: names {there.address} already (servers --remove {name} removes it)"
                )
            contents.servers[name] = _Saved(address, server.plaintext, path)

    def make_default(self, name: str) -> None:
        """Make a saved server the default. Raises NotFound."""
        with self._file.changing() as contents:
            contents.default = _saved_as(name, contents)

    def remove(self, name: str) -> None:
        """Remove a name, or the address of a server without one. Raises NotFound."""
        with self._file.changing() as contents:
            del contents.servers[_saved_as(name, contents)]

    def forget(self, address: ServerAddress) -> list[str]:
        """Remove all names of a user at a server. Return them.

        If one of them was the default, there is none afterwards.
        """
        with self._file.changing() as contents:
            names = [name for name, one in contents.servers.items() if one.address == str(address)]
            for name in names:
                del contents.servers[name]
            if contents.default not in contents.servers:
                contents.default = None
        return names

    def default_name(self) -> str | None:
        """Return the name of the default, or its address; None if there is none."""
        contents = self._file.read()
        return contents.default if contents.default in contents.servers else None

    def save(self, server: Server, name: str | None = None, *, default: bool = True) -> None:
        """Save a server, under a name or its address.

        Args:
            default: True to make it the default. If there is none, it becomes the default anyway.
        """
        key = key_of(server, name)
        with self._file.changing() as contents:
            contents.servers[key] = _Saved(str(server.address), server.plaintext)
            if default or contents.default not in contents.servers:
                contents.default = key


def key_of(server: Server, name: str | None) -> str:
    """Return the key that a server is saved under. Raises BadAddress for an invalid name."""
    return str(server.address) if name is None else check_name(name)


def key_of_environment(server: ServerAddress) -> str | None:
    """Return FTP_SERVER_KEY if it applies to this server: only to the host of FTP_SERVER."""
    key, meant = os.environ.get(KEY), os.environ.get(ENVIRONMENT)
    if not key or not meant:
        return None
    return key if SavedServers().find(meant).address.endpoint == server.endpoint else None


def _saved_as(text: str, contents: _Contents) -> str:
    """Return the name or address that a server is saved under. Raises NotFound, BadAddress."""
    if text in contents.servers:
        return text
    check_no_password(text)
    scheme, _ = without_scheme(text)
    key = text if scheme is None else str(ServerAddress.parse(text))
    if key not in contents.servers:
        raise NotFound(f"{printable(text)}: no such server is saved (ftp servers)")
    return key


def check_name(name: str) -> str:
    """Return ``name`` if it is valid for a server. Raises BadAddress."""
    check_no_password(name)
    if not re.fullmatch(_NAME, name):
        raise BadAddress(f"{name!r} is not a server name: use letters, digits, '.', '_' and '-'")
    return name


def choose(text: str | None) -> Server:
    """Return the server given with -s, else that of FTP_SERVER, else the default.

    Raises BadAddress. An empty text, probably an unset variable, never means the default.
    """
    if text is None:
        text = os.environ.get(ENVIRONMENT)
    elif not text.strip():
        raise BadAddress("an empty server: write [USER@]HOST[:PORT] or a saved name")
    return SavedServers().find(text) if text else SavedServers().default()
