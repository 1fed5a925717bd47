"""Which server a home belongs to: a restored copy of that server must not use it.

Lives here: the server's id, and the note with it in a home's staging directory.
Lives elsewhere: refusing log-ins because of it (accounts/authenticator.py), cleaning (recount.py),
reporting it (admin/verify.py).

A copy of a server's state has the same accounts, and opens the same homes if they are outside its
root. It would take their staging files for leftovers of a crash of its own. So the first server
that uses such a home writes its id there, and no other server uses it. The id is random, and a copy
chooses another one at its first start. A copy is recognized by its backup.json, by the inode of
ROOT/.ftpd, or by its device, which changes for the same directory only with a reboot. A home inside
the root is copied along with it: it always belongs to its own server, and has no note.

There is no lock: several servers that share a database have one id.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, delete, insert, select
from sqlalchemy.exc import OperationalError

from ftpserver.database import durable, reading
from ftpserver.schema import server
from ftpserver.storage.home_staging import OWNER_NAME
from ftpserver.storage.open_home import give_to_owner, open_staging
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY, rename_new

_MOST = 8192
"""Maximum bytes read of a note."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NO_NOTE = frozenset(
    {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOENT}
    | {errno.ENOTDIR, errno.ELOOP}
)
"""Errors of writing a note that are ignored: using the home will fail, and report them."""


@dataclass(frozen=True)
class Owner:
    """A server that has left its note in a home. ``root``: its directory of homes, for display."""

    id: str
    root: str

    def __str__(self) -> str:
        return f"server {paths.printable(self.id)} of {paths.printable(self.root)}"


def belongs_to(other: Owner) -> str:
    """Return why an account's log-ins are refused, for the administrator."""
    return f"the home belongs to {other}"


def identify(engine: Engine, state: Path, *, copied: bool) -> str:
    """Return the id of the starting server: a new one if the state is a copy of another server's.

    Args:
        copied: True if it is known to be a copy.
    """
    info = os.stat(state)
    device, inode, boot = str(info.st_dev), str(info.st_ino), _boot()
    with durable(engine).begin() as connection:
        row = connection.execute(select(server)).first()
        known = row is not None and not copied and row.inode == inode
        if row is not None and known and (row.device == device or row.boot != boot):
            found = str(row.id)
        else:
            found = secrets.token_hex(8)
        here = {"id": found, "device": device, "inode": inode, "boot": boot}
        if row is None or row._asdict() != here:
            connection.execute(delete(server))
            connection.execute(insert(server).values(here))
    return found


def _boot() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""  # then another device always counts as another directory


def identity(engine: Engine) -> str | None:
    """Return the id of the server that has this state; None before its first start."""
    try:
        with reading(engine).connect() as connection:
            found: str | None = connection.execute(select(server.c.id)).scalar()
    except OperationalError:
        return None  # the state is from an earlier version
    return found


class Ownership:
    """The owners of the homes of one root's accounts.

    Args:
        server_id: The server's id; None if it was never started: then no owner is known.
    """

    def __init__(self, server_id: str | None, root: Path) -> None:
        self.me = None if server_id is None else Owner(server_id, str(root.absolute()))
        self._root = root

    def other(self, home: Path) -> Owner | None:
        """Return the other server that a home belongs to, or None. Writes nothing."""
        if self.me is None or self._is_inside(home):
            return None
        with suppress(OSError), _staging_of(home) as (_, staging):
            found = _read(staging)
            if found is not None and found.id != self.me.id:
                return found
        return None

    def claim(self, home: Path, *, use: bool = True) -> Owner | None:
        """Mark a home as this server's, unless another server has; return that one.

        Args:
            use: True to make a missing staging directory, because the home is going to be used.
        """
        if self.me is None or self._is_inside(home):
            return None
        try:
            with _staging_of(home, make=use) as (directory, staging):
                while (found := _read(staging)) is None:
                    _write(directory, staging, self.me)
                return None if found.id == self.me.id else found
        except OSError as error:
            if error.errno not in _NO_NOTE:
                raise
            return None

    def take(self, home: Path) -> None:
        """Mark a home as this server's, even if it is another one's. Raises OSError."""
        assert self.me is not None
        if not self._is_inside(home):
            with _staging_of(home, make=True) as (directory, staging):
                _write(directory, staging, self.me, replace=True)

    def _is_inside(self, home: Path) -> bool:
        """Return whether a home is inside the root, so that a copy of the root has its own."""
        try:
            root = os.path.realpath(self._root)
            real = os.path.realpath(home)
            inside = os.path.commonpath([root, real]) == root
            return inside and os.stat(real).st_dev == os.stat(root).st_dev
        except OSError:
            return True  # it doesn't exist yet, or cannot be used


@contextmanager
def _staging_of(home: Path, *, make: bool = False) -> Iterator[tuple[int, int]]:
    """Open a home and its staging directory; yield both descriptors."""
    directory = os.open(home, OPEN_DIRECTORY)
    try:
        if make:
            staging = open_staging(directory)
        else:
            staging = os.open(paths.STAGING, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            yield directory, staging
        finally:
            os.close(staging)
    finally:
        os.close(directory)


def _read(staging: int) -> Owner | None:
    """Return the owner by its note; None if there is no note."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(OWNER_NAME, flags, dir_fd=staging)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        text = os.read(fd, _MOST).decode("utf-8", "surrogateescape")
    finally:
        os.close(fd)
    found, _, root = text.rstrip("\n").partition(" ")
    return Owner(found, root)


def _write(directory: int, staging: int, me: Owner, *, replace: bool = False) -> None:
    """Write the note: completely under its name, or not at all."""
    new = OWNER_NAME + b"-" + secrets.token_hex(8).encode()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(new, flags, 0o600, dir_fd=staging)
    try:
        try:
            os.write(fd, f"{me.id} {me.root}\n".encode("utf-8", "surrogateescape"))
            give_to_owner(directory, fd)
            os.fsync(fd)
        finally:
            os.close(fd)
        if replace:
            os.rename(new, OWNER_NAME, src_dir_fd=staging, dst_dir_fd=staging)
        else:
            with suppress(FileExistsError):  # another server was faster
                rename_new(staging, new, staging, OWNER_NAME)
        os.fsync(staging)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=staging)
