"""The audit log: who did what, from where, and how it ended; one JSON object a line.

Lives here: which requests are recorded, what a record tells, writing and rotating the files.
Lives elsewhere: reading them for people (cli_log.py), the log on stderr (run.py).

Sessions only queue what happened. One thread turns it into lines and writes many at once, so a
small upload costs no system call here. Nothing of this stops the service: when the queue is
full, when strangers are refused too fast, or when the disk is full, records are counted instead,
and one ``dropped`` record tells how many. A crash loses at most what was queued, some 0.1 s.

Whoever else writes to the file (`ftpd user set`) appends each record by a single write.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import pwd
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ftpwire import messages, paths
from ftpwire.errors import BY_CODE, CommandError, Forbidden, FtpError, NotLoggedIn, TooMany
from ftpwire.messages import Failed, Message, Sent

if TYPE_CHECKING:
    from ftpserver.session import Session

logger = logging.getLogger("ftpd.audit")

FILE_NAME = "audit.jsonl"
OK, REFUSED, FAILED, CUT = "ok", "refused", "failed", "cut"
"""Outcomes: done; forbidden by a rule or a limit; gone wrong; the connection ended meanwhile."""

MAX_QUEUED = 20_000
"""Records that wait to be written, at most."""
_GATHER_SECONDS = 0.1
"""How long records wait for others to be written with."""
_WRITE = 256 * 1024
_REFUSALS_BURST = 500
_REFUSALS_RATE = 5.0
"""Records a second about what failed, for each account, and for all strangers together: whoever
only fails can't push what others did out of the files."""
_DROPPED_SECONDS = 10.0
_MAX_REASON = 1000
_MAX_ALLOWANCES = 1024

EVENTS: dict[type[Message], str] = {
    messages.Login: "login",
    messages.LoginToken: "login",
    messages.Register: "register",
    messages.ChangePassword: "password",
    messages.IssueToken: "token-issue",
    messages.RevokeToken: "token-revoke",
    messages.Get: "get",
    messages.Put: "put",
    messages.MakeDir: "mkdir",
    messages.MakeLink: "link",
    messages.SetAttributes: "attributes",
    messages.BeginTree: "begin-tree",
    messages.EndTree: "end-tree",
    messages.Remove: "remove",
    messages.Move: "move",
    messages.Copy: "copy",
}
"""What is recorded, however it ends. Of other requests: that they were forbidden."""
_ALWAYS_TOLD = frozenset({Forbidden.code, NotLoggedIn.code})
_REFUSED_STATUS = frozenset({3, 6, 7})


class Record(msgspec.Struct, omit_defaults=True, rename={"size": "bytes"}):
    """One line of the file. What isn't known of an event is left out.

    Attributes:
        time: ISO 8601, UTC, with milliseconds: when it ended.
        outcome: ``ok``, ``refused``, ``failed`` or ``cut``.
        user: The account; of a refused log-in, the name that was given.
        path, target: Absolute remote paths; U+FFFD stands for what is no UTF-8, and then the
            bytes are in ``path_b64`` and ``target_b64``.
        size: Bytes, as ``bytes``: of the file, or of what was removed or copied.
        files: How many were removed or copied.
        digest: BLAKE3, hexadecimal.
        seconds: How long it took.
        code, reason: As the client was told; of a log-in, the true reason.
        by: The system's user who gave the command, for administration.
        count: Of a ``dropped`` record: how many others are missing.
        details: What else there is to say.
    """

    time: str
    event: str
    outcome: str
    user: str | None = None
    address: str | None = None
    session: str | None = None
    path: str | None = None
    path_b64: str | None = None
    target: str | None = None
    target_b64: str | None = None
    size: int | None = None
    files: int | None = None
    digest: str | None = None
    seconds: float | None = None
    code: str | None = None
    reason: str | None = None
    by: str | None = None
    count: int | None = None
    details: dict[str, Any] | None = None


class Who(NamedTuple):
    """Whose event it is."""

    user: str | None
    address: str | None
    session: str | None


class _Asked(NamedTuple):
    request_id: int
    request: Message
    digest: bytes | None
    began: float


class _Answered(NamedTuple):
    """A request and how it ended; None: the connection ended first. ``took`` is in seconds.

    ``note`` is the true reason of a refused log-in, or the token of one that succeeded.
    """

    request: Message
    reply: Message | None
    digest: bytes | None
    took: float
    note: str | None


