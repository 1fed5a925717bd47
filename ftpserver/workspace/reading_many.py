"""Reading many small files for one request, before the first byte of the reply is sent.

Lives here: choosing and reading them, and the reply about each. Lives elsewhere: reading one file
of any size (reading.py), sending the reply (serving/commands/transfers.py).

A file that is not as the client expects, for whatever reason, is skipped without an error. The
client then asks for it by `get`, which reports the reason.
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
from ftpwire.beneath import clamped_mtime_ns
from ftpwire.errors import BadRequest, CommandError
from ftpwire.messages import MAX_BYTES, MAX_ITEMS, GetFiles, SentFile, WantedFile
from ftpwire.paths import Parts

_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_LOOK_EVERY = 64
"""Files between two checks for a CANCEL: a slow disk may take long for each of them."""


class FilesRead(NamedTuple):
    """The files that were read.

    Attributes:
        replies: The reply for each file, in the order of the request; None for one that isn't sent.
        data: The bytes of those that are sent, one after another.
    """

    replies: list[SentFile | None]
    data: bytes


def read_many(home: Home, request: GetFiles, observer: Observer) -> FilesRead:
    """Read the files of a request, each as a whole.

    Raises:
        BadRequest: It asks for too many files or bytes.
        Cancelled, SessionEnded: See `Observer.progressed`.
    """
    _check(request)
    replies: list[SentFile | None] = []
    data: list[bytes] = []
    looked = -_LOOK_EVERY
    for wanted in request.directories:
        for start in range(0, len(wanted.files), _LOOK_EVERY):
            if len(replies) - looked >= _LOOK_EVERY:
                looked = len(replies)
                observer.look_for_cancel()
            _read_some(home, wanted.path, wanted.files[start : start + _LOOK_EVERY], replies, data)
    return FilesRead(replies, b"".join(data))


def _check(request: GetFiles) -> None:
    """Raise BadRequest, before anything is read, if the request asks for too much."""
    files = sum(len(one.files) for one in request.directories)
    if files + len(request.directories) > MAX_ITEMS:
        raise BadRequest(f"more than {MAX_ITEMS} files and directories in one request")
    if sum(file.size for one in request.directories for file in one.files) > MAX_BYTES:
        raise BadRequest(f"files of more than {MAX_BYTES} bytes in one request")


def _read_some(
    home: Home,
    path: bytes,
    files: Sequence[WantedFile],
    replies: list[SentFile | None],
    data: list[bytes],
) -> None:
    try:
        parts = paths.split(path)
        # a link is only followed to a directory with the same permissions, for itself and below,
        # so it is enough that `_may_be_read` checks the requested path
        directory = home.tree.open_dir(parts)
    except (OSError, CommandError):  # `get` will report the error for each file
        replies += [None] * len(files)
        return
    rules = None if home.permissions.unlimited else home.permissions
    try:
        for file in files:
            if not len(replies) % TURN_FILES:
                home.take_turn()
            if not _may_be_read(file.name, parts, rules):
                replies.append(None)
                continue
            replies.append(_read(directory, file, data))
    finally:
        os.close(directory)


def _may_be_read(name: bytes, above: Parts, rules: Permissions | None) -> bool:
    if not paths.is_name(name):
        return False
    return rules is None or rules.allows(Action.READ, (*above, name))


def _read(directory: int, file: WantedFile, data: list[bytes]) -> SentFile | None:
    """Read one file. Return None if it isn't a file of the requested size, changes meanwhile, or
    doesn't have its stored digest."""
    size = file.size
    try:
        fd = os.open(file.name, _OPEN, dir_fd=directory)
    except OSError:  # `get` will report it
        return None
    try:
        info = os.fstat(fd)
        if info.st_size != size or not stat.S_ISREG(info.st_mode):
            return None
        content = os.read(fd, size + 1)  # one byte more, to notice that it has grown
        if len(content) != size:
            return None
        digest = digests.digest(content)
        kept = fresh_digest(fd, info)
        if kept not in (None, digest) or not growing.is_as_before(fd, info):
            return None
    except OSError:  # `get` will report it
        return None
    finally:
        os.close(fd)
    data.append(content)
    return SentFile(info.st_mode & 0o7777, clamped_mtime_ns(info), digest)
