"""Peers: how two processes of one server ask each other things, over a pair of sockets.

Lives here: calls and their results, many at once, in both directions; descriptors that come along;
errors that arrive as what they were raised as.
Lives elsewhere: what can be asked, and what is answered (interfaces.py), forking the processes
(forkserver.py).

The process at the other end may have been taken over by somebody hostile. So nothing is pickled:
messages are decoded into the types of the interface, which validates them. A length is checked
before anything is allocated for it, descriptors come only where they are expected, and an end that
doesn't take what it is sent is given up. Whatever is wrong ends this one pair of sockets, and
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
from ftpserver.net.fd_passing import beside, close_all, room_for, taken_from
from ftpwire import errors
from ftpwire.errors import FACTS, CommandError, FtpError, Internal, facts_of

logger = logging.getLogger("ftpd.calls")

MAX_SIZE = 1024 * 1024
"""Bytes of one message's payload, at most."""
MAX_DESCRIPTORS = 8
_AT_ONCE = 4096
"""Bytes of a message that the system takes whole or not at all."""
_MOMENT = 0.01
"""Seconds that a thread which must not wait for room waits for another one that is sending."""
_MOST_LATE = 2
"""So many times the largest message may wait for an end to take it."""
_HEADER = struct.Struct("!IIBB")
_TIMEVAL = struct.Struct("@ll")
_CLOSED_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class _Kind(IntEnum):
    ASK = 1
    TELL = 2
    ANSWER = 3
    FAILURE = 4


class EndpointGone(Internal):
    """The process at the other end has ended, or was given up."""


