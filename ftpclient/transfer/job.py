"""What all transfers have in common: options, totals, going on after a loss.

Lives here: the base of uploads and downloads. Lives elsewhere: uploads (upload.py), downloads
(download.py), several connections (pool.py), what users ask for (client.py), frames and replies
(connection/connection.py), showing it (cli/progress.py).

Requests are sent ahead of their replies, so that a small file costs no round trip. Memory is
flat: a tree is walked while it is sent; a remote one is listed first, onto disk if it is long.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from ftpclient.connection.connection import Connection
from ftpclient.transfer.pool import Workers
from ftpclient.transfer.report import Listener, Result, Summary
from ftpclient.transfer.selection import EVERYTHING, Selection
from ftpclient.transfer.spool import Spool
from ftpclient.transfer.told import Told
from ftpwire import digests, holes, paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    ConnectionLost,
    DiskFailed,
    DiskGone,
    FtpError,
    NotNewer,
    QuotaExceeded,
)
from ftpwire.job_end import NO_ROOM, STAYS, JobEnd
from ftpwire.messages import InTrash, Overwrite
from ftpwire.streams import ReadAhead

SMALL = 256 * 1024
"""Files up to this many bytes are read and sent whole."""
RESUME_FROM = 4 * 1024 * 1024
"""Larger files ask first what is there; below, a round trip costs more than it can save."""
KEEP_ALIVE_SECONDS = 10.0
NOT_REST = "the rest was not transferred"
"""What is said where a transfer stops before its end, for whatever reason."""


class Options(msgspec.Struct, frozen=True):
    """How to transfer.

    Attributes:
        recursive: Directories with all their contents.
        copy_links: Transfer what links point to, instead of the links.
        overwrite: What to do when the target exists; ``older`` replaces it only if its mtime is
            before the source's.
        resume: Use what is there from an earlier try, after its digest was compared.
        fail_fast: Stop at the first failure, instead of going on with the rest.
        links: Transfer a link that was named itself, instead of what it leads to.
        no_empty: Refuse a file or stream without a byte.
        selection: What of a tree is transferred; what is named itself always is.
        remove_source: Remove what has arrived for good from where it came, and directories that
            became empty.
        in_trash: Paths on the server are below this thing in the trash.

    Raises:
        ValueError: ``links`` and ``copy_links`` exclude each other; so do ``remove_source`` and
            ``copy_links``, for what links lead to is not removed, and ``in_trash``.
    """

    recursive: bool = False
    copy_links: bool = False
    overwrite: Overwrite = "always"
    resume: bool = True
    fail_fast: bool = False
    links: bool = False
    no_empty: bool = False
    selection: Selection = EVERYTHING
    remove_source: bool = False
    in_trash: InTrash | None = None

    def __post_init__(self) -> None:
        if self.links and self.copy_links:
            raise ValueError("links and copy_links exclude each other")
        if self.remove_source and self.copy_links:
            raise ValueError("remove_source and copy_links exclude each other")
        if self.remove_source and self.in_trash is not None:
            raise ValueError("remove_source and in_trash exclude each other")


class Stopped(FtpError):
    """The transfer was stopped at its first failure, as was asked for."""

    code = "stopped"


class EmptySource(CommandError):
    """There was not a byte to send, and that was not to be stored."""

    code = "empty"


class Unrepeatable(CommandError):
    """The connection was lost, and what was read of the source can't be read again."""

    code = ConnectionLost.code
    exit_code = ConnectionLost.exit_code


class JobOver(Stopped):
    """Nothing that follows could succeed: see ftpwire/job_end.py. It was told, and is counted."""


class Enough(Stopped):
    """The transfer was stopped because its listener wants no more; what had begun is finished."""


class _Held(msgspec.Struct, array_like=True):
    """One file that is done, and isn't told yet."""

    source: bytes
    target: bytes
    size: int
    digest: bytes | None
    remark: str | None = None


def grew(size: int) -> str:
    """The remark about a file that became longer while it was transferred."""
    return f"it grew meanwhile: its first {size} bytes are stored, as it was when it was opened"


def _skips(error: FtpError, overwrite: Overwrite) -> bool:
    """Whether a refusal is what the options asked for."""
    if overwrite == "never":
        return isinstance(error, AlreadyExists)
    return overwrite == "older" and isinstance(error, NotNewer)


class Headway:
    """How far a transfer has come for good: what the other side has acknowledged, or was received.

    Attributes:
        count: Grows whenever it has come further than ever before.
    """

    def __init__(self) -> None:
        self.count = 0
        self._reached: dict[bytes, int] = {}
        """Bytes of the files under way that need not be sent again."""

    def reached(self, target: bytes, position: int) -> None:
        """So many bytes of a file are there."""
        if position > self._reached.get(target, 0):
            self._reached[target] = position
            self.count += 1

    def done(self, target: bytes) -> None:
        """All of a file is there."""
        self._reached.pop(target, None)
        self.count += 1

    def all_done(self, results: Sequence[Result]) -> None:
        """All of several files is there."""
        if self._reached:
            for result in results:
                self._reached.pop(result.target, None)
        self.count += len(results)


