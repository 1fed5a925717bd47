"""One put or get from its command to its end, whatever happens to connections meanwhile.

Lives here: going on after a lost connection, and for how long; how many connections to use.
Lives elsewhere: the verbs (client.py), moving the bytes (upload.py, download.py), whether
it fits (preflight.py).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from msgspec import structs

from ftpclient.connection import log
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import TimeOver, jittered, wait_for
from ftpclient.connection.protocol import Asked, NoRoom, outcome_unknown
from ftpclient.transfer.job import NOT_REST, RESUME_FROM, Enough, JobOver, Stopped, Transfer
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
"""From this round trip on, a tree is sent over several connections by itself."""
_FAR_CONNECTIONS = 4
_FAR_LEAST = 16 * 1024 * 1024
"""Bytes from which they are worth the round trips that it takes to open them."""
_FAR_PIECES_LEAST = 64 * 1024 * 1024
"""Bytes from which a single file is worth the same."""
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 30.0
_LONGEST_ASKED = 600
"""Seconds that a server may ask to wait at once."""
_SHOWN_EVERY = 1.0
"""Seconds from one call of a listener that counts the wait to the next."""


class Patience:
    """How long a connection that was lost is made again.

    What counts is the time without progress: it begins with the first loss, and ends when the
    transfer has come further than it was. The time in which bytes moved does not count, though
    nothing of them was acknowledged before the connection was lost again.

    Args:
        retry_for: Seconds without progress after which it is given up; 0: at the first loss.
        retries: The most losses in all; None for no bound.
        clock: As ``time.monotonic``.
        wait: Lets some seconds pass. Raises Interrupted when the user doesn't want to wait.
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
        """Seconds that the server has asked to wait."""

    def came_further(self) -> None:
        """The transfer has come further than it was."""
        self._since = None
        self._tries = 0

    def moved_for(self, seconds: float) -> None:
        """For so long bytes have moved, though nothing is known to have come of them."""
        if self._since is not None:
            self._since += max(0.0, seconds)

    def lost(self, error: FtpError, retry_after: int | None = None) -> None:
        """The connection is lost, or could not be made. Raises the error when that is the end.

        Args:
            retry_after: Seconds after which the server has said to come again.
        """
        self._at_least = min(max(0, retry_after or 0), _LONGEST_ASKED)
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
        """Wait before the next try: longer each time, and others at other times."""
        assert self._since is not None
        seconds = jittered(min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(self._tries, 20)))
        if seconds < self._at_least:  # not all who were told the same at the same time
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
    """A transfer that goes on until it is done or hopeless.

    Args:
        add_all: Adds everything to the transfer; called again after each loss.
        note: Says, until the end, that the same command would go on with this.
        resumes: Whether the same command goes on with what is there, if the options permit it.
        many: Whether it transfers more than one file.
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
        """The most bytes that were done when a connection was lost."""

    def share_with(self, parallel: int | None, worker: Callable[[Connection], Transfer]) -> None:
        """Use several connections for the files.

        Args:
            parallel: How many; None chooses: several where a round trip takes long, for then
                one can't fill the line.
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
        """Don't go on after a loss when this says that what was sent can't be had again."""
        self._spent = spent

    def persist(self) -> Summary:
        """Run; after a lost connection go on with a new one.

        Raises:
            ConnectionLost: It could not be regained.
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
                if isinstance(error, NoRoom):  # it goes on with what it gets
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
                self._client.settle_interrupt()  # the session stays
                summary = self._transfer.close()  # with what has ended since
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
        """The error, with how far the transfer came, and what the same command would do."""
        transfer = self._transfer
        if isinstance(error, UploadTakenOver):  # the same command would take it back
            return error.with_text(f"{error}; {NOT_REST}") if self._many else error
        moved, size = max(self._furthest, transfer.moved), transfer.size
        if not moved or not isinstance(error, (ConnectionLost, Interrupted)):
            return error
        done = human(moved) if size is None or size < moved else human_of(moved, size)
        goes_on = self._resumes and transfer.options.resume
        if size is not None and size <= RESUME_FROM and transfer.summary.done == 0:
            goes_on = False  # too small to be kept in part
        same = "goes on" if goes_on else "starts anew"
        return error.with_text(f"{error}: stopped at {done}: the same command {same}")

    def _start_pool(self) -> ConnectionPool[Transfer] | None:
        assert self._worker is not None
        made = self._more_connections()
        return ConnectionPool([self._worker(one) for one in made]) if made else None

    def _more_connections(self) -> list[Connection]:
        """Make them at the same time: each takes several round trips.

        Fewer, or none, where the server doesn't want more: this is no reason to fail.
        """
        from concurrent.futures import ThreadPoolExecutor, wait

        made: list[Connection] = []
        count, most = self._count, self._client.connection.protocol.max_sessions
        if most and count >= most:  # this one has one of them
            count = most - 1
            text = f"the account may have {most} session{'s' if most > 1 else ''}"
            self._transfer.listener.remark(f"{count} further connections: {text}")
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


def asked(client: TransferClient, listener: Listener, ask: Callable[[], _Answer]) -> _Answer:
    """What ``ask`` returns, which only asks the server; after a lost connection it is called again.

    For what is asked before a transfer begins, on a client that has had its first contact.

    Raises:
        ConnectionLost: It could not be regained.
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
    """Ask for one change, and have it done once, also if the connection is lost meanwhile: asked
    for again with its number, the server does it, or repeats the answer if it has.

    A server that keeps no trash knows no numbers: of that it stays unknown whether it was done.

    Args:
        lost: It was asked for already, with its number, and the connection was lost.

    Raises:
        ConnectionLost: It could not be regained, or the request can't be repeated. It may have been
            done.
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
    ended: Callable[[_Key, Asked[Any]], None],
) -> None:
    """Ask for many changes without a round trip for each, and have each done once; see `changed`.

    Args:
        requests: Each with what it is known by here.
        ended: Hears what came of each, in their order.

    Raises:
        ConnectionLost: It could not be regained, or the requests can't be repeated. Some of those
            that nothing was heard of may have been done.
    """
    connection, operation = client.connection, client.connection.operation
    repeats = operation is not None and connection.keeps_trash
    patience: Patience | None = None
    todo = iter(requests)
    unsent: deque[tuple[_Key, _Change]] = deque()
    waiting: deque[tuple[_Key, _Change, Asked[Any]]] = deque()
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
            call = Asked[Any]()
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
    """The end of a tree that is put at once, whose answer may be lost with the connection: what was
    replaced then must not be replaced once more."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._lost: EndTree | None = None

    def ask(self, *, commit: bool) -> None:
        """End the tree: put it in its place, or drop it. Raises as `Connection.ask`."""
        connection, request = self._transfer.connection, EndTree(commit)
        if commit and connection.operation is not None and connection.keeps_trash:
            request = connection.operation.numbered(request)
        try:
            connection.ask(request)
        except ConnectionLost:
            self._lost = request if request.number else None
            raise

    def was_done(self) -> bool:
        """On a new connection: whether the tree is in its place, though no answer has told.

        Raises ConnectionLost.
        """
        if self._lost is None:
            return False
        connection = self._transfer.connection
        if connection.keeps_trash:
            try:
                connection.ask(structs.replace(self._lost, again=True))
            except CommandError:
                pass  # it was lost before, and the tree with it: all of it is sent again
            else:
                return True
        self._lost = None
        return False


