"""The audit log: who did what, from where, and how it ended; one JSON object a line.

Lives here: which requests are recorded, what a record tells, writing and rotating the files.
Lives elsewhere: reading them for people (cli/log.py), the log on stderr (cli/start.py).

Sessions queue what they did when it is acknowledged. One thread writes many records at once, so a
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
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from ftpwire import messages, paths
from ftpwire.errors import BY_CODE, CommandError, Forbidden, FtpError, NotLoggedIn, TooMany
from ftpwire.messages import Failed, Message, Sent, Stored

if TYPE_CHECKING:
    from ftpserver.accounts.accounts import Account
    from ftpserver.serving.session import Session

logger = logging.getLogger("ftpd.audit")

FILE_NAME = "audit.jsonl"
OK, REFUSED, FAILED, CUT = "ok", "refused", "failed", "cut"
"""Outcomes: done; forbidden by a rule or a limit; gone wrong; the connection ended meanwhile."""

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
_MAX_REASON = 1000
_MAX_ALLOWANCES = 1024
_STRANGERS = 0
"""No account has this id."""

Chunk = tuple[bytes, int]
"""Whole lines, and how many they are; of a ``dropped`` record, how many it tells of."""

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
    """A request that waits for its batch. ``digest``: of the bytes that came with it."""

    request_id: int
    request: Message
    digest: bytes | None
    began: float


class Trail:
    """What one session is asked, until it is answered. For the session's thread.

    Requests that join a batch are answered later, in the same order. The lines are made here and
    not by the writer: its thread would take turns with this one, which makes both slower.
    """

    def __init__(self, audit: Recorder, session: Session) -> None:
        self._audit = audit
        self._session = session
        self._waiting: list[_Asked] = []
        self._request: Message | None = None
        self._request_id = 0
        self._began = 0.0
        self._note: str | None = None
        self._logged_in: float | None = None
        self._who: tuple[str | None, str] | None = None

    def asked(self, request_id: int, request: Message) -> None:
        """A request came."""
        self._request = request
        self._request_id = request_id
        self._began = time.monotonic()

    def note(self, note: str) -> None:
        """The true reason of the refusal that comes next, or of the session's end."""
        self._note = note

    def joined(self, digest: bytes | None = None) -> None:
        """The request is answered with its batch."""
        if self._request is not None and self._audit.enabled:
            self._waiting.append(_Asked(self._request_id, self._request, digest, self._began))
        self._request = None

    def answered(self, reply: Message) -> None:
        """The request is answered."""
        request, self._request = self._request, None
        note, self._note = self._note, None
        if request is not None and _is_told(request, reply):
            digest = reply.digest if isinstance(reply, Sent) else None
            asked = _Asked(self._request_id, request, digest, self._began)
            self._tell([(asked, reply)], note)

    def committed(self, outcomes: Sequence[tuple[int, Message]]) -> None:
        """The batch is done."""
        waiting, self._waiting = self._waiting, []
        told: list[tuple[_Asked, Message | None]] = []
        rest = iter(waiting)
        for request_id, outcome in outcomes:
            for asked in rest:
                if asked.request_id == request_id:
                    told.append((asked, outcome))
                    break
        self._tell(told)

    def logged_in(self, token_id: str | None) -> None:
        """From here on there is a log-out to tell of."""
        self._logged_in = time.monotonic()
        self._note = token_id

    def close(self) -> None:
        """The session ends, and what was not answered with it."""
        if self._request is not None:
            self.joined()
        waiting, self._waiting = self._waiting, []
        self._tell([(asked, None) for asked in waiting if type(asked.request) in EVENTS])
        if self._logged_in is not None:
            seconds = round(time.monotonic() - self._logged_in, 3)
            self._audit.record("logout", self._session, seconds=seconds, reason=self._note)
            self._logged_in = None

    def _tell(self, told: Sequence[tuple[_Asked, Message | None]], note: str | None = None) -> None:
        audit = self._audit
        if not told or not audit.enabled:
            return
        try:
            now, stamp = time.monotonic(), timestamp(time.time())
            who = self._who_text()
            lines: list[bytes] = []
            for asked, reply in told:
                took = now - asked.began
                line = None
                if type(reply) is Stored:
                    line = _plain_put(stamp, who, asked, reply, took)
                elif reply is None or type(reply) is Failed:
                    if not audit.may_tell_failure(self._session.account):
                        continue
                if line is None:
                    line = line_of(self._record(stamp, asked, reply, took, note))
                lines.append(line)
            audit.append(b"".join(lines), len(lines))
        except Exception:
            logger.exception("%s: what it did could not be recorded", self._session)

    def _record(
        self, stamp: str, asked: _Asked, reply: Message | None, took: float, note: str | None
    ) -> Record:
        who = who_is(self._session)
        record = Record(stamp, _name_of(asked.request), OK, who.user, who.address, who.session)
        record.seconds = round(took, 6)
        record.digest = None if asked.digest is None else asked.digest.hex()
        _describe(record, asked.request, reply, note)
        return record

    def _who_text(self) -> str:
        """The part of a line that is the same for all that a log-in does."""
        user = self._session.account.name if self._session.account else None
        if self._who is None or self._who[0] != user:
            who = {name: text for name, text in who_is(self._session)._asdict().items() if text}
            self._who = user, json.dumps(who, separators=(",", ":"))[1:-1]
        return self._who[1]


