"""Calls between two processes of one server; here both ends are in one process, mostly."""

from __future__ import annotations

import array
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Protocol

import msgspec
import pytest

from ftpserver.accounts.account import Refused
from ftpserver.errors import StateError
from ftpserver.interfaces import Carried, Descriptors, later, make_proxy, notification, request
from ftpserver.processes.rpc import Endpoint, EndpointGone
from ftpwire.errors import Banned, Internal, LeaseLost, QuotaExceeded
from tests.few_descriptors import few_descriptors
from tests.peer import eventually

HEADER = struct.Struct("!IIBB")
REQUEST, NOTIFICATION, REPLY = 1, 2, 3


class Adder(Protocol):
    @request
    def add(self, a: int, b: int) -> int: ...

    @notification
    def note(self, text: str) -> None: ...

    @request
    def add_later(self, a: int, b: int) -> Future[int]: ...

    @request
    def say(self, text: str) -> None: ...

    @request
    def lend(self, given: Descriptors) -> Carried[str]: ...

    @request
    def take(self, given: Descriptors) -> None: ...


class Target:
    """Adds; a test replaces what it is about."""

    def __init__(self, **methods) -> None:
        self.heard: list[str] = []
        self.__dict__.update(methods)

    def add(self, a, b):
        return a + b

    def note(self, text):
        self.heard.append(text)


class Pair:
    """Two ends; the first asks, as a rule."""

    def __init__(self, *, first=None, second=None, mine=None, theirs=None, **options) -> None:
        self.sockets = socket.socketpair()
        self.mine, self.theirs = mine or Target(), theirs or Target()
        self.first = Endpoint(
            self.sockets[0], targets={Adder: self.mine}, **(options | (first or {}))
        )
        self.second = Endpoint(
            self.sockets[1], targets={Adder: self.theirs}, **(options | (second or {}))
        )
        self.there, self.here = make_proxy(Adder, self.first), make_proxy(Adder, self.second)

    def start(self) -> Pair:
        self.first.start()
        self.second.start()
        return self

    def close(self) -> None:
        for endpoint in (self.first, self.second):
            endpoint.close()


@pytest.fixture
def pairs() -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:

        def make(**options) -> Pair:
            pair = Pair(**options)
            stack.callback(pair.close)
            return pair

        yield make


def raising(error: Exception) -> Target:
    def add(a, b):
        raise error

    return Target(add=add)


def test_many_threads_ask_in_both_directions_at_once(pairs):
    pair = pairs().start()

    def ask(number: int) -> int:
        return (pair.there if number % 2 else pair.here).add(number, 1)

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(400))) == list(range(1, 401))


def test_a_result_that_can_not_be_sent_fails_its_question_alone(pairs):
    there = pairs(second={"may_log": lambda: False}).start().there
    later_one = later(there.add)(2**63, 2**63)
    with pytest.raises(Internal):
        later_one.result(10)
    assert there.add(1, 2) == 3


def test_what_a_hostile_end_has_failed_is_logged_as_often_as_it_may(pairs, caplog):
    left = iter([True, False])
    pair = pairs(theirs=raising(KeyError("x")), second={"may_log": lambda: next(left)}).start()
    for _ in range(2):
        with pytest.raises(Internal):
            pair.there.add(1, 2)
    assert caplog.text.count("a request failed") == 1