class _Ready(NamedTuple):
    """An event that is no request's."""

    event: str
    outcome: str
    fields: dict[str, Any]


class _Item(NamedTuple):
    """What is queued at once: events of one session, at one time."""

    at: float
    who: Who
    events: Sequence[_Answered | _Ready]


class Trail:
    """What one session is asked, until it is answered. For the session's thread.

    Requests that join a batch are answered later, in the same order.
    """

    def __init__(self, audit: Audit, session: Session) -> None:
        self._audit = audit
        self._session = session
        self._waiting: list[_Asked] = []
        self._current: _Asked | None = None
        self._note: str | None = None
        self._logged_in: float | None = None

    def asked(self, request_id: int, request: Message) -> None:
        """A request came."""
        self._current = _Asked(request_id, request, None, time.monotonic())

    def note(self, note: str) -> None:
        """The true reason of the refusal that comes next, where the client isn't told it."""
        self._note = note

    def joined(self, digest: bytes | None = None) -> None:
        """The request is answered with its batch. ``digest``: of the bytes that came with it."""
        if self._current is not None:
            self._waiting.append(self._current._replace(digest=digest))
            self._current = None

    def answered(self, reply: Message | None) -> None:
        """The request is answered; None: the connection ended instead."""
        asked, self._current = self._current, None
        note, self._note = self._note, None
        if asked is None or not _is_told(asked.request, reply):
            return
        took = time.monotonic() - asked.began
        digest = reply.digest if isinstance(reply, Sent) else None
        self._send([_Answered(asked.request, reply, digest, took, note)])

    def committed(self, outcomes: Sequence[tuple[int, Message]]) -> None:
        """The batch is done."""
        waiting, self._waiting = self._waiting, []
        now = time.monotonic()
        told: list[_Answered] = []
        at = 0
        for request_id, outcome in outcomes:
            while at < len(waiting) and waiting[at].request_id != request_id:
                at += 1
            if at == len(waiting):
                break
            asked = waiting[at]
            at += 1
            if _is_told(asked.request, outcome):
                took = now - asked.began
                told.append(_Answered(asked.request, outcome, asked.digest, took, None))
        if told:
            self._send(told)

    def logged_in(self, token_id: str | None) -> None:
        """From here on there is a log-out to tell of."""
        self._logged_in = time.monotonic()
        self._note = token_id

    def close(self) -> None:
        """The session ends, and what was not answered with it."""
        if self._current is not None:
            self._waiting.append(self._current)
        now = time.monotonic()
        events: list[_Answered | _Ready] = [
            _Answered(asked.request, None, asked.digest, now - asked.began, None)
            for asked in self._waiting
            if type(asked.request) in EVENTS
        ]
        self._waiting, self._current = [], None
        if self._logged_in is not None:
            events.append(_Ready("logout", OK, {"seconds": round(now - self._logged_in, 3)}))
            self._logged_in = None
        if events:
            self._send(events)

    def _send(self, events: Sequence[_Answered | _Ready]) -> None:
        self._audit.submit(who_is(self._session), events)


def _is_told(request: Message, reply: Message | None) -> bool:
    if type(request) in EVENTS:
        return True
    return isinstance(reply, Failed) and reply.code in _ALWAYS_TOLD


def who_is(session: Session) -> Who:
    """The account, the address without its port, and the session's id."""
    account = session.account
    host = session.peer.rpartition(":")[0] or session.peer
    return Who(account.name if account else None, host.strip("[]"), str(session.id))


