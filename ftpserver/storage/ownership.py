"""Which server a home belongs to: one that was restored beside it must leave it alone.

Lives here: the server's id, and the note in a home's staging that has it.
Lives elsewhere: who is refused for it (accounts/authenticator.py), cleaning (recount.py), telling
of it (admin/verify.py).

A copy of a server's state has the same accounts, and opens the same homes where they lie outside
its root. It would take their staging for left over from a crash of its own. So the server that is
the first to use such a home notes its id there, and every other one keeps off. The id is random; a
copy draws another at its first start. It is told by its backup.json, or by the inode of ROOT/.ftpd,
or by its device, which the same directory only changes when the machine starts anew. A home that
lies in the root is copied with it: it is always this server's, and has no note.

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
"""Bytes of a note that are read."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NO_NOTE = frozenset(
    {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.ENOENT}
    | {errno.ENOTDIR, errno.ELOOP}
)
"""What keeps a note from being written: whoever uses the home finds that out, and says so."""


@dataclass(frozen=True)
class Owner:
    """A server that has noted itself in a home. ``root``: its directory of homes, for people."""

    id: str
    root: str

    def __str__(self) -> str:
        return f"server {paths.printable(self.id)} of {paths.printable(self.root)}"


def belongs_to(other: Owner) -> str:
    """Why an account is refused log-in, for the administrator."""
    return f"the home belongs to {other}"


def identify(engine: Engine, state: Path, *, copied: bool) -> str:
    """The server's id, for one that starts: a new one, where the state is another's copy.

    Args:
        copied: It is known to be one.
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
        return ""  # then another device is another directory


def identity(engine: Engine) -> str | None:
    """The id of the server whose state it is; None before its first start."""
    try:
        with reading(engine).connect() as connection:
            found: str | None = connection.execute(select(server.c.id)).scalar()
    except OperationalError:
        return None  # of an earlier version
    return found


class Ownership:
    """Whose the homes of one root's accounts are.

    Args:
        server_id: None, for one that was never started: nothing is known then.
    """

    def __init__(self, server_id: str | None, root: Path) -> None:
        self.me = None if server_id is None else Owner(server_id, str(root.absolute()))
        self._root = root

    def other(self, home: Path) -> Owner | None:
        """The other server that a home belongs to, if it does. Writes nothing."""
        if self.me is None or self._is_inside(home):
            return None
        with suppress(OSError), _staging_of(home) as (_, staging):
            found = _read(staging)
            if found is not None and found.id != self.me.id:
                return found
        return None

    def claim(self, home: Path, *, use: bool = True) -> Owner | None:
        """Note in a home that it is this server's, unless another one has; returns that one.

        Args:
            use: It is going to be used: staging is made where there is none.
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
        """Note it, whoever has noted what. Raises OSError."""
        assert self.me is not None
        if not self._is_inside(home):
            with _staging_of(home, make=True) as (directory, staging):
                _write(directory, staging, self.me, replace=True)

    def _is_inside(self, home: Path) -> bool:
        """Whether a home lies in the root itself, so that a copy of the root has its own."""
        try:
            root = os.path.realpath(self._root)
            real = os.path.realpath(home)
            inside = os.path.commonpath([root, real]) == root
            return inside and os.stat(real).st_dev == os.stat(root).st_dev
        except OSError:
            return True  # there is none yet, or nobody can use it


@contextmanager
def _staging_of(home: Path, *, make: bool = False) -> Iterator[tuple[int, int]]:
    """Handles of a home and of its staging."""
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
    """The note; None where there is none, or it is none of a server's."""
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
    """Write the note, whole under its name or not at all."""
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
            with suppress(FileExistsError):  # another was quicker
                rename_new(staging, new, staging, OWNER_NAME)
        os.fsync(staging)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=staging)
