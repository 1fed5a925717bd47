"""The client's own files: known hosts, tokens, names of servers, the shell's history, and so on.

Lives here: the directory, writing a private file atomically, JSON files that several runs change.
XDG_CONFIG_HOME sets another directory.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from ftpwire.errors import CommandError
from ftpwire.paths import printable

Contents = TypeVar("Contents", bound=msgspec.Struct)


def directory() -> Path:
    """Return the user's directory for this client's settings. It is created on the first write."""
    return _directory(os.environ.get("XDG_CONFIG_HOME"), os.environ.get("HOME"))


@cache
def _directory(config: str | None, home: str | None) -> Path:
    if sys.platform == "linux":  # the common case, without the import that follows
        if config and os.path.isabs(config):
            return Path(config, _NAME)
        if home and os.path.isabs(home):
            return Path(home, ".config", _NAME)
    import platformdirs

    try:
        found = Path(platformdirs.user_config_dir(_NAME, appauthor=False))
    except RuntimeError:  # no HOME, and a user without an entry; older releases give a "~"
        return NOWHERE
    return found if found.is_absolute() else NOWHERE


def state_directory() -> Path:
    """Return the user's directory for what this client notes itself. It is created on the first
    write. XDG_STATE_HOME sets another one."""
    state, home = os.environ.get("XDG_STATE_HOME"), os.environ.get("HOME")
    if sys.platform == "linux":
        if state and os.path.isabs(state):
            return Path(state, _NAME)
        if home and os.path.isabs(home):
            return Path(home, ".local", "state", _NAME)
    import platformdirs

    try:
        found = Path(platformdirs.user_state_dir(_NAME, appauthor=False))
    except RuntimeError:  # as in `_directory`
        return NOWHERE
    return found if found.is_absolute() else NOWHERE


_NAME = "ftp-client"
NOWHERE = Path("/nonexistent/ftp-client")
"""A path that never exists, for a user without a home. Nothing is created there."""


def make_parent(path: Path) -> None:
    """Create the directory of a file with mode 0700, if it is this user's to create.

    Raises:
        OSError: There is no home, it cannot be written, or it belongs to another user: files that
            root leaves in the home of a user would be unwritable for that user.
    """
    if NOWHERE in path.parents:
        raise FileNotFoundError(errno.ENOENT, "there is no home directory: set HOME", str(path))
    there = next(one for one in path.parents if one.exists())
    if os.geteuid() == 0 != there.stat().st_uid:
        raise PermissionError(errno.EPERM, f"{there} belongs to another user", str(path))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)


def write_private(path: Path, text: str) -> None:
    """Write a file that only the user can read, whole or not at all. Raises as `make_parent`."""
    make_parent(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(temporary, path)


def is_private(info: os.stat_result) -> bool:
    """Return True if no other user can read a file with secrets, or has put it there."""
    owned = info.st_uid in (os.geteuid(), 0) or os.geteuid() == 0
    return owned and not info.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other runs of the client from changing a file within the context."""
    import fcntl  # here, because it is seldom needed, and not available on every system

    make_parent(path)
    lock = os.open(
        path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class JsonFile(Generic[Contents]):
    """A private JSON file with the fields of a struct. Without the file they have their defaults.

    Args:
        path: The file.
        kind: The struct. All of its fields need defaults.
    """

    def __init__(self, path: Path, kind: type[Contents]) -> None:
        self.path = path
        self._kind = kind

    def read(self) -> Contents:
        """Return the contents. Raises CommandError if they are invalid."""
        try:
            data = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return self._kind()
        try:
            return msgspec.json.decode(data, type=self._kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # the file may hold secrets, so the error says only where it is wrong
            reason = printable(str(error).partition(" - at ")[0])
            raise CommandError(f"{self.path}: not in ftp's format: {reason}") from None

    @contextmanager
    def changing(self) -> Iterator[Contents]:
        """Yield the contents to change. They are written if the context ends without an error."""
        with locked(self.path):
            contents = self.read()
            yield contents
            text = msgspec.json.format(msgspec.json.encode(contents), indent=2)
            write_private(self.path, text.decode() + "\n")