def test_who_has_no_reading_thread_reads_while_it_asks(pairs):
    pair = pairs()
    pair.second.start()
    before = threading.active_count()
    pair.here.note("first")
    assert pair.there.add(2, b=3) == 5
    assert pair.mine.heard == ["first"]  # what came before the answer was dealt with, too
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "error",
    [
        QuotaExceeded("the quota is 5 bytes", needed=7, free=3),
        LeaseLost("the reservation was lost"),
        Banned("later"),
        Refused("wrong user name or password", "no such account"),
        OSError(errno.ENOSPC, "No space left on device"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        StateError("it cannot be used"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_as_what_they_were_raised_as(pairs, error):
    pair = pairs(theirs=raising(error)).start()
    with pytest.raises(type(error)) as caught:
        pair.there.add(1, 2)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    for name in ("needed", "free", "reason", "errno"):
        assert getattr(caught.value, name, None) == getattr(error, name, None)


def test_an_error_that_nobody_foresaw_is_logged_and_reveals_nothing(pairs, caplog):
    pair = pairs(theirs=raising(KeyError("secret"))).start()
    with pytest.raises(Internal, match="^internal error$"):
        pair.there.add(1, 2)
    assert "secret" in caplog.text


def test_an_answer_of_another_type_ends_the_pair(pairs):
    pair = pairs(theirs=Target(add=lambda a, b: "sum")).start()
    with pytest.raises(EndpointGone, match="invalid reply"):
        pair.there.add(1, 2)
    with pytest.raises(EndpointGone):
        pair.there.add(1, 2)


def test_an_answer_can_come_later_from_another_thread(pairs):
    answer: Future[int] = Future()
    pair = pairs(theirs=Target(add_later=lambda a, b: answer)).start()
    slow = pair.there.add_later(1, 2)
    assert pair.there.add(3, 4) == 7  # it holds up nobody
    assert not slow.done()
    answer.set_result(3)
    assert slow.result(30) == 3


def test_a_later_answer_can_be_an_error(pairs):
    answer: Future[int] = Future()
    pair = pairs(theirs=Target(add_later=lambda a, b: answer)).start()
    request = pair.there.add_later(1, 2)
    answer.set_exception(LeaseLost("gone"))
    with pytest.raises(LeaseLost, match="gone"):
        request.result(30)


def test_descriptors_go_along_both_ways(pairs):
    def lend(given):
        os.write(given[0], b"seen")
        read, write = os.pipe()
        os.write(write, b"made")
        os.close(write)
        return Carried("lent", [read])

    pair = pairs(max_descriptors=1, theirs=Target(lend=lend)).start()
    read, write = os.pipe()
    carried = pair.there.lend([write])
    assert carried.message == "lent"
    assert os.read(read, 10) == b"seen"
    assert os.read(carried.descriptors[0], 10) == b"made"
    assert not os.get_inheritable(carried.descriptors[0])
    carried.close()
    os.close(read)
    os.close(write)


def test_a_result_whose_descriptors_find_no_space_is_an_error_for_who_asked(pairs):
    """It is this process that can open no more: the other end has done nothing wrong."""
    pair = pairs(first={"max_descriptors": 1})
    pair.first.start()
    lost, kept = later(pair.there.lend)([]), later(pair.there.lend)([])
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [pair.sockets[1].fileno()]))
    with few_descriptors(0), ExitStack() as all_there_are:
        with suppress(OSError):
            while True:
                all_there_are.callback(os.close, os.dup(pair.sockets[1].fileno()))
        pair.sockets[1].sendmsg([packed("lent", REPLY, 1, count=1)], [rights])
        with pytest.raises(OSError) as raised:
            lost.result(30)
    assert raised.value.errno == errno.EMFILE
    pair.sockets[1].sendmsg([packed("lent", REPLY, 2, count=1)], [rights])
    kept.result(30).close()


def test_descriptors_that_are_taken_out_stay_open(pairs):
    kept = []
    taking = Target(take=lambda given: kept.append(given.pop()))
    pair = pairs(theirs=taking, max_descriptors=2).start()
    read, write = os.pipe()
    pair.there.take([read, write])
    os.close(write)
    os.write(kept[0], b"x")
    assert os.read(read, 1) == b"x"
    os.close(kept[0])
    assert os.read(read, 1) == b""  # the read end that came along is closed: only ours is left
    os.close(read)


# ends ------------------------------------------------------------------------------------------


def test_all_who_wait_hear_that_the_other_end_is_gone(pairs):
    ended = threading.Event()
    never = Target(add=lambda a, b: Future())
    pair = pairs(first={"on_end": ended.set}, theirs=never).start()

    def ask(number: int) -> str:
        with pytest.raises(EndpointGone):
            pair.there.add(number, 0)
        return "gone"

    with ThreadPoolExecutor(8) as pool:
        request = [pool.submit(ask, number) for number in range(8)]
        pair.second.give_up()
        assert [one.result(30) for one in request] == ["gone"] * 8
    assert ended.wait(30)
    with pytest.raises(EndpointGone):
        pair.there.add(1, 1)
    pair.there.note("too late")  # of which nobody has to know


def test_who_reads_while_it_asks_hears_of_the_end(pairs):
    pair = pairs()
    pair.sockets[1].close()
    with pytest.raises(EndpointGone):
        pair.there.add(1, 1)
    assert pair.first.gone


@pytest.mark.parametrize("notification", [True, False], ids=["told", "asked"])
def test_who_takes_nothing_is_abandoned(pairs, caplog, notification):
    pair = pairs(first={"patience": 0.05})
    pair.first.start()
    send = pair.there.note if notification else later(pair.there.say)
    send("x" * 1_000_000)  # the kernel holds less
    with pytest.raises(EndpointGone):
        pair.there.add(1, 1)
    assert not caplog.text  # it was not for too much that waits


def test_both_ends_send_each_other_more_than_there_is_space_for(pairs):
    read, write = os.pipe()
    mine = Target(lend=lambda given: Carried("x" * 1_000_000, []))
    theirs = Target(lend=lambda given: Carried("y" * 1_000_000, [write]))
    pair = pairs(first={"max_descriptors": 1, "patience": 5.0}, mine=mine, theirs=theirs)
    there, here = later(pair.there.lend)([]), later(pair.here.lend)([])
    pair.start()  # each has the other's question before it reads
    carried = there.result(30)
    assert (carried.message[0], here.result(30).message[0]) == ("y", "x")
    carried.close()
    assert os.read(read, 1) == b""  # what was sent later was closed then
    os.close(read)


def test_who_reports_an_end_that_is_to_be_patient_with_does_not_wait_for_it(pairs):
    pair = pairs(first={"patience": 3.0})
    for number in range(1000):
        pair.there.note(f"{number}" + "." * 500)
    pair.second.start()
    eventually(lambda: len(pair.theirs.heard) == 1000)
    assert [int(one.rstrip(".")) for one in pair.theirs.heard] == list(range(1000))


def test_what_waits_for_an_end_is_bounded(pairs, caplog):
    pair = pairs(first={"patience": 600.0, "max_size": 1000})
    pair.first.start()
    while not pair.first.gone:
        pair.there.note("x" * 900)
    assert caplog.text.count("given up: it doesn't take its messages") == 1


def test_what_is_too_large_is_not_sent_and_the_pair_goes_on(pairs):
    pair = pairs(max_size=1000).start()
    with pytest.raises(ValueError, match="too large"):
        pair.there.note("x" * 1000)
    with pytest.raises(ValueError, match="too large"):
        pair.there.say("x" * 1000)
    assert pair.there.add(1, 1) == 2


def test_an_answer_that_is_too_large_is_an_error_for_who_asked(pairs, caplog):
    long = Target(lend=lambda given: Carried("x" * 1000, []))
    pair = pairs(max_size=1000, theirs=long).start()
    with pytest.raises(Internal):
        pair.there.lend([])
    assert "too large" in caplog.text


# a hostile end ---------------------------------------------------------------------------------


ADD = {"is": "add", "a": 1, "b": 1}


def packed(message: object, kind: int = REQUEST, number: int = 1, count: int = 0) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return HEADER.pack(len(payload), number, kind, count) + payload


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(HEADER.pack(2**32 - 1, 1, REQUEST, 0), id="length-beyond-limit"),
        pytest.param(HEADER.pack(3, 1, REQUEST, 0) + b"\xc1\xc1\xc1", id="no-msgpack"),
        pytest.param(packed({"is": "rm"}), id="unknown-method"),
        pytest.param(packed({"is": "start"}), id="method-that-is-not-marked"),
        pytest.param(packed(ADD | {"a": "x"}), id="wrong-type"),
        pytest.param(packed({"is": "add", "a": 1}), id="missing-argument"),
        pytest.param(packed(2), id="answer-as-question"),
        pytest.param(packed(2, REPLY, 77), id="answer-to-nothing"),
        pytest.param(packed(ADD, kind=9), id="unknown-kind"),
        pytest.param(packed(ADD, count=1), id="descriptor-that-is-not-there"),
        pytest.param(packed(ADD, NOTIFICATION), id="told-what-is-asked"),
        pytest.param(packed({"is": "note", "text": ""}), id="asked-what-is-told"),
        pytest.param(packed([[[]]] * 1000), id="nested"),
    ],
)
def test_what_is_wrong_ends_the_pair(pairs, wire):
    ended = threading.Event()
    pair = pairs(first={"on_end": ended.set})
    pair.first.start()
    pair.sockets[1].sendall(wire)
    assert ended.wait(30)
    with pytest.raises(EndpointGone):
        pair.there.add(1, 1)


