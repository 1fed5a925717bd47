"""Endpoints: how two processes of one server call each other, over a pair of sockets.

Lives here: requests and replies, many at once, in both directions; descriptors that are sent along;
errors that are raised again at the other end.
Lives elsewhere: which requests there are (interfaces.py), forking the processes (forkserver.py).

An attacker may have taken over the process at the other end. So nothing is pickled: messages are
decoded into the types of the interface, which validates them. A length is checked before anything
is allocated for it, descriptors are accepted only where they are expected, and an endpoint gives up
a process that doesn't take what it is sent. Any violation ends this one pair of sockets, and
nothing else.

A message is a header and a payload of msgpack:

    payload length u32 · number u32 · kind u8 · count of descriptors u8
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from ftpserver.accounts.account import Refused
from ftpserver.errors import StateError
from ftpserver.interfaces import Carried, Dispatcher, Request, to_wire
from ftpserver.net.fd_passing import ancillary_size, beside, close_all, taken_from
from ftpwire import errors
from ftpwire.errors import FACTS, CommandError, FtpError, Internal, facts_of

logger = logging.getLogger("ftpd.calls")

MAX_SIZE = 1024 * 1024
"""Most bytes of one message's payload."""
MAX_DESCRIPTORS = 8
_AT_ONCE = 4096
"""Most bytes of a message that the system takes as a whole or not at all."""
_MOMENT = 0.01
"""Seconds that a thread which must not wait for the other end waits for another sending thread."""
_MOST_LATE = 2
"""Messages waiting for the other end to take them may have this many times the largest size."""
_HEADER = struct.Struct("!IIBB")
_TIMEVAL = struct.Struct("@ll")
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class _Kind(IntEnum):
    REQUEST = 1
    NOTIFICATION = 2
    REPLY = 3
    FAILURE = 4


class EndpointGone(Internal):
    """The process at the other end has ended, or was given up."""


