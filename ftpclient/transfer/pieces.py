"""Cutting a large file into pieces, for several connections.

Lives here: where pieces begin and end, and which files are worth it.
Lives elsewhere: getting them (fetch_pieces.py), sending them (send_pieces.py), putting them
together (ftpwire/pieces.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ftpwire.pieces import PIECE

LEAST = 16 * 1024 * 1024
"""Files below this many bytes are not worth being cut."""


def end_of(start: int, size: int) -> int:
    """Where the piece ends that begins at ``start``: at a multiple of PIECE, or with the file.

    So no two pieces share a block of a disk, wherever the first of them began.
    """
    return min(size, (start // PIECE + 1) * PIECE)


def starts_after(offset: int, size: int) -> Iterator[int]:
    """Where the pieces of what follows ``offset`` begin."""
    while offset < size:
        yield offset
        offset = end_of(offset, size)
