"""The base of all transfers: options, results, totals, continuing after a lost connection.

Lives here: the base class of uploads and downloads.
Lives elsewhere: uploads (upload.py), downloads (download.py), several connections (pool.py), the
public API (client.py), frames and replies (connection/connection.py), the display
(cli/progress.py).

Requests are sent ahead of the replies to earlier ones, so that a small file costs no round trip.
Memory use does not grow with the size of a tree: a local one is walked while it is sent; a remote
one is listed first, onto disk if the listing is long.
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
from ftpclient.transfer.reported import Reported
from ftpclient.transfer.selection import EVERYTHING, Selection
from ftpclient.transfer.spool import Spool
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
from ftpwire.job_end import NO_SPACE, STAYS, JobEnd
from ftpwire.messages import InTrash, Overwrite
from ftpwire.streams import ReadAhead

SMALL = 256 * 1024
"""Size in bytes up to which a file is read and sent whole."""
RESUME_FROM = 4 * 1024 * 1024
"""Size in bytes above which a transfer first asks whether it can resume. Below, the round trip
costs more than it can save."""
KEEP_ALIVE_SECONDS = 10.0
NOT_REST = "the rest was not transferred"
"""Ends the message of a transfer that stops early, for whatever reason."""


class Options(msgspec.Struct, frozen=True):
    """How to transfer.

    Attributes:
        recursive: True to transfer directories with all their contents.
        copy_links: True to transfer what links point to, instead of the links.
        overwrite: What to do when the target exists; ``older`` replaces it only if its mtime is
            before the source's.
        resume: True to use what an earlier try has transferred, after comparing its digest.
        fail_fast: True to stop at the first failure, instead of continuing with the rest.
        links: True to transfer a link that was named itself, instead of what it points to.
        no_empty: True to refuse an empty file or stream.
        selection: Which entries of a tree are transferred. A named source always is.
        remove_source: True to remove from the source what has arrived and was synced to disk,
            and directories that became empty.
        in_trash: The trash entry below which all paths on the server are, if any.

    Raises:
        ValueError: ``links`` and ``copy_links`` exclude each other. So do ``remove_source`` and
            ``copy_links``, because the targets of links are not removed; and ``remove_source``
            and ``in_trash``.
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
    """The transfer was stopped at its first failure, as requested by ``fail_fast``."""

    code = "stopped"


class EmptySource(CommandError):
    """The source is empty, and ``no_empty`` was set."""

    code = "empty"


class Unrepeatable(CommandError):
    """The connection was lost, and what was read from the source cannot be read again."""

    code = ConnectionLost.code
    exit_code = ConnectionLost.exit_code


class JobOver(Stopped):
    """No later file could succeed: see ftpwire/job_end.py.

    The cause was already reported and counted.
    """


class Enough(Stopped):
    """The listener asked to stop; files that had begun were finished."""


class _Held(msgspec.Struct, array_like=True):
    """One file that is done, and not reported yet."""

    source: bytes
    target: bytes
    size: int
    digest: bytes | None
    remark: str | None = None


def grew(size: int) -> str:
    """Return the remark about a file that grew while it was transferred."""
    return f"grew during the transfer: stored its first {size} bytes, its size when it was opened"


def _skips(error: FtpError, overwrite: Overwrite) -> bool:
    """Return whether a refusal is one that the options asked for."""
    if overwrite == "never":
        return isinstance(error, AlreadyExists)
    return overwrite == "older" and isinstance(error, NotNewer)


class Headway:
    """How much of a transfer is done for good: acknowledged by the server, or received.

    Attributes:
        count: Increases whenever the transfer has got further than ever before.
    """

    def __init__(self) -> None:
        self.count = 0
        self._reached: dict[bytes, int] = {}
        """How many bytes of each unfinished file need not be sent again."""

    def reached(self, target: bytes, position: int) -> None:
        """Note that this many bytes of a file have arrived."""
        if position > self._reached.get(target, 0):
            self._reached[target] = position
            self.count += 1

    def done(self, target: bytes) -> None:
        """Note that a file has arrived completely."""
        self._reached.pop(target, None)
        self.count += 1

    def all_done(self, results: Sequence[Result]) -> None:
        """Note that several files have arrived completely."""
        if self._reached:
            for result in results:
                self._reached.pop(result.target, None)
        self.count += len(results)


