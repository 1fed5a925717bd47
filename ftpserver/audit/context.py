"""Audit contexts: recording the requests of a session, with their outcomes.

Lives here: which requests are recorded, and the contents of each record.
Lives elsewhere: the line that it becomes (record.py), the queue (writer.py) and the files
(files.py), reading them (reader.py), the server's own log on stderr (logs.py).
"""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from binascii import hexlify
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ftpserver.audit.record import (
    CUT,
    EVENTS,
    FAILED,
    MAX_REASON,
    OK,
    REFUSED,
    Record,
    line_of,
    shown,
    text_of,
    timestamp,
    with_paths,
)
from ftpserver.storage.file_run import FilesOutcome
from ftpwire import messages, paths
from ftpwire.errors import BY_CODE, CommandError, Forbidden, LoginRefused, NotLoggedIn, TooMany
from ftpwire.messages import Failed, Message, Restored, Sent, Stored

if TYPE_CHECKING:
    from ftpserver.accounts.account import Account
    from ftpserver.storage.batch import Outcome

logger = logging.getLogger("ftpd.audit")

_ALWAYS_RECORDED = frozenset({Forbidden.code, NotLoggedIn.code})
_REFUSED_STATUS = frozenset({3, 6, 7})


SHARES = _LOG_INS, _FILES = "logins", "files"
"""The shares into which an account's successful operations are divided."""
_REMOVING = frozenset({"remove", "move", "purge"})
MAX_NAMED = 20
"""The most operations that one record names."""
_DONE = messages.Done()
_OF_KEYS = frozenset({"login", "register", "logout", "password", "token-issue", "token-revoke"})


def share_of(event: str, user: str | None) -> str | None:
    """Return the share of the log that a success counts for: an account's log-ins, or its files.

    None if no account did it: such a record is always in the common file.
    """
    return None if user is None else f"{_LOG_INS if event in _OF_KEYS else _FILES}-{user}"


def guess_of(event: str, code: str | None, way: str | None) -> str | None:
    """Return the kind of secret that an unauthenticated client guessed at, or None.

    It is ``password`` or ``token``, and only if it was compared: a client that is banned or has to
    wait has guessed at nothing.
    """
    return way if event == "login" and code == LoginRefused.code else None


def has_done_something(record: Record) -> bool:
    """Return True if a request had removed something before it failed: it is always recorded."""
    return record.event in _REMOVING and bool(record.files)


class Actor(Protocol):
    """A session, as far as the audit log knows it."""

    @property
    def account(self) -> Account | None:
        """The account of the session; None before the log-in."""

    @property
    def peer(self) -> str:
        """The client's address and port, as text."""

    @property
    def id(self) -> int:
        """A number that no other session of this run has."""


class Who(NamedTuple):
    """The account, address and session of an event."""

    user: str | None
    address: str | None
    session: str | None


class Unusable(NamedTuple):
    """Stands for a request that was not understood.

    Attributes:
        kind: The type of the request; None if its name is unknown.
        path: Its path, if that could be read.
    """

    kind: type | None
    path: bytes | None


class _AuditedRequest(NamedTuple):
    """A request that waits for its outcome.

    Attributes:
        digest: That of the bytes sent with it.
        arrived: The bytes of an upload that had arrived when it failed; None if it was not begun.
    """

    request_id: int
    request: Message | Unusable
    digest: bytes | None
    began: float
    arrived: int | None = None


