"""The guard around every verb of a client: turns, timeouts, Ctrl-C, operations and public errors.

Lives here: the decorators `verb`, `stream` and `local` of the verbs, and what they do around each.
Lives elsewhere: the verbs (base.py, client.py), the errors (errors.py), the lock (turns.py), Ctrl-C
in the command line (connection/interrupt.py).

Only the outermost verb of a thread is guarded. Verbs that it calls belong to it, and raise internal
errors. After a verb that ends by an exception the connection is in step (no frame is half sent or
half received), or is closed; then the next verb reconnects.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec, Protocol, TypeVar

from msgspec import structs

from ftpclient.connection import forks
from ftpclient.connection.client_id import Operation, in_force
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt, TimeOver
from ftpclient.transfer.report import Forwarding, Listener, Result, Summary
from ftpclient.turns import Hold, Turns
from ftpwire import errors as inside
from ftpwire import paths

if TYPE_CHECKING:
    from inspect import Signature

    from ftpclient.errors import FtpError

_CANCEL_SECONDS = 1.0
"""Seconds that Ctrl-C waits for the server to cancel; then the connection is closed."""
_MOST_PRESSES = 2
"""Most presses of Ctrl-C that wait until the connection is in step. The next one acts at once."""


class Guarded(Protocol):
    """The attributes of a client that its guard uses."""

    _guard: Guard
    _connection: Connection | None
    _interrupt: Interrupt | None
    _operation: Operation | None

    def _resolve(self, path: Any) -> bytes:
        """Return the absolute remote path. Raises internal errors."""


_P = ParamSpec("_P")
_T = TypeVar("_T")
_C = TypeVar("_C", bound=Guarded)
Explain = Callable[[Any, inside.FtpError], bytes | None]
"""Returns the path that an error of a client's verb is about."""
Words = Callable[[], str]
"""Returns the text that shows a call of a verb to users."""


