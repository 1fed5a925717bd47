"""What holds for every verb of a client: one at a time, in time, in step, an operation, and with
public errors.

Lives here: `verb`, `stream` and `local`, which the verbs are decorated with, and what they do
around each. Lives elsewhere: the verbs (base.py, client.py), the errors (errors.py), whose turn it
is (turns.py), Ctrl-C in the command line (connection/interrupt.py).

Only the outermost verb of a thread is guarded: what a verb calls of the client belongs to it, and
gets the errors of the inside. A verb that ends by an exception leaves the connection in step, or
leaves none: the next one connects anew then.
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
"""How long Ctrl-C waits for the server to end what is under way; then the connection is dropped."""
_MOST_PRESSES = 2
"""So often Ctrl-C is taken where the connection is in step; after that at once."""


class Guarded(Protocol):
    """What a client has for its guard."""

    _guard: Guard
    _connection: Connection | None
    _interrupt: Interrupt | None
    _operation: Operation | None

    def _resolve(self, path: Any) -> bytes:
        """The absolute remote path; raises errors of the inside."""


_P = ParamSpec("_P")
_T = TypeVar("_T")
_C = TypeVar("_C", bound=Guarded)
Explain = Callable[[Any, inside.FtpError], bytes | None]
"""The path that an error of a client's verb is about."""
Words = Callable[[], str]
"""How a call of a verb is told to people."""


class CallbackFailed(BaseException):
    """A listener, or another function of the user's, has raised ``cause``.

    No Exception, so that no handler inside takes it for an error of the disk or of the server.
    """

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