class AuditContext:
    """Records the requests of one session with their outcomes. Only for the session's thread.

    Requests that join a batch get their replies later, in the same order. The lines are made here
    and not by the writer: its thread would compete for Python's lock with this one, which slows
    down both.
    """

    def __init__(self, audit: Recorder, session: Actor) -> None:
        self._audit = audit
        self._session = session
        self._waiting: list[_AuditedRequest] = []
        self._request: Message | Unusable | None = None
        self._request_id = 0
        self._began = 0.0
        self._note: str | None = None
        self._gone: tuple[int, int] | None = None
        self._arrived: int | None = None
        self._files: Sequence[messages.SentFile | None] = ()
        self._tree: bytes | None = None
        self._logged_in: float | None = None
        self._who: tuple[str | None, str] | None = None

    def request_arrived(self, request_id: int, request: Message | Unusable) -> None:
        """Remember a request that has arrived."""
        self._request = request
        self._request_id = request_id
        self._began = time.monotonic()
        self._arrived = None

    def note(self, note: str) -> None:
        """Set the true reason of the next refusal, or of the end of the session."""
        self._note = note

    def repeated(self) -> None:
        """Don't record the request: it is a retry, and was recorded when it was done."""
        self._request = None

    def removed(self, files: int, size: int) -> None:
        """Note how much the request removed before it failed."""
        self._gone = files, size

    def received(self, size: int) -> None:
        """Note how many bytes of an upload had arrived before it failed."""
        self._arrived = size

    def sends_files(self, files: Sequence[messages.SentFile | None]) -> None:
        """Note the files in the reply to a `GetFiles`, in its order; None for one not sent."""
        self._files = files

    def evicted(self, size: int, operations: Sequence[str]) -> None:
        """Record that operations in the account's trash were purged to free that many bytes for
        its session."""
        details = evicted(operations, "space that its session needed")
        self._audit.record("evict", self._session, size=size, details=details)

    def measured(self, operation: str, path: bytes, size: int, files: int) -> None:
        """Record the size of a tree in the account's trash, once it is known."""
        self._audit.record(
            "measured", self._session, operation=operation, path=path, size=size, files=files
        )

    def joined(self, digest: bytes | None = None) -> None:
        """Keep the request until its batch is committed."""
        if self._request is not None and self._audit.enabled:
            began, arrived = self._began, self._arrived
            awaited = _AuditedRequest(self._request_id, self._request, digest, began, arrived)
            self._waiting.append(awaited)
        self._request = None

    def answered(self, reply: Message) -> None:
        """Record the request with its reply."""
        request, self._request = self._request, None
        note, self._note = self._note, None
        files, self._files = self._files, ()
        if type(request) is messages.GetFiles and type(reply) is Sent:
            self._record_files(request, files)
        elif request is not None and _is_recorded(request, reply):
            digest = reply.digest if isinstance(reply, Sent) else None
            awaited = _AuditedRequest(self._request_id, request, digest, self._began, self._arrived)
            self._record_all([(awaited, reply)], note)
        self._gone = None
        if type(request) is messages.BeginTree and type(reply) is messages.Done:
            self._tree = request.path
        elif type(request) is messages.EndTree:
            self._tree = None

    def committed(self, outcomes: Sequence[Outcome]) -> None:
        """Record the requests of a committed batch with their outcomes."""
        waiting, self._waiting = self._waiting, []
        matched: list[tuple[_AuditedRequest, Message | FilesOutcome | None]] = []
        rest = iter(waiting)
        # invariant: the outcomes are in the order of the requests, which `rest` steps through once
        for request_id, outcome in outcomes:
            for awaited in rest:
                if awaited.request_id == request_id:
                    matched.append((awaited, outcome))
                    break
        self._record_all(matched)

    def logged_in(self, key_id: str | None) -> None:
        """Note a log-in, so that the log-out is recorded, too.

        Args:
            key_id: The id of the token that was used, or of the invitation that the account was
                made with.
        """
        self._logged_in = time.monotonic()
        self._note = key_id

    def close(self) -> None:
        """Record the end of the session, and the requests that are still without a reply."""
        if self._request is not None:
            self.joined()
        waiting, self._waiting = self._waiting, []
        self._record_all(
            [(awaited, None) for awaited in waiting if type(awaited.request) in EVENTS]
        )
        if self._logged_in is not None:
            seconds = round(time.monotonic() - self._logged_in, 3)
            self._audit.record("logout", self._session, seconds=seconds, reason=self._note)
            self._logged_in = None

    def _record_all(
        self,
        matched: Sequence[tuple[_AuditedRequest, Message | FilesOutcome | None]],
        note: str | None = None,
    ) -> None:
        audit = self._audit
        if not matched or not audit.enabled:
            return
        try:
            now, stamp = time.monotonic(), timestamp(time.time())
            who = self._who_text()
            user = None if self._session.account is None else self._session.account.name
            shares: dict[str | None, list[bytes]] = {}
            for awaited, reply in matched:
                took = now - awaited.began
                line = share = None
                event = _name_of(awaited.request)
                if isinstance(reply, FilesOutcome):
                    done, failed = self._lines_of_files(stamp, who, awaited, reply, took)
                    if done:
                        shares.setdefault(share_of(event, user), []).extend(done)
                    if failed:
                        shares.setdefault(None, []).extend(failed)
                    continue
                if type(reply) is Stored:
                    line = _plain_put(stamp, who, awaited, reply, took)
                elif reply is None or type(reply) is Failed:
                    if not _is_recorded(awaited.request, reply):
                        continue
                    guess = guess_of(
                        event, None if reply is None else reply.code, _way_of(awaited.request)
                    )
                    line = line_of(self._record(stamp, awaited, reply, took, note))
                    if self._gone is not None:  # part of it was done: no allowance applies
                        share = share_of(event, user)
                    elif not audit.may_record_failure(self._session.account, guess, len(line)):
                        continue
                if line is None:
                    line = line_of(self._record(stamp, awaited, reply, took, note))
                if type(reply) is not Failed and reply is not None:
                    share = share_of(event, user)
                shares.setdefault(share, []).append(line)
            for share, lines in shares.items():
                audit.append(b"".join(lines), len(lines), share)
        except Exception:
            logger.exception("%s: its requests could not be recorded", self._session)

    def _record_files(
        self, request: messages.GetFiles, files: Sequence[messages.SentFile | None]
    ) -> None:
        """Record each file that was sent, as if it had been requested alone."""
        audit = self._audit
        if not audit.enabled:
            return
        try:
            took = time.monotonic() - self._began
            lines = self._lines_of_sent(request, iter(files), timestamp(time.time()), took)
            account = self._session.account
            user = None if account is None else account.name
            audit.append(b"".join(lines), len(lines), share_of("get", user))
        except Exception:
            logger.exception("%s: its requests could not be recorded", self._session)

    def _lines_of_sent(
        self,
        request: messages.GetFiles,
        files: Iterator[messages.SentFile | None],
        stamp: str,
        took: float,
    ) -> list[bytes]:
        who, tail = self._who_text(), _tail_of(took)
        lines: list[bytes] = []
        for wanted in request.directories:
            head = _head_of(stamp, "get", who, wanted.path)
            for file, sent in zip(wanted.files, files, strict=False):
                if sent is None:
                    continue
                name, size, digest = file.name, file.size, sent.digest
                if head is None or name.translate(None, _PLAIN):
                    get = messages.Get(paths.child(wanted.path, name))
                    alone = _AuditedRequest(self._request_id, get, digest, self._began)
                    record = self._record(stamp, alone, Sent(size, digest), took, None)
                    lines.append(line_of(record))
                else:
                    lines.append(_plain_line_of(head, name, size, digest, tail))
        return lines

    def _lines_of_files(
        self, stamp: str, who: str, awaited: _AuditedRequest, outcome: FilesOutcome, took: float
    ) -> tuple[list[bytes], list[bytes]]:
        """Make a line for each part of a request for many files, as it would have alone.

        Returns:
            The lines of what was done, and those of what failed.
        """
        done: list[bytes] = []
        failed: list[bytes] = []
        request, failures = awaited.request, outcome.failures
        assert isinstance(request, messages.PutFiles)

        def add(index: int, part: Message, reply: Message, digest: bytes | None = None) -> None:
            failure = failures.get(index)
            alone = _AuditedRequest(awaited.request_id, part, digest, awaited.began)
            line = line_of(self._record(stamp, alone, failure or reply, took, None))
            if failure is None:
                done.append(line)
            elif self._audit.may_record_failure(self._session.account, None, len(line)):
                failed.append(line)

        tail = _tail_of(took)
        of_mkdir, of_attributes = (
            _head(stamp, event, who).encode("ascii") for event in ("mkdir", "attributes")
        )
        index = -1
        for directory in request.directories:
            index += 1
            path = directory.path
            if directory.make is not None:
                if index in failures or not _is_plain(path):
                    add(index, messages.MakeDir(path, directory.make, True, True), _DONE)
                else:
                    done.append(b'%b%b"%b' % (of_mkdir, path, tail))
            head = _head_of(stamp, "put", who, path)
            for file in directory.files:
                index += 1
                if head is None or index in failures or file.name.translate(None, _PLAIN):
                    put = messages.Put(paths.child(path, file.name), file.size)
                    add(index, put, Stored(file.size), file.digest)
                else:
                    done.append(_plain_line_of(head, file.name, file.size, file.digest, tail))
        for one in request.finished:
            index += 1
            if index in failures or not _is_plain(one.path):
                add(index, messages.SetAttributes(one.path, one.mode, one.mtime_ns), _DONE)
            else:
                done.append(
                    b'%b%b"%b,"details":{"mode":"%o"}}\n'
                    % (of_attributes, one.path, tail.removesuffix(b"}\n"), one.mode)
                )
        return done, failed

    def _record(
        self,
        stamp: str,
        awaited: _AuditedRequest,
        reply: Message | None,
        took: float,
        note: str | None,
    ) -> Record:
        who = who_is(self._session)
        record = Record(stamp, _name_of(awaited.request), OK, who.user, who.address, who.session)
        record.seconds = round(took, 6)
        record.digest = None if awaited.digest is None else awaited.digest.hex()
        _describe(record, awaited.request, reply, note)
        if self._gone is not None:
            record.files, record.size = self._gone
        if awaited.arrived is not None and type(awaited.request) is messages.Put:
            record.size = awaited.arrived
        if type(awaited.request) is messages.EndTree and self._tree is not None:
            record.path, record.path_b64 = shown(self._tree)
        return record

    def _who_text(self) -> str:
        """Return the part of a line that is the same for all requests after a log-in."""
        user = self._session.account.name if self._session.account else None
        if self._who is None or self._who[0] != user:
            who = {name: text for name, text in who_is(self._session)._asdict().items() if text}
            self._who = user, json.dumps(who, separators=(",", ":"))[1:-1]
        return self._who[1]


