"""The two names of a file received below a destination: first a hidden one, then the final one.

Lives here: checking names given by a server; both names, and renaming from one to the other.
Lives elsewhere: files (partial_file.py), links and directories (local_tree.py).
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence

from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists, BadMessage, InvalidPath, IsADirectory
from ftpwire.paths import Parts


def checked_parts(path: bytes) -> Parts:
    """Return the components of a relative path given by a server.

    Raises:
        BadMessage: The path is absolute or has a component that is not a valid name, as ``..``.
    """
    parts = tuple(path.split(b"/"))
    try:
        for part in parts:
            paths.check_name(part)
    except InvalidPath as error:
        raise BadMessage(f"the server sent an unusable name: {error}") from None
    return parts


def partial_name(parts: Sequence[bytes]) -> bytes:
    """Return the hidden name of an arriving file: short, as its own may be 255 bytes long."""
    short = hashlib.sha256(parts[-1]).hexdigest()[:16].encode()
    return paths.PARTIAL_PREFIX + short + paths.PARTIAL_SUFFIX


def place(above: int, partial: bytes, name: bytes, *, replace: bool) -> None:
    """Rename a file to its final name. Raises OSError, CommandError, after removing it."""
    try:
        if replace:
            os.rename(partial, name, src_dir_fd=above, dst_dir_fd=above)
        else:
            beneath.rename_new(above, partial, above, name)
    except OSError as error:
        unlink(above, partial)
        if error.errno == errno.EISDIR:
            raise IsADirectory("a directory is there") from None
        if error.errno == errno.EEXIST:
            raise AlreadyExists("already exists") from None
        raise


def unlink(directory: int, name: bytes) -> None:
    """Remove a file if it exists."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
