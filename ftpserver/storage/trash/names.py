"""The names in the trash of a home: of operations, and of the index in each."""

from __future__ import annotations

import os
import secrets

from ftpwire import trash_names

INDEX_NAME = b"index"


def new_name(now_ns: int) -> str:
    """Return a new name for an operation. Names sort by age."""
    return f"{max(0, now_ns):016x}-{secrets.token_hex(4)}"


def is_name(name: bytes) -> bool:
    """Return whether this can be the name of an operation."""
    return trash_names.is_name(os.fsdecode(name))


def time_of(name: str) -> int:
    """Return when an operation began, in nanoseconds since 1970."""
    return int(name[:16], 16)
