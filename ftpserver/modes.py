"""File modes that let others read or change what the server relies on.

Lives here: finding them, correcting those of the server's own files, refusing to start.
Lives elsewhere: reporting them (daemon/server.py, admin/verify.py, cli/config.py).

Below ROOT/.ftpd others have no rights, and a group can read at most. Above it, any user who can
write to a directory without the sticky bit can replace ROOT/.ftpd. A key named in the settings was
put there by an administrator: its mode is only reported, never changed.
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
"""The permission bits that a file with secrets must not have."""
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
"""The files in ROOT/.ftpd, each with the permission bits that it must not have."""


@dataclass(frozen=True)
class Loose:
    """A file or directory with a mode that gives others too many rights.

    Attributes:
        mode: The permission bits.
        wanted: The permission bits that it should have.
        dangerous: True if others can change what the server relies on.
        ours: True if the server may change the mode.
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
            "allow-loose-modes if the file system has no modes"
        )


def find(settings: Settings) -> Iterator[Loose]:
    """Find all modes that are too loose: in the state, above it, and of the configured key."""
    state = Path(os.path.realpath(settings.state))
    yield from _too_loose(state, _PRIVATE, dangerous=True)
    for name, bits in _FILES.items():
        yield from _too_loose(state / name, bits, dangerous=False)
    for directory in _on_the_way(settings.state):
        yield from _open_above(directory)
    if settings.key is not None and not settings.plaintext:
        yield from _named_key(settings.key, _owners(state))


def mend(settings: Settings) -> list[str]:
    """Remove the rights that others must not have, and return warnings.

    Raises:
        StateError: Others can change what the server relies on, and the mode cannot be corrected.
    """
    warnings = []
    for loose in find(settings):
        if loose.ours and _mended(loose):
            bits = f"from {loose.mode:04o} to {loose.wanted:04o}"
            warnings.append(f"{loose.path}: others could use it; mode changed {bits}")
            continue
        if loose.dangerous and not settings.allow_loose_modes and _can_change(loose.path):
            raise StateError(str(loose))
        warnings.append(str(loose))
    return warnings


def _too_loose(path: Path, bits: int, *, dangerous: bool) -> Iterator[Loose]:
    try:
        info = path.lstat()
    except OSError:
        return  # nothing is there, or it cannot be examined
    mode = stat.S_IMODE(info.st_mode)
    if mode & bits and not stat.S_ISLNK(info.st_mode):
        yield Loose(path, mode, mode & ~bits, dangerous and bool(mode & _WRITE))


def _on_the_way(state: Path) -> dict[Path, None]:
    """Return the directories on the state's path, both as written and with links resolved: a user
    who can replace a link also decides where it leads."""
    found = {}
    for named in (state, *Path(os.path.abspath(state)).parents):
        real = Path(os.path.realpath(named))
        found.update(dict.fromkeys(real.parents if named is state else (real, *real.parents)))
    return found


def _open_above(directory: Path) -> Iterator[Loose]:
    """Check a directory above the state: the sticky bit keeps others from removing entries."""
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
    """Return True if a group is root's or has only the owner in it, as on many systems."""
    if info.st_gid == 0:
        return True
    with suppress(KeyError):
        owner, group = pwd.getpwuid(info.st_uid), grp.getgrgid(info.st_gid)
        return owner.pw_gid == group.gr_gid and not set(group.gr_mem) - {owner.pw_name}
    return False


def _owners(state: Path) -> set[int]:
    """Return the users that the server trusts: root, its own user, and the owner of the state."""
    owners = {0, os.geteuid()}
    with suppress(OSError):
        owners.add(state.stat().st_uid)
    return owners


def _named_key(key: Path, owners: set[int]) -> Iterator[Loose]:
    try:
        info = key.stat()
    except OSError:
        return  # reading the key reports the error
    mode = stat.S_IMODE(info.st_mode)
    bits = _PRIVATE if info.st_uid in owners else _PRIVATE | stat.S_IRGRP
    if mode & bits:
        yield Loose(key, mode, mode & ~bits, False, ours=False)


def _mended(loose: Loose) -> bool:
    """Change a mode, if the server may. Return True if it is as it should be now."""
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
    """Return True unless the file system is read-only, where no one can change anything."""
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return True
