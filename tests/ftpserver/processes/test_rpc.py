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
from contextlib import ExitStack

import msgspec
import pytest

from ftpserver.accounts.account import Refused
from ftpserver.errors import StateError
from ftpserver.processes.rpc import Carried, Nothing, Peer, PeerGone
from ftpwire.errors import Banned, Internal, LeaseLost, QuotaExceeded

HEADER = struct.Struct("!IIBB")
ASK, TELL, ANSWER = 1, 2, 3


class Add(msgspec.Struct, frozen=True, tag="add"):
    a: int
    b: int


class Sum(msgspec.Struct, frozen=True, tag="sum"):
    value: int


class Note(msgspec.Struct, frozen=True, tag="note"):
    text: str


def answer(message, descriptors):
    return Sum(message.a + message.b)


class Pair:
    """Two ends; the first asks, as a rule."""

    def __init__(self, **options) -> None:
        self.sockets = socket.socketpair()
        first = {"handle": answer} | options.pop("first", {})
        second = {"handle": answer} | options.pop("second", {})
        kinds = {"hears": Add | Note, "answers": Sum | Note} | options
        self.first = Peer(self.sockets[0], **(kinds | first))
        self.second = Peer(self.sockets[1], **(kinds | second))

    def start(self) -> Pair:
        self.first.start()
        self.second.start()
        return self

    def close(self) -> None:
        for peer in (self.first, self.second):
            peer.close()


@pytest.fixture
def pairs() -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:

        def make(**options) -> Pair:
            pair = Pair(**options)
            stack.callback(pair.close)
            return pair

        yield make


def raises(error: Exception):
    def handle(message, descriptors):
        raise error

    return {"handle": handle}


def test_many_threads_ask_in_both_directions_at_once(pairs):
    pair = pairs().start()

    def ask(number: int) -> int:
        peer = pair.first if number % 2 else pair.second
        return peer.ask(Add(number, 1), Sum).value

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(400))) == list(range(1, 401))


def test_who_has_no_reading_thread_reads_while_it_asks(pairs):
    heard = []

    def handle(message, descriptors):
        heard.append(message)

    pair = pairs(first={"handle": handle})
    pair.second.start()
    before = threading.active_count()
    pair.second.tell(Note("first"))
    assert pair.first.ask(Add(2, 3), Sum) == Sum(5)
    assert heard == [Note("first")]  # what came before the answer was dealt with, too
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
        StateError("it can't be used"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_arrive_as_what_they_were_raised_as(pairs, error):
    pair = pairs(second=raises(error)).start()
    with pytest.raises(type(error)) as caught:
        pair.first.ask(Add(1, 2), Sum)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    for name in ("needed", "free", "reason", "errno"):
        assert getattr(caught.value, name, None) == getattr(error, name, None)


def test_an_error_that_nobody_foresaw_is_logged_and_tells_nothing(pairs, caplog):
    pair = pairs(second=raises(KeyError("secret"))).start()
    with pytest.raises(Internal, match="^internal error$"):
        pair.first.ask(Add(1, 2), Sum)
    assert "secret" in caplog.text


def test_an_answer_of_another_kind_is_an_error(pairs):
    pair = pairs(second={"handle": lambda message, descriptors: Note("sum")}).start()
    with pytest.raises(Internal, match="Note is no answer"):
        pair.first.ask(Add(1, 2), Sum)
    assert pair.first.ask(Add(1, 2), Note) == Note("sum")  # the pair goes on


def test_none_is_answered_by_nothing(pairs):
    pair = pairs(second={"handle": lambda message, descriptors: None}).start()
    assert pair.first.ask(Add(1, 2)) == Nothing()


def test_an_answer_can_come_later_from_another_thread(pairs):
    later: Future[Sum] = Future()
    pair = pairs(
        second={"handle": lambda m, _: later if m.a == 1 else Sum(m.a + m.b)},
    ).start()
    slow = pair.first.ask_later(Add(1, 2))
    assert pair.first.ask(Add(3, 4), Sum) == Sum(7)  # it holds up nobody
    assert not slow.done()
    later.set_result(Sum(3))
    assert slow.result(30).message == Sum(3)


def test_a_later_answer_can_be_an_error(pairs):
    later: Future[Sum] = Future()
    pair = pairs(second={"handle": lambda message, descriptors: later}).start()
    asked = pair.first.ask_later(Add(1, 2))
    later.set_exception(LeaseLost("gone"))
    with pytest.raises(LeaseLost, match="gone"):
        asked.result(30)


def test_descriptors_go_along_both_ways(pairs):
    def handle(message, descriptors):
        [given] = descriptors
        os.write(given, b"seen")
        read, write = os.pipe()
        os.write(write, b"made")
        os.close(write)
        return Carried(Sum(0), [read])

    pair = pairs(first={"max_descriptors": 1}, second={"handle": handle, "max_descriptors": 1})
    pair.start()
    read, write = os.pipe()
    carried = pair.first.fetch(Add(0, 0), Sum, [write])
    assert os.read(read, 10) == b"seen"
    assert os.read(carried.descriptors[0], 10) == b"made"
    assert not os.get_inheritable(carried.descriptors[0])
    carried.close()
    os.close(read)
    os.close(write)


def test_descriptors_that_are_taken_out_stay_open(pairs):
    kept = []
    pair = pairs(
        second={
            "handle": lambda message, descriptors: kept.append(descriptors.pop()),
            "max_descriptors": 2,
        }
    ).start()
    read, write = os.pipe()
    pair.first.ask(Add(0, 0), descriptors=[read, write])
    os.close(write)
    os.write(kept[0], b"x")
    assert os.read(read, 1) == b"x"
    os.close(kept[0])
    assert os.read(read, 1) == b""  # the read end that came along is closed: only ours is left
    os.close(read)


# ends ------------------------------------------------------------------------------------------


def test_all_who_wait_hear_that_the_other_end_is_gone(pairs):
    held = threading.Event()
    ended = threading.Event()
    pair = pairs(
        first={"on_end": ended.set}, second={"handle": lambda message, descriptors: Future()}
    ).start()

    def ask(number: int) -> str:
        with pytest.raises(PeerGone):
            pair.first.ask(Add(number, 0), Sum)
        return "gone"

    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, number) for number in range(8)]
        held.set()
        pair.second.give_up()
        assert [one.result(30) for one in asked] == ["gone"] * 8
    assert ended.wait(30)
    with pytest.raises(PeerGone):
        pair.first.ask(Add(1, 1), Sum)
    with pytest.raises(PeerGone):
        pair.first.tell(Note("too late"))