def _is_told(request: Message, reply: Message) -> bool:
    if type(request) in EVENTS:
        return True
    return isinstance(reply, Failed) and reply.code in _ALWAYS_TOLD


_PLAIN = bytes(sorted(set(range(0x20, 0x7F)) - set(b'"\\')))
"""The bytes that stand for themselves in JSON."""


def _plain_put(stamp: str, who: str, asked: _Asked, reply: Stored, took: float) -> bytes | None:
    """The line of a file that was stored, made by hand: there may be thousands a second.

    None where the path needs more than that.
    """
    request = asked.request
    if type(request) is not messages.Put:
        return None
    path = request.path
    if path.translate(None, _PLAIN) or b"//" in path or b"/." in path:
        return None
    digest = "" if asked.digest is None else f',"digest":"{asked.digest.hex()}"'
    return (
        f'{{"time":"{stamp}","event":"put","outcome":"ok",{who},"path":"{path.decode("ascii")}"'
        f',"bytes":{reply.size}{digest},"seconds":{took:.6f}}}\n'
    ).encode("ascii")


def who_is(session: Session) -> Who:
    """The account, the address without its port, and the session's id."""
    account = session.account
    host = session.peer.rpartition(":")[0] or session.peer
    return Who(account.name if account else None, host.strip("[]"), str(session.id))


class Recorder(ABC):
    """Where records go to, as sessions see it. Nothing here raises.

    Attributes:
        enabled: Whether anything is recorded.
    """

    enabled: bool

    def trail(self, session: Session) -> Trail:
        """To follow one session with."""
        return Trail(self, session)

    def record(
        self, event: str, session: Session | None = None, *, outcome: str = OK, **fields: Any
    ) -> None:
        """Record something that is no request's outcome. ``fields``: as in `Record`."""
        if not self.enabled:
            return
        account = session.account if session is not None else None
        if outcome != OK and not self.may_tell_failure(account):
            return
        try:
            who = {} if session is None else who_is(session)._asdict()
            record = Record(timestamp(time.time()), event, outcome, **(who | _with_paths(fields)))
            self.append(line_of(record), 1)
        except Exception:
            logger.exception("%s could not be recorded", event)

    @abstractmethod
    def append(self, lines: bytes, count: int) -> None:
        """Queue whole lines, and say how many they are."""

    @abstractmethod
    def may_tell_failure(self, account: Account | None) -> bool:
        """Whether another failure of that account, or of a stranger, may be recorded now."""


