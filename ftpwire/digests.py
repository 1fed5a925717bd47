"""BLAKE3, incremental: the one digest of the protocol, and how it is kept beside a file.

Lives here: the hasher, and the binary form of the digest attribute.
Lives elsewhere: reading files (streams.py), setting attributes (ftpserver/storage/batch.py).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from blake3 import blake3

ALGORITHM = "blake3"
SIZE = 32
"""Bytes of a digest."""

ATTRIBUTE = "user.ftpd.digest"
"""Extended attribute that keeps a file's digest, with what it is true for."""

_STORED = struct.Struct(">B32sQq16s")
_VERSION = 1

new = blake3


def digest(data: bytes | bytearray | memoryview) -> bytes:
    """The digest of ``data``: 32 bytes."""
    return blake3(data).digest()


_NO_COMMIT = bytes(16)


def packed(digest: bytes, size: int, mtime_ns: int) -> bytes:
    """The value of the attribute that keeps a digest, as by `StoredDigest.pack`."""
    return _STORED.pack(_VERSION, digest, size, mtime_ns, _NO_COMMIT)


def digest_in(value: bytes, size: int, mtime_ns: int) -> bytes | None:
    """The digest in an attribute's value, if it is true for a file of that size and mtime. As
    by `StoredDigest.unpack`, which takes longer: this is done for each of many small files."""
    if len(value) != _STORED.size or value[0] != _VERSION:
        return None
    _, stored, its_size, its_mtime_ns, _ = _STORED.unpack(value)
    return stored if its_size == size and its_mtime_ns == mtime_ns else None


class StoredDigest(NamedTuple):
    """A digest, and the size (bytes) and mtime (ns) of the file that it was computed from.

    When these no longer match the file, the digest is stale. ``commit_id`` has no meaning: what
    earlier versions stored has some bytes there.
    """

    digest: bytes
    size: int
    mtime_ns: int
    commit_id: bytes = _NO_COMMIT

    def pack(self) -> bytes:
        """The attribute's value: 65 bytes."""
        return _STORED.pack(_VERSION, *self)

    @classmethod
    def unpack(cls, value: bytes) -> StoredDigest | None:
        """Read an attribute's value; None when it is not one of ours."""
        if len(value) != _STORED.size or value[0] != _VERSION:
            return None
        _, stored, size, mtime_ns, commit_id = _STORED.unpack(value)
        return cls(stored, size, mtime_ns, commit_id)
