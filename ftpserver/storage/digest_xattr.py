"""The digest stored with a file, in an extended attribute.

Lives here: reading the attribute, checking that it is still valid, writing it. Lives elsewhere: the
format of its value (ftpwire/digests.py).
"""

from __future__ import annotations

import errno
import os

from ftpwire import beneath, digests


def digest_by_name(directory: int, name: bytes, info: os.stat_result) -> bytes | None:
    """Return the digest stored with a file that isn't open; None if there is no valid one."""
    try:
        value = beneath.attribute_at(directory, name, digests.ATTRIBUTE)
    except OSError:
        return None  # there is none, or the file system has no attributes
    return digests.digest_in(value, info.st_size, info.st_mtime_ns)


def fresh_digest(fd: int, info: os.stat_result) -> bytes | None:
    """Return the digest stored with an open file in state ``info``; None if none is valid."""
    try:
        value = os.getxattr(fd, digests.ATTRIBUTE)
    except OSError:
        return None
    return digests.digest_in(value, info.st_size, info.st_mtime_ns)


def keep_digest(fd: int, digest: bytes, size: int, mtime_ns: int) -> bool:
    """Store a digest with an open file.

    Args:
        size, mtime_ns: The state of the file for which the digest is valid.

    Returns:
        False if the file system cannot store it.
    """
    if not -(2**63) <= mtime_ns < 2**63:
        return False  # a time beyond 2262, which the attribute cannot hold
    try:
        os.setxattr(fd, digests.ATTRIBUTE, digests.packed(digest, size, mtime_ns))
    except OSError as error:
        if error.errno not in (
            errno.ENOTSUP,
            errno.EACCES,
            errno.EPERM,
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
        ):
            raise
        return False  # then the digest is computed whenever it is needed
    return True
