"""Reading a home: the state of a path, the entry that describes it to a client, listings.

Lives here: what each request opens, and what it reads from that.
Lives elsewhere: the order of a listing, and which entries it shows (listing.py), walks that count
(walk.py), reading the trees in the trash with this (trash/reading.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from msgspec import structs

from ftpserver.storage.digest_xattr import digest_by_name, fresh_digest
from ftpserver.storage.home_rights import PermittedHome
from ftpserver.storage.listing import Item, Part, Walk, make_entry
from ftpserver.storage.permissions import Permissions
from ftpwire import paths
from ftpwire.beneath import OPEN_ANY, OPEN_DIRECTORY, Tree, identity_of
from ftpwire.messages import Entry
from ftpwire.paths import Parts


class Readable:
    """A tree that can be read.

    Attributes:
        fd: Its top directory.
        tree: Opens paths in it.
        permissions: Decide which entries a listing shows.
    """

    fd: int
    tree: Tree
    permissions: Permissions

    def stat(self, parts: Parts, *, follow: bool) -> os.stat_result:
        """Return the state of a path; with ``follow``, of what it links to. Raises OSError."""
        fd = self.tree.open(parts, OPEN_ANY | (0 if follow else os.O_NOFOLLOW))
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def entry(self, path: bytes, *, follow: bool, digest: bool) -> Entry:
        """Return the entry that describes a path to a client."""
        parts = paths.split(path)
        if not parts:
            return make_entry(path, os.fstat(self.fd))
        directory, name = self.tree.parent(parts)
        try:
            return self._entry_in(directory, name, path, parts, follow, digest)
        finally:
            os.close(directory)

    def _entry_in(
        self, directory: int, name: bytes, path: bytes, parts: Parts, follow: bool, digest: bool
    ) -> Entry:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(info.st_mode):
            if follow:
                resolved = self.stat(parts, follow=True)
                stored = None
                if digest and stat.S_ISREG(resolved.st_mode):
                    fd, resolved = self.tree.open_file(parts)
                    try:
                        stored = fresh_digest(fd, resolved)
                    finally:
                        os.close(fd)
                return make_entry(path, resolved, digest=stored)
            return make_entry(path, info, target=os.readlink(name, dir_fd=directory))
        stored = None
        if digest and stat.S_ISREG(info.st_mode):
            stored = digest_by_name(directory, name, info)
        return make_entry(path, info, digest=stored)

    def list(
        self, path: bytes, *, recursive: bool, follow: bool, digest: bool, prefix: bytes = b""
    ) -> Iterator[Item]:
        """Yield the items of `list_parts` one by one."""
        for part in self.list_parts(
            path, recursive=recursive, follow=follow, digest=digest, prefix=prefix
        ):
            yield from part.items()

    def list_parts(
        self, path: bytes, *, recursive: bool, follow: bool, digest: bool, prefix: bytes = b""
    ) -> Iterator[Part]:
        """List a directory, or the tree below it: each directory completely, then those in it.

        Memory is bounded by the depth and by the number of sibling directories, descriptors by a
        constant. What cannot be read is reported as a `Problem`.

        Args:
            prefix: List only the names in the directory that begin with it, and what is below them.

        Raises:
            OSError, CommandError: ``path`` itself cannot be listed.
        """
        parts = paths.split(path)
        try:
            info = self.stat(parts, follow=True) if parts else os.fstat(self.fd)
        except FileNotFoundError:
            info = self.stat(parts, follow=False)  # a dangling link is listed, too
        if not stat.S_ISDIR(info.st_mode):
            entry = self.entry(path, follow=follow, digest=digest)
            yield Part(b"", [structs.replace(entry, path=b"")], [], complete=True)
            return
        walk = Walk(
            self.tree,
            self.permissions,
            self.stat,
            recursive=recursive,
            follow=follow,
            digest=digest,
            prefix=prefix,
        )
        yield from walk.run(self.tree.open_dir(parts), parts)


class ReadableHome(Readable, PermittedHome):
    """A home that can be read."""

    def is_inside(self, parts: Parts, directory: Parts) -> bool:
        """Return whether a path leads to a directory or below it. The end of it may be missing.

        Links are resolved. Needed because a tree copied into itself would grow endlessly.
        """
        wanted = self.stat(directory, follow=True)
        for count in range(len(parts), -1, -1):
            try:
                fd = self.tree.open_dir(parts[:count])
                break
            except (FileNotFoundError, NotADirectoryError):
                continue
        try:
            top, here, below = identity_of(self.fd), identity_of(fd), None
            while here != (wanted.st_dev, wanted.st_ino):
                if here in (top, below):  # the top of the home, or the root directory
                    return False
                above = os.open(b"..", OPEN_DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = above
                here, below = identity_of(fd), here
            return True
        finally:
            os.close(fd)