class Audit:
    """The audit log of a running server. Safe to use from many threads; nothing here raises.

    ``_lock`` guards the queue and the counts; it is never held across a file call. The file is
    the writer thread's alone.

    Args:
        state: The server's state directory.
        size: Bytes from which on a file is rotated; 0 writes no audit log.
        keep: Files that are kept beside the current one.
    """

    def __init__(self, state: Path, *, size: int, keep: int) -> None:
        self._files = _Files(state / FILE_NAME, size, keep)
        self._lock = threading.Lock()
        self._queue: list[_Item] = []
        self._queued = 0
        self._dropped = 0
        self._told_dropped = -_DROPPED_SECONDS
        self._allowances: dict[str | None, _Allowance] = {}
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        if size:
            self._writer = threading.Thread(target=self._write_all, name="audit")
            self._writer.start()

    def trail(self, session: Session) -> Trail:
        """To follow one session with."""
        return Trail(self, session)

    def record(
        self, event: str, session: Session | None = None, *, outcome: str = OK, **fields: Any
    ) -> None:
        """Record something that is no request's outcome. ``fields``: as in `Record`."""
        who = Who(None, None, None) if session is None else who_is(session)
        self.submit(who, [_Ready(event, outcome, fields)])

    def submit(self, who: Who, events: Sequence[_Answered | _Ready]) -> None:
        """Queue events that have just happened."""
        if self._writer is None:
            return
        now = time.time()
        with self._lock:
            allowed = self._allowed(who, events)
            count = len(allowed)
            if self._queued + count > MAX_QUEUED:
                self._dropped += count
            elif count:
                self._queue.append(_Item(now, who, allowed))
                self._queued += count
        if not self._wake.is_set():
            self._wake.set()

    def _allowed(
        self, who: Who, events: Sequence[_Answered | _Ready]
    ) -> Sequence[_Answered | _Ready]:
        """The events without failures that come too fast, which are counted."""
        bad = [event for event in events if _is_bad(event)]
        if not bad:
            return events
        name = who.user if who.user is not None else None
        allowance = self._allowances.get(name)
        if allowance is None:
            if len(self._allowances) >= _MAX_ALLOWANCES:
                self._allowances.clear()
            allowance = self._allowances[name] = _Allowance()
        granted = allowance.take(len(bad))
        if granted == len(bad):
            return events
        self._dropped += len(bad) - granted
        left: list[_Answered | _Ready] = []
        for event in events:
            if not _is_bad(event):
                left.append(event)
            elif granted:
                granted -= 1
                left.append(event)
        return left

    def close(self) -> None:
        """Write what is queued, and end the thread. Can be called twice."""
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
        lines: list[bytes] = []
        try:
            for item in queue:
                lines += lines_of(item)
            if dropped:
                event = _Ready("dropped", FAILED, {"count": dropped, "reason": "too many events"})
                lines += lines_of(_Item(time.time(), Who(None, None, None), [event]))
        except Exception:
            logger.exception("some events could not be written to the audit log")
        lost = self._files.append(lines)
        if lost:
            with self._lock:
                self._dropped += lost - bool(dropped) + dropped

    def _dropped_due(self) -> int:
        """What a ``dropped`` record has to tell now: not one for each batch of a flood."""
        now = time.monotonic()
        due = now - self._told_dropped >= _DROPPED_SECONDS or self._closing.is_set()
        if not self._dropped or not due:
            return 0
        self._told_dropped = now
        dropped, self._dropped = self._dropped, 0
        return dropped


class _Allowance:
    """A bucket that fills with time: how many failures may be recorded."""

    def __init__(self) -> None:
        self._left = float(_REFUSALS_BURST)
        self._at = time.monotonic()

    def take(self, count: int) -> int:
        """How many of ``count`` are granted."""
        now = time.monotonic()
        self._left = min(_REFUSALS_BURST, self._left + (now - self._at) * _REFUSALS_RATE)
        self._at = now
        granted = min(count, int(self._left))
        self._left -= granted
        return granted


def _is_bad(event: _Answered | _Ready) -> bool:
    if isinstance(event, _Ready):
        return event.outcome != OK
    return event.reply is None or isinstance(event.reply, Failed)


# what a record tells -------------------------------------------------------------------------


def lines_of(item: _Item) -> list[bytes]:
    """The lines for what was queued."""
    stamp = timestamp(item.at)
    user, address, session = item.who
    lines = []
    for event in item.events:
        if isinstance(event, _Ready):
            fields = {"user": user, "address": address, "session": session} | event.fields
            record = Record(stamp, event.event, event.outcome, **_with_paths(fields))
        else:
            record = Record(stamp, _name_of(event.request), OK, user, address, session)
            _describe(record, event)
        lines.append(line_of(record))
    return lines


_seconds = (-1, "")


