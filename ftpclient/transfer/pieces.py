"""Dividing a large file into pieces, for several connections.

Lives here: where pieces begin and end, and which files are large enough.
Lives elsewhere: getting them (fetch_pieces.py), sending them (send_pieces.py), putting them
together (ftpwire/pieces.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from ftpwire.pieces import PIECE

LEAST = 16 * 1024 * 1024
"""Minimum size of a file that is worth dividing, in bytes."""


def end_of(start: int, size: int) -> int:
    """Return the end of the piece that begins at ``start``: a multiple of PIECE, or ``size``.

    So no two pieces share a disk block, wherever the first one began.
    """
    return min(size, (start // PIECE + 1) * PIECE)


def starts_after(offset: int, size: int) -> Iterator[int]:
    """Iterate over the starts of the pieces from ``offset`` on."""
    while offset < size:
        yield offset
        offset = end_of(offset, size)
