"""Writing the audit log: what is recorded, how much of it, in which file.

Lives here: the queue and its thread, rotating the files, refusals that are counted instead.
Lives elsewhere: what a record tells (record.py), what a session tells (trail.py), reading them for
people (cli/log.py).

Sessions queue what they did when it is acknowledged. One thread writes many records at once, so a
small upload costs no system call here. Nothing of this stops the service: when the queue is
full, when strangers are refused too fast, or when the disk is full, records are counted instead,
and one ``dropped`` record tells how many. A crash loses at most what was queued, some 0.1 s.

Whoever else writes to the file (`ftpd user set`) appends each record by a single write.
"""

from __future__ import annotations

import errno
import logging
import os
import pwd
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ftpserver.audit.record import FAILED, OK, Record, line_of, timestamp
from ftpserver.audit.trail import Recorder

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account

logger = logging.getLogger("ftpd.audit")

FILE_NAME = "audit.jsonl"
MAX_QUEUED = 16 * 1024 * 1024
"""Bytes of records that wait to be written, at most."""
_GATHER_SECONDS = 0.1
"""How long records wait for others to be written with."""
_WRITE = 256 * 1024
_REFUSALS_BURST = 500
_REFUSALS_RATE = 5.0
"""Records a second about what failed, for each account, and for all strangers together: whoever
only fails can't push what others did out of the files."""
_DROPPED_SECONDS = 10.0
_MAX_ALLOWANCES = 1024
_LINE = 1024
"""Bytes of a line. A longer one counts as several, wherever lines are counted: a path can make it
as long as 60 KiB."""
_SHARE = 10_000
_SHARE_SECONDS = 3600.0
"""Lines of what one account did, in so many seconds, that the common file takes: log-ins and file
operations count apart. The others go to a file of its own."""


class Chunk(NamedTuple):
    """Whole lines, and how many they are; of a ``dropped`` record, how many it tells of.

    Attributes:
        share: Whose share of the common file they count for (`trail.share_of`); None: nobody's.
    """

    lines: bytes
    records: int
    share: str | None = None


