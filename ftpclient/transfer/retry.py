"""One put or get from its command to its end, whatever happens to connections meanwhile.

Lives here: going on after a lost connection, how many connections to use.
Lives elsewhere: the verbs (client.py), moving the bytes (upload.py, download.py), whether
it fits (preflight.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ftpclient.client import Client
from ftpclient.connection.connection import Connection, pause
from ftpclient.transfer.job import JobOver, Stopped, Transfer
from ftpclient.transfer.pool import Crew
from ftpclient.transfer.report import Listener, Summary
from ftpclient.transfer.resume_notes import Unfinished
from ftpwire.errors import CommandError, ConnectionLost, SessionEnded

_Answer = TypeVar("_Answer")

_FAR_SECONDS = 0.02
"""From this round trip on, a tree is sent over several connections by itself."""
_FAR_CONNECTIONS = 4
_FAR_LEAST = 16 * 1024 * 1024
"""Bytes from which they are worth the round trips that it takes to open them."""
_FAR_PIECES_LEAST = 64 * 1024 * 1024
"""Bytes from which a single file is worth the same."""
_FIRST_WAIT = 0.25
_LONGEST_WAIT = 30.0


class Run:
    """A transfer that goes on until it is done or hopeless.

    Args:
        add_all: Adds everything to the transfer; called again after each loss.
        note: Says, until the end, that the same command would go on with this.
    """

    def __init__(
        self,
        client: Client,
        transfer: Transfer,
        add_all: Callable[[], None],
        note: Unfinished | None,
    ) -> None:
        self._client = client
        self._transfer = transfer
        self._add_all = add_all
        self._note = note
        self._count = 1
        self._least = 0
        self._helper: Callable[[Connection], Transfer] | None = None
        self._splits = False

    def share_with(self, parallel: int | None, helper: Callable[[Connection], Transfer]) -> None:
        """Use several connections for the files.

        Args:
            parallel: How many; None chooses: several where a round trip takes long, for then
                one can't fill the line.
            helper: Makes the transfer that works on a further connection.
        """
        if parallel is None:
            far = self._client.connection.round_trip >= _FAR_SECONDS
            parallel = _FAR_CONNECTIONS if far else 1
            self._least = _FAR_LEAST
        self._count = parallel
        self._helper = helper

    def split_with(self, parallel: int | None, helper: Callable[[Connection], Transfer]) -> None:
        """Use several connections for the pieces of each large file. As ``share_with``."""
        from ftpclient.transfer.pieces import LEAST

        self.share_with(parallel, helper)
        self._least = LEAST if parallel is not None else _FAR_PIECES_LEAST
        self._splits = True

    def persist(self) -> Summary:
        """Run; after a lost connection go on with a new one.

        Raises:
            ConnectionLost: It could not be regained.
        """
        losses = 0
        while True:
            try:
                if self._count > 1 and self._splits:
                    self._transfer.split(self._enlist, self._least)
                elif self._count > 1:
                    self._transfer.share(self._enlist, self._least)
                self._add_all()
                summary = self._transfer.finish()
            except ConnectionLost as error:
                self._transfer.disband()
                try:
                    losses = _regain(
                        self._client,
                        self._transfer.listener,
                        losses,
                        error,
                        self._transfer.go_on_with,
                    )
                except BaseException:
                    self._transfer.close()
                    raise
                continue
            except JobOver:
                self._transfer.close()
                self._client.settle_interrupt()  # the session stays
                summary = self._transfer.close()  # with what has ended since
            except Stopped:
                self._transfer.close()
                self._client.settle_interrupt()
                raise
            except BaseException:
                self._transfer.close()
                raise
            if self._note is not None and not summary.exit_code:
                self._note.complete()
            return summary

    def _enlist(self) -> Crew[Transfer] | None:
        assert self._helper is not None
        made = self._more_connections()
        return Crew([self._helper(one) for one in made]) if made else None

    def _more_connections(self) -> list[Connection]:
        """Make them at the same time: each takes several round trips.

        Fewer, or none, where the server doesn't want more: this is no reason to fail.
        """
        from concurrent.futures import ThreadPoolExecutor, wait

        with ThreadPoolExecutor(self._count, "connect") as pool:
            tries = [pool.submit(self._client.new_connection) for _ in range(self._count)]
            wait(tries)
        made = [one.result() for one in tries if one.exception() is None]
        for error in [one.exception() for one in tries]:
            if isinstance(error, CommandError):
                self._transfer.listener.remark(f"no further connection: {error}")
            elif error is not None:
                for connection in made:
                    connection.close()
                raise error
        for connection in made:
            connection.channel.pace = self._client.pace
        return made


def asked(client: Client, listener: Listener, ask: Callable[[], _Answer]) -> _Answer:
    """What ``ask`` returns, which only asks the server; after a lost connection it is called again.

    For what is asked before a transfer begins, on a client that has had its first contact.

    Raises:
        ConnectionLost: It could not be regained.
    """
    losses = 0
    while True:
        try:
            return ask()
        except ConnectionLost as error:
            losses = _regain(client, listener, losses, error, lambda connection: None)


def _regain(
    client: Client,
    listener: Listener,
    losses: int,
    error: ConnectionLost,
    go_on: Callable[[Connection], None],
) -> int:
    """Connect again, after growing waits, and ``go_on`` with that; returns the losses so far."""
    while True:
        if losses >= client.retries or isinstance(error, SessionEnded):
            raise error
        listener.remark(f"{error}; connecting again")
        pause(min(_LONGEST_WAIT, _FIRST_WAIT * 2**losses), client.interrupt)
        losses += 1
        try:
            go_on(client.connection)
        except ConnectionLost as again:
            error = again
        else:
            return losses
