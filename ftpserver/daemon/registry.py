"""The registry of servers that run on this machine: an error message can name them.

Lives here: the registry's files, one small file for each server, with the path of its root. Lives
elsewhere: sending requests to a server (control.py).

The files are in ``$XDG_RUNTIME_DIR/ftpd``, for root in ``/run/ftpd``; a user without such a
directory has no registry. An entry is only a hint: to know whether the server still runs, connect
to it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger("ftpd")

_MOST = 100
"""Most entries that are read."""


def _directory() -> Path | None:
    given = os.environ.get("XDG_RUNTIME_DIR")
    if given:
        return Path(given) / "ftpd"
    return Path("/run/ftpd") if os.geteuid() == 0 else None


def _note_of(directory: Path, root: Path) -> Path:
    return directory / hashlib.sha256(os.fsencode(root)).hexdigest()[:16]


def add(root: Path) -> None:
    """Add a server to the registry. If there is no directory for it, do nothing."""
    directory = _directory()
    if directory is None:
        return
    note = _note_of(directory, root)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        note.write_bytes(os.fsencode(root))
    except OSError as error:
        logger.debug("%s: cannot be written: %s", note, error.strerror)


def remove(root: Path) -> None:
    """Remove a server from the registry. Can be called twice."""
    directory = _directory()
    if directory is None:
        return
    try:
        _note_of(directory, root).unlink(missing_ok=True)
    except OSError as error:
        logger.debug("%s: cannot be removed: %s", directory, error.strerror)


def noted() -> Iterator[Path]:
    """Yield the roots in the registry, in any order."""
    directory = _directory()
    try:
        notes = sorted(directory.iterdir())[:_MOST] if directory is not None else []
    except OSError:
        return  # no server has made the directory
    for note in notes:
        try:
            yield Path(os.fsdecode(note.read_bytes()))
        except OSError:
            continue  # it has just ended