def timestamp(at: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    global _seconds  # most records share their second with the one before
    whole = int(at)
    if _seconds[0] != whole:
        _seconds = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    text = _seconds[1]
    return f"{text}.{int((at - whole) * 1000):03d}Z"


def _name_of(request: Message) -> str:
    return EVENTS.get(type(request)) or str(request.__struct_config__.tag)


def _describe(record: Record, event: _Answered) -> None:
    """Fill in what the request and its reply tell."""
    request, reply = event.request, event.reply
    match request:
        case messages.Put():  # the most frequent by far
            record.path, record.path_b64 = shown(request.path)
            record.size = request.size
        case messages.Move() | messages.Copy():
            record.path, record.path_b64 = shown(request.source)
            record.target, record.target_b64 = shown(request.target)
        case messages.MakeLink():
            record.path, record.path_b64 = shown(request.path)
            record.target, record.target_b64 = _text(request.target)
        case messages.SetAttributes():
            record.path, record.path_b64 = shown(request.path)
            if request.mode is not None:
                record.details = {"mode": f"{request.mode:o}"}
        case messages.Login() | messages.LoginToken() | messages.Register():
            record.user = request.user
            record.details = _way_in(request, None if isinstance(reply, Failed) else event.note)
        case messages.IssueToken():
            record.details = {"name": request.name}
        case messages.RevokeToken():
            record.details = {"id": request.id} if request.id else None
        case messages.EndTree():
            record.details = {"commit": request.commit}
        case messages.Message(path=path):  # type: ignore[misc]
            record.path, record.path_b64 = shown(path)
    if event.digest is not None:
        record.digest = event.digest.hex()
    record.seconds = round(event.took, 6)
    match reply:
        case None:
            record.outcome = CUT
        case Failed():
            record.outcome = REFUSED if is_refusal(reply.code) else FAILED
            record.code = reply.code
            record.reason = (event.note or reply.message)[:_MAX_REASON]
        case messages.Stored():
            record.size = reply.size
        case messages.Sent():
            record.size = reply.size
        case messages.Removed():
            record.size, record.files = reply.size_bytes, reply.files + reply.directories
        case messages.Copied():
            record.size, record.files = reply.size_bytes, reply.files + reply.directories
        case messages.TokenIssued():
            record.details = {"name": request.name, "id": reply.id}  # type: ignore[attr-defined]


_WAYS: dict[type[Message], str] = {
    messages.Login: "password",
    messages.LoginToken: "token",
    messages.Register: "registration",
}


def _way_in(request: Message, token_id: str | None) -> dict[str, Any]:
    """What was logged in with."""
    way = {"with": _WAYS[type(request)]}
    return way if token_id is None else way | {"token": token_id}


def is_refusal(code: str) -> bool:
    """Whether a rule or a limit said no, rather than that something went wrong."""
    kind = BY_CODE.get(code, CommandError)
    return kind.exit_code in _REFUSED_STATUS or kind is TooMany


def shown(path: bytes) -> tuple[str, str | None]:
    """A remote path as JSON can hold it, and its bytes in base64 where that loses something."""
    if b"//" in path or b"/." in path:
        try:
            path = paths.join(*paths.split(path))
        except FtpError:
            pass  # as it came: it was refused
    return _text(path)


def _text(path: bytes) -> tuple[str, str | None]:
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        return paths.plain_text(path), base64.b64encode(path).decode("ascii")


def _with_paths(fields: dict[str, Any]) -> dict[str, Any]:
    for name in ("path", "target"):
        if isinstance(fields.get(name), bytes):
            fields[name], fields[f"{name}_b64"] = shown(fields[name])
    return fields


_encode = msgspec.json.Encoder().encode


def line_of(record: Record) -> bytes:
    """A record as a line of printable ASCII: no name can end it early, or steer a terminal."""
    try:
        line = _encode(record)
    except (UnicodeEncodeError, msgspec.MsgspecError):
        line = b"\xff"  # a lone surrogate: json knows how to write it
    if not line.isascii() or b"\x7f" in line:
        told = json.dumps(msgspec.to_builtins(record), separators=(",", ":"))
        line = told.replace("\x7f", "\\u007f").encode("ascii")
    return line + b"\n"


# files -----------------------------------------------------------------------------------------


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

    def append(self, lines: list[bytes]) -> int:
        """Write lines, many at once; returns how many could not be written."""
        start = 0
        while start < len(lines):
            end, size = start, 0
            while end < len(lines) and (end == start or size + len(lines[end]) <= _WRITE):
                size += len(lines[end])
                end += 1
            try:
                self._write(b"".join(lines[start:end]))
            except OSError as error:
                self._failed(error)
                return len(lines) - start
            start = end
        if lines and self._broken:
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


# administration ----------------------------------------------------------------------------------


def administered(state: Path, event: str, *, outcome: str = OK, **fields: Any) -> None:
    """Record what an administrator's command did, whether a server runs or not.

    A disk that is full doesn't undo the command: it is told in the log.
    """
    record = Record(timestamp(time.time()), event, outcome, by=_system_user(), **fields)
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
        logger.error("%s: can't be written: %s", path, os.strerror(error.errno or 0).lower())


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
