"""Which servers run on this machine: each notes its root, so that a command that finds none can
name them.

Lives here: the notes, one small file for each server. Lives elsewhere: asking a server
(control.py).

The notes lie in ``$XDG_RUNTIME_DIR/ftpd``, for root in ``/run/ftpd``; a user without such a
directory has none. A note is a hint: whether the server still runs is found out by asking it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("ftpd")

_MOST = 100
"""Notes that are looked at."""


def _directory() -> Path | None:
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        return Path(given) / "ftpd"
    return Path("/run/ftpd") if os.geteuid() == 0 else None


def _note_of(directory: Path, root: Path) -> Path:
    return directory / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def add(root: Path) -> None:
    """Note that a server runs on a root. Where there is no place for it, nothing is noted."""
    directory = _directory()
    if directory is None:
        return
    note = _note_of(directory, root)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        note.write_bytes(os.fsencode(root))
    except OSError as error:
        logger.debug("%s: can't be written: %s", note, error.strerror)


def remove(root: Path) -> None:
    """Take a note back. Can be called twice."""
    directory = _directory()
    if directory is None:
        return
    try:
        _note_of(directory, root).unlink(missing_ok=True)
    except OSError as error:
        logger.debug("%s: can't be removed: %s", directory, error.strerror)


def noted() -> Iterator[Path]:
    """The roots that servers have noted, in any order."""
    directory = _directory()
    try:
        notes = sorted(directory.iterdir())[:_MOST] if directory is not None else []
    except OSError:
        return  # no server has noted anything
    for note in notes:
        try:
            yield Path(os.fsdecode(note.read_bytes()))
        except OSError:
            continue  # it has just ended