class Transfer:
    """The base of uploads and downloads: options, results, totals.

    After a lost connection, the caller calls ``go_on_with`` and adds the same files again. Those
    that were done are found unchanged then, and not reported twice.

    Args:
        parent: The transfer for which this one works, on a connection of its own. It gets all
            results, under ``_lock``, which the workers share with it.
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
        """Bytes done since the transfer began, or since it continued on a new connection."""
        self.size: int | None = None
        """The total number of bytes, if known."""
        self._began = time.monotonic()
        self._job_end = JobEnd()
        self._over: CommandError | None = None
        """The failure that ended the job, if any."""
        self.rest = ""
        """The text about the rest of a job that has ended; if empty, a default text."""
        self.space_hint = ""
        """A hint how to free space, if there is a way."""
        self._reported = Reported()
        """The files that were reported, so that none is reported twice after a lost connection."""
        self._held: Spool[_Held] | None = None
        """Files that are done, but count only once all others are."""
        self._lost: dict[bytes, tuple[bytes, int]] = {}
        """Targets whose replies were lost with a connection, with source and size."""

    def finish(self) -> Summary:
        """Wait for everything under way; return the totals."""
        self.workers.finish()
        self.settle()
        return self.close()

    def send_collected(self) -> None:
        """Send files now that would otherwise wait for more, to share one request with them."""

    def settle(self) -> None:
        """Wait for everything under way. Raises JobOver if none of it can succeed."""
        self.send_collected()
        while self.connection.unanswered:
            self.check_over()
            self.connection.pump()

    def close(self) -> Summary:
        """Close the transfer; return the totals, including files that were lost for good."""
        self.stop_workers()
        if self._held is not None:
            self._held.close()
            self._held = None
        lost, self._lost = self._lost, {}
        for target, (source, size) in lost.items():
            self._report(Result(source, target, size, "failed", error=_NOT_REGAINED))
        self._reported.close()
        self.summary.seconds = time.monotonic() - self._began
        if self._over is not None:  # even if some files were done before
            self.summary.exit_code = self._over.exit_code
        return self.summary

    def keeps(self, moved: int, size: int | None) -> bool:
        """Return whether the same command would go on from what an interruption has left.

        Args:
            moved: The number of bytes done.
            size: The total number of bytes, if known.
        """
        if not self.options.resume:
            return False
        is_large = size is None or size > RESUME_FROM
        return self.summary.done > 0 or (is_large and moved >= RESUME_FROM)

    def stop_workers(self) -> None:
        """Stop the workers of this transfer, if there are any."""
        self.workers.stop()

    def give_back(self) -> None:
        """Release what a worker holds. Called when it has nothing left to do."""

    def go_on_with(self, connection: Connection) -> None:
        """Continue on a new connection, after the old one was lost."""
        if connection.operation is None:
            connection.operation = self.connection.operation
        self.connection = connection
        self._reported.look_back()
        self.moved = 0

    def go_on(self) -> None:
        """Raise if nothing more is to be started.

        Raises:
            Stopped: A file failed, and ``fail_fast`` is set.
            JobOver: No later file could succeed.
            Enough: The listener asked to stop.
        """
        self.check_over()
        if self.listener.enough:
            raise Enough(f"stopped; {NOT_REST}")
        if self.options.fail_fast and self.summary.failed:
            raise Stopped(f"stopped at the first failure; {NOT_REST}")

    def check_over(self) -> None:
        """Raise JobOver if no later file could succeed."""
        if self._over is not None:
            raise JobOver(str(self._over))

    def start_over(self) -> None:
        """Begin from the start; files that are done count only after ``report_held``."""
        self.summary = Summary()
        self._lost.clear()
        self._reported.close()
        self._reported = Reported()
        if self._held is not None:
            self._held.close()
        self._held = Spool(_Held)

    def report_held(self) -> None:
        """Report all files that are done."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            for one in held:
                self._report(
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
        """Record the result of one file.

        Args:
            local: True if the error is of the local disk, not of the server.
            skipped: True if the error is no failure.
            unchanged: True if it was there already, with the same bytes.
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
        with self._lock:  # the totals and the listener are used by one thread at a time
            if error is None or not self._ends(source, target, size, error, local):
                self._end(result)

    def end_stored(self, results: Sequence[Result]) -> None:
        """Record the results of files that are stored and did not exist before. As ``end``."""
        parent = self._parent or self
        with self._lock:
            parent._end_stored(results)

    def _end_stored(self, results: Sequence[Result]) -> None:
        if not results:
            return
        if self._lost or self._held is not None or self._reported.looks_back:
            for result in results:
                self._end(result)
            return
        # a fast path when no file has to be looked up: it takes a quarter of the time
        self._job_end.stored()
        self.headway.all_done(results)
        self._reported.add_all(results)
        self.summary.add_stored(results)
        self.listener.all_stored(results)

    writes_here = False
    """True if the target is local, False if it is on the server."""

    def _ends(self, source: bytes, target: bytes, size: int, error: FtpError, local: bool) -> bool:
        """Return whether the job has ended, by this failure or an earlier one.

        The failure is not reported by itself then.
        """
        if self._over is not None:
            return True  # it was already under way when the job ended; the next job repeats it
        over = self.ended_by(target, error, size, local=local)
        if over is None:
            return False
        self._report(Result(source, target, size, "failed", error=over))
        return True

    def ended_by(
        self, target: bytes, error: FtpError, size: int, *, local: bool
    ) -> CommandError | None:
        """Return the error to report if this failure ends the job, else None.

        After that, ``check_over`` raises.
        """
        if not self._job_end.is_reached(error, size, at_target=local == self.writes_here):
            return None
        assert isinstance(error, CommandError)
        rest = self._what_stays if self._held is None else "nothing was replaced"
        if self.space_hint and isinstance(error, NO_SPACE):
            rest += f" ({self.space_hint})"
        self._over = words_for_all(target, error, rest, local=local)
        return self._over

    @property
    def _what_stays(self) -> str:
        """The text about the rest of a job that has ended; empty for a single file."""
        return self.rest or (STAYS if self.options.recursive or self.summary.done else "")

    @property
    def over(self) -> CommandError | None:
        """The failure that ended the job before all files were tried, if any."""
        return self._over

    def _end(self, result: Result) -> None:
        source, target = result.source, result.target
        if isinstance(result.error, ConnectionLost):
            self._lost[target] = (source, result.size)
            return
        if self._lost:
            self._lost.pop(target, None)
        if self._reported.was_before(source, target):
            return
        if result.status == "done" and not result.unchanged:
            self._job_end.stored()
        self._report(result)

    def _report(self, result: Result) -> None:
        if self._held is not None and result.status == "done":
            self.headway.reached(b"", self.moved)  # after a loss all files are sent again
            self._held.add(
                _Held(result.source, result.target, result.size, result.digest, result.remark)
            )
            return
        if result.status == "done":
            self.headway.done(result.target)
        self._reported.add(result.source, result.target)
        self.summary.add(result)
        self.listener.finished(result)

    def advanced(self, count: int) -> None:
        """Count this many more bytes as done."""
        parent = self._parent or self
        with self._lock:
            parent.moved += count
            self.listener.advanced(count)

    def tries_again(self, source: bytes) -> None:
        """Remark that a file changed while it was read, and is transferred again."""
        with self._lock:
            self.listener.remark(f"{paths.show(source)}: changed while it was read; trying again")

    def started(self, name: bytes, size: int | None) -> None:
        """Report that a large file begins."""
        with self._lock:
            self.listener.started(name, size)

    def announce(self, files: int, size: int) -> None:
        """Add files and bytes to the totals of the transfer."""
        self.size = (self.size or 0) + size
        self.listener.totals(files, size)

    def reached(self, target: bytes, position: int) -> None:
        """Note that this many bytes of a file need not be sent again after a lost connection."""
        with self._lock:
            self.headway.reached(target, position)

    def hash_local(self, fd: int, size: int) -> bytes:
        """Return the digest of a local file's first ``size`` bytes. Raises Interrupted."""
        hasher = digests.new()
        self.hash_into(hasher, fd, size)
        return hasher.digest()

    def hash_into(
        self, hasher: digests.new, fd: int, size: int, alive: Callable[[], None] | None = None
    ) -> None:
        """Hash a local file's first ``size`` bytes, calling ``alive`` regularly meanwhile."""
        with ReadAhead(fd, size, hasher=hasher, sparse=holes.are_in(fd, size)) as pieces:
            for _ in pieces:
                self.connection.check()
                if alive is not None:
                    alive()


_NOT_REGAINED = ConnectionLost("the connection was lost")


def words_for_all(target: bytes, error: CommandError, rest: str, *, local: bool) -> CommandError:
    """Return the failure of one file, worded for the job it ends: which path, and whose disk."""
    shown = paths.show(target)
    text = str(error).removeprefix(f"{shown}: ")
    disk = "the local disk" if local else "the server's disk"
    where = "" if isinstance(error, QuotaExceeded) else f" ({disk})"
    kind = DiskGone if isinstance(error, DiskFailed) else type(error)
    message = ": ".join(part for part in (shown, f"{text}{where}", rest) if part)
    return error.with_text(message, kind)


def same_time_and_size(info: os.stat_result, size: int, mtime_ns: int) -> bool:
    """Return whether a local file may equal the remote one, so that digests are compared."""
    return info.st_size == size and info.st_mtime_ns == mtime_ns