def test_who_reads_while_it_asks_hears_of_the_end(pairs):
    pair = pairs()
    pair.sockets[1].close()
    with pytest.raises(PeerGone):
        pair.first.ask(Add(1, 1), Sum)
    assert pair.first.gone


def test_who_takes_nothing_is_given_up(pairs):
    pair = pairs(first={"patience": 0.05})
    pair.first.start()
    with pytest.raises(PeerGone, match="doesn't listen"):
        while True:  # until the kernel holds no more
            pair.first.tell(Note("x" * 50_000))
    with pytest.raises(PeerGone):
        pair.first.ask(Add(1, 1), Sum)


def test_what_is_too_large_is_not_sent_and_the_pair_goes_on(pairs):
    pair = pairs(max_size=1000).start()
    with pytest.raises(ValueError, match="too large"):
        pair.first.tell(Note("x" * 1000))
    with pytest.raises(ValueError, match="too large"):
        pair.first.ask(Note("x" * 1000), Sum)
    assert pair.first.ask(Add(1, 1), Sum) == Sum(2)


def test_an_answer_that_is_too_large_is_an_error_for_who_asked(pairs, caplog):
    pair = pairs(
        max_size=1000, second={"handle": lambda message, descriptors: Note("x" * 1000)}
    ).start()
    with pytest.raises(Internal):
        pair.first.ask(Add(1, 1), Note)
    assert "too large" in caplog.text


# a hostile end ---------------------------------------------------------------------------------


def packed(message: object, kind: int = ASK, number: int = 1, count: int = 0) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return HEADER.pack(len(payload), number, kind, count) + payload


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(HEADER.pack(2**32 - 1, 1, ASK, 0), id="length-beyond-limit"),
        pytest.param(HEADER.pack(3, 1, ASK, 0) + b"\xc1\xc1\xc1", id="no-msgpack"),
        pytest.param(packed({"type": "rm"}), id="unknown-type"),
        pytest.param(packed({"type": "add", "a": "x", "b": 1}), id="wrong-type"),
        pytest.param(packed(Sum(1)), id="answer-as-question"),
        pytest.param(packed(Sum(1), ANSWER, 77), id="answer-to-nothing"),
        pytest.param(packed(Add(1, 1), kind=9), id="unknown-kind"),
        pytest.param(packed(Add(1, 1), count=1), id="descriptor-that-is-not-there"),
        pytest.param(packed([[[]]] * 1000), id="nested"),
    ],
)
def test_what_is_wrong_ends_the_pair(pairs, wire):
    ended = threading.Event()
    pair = pairs(first={"on_end": ended.set})
    pair.first.start()
    pair.sockets[1].sendall(wire)
    assert ended.wait(30)
    with pytest.raises(PeerGone):
        pair.first.ask(Add(1, 1), Sum)


@pytest.mark.parametrize("length", [0, 5, HEADER.size, HEADER.size + 3])
def test_an_end_inside_a_message_is_the_end(pairs, length):
    ended = threading.Event()
    pair = pairs(first={"on_end": ended.set})
    pair.first.start()
    pair.sockets[1].sendall(packed(Add(1, 1))[:length])
    pair.sockets[1].shutdown(socket.SHUT_WR)
    assert ended.wait(30)


def test_descriptors_that_nobody_expects_are_closed(pairs):
    ended = threading.Event()
    pair = pairs(first={"on_end": ended.set})
    pair.first.start()
    read, write = os.pipe()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [write] * 5))
    pair.sockets[1].sendmsg([packed(Add(1, 1), count=5)], [rights])
    os.close(write)
    assert ended.wait(30)
    assert os.read(read, 1) == b""  # nobody holds the other end
    os.close(read)


def test_a_failing_tell_is_logged_and_the_pair_goes_on(pairs, caplog):
    def handle(message, descriptors):
        if isinstance(message, Note):
            raise KeyError("oops")
        return Sum(0)

    pair = pairs(second={"handle": handle}).start()
    pair.first.tell(Note("x"))
    assert pair.first.ask(Add(0, 0), Sum) == Sum(0)
    assert "oops" in caplog.text