class CallbackFailed(BaseException):
    """A listener, or another function of the user, has raised ``cause``.

    It is no Exception, so that no internal handler takes it for an error of the disk or the server.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


class Guard:
    """The guard of one client.

    Attributes:
        turns: The lock that lets one verb run at a time.
    """

    def __init__(self) -> None:
        self.turns = Turns()
        self._own: Interrupt | None = None
        self._unsettled = False
        """True after a verb was interrupted: its requests still have to be cancelled."""
        self._deaf = False
        """True after a user's function has raised: none is called until the next verb."""
        self._ctrl_c: _CtrlC | None = None
        self._thread = threading.local()
        self._pid = os.getpid()
        forks.follow(self)

    def _after_fork(self) -> None:
        """Reset in a child process: the threads that had or awaited a turn do not exist there."""
        self.turns = Turns()
        self._unsettled = False

    # the user's functions ----------------------------------------------------------------

    @property
    def _in_callback(self) -> bool:
        """True if this thread is in a user's function that a verb has called."""
        return getattr(self._thread, "in_callback", False)

    def notify(self, what: Callable[..., object], *args: Any) -> None:
        """Call a user's function that returns nothing; see `calling`."""
        if not self._deaf:
            self._call(what, *args)

    def calling(self, what: Callable[..., _T]) -> Callable[..., _T]:
        """Wrap a user's function. While it runs, it must not call verbs.

        If it raises, the wrapper raises CallbackFailed, and the verb ends by the user's exception.
        """
        return partial(self._call, what)

    def _call(self, what: Callable[..., _T], *args: Any) -> _T:
        if not self.turns.held:
            return what(*args)
        try:
            return self._as_callback(what, *args)
        except BaseException as error:
            self._deaf = True
            raise CallbackFailed(error) from None

    def asking(self, what: Callable[..., _T], refuse: Callable[[], _T]) -> Callable[..., _T]:
        """Wrap a user's function that asks the user. While it runs, it must not call verbs.

        Args:
            refuse: Function to call instead in a child process, where no one can be asked.
        """

        def ask(*args: Any) -> _T:
            if os.getpid() != self._pid:
                return refuse()
            return self._as_callback(what, *args)

        return ask

    def listener(self, listener: Listener | None) -> Listener:
        """Return a listener that forwards to the user's, if there is one."""
        return Listener() if listener is None else _GuardedListener(self, listener)

    def _as_callback(self, what: Callable[..., _T], *args: Any) -> _T:
        # no context manager, for speed: this runs for each file of a transfer
        thread, ctrl_c = self._thread, self._ctrl_c
        was_in_callback = getattr(thread, "in_callback", False)
        was_at_once = ctrl_c is not None and ctrl_c.is_at_once
        try:
            thread.in_callback = True
            if ctrl_c is not None:
                ctrl_c.set_at_once(True)
            return what(*args)
        finally:
            thread.in_callback = was_in_callback  # first: Ctrl-C may interrupt what follows
            if ctrl_c is not None:
                ctrl_c.set_at_once(was_at_once)

    # one verb ----------------------------------------------------------------------------

    @property
    def is_inside(self) -> bool:
        """True if this thread is in a verb, and not in a user's function."""
        return self.turns.is_mine and not self._in_callback

    @contextmanager
    def verb(
        self,
        client: Guarded,
        timeout: float | None = None,
        explain: Explain | None = None,
        *,
        words: Words | None = None,
        stream: Hold | None = None,
        closing: bool = False,
    ) -> Iterator[None]:
        """Guard the outermost verb, or one step of a stream.

        Args:
            timeout: Seconds for the whole verb, including the wait for its turn; None for no limit.
            words: Returns the words of the verb's own operation, unless it is part of another one.
            stream, closing: See `Turns.taken`.

        Raises:
            RuntimeError: A function that a verb calls has called this verb.
        """
        if self._in_callback:
            raise RuntimeError(
                "a listener, or another function that a verb calls, cannot use the connection"
            )
        until = math.inf if timeout is None else time.monotonic() + timeout
        with _ctrl_c() as ctrl_c:
            waits_plainly = ctrl_c is None and timeout is None

            def look() -> None:
                if ctrl_c is not None and ctrl_c.presses:
                    raise KeyboardInterrupt
                if time.monotonic() >= until:
                    raise _timed_out(
                        f"not started within {timeout:g} seconds: another thread uses the client"
                    )

            look_on = None if waits_plainly else look
            with self.turns.taken(stream, look_on, closing=closing):
                try:
                    interrupt = self._begin(client, ctrl_c)
                    client._operation = operation_of(client, words)
                    with _limited(interrupt, until, timeout):
                        if not closing:
                            self._settle(client)
                        yield
                except BaseException as error:
                    instead = self._end(client, ctrl_c, error)
                    if instead is error and isinstance(instead, inside.FtpError):
                        instead = _public(
                            instead, None if explain is None else explain(client, instead)
                        )
                    raise_plainly(instead)
                finally:
                    self._ctrl_c = None
                    client._operation = None
                    if client._connection is not None:
                        client._connection.operation = None

    def _begin(self, client: Guarded, ctrl_c: _CtrlC | None) -> Interrupt:
        """Prepare the interrupt at the start of a verb's turn."""
        if client._interrupt is None:
            client._interrupt = self._own = Interrupt()
        interrupt = client._interrupt
        self._deaf = False
        if interrupt is self._own:
            interrupt.clear()  # it was set too late for an earlier verb
        self._ctrl_c = ctrl_c
        if ctrl_c is not None:
            ctrl_c.interrupt = interrupt
        return interrupt

    def _settle(self, client: Guarded) -> None:
        """Cancel what earlier verbs and streams have left, so that the connection is in step."""
        connection = client._connection
        unsettled, self._unsettled = self._unsettled, False
        if connection is not None:
            if unsettled:
                connection.cancel_all()
            connection.cancel_due()

    def _end(self, client: Guarded, ctrl_c: _CtrlC | None, error: BaseException) -> BaseException:
        """Handle the error of a verb: restore or close the connection. Return what to raise."""
        cause = error.cause if isinstance(error, CallbackFailed) else error
        pressed = ctrl_c is not None and ctrl_c.presses > 0
        connection = client._connection
        if connection is not None and not connection.broken:
            if isinstance(error, TimeOver):
                self._drop(connection)  # a server that does not reply does not cancel either
            elif isinstance(error, inside.Interrupted):
                if pressed:
                    connection.cancel_all(_CANCEL_SECONDS)
                else:
                    self._unsettled = True  # the next verb cancels, within its own timeout
            elif isinstance(error, inside.FtpError):
                pass  # the reply is complete
            elif _may_come_anywhere(cause) or not connection.in_step:
                self._drop(connection)
            else:
                connection.forget_ahead()
        if isinstance(error, TimeOver):
            return _timed_out(str(error)).with_traceback(error.__traceback__)
        return KeyboardInterrupt() if pressed else cause

    def _drop(self, connection: Connection) -> None:
        self._deaf = True  # errors of what is still running are not news of the transfer
        connection.give_up()

    def close(self, client: Guarded) -> None:
        """Release what belongs to the guard; the next verb makes it again."""
        own, self._own = self._own, None
        if own is not None:
            if self._ctrl_c is not None:
                self._ctrl_c.interrupt = None
            client._interrupt = None
            own.close()