class Transfer:
    """What uploads and downloads have in common: options, results, totals.

    After a lost connection, the same files are added again on a new one (``go_on_with``): what
    was done is found unchanged then, and not told twice.

    Args:
        parent: The transfer that this one works for, on a connection of its own: results are told
            to that. ``_lock`` is held while they are.
    """

    def __init__(
        self,
        connection: Connection,
        options: Options,
        listener: Listener,
        parent: Transfer | None = None,
    ) -> None:
        self.connection = connection
        self._parent = parent
        self.workers = Workers()
        self._lock: threading.Lock = threading.Lock() if parent is None else parent._lock
        self.options = options
        self.listener = listener
        self.summary = Summary()
        self.headway: Headway = Headway() if parent is None else parent.headway
        self.moved = 0
        """Bytes that are done since the transfer was begun, or was gone on with."""
        self.size: int | None = None
        """Of how many, if that is known."""
        self._began = time.monotonic()
        self._job_end = JobEnd()
        self._over: CommandError | None = None
        """What was the end of the job."""
        self.rest = ""
        """What is said of the rest of a job that has ended; empty chooses."""
        self.more_room = ""
        """What would make room, if something would."""
        self._told = Told()
        """The ends that are told once, whatever happens to connections."""
        self._held: Spool[_Held] | None = None
        """What is done, but counts only once all of it does."""
        self._lost: dict[bytes, tuple[bytes, int]] = {}
        """Targets whose answers a lost connection took along, with source and size."""

    def finish(self) -> Summary:
        """Wait for all that is under way; the totals."""
        self.workers.finish()
        self.settle()
        return self.close()

    def send_collected(self) -> None:
        """Ask now for what would wait for more, to go with it in one request of many files."""

    def settle(self) -> None:
        """Wait for all that is under way. Raises JobOver when nothing of it can succeed."""
        self.send_collected()
        while self.connection.unanswered:
            self.check_over()
            self.connection.pump()

    def close(self) -> Summary:
        """The totals, with what was lost for good."""
        self.stop_workers()
        if self._held is not None:
            self._held.close()
            self._held = None
        lost, self._lost = self._lost, {}
        for target, (source, size) in lost.items():
            self._tell(Result(source, target, size, "failed", error=_NOT_REGAINED))
        self._told.close()
        self.summary.seconds = time.monotonic() - self._began
        if self._over is not None:  # whatever was done before
            self.summary.exit_code = self._over.exit_code
        return self.summary

    def stop_workers(self) -> None:
        """Stop those who work for this transfer, if there are any."""
        self.workers.stop()

    def give_back(self) -> None:
        """Of one who works for another: nothing more is to do."""

    def go_on_with(self, connection: Connection) -> None:
        """Use a new connection, after the old one was lost."""
        if connection.operation is None:
            connection.operation = self.connection.operation
        self.connection = connection
        self._told.look_back()
        self.moved = 0

    def go_on(self) -> None:
        """Raises Stopped when something failed and that is to be the end; JobOver when nothing
        could succeed; Enough when the listener wants no more."""
        self.check_over()
        if self.listener.enough:
            raise Enough(f"stopped; {NOT_REST}")
        if self.options.fail_fast and self.summary.failed:
            raise Stopped(f"stopped at the first failure; {NOT_REST}")

    def check_over(self) -> None:
        """Raises JobOver when nothing that follows could succeed."""
        if self._over is not None:
            raise JobOver(str(self._over))

    def start_over(self) -> None:
        """All of it is to be done (again), and what is done counts once ``tell_held`` says so."""
        self.summary = Summary()
        self._lost.clear()
        self._told.close()
        self._told = Told()
        if self._held is not None:
            self._held.close()
        self._held = Spool(_Held)

    def tell_held(self) -> None:
        """All that is done counts now."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            for one in held:
                self._tell(
                    Result(one.source, one.target, one.size, "done", one.digest, remark=one.remark)
                )
        finally:
            held.close()

    def end(
        self,
        source: bytes,
        target: bytes,
        size: int,
        *,
        digest: bytes | None = None,
        error: FtpError | None = None,
        skipped: bool = False,
        unchanged: bool = False,
        local: bool = False,
        remark: str | None = None,
    ) -> None:
        """One file has ended.

        Args:
            local: The error is of the disk here, not of the server.
            skipped: The error is no failure.
            unchanged: It was there already, with the same bytes.
            remark: See `Result`.
        """
        if self._parent is not None:
            self._parent.end(
                source,
                target,
                size,
                digest=digest,
                error=error,
                skipped=skipped,
                unchanged=unchanged,
                local=local,
                remark=remark,
            )
            return
        status: Literal["done", "skipped", "failed"] = "done"
        if error is not None:
            skip = skipped or _skips(error, self.options.overwrite)
            status = "skipped" if skip else "failed"
        result = Result(source, target, size, status, digest, error, unchanged, remark=remark)
        with self._lock:
            if error is None or not self._ends(source, target, size, error, local):
                self._end(result)

    def end_stored(self, results: Sequence[Result]) -> None:
        """Files have ended, all of them well, and were not there before. As ``end`` for each."""
        parent = self._parent or self
        with self._lock:
            parent._end_stored(results)

    def _end_stored(self, results: Sequence[Result]) -> None:
        if not results:
            return
        if self._lost or self._held is not None or self._told.looks_back:
            for result in results:
                self._end(result)
            return
        # nothing is to be looked up of any of them: all at once takes a quarter of the time
        self._job_end.stored()
        self.headway.all_done(results)
        self._told.add_all(results)
        self.summary.add_stored(results)
        self.listener.all_stored(results)

    writes_here = False
    """Whether the target is here, or else on the server."""

    def _ends(self, source: bytes, target: bytes, size: int, error: FtpError, local: bool) -> bool:
        """Whether a failure was the end of the job, now or before: it is not told by itself."""
        if self._over is not None:
            return True  # it was under way when the job ended, and is done the next time
        over = self.ended_by(target, error, size, local=local)
        if over is None:
            return False
        self._tell(Result(source, target, size, "failed", error=over))
        return True

    def ended_by(
        self, target: bytes, error: FtpError, size: int, *, local: bool
    ) -> CommandError | None:
        """What to say of a failure that is the end of the job: ``check_over`` raises from now on.

        None when it is not the end.
        """
        if not self._job_end.is_reached(error, size, at_target=local == self.writes_here):
            return None
        assert isinstance(error, CommandError)
        rest = self._what_stays if self._held is None else "nothing was replaced"
        if self.more_room and isinstance(error, NO_ROOM):
            rest += f" ({self.more_room})"
        self._over = words_for_all(target, error, rest, local=local)
        return self._over

    @property
    def _what_stays(self) -> str:
        """What becomes of a job that ended; nothing has to be said of a single file."""
        return self.rest or (STAYS if self.options.recursive or self.summary.done else "")

    @property
    def over(self) -> CommandError | None:
        """What was the end of the job, if it ended before all of it was tried."""
        return self._over

    def _end(self, result: Result) -> None:
        source, target = result.source, result.target
        if isinstance(result.error, ConnectionLost):
            self._lost[target] = (source, result.size)
            return
        if self._lost:
            self._lost.pop(target, None)
        if self._told.was_before(source, target):
            return
        if result.status == "done" and not result.unchanged:
            self._job_end.stored()
        self._tell(result)

    def _tell(self, result: Result) -> None:
        if self._held is not None and result.status == "done":
            self.headway.reached(b"", self.moved)  # all of it is sent again after a loss
            self._held.add(
                _Held(result.source, result.target, result.size, result.digest, result.remark)
            )
            return
        if result.status == "done":
            self.headway.done(result.target)
        self._told.add(result.source, result.target)
        self.summary.add(result)
        self.listener.finished(result)

    def advanced(self, count: int) -> None:
        """So many bytes more are done."""
        parent = self._parent or self
        with self._lock:
            parent.moved += count
            self.listener.advanced(count)

    def tries_again(self, source: bytes) -> None:
        """A file changed while it was read, and is transferred once more."""
        with self._lock:
            self.listener.remark(f"{paths.show(source)}: changed meanwhile; trying once more")

    def started(self, name: bytes, size: int | None) -> None:
        """A large file begins."""
        with self._lock:
            self.listener.started(name, size)

    def announce(self, files: int, size: int) -> None:
        """So much is to be done."""
        self.size = (self.size or 0) + size
        self.listener.totals(files, size)

    def reached(self, target: bytes, position: int) -> None:
        """So many bytes of a file need not be sent again, whatever happens to the connection."""
        with self._lock:
            self.headway.reached(target, position)

    def hash_local(self, fd: int, size: int) -> bytes:
        """The digest of a local file's first bytes. Raises Interrupted."""
        hasher = digests.new()
        self.hash_into(hasher, fd, size)
        return hasher.digest()

    def hash_into(
        self, hasher: digests.new, fd: int, size: int, alive: Callable[[], None] | None = None
    ) -> None:
        """Hash a local file's first bytes; ``alive`` is called now and then meanwhile."""
        with ReadAhead(fd, size, hasher=hasher, sparse=holes.are_in(fd, size)) as pieces:
            for _ in pieces:
                self.connection.check()
                if alive is not None:
                    alive()


_NOT_REGAINED = ConnectionLost("the connection was lost")


def words_for_all(target: bytes, error: CommandError, rest: str, *, local: bool) -> CommandError:
    """The failure of one file, in words for the job that it ends: which path, and whose disk."""
    shown = paths.show(target)
    text = str(error).removeprefix(f"{shown}: ")
    disk = "the disk here" if local else "the server's disk"
    where = "" if isinstance(error, QuotaExceeded) else f" ({disk})"
    kind = DiskGone if isinstance(error, DiskFailed) else type(error)
    told = ": ".join(part for part in (shown, f"{text}{where}", rest) if part)
    return error.with_text(told, kind)


def same_time_and_size(info: os.stat_result, size: int, mtime_ns: int) -> bool:
    """Whether a local file may be the remote one: worth comparing their digests."""
    return info.st_size == size and info.st_mtime_ns == mtime_ns