class Files(Protocol):
    """Where the lines go."""

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines; returns how many lines could not be written."""

    def close(self) -> None:
        """Nothing more is written. Can be called twice."""


class Audit(Recorder):
    """The audit log of a running server. Safe to use from many threads; nothing here raises.

    ``_lock`` guards the queue and the counts; it is never held across a file call. The file is
    the writer thread's alone.

    Args:
        state: The server's state directory.
        size: Bytes from which on a file is rotated; 0 writes no audit log.
        keep: Files that are kept beside the current one.
        files: Where the lines go instead of into files there.

    Attributes:
        on_written: Called by the writer thread when the file has grown. Never waits, nor raises.
    """

    def __init__(
        self, state: Path, *, size: int, keep: int = 0, files: Files | None = None
    ) -> None:
        self.on_written: Callable[[], None] = lambda: None
        self.enabled = bool(size)
        self._files: Files = files or _Files(state / FILE_NAME, size, keep)
        self._lock = threading.Lock()
        self._queue: list[Chunk] = []
        self._queued = 0
        self._dropped = 0
        self._told_dropped = -_DROPPED_SECONDS
        self._allowances: dict[int, Allowance] = {}
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        if self.enabled:
            self._writer = threading.Thread(target=self._write_all, name="audit")
            self._writer.start()

    def append(self, lines: bytes, count: int) -> None:
        """Queue whole lines, and say how many they are."""
        if not count:
            return
        with self._lock:
            if self._queued + len(lines) > MAX_QUEUED or not self.enabled:
                self._dropped += count
            else:
                self._queue.append((lines, count))
                self._queued += len(lines)
        if not self._wake.is_set():
            self._wake.set()

    def may_tell_failure(self, account: Account | None) -> bool:
        """Whether another failure of that account, or of a stranger, may be recorded now."""
        who = _STRANGERS if account is None else account.id
        with self._lock:
            allowance = self._allowances.get(who)
            if allowance is None:
                if len(self._allowances) >= _MAX_ALLOWANCES:
                    self._allowances.clear()
                allowance = self._allowances[who] = Allowance(_REFUSALS_BURST, _REFUSALS_RATE)
            granted = allowance.take()
            self._dropped += not granted
        if not granted and not self._wake.is_set():
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
            queue.append((_dropped_line(dropped), dropped))
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

    def take(self) -> bool:
        """Whether there is one more."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


# what a record tells -------------------------------------------------------------------------


_seconds = (-1, "")


def timestamp(at: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    global _seconds  # most records share their second with the one before
    whole = int(at)
    known, text = _seconds
    if known != whole:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        _seconds = whole, text
    return f"{text}.{int((at - whole) * 1000):03d}Z"


def _name_of(request: Message) -> str:
    return EVENTS.get(type(request)) or str(request.__struct_config__.tag)


def _describe(record: Record, request: Message, reply: Message | None, note: str | None) -> None:
    """Fill in what the request and its reply tell; None: the connection ended first.

    Args:
        note: The true reason of a refused log-in, or the token of one that succeeded.
    """
    match request:
        case messages.Put():
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
            record.details = _way_in(request, None if isinstance(reply, Failed) else note)
        case messages.IssueToken():
            record.details = {"name": request.name}
        case messages.RevokeToken():
            record.details = {"id": request.id} if request.id else None
        case messages.EndTree():
            record.details = {"commit": request.commit}
        case messages.Message(path=path):  # type: ignore[misc]
            record.path, record.path_b64 = shown(path)
    match reply:
        case None:
            record.outcome = CUT
        case Failed():
            record.outcome = REFUSED if is_refusal(reply.code) else FAILED
            record.code = reply.code
            record.reason = (note or reply.message)[:_MAX_REASON]
        case Stored():
            record.size = reply.size
        case Sent():
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

    def append(self, chunks: Sequence[Chunk]) -> int:
        """Write chunks of lines, many at once; returns how many lines could not be written."""
        start = 0
        while start < len(chunks):
            end, size = start, 0
            while end < len(chunks) and (end == start or size + len(chunks[end][0]) <= _WRITE):
                size += len(chunks[end][0])
                end += 1
            try:
                self._write(b"".join(lines for lines, _ in chunks[start:end]))
            except OSError as error:
                self._failed(error)
                return sum(count for _, count in chunks[start:])
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
    else:
        from ftpserver.audit.notify import announce

        announce(state)


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