def _may_come_anywhere(error: BaseException) -> bool:
    """Return True if an error may have interrupted a change of state, like KeyboardInterrupt."""
    return not isinstance(error, Exception) or isinstance(error, (RecursionError, MemoryError))


def raise_plainly(error: BaseException) -> NoReturn:
    """Raise an error without making the currently handled one its context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context


@contextmanager
def _limited(interrupt: Interrupt, until: float, timeout: float | None) -> Iterator[None]:
    """Set the interrupt when the timeout has passed."""
    if timeout is None:
        yield
        return
    text = f"not done within {timeout:g} seconds"
    timer = threading.Timer(max(0.0, until - time.monotonic()), interrupt.expire, (text,))
    timer.daemon = True
    interrupt.until = until
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        interrupt.until = math.inf
        if interrupt.is_over:
            interrupt.clear()


# Ctrl-C --------------------------------------------------------------------------------------


class _CtrlC:
    """Lets Ctrl-C set the client's interrupt while a verb runs in the main thread.

    A KeyboardInterrupt can occur between any two steps of the interpreter, and would leave a frame
    half sent, or a lock that is never released. So the signal handler is replaced meanwhile, as in
    `asyncio.Runner`, and KeyboardInterrupt is raised after the request was cancelled.

    Attributes:
        presses: Number of presses of Ctrl-C.
        interrupt: The interrupt to set; None while the verb is waiting for its turn.
        is_at_once: See ``set_at_once``.
    """

    def __init__(self) -> None:
        self.presses = 0
        self.interrupt: Interrupt | None = None
        self.is_at_once = False

    def __enter__(self) -> _CtrlC:
        self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self.presses and not isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt  # it was pressed after the verb's work was done

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.presses += 1
        interrupt = self.interrupt
        if self.is_at_once or self.presses > _MOST_PRESSES:
            raise KeyboardInterrupt
        if interrupt is not None:
            if interrupt.is_at_once:
                raise KeyboardInterrupt
            interrupt.set()

    def set_at_once(self, at_once: bool) -> None:
        """Choose if Ctrl-C raises KeyboardInterrupt at once, as it does in a user's function. Does
        nothing outside of the main thread, where there are no such interrupts."""
        if threading.current_thread() is threading.main_thread():
            self.is_at_once = at_once


@contextmanager
def _ctrl_c() -> Iterator[_CtrlC | None]:
    """Handle Ctrl-C during a verb, in the main thread only and if no one else handles it."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield None
        return
    with _CtrlC() as taken:
        yield taken


