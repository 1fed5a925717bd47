"""Trees moved aside to be replaced, which are moved back if the replacement failed.

Lives here: the note about such a move, and acting on it. Lives elsewhere: the replacement
(atomic_tree.py), when notes are looked for (recount.py).

Where two names cannot be exchanged in one step, a tree is replaced by two renames: the old one goes
to staging, then the new one to its name. A server that is killed in between would leave nothing at
that name, and the clean-up of staging would remove both trees. So a durable note that names both is
written before the first rename, and a clean-up begins with the notes.

Both renames are done while the home's lock is held alone, and notes are acted on under the same
lock. So a note found under the lock belongs to a process that has died.
"""

from __future__ import annotations

import errno
import logging
import os
import stat

import msgspec

from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import rename_closed
from ftpserver.storage.walk import open_closed
from ftpwire import paths
from ftpwire.beneath import OPEN_DIRECTORY
from ftpwire.errors import CommandError
from ftpwire.paths import Parts

logger = logging.getLogger("ftpd.trees")

_SUFFIX = b".moved"
_MOST_BYTES = 64 * 1024


class Moved(msgspec.Struct, frozen=True, array_like=True):
    """The contents of a note.

    Attributes:
        target: The path that the tree had, relative to the home.
        aside: Its name in staging.
        mode: Its mode, which may have been changed to move it.
    """

    target: tuple[bytes, ...]
    aside: bytes
    mode: int


_decode = msgspec.msgpack.Decoder(Moved).decode


def is_note(name: str | bytes) -> bool:
    """Return whether a name in staging is that of a note."""
    return os.fsencode(name).endswith(_SUFFIX)


def write_note(home: Home, target: Parts, aside: bytes, mode: int) -> bytes:
    """Record durably that ``target`` is about to be moved to ``aside``; return the note's name.

    Raises:
        OSError: It wasn't recorded, and nothing may be moved.
    """
    name = home.new_name() + _SUFFIX
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(name, flags, 0o600, dir_fd=home.staging_fd)
    try:
        try:
            os.write(fd, msgspec.msgpack.encode(Moved(target, aside, stat.S_IMODE(mode))))
            if home.durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        home.sync_dir(home.staging_fd)
    except BaseException:
        forget_note(home, name)
        raise
    return name


def forget_note(home: Home, name: bytes) -> None:
    """Remove a note: the replacement is in place, or the old tree is back."""
    os.unlink(name, dir_fd=home.staging_fd)


def read_note(staging: int, name: bytes) -> Moved | None:
    """Read a note; None if it was cut short. Then nothing was moved yet.

    Raises:
        OSError: It cannot be read.
    """
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=staging)
    try:
        return _decode(os.read(fd, _MOST_BYTES))
    except msgspec.DecodeError:
        return None
    finally:
        os.close(fd)


def put_back(home: Home) -> set[bytes]:
    """Move trees back as the notes say, if their paths are free. Call it while holding ``alone``,
    and before staging is cleaned, which removes what isn't needed any more.

    Returns:
        The names in staging that must stay, because they cannot be moved back now.
    """
    left_alone: set[bytes] = set()
    for name in home.staged():
        if not is_note(name):
            continue
        moved = None
        try:
            moved = read_note(home.staging_fd, name)
            if moved is not None:
                _put_one_back(home, moved)
            forget_note(home, name)
        except (OSError, CommandError) as error:
            left_alone.add(name)
            if moved is not None:
                left_alone.add(moved.aside)
                shown = paths.show(paths.join(*moved.target))
                logger.error("%s was moved to staging and cannot be moved back: %s", shown, error)
    return left_alone


def _put_one_back(home: Home, moved: Moved) -> None:
    shown = paths.show(paths.join(*moved.target))
    try:
        os.stat(moved.aside, dir_fd=home.staging_fd, follow_symlinks=False)
    except FileNotFoundError:
        return  # the crash was before the first rename
    directory = _open_parent(home, moved.target[:-1])
    try:
        rename_closed(home.staging_fd, moved.aside, directory, moved.target[-1], new=True)
        _give_mode_back(directory, moved)
        home.sync_dir(directory)
        home.sync_dir(home.staging_fd)
        logger.warning("%s: moved back, because its replacement was interrupted", shown)
    except FileExistsError:
        logger.info("%s: was replaced; the previous contents are removed", shown)
    finally:
        os.close(directory)


def _open_parent(home: Home, parts: Parts) -> int:
    """Open a directory, and make missing parents: the tree must not be lost for lack of them."""
    for count in range(len(parts) + 1):
        try:
            fd = home.tree.open_dir(parts[:count])
        except FileNotFoundError:
            above = home.tree.open_dir(parts[: count - 1])
            try:
                os.mkdir(parts[count - 1], 0o755, dir_fd=above)
            finally:
                os.close(above)
            fd = home.tree.open_dir(parts[:count])
        if count < len(parts):
            os.close(fd)
    return fd


def _give_mode_back(directory: int, moved: Moved) -> None:
    name = moved.target[-1]
    info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISDIR(info.st_mode) or stat.S_IMODE(info.st_mode) == moved.mode:
        return
    try:
        fd = os.open(name, OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except PermissionError:
        fd, _ = open_closed(directory, name)
    try:
        os.chmod(fd, moved.mode)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise
    finally:
        os.close(fd)