def test_an_end_that_leaves_something_unread_is_no_error(pairs, caplog):
    ended = threading.Event()
    pair = pairs(first={"on_end": ended.set})
    pair.there.note("unread")
    pair.sockets[1].close()
    pair.first.start()
    assert ended.wait(30)
    assert not caplog.text


@pytest.mark.parametrize("length", [0, 5, HEADER.size, HEADER.size + 3])
def test_an_end_inside_a_message_is_the_end(pairs, length):
    ended = threading.Event()
    pair = pairs(first={"on_end": ended.set})
    pair.first.start()
    pair.sockets[1].sendall(packed(ADD)[:length])
    pair.sockets[1].shutdown(socket.SHUT_WR)
    assert ended.wait(30)


def test_descriptors_that_nobody_expects_are_closed(pairs):
    ended = threading.Event()
    pair = pairs(first={"on_end": ended.set})
    pair.first.start()
    read, write = os.pipe()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write] * 5))
    pair.sockets[1].sendmsg([packed(ADD, count=5)], [rights])
    os.close(write)
    assert ended.wait(30)
    assert os.read(read, 1) == b""  # nobody holds the other end
    os.close(read)


def test_a_failing_notification_is_logged_and_the_pair_goes_on(pairs, caplog):
    def note(text):
        raise KeyError("oops")

    pair = pairs(theirs=Target(note=note)).start()
    pair.there.note("x")
    assert pair.there.add(0, 0) == 0
    assert "oops" in caplog.text