def evicted(operations: Sequence[str], why: str) -> dict[str, object]:
    """Make the details of a record ``evict``: the number of operations, the names of the first ones
    and why they, or parts of them, were purged."""
    return {"operations": len(operations), "names": list(operations[:MAX_NAMED]), "why": why}


def _is_recorded(request: Message | Unusable, reply: Message | None) -> bool:
    kind: type | None = request.kind if isinstance(request, Unusable) else type(request)
    if isinstance(request, messages.Restore) and request.look and isinstance(reply, Restored):
        return False  # it only looked and changed nothing
    if kind in EVENTS:
        return True
    return isinstance(reply, Failed) and reply.code in _ALWAYS_RECORDED


_PLAIN = bytes(sorted(set(range(0x20, 0x7F)) - set(b'"\\')))
"""The bytes that JSON strings contain unescaped."""


def _plain_put(
    stamp: str, who: str, awaited: _AuditedRequest, reply: Stored, took: float
) -> bytes | None:
    """Make the line of a stored file without a `Record`: there may be thousands per second.

    Returns:
        None if the path needs escapes.
    """
    request = awaited.request
    if type(request) is not messages.Put:
        return None
    path = request.path
    if not _is_plain(path):
        return None
    digest = "" if awaited.digest is None else f',"digest":"{awaited.digest.hex()}"'
    return (
        f'{_head(stamp, "put", who)}{path.decode("ascii")}"'
        f',"bytes":{reply.size}{digest},"seconds":{took:.6f}}}\n'
    ).encode("ascii")