class _Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error on its way. Exactly one of ``code``, ``errno`` and ``state`` is given."""

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
    """A call that waits for its result."""

    request: Request
    result: Future[Any]


_encoder = msgspec.msgpack.Encoder(enc_hook=to_wire)
_decode_failure = msgspec.msgpack.Decoder(_Failure).decode


class Endpoint:
    """One end of the pair: asks the other end, and answers it. Safe to use from many threads.

    Until `start`, who asks also reads: the process may need to stay without other threads. From
    then on a thread does, until the other end is gone. That thread never waits for the other end to
    take something, nor does who tells an end whose patience is limited. ``_lock`` guards ``_open``,
    ``_over`` and ``_late``, ``_sending`` what is sent; neither is held while something is handled.

    It is the way on which stand-ins ask (`interfaces.stand_in`).

    Args:
        sock: A stream socket of a pair; it belongs to this from now on.
        targets: What the other end may call, by the interface that it calls it by. It is called by
            the thread that reads, in order: what takes long holds up what comes after it.
        patience: Seconds after which an end that takes nothing is given up; None for never.
        max_size: Bytes of a payload.
        max_descriptors: That may come along with one message.
        on_end: Called once, by the thread that reads, when the other end is gone.
        may_log: Whether another failure that nobody foresaw may be logged: a hostile end could have
            one with each question.
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
        self._room = room_for(max_descriptors)
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
        """Held while the thread that reads is started: who closes waits for it."""
        self._open: dict[int, _Open] = {}
        self._over = False
        self._reader: threading.Thread | None = None

    # asking ------------------------------------------------------------------------------

    def ask(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> Any:
        """Ask, and wait for the result.

        Args:
            descriptors: Go along; they stay open here.

        Raises:
            EndpointGone: The other end is gone.
            FtpError, OSError, StateError: What the other end raised.
        """
        future = self.ask_later(request, message, descriptors)
        while self._reader is None and not future.done():
            self.handle_one()
        return future.result()

    def ask_later(
        self, request: Request, message: msgspec.Struct, descriptors: list[int]
    ) -> Future[Any]:
        """Ask; the result comes into a Future, whose callbacks the thread that reads runs."""
        future: Future[Any] = Future()
        with self._lock:
            if self._over:
                future.set_exception(EndpointGone("the other process has ended"))
                return future
            number = next(self._numbers) & 0xFFFFFFFF
            self._open[number] = _Open(request, future)
        try:
            self._send(_Kind.ASK, number, message, descriptors)
        except EndpointGone as error:
            with self._lock:
                self._open.pop(number, None)
            _fail(future, error)
        except BaseException:
            with self._lock:
                self._open.pop(number, None)
            raise
        return future

    def tell(self, request: Request, message: msgspec.Struct, descriptors: list[int]) -> None:
        """Say what needs no answer. An end that is gone hears nothing, which `on_end` tells of."""
        try:
            self._send(_Kind.TELL, 0, message, descriptors)
        except EndpointGone:
            pass

    # its life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Have a thread read from now on. Raises RuntimeError: there can be no more threads."""
        with self._starting:
            reader = threading.Thread(target=self.run, name=self._name, daemon=True)
            reader.start()
            self._reader = reader

    def run(self) -> None:
        """Read and answer until the other end is gone; returns then."""
        if self._reader is None:
            self._reader = threading.current_thread()
        while not self._over:
            self.handle_one()

    def fileno(self) -> int:
        """Of the socket."""
        return self._socket.fileno()

    @property
    def gone(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._over

    def give_up(self) -> None:
        """End the pair from any thread; who waits gets PeerGone."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended
        if self._reader is None:
            self._end()

    def close(self) -> None:
        """The same, and give the socket back. Not for the thread that reads. Can be repeated."""
        with self._starting:
            reader = self._reader
        self.give_up()
        if reader is not None and reader is not threading.current_thread():
            reader.join()
        self._socket.close()

    def abandon(self) -> None:
        """Close the socket, and leave the pair as it is: for a process that was forked from the one
        whose end this is, which goes on."""
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
        reads = threading.current_thread() is self._reader
        waits = not (reads or (kind == _Kind.TELL and self._is_limited))
        if waits or (descriptors and kind != _Kind.ANSWER):  # which the caller closes afterwards
            self._write(data, descriptors)
        elif not self._write_at_once(data, descriptors):
            self._write_later(data, [descriptors.pop(0) for _ in list(descriptors)])

    def _write(self, data: bytes, descriptors: Sequence[int]) -> None:
        """Write a message, and wait for the other end to take it. Raises PeerGone."""
        left = memoryview(data)
        try:
            with self._sending:
                left = left[self._socket.sendmsg([left], beside(descriptors)) :]
                while left:
                    left = left[self._socket.send(left) :]
        except OSError as error:  # BlockingIOError, too: it takes nothing
            self.give_up()
            raise EndpointGone("the other process has ended, or doesn't listen") from error

    def _write_at_once(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """Write a message if there is room for it. Raises PeerGone."""
        if len(data) > _AT_ONCE or self._late or not self._sending.acquire(timeout=_MOMENT):
            return False
        try:
            sent = self._socket.sendmsg([data], beside(descriptors), socket.MSG_DONTWAIT)
            if sent < len(data):
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
        """Have another thread write a message, which comes after those that it has already.

        Both ends would wait for each other for ever if both readers waited for room.

        Args:
            descriptors: Are closed then.
        """
        with self._lock:
            begins = not self._late
            self._late.append((data, descriptors))
            before, self._late_size = self._late_size, self._late_size + len(data)
            most = _MOST_LATE * self._max_size
        if before <= most < self._late_size:
            logger.warning("%s: given up: it takes nothing", self._name)
            self.give_up()
        if begins:
            try:
                threading.Thread(target=self._write_late, name=self._name, daemon=True).start()
            except RuntimeError:  # there can be no more
                self._write_late()

    def _write_late(self) -> None:
        left = True
        while left:
            data, descriptors = self._late[0]
            try:
                self._write(data, descriptors)
            except EndpointGone:
                pass  # nor will it take the others
            close_all(descriptors)
            with self._lock:
                self._late.popleft()
                self._late_size -= len(data)
                left = bool(self._late)

    # receiving ---------------------------------------------------------------------------

    def handle_one(self) -> None:
        """Receive one message and deal with it; the end, when something is wrong with it.

        For a process that has to stay without other threads: called when there is something to read
        (`fileno`), as nobody else reads.
        """
        try:
            received = self._receive()
        except (EOFError, ConnectionError):  # reset: it has left some of ours unread
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
            if kind == _Kind.ASK or kind == _Kind.TELL:
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
        """One message, and whether this process had no room for descriptors that came along with a
        result. Raises EOFError at the end, ValueError, OSError."""
        start, ancillary, flags, _ = self._socket.recvmsg(_HEADER.size, self._room, _CLOSED_ON_EXEC)
        descriptors = taken_from(ancillary)
        try:
            if not start:
                raise EOFError
            header = start + self._exactly(_HEADER.size - len(start))
            size, number, kind, count = _HEADER.unpack(header)
            if size > self._max_size:
                raise ValueError(f"{size} bytes in one message")
            lost = bool(flags & socket.MSG_CTRUNC) and kind == _Kind.ANSWER
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
        """A result came: whoever asked gets it."""
        if kind not in (_Kind.ANSWER, _Kind.FAILURE):
            raise ValueError(f"a message of kind {kind}")
        with self._lock:
            asked = self._open.pop(number, None)
        if asked is None:
            raise ValueError("an answer to what was not asked")
        request, future = asked
        if lost:
            _fail(future, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return
        try:
            result = self._result(request, kind, payload, descriptors)
        except BaseException:
            _fail(future, EndpointGone("the other process answers what is no answer"))
            raise
        if isinstance(result, Exception):
            _fail(future, result)
            return
        try:
            future.set_result(result)
        except InvalidStateError:  # cancelled: nobody waits
            if request.brings:
                result.close()

    def _result(self, request: Request, kind: int, payload: bytes, descriptors: list[int]) -> Any:
        """What was answered, or the error that was raised. Raises ValueError, MsgspecError."""
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
        """The other end asks or tells something."""
        message = self._dispatcher.decode(payload)
        request = self._dispatcher.request_of(message)
        if request.waits is not (kind == _Kind.ASK):
            raise ValueError(f"{request.name}: asked and not told, or the other way round")
        if descriptors and request.carries is None:
            raise ValueError(f"descriptors came along with {request.name}")
        if kind == _Kind.TELL:
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
            self._send(_Kind.ANSWER, number, carried.message, carried.descriptors)
        except EndpointGone:
            pass  # nobody waits for it any more
        except Exception as error:  # it can't be sent, as a number that is too large
            self._send_failure(number, error)
        finally:
            carried.close()

    def _send_failure(self, number: int, error: Exception) -> None:
        failure = _failure_of(error)
        if failure is None:
            expected = isinstance(error, StateError)  # which says it in one line
            text = "%s: a question failed: %s"
            if self._may_log():
                logger.error(text, self._name, error, exc_info=None if expected else error)
            failure = _Failure("internal error", code=Internal.code)
        try:
            self._send(_Kind.FAILURE, number, failure, [])
        except EndpointGone:
            pass  # the same


# errors ------------------------------------------------------------------------------------


def _failure_of(error: Exception) -> _Failure | None:
    """An error as it travels; None for one that nobody foresaw."""
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
    """The error that was sent."""
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
