"""Words that name a server and a path: ``USER@HOST:PATH``, ``NAME:PATH``, ``ftpd://…/PATH``.

Lives here: recognizing and parsing such words, and the rule that a command has one server. Lives
elsewhere: addresses (connection/addresses.py), saved names (connection/servers.py), which
arguments are remote paths (group.py).

A word names a server only if it has an at sign before its first colon, is a URL, or has a saved
name before its first colon: a colon in a file's name never causes a host to be looked up.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ftpclient.cli.app import App, UsageError
from ftpclient.connection.addresses import (
    SCHEME,
    BadAddress,
    ServerAddress,
    check_no_password,
    without_scheme,
)
from ftpclient.connection.servers import SavedServers, Server, choose
from ftpwire.errors import FtpError
from ftpwire.paths import printable

_USER_AND_HOST = r"[^@:/\s]+@(?:\[[^\]\s]+\]|[^@:/\s\[\]]+)"
_WITH_USER = rf"(?s)({_USER_AND_HOST}):(.*)"
_WITH_NAME = r"(?s)([A-Za-z0-9][A-Za-z0-9._-]*):(.*)"
_WITH_PASSWORD = r"(?s)[^@:/\s]+:[^@]*@[^@:/\s]+:.*"
_PORT = r"(?s)([0-9]{1,5})(?::(/.*))?"
_MAGIC = "*?["


class Location(msgspec.Struct, frozen=True):
    """A server and a path on it.

    Attributes:
        word: The word as it was typed.
        server: The server, in the form that -s takes.
        path: The absolute path (the root is the home); empty if the word names only a server.
        written: The path as it was typed.
        start: The directory of a bookmark, if the word names only a server.
    """

    word: str
    server: str
    path: str = ""
    written: str = ""
    start: str = ""

    def find(self) -> Server:
        """Return the server. Raises BadAddress."""
        return SavedServers().find(self.server)


def read(word: str) -> Location | None:
    """Return the location that a word names; None for a path without a server.

    Raises:
        UsageError: The word is a URL of another scheme, or has a port in place of the path.
        BadAddress: It contains a password.
    """
    if ":" not in word or word.startswith(("/", ":")):
        return None
    scheme, rest = without_scheme(word)
    if scheme is not None:
        return _of_url(word, scheme, rest)
    if re.fullmatch(_WITH_PASSWORD, word):
        check_no_password(word)
    if found := re.fullmatch(_WITH_USER, word):
        return _with_user(word, *found.groups())
    found = re.fullmatch(_WITH_NAME, word)
    if found is None or not is_saved(found[1]):
        return None
    return Location(word, found[1], from_home(found[2]), found[2])


def read_server(word: str) -> Location | None:
    """Return the location that a word names, which may be only a server.

    That is ``USER@HOST``, a saved name or a URL. Raises as `read`.
    """
    saved = SavedServers()
    if word in saved.names():
        return Location(word, word, start=saved.start_of(word))
    check_no_password(word)
    scheme, rest = without_scheme(word)
    if scheme == SCHEME and "/" not in rest:
        return Location(word, word)
    if "@" in word.partition(":")[0]:
        try:
            ServerAddress.parse(word)
        except BadAddress:
            pass
        else:
            return Location(word, word)
    return read(word)


def of_connect(word: str) -> Location:
    """Return the location of an argument of `connect` or `open`.

    That is SERVER, SERVER:PATH, or a URL. Raises as `read`.
    """
    found = read_server(word)
    if found is not None:
        return found
    try:
        ServerAddress.parse(word)
    except BadAddress:
        host, _, path = word.partition(":")
        if not path.startswith(("/", "~")) or path.startswith("//"):
            raise
        ServerAddress.parse(host)
        return Location(word, host, from_home(path), path)
    return Location(word, word)


def is_saved(name: str) -> bool:
    """Return whether a server is saved under this name."""
    return name in SavedServers().names()


def taken(app: App, words: Sequence[str], hint: str = "") -> list[str]:
    """Return the paths of words. If they name a server, the command uses that one.

    Args:
        hint: The advice for a command in which only some of the words name a server.

    Raises:
        UsageError: The words name two servers, or a server other than that of -s or the shell.
    """
    found = [read(word) for word in words]
    named = [location for location in found if location is not None]
    if not named:
        return list(words)
    first, server = named[0], named[0].find()
    for location in named[1:]:
        if not _is_at(location.find(), server) and not _is_at(server, location.find()):
            raise UsageError(
                f"{first.word} and {location.word} are on two servers; a command can use only one"
            )
    without = next(
        (word for word, location in zip(words, found, strict=True) if not location), None
    )
    if without is not None and app.server is None and not app.interactive:
        hint = hint or f"write {first.server}{_separator(first)}{without} for a path there"
        raise UsageError(f"{first.word} names a server, but {without} doesn't: {hint}")
    _use(app, first, server)
    for location in named:
        _keep_pattern(app, location)
    return [
        location.path if location else word for word, location in zip(words, found, strict=True)
    ]


def check_local(word: str, instead: str) -> None:
    """Refuse a remote location in place of a local path.

    Args:
        instead: The advice in the error's text.

    Raises:
        UsageError: The word names a server.
    """
    if read(word) is not None:
        raise UsageError(
            f"{word} is on a server: {instead} (for a local file of that name, write ./{word})"
        )


def _of_url(word: str, scheme: str, rest: str) -> Location:
    check_no_password(word)
    server, slash, path = rest.partition("/")
    if scheme != SCHEME:
        raise UsageError(
            f"{word}: unknown scheme; write {SCHEME}://{server}/{path} (for a local file of that "
            f"name, ./{word})"
        )
    return Location(word, f"{SCHEME}://{server}", "/" + path, slash + path)


def _with_user(word: str, server: str, path: str) -> Location:
    if server.endswith("@unix"):
        raise UsageError(f"{word}: name a Unix socket before the command: ftp -s {word} …")
    if port := re.fullmatch(_PORT, path):
        raise UsageError(
            f"{word}: to give a port, write {SCHEME}://{server}:{port[1]}{port[2] or '/PATH'} "
            f"(for a file of that name, {server}:./{path})"
        )
    return Location(word, server, from_home(path), path)


def from_home(path: str) -> str:
    """Return the path of a word with a server as an absolute one; the root is the home."""
    if path == "~" or path.startswith("~/"):
        path = path[1:]
    return path if path.startswith("/") else "/" + path


def _separator(location: Location) -> str:
    return "/" if location.server.startswith(f"{SCHEME}://") else ":"


def _is_at(named: Server, other: Server) -> bool:
    """Return whether a named server is the other one. A name without a user fits any user."""
    here, there = named.address, other.address
    return here.endpoint == there.endpoint and here.user in (None, there.login)


def _use(app: App, location: Location, server: Server) -> None:
    if app.server is None and not app.interactive:
        try:
            usual = choose(None)
        except FtpError:
            usual = None  # FTP_SERVER is not a valid address, but isn't needed here
        if usual is None or not _is_at(server, usual):
            app.use(location.server)
        return
    if _is_at(server, app.chosen):
        return
    current = printable(str(app.address))
    if app.interactive:
        raise UsageError(
            f"{location.word} is not on this shell's server, {current}: "
            f"use open {location.server} first"
        )
    raise UsageError(f"-s names {current}, but {location.word} is on another server")


def _keep_pattern(app: App, location: Location) -> None:
    """Keep the quotes of a shell word's pattern for the path that replaces the word."""
    pattern = app.shell.patterns.get(location.word)
    if pattern is None:
        return
    at = 0
    for character in location.word[: len(location.word) - len(location.written)]:
        quoted = character in _MAGIC and pattern.startswith(f"[{character}]", at)
        at += 3 if quoted else 1
    app.shell.patterns[location.path] = from_home(pattern[at:])
