"""Where uploads are staged: in the home's own staging, or nearer to where they go.

Lives here: which of these it is for each directory of a batch, making files there.
Lives elsewhere: what a directory gives to new files (file_systems.py), the files (staging.py).

Most directories give what the home's staging gives. One that gives another group or ACL has its
files made under the reserved name in it, and moved to the home's staging at once: there they are
found, kept and cleaned like all others. Only where the home's staging can't be reached by a rename,
on another file system, do they stay under the reserved name until they are committed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ftpserver.storage.file_systems import ALL_BITS, Beside
from ftpserver.storage.home import Home
from ftpwire.errors import CommandError
from ftpwire.paths import Parts


@dataclass(eq=False)
class Place:
    """A directory that files are staged in.

    Attributes:
        fd: That directory.
        beside: The reserved name that they are made under; None: they are made in ``fd``.
        limits: The permission bits that are left to them.
        above: The directory that ``beside`` lies in, where that is another file system than the
            home's: they stay there until they are committed. Else None.
    """

    fd: int
    beside: Beside | None = None
    limits: int = ALL_BITS
    above: int | None = None

    def open(self, name: bytes, flags: int) -> int:
        """Make a file, which must be new. Raises OSError."""
        beside = self.beside
        if beside is None:
            return os.open(name, flags, 0o600, dir_fd=self.fd)
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

    Attributes:
        seen: Directories that were there when they were looked at.
    """

    def __init__(self, home: Home) -> None:
        self.seen: set[Parts] = set()
        self._home = home
        self._own = Place(home.staging_fd)
        self._known: dict[Parts, Place] = {}
        self._beside: list[tuple[int, Beside]] = []
        """Directories, and the reserved name in them; open."""

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
        except (OSError, CommandError):
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
        try:
            beside = Beside(directory)
        except PermissionError:
            if nature.other:
                raise
            os.close(directory)
            return self._own  # it can't be written to: the commit finds the same
        self._beside.append((directory, beside))
        if nature.other:
            return Place(beside.fd, beside, nature.limits, directory)
        return Place(self._home.staging_fd, beside, nature.limits)

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
        while self._beside:
            directory, beside = self._beside.pop()
            beside.close()
            os.close(directory)