def _check_repeats(connection: Connection) -> None:
    """Raises SessionEnded where the server, as it is now, would do a change twice."""
    if not connection.keeps_trash:
        raise SessionEnded(f"{connection.address.endpoint}: the server can't repeat its answer")


def first_contact(client: TransferClient, listener: Listener) -> None:
    """Connect as after a loss: a server that can't be reached yet is waited for.

    Raises:
        ConnectFailed: It could not be reached in time.
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
    """Connect again, after growing waits, and ``go_on`` with that.

    Raises:
        ConnectionLost: It took too long, or would be no help.
    """
    listener = patience.listener
    told = False
    try:
        while True:
            patience.lost(_as_lost(client, error), getattr(error, "retry_after", None))
            if not told:
                log.info("%s: connecting again", client.address.endpoint)
                listener.lost(error)
                told = True
            patience.pause()
            try:
                go_on(client.connection)
            except (ConnectionLost, Busy, TooMany) as again:
                log.debug("%s: not yet: %s", client.address.endpoint, again)
                error = again
            else:
                return
    finally:
        if told:
            listener.regained()


def _as_lost(client: TransferClient, error: ConnectionLost | Busy | TooMany) -> ConnectionLost:
    """A server that has no place now is as far away as one that is down."""
    if isinstance(error, ConnectionLost):
        return error
    return ConnectionLost(f"{client.address.endpoint}: {error}")
