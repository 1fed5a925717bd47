"""Removing the home of a removed account, and nothing else.

Lives here: checking that a home may be removed, and removing it.
Lives elsewhere: removing the account (accounts.py), confirmation (cli/users.py).

The directory itself is removed, never the target of a link. Other accounts' homes, the root and all
directories above them are never removed, however a home was written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ftpserver.accounts.account import Account
from ftpserver.settings.table import state_of
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import NOT_STAGED, Tally, rename_closed, settle_nothing
from ftpserver.storage.in_place import RemovalInPlace
from ftpwire import paths
from ftpwire.errors import BadAccount, CommandError, from_oserror


def check_removable(gone: Account, others: Iterable[Account], root: Path) -> None:
    """Raise BadAccount unless the home belongs to this account alone.

    Args:
        others: All other accounts.
        root: The directory of the homes.
    """
    home = gone.home
    shown = paths.show(os.fsencode(home))
    try:
        info = os.lstat(home)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadAccount(str(from_oserror(error, shown))) from None
    if not stat.S_ISDIR(info.st_mode):
        raise BadAccount(f"{shown}: a link or not a directory; not removed")
    real = home.resolve()
    if real == Path(real.anchor) or root.resolve().is_relative_to(real):
        raise BadAccount(f"{shown}: contains more than a home; not removed")
    if real.is_relative_to(state_of(root).resolve()):
        raise BadAccount(f"{shown}: belongs to the server itself; not removed")
    if os.path.ismount(real):
        raise BadAccount(f"{shown}: a file system is mounted there; not removed")
    for other in others:
        theirs = other.home.resolve()
        if theirs.is_relative_to(real) or real.is_relative_to(theirs):
            raise BadAccount(f"{shown}: {other.name} has files there; not removed")


def measure(home: Path) -> Tally:
    """Count the contents of a home, to show them before it is removed."""
    from ftpserver.storage.walk import walk

    tally = Tally()
    try:
        fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return tally
    try:
        for found in walk(fd, lambda path, error: None):
            if found.entry.is_dir(follow_symlinks=False):
                tally.directories += 1
                continue
            tally.files += 1
            tally.size += found.entry.stat(follow_symlinks=False).st_size
    finally:
        os.close(fd)
    return tally


def remove_home(directory: Path) -> None:
    """Remove a home with all its contents, to any depth. Its account must be removed already.

    Raises:
        OSError: Something couldn't be removed.
    """
    try:
        home = Home(directory, durable=False)
    except FileNotFoundError:
        return
    try:
        opened, there = os.fstat(home.fd), os.lstat(directory)
        if (opened.st_dev, opened.st_ino) != (there.st_dev, there.st_ino):
            raise NotADirectoryError(errno.ENOTDIR, "it is a link")
        for name in os.listdir(home.fd):
            raw = os.fsencode(name)
            if raw not in paths.RESERVED:
                _remove(home, raw)
        with home.alone():
            with suppress(FileNotFoundError):
                rename_closed(home.fd, paths.TRASH, home.staging_fd, home.new_name())
            home.clean_staging(lambda name: False)
            for left in NOT_STAGED & set(map(os.fsencode, os.listdir(home.staging_fd))):
                os.unlink(left, dir_fd=home.staging_fd)
        os.rmdir(paths.STAGING, dir_fd=home.fd)
    finally:
        home.close()
    directory.rmdir()


def _remove(home: Home, name: bytes) -> None:
    try:
        home.remove(paths.join(name), recursive=True, tick=lambda: None)
    except CommandError as error:
        raise OSError(errno.EBUSY, str(error)) from None
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        removal = RemovalInPlace(home, (name,))
        while not removal.done:
            removal.step(settle_nothing)