def _is_plain(path: bytes) -> bool:
    """Return True if a path can be written to a line unchanged."""
    return not path.translate(None, _PLAIN) and b"//" not in path and b"/." not in path


def _head(stamp: str, event: str, who: str) -> str:
    """Return the start of a line, up to the path."""
    return f'{{"time":"{stamp}","event":"{event}","outcome":"ok",{who},"path":"'


def _head_of(stamp: str, event: str, who: str, directory: bytes) -> bytes | None:
    """Return the start of the lines of all files in a directory, up to their names; None if they
    cannot be made without a `Record`."""
    base: bytes = paths.child(directory, b"")
    return _head(stamp, event, who).encode("ascii") + base if _is_plain(base) else None


def _tail_of(took: float) -> bytes:
    """Return the end of the line of each file of a request."""
    return f',"seconds":{took:.6f}}}\n'.encode("ascii")


def _plain_line_of(head: bytes, name: bytes, size: int, digest: bytes, tail: bytes) -> bytes:
    """Make the line of one of many files; its name must be plain."""
    return b'%b%b","bytes":%d,"digest":"%b"%b' % (head, name, size, hexlify(digest), tail)


def who_is(session: Actor) -> Who:
    """Return the account, the address without its port, and the session's id."""
    account = session.account
    host = session.peer.rpartition(":")[0] or session.peer
    return Who(account.name if account else None, host.strip("[]"), str(session.id))


def _name_of(request: Message | Unusable) -> str:
    if isinstance(request, Unusable):
        return "" if request.kind is None else EVENTS.get(request.kind, "")
    return EVENTS.get(type(request)) or str(request.__struct_config__.tag)


