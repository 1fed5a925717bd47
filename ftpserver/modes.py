"""Modes by which others could read or change what the server relies on.

Lives here: finding them, mending those of the server's own files, refusing to start.
Lives elsewhere: telling of them (daemon/server.py, admin/verify.py, cli/config.py).

Below ROOT/.ftpd others have no rights, and a group can read at most. Above it, whoever can write to
a directory without the sticky bit can put another ROOT/.ftpd into its place. A key that the
settings name lies where an administrator put it: it is never changed, only told of.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftpserver.errors import StateError
from ftpserver.settings.file import FILE_NAME
from ftpserver.settings.table import DATABASE, Settings

_WRITE = stat.S_IWGRP | stat.S_IWOTH
_PRIVATE = stat.S_IWGRP | stat.S_IRWXO
"""What a file with secrets must not have."""
_FILES = {
    DATABASE: _PRIVATE,
    f"{DATABASE}-wal": _PRIVATE,
    f"{DATABASE}-shm": _PRIVATE,
    "audit.jsonl": _PRIVATE,
    "first-login": _PRIVATE,
    "tls": _PRIVATE,
    "tls/key.pem": _PRIVATE,
    "tls/cert.pem": _WRITE,
    FILE_NAME: _WRITE,
}
"""Of what lies in ROOT/.ftpd, the bits that it must not have."""


@dataclass(frozen=True)
class Loose:
    """A file or directory with a mode that lets others do too much.

    Attributes:
        mode: Its permission bits.
        wanted: Those that it should have.
        dangerous: Others can change what the server relies on.
        ours: It may be mended.
    """

    path: Path
    mode: int
    wanted: int
    dangerous: bool
    ours: bool = True

    def __str__(self) -> str:
        written = self.mode & ~self.wanted & _WRITE or self.wanted & stat.S_ISVTX
        what = "write to it" if written else "read it"
        return (
            f"{self.path}: others can {what} (mode {self.mode:04o}): chmod {self.wanted:04o}, or "
            "allow-loose-modes where the file system keeps no modes"
        )


def find(settings: Settings) -> Iterator[Loose]:
    """Everything that is too loose: of the state, above it, and of the key that is named."""
    state = Path(os.path.realpath(settings.state))
    yield from _too_loose(state, _PRIVATE, dangerous=True)
    for name, bits in _FILES.items():
        yield from _too_loose(state / name, bits, dangerous=False)
    for directory in _on_the_way(settings.state):
        yield from _open_above(directory)
    if settings.key is not None and not settings.plaintext:
        yield from _named_key(settings.key, _owners(state))


def mend(settings: Settings) -> list[str]:
    """Take from others what they must not have; returns warnings.

    Raises:
        StateError: Others can change what the server relies on, and that can't be mended.
    """
    warnings = []
    for loose in find(settings):
        if loose.ours and _mended(loose):
            bits = f"{loose.mode:04o} is {loose.wanted:04o} now"
            warnings.append(f"{loose.path}: others could use it, its mode {bits}")
            continue
        if loose.dangerous and not settings.allow_loose_modes and _can_change(loose.path):
            raise StateError(str(loose))
        warnings.append(str(loose))
    return warnings


def _too_loose(path: Path, bits: int, *, dangerous: bool) -> Iterator[Loose]:
    try:
        info = path.lstat()
    except OSError:
        return  # nothing is there, or nobody can know
    mode = stat.S_IMODE(info.st_mode)
    if mode & bits and not stat.S_ISLNK(info.st_mode):
        yield Loose(path, mode, mode & ~bits, dangerous and bool(mode & _WRITE))


def _on_the_way(state: Path) -> dict[Path, None]:
    """The directories that the state's path leads through, the links in it resolved or not: who can
    swap a link decides as well where it leads."""
    found = {}
    for named in (state, *Path(os.path.abspath(state)).parents):
        real = Path(os.path.realpath(named))
        found.update(dict.fromkeys(real.parents if named is state else (real, *real.parents)))
    return found


def _open_above(directory: Path) -> Iterator[Loose]:
    """A directory above the state: sticky, what is in it can't be taken away by others."""
    try:
        info = directory.stat()
    except OSError:
        return
    mode = stat.S_IMODE(info.st_mode)
    if mode & stat.S_ISVTX:
        return
    by_others, by_group = mode & stat.S_IWOTH, mode & stat.S_IWGRP
    if by_others or (by_group and not _is_private_group(info)):
        ours = info.st_uid == os.geteuid()
        yield Loose(directory, mode, mode | stat.S_ISVTX, bool(by_others), ours)


def _is_private_group(info: os.stat_result) -> bool:
    """Whether a group is root's, or has the owner alone in it, as many systems have them."""
    if info.st_gid == 0:
        return True
    with suppress(KeyError):
        owner, group = pwd.getpwuid(info.st_uid), grp.getgrgid(info.st_gid)
        return owner.pw_gid == group.gr_gid and not set(group.gr_mem) - {owner.pw_name}
    return False


def _owners(state: Path) -> set[int]:
    """Whose files are the server's: root's, this user's, and those of who owns the state."""
    owners = {0, os.geteuid()}
    with suppress(OSError):
        owners.add(state.stat().st_uid)
    return owners


def _named_key(key: Path, owners: set[int]) -> Iterator[Loose]:
    try:
        info = key.stat()
    except OSError:
        return  # whoever uses it says so
    mode = stat.S_IMODE(info.st_mode)
    bits = _PRIVATE if info.st_uid in owners else _PRIVATE | stat.S_IRGRP
    if mode & bits:
        yield Loose(key, mode, mode & ~bits, False, ours=False)


def _mended(loose: Loose) -> bool:
    """Change a mode, if it is ours to change; whether it is as it should be now."""
    try:
        fd = os.open(loose.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.fchmod(fd, loose.wanted)
        return stat.S_IMODE(os.fstat(fd).st_mode) == loose.wanted
    except OSError:
        return False
    finally:
        os.close(fd)


def _can_change(path: Path) -> bool:
    """Whether anybody can write there: not on a read-only disk."""
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return True