# results and errors --------------------------------------------------------------------------


class _GuardedListener(Forwarding):
    """The user's listener. It receives public errors, and what it raises ends the verb."""

    def __init__(self, guard: Guard, listener: Listener) -> None:
        super().__init__(listener)
        self._guard = guard

    def notify(self, what: Callable[..., None], *args: Any) -> None:
        self._guard.notify(what, *args)

    def finished(self, result: Result) -> None:
        shown = result if result.error is None else public_result(result)
        self._guard.notify(self._listener.finished, shown)

    def all_stored(self, results: Sequence[Result]) -> None:
        self._guard.notify(self._listener.all_stored, results)

    def lost(self, error: inside.FtpError) -> None:
        super().lost(_public(error))


def _public(error: inside.FtpError, path: bytes | None = None) -> FtpError:
    """Do `errors.public`. Its fifty classes are made for the first error, not for each command."""
    from ftpclient import errors

    return errors.public(error, path)


def _timed_out(text: str) -> FtpError:
    """Do `errors.timed_out`, which is imported late for the same reason."""
    from ftpclient import errors

    return errors.timed_out(text)


def public_result(result: Result) -> Result:
    """Return the same result with a public error."""
    if result.error is None:
        return result
    about = _named_in(str(result.error), (result.target, result.source)) or result.target
    return structs.replace(result, error=_public(result.error, about))


def public_summary(given: _T) -> _T:
    """Return the result of a verb; if it is a summary, with public errors."""
    if isinstance(given, Summary) and given.first_error is not None:
        first = given.failures[0].error if given.failures else None
        same = first is given.first_error
        given.failures = [public_result(one) for one in given.failures]
        given.first_error = given.failures[0].error if same else _public(given.first_error)
    return given


def _named_in(text: str, candidates: Iterable[bytes]) -> bytes | None:
    """Return the candidate that a text begins with, if there is one."""
    return next((one for one in candidates if one and text.startswith(paths.show(one) + ":")), None)


_REMOTE = ("path", "pattern", "source", "sources", "target")
"""Names of the parameters of verbs that are remote paths."""


@functools.cache
def _signature_of(function: Callable[..., Any]) -> tuple[Signature, tuple[str, ...]]:
    """Return the signature of a verb, and which of its parameters are remote paths.

    This is done when it is needed: most calls succeed, and a command that calls one verb should not
    inspect the signatures of all.
    """
    import inspect

    signature = inspect.signature(function)
    return signature, tuple(name for name in signature.parameters if name in _REMOTE)


def explainer(function: Callable[..., Any]) -> Callable[..., Explain]:
    """Return a function that finds out which path an error of a verb's call is about.

    Most errors begin with the path. Otherwise it is the first remote path among the arguments; the
    last one if the error is that something exists.
    """
    verb, _, _ = function.__name__.partition("_")
    local = {"put": ("source", "sources"), "get": ("target",)}.get(verb, ())

    def of_call(*args: Any, **kwargs: Any) -> Explain:
        def explain(client: Guarded, error: inside.FtpError) -> bytes | None:
            signature, named = _signature_of(function)
            if "path" in named:
                named = ("path",)  # the target of a link is text, not a path
            if not named or not isinstance(error, inside.CommandError):
                return None
            arguments = signature.bind(*args, **kwargs).arguments
            here, there = [], {}
            for name in named:
                for path in _each(arguments.get(name)):
                    if verb == "sync" and path.startswith(b":"):
                        path = path[1:]
                    elif verb == "sync" or name in local:
                        here.append(path)
                        continue
                    there[path] = _resolved(client, path)
            text, written = str(error), _named_in(str(error), there)
            if (found := _named_in(text, (*there.values(), *here))) is not None:
                return found
            if written is not None:
                return there[written]
            what_exists = -1 if isinstance(error, inside.AlreadyExists) else 0  # the target
            return list(there.values())[what_exists] if there else None

        return explain

    return of_call


