"""Preflight: checking whether a job fits, before its first byte.

Lives here: comparing what a job needs with the account's quota, the server's disk and the local
disk. The need is a lower bound: a job that passes may still fail, one that is refused would have
failed.
Lives elsewhere: transferring the bytes (upload.py, download.py), the plan of a sync (sync/job.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence

from ftpclient.connection.connection import Connection
from ftpclient.transfer.job import Options
from ftpclient.transfer.listing import find, list_pages
from ftpclient.transfer.placing import partial_name
from ftpclient.transfer.selection import Walk, with_ignore_file
from ftpwire import paths
from ftpwire.errors import BYTES, CommandError, DiskFull, QuotaExceeded
from ftpwire.messages import Entry, List, Overwrite, Space, SpaceInfo
from ftpwire.paths import Parts, RemotePath
from ftpwire.units import human, needed_and_free

SourceAndTarget = tuple[bytes, RemotePath]
"""A local source, and its future remote path."""


def check(space: SpaceInfo, needed: int, undone: str) -> None:
    """Refuse a job that does not fit on the server.

    Args:
        needed: Bytes that the account would use in addition.
        undone: The end of the message, e.g. "nothing was sent".

    Raises:
        QuotaExceeded: The account has less quota left.
        DiskFull: The server's disk has less free space.
    """
    held = space.held  # bytes of interrupted uploads: resuming these needs no additional space
    of_quota = "" if space.total is None else f" of a quota of {human(space.total)}"
    if space.free is not None and needed > space.free + held:
        raise QuotaExceeded(
            _words(needed, space.free + held, f"free{of_quota}", undone),
            needed=needed,
            free=space.free + held,
            what=BYTES,
        )
    if space.disk_free is not None and needed > space.disk_free + held:
        raise DiskFull(_words(needed, space.disk_free + held, "free on the server's disk", undone))


def measure(sources: Iterable[bytes], options: Options) -> tuple[int, int]:
    """Return how many files and bytes an upload of ``sources`` will send, at most."""
    files = size = 0
    selection, follow = options.selection, options.copy_links
    for source in sources:
        todo = [(source, selection.filter())]
        while todo:
            path, rules = todo.pop()
            try:
                info = os.stat(path, follow_symlinks=not options.links)
                if stat.S_ISDIR(info.st_mode) and options.recursive and len(todo) < 10_000:
                    if selection.ignore_files:
                        rules = with_ignore_file(rules, path)
                    with os.scandir(path) as entries:
                        for entry in entries:
                            if rules.active and rules.leaves_out_local(
                                entry.name, entry.stat(follow_symlinks=follow)
                            ):
                                continue
                            if entry.is_file(follow_symlinks=follow):
                                files += 1
                                size += entry.stat(follow_symlinks=follow).st_size
                            elif entry.is_dir(follow_symlinks=False):
                                todo.append((entry.path, rules.below(entry.name)))
                elif stat.S_ISREG(info.st_mode):
                    files += 1
                    size += info.st_size
            except (OSError, CommandError):
                continue  # the transfer itself reports it
    return files, size


def check_put(
    connection: Connection, pairs: Sequence[SourceAndTarget], options: Options, *, atomic: bool
) -> None:
    """Refuse an upload that cannot fit.

    Args:
        atomic: True if existing files stay until everything has arrived: then replacing
            them frees nothing.

    Raises:
        QuotaExceeded, DiskFull
    """
    space = connection.ask(Space())
    _, size = measure([source for source, _ in pairs], options)
    try:
        check(space, size, "nothing was sent")
    except (QuotaExceeded, DiskFull):
        if atomic:
            raise
    else:
        return
    # it would not fit if all files were new: only now look at what exists
    there = sum(_there(connection, source, target, options) for source, target in pairs)
    check(space, size - there, "nothing was sent")


def _there(connection: Connection, source: bytes, target: RemotePath, options: Options) -> int:
    """Return how many bytes of an upload need no space, because of files that exist."""
    entry = find(connection, target, follow=True)
    if entry is None:
        return 0
    if entry.type != "dir":
        return _present(source, entry, options, follow=not options.links)
    if not options.recursive:
        return 0
    present = 0
    walk = Walk(options.selection.filter(connection.check))
    try:
        for page in list_pages(connection, List(target, recursive=True)):
            directory = paths.child(RemotePath(source), page.directory or b".")
            for one in walk.selected(page.directory, page.entries):
                below = paths.child(directory, one.path)
                present += _present(below, one, options, follow=options.copy_links)
    except CommandError:
        return measure([source], options)[1]  # unknown: let the server decide
    return present


def _present(source: bytes, there: Entry, options: Options, *, follow: bool) -> int:
    """Return how many bytes of a file need no space, because it replaces an existing one."""
    try:
        info = os.stat(source, follow_symlinks=follow)
    except OSError:
        return 0  # nothing is sent
    if there.type != "file" or not stat.S_ISREG(info.st_mode):
        return 0
    return _kept_or_replaced(options.overwrite, info.st_size, there.size)


def _kept_or_replaced(overwrite: Overwrite, new: int, old: int) -> int:
    if overwrite == "always":
        return old
    return new if overwrite == "never" else max(new, old)


def check_get(target: bytes, needed: int, present: Callable[[], int], undone: str) -> None:
    """Refuse a download that does not fit on the local disk.

    Args:
        target: The target path, which need not exist yet.
        needed: The size of the download in bytes, if all of it were new.
        present: Returns how many bytes of it are here already; called only if it matters.
        undone: As in `check`.

    Raises:
        DiskFull
    """
    existing = os.path.abspath(target)
    while not os.path.isdir(existing):
        existing = os.path.dirname(existing)
    try:
        disk = os.statvfs(existing)
    except OSError:
        return  # the transfer itself reports it
    free = disk.f_bavail * disk.f_frsize
    if not disk.f_blocks or needed <= free:  # no blocks: the file system doesn't know its size
        return
    needed -= present()
    if needed > free:
        raise DiskFull(_words(needed, free, f"free in {paths.show(existing)}", undone))


def here_of(directory: bytes, parts: Parts) -> int:
    """Return how many bytes a download has here: in the replaced file and the partial one."""
    return _size(os.path.join(directory, *parts)) + part_of(directory, parts)


def part_of(directory: bytes, parts: Parts) -> int:
    """Return the size in bytes of the partial file that an earlier try has left."""
    return _size(os.path.join(directory, *parts[:-1], partial_name(parts)))


def _size(path: bytes) -> int:
    try:
        info = os.lstat(path)
    except OSError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


def _words(needed: int, free: int, free_where: str, undone: str) -> str:
    many, few = needed_and_free(needed, free)
    return f"{many} needed, {few} {free_where}; {undone}"
