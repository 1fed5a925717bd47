"""BLAKE3, incremental: the only digest of the protocol, and its storage with a file.

Lives here: the hasher, and the binary form of the digest attribute.
Lives elsewhere: reading files (streams.py), setting attributes (ftpserver/storage/batch.py).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from blake3 import blake3

ALGORITHM = "blake3"
SIZE = 32
"""Size of a digest in bytes."""

ATTRIBUTE = "user.ftpd.digest"
"""Extended attribute with a file's digest, and the size and mtime that it is valid for."""

_STORED = struct.Struct(">B32sQq16s")
_VERSION = 1

new = blake3


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """Return the 32-byte digest of ``data``."""
    return blake3(data).digest()


_NO_COMMIT = bytes(16)


def packed(digest: bytes, size: int, mtime_ns: int) -> bytes:
    """Return the value of the attribute that stores a digest, like `StoredDigest.pack`."""
    return _STORED.pack(_VERSION, digest, size, mtime_ns, _NO_COMMIT)


def digest_in(value: bytes, size: int, mtime_ns: int) -> bytes | None:
    """Return the digest in an attribute's value, if it is valid for a file with this size and
    mtime. Like `StoredDigest.unpack`, but faster: it runs for each of many small files."""
    if len(value) != _STORED.size or value[0] != _VERSION:
        return None
    _, stored, stored_size, stored_mtime_ns, _ = _STORED.unpack(value)
    return stored if stored_size == size and stored_mtime_ns == mtime_ns else None


class StoredDigest(NamedTuple):
    """A digest, and the size (bytes) and mtime (ns) of the file that it was computed from.

    If these no longer match the file, the digest is stale. ``commit_id`` has no meaning: earlier
    versions stored some bytes there.
    """

    digest: bytes
    size: int
    mtime_ns: int
    commit_id: bytes = _NO_COMMIT

    def pack(self) -> bytes:
        """Return the attribute's value: 65 bytes."""
        return _STORED.pack(_VERSION, *self)

    @classmethod
    def unpack(cls, value: bytes) -> StoredDigest | None:
        """Read an attribute's value. Return None if it is not in this format."""
        if len(value) != _STORED.size or value[0] != _VERSION:
            return None
        _, stored, size, mtime_ns, commit_id = _STORED.unpack(value)
        return cls(stored, size, mtime_ns, commit_id)