class Guard:
    """What a client has around all of its verbs.

    Attributes:
        turns: Whose turn it is.
    """

    def __init__(self) -> None:
        self.turns = Turns()
        self._own: Interrupt | None = None
        self._unsettled = False
        """A verb was interrupted: what it had under way is still to be cancelled."""
        self._deaf = False
        """A function of the user's has raised: none is called any more, until the next verb."""
        self._ctrl_c: _CtrlC | None = None
        self._thread = threading.local()
        self._pid = os.getpid()
        forks.follow(self)

    def _after_fork(self) -> None:
        """In a child process: the threads that had a turn, or waited for one, are gone."""
        self.turns = Turns()
        self._unsettled = False

    # functions of the user's -------------------------------------------------------------

    @property
    def _is_telling(self) -> bool:
        """Whether this thread is in a function of the user's, which a verb has called."""
        return getattr(self._thread, "is_telling", False)

    def tell(self, what: Callable[..., object], *args: Any) -> None:
        """Call a function of the user's that only hears; see `calling`."""
        if not self._deaf:
            self._call(what, *args)

    def calling(self, what: Callable[..., _T]) -> Callable[..., _T]:
        """The same function of the user's. It may not call verbs in turn.

        It raises CallbackFailed: the verb ends, by what the user's has raised.
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
        """The same function of the user's, which asks somebody: it may not call verbs in turn.

        Args:
            refuse: Is called in its place in a child process, where nobody is asked.
        """

        def ask(*args: Any) -> _T:
            if os.getpid() != self._pid:
                return refuse()
            return self._as_callback(what, *args)

        return ask

    def listener(self, listener: Listener | None) -> Listener:
        """One that hands on to the user's, if there is one."""
        return Listener() if listener is None else _Told(self, listener)

    def _as_callback(self, what: Callable[..., _T], *args: Any) -> _T:
        # for each file of a transfer: so there is no context manager
        thread, ctrl_c = self._thread, self._ctrl_c
        was_telling = getattr(thread, "is_telling", False)
        was_at_once = ctrl_c is not None and ctrl_c.is_at_once
        try:
            thread.is_telling = True
            if ctrl_c is not None:
                ctrl_c.set_at_once(True)
            return what(*args)
        finally:
            thread.is_telling = was_telling  # first: Ctrl-C may come in what follows
            if ctrl_c is not None:
                ctrl_c.set_at_once(was_at_once)

    # one verb ----------------------------------------------------------------------------

    @property
    def is_inside(self) -> bool:
        """Whether this thread is in a verb, and not in a function of the user's."""
        return self.turns.is_mine and not self._is_telling

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
        """Around the outermost verb, or one step of a stream.

        Args:
            timeout: Seconds for all of it, the wait for its turn included; None for no limit.
            words: It is an operation of its own, unless it is part of one, and these are its words.
            stream, closing: See `Turns.taken`.

        Raises:
            RuntimeError: A function that a verb calls has called it.
        """
        if self._is_telling:
            raise RuntimeError(
                "a listener, or another function that a verb calls, can't use the connection"
            )
        until = math.inf if timeout is None else time.monotonic() + timeout
        with _ctrl_c() as ctrl_c:
            waits_plainly = ctrl_c is None and timeout is None

            def look() -> None:
                if ctrl_c is not None and ctrl_c.presses:
                    raise KeyboardInterrupt
                if time.monotonic() >= until:
                    raise _timed_out(
                        f"not begun within {timeout:g} seconds: another thread uses the client"
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
        """It is this verb's turn."""
        if client._interrupt is None:
            client._interrupt = self._own = Interrupt()
        interrupt = client._interrupt
        self._deaf = False
        if interrupt is self._own:
            interrupt.clear()  # it came too late for an earlier verb
        self._ctrl_c = ctrl_c
        if ctrl_c is not None:
            ctrl_c.interrupt = interrupt
        return interrupt

    def _settle(self, client: Guarded) -> None:
        """Have the connection in step, whatever earlier verbs and streams have left."""
        connection = client._connection
        unsettled, self._unsettled = self._unsettled, False
        if connection is not None:
            if unsettled:
                connection.cancel_all()
            connection.cancel_due()

    def _end(self, client: Guarded, ctrl_c: _CtrlC | None, error: BaseException) -> BaseException:
        """A verb ends by an error: leave the connection in step, or none. What to raise."""
        cause = error.cause if isinstance(error, CallbackFailed) else error
        pressed = ctrl_c is not None and ctrl_c.presses > 0
        connection = client._connection
        if connection is not None and not connection.broken:
            if isinstance(error, TimeOver):
                self._drop(connection)  # a server that answers nothing ends nothing either
            elif isinstance(error, inside.Interrupted):
                if pressed:
                    connection.cancel_all(_CANCEL_SECONDS)
                else:
                    self._unsettled = True  # how long that may take is the next verb's affair
            elif isinstance(error, inside.FtpError):
                pass  # a whole answer
            elif _may_come_anywhere(cause) or not connection.in_step:
                self._drop(connection)
            else:
                connection.forget_ahead()
        if isinstance(error, TimeOver):
            return _timed_out(str(error)).with_traceback(error.__traceback__)
        return KeyboardInterrupt() if pressed else cause

    def _drop(self, connection: Connection) -> None:
        self._deaf = True  # what is under way fails now, which is no news of the transfer
        connection.give_up()

    def close(self, client: Guarded) -> None:
        """Give back what is the guard's own; the next verb makes it again."""
        own, self._own = self._own, None
        if own is not None:
            if self._ctrl_c is not None:
                self._ctrl_c.interrupt = None
            client._interrupt = None
            own.close()


def _may_come_anywhere(error: BaseException) -> bool:
    """Whether an error may have come amid a change of state: a KeyboardInterrupt, for one."""
    return not isinstance(error, Exception) or isinstance(error, (RecursionError, MemoryError))


def raise_plainly(error: BaseException) -> NoReturn:
    """Raise an error as it is, without the one that is being handled as its context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context


@contextmanager
def _limited(interrupt: Interrupt, until: float, timeout: float | None) -> Iterator[None]:
    """Interrupt what goes on when the time is over."""
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
    """While a verb runs in the main thread, Ctrl-C sets the client's interrupt.

    A KeyboardInterrupt may come between any two steps of the interpreter: it would leave half a
    frame behind, or a lock that is never released. So the handler is another one meanwhile, as in
    `asyncio.Runner`; the KeyboardInterrupt comes when the request is cancelled.

    Attributes:
        presses: How often it was asked for.
        interrupt: What to set; None while the verb has not begun.
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
            raise KeyboardInterrupt  # it came when all was done

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
        """Whether Ctrl-C is a KeyboardInterrupt as ever: in a function of the user's it is. In
        another thread than the main one, where none ever comes, this does nothing."""
        if threading.current_thread() is threading.main_thread():
            self.is_at_once = at_once


@contextmanager
def _ctrl_c() -> Iterator[_CtrlC | None]:
    """Take Ctrl-C where that is safe; not where somebody else handles it already."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield None
        return
    with _CtrlC() as taken:
        yield taken


# results and errors --------------------------------------------------------------------------


class _Told(Forwarding):
    """The user's listener: it hears public errors, and what it raises ends the verb."""

    def __init__(self, guard: Guard, listener: Listener) -> None:
        super().__init__(listener)
        self._guard = guard

    def tell(self, what: Callable[..., None], *args: Any) -> None:
        self._guard.tell(what, *args)

    def finished(self, result: Result) -> None:
        told = result if result.error is None else public_result(result)
        self._guard.tell(self._listener.finished, told)

    def all_stored(self, results: Sequence[Result]) -> None:
        self._guard.tell(self._listener.all_stored, results)

    def lost(self, error: inside.FtpError) -> None:
        super().lost(_public(error))


def _public(error: inside.FtpError, path: bytes | None = None) -> FtpError:
    """`errors.public`. Its fifty classes are made for the first error, not for each command."""
    from ftpclient import errors

    return errors.public(error, path)


def _timed_out(text: str) -> FtpError:
    """`errors.timed_out`, in the same way."""
    from ftpclient import errors

    return errors.timed_out(text)


def public_result(result: Result) -> Result:
    """The same, with the error that verbs raise."""
    if result.error is None:
        return result
    about = _named_in(str(result.error), (result.target, result.source)) or result.target
    return structs.replace(result, error=_public(result.error, about))


def public_summary(given: _T) -> _T:
    """What a verb returns; of a summary, with the errors that verbs raise."""
    if isinstance(given, Summary) and given.first_error is not None:
        first = given.failures[0].error if given.failures else None
        same = first is given.first_error
        given.failures = [public_result(one) for one in given.failures]
        given.first_error = given.failures[0].error if same else _public(given.first_error)
    return given


def _named_in(text: str, candidates: Iterable[bytes]) -> bytes | None:
    """The path that a text begins with, if it is one of some."""
    return next((one for one in candidates if one and text.startswith(paths.show(one) + ":")), None)


_REMOTE = ("path", "pattern", "source", "sources", "target")
"""What verbs call their arguments that are remote paths."""


@functools.cache
def _signature_of(function: Callable[..., Any]) -> tuple[Signature, tuple[str, ...]]:
    """The signature of a verb, and which of its arguments are remote paths.

    It is looked at when there is something to tell: most calls succeed, and a command that is
    started for one of them would wait for the signatures of all.
    """
    import inspect

    signature = inspect.signature(function)
    return signature, tuple(name for name in signature.parameters if name in _REMOTE)


def explainer(function: Callable[..., Any]) -> Callable[..., Explain]:
    """For calls of a verb: which of its paths an error is about.

    Most errors begin with the path. Else it is the first remote path that was given, or of what
    exists already the last.
    """
    verb, _, _ = function.__name__.partition("_")
    local = {"put": ("source", "sources"), "get": ("target",)}.get(verb, ())

    def of_call(*args: Any, **kwargs: Any) -> Explain:
        def explain(client: Guarded, error: inside.FtpError) -> bytes | None:
            signature, named = _signature_of(function)
            if "path" in named:
                named = ("path",)  # a link's target is a text
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
            what_exists = -1 if isinstance(error, inside.AlreadyExists) else 0  # is the target
            return list(there.values())[what_exists] if there else None

        return explain

    return of_call


def phraser(function: Callable[..., Any]) -> Callable[..., Words]:
    """For calls of a verb: how each is told to people, as ``Client.remove /x``."""

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
    """The operation that a verb belongs to.

    Args:
        words: Its own, if it is one; it is, unless it is part of one.
    """
    operation = in_force(client)
    return Operation(words) if operation is None and words is not None else operation


def _each(given: object) -> list[bytes]:
    """The paths of an argument, as they were written."""
    if isinstance(given, (list, tuple)):
        return [path for one in given for path in _each(one)]
    if isinstance(given, (str, bytes, os.PathLike)):
        return [os.fsencode(given)]
    return []


def _resolved(client: Guarded, path: bytes) -> bytes:
    try:
        return client._resolve(path)
    except inside.FtpError:
        return path  # it can't be one: that is what is to be told


# decorators ----------------------------------------------------------------------------------


def verb(function: Callable[Concatenate[_C, _P], _T]) -> Callable[Concatenate[_C, _P], _T]:
    """A verb that uses the connection. Its argument ``timeout`` is taken care of here."""
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
    """A verb that gives one thing after another, and has the connection until it is closed.

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
            # nothing is sent or awaited here: the garbage collector may have closed this
            if items is not None:
                items.close()
            guard.turns.leave(hold)

    return guarded


def local(function: Callable[Concatenate[_C, _P], _T]) -> Callable[Concatenate[_C, _P], _T]:
    """What doesn't use the connection: functions that a verb calls may call it as well."""
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
    """The argument ``timeout`` of a call. Raises ValueError: it is no number of seconds."""
    timeout: float | None = arguments.get("timeout")
    if timeout is not None and not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ValueError(f"a timeout is a number of seconds above 0, not {timeout!r}")
    return timeout