def phraser(function: Callable[..., Any]) -> Callable[..., Words]:
    """Return a function that shows a verb's call to users, e.g. as ``Client.remove /x``."""

    def of_call(client: object, *args: Any, **kwargs: Any) -> Words:
        def words() -> str:
            signature, named = _signature_of(function)
            arguments = signature.bind(client, *args, **kwargs).arguments
            given = [path for name in named for path in _each(arguments.get(name))]
            verb = f"{type(client).__name__}.{function.__name__.lstrip('_')}"
            return " ".join([verb, *map(paths.show, given)])

        return words

    return of_call


def operation_of(client: object, words: Words | None) -> Operation | None:
    """Return the operation that a verb belongs to.

    Args:
        words: Words of its own operation, which it has unless it is part of another one.
    """
    operation = in_force(client)
    return Operation(words) if operation is None and words is not None else operation


def _each(given: object) -> list[bytes]:
    """Return the paths of an argument, as they were given."""
    if isinstance(given, (list, tuple)):
        return [path for one in given for path in _each(one)]
    if isinstance(given, (str, bytes, os.PathLike)):
        return [os.fsencode(given)]
    return []


def _resolved(client: Guarded, path: bytes) -> bytes:
    try:
        return client._resolve(path)
    except inside.FtpError:
        return path  # the invalid path is what the error is about


# decorators ----------------------------------------------------------------------------------


def verb(function: Callable[Concatenate[_C, _P], _T]) -> Callable[Concatenate[_C, _P], _T]:
    """Decorate a verb that uses the connection. Its parameter ``timeout`` is handled here."""
    explain, phrase = explainer(function), phraser(function)

    @wraps(function)
    def guarded(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        guard = self._guard
        if guard.is_inside:
            return function(self, *args, **kwargs)
        timeout, about = timeout_of(kwargs), explain(self, *args, **kwargs)
        with guard.verb(self, timeout, about, words=phrase(self, *args, **kwargs)):
            return public_summary(function(self, *args, **kwargs))

    return guarded


_END = object()


def stream(
    function: Callable[Concatenate[_C, _P], Generator[_T, None, None]],
) -> Callable[Concatenate[_C, _P], Generator[_T, None, None]]:
    """Decorate a verb that yields items, and keeps the connection until it is closed.

    Its ``timeout`` is for each step.
    """
    explain = explainer(function)

    @wraps(function)
    def guarded(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> Generator[_T, None, None]:
        guard = self._guard
        if guard.is_inside:
            yield from function(self, *args, **kwargs)
            return
        timeout, about = timeout_of(kwargs), explain(self, *args, **kwargs)
        hold, items = Hold(), None
        try:
            while True:
                with guard.verb(self, timeout, about, stream=hold):
                    if items is None:
                        items = function(self, *args, **kwargs)
                    item: Any = next(items, _END)
                if item is _END:
                    return
                yield item
        finally:
            # nothing is sent or awaited here: the garbage collector may be closing this generator
            if items is not None:
                items.close()
            guard.turns.leave(hold)

    return guarded


def local(function: Callable[Concatenate[_C, _P], _T]) -> Callable[Concatenate[_C, _P], _T]:
    """Decorate a method that does not use the connection, which a user's function may call, too."""
    explain = explainer(function)

    @wraps(function)
    def guarded(self: _C, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        if self._guard.is_inside:
            return function(self, *args, **kwargs)
        try:
            return function(self, *args, **kwargs)
        except inside.FtpError as error:
            raise_plainly(_public(error, explain(self, *args, **kwargs)(self, error)))

    return guarded


def timeout_of(arguments: Mapping[str, Any]) -> float | None:
    """Return the argument ``timeout`` of a call. Raises ValueError if it is out of range."""
    timeout: float | None = arguments.get("timeout")
    if timeout is not None and not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    return timeout
