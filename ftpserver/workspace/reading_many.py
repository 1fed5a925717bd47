"""Many small files that are read for one request, before the first byte of the answer.

Lives here: which of them are read, and what is told of each. Lives elsewhere: one file, of any size
(reading.py), the answer (serving/commands/transfers.py).

A file is passed over here that isn't as it was asked for, whatever the reason. Its client asks for
it by `get`, which has the words for all of these: so nothing here tells why.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from ftpserver.storage.digest_xattr import fresh_digest
from ftpserver.storage.home import Home
from ftpserver.storage.open_home import TURN_FILES
from ftpserver.storage.permissions import Action, Permissions
from ftpserver.workspace.observer import Observer
from ftpwire import digests, growing, paths
from ftpwire.beneath import told_time
from ftpwire.errors import BadRequest, CommandError
from ftpwire.messages import MOST_BYTES, MOST_ITEMS, GetFiles, SentFile, WantedFile
from ftpwire.paths import Parts

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_LOOK_EVERY = 64
"""Files between two looks whether the client has cancelled it: a disk may take long for each."""


class FilesRead(NamedTuple):
    """What was read.

    Attributes:
        told: Of each file, in the order in which they were asked for; None of one that isn't sent.
        data: The bytes of those that are, one after another.
    """

    told: list[SentFile | None]
    data: bytes


def read_many(home: Home, request: GetFiles, observer: Observer) -> FilesRead:
    """Read the files of a request, each as a whole.

    Raises:
        BadRequest: It asks for more than one request may.
        Cancelled, SessionEnded: See `Observer.progressed`.
    """
    _check(request)
    told: list[SentFile | None] = []
    data: list[bytes] = []
    looked = -_LOOK_EVERY
    for wanted in request.directories:
        for start in range(0, len(wanted.files), _LOOK_EVERY):
            if len(told) - looked >= _LOOK_EVERY:
                looked = len(told)
                observer.look_for_cancel()
            _read_some(home, wanted.path, wanted.files[start : start + _LOOK_EVERY], told, data)
    return FilesRead(told, b"".join(data))


def _check(request: GetFiles) -> None:
    """Refuse, before anything is read, what is too much."""
    files = sum(len(one.files) for one in request.directories)
    if files + len(request.directories) > MOST_ITEMS:
        raise BadRequest(f"more than {MOST_ITEMS} files and directories in one request")
    if sum(file.size for one in request.directories for file in one.files) > MOST_BYTES:
        raise BadRequest(f"files of more than {MOST_BYTES} bytes in one request")


def _read_some(
    home: Home,
    path: bytes,
    files: Sequence[WantedFile],
    told: list[SentFile | None],
    data: list[bytes],
) -> None:
    try:
        parts = paths.split(path)
        # where a link leads that is followed here, the same rights hold, there and below
        directory = home.tree.open_dir(parts)
    except (OSError, CommandError):  # `get` tells it of each file
        told += [None] * len(files)
        return
    rules = None if home.permissions.unlimited else home.permissions
    try:
        for file in files:
            if not len(told) % TURN_FILES:
                home.take_turn()
            if not _may_be_read(file.name, parts, rules):
                told.append(None)
                continue
            told.append(_read(directory, file, data))
    finally:
        os.close(directory)


def _may_be_read(name: bytes, above: Parts, rules: Permissions | None) -> bool:
    if not paths.is_name(name):
        return False
    return rules is None or rules.allows(Action.READ, (*above, name))


def _read(directory: int, file: WantedFile, data: list[bytes]) -> SentFile | None:
    """Read one file, if it is as it was asked for and stays so, and has the digest that is kept."""
    size = file.size
    try:
        fd = os.open(file.name, _OPEN, dir_fd=directory)
    except OSError:  # `get` tells it
        return None
    try:
        info = os.fstat(fd)
        if info.st_size != size or not stat.S_ISREG(info.st_mode):
            return None
        content = os.read(fd, size + 1)
        if len(content) != size:
            return None
        digest = digests.digest(content)
        kept = fresh_digest(fd, info)
        if kept not in (None, digest) or not growing.is_as_before(fd, info):
            return None
    except OSError:  # as above
        return None
    finally:
        os.close(fd)
    data.append(content)
    return SentFile(info.st_mode & 0o7777, told_time(info), digest)
