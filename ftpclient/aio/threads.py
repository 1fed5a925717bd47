"""The threads of an AsyncClient, for work that would block its event loop.

Lives here: connecting, the verbs of `Client` for one transfer, reporting its progress to the loop.
Lives elsewhere: when a thread is started (client.py), its view of the loop's connection
(thread_connection.py).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from typing import Any, TypeVar

from ftpclient.aio.thread_connection import ThreadConnection
from ftpclient.client import Client
from ftpclient.connection.client_id import Operation, under
from ftpclient.connection.connection import Connection
from ftpclient.connection.dialer import Dialer
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.opening import Opened
from ftpclient.guard import verb
from ftpclient.transfer.report import Forwarding, Listener
from ftpclient.transfer.retry import changed
from ftpwire.errors import ConnectionLost, Interrupted
from ftpwire.messages import ChangeFor, R
from ftpwire.pacing import Pace
from ftpwire.paths import RemotePath

T = TypeVar("T")


async def open_in_thread(
    loop: asyncio.AbstractEventLoop, dial: Callable[[Interrupt], Opened]
) -> Opened:
    """Open a connection in a thread, because that may block.

    If the task is cancelled, the thread ends as soon as it can, but this does not wait for it:
    looking up a name, or asking for a password, may take long.

    Args:
        dial: Function that opens the connection, in the thread.
    """
    interrupt = Interrupt()
    done: asyncio.Future[Opened] = loop.create_future()
    # Either the thread hands its result over, or the task gives it up; `turn` guards that decision.
    # The loop may end right after the task: a result that came later would never be closed.
    turn = threading.Lock()
    is_handed_over = is_abandoned = False

    def finish(opened: Opened | None, error: BaseException | None) -> None:
        interrupt.close()
        if done.cancelled():
            if opened is not None:
                opened.close()
        elif opened is not None:
            done.set_result(opened)
        elif error is not None:
            done.set_exception(error)

    def hand_over(opened: Opened | None, error: BaseException | None) -> bool:
        nonlocal is_handed_over
        with turn:
            if not is_abandoned:
                try:
                    loop.call_soon_threadsafe(finish, opened, error)
                    is_handed_over = True
                except RuntimeError:
                    pass  # the loop was closed
            return is_handed_over

    def run() -> None:
        opened, error = None, None
        try:
            opened = dial(interrupt)
        except BaseException as caught:  # of any kind: the task raises it
            error = caught
        if not hand_over(opened, error):
            interrupt.close()
            if opened is not None:
                opened.close()

    threading.Thread(target=run, name="connect", daemon=True).start()
    try:
        return await done
    except asyncio.CancelledError:
        if done.cancelled():
            with turn:
                is_abandoned = not is_handed_over
                if is_abandoned:
                    interrupt.set()
        elif done.exception() is None:
            done.result().close()  # it was completed just before the cancellation
        raise


class ThreadClient(Client):
    """The `Client` of a transfer's thread.

    Its connection is one on top of the loop's, or its own; further ones are always its own.

    Args:
        dialer: Makes connections of its own.
        carried: Coroutine function that returns a connection on top of the loop's, for this thread.
        own: True if it needs a connection without requests of other tasks.
        operation: The operation that its verbs belong to.
    """

    def __init__(
        self,
        dialer: Dialer,
        loop: asyncio.AbstractEventLoop,
        carried: Callable[[Interrupt], Coroutine[Any, Any, ThreadConnection]],
        *,
        own: bool,
        pace: Pace | None,
        cwd: RemotePath,
        retry_for: float,
        retries: int | None,
        operation: Operation | None,
    ) -> None:
        self.stopper = Interrupt()
        super().__init__(
            dialer.address, interrupt=self.stopper, retry_for=retry_for, retries=retries
        )
        self._dialer = dialer
        self.cwd = cwd
        self.listener: Listener | None = None
        self.failure: Exception | None = None
        """The exception that the user's listener has raised."""
        self.is_closed = False
        """True if the AsyncClient was closed while this was running."""
        self._pace = pace if own else None
        self._own = own
        self._of = operation
        self._loop = loop
        self._carried = carried
        self._wanted: concurrent.futures.Future[ThreadConnection] | None = None

    def run(self, work: Callable[[ThreadClient], T]) -> T:
        """Do the work, in the thread, and end everything that it has started."""
        try:
            with nullcontext() if self._of is None else under(self._of, self):
                return work(self)
        finally:
            self.close()

    @verb
    def repeat(self, request: ChangeFor[R], lost: ConnectionLost) -> R:
        """Repeat a change whose reply was lost; see `changed`."""
        return changed(self, Listener(), request, lost)

    def _first_connection(self) -> Connection:
        carried = self._wait_for_carried()
        if not self._own:
            return carried
        try:
            # only the trust is shared: a TLS session must not be used by two threads
            return self._dialer.dial(self.stopper, carried.trusted)
        finally:
            carried.close()

    def _wait_for_carried(self) -> ThreadConnection:
        wanted = asyncio.run_coroutine_threadsafe(self._carried(self.stopper), self._loop)
        self._wanted = wanted
        self.stopper.check()
        try:
            return wanted.result()
        except concurrent.futures.CancelledError:
            raise Interrupted("interrupted") from None
        finally:
            self._wanted = None

    def listen(self, listener: Listener) -> None:
        """Report progress to a listener, in the loop's thread. To be called in the loop."""
        self.listener = _OnLoop(self._loop, listener, self._fail)

    def _fail(self, error: Exception) -> None:
        """Stop the work because the user's listener has raised. Called in the loop."""
        self.failure = error
        self.stop()

    def stop(self) -> None:
        """Stop the work soon. Called in the loop."""
        self.stopper.set()
        if self._wanted is not None:
            self._wanted.cancel()
        connection = self._connection
        if isinstance(connection, ThreadConnection):
            connection.channel.wake()


class _OnLoop(Forwarding):
    """Calls a transfer's listener in the loop's thread, in the right order."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: Listener,
        fail: Callable[[Exception], None],
    ) -> None:
        super().__init__(listener)
        self._loop = loop
        self._fail = fail
        self._news: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._is_due = False

    def notify(self, what: Callable[..., None], *args: Any) -> None:
        self._news.append((what, args))
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon_threadsafe(self._call_all)

    def _call_all(self) -> None:
        self._is_due = False
        try:
            while self._news:
                what, args = self._news.popleft()
                what(*args)
        except Exception as error:
            self._news = deque(maxlen=0)  # the listener is not called again
            self._fail(error)


async def in_thread(work: Callable[[], T], stop: Callable[[], object]) -> T:
    """Run a function in a thread of its own. If the task is cancelled, stop it and wait for it."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # of any kind: the task raises it
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    thread = threading.Thread(target=run, name="transfer", daemon=True)
    thread.start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stop()
        while not done.done():
            try:
                await asyncio.wait({done})
            except asyncio.CancelledError:
                continue  # it is being stopped already
        done.exception()  # mark it as retrieved: no one needs the result
        raise
    finally:
        thread.join()  # this does not block: it has delivered its result
