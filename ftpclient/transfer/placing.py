"""The names of what arrives below a destination: a hidden one first, then its own.

Lives here: both, and the step from one to the other.
Lives elsewhere: files (partial_file.py), links (local_tree.py).
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence

from ftpwire import beneath, paths
from ftpwire.errors import AlreadyExists, IsADirectory


def partial_name(parts: Sequence[bytes]) -> bytes:
    """The hidden name under which a file arrives: short, since its own may be 255 bytes long."""
    short = hashlib.sha256(parts[-1]).hexdigest()[:16].encode()
    return paths.PARTIAL_PREFIX + short + paths.PARTIAL_SUFFIX


def place(above: int, partial: bytes, name: bytes, *, replace: bool) -> None:
    """Give something its name. Raises OSError, CommandError; it is gone then."""
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
            raise AlreadyExists("it exists") from None
        raise


def unlink(directory: int, name: bytes) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
