"""The digest kept beside a file, in an extended attribute.

Lives here: reading it, whether it is still true, keeping it. Lives elsewhere: its bytes
(ftpwire/digests.py).
"""

from __future__ import annotations

import errno
import os

from ftpwire import beneath, digests


def digest_by_name(directory: int, name: bytes, info: os.stat_result) -> bytes | None:
    """The digest kept beside a file that isn't open, if it is still true."""
    try:
        value = beneath.attribute_at(directory, name, digests.ATTRIBUTE)
    except OSError:
        return None  # none is kept, or the file system keeps none
    return digests.digest_in(value, info.st_size, info.st_mtime_ns)


def fresh_digest(fd: int, info: os.stat_result) -> bytes | None:
    """The digest kept beside an open file in state ``info``, if it is still true."""
    try:
        value = os.getxattr(fd, digests.ATTRIBUTE)
    except OSError:
        return None
    return digests.digest_in(value, info.st_size, info.st_mtime_ns)


def keep_digest(fd: int, digest: bytes, size: int, mtime_ns: int) -> bool:
    """Keep a digest beside an open file, where the file system can; whether it is kept.

    Args:
        size, mtime_ns: Of the file that it is true for.
    """
    if not -(2**63) <= mtime_ns < 2**63:
        return False  # a time beyond 2262, which the attribute can't hold
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
        return False  # without it, the digest is computed when it is asked for
    return True
