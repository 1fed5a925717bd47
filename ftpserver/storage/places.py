"""Where uploads are staged: in the home's own staging, or nearer to where they go.

Lives here: which of these it is for each directory of a batch, making files there.
Lives elsewhere: what a directory gives to new files (file_systems.py), the files (staging.py).

Most directories give what the home's staging gives. One that gives another group or ACL has its
files made under the reserved name in it, and moved to the home's staging at once: there they are
found, kept and cleaned like all others. Only where the home's staging can't be reached by a rename,
on another file system, do they stay under the reserved name until they are committed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from ftpserver.storage.file_systems import ALL_BITS, Beside
from ftpserver.storage.home import Home
from ftpwire.errors import CommandError
from ftpwire.paths import Parts

_MOST_BESIDE = 32
"""Directories that are kept open with the reserved name in them: a batch may go to a thousand."""
_NO_MORE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What keeps a directory from being looked at, and is over by the time of the commit."""


@dataclass(eq=False)
class Place:
    """A directory that files are staged in.

    Attributes:
        fd: That directory.
        beside: The reserved name that they are made under; None: they are made in ``fd``.
        limits: The permission bits that are left to them.
        above: The directory that ``beside`` lies in, where that is another file system than the
            home's: they stay there until they are committed. Else None.
        before_beside: Called before something is made beside: no start looks there by itself.
        gives: Modes that files were made with, and whether they got just these: neither this
            process's umask nor a default ACL took anything from them.
    """

    fd: int
    beside: Beside | None = None
    limits: int = ALL_BITS
    above: int | None = None
    before_beside: Callable[[], None] = lambda: None
    gives: dict[int, bool] = field(default_factory=dict)

    def open(self, name: bytes, flags: int) -> int:
        """Make a file, which must be new. Raises OSError."""
        beside = self.beside
        if beside is None:
            return os.open(name, flags, 0o600, dir_fd=self.fd)
        self.before_beside()
        fd = beside.make(lambda birth: os.open(name, flags, 0o600, dir_fd=birth))
        try:
            self._take_in(name, beside)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def symlink(self, target: bytes, name: bytes) -> None:
        """Make a symbolic link, which must be new. Raises OSError."""
        beside = self.beside
        if beside is None:
            os.symlink(target, name, dir_fd=self.fd)
            return
        beside.make(lambda birth: os.symlink(target, name, dir_fd=birth))
        self._take_in(name, beside)

    def _take_in(self, name: bytes, beside: Beside) -> None:
        if self.above is not None:
            self.fd = beside.fd
            return
        try:
            os.rename(name, name, src_dir_fd=beside.fd, dst_dir_fd=self.fd)
        except BaseException:
            os.unlink(name, dir_fd=beside.fd)
            raise


class Places:
    """The places of one batch: each directory is looked at once. For one thread.

    Handles into other directories are closed with the batch (``close``), because directories may be
    moved and removed between two.

    Args:
        before_beside: Called before a file is made beside where it goes: has its lease survive a
            power cut, so that the next start finds what is left there.

    Attributes:
        seen: Directories that were there when they were looked at.
    """

    def __init__(self, home: Home, before_beside: Callable[[], None] = lambda: None) -> None:
        self.seen: set[Parts] = set()
        self._before_beside = before_beside
        self._home = home
        self._own = Place(home.staging_fd)
        self._known: dict[Parts, Place] = {}
        self._beside: list[tuple[int, Place, Beside]] = []
        """Directories, what they are as places, and the reserved name in them; open."""

    def of(self, directory: Parts) -> Place:
        """The place for what goes to a directory; one that is missing will be like the one above.

        Raises:
            CommandError, OSError: Nothing can be staged there.
        """
        place = self._known.get(directory)
        if place is None:
            place = self._known[directory] = self._find(directory)
        return place

    def _find(self, directory: Parts) -> Place:
        try:
            fd = self._home.tree.open_dir_here(directory)
            here = fd is not None
            if fd is None:
                fd = self._home.tree.open_dir(directory)
        except FileNotFoundError:
            return self.of(directory[:-1]) if directory else self._own
        except (OSError, CommandError) as error:
            if isinstance(error, OSError) and error.errno in _NO_MORE:
                raise
            return self._own  # the commit finds the same, and says it in its turn
        self.seen.add(directory)
        try:
            return self._look(fd, here)
        except BaseException:
            os.close(fd)
            raise

    def _look(self, directory: int, here: bool) -> Place:
        """Takes the descriptor over; ``here``: it is on the home's mount."""
        nature = self._home.nature_of(directory, here=here)
        if not (nature.other or nature.inherits):
            os.close(directory)
            return self._own
        self._close_some()
        try:
            beside = Beside(directory)
        except PermissionError:
            if nature.other:
                raise
            os.close(directory)
            return self._own  # it can't be written to: the commit finds the same
        if nature.other:
            place = Place(beside.fd, beside, nature.limits, directory, self._before_beside)
        else:
            fd = self._home.staging_fd
            place = Place(fd, beside, nature.limits, before_beside=self._before_beside)
        self._beside.append((directory, place, beside))
        return place

    def _close_some(self) -> None:
        """Close the one that was opened first, where there are many. Nothing is left in it: what
        was made there was taken to the home's staging."""
        if len(self._beside) < _MOST_BESIDE:
            return
        for number, (directory, place, beside) in enumerate(self._beside):
            if place.above is not None:
                continue
            del self._beside[number]
            self._known = {path: one for path, one in self._known.items() if one is not place}
            self._close(directory, beside)
            return

    @staticmethod
    def _close(directory: int, beside: Beside) -> None:
        try:
            beside.close()
        finally:
            os.close(directory)

    def get(self, directory: Parts) -> Place | None:
        """The place for a directory, if that was looked at."""
        return self._known.get(directory)

    def can_exchange(self, place: Place) -> bool:
        """Whether what is staged there can be exchanged with what it replaces."""
        if place.above is None:
            return self._home.can_exchange()
        return self._home.can_exchange(place.fd)

    def close(self) -> None:
        """Close all handles, and remove the reserved names. Can be called again."""
        self._known.clear()
        self.seen.clear()
        self._own.gives.clear()  # somebody may give staging another default ACL meanwhile
        while self._beside:
            directory, _, beside = self._beside.pop()
            self._close(directory, beside)
