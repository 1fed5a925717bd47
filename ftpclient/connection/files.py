"""Where the client keeps its files: known hosts, tokens, names of servers, the shell's history.

Lives here: the directories, writing a private file whole, files of JSON that several runs change.
XDG_CONFIG_HOME moves them.
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
    """The user's directory for this client's settings; made when written to."""
    return _directory(os.environ.get("XDG_CONFIG_HOME"), os.environ.get("HOME"))


@cache
def _directory(config: str | None, home: str | None) -> Path:
    if sys.platform == "linux":  # the usual case is one line, for which no script need wait
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


_NAME = "ftp-client"
NOWHERE = Path("/nonexistent/ftp-client")
"""Where a user without a home has nothing. Nothing is made there."""


def make_parent(path: Path) -> None:
    """Make the directory of a file, private, where this user keeps files.

    Raises:
        OSError: There is no home, it can't be written, or it is somebody else's: what root left in
            the home of another user would be in that user's way.
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
    """Whether nobody else can read a file with secrets, nor has put it there."""
    owned = info.st_uid in (os.geteuid(), 0) or os.geteuid() == 0
    return owned and not info.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other runs of the client from changing a file meanwhile."""
    import fcntl  # imported here: not on every system, and seldom needed

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
    """A private file of JSON with the fields of a struct. Without the file: their defaults.

    Args:
        kind: Every field of it has a default.
    """

    def __init__(self, path: Path, kind: type[Contents]) -> None:
        self.path = path
        self._kind = kind

    def read(self) -> Contents:
        """What is in it. Raises CommandError when that is something else."""
        try:
            data = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return self._kind()
        try:
            return msgspec.json.decode(data, type=self._kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            # it may hold secrets: of what is there, only the place is told
            reason = printable(str(error).partition(" - at ")[0])
            raise CommandError(f"{self.path}: not as ftp wrote it: {reason}") from None

    @contextmanager
    def changing(self) -> Iterator[Contents]:
        """What is in it, to be changed: it is written when the context ends without an error."""
        with locked(self.path):
            contents = self.read()
            yield contents
            text = msgspec.json.format(msgspec.json.encode(contents), indent=2)
            write_private(self.path, text.decode() + "\n")
