"""Words that name a server and a path there: ``USER@HOST:PATH``, ``NAME:PATH``, ``ftpd://…/PATH``.

Lives here: which words do, what they mean, and that a command has one server. Lives elsewhere:
addresses (connection/addresses.py), saved names (connection/servers.py), which arguments are paths
on the server (group.py).

A word is a server's only with an at-sign before its first colon, as a URL, or when what is before
its first colon is a saved name: no host is looked up because a file has a colon in its name.
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
    """A server and a path there.

    Attributes:
        word: As it was written.
        server: As -s takes it.
        path: From the root, which is the home. Empty: the word is a server alone.
        written: The path as it was written.
        start: The directory of a bookmark; for a server alone.
    """

    word: str
    server: str
    path: str = ""
    written: str = ""
    start: str = ""

    def find(self) -> Server:
        """The server. Raises BadAddress."""
        return SavedServers().find(self.server)


def read(word: str) -> Location | None:
    """The place that a word means; None for a path without a server.

    Raises:
        UsageError: It is half of one: a URL of another scheme, or a port where a path belongs.
        BadAddress: There is a password in it.
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
    """The same for a word that may be a server alone: ``USER@HOST``, a saved name, a URL."""
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
    """What `connect` and `open` take: SERVER, SERVER:PATH, or a URL. Raises BadAddress."""
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
    """Whether there is a saved server of this name."""
    return name in SavedServers().names()


def taken(app: App, words: Sequence[str], hint: str = "") -> list[str]:
    """The paths that words mean. If they name a server, it is the one of this command.

    Args:
        hint: What to do instead of naming a server in some of the words only.

    Raises:
        UsageError: They name two servers, or another than -s does, or than the shell has.
    """
    found = [read(word) for word in words]
    named = [location for location in found if location is not None]
    if not named:
        return list(words)
    first, server = named[0], named[0].find()
    for location in named[1:]:
        if not _is_at(location.find(), server) and not _is_at(server, location.find()):
            raise UsageError(
                f"a command has one server: {first.word} and {location.word} are on two"
            )
    without = next(
        (word for word, location in zip(words, found, strict=True) if not location), None
    )
    if without is not None and app.server is None and not app.interactive:
        hint = hint or f"write {first.server}{_separator(first)}{without} for a path there"
        raise UsageError(f"{first.word} names a server, and {without} doesn't: {hint}")
    _use(app, first, server)
    for location in named:
        _keep_pattern(app, location)
    return [
        location.path if location else word for word, location in zip(words, found, strict=True)
    ]


def check_local(word: str, instead: str) -> None:
    """Refuse a place where a local path belongs. ``instead`` says what to do. Raises UsageError."""
    if read(word) is not None:
        raise UsageError(
            f"{word} is on a server: {instead} (a local file of that very name: ./{word})"
        )


def _of_url(word: str, scheme: str, rest: str) -> Location:
    check_no_password(word)
    server, slash, path = rest.partition("/")
    if scheme != SCHEME:
        raise UsageError(
            f"{word}: the scheme is {SCHEME}://, as {SCHEME}://{server}/{path} (a file of that very"
            f" name: ./{word})"
        )
    return Location(word, f"{SCHEME}://{server}", "/" + path, slash + path)


def _with_user(word: str, server: str, path: str) -> Location:
    if server.endswith("@unix"):
        raise UsageError(f"{word}: a Unix socket is named before the command: ftp -s {word} …")
    if port := re.fullmatch(_PORT, path):
        raise UsageError(
            f"{word}: a port is written as {SCHEME}://{server}:{port[1]}{port[2] or '/PATH'} "
            f"(a file of that name: {server}:./{path})"
        )
    return Location(word, server, from_home(path), path)


def from_home(path: str) -> str:
    """A path as a word with a server has it: from the root, which is the home."""
    if path == "~" or path.startswith("~/"):
        path = path[1:]
    return path if path.startswith("/") else "/" + path


def _separator(location: Location) -> str:
    return "/" if location.server.startswith(f"{SCHEME}://") else ":"


def _is_at(named: Server, other: Server) -> bool:
    """Whether a server that somebody named is this one; without a user, any user's."""
    here, there = named.address, other.address
    return here.endpoint == there.endpoint and here.user in (None, there.login)


def _use(app: App, location: Location, server: Server) -> None:
    if app.server is None and not app.interactive:
        try:
            usual = choose(None)
        except FtpError:
            usual = None  # FTP_SERVER is no address, and is not needed
        if usual is None or not _is_at(server, usual):
            app.use(location.server)
        return
    if _is_at(server, app.chosen):
        return
    current = printable(str(app.address))
    if app.interactive:
        raise UsageError(
            f"{location.word} is on another server than this shell's, {current}: "
            f"open {location.server} goes there"
        )
    raise UsageError(f"-s names {current}, and {location.word} is on another server: leave one out")


def _keep_pattern(app: App, location: Location) -> None:
    """Of a quoted pattern in the shell: quoted it stays."""
    pattern = app.shell.patterns.get(location.word)
    if pattern is None:
        return
    at = 0
    for character in location.word[: len(location.word) - len(location.written)]:
        quoted = character in _MAGIC and pattern.startswith(f"[{character}]", at)
        at += 3 if quoted else 1
    app.shell.patterns[location.path] = from_home(pattern[at:])