def _describe(
    record: Record, request: Message | Unusable, reply: Message | None, note: str | None
) -> None:
    """Fill in the facts of a request and its reply; None if the connection ended first.

    Args:
        note: The true reason of a refused log-in, the token of a successful one, or the invitation
            of a registration.
    """
    match request:
        case messages.GetFiles():
            record.files = sum(len(one.files) for one in request.directories)
        case messages.Put():
            record.path, record.path_b64 = shown(request.path)
            record.size = request.size
        case messages.PutFiles():  # nothing was done, all for one reason
            if request.directories:
                record.path, record.path_b64 = shown(request.directories[0].path)
            record.files = sum(len(one.files) for one in request.directories)
        case messages.Move() | messages.Copy():
            record.path, record.path_b64 = shown(request.source)
            record.target, record.target_b64 = shown(request.target)
        case messages.MakeLink():
            record.path, record.path_b64 = shown(request.path)
            record.target, record.target_b64 = text_of(request.target)
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
        case messages.Restore():
            record.operation = request.operation
            if request.target is not None:
                record.target, record.target_b64 = shown(request.target)
        case messages.Purge():
            record.operation = request.operation
        case messages.DropKept(upload=bytes(path)):
            record.path, record.path_b64 = shown(path)
        case Unusable(path=bytes(path)):
            record.path, record.path_b64 = shown(path)
        case messages.Message(path=path):  # type: ignore[misc]
            record.path, record.path_b64 = shown(path)
    match reply:
        case None:
            record.outcome = CUT
        case Failed():
            record.outcome = REFUSED if is_refusal(reply.code) else FAILED
            record.code = reply.code
            record.reason = (note or reply.message)[:MAX_REASON]
        case Stored():
            record.size = reply.size
        case Sent():
            record.size = reply.size
        case messages.Removed() if reply.trashed and _is_tree(request):
            record.operation = reply.operation  # a record ``measured`` will have its size
        case messages.Removed():
            record.size, record.files = reply.size_bytes, reply.files + reply.directories
            record.operation = record.operation or reply.operation
        case messages.Restored():
            record.files = reply.items
            if len(reply.paths) == 1:
                record.path, record.path_b64 = shown(reply.paths[0])
            record.details = {"by": reply.operation} if reply.operation else None
            if reply.conflicts:
                conflicts = len(reply.conflicts) + reply.more_conflicts
                record.details = (record.details or {}) | {"conflicts": conflicts}
        case messages.Copied():
            record.size, record.files = reply.size_bytes, reply.files + reply.directories
        case messages.KeptDropped():
            record.size, record.files = reply.size, reply.count
        case messages.TokenIssued() if isinstance(request, messages.IssueToken):
            record.details = {"name": request.name, "id": reply.id}


def _is_tree(request: Message | Unusable) -> bool:
    return isinstance(request, messages.Remove) and request.recursive


_WAYS: dict[type[Message], str] = {
    messages.Login: "password",
    messages.LoginToken: "token",
    messages.Register: "registration",
}


def _way_of(request: Message | Unusable) -> str | None:
    return None if isinstance(request, Unusable) else _WAYS.get(type(request))


def _way_in(request: Message, key_id: str | None) -> dict[str, Any]:
    """Return how the client logged in, as details of the record."""
    way = _WAYS[type(request)]
    if key_id is None:
        return {"with": way}
    return {"with": way, "invitation" if type(request) is messages.Register else "token": key_id}


def is_refusal(code: str) -> bool:
    """Return True if an error code means a rule or limit, and not that something went wrong."""
    kind = BY_CODE.get(code, CommandError)
    return kind.exit_code in _REFUSED_STATUS or kind is TooMany


class Recorder(ABC):
    """The audit log, as sessions see it. No method raises.

    Attributes:
        enabled: True if events are recorded.
    """

    enabled: bool

    def audit_context(self, session: Actor) -> AuditContext:
        """Make the audit context of a session."""
        return AuditContext(self, session)

    def record(
        self,
        event: str,
        session: Actor | None = None,
        *,
        outcome: str = OK,
        guess: str | None = None,
        **fields: Any,
    ) -> None:
        """Record an event that isn't the outcome of a request. ``fields`` are those of `Record`.

        Args:
            guess: The kind of secret guessed at, for the allowance; see `may_record_failure`.
        """
        if not self.enabled:
            return
        account = session.account if session is not None else None
        try:
            who = {} if session is None else who_is(session)._asdict()
            record = Record(timestamp(time.time()), event, outcome, **(who | with_paths(fields)))
            line = line_of(record)
            if outcome == OK or self.may_record_failure(account, guess, len(line)):
                self.append(line, 1, share_of(event, record.user) if account else None)
        except Exception:
            logger.exception("event %s could not be recorded", event)

    @abstractmethod
    def append(self, lines: bytes, count: int, share: str | None = None) -> None:
        """Queue whole lines; ``count`` is their number.

        Args:
            share: See `share_of`.
        """

    @abstractmethod
    def may_record_failure(
        self, account: Account | None, guess: str | None = None, size: int = 0
    ) -> bool:
        """Return True if another failure may be recorded, of that account or without one.

        Args:
            guess: See `guess_of`.
            size: The size of its line in bytes.
        """
