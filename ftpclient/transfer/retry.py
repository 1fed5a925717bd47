"""One put or get from start to end, reconnecting as often as necessary.

Lives here: retrying after a lost connection, and for how long; how many connections to use.
Lives elsewhere: the verbs (client.py), transferring the bytes (upload.py, download.py), the
preflight (preflight.py).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from msgspec import structs

from ftpclient.connection import log
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import TimeOver, jittered, wait_for
from ftpclient.connection.protocol import TooManyTransfers, UnaryCall, outcome_unknown
from ftpclient.transfer.job import NOT_REST, Enough, JobOver, Stopped, Transfer
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.report import INPUT_LOST, Listener, Summary
from ftpclient.transfer.resume_notes import Unfinished
from ftpclient.transfer.transfer_client import TransferClient
from ftpwire.errors import (
    Busy,
    CommandError,
    ConnectionLost,
    FtpError,
    Interrupted,
    SessionEnded,
    TooMany,
    UploadTakenOver,
)
from ftpwire.messages import ChangeFor, EndTree, R
from ftpwire.units import human, human_of

_Answer = TypeVar("_Answer")
_Key = TypeVar("_Key")
_Change = TypeVar("_Change", bound=ChangeFor[Any])

_FAR_SECONDS = 0.02
"""Round trip in seconds from which a tree is sent over several connections by default."""
_FAR_CONNECTIONS = 4
_FAR_LEAST = 16 * 1024 * 1024
"""Bytes of a tree that make up for the round trips of opening further connections."""
_FAR_PIECES_LEAST = 64 * 1024 * 1024
"""Bytes of a single file that do."""
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 30.0
_LONGEST_WAIT_FOR_EVER = 40.0
"""The same for a client that never gives up: at most a minute, because waits vary by a half."""
_MAX_RETRY_AFTER = 600
"""Maximum seconds that a server can ask the client to wait before a retry."""
_SHOWN_EVERY = 1.0
"""Seconds between two calls of a listener during a wait."""


class Patience:
    """How long to retry after a lost connection.

    What counts is the time without progress. It begins with the first loss and ends when the
    transfer has got further than before. Time in which bytes were transferred does not count, even
    if none of them was acknowledged before the connection was lost again.

    Args:
        retry_for: Seconds without progress after which to stop; 0 to stop at the first loss.
        retries: The maximum number of losses; None for no limit.
        clock: As ``time.monotonic``.
        wait: Sleeps for some seconds. Raises Interrupted if the user stops the wait.
    """

    def __init__(
        self,
        retry_for: float,
        retries: int | None,
        listener: Listener,
        wait: Callable[[float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._retry_for = retry_for
        self._left = retries
        self.listener = listener
        self._wait = wait
        self._clock = clock
        self._since: float | None = None
        """When the time without progress began."""
        self._tries = 0
        self._at_least = 0.0
        """Minimum seconds to wait, as requested by the server."""

    def came_further(self) -> None:
        """Note that the transfer has got further than before."""
        self._since = None
        self._tries = 0

    def moved_for(self, seconds: float) -> None:
        """Note that bytes were transferred for this long, without any acknowledgement."""
        if self._since is not None:
            self._since += max(0.0, seconds)

    def lost(self, error: FtpError, retry_after: int | None = None) -> None:
        """Note a lost connection, or a failed try. Raises the error if it is time to stop.

        Args:
            retry_after: Seconds to wait before a retry, as requested by the server.
        """
        self._at_least = min(max(0, retry_after or 0), _MAX_RETRY_AFTER)
        now = self._clock()
        if self._since is None:
            self._since = now
        elif now - self._since >= self._retry_for:
            raise error
        if self._retry_for <= 0 or self._left == 0 or isinstance(error, SessionEnded):
            raise error
        if self._left is not None:
            self._left -= 1

    def pause(self) -> None:
        """Wait before the next try: longer each time, with a random variation between clients."""
        assert self._since is not None
        longest = _LONGEST_WAIT if math.isfinite(self._retry_for) else _LONGEST_WAIT_FOR_EVER
        seconds = jittered(min(longest, _FIRST_WAIT * 2.0 ** min(self._tries, 20)))
        if seconds < self._at_least:  # spread the clients that got the same number
            seconds = self._at_least + jittered(_FIRST_WAIT)
        self._tries += 1
        now = self._clock()
        until = min(now + seconds, self._since + self._retry_for)
        while (left := until - now) > 0:
            self.listener.waiting(now - self._since, left)
            self._wait(min(left, _SHOWN_EVERY))
            now = self._clock()
        self.listener.waiting(now - self._since, 0.0)


class Run:
    """A transfer with retries, until it is done or cannot succeed.

    Args:
        add_all: Adds everything to the transfer; called again after each loss.
        note: Marks the transfer as unfinished until it is complete.
        resumes: True if the same command would resume, if the options permit that.
        many: True if it transfers more than one file.
    """

    def __init__(
        self,
        client: TransferClient,
        transfer: Transfer,
        add_all: Callable[[], None],
        note: Unfinished | None,
        *,
        resumes: bool = True,
        many: bool = False,
    ) -> None:
        self._client = client
        self._transfer = transfer
        self._add_all = add_all
        self._note = note
        self._many = many
        self._count = 1
        self._least = 0
        self._worker: Callable[[Connection], Transfer] | None = None
        self._splits = False
        self._resumes = resumes
        self._spent: Callable[[], bool] = lambda: False
        self._furthest = 0
        """Maximum number of bytes done when a connection was lost."""

    def share_with(self, parallel: int | None, worker: Callable[[Connection], Transfer]) -> None:
        """Use several connections for the files.

        Args:
            parallel: The number of connections; None to choose: several if the round trip is long,
                because one connection would not use the whole bandwidth.
            worker: Makes the transfer that works on a further connection.
        """
        if parallel is None:
            far = self._client.connection.round_trip >= _FAR_SECONDS
            parallel = _FAR_CONNECTIONS if far else 1
            self._least = _FAR_LEAST
        self._count = parallel
        self._worker = worker

    def split_with(self, parallel: int | None, worker: Callable[[Connection], Transfer]) -> None:
        """Use several connections for the pieces of each large file. As ``share_with``."""
        from ftpclient.transfer.pieces import LEAST

        self.share_with(parallel, worker)
        self._least = LEAST if parallel is not None else _FAR_PIECES_LEAST
        self._splits = True

    def give_up_if(self, spent: Callable[[], bool]) -> None:
        """Do not retry after a loss if ``spent`` says that the source cannot be read again."""
        self._spent = spent

    def persist(self) -> Summary:
        """Run the transfer, retrying on a new connection after each loss.

        Raises:
            ConnectionLost: Reconnecting failed.
        """
        patience = _patience(self._client, self._transfer.listener)
        headway = self._transfer.headway
        seen = headway.count
        while True:
            began = time.monotonic()
            try:
                if self._count > 1 and self._splits:
                    self._transfer.workers.split(self._start_pool, self._least)
                elif self._count > 1:
                    self._transfer.workers.share(self._start_pool, self._least)
                self._add_all()
                summary = self._transfer.finish()
            except ConnectionLost as error:
                self._transfer.stop_workers()
                # too many sessions: continue with fewer connections
                if isinstance(error, TooManyTransfers):
                    self._count = max(1, self._count // 2)
                self._furthest = max(self._furthest, self._transfer.moved)
                if self._spent():
                    self._transfer.close()
                    raise error.with_text(f"{error}: {INPUT_LOST}") from None
                if headway.count != seen:
                    patience.came_further()
                    seen = headway.count
                else:
                    patience.moved_for(self._transfer.connection.moved_at - began)
                try:
                    _regain(self._client, patience, error, self._transfer.go_on_with)
                except BaseException as last:
                    self._transfer.close()
                    raise self._stopped(last) from None
                continue
            except Enough:
                try:
                    self._transfer.finish()
                finally:
                    self._transfer.close()
                raise
            except JobOver:
                self._transfer.close()
                self._client.settle_interrupt()  # keeps the session open
                summary = self._transfer.close()  # including results that arrived since
            except Stopped:
                self._transfer.close()
                self._client.settle_interrupt()
                raise
            except Interrupted as error:
                self._transfer.close()
                raise self._stopped(error) from None
            except BaseException:
                self._transfer.close()
                raise
            if self._note is not None and not summary.exit_code:
                self._note.complete()
            return summary

    def _stopped(self, error: BaseException) -> BaseException:
        """Return the error, with the progress made and what the same command would do."""
        transfer = self._transfer
        if isinstance(error, UploadTakenOver):  # no hint: the same command would take it back
            return error.with_text(f"{error}; {NOT_REST}") if self._many else error
        moved, size = max(self._furthest, transfer.moved), transfer.size
        if not moved or not isinstance(error, (ConnectionLost, Interrupted)):
            return error
        if not transfer.listener.advises:
            return error
        done = human(moved) if size is None or size < moved else human_of(moved, size)
        same = "to resume" if self._resumes and transfer.keeps(moved, size) else "to start over"
        return error.with_text(f"{error}: stopped at {done}: run the same command {same}")

    def _start_pool(self) -> ConnectionPool[Transfer] | None:
        assert self._worker is not None
        made = self._more_connections()
        return ConnectionPool([self._worker(one) for one in made]) if made else None

    def _more_connections(self) -> list[Connection]:
        """Open further connections concurrently, because each takes several round trips.

        Return fewer, or none, if the server refuses more: that is no reason to fail.
        """
        from concurrent.futures import ThreadPoolExecutor, wait

        made: list[Connection] = []
        count, most = self._count, self._client.connection.protocol.max_sessions
        if most and count >= most:  # the transfer's own connection is one of them
            count = most - 1
            limit = f"the account is limited to {most} session{'s' if most > 1 else ''}"
            noun = "connection" if count == 1 else "connections"
            self._transfer.listener.remark(f"{count} further {noun}: {limit}")
        if not count:
            return made
        try:
            with ThreadPoolExecutor(count, "connect") as pool:
                tries = [
                    pool.submit(lambda: made.append(self._client.new_connection()))
                    for _ in range(count)
                ]
                wait(tries)
            for error in [one.exception() for one in tries]:
                if isinstance(error, CommandError):
                    self._transfer.listener.remark(f"no further connection: {error}")
                elif error is not None:
                    raise error
        except BaseException:
            for connection in made:
                connection.close()
            raise
        for connection in made:
            connection.channel.pace = self._client.pace
        return made


def query(client: TransferClient, listener: Listener, ask: Callable[[], _Answer]) -> _Answer:
    """Return the result of ``ask``, which only sends queries; repeat it after a lost connection.

    For queries before a transfer begins. The client must have been connected before.

    Raises:
        ConnectionLost: Reconnecting failed.
    """
    patience = _patience(client, listener)
    while True:
        try:
            return ask()
        except ConnectionLost as error:
            _regain(client, patience, error, lambda connection: None)


def changed(
    client: TransferClient,
    listener: Listener,
    request: ChangeFor[R],
    lost: ConnectionLost | None = None,
) -> R:
    """Request one change, and ensure that it is done once even if the connection is lost.

    After a loss the request is sent again with its number: the server does it, or repeats the reply
    if it is done already. A server without a trash has no numbers; then it stays unknown whether
    the change was made.

    Args:
        lost: The loss, if the request was already sent with its number.

    Raises:
        ConnectionLost: Reconnecting failed, or the request cannot be repeated. The change may have
            been made.
    """
    patience: Patience | None = None
    while True:
        if lost is not None:
            patience = patience or _patience(client, listener)
            try:
                _regain(client, patience, lost, _check_repeats)
            except (ConnectionLost, TimeOver) as error:
                raise outcome_unknown(structs.replace(request, number=0), error) from None
            request = structs.replace(request, again=True)
        connection = client.connection
        operation = connection.operation
        if lost is None and (operation is None or not connection.keeps_trash):
            return connection.ask(request)
        if operation is not None:
            request = operation.numbered(request)
        try:
            return connection.ask(request)
        except ConnectionLost as error:
            lost = error


def all_changed(
    client: TransferClient,
    listener: Listener,
    requests: Iterable[tuple[_Key, _Change]],
    ended: Callable[[_Key, UnaryCall[Any]], None],
) -> None:
    """Request many changes without waiting for each reply, each done once; see `changed`.

    Args:
        requests: The requests, each with a key.
        ended: Called with the key and the finished call of each, in order.

    Raises:
        ConnectionLost: Reconnecting failed, or the requests cannot be repeated. Some of the
            changes without a reply may have been made.
    """
    connection, operation = client.connection, client.connection.operation
    repeats = operation is not None and connection.keeps_trash
    patience: Patience | None = None
    todo = iter(requests)
    unsent: deque[tuple[_Key, _Change]] = deque()
    waiting: deque[tuple[_Key, _Change, UnaryCall[Any]]] = deque()
    heard = 0

    def end_first() -> None:
        nonlocal heard
        key, _, call = waiting[0]
        if isinstance(call.error, ConnectionLost):
            raise call.error
        waiting.popleft()
        heard += 1
        ended(key, call)

    def send_all() -> None:
        while True:
            if not unsent:
                key, request = next(todo, (None, None))
                if key is None or request is None:
                    return
                if repeats and operation is not None:
                    request = operation.numbered(request)
                unsent.append((key, request))
            call = UnaryCall[Any]()
            connection.submit(call, unsent[0][1])
            waiting.append((*unsent.popleft(), call))
            while waiting and waiting[0][2].done:
                end_first()

    while True:
        before = heard
        try:
            send_all()
            while waiting:
                connection.wait_for(waiting[0][2])
                end_first()
            return
        except ConnectionLost as error:
            if not repeats:
                raise
            patience = patience or _patience(client, listener)
            if heard != before:
                patience.came_further()
            lost = [*((key, request) for key, request, _ in waiting), *unsent]
            waiting.clear()
            unsent = deque((key, structs.replace(one, again=True)) for key, one in lost)
            _regain(client, patience, error, _check_repeats)
            connection = client.connection


class Ending:
    """The end of an atomic upload of a tree.

    Its reply may be lost with the connection. The tree must not replace anything a second time.
    """

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._lost: EndTree | None = None

    def ask(self, *, commit: bool) -> None:
        """End the tree: commit or discard it. Raises as `Connection.ask`."""
        connection, request = self._transfer.connection, EndTree(commit)
        if commit and connection.operation is not None and connection.keeps_trash:
            request = connection.operation.numbered(request)
        try:
            connection.ask(request)
        except ConnectionLost:
            self._lost = request if request.number else None
            raise

    def was_done(self) -> bool:
        """Return, on a new connection, whether the tree was committed although the reply was lost.

        Raises:
            ConnectionLost
        """
        if self._lost is None:
            return False
        connection = self._transfer.connection
        if connection.keeps_trash:
            try:
                connection.ask(structs.replace(self._lost, again=True))
            except CommandError:
                pass  # it was not committed, and is discarded: all of it is sent again
            else:
                return True
        self._lost = None
        return False


def _check_repeats(connection: Connection) -> None:
    """Raise SessionEnded if the server, after a restart, would make a change twice."""
    if not connection.keeps_trash:
        raise SessionEnded(f"{connection.address.endpoint}: the server cannot repeat its reply")


def first_contact(client: TransferClient, listener: Listener) -> None:
    """Connect with retries, as after a loss, if the server is not reachable yet.

    Raises:
        ConnectFailed: The server was not reachable in time.
    """
    patience = _patience(client, listener)
    try:
        client.connect()
    except (ConnectionLost, Busy, TooMany) as error:
        _regain(client, patience, error, lambda connection: None)


def _patience(client: TransferClient, listener: Listener) -> Patience:
    wait = partial(wait_for, interrupt=client.interrupt)
    return Patience(client.retry_for, client.retries, listener, wait)


def _regain(
    client: TransferClient,
    patience: Patience,
    error: ConnectionLost | Busy | TooMany,
    go_on: Callable[[Connection], None],
) -> None:
    """Reconnect, with growing waits, and call ``go_on`` with the new connection.

    Raises:
        ConnectionLost: It took too long, or retrying is useless.
    """
    listener = patience.listener
    shown = False
    try:
        while True:
            patience.lost(_as_lost(client, error), getattr(error, "retry_after", None))
            if not shown:
                log.info("%s: reconnecting", client.address.endpoint)
                listener.lost(error)
                shown = True
            patience.pause()
            try:
                go_on(client.connection)
            except (ConnectionLost, Busy, TooMany) as again:
                log.debug("%s: reconnecting failed: %s", client.address.endpoint, again)
                error = again
            else:
                return
    finally:
        if shown:
            listener.regained()


def _as_lost(client: TransferClient, error: ConnectionLost | Busy | TooMany) -> ConnectionLost:
    """Return the error as a lost connection: a busy server is treated like one that is down."""
    if isinstance(error, ConnectionLost):
        return error
    return ConnectionLost(f"{client.address.endpoint}: {error}")