def _lines_in(size: int) -> int:
    """How many lines so many bytes count for."""
    return max(1, -(-size // _LINE))


class Files(Protocol):
    """Where the lines go."""

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines; returns how many lines could not be written."""

    def close(self) -> None:
        """Nothing more is written. Can be called twice."""


class FailureRoom(Protocol):
    """Who says how many failures are recorded."""

    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Whether another one of that account, or of a stranger, may be. Counts it if so.

        Args:
            guess: See `trail.guess_of`.
            size: Bytes of its line.
        """


class Audit(Recorder):
    """The audit log of a running server. Safe to use from many threads; nothing here raises.

    ``_lock`` guards the queue and the counts; it is never held across a file call. The file is
    the writer thread's alone.

    Args:
        state: The server's state directory.
        size: Bytes from which on a file is rotated; 0 writes no audit log.
        keep: Files that are kept beside the current one.
        own_size: Bytes of a file for one account's share alone.
        files: Where the lines go instead of into files there.
        failures: Says how many failures may be recorded, in the place of this process alone.

    Attributes:
        on_written: Called by the writer thread when the file has grown. Never waits, nor raises.
    """

    def __init__(
        self,
        state: Path,
        *,
        size: int,
        keep: int = 0,
        own_size: int = 16 * 2**20,
        files: Files | None = None,
        failures: FailureRoom | None = None,
    ) -> None:
        self.on_written: Callable[[], None] = lambda: None
        self.enabled = bool(size)
        self._files: Files = files or _Shared(state, size, keep, own_size)
        self._lock = threading.Lock()
        self._queue: list[Chunk] = []
        self._queued = 0
        self._dropped = 0
        self._told_dropped = -_DROPPED_SECONDS
        self.failures: FailureRoom = failures or FailureAllowances()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        if self.enabled:
            self._writer = threading.Thread(target=self._write_all, name="audit")
            self._writer.start()

    def append(self, lines: bytes, count: int, share: str | None = None) -> None:
        """Queue whole lines, and say how many they are."""
        if not count:
            return
        with self._lock:
            if self._queued + len(lines) > MAX_QUEUED or not self.enabled:
                self._dropped += count
            else:
                self._queue.append(Chunk(lines, count, share))
                self._queued += len(lines)
        if not self._wake.is_set():
            self._wake.set()

    def may_tell_failure(
        self, account: Account | None, guess: str | None = None, size: int = 0
    ) -> bool:
        """Whether another failure of that account, or of a stranger, may be recorded now."""
        granted = self.failures.take(None if account is None else account.id, guess, size)
        if not granted:
            with self._lock:
                self._dropped += 1
            if not self._wake.is_set():
                self._wake.set()
        return granted

    def close(self) -> None:
        """Write what is queued, and end the thread. Can be called twice."""
        self.enabled = False
        self._closing.set()
        self._wake.set()
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    # the writer thread -----------------------------------------------------------------------

    def _write_all(self) -> None:
        try:
            while not self._closing.is_set():
                self._wake.wait(_DROPPED_SECONDS if self._dropped else None)
                self._closing.wait(_GATHER_SECONDS)
                self._wake.clear()
                self._write_queued()
            self._write_queued()
        finally:
            self._files.close()

    def _write_queued(self) -> None:
        with self._lock:
            queue, self._queue = self._queue, []
            self._queued = 0
            dropped = self._dropped_due()
        if dropped:
            queue.append(Chunk(_dropped_line(dropped), dropped))
        lost = self._files.append(queue)
        if lost:
            with self._lock:
                self._dropped += lost
        if queue:
            self.on_written()

    def _dropped_due(self) -> int:
        """What a ``dropped`` record has to tell now: not one for each batch of a flood."""
        now = time.monotonic()
        due = now - self._told_dropped >= _DROPPED_SECONDS or self._closing.is_set()
        if not self._dropped or not due:
            return 0
        self._told_dropped = now
        dropped, self._dropped = self._dropped, 0
        return dropped


def _dropped_line(count: int) -> bytes:
    reason = "too many events, or no room for them"
    return line_of(Record(timestamp(time.time()), "dropped", FAILED, count=count, reason=reason))


class Allowance:
    """A bucket that fills with time: how much of something may be told.

    Args:
        burst: At once.
        rate: More of it, a second.
    """

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self, count: int = 1) -> bool:
        """Whether there is as much. What is more than there ever is at once takes all of it."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        count = max(1, min(count, self._burst))
        if self._left < count:
            return False
        self._left -= count
        return True


class FailureAllowances:
    """How many failures of each account, and of strangers, may be recorded. ``_lock`` guards all.

    Those of strangers count by what they guessed at: what costs one nothing can't use up the
    others'.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accounts: dict[int, Allowance] = {}
        self._strangers: dict[str | None, Allowance] = {}

    def take(self, account_id: int | None, guess: str | None, size: int) -> bool:
        """Whether another one may be recorded; see `FailureRoom`."""
        with self._lock:
            return self._allowance(account_id, guess).take(_lines_in(size))

    def _allowance(self, account_id: int | None, guess: str | None) -> Allowance:
        new = Allowance(_REFUSALS_BURST, _REFUSALS_RATE)
        if account_id is None:
            return self._strangers.setdefault(guess, new)
        if account_id not in self._accounts and len(self._accounts) >= _MAX_ALLOWANCES:
            self._accounts.clear()
        return self._accounts.setdefault(account_id, new)


class _Shared:
    """The common file, and one for each account that does more than others have room for.

    For one thread. Of the files of accounts none is kept open.
    """

    def __init__(self, state: Path, size: int, keep: int, own_size: int) -> None:
        self._state = state
        self._common = _Files(state / FILE_NAME, size, keep)
        self._own_size = own_size
        self._counts: dict[str, int] = {}
        self._since = time.monotonic()

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines where they belong; returns how many could not be written."""
        now = time.monotonic()
        if now - self._since >= _SHARE_SECONDS:
            self._since, self._counts = now, {}
        common: list[Chunk] = []
        own: dict[str, list[Chunk]] = {}
        for chunk in chunks:
            if chunk.share is None:
                common.append(chunk)
                continue
            before = self._counts.get(chunk.share, 0)
            after = before + max(chunk.records, _lines_in(len(chunk.lines)))
            self._counts[chunk.share] = after
            if after <= _SHARE:
                common.append(chunk)
                continue
            if before <= _SHARE:
                common.append(Chunk(_moved_line(chunk.share), 1))
            own.setdefault(chunk.share, []).append(chunk)
        lost = self._common.append(common)
        for share, its in own.items():
            files = _Files(self._state / own_name(share), self._own_size, 1)
            try:
                lost += files.append(its)
            finally:
                files.close()
        return lost

    def close(self) -> None:
        """Nothing more is written. Can be called twice."""
        self._common.close()


def own_name(share: str) -> str:
    """The file of one account's share, as ``audit-files-alice.jsonl``."""
    return f"audit-{share}.jsonl"


def _moved_line(share: str) -> bytes:
    kind, _, user = share.partition("-")
    many = f"more than {_SHARE} {kind} or {_SHARE} KiB of them in an hour"
    reason = f"{many}: the others are in {own_name(share)}"
    return line_of(Record(timestamp(time.time()), "moved-on", OK, user=user, reason=reason))


class _Files:
    """The current file and its predecessors: ``audit.jsonl``, ``audit.jsonl.1``, … For one thread.

    What it can't write is counted, and told once in the log until it can again.
    """

    def __init__(self, path: Path, size: int, keep: int) -> None:
        self._path = path
        self._limit = size
        self._keep = keep
        self._fd = -1
        self._broken = False

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines, many at once; returns how many lines could not be written."""
        start = 0
        while start < len(chunks):
            end, size = start, 0
            while end < len(chunks) and (end == start or size + len(chunks[end].lines) <= _WRITE):
                size += len(chunks[end].lines)
                end += 1
            try:
                self._write(b"".join(chunk.lines for chunk in chunks[start:end]))
            except OSError as error:
                self._failed(error)
                return sum(chunk.records for chunk in chunks[start:])
            start = end
        if chunks and self._broken:
            self._broken = False
            logger.warning("the audit log is written again")
        return 0

    def _failed(self, error: OSError) -> None:
        if not self._broken:
            logger.error(
                "%s: can't be written (%s): events are only counted until it can",
                self._path,
                os.strerror(error.errno or 0).lower(),
            )
        self._broken = True
        self.close()

    def _write(self, data: bytes) -> None:
        self._open()
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._limit:
            self._rotate()
            self._open()
        write_whole(self._fd, data)

    def _open(self) -> None:
        """Have the file that is called so now: somebody may have moved it away."""
        if self._fd >= 0:
            try:
                there, mine = os.stat(self._path), os.fstat(self._fd)
                if (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino):
                    return
            except FileNotFoundError:
                pass
            self.close()
        self._fd = open_to_append(self._path)

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep, 0, -1):
            older = rotated(self._path, number)
            newer = rotated(self._path, number - 1)
            if newer.exists():
                os.replace(newer, older)
        number = self._keep + 1
        while (surplus := rotated(self._path, number)).exists():  # more were kept before
            surplus.unlink()
            number += 1
        if not self._keep:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the current file. Can be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def rotated(path: Path, number: int) -> Path:
    """The file that was current so many rotations ago."""
    return path.with_name(f"{path.name}.{number}") if number else path


def open_to_append(path: Path) -> int:
    """Open a file of lines; a line that a full disk has cut is ended first."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path, flags, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            os.write(fd, b"\n")
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_whole(fd: int, data: bytes) -> None:
    """One write, as a rule; a disk that is filling up takes less."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def administered(state: Path, event: str, *, outcome: str = OK, **fields: Any) -> None:
    """Record what an administrator's command did, whether a server runs or not.

    A disk that is full doesn't undo the command: it is told in the log. Where nothing can be
    written, a command that failed says so itself.
    """
    record = Record(timestamp(time.time()), event, outcome, **given_by(), **fields)
    path = state / FILE_NAME
    try:
        fd = open_to_append(path)
        try:
            if os.geteuid() == 0:  # the server that goes on with the file may be somebody else
                owner = state.stat()
                os.fchown(fd, owner.st_uid, owner.st_gid)
            write_whole(fd, line_of(record))
        finally:
            os.close(fd)
    except OSError as error:
        if outcome != FAILED or error.errno != errno.EROFS:
            logger.error("%s: can't be written: %s", path, os.strerror(error.errno or 0).lower())
    else:
        from ftpserver.audit.notify import announce

        announce(state)


_LOGIN_UID = Path("/proc/self/loginuid")
_NOBODY = 2**32 - 1
"""The login user of what nobody has started: a service, for one."""
_LONGEST_USER = 256


def given_by() -> dict[str, Any]:
    """Who gives this process's command: ``by`` of a record, and ``sudo_user``, ``login_user``.

    The first is whom the process belongs to. The others are told where they differ: sudo leaves its
    user in a variable, which anybody can set; the kernel (audit(8), pam_loginuid(8)) remembers who
    has logged in, whatever was done since.
    """
    found: dict[str, Any] = {"by": _user_name(os.getuid())}
    sudo_user = os.environ.get("SUDO_USER", "")[:_LONGEST_USER]
    if sudo_user and sudo_user != found["by"]:
        found["sudo_user"] = sudo_user
    login_user = _login_user()
    if login_user is not None and login_user != found["by"]:
        found["login_user"] = login_user
    return found


def _login_user() -> str | None:
    try:
        uid = int(_LOGIN_UID.read_text())
    except (OSError, ValueError):
        return None  # no Linux, or a kernel without it
    return None if uid == _NOBODY else _user_name(uid)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