class _Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as a message. Exactly one of ``code``, ``errno`` and ``state`` is given."""

    text: str
    code: str | None = None
    errno: int | None = None
    state: bool = False
    reason: str | None = None
    needed: int | None = None
    free: int | None = None
    what: str | None = None
    retry_after: int | None = None
    path: bytes | None = None
    rule: str | None = None


class _Open(NamedTuple):
    """A request that waits for its reply."""

    request: Request
    result: Future[Any]


_encoder = msgspec.msgpack.Encoder(enc_hook=to_wire)
_decode_failure = msgspec.msgpack.Decoder(_Failure).decode


class Endpoint:
    """One end of the pair: sends requests, and answers those of the other end. For many threads.

    Until `start`, the thread that sends a request also receives the reply: the process may need to
    stay without other threads. From then on a thread reads, until the other end is gone. That
    reader never waits for the other end to take a message. Nor does a thread that sends a
    notification to an end with limited ``patience``. ``_lock`` guards ``_open``, ``_over`` and
    ``_late``; ``_sending`` is held while a message is written, so that messages don't mix. Neither
    is held while a request is handled.

    Proxies send their requests by it (`interfaces.make_proxy`).

    Args:
        sock: A stream socket of a pair; it belongs to the endpoint from now on.
        targets: The objects that the other end may call, by interface. The reader calls them, in
            the order of the requests: one that takes long delays all that follow.
        patience: Seconds after which an end that takes nothing is given up; None for never.
        max_size: Most bytes of a payload.
        max_descriptors: Most descriptors that may come with one message.
        on_end: Called once, by the reader, when the other end is gone.
        may_log: Returns whether another unexpected failure may be logged: a hostile end could cause
            one with each request.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        targets: Mapping[type, object],
        patience: float | None = None,
        max_size: int = MAX_SIZE,
        max_descriptors: int = 0,
        on_end: Callable[[], None] = lambda: None,
        may_log: Callable[[], bool] = lambda: True,
        name: str = "calls",
    ) -> None:
        if patience is not None:
            whole, part = divmod(int(patience * 1_000_000), 1_000_000)
            limit = _TIMEVAL.pack(whole, part)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._socket = sock
        self._is_limited = patience is not None
        self._dispatcher = Dispatcher(targets)
        self._max_size = max_size
        self._ancillary_size = ancillary_size(max_descriptors)
        self._max_descriptors = max_descriptors
        self._on_end = on_end
        self._may_log = may_log
        self._name = name
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._late: deque[tuple[bytes, list[int]]] = deque()
        self._late_size = 0
        self._starting = threading.Lock()
        """Held while the reader is started: `close` waits for that."""
        self._open: dict[int, _Open] = {}
        self._over = False
        self._reader: threading.Thread | None = None

    # asking ------------------------------------------------------------------------------

    def ask(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Send a request, and wait for its result.

        Args:
            descriptors: Sent along; they stay open here.

        Raises:
            EndpointGone: The other end is gone.
            FtpError, OSError, StateError: The error that the other end raised.
        """
        future = self.ask_later(request, message, descriptors)
        while self._reader is None and not future.done():
            self.handle_one()
        return future.result()

    def ask_later(
        self, request: Request, message: msgspec.Struct, descriptors: list[int]
    ) -> Future[Any]:
        """Send a request; return a Future of its result, whose callbacks the reader runs."""
        future: Future[Any] = Future()
        # Entered before it is sent, and in the same hold of the lock as ``_over`` is checked: so
        # `_end` fails every future that no reply can come for.
        with self._lock:
            if self._over:
                future.set_exception(EndpointGone("the other process has ended"))
                return future
            number = next(self._numbers) & 0xFFFFFFFF
            self._open[number] = _Open(request, future)
        try:
            self._send(_Kind.REQUEST, number, message, descriptors)
        except EndpointGone as error:
            with self._lock:
                self._open.pop(number, None)
            _fail(future, error)
        except BaseException:
            with self._lock:
                self._open.pop(number, None)
            raise
        return future

    def notify(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> None:
        """Send a notification, which gets no reply. Dropped if the other end is gone: ``on_end``
        reports that."""
        try:
            self._send(_Kind.NOTIFICATION, 0, message, descriptors)
        except EndpointGone:
            pass

    # its life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Start the reader. Raises RuntimeError if there are too many threads."""
        with self._starting:
            reader = threading.Thread(target=self.run, name=self._name, daemon=True)
            reader.start()
            self._reader = reader

    def run(self) -> None:
        """Be the reader until the other end is gone."""
        if self._reader is None:
            self._reader = threading.current_thread()
        while not self._over:
            self.handle_one()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    @property
    def gone(self) -> bool:
        """True if requests can no longer be sent."""
        return self._over

    def give_up(self) -> None:
        """End the pair, from any thread. Waiting threads get EndpointGone."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended
        # Only the reader ends the pair, so that ``on_end`` runs in its thread; the shutdown has
        # woken it.
        if self._reader is None:
            self._end()

    def close(self) -> None:
        """End the pair and close the socket. Not for the reader. Can be called twice."""
        with self._starting:
            reader = self._reader
        self.give_up()
        # The descriptor is closed after the reader has gone: it could read from a new socket that
        # was given the same number.
        if reader is not None and reader is not threading.current_thread():
            reader.join()
        self._socket.close()

    def abandon(self) -> None:
        """Close the socket but leave the pair open, in a process that was forked from the owner of
        this end."""
        self._over = True
        self._socket.close()

    def _end(self) -> None:
        with self._lock:
            if self._over:
                return
            self._over = True
            waiting, self._open = list(self._open.values()), {}
        for one in waiting:
            _fail(one.result, EndpointGone("the other process has ended"))
        self._on_end()

    # sending -----------------------------------------------------------------------------

    def _send(self, kind: _Kind, number: int, message: Any, descriptors: list[int]) -> None:
        payload = _encoder.encode(message)
        if len(payload) > self._max_size or len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"{type(message).__name__}: too large to be sent")
        data = _HEADER.pack(len(payload), number, kind, len(descriptors)) + payload
        # Two readers that waited for each other to take a message would wait for ever. The caller
        # of a request closes its descriptors afterwards, so they must be sent before this returns.
        reads = threading.current_thread() is self._reader
        waits = not (reads or (kind == _Kind.NOTIFICATION and self._is_limited))
        if waits or (descriptors and kind != _Kind.REPLY):
            self._write(data, descriptors)
        elif not self._write_at_once(data, descriptors):
            # the other thread closes them: the caller's list is emptied
            self._write_later(data, [descriptors.pop(0) for _ in list(descriptors)])

    def _write(self, data: bytes, descriptors: Sequence[int]) -> None:
        """Write a message, waiting for the other end to take it. Raises EndpointGone."""
        left = memoryview(data)
        try:
            with self._sending:  # held until the whole message is out: the stream has no marks
                left = left[self._socket.sendmsg([left], beside(descriptors)) :]
                while left:
                    left = left[self._socket.send(left) :]
        except OSError as error:  # BlockingIOError, too: it took nothing for ``patience``
            self.give_up()
            raise EndpointGone("the other process has ended, or doesn't listen") from error

    def _write_at_once(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """Write a message if that needs no wait; return whether it was. Raises EndpointGone."""
        # `_late` is checked so that messages keep their order: while some wait, all later ones do.
        if len(data) > _AT_ONCE or self._late or not self._sending.acquire(timeout=_MOMENT):
            return False
        try:
            sent = self._socket.sendmsg([data], beside(descriptors), socket.MSG_DONTWAIT)
            if sent < len(data):  # a part is out: the rest must follow, before anything else
                self._socket.sendall(data[sent:])
        except BlockingIOError:
            return False
        except OSError as error:
            self.give_up()
            raise EndpointGone("the other process has ended") from error
        finally:
            self._sending.release()
        return True

    def _write_later(self, data: bytes, descriptors: list[int]) -> None:
        """Let another thread write a message, after those that wait already.

        If both readers waited for the other end to take a message, they would wait for ever.

        Args:
            descriptors: Closed afterwards.
        """
        with self._lock:
            begins = not self._late
            self._late.append((data, descriptors))
            before, self._late_size = self._late_size, self._late_size + len(data)
            most = _MOST_LATE * self._max_size
        if before <= most < self._late_size:
            logger.warning("%s: given up: it doesn't take its messages", self._name)
            self.give_up()
        if begins:
            try:
                threading.Thread(target=self._write_late, name=self._name, daemon=True).start()
            except RuntimeError:  # there are too many threads
                self._write_late()

    def _write_late(self) -> None:
        left = True
        while left:
            # A message stays in the queue until it is written: `_write_later` starts no second
            # thread, and `_write_at_once` doesn't overtake it.
            data, descriptors = self._late[0]
            try:
                self._write(data, descriptors)
            except EndpointGone:
                pass  # the others fail the same way, and are discarded
            close_all(descriptors)
            with self._lock:
                self._late.popleft()
                self._late_size -= len(data)
                left = bool(self._late)

    # receiving ---------------------------------------------------------------------------

    def handle_one(self) -> None:
        """Receive one message and handle it; end the pair if it is invalid.

        Also for a process that has to stay without other threads: it calls this when there is
        something to read (`fileno`), as there is no reader.
        """
        try:
            received = self._receive()
        except (EOFError, ConnectionError):  # reset: it ended without reading all messages
            self._end()
            return
        except (OSError, ValueError) as error:
            if not self._over:
                logger.warning("%s: given up: %s", self._name, error)
            self.give_up()
            self._end()
            return
        number, kind, payload, descriptors, lost = received
        try:
            if kind == _Kind.REQUEST or kind == _Kind.NOTIFICATION:
                self._hear(kind, number, payload, descriptors)
            else:
                self._settle(kind, number, payload, descriptors, lost)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            logger.warning("%s: given up: %s", self._name, error)
            self.give_up()
            self._end()
        finally:
            close_all(descriptors)

    def _receive(self) -> tuple[int, int, bytes, list[int], bool]:
        """Receive one message. The last item is True if this process had no free descriptors for
        those of a result. Raises EOFError at the end, ValueError, OSError."""
        start, ancillary, flags, _ = self._socket.recvmsg(
            _HEADER.size, self._ancillary_size, _CLOSED_ON_EXEC
        )
        descriptors = taken_from(ancillary)
        try:
            if not start:
                raise EOFError
            header = start + self._exactly(_HEADER.size - len(start))
            size, number, kind, count = _HEADER.unpack(header)
            if size > self._max_size:  # before anything is allocated for it
                raise ValueError(f"{size} bytes in one message")
            lost = bool(flags & socket.MSG_CTRUNC) and kind == _Kind.REPLY
            wrong = len(descriptors) > count if lost else len(descriptors) != count
            if wrong or count > self._max_descriptors:
                raise ValueError(f"{count} descriptors along with a message")
            return number, kind, self._exactly(size), descriptors, lost
        except BaseException:
            close_all(descriptors)
            raise

    def _exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return bytes(data)

    def _settle(
        self, kind: int, number: int, payload: bytes, descriptors: list[int], lost: bool
    ) -> None:
        """Give a reply to the thread that waits for it."""
        if kind not in (_Kind.REPLY, _Kind.FAILURE):
            raise ValueError(f"a message of kind {kind}")
        with self._lock:
            open_request = self._open.pop(number, None)
        if open_request is None:
            raise ValueError("a reply to no request")
        request, future = open_request
        if lost:
            _fail(future, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        try:
            result = self._result(request, kind, payload, descriptors)
        except BaseException:
            _fail(future, EndpointGone("the other process sent an invalid reply"))
            raise
        if isinstance(result, Exception):
            _fail(future, result)
            return
        try:
            future.set_result(result)
        except InvalidStateError:  # cancelled: no thread waits for it
            if request.brings:
                result.close()

    def _result(self, request: Request, kind: int, payload: bytes, descriptors: list[int]) -> Any:
        """Return the result, or the error that was raised. Raises ValueError, MsgspecError."""
        if kind == _Kind.FAILURE:
            return _raised(_decode_failure(payload))
        result = request.decode_result(payload)
        if request.brings:
            result = Carried(result, list(descriptors))
            descriptors.clear()
        elif descriptors:
            raise ValueError(f"descriptors came along with the result of {request.name}")
        return result

    def _hear(self, kind: int, number: int, payload: bytes, descriptors: list[int]) -> None:
        """Handle a request or a notification."""
        message = self._dispatcher.decode(payload)
        request = self._dispatcher.request_of(message)
        if request.waits is not (kind == _Kind.REQUEST):
            raise ValueError(f"{request.name}: a notification sent as a request, or the reverse")
        if descriptors and request.carries is None:
            raise ValueError(f"descriptors came along with {request.name}")
        if kind == _Kind.NOTIFICATION:
            try:
                self._dispatcher.call(message, descriptors)
            except Exception:
                if self._may_log():
                    logger.exception("%s: %s failed", self._name, type(message).__name__)
            return
        self._answer(number, message, descriptors)

    def _answer(self, number: int, message: msgspec.Struct, descriptors: list[int]) -> None:
        try:
            answer = self._dispatcher.call(message, descriptors)
        except Exception as error:
            self._send_failure(number, error)
            return
        if isinstance(answer, Future):
            answer.add_done_callback(lambda done: self._answer_from(number, done))
        else:
            self._send_answer(number, answer)

    def _answer_from(self, number: int, done: Future[Any]) -> None:
        error = done.exception()
        if isinstance(error, Exception):
            self._send_failure(number, error)
        else:
            self._send_answer(number, done.result())

    def _send_answer(self, number: int, answer: Any) -> None:
        carried = answer if isinstance(answer, Carried) else Carried(answer, [])
        try:
            self._send(_Kind.REPLY, number, carried.message, carried.descriptors)
        except EndpointGone:
            pass  # no one waits for it any more
        except Exception as error:  # it cannot be encoded, e.g. a number that is too large
            self._send_failure(number, error)
        finally:
            carried.close()

    def _send_failure(self, number: int, error: Exception) -> None:
        failure = _failure_of(error)
        if failure is None:
            expected = isinstance(error, StateError)  # its text says it all
            text = "%s: a request failed: %s"
            if self._may_log():
                logger.error(text, self._name, error, exc_info=None if expected else error)
            failure = _Failure("internal error", code=Internal.code)
        try:
            self._send(_Kind.FAILURE, number, failure, [])
        except EndpointGone:
            pass  # no one waits for it any more


# errors ------------------------------------------------------------------------------------


def _failure_of(error: Exception) -> _Failure | None:
    """Return an error as a message; None for an unexpected one."""
    if isinstance(error, Refused):
        return _Failure(str(error), code=error.code, reason=error.reason)
    if isinstance(error, CommandError):
        return _Failure(str(error), code=error.code, **facts_of(error))
    if isinstance(error, FtpError):
        return _Failure(str(error), code=error.code)
    if isinstance(error, OSError) and error.errno is not None:
        return _Failure(error.strerror or "", errno=error.errno)
    if isinstance(error, StateError):
        return _Failure(str(error), state=True)
    return None


def _raised(failure: _Failure) -> Exception:
    """Return the error that was sent."""
    if failure.errno is not None:
        return OSError(failure.errno, failure.text)
    if failure.state:
        return StateError(failure.text)
    if failure.reason is not None:
        return Refused(failure.text, failure.reason)
    kind = errors.BY_CODE.get(failure.code or "", Internal)
    if issubclass(kind, CommandError):
        return kind(failure.text, **{name: getattr(failure, name) for name in FACTS})
    return kind(failure.text)


def _fail(future: Future[Any], error: Exception) -> None:
    try:
        future.set_exception(error)
    except InvalidStateError:
        pass  # cancelled, or settled meanwhile
