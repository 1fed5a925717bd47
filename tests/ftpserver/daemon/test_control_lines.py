"""The control socket's lines, which an ftpd of another version reads as well.

They were written by the first version that servers in use may still have (`entry`: by the first
that had it); not one byte of a question changes, and answers only get more fields.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest

from ftpserver.accounts.startups import RefusedConnection
from ftpserver.daemon import control_server
from ftpserver.daemon.control import (
    BanInfo,
    Bans,
    Control,
    DiscoveryInfo,
    Ended,
    Entry,
    Lines,
    Report,
    Sessions,
    Status,
    Stopping,
    TrashConflict,
    TrashEmptied,
    TrashRestored,
)
from ftpserver.errors import StateError
from ftpserver.interfaces import make_proxy, requests_of
from ftpserver.serving.stats import SessionInfo
from ftpwire.errors import NotFound

Ask = Callable[[Control], Any]

FAILURE = b'{"is":"failure","code":"not-found","message":"nobody"}'

QUESTIONS: list[tuple[bytes, str, Ask, tuple[Any, ...]]] = [
    (b'{"is":"status"}', "status", lambda it: it.status(), ()),
    (b'{"is":"sessions"}', "sessions", lambda it: it.sessions(), ()),
    (
        b'{"is":"kick","session":1,"user":null}',
        "kick",
        lambda it: it.kick(session=1),
        (1, None),
    ),
    (
        b'{"is":"kick","session":null,"user":"alice"}',
        "kick",
        lambda it: it.kick(user="alice"),
        (None, "alice"),
    ),
    (b'{"is":"bans"}', "bans", lambda it: it.bans(), ()),
    (
        b'{"is":"unban","subject":"192.0.2.1 alice"}',
        "unban",
        lambda it: it.unban("192.0.2.1 alice"),
        ("192.0.2.1 alice",),
    ),
    (b'{"is":"unban","subject":null}', "unban", lambda it: it.unban(), (None,)),
    (b'{"is":"reload"}', "reload", lambda it: it.reload(), ()),
    (b'{"is":"drain","seconds":null}', "drain", lambda it: it.drain(), (None,)),
    (b'{"is":"drain","seconds":90.0}', "drain", lambda it: it.drain(90.0), (90.0,)),
    (b'{"is":"stop","grace":null}', "stop", lambda it: it.stop(), (None,)),
    (b'{"is":"stop","grace":0.5}', "stop", lambda it: it.stop(0.5), (0.5,)),
    (
        b'{"is":"entry","host":"192.0.2.1","account":"alice"}',
        "entry",
        lambda it: it.entry("192.0.2.1", "alice"),
        ("192.0.2.1", "alice"),
    ),
    (
        b'{"is":"restore_trash","account":"alice","operation":"0a-1b","target":"L2I=",'
        b'"force":true}',
        "restore_trash",
        lambda it: it.restore_trash("alice", "0a-1b", b"/b", force=True),
        ("alice", "0a-1b", b"/b", True),
    ),
    (
        b'{"is":"empty_trash","account":null,"before":5}',
        "empty_trash",
        lambda it: it.empty_trash(before=5),
        (None, 5),
    ),
]

_STATUS = (
    b'"since":1.5,"sessions":2,"strangers":1,"transfers":0,"bytes_in":10,"bytes_out":20,'
    b'"accounts":3,"discovery":'
)
ANSWERS: list[tuple[bytes, Ask, object, bytes]] = [
    (
        b'{"is":"status","software":"ftpd 0.1.0","process":7,"state":"running",'
        b'"address":"127.0.0.1:2121","fingerprint":"SHA256:x",'
        + _STATUS
        + b'{"port":2121,"answered":1,"limited":2,"dropped":3},"workers":[8,9],"unix":"/s"}',
        lambda it: it.status(),
        Status(
            *("ftpd 0.1.0", 7, "running", "127.0.0.1:2121", "SHA256:x", 1.5, 2, 1, 0, 10, 20, 3),
            DiscoveryInfo(2121, 1, 2, 3),
            [8, 9],
            "/s",
        ),
        b',"trouble":[],"warnings":[],"trash":null',
    ),
    (
        b'{"is":"status","software":"ftpd 0.1.0","process":7,"state":"draining",'
        b'"address":"unix:/s","fingerprint":null,' + _STATUS + b'null,"workers":[],"unix":null}',
        lambda it: it.status(),
        Status("ftpd 0.1.0", 7, "draining", "unix:/s", None, 1.5, 2, 1, 0, 10, 20, 3),
        b',"trouble":[],"warnings":[],"trash":null',
    ),
    (
        b'{"is":"sessions","sessions":[{"id":7,"user":"alice","peer":"192.0.2.1:1","since":1.5,'
        b'"request":"move","path":"L2H/","target":"L2I=","quiet":0.0,"bytes_in":1,"bytes_out":2,'
        b'"speed":3.5},{"id":8,"user":null,"peer":"local","since":1.5,"request":null,"path":null,'
        b'"target":null,"quiet":4.5,"bytes_in":0,"bytes_out":0,"speed":0.0}]}',
        lambda it: it.sessions(),
        Sessions(
            [
                SessionInfo(
                    *(7, "alice", "192.0.2.1:1", 1.5, "move", b"/a\xff", b"/b", 0.0, 1, 2, 3.5)
                ),
                SessionInfo(8, None, "local", 1.5, None, None, None, 4.5, 0, 0, 0.0),
            ]
        ),
        b"",
    ),
    (b'{"is":"ended","sessions":[1,2]}', lambda it: it.kick(1), Ended([1, 2]), b""),
    (
        b'{"is":"bans","bans":[{"subject":"192.0.2.1 alice","address":"192.0.2.1",'
        b'"account":"alice","failures":3,"until":1700000000}]}',
        lambda it: it.bans(),
        Bans([BanInfo("192.0.2.1 alice", "192.0.2.1", "alice", 3, 1700000000)]),
        b',"reason":null',
    ),
    (b'{"is":"bans","bans":[]}', lambda it: it.unban(), Bans([]), b""),
    (b'{"is":"did","lines":["nothing"]}', lambda it: it.reload(), Report(["nothing"]), b""),
    (
        b'{"is":"trash-restored","operation":"0a-1b","items":1,"already":2,"gone":3,'
        b'"conflicts":[{"path":"L2H/","code":"conflict","message":"m"}],"more_conflicts":4}',
        lambda it: it.restore_trash("alice", "0a-1b"),
        TrashRestored("0a-1b", 1, 2, 3, [TrashConflict(b"/a\xff", "conflict", "m")], 4),
        b"",
    ),
    (
        b'{"is":"trash-emptied","operations":1,"size":2,"files":3,"left":["l"]}',
        lambda it: it.empty_trash(),
        TrashEmptied(1, 2, 3, ["l"]),
        b"",
    ),
    (b'{"is":"stopping","process":7}', lambda it: it.drain(), Stopping(7), b""),
    (b'{"is":"stopping","process":7}', lambda it: it.stop(), Stopping(7), b""),
    (
        b'{"is":"entry","turned_away":{"by":"penalty","reason":"r"},"too_many":null,"note":"n",'
        b'"banned":null}',
        lambda it: it.entry("192.0.2.1", "alice"),
        Entry(RefusedConnection("penalty", "r"), None, "n", None),
        b"",
    ),
]


class Server:
    """Has every method, and gives one answer; ``requested`` is what came."""

    def __init__(self, answer: object) -> None:
        self.requested: list[tuple[Any, ...]] = []
        self._answer = answer

    def __getattr__(self, name: str) -> Callable[..., object]:
        def answer(*arguments: object) -> object:
            self.requested.append((name, *arguments))
            if isinstance(self._answer, Exception):
                raise self._answer
            return self._answer

        return answer


def asks(ask: Ask, answer: bytes) -> tuple[bytes, Any]:
    """What is sent for a question, and what comes of that answer."""
    here, there = socket.socketpair()
    with here, there:
        there.sendall(answer + b"\n")
        there.shutdown(socket.SHUT_WR)
        try:
            found = ask(make_proxy(Control, Lines(lambda: nullcontext(here))))
        except NotFound as error:
            found = error
        return there.recv(65536), found


def test_the_table_has_every_question():
    assert {name for _, name, _, _ in QUESTIONS} == set(requests_of(Control))


@pytest.mark.parametrize(("line", "name", "ask", "arguments"), QUESTIONS)
def test_questions_are_those_of_earlier_versions(line, name, ask, arguments):
    sent, raised = asks(ask, FAILURE)
    assert sent == line + b"\n"
    assert isinstance(raised, NotFound) and str(raised) == "nobody"
    server = Server(Report([]))
    assert control_server.answer(server, line + b"\n") == Report([])
    assert server.requested == [(name, *arguments)]


@pytest.mark.parametrize(("line", "ask", "answer", "newer"), ANSWERS)
def test_answers_are_those_of_earlier_versions(line, ask, answer, newer):
    assert asks(ask, line)[1] == answer
    written = msgspec.json.encode(control_server.answer(Server(answer), b'{"is":"status"}'))
    assert written.replace(newer, b"") == line
    assert newer in written


def test_fields_that_are_missing_have_defaults_and_others_are_passed_over():
    server = Server(Report([]))
    for name in (b"kick", b"unban", b"drain", b"stop"):
        assert control_server.answer(server, b'{"is":"%s"}' % name) == Report([])
    assert server.requested == [
        ("kick", None, None),
        ("unban", None),
        ("drain", None),
        ("stop", None),
    ]
    assert control_server.answer(server, b'{"is":"status","new":1}') == Report([])


@pytest.mark.parametrize(
    ("line", "done"),
    [(b'{"is":"stop","grace":0.5}', ("ask_to_stop", 0.5)), (b'{"is":"drain"}', ("drain", None))],
    ids=["stop", "drain"],
)
def test_what_ends_the_server_is_answered_first(line, done):
    server = Server(None)
    commands = control_server.Commands(server, None)
    assert isinstance(control_server.answer(commands, line), Stopping)
    assert server.requested == []
    commands.finish()
    assert server.requested == [done]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NotFound("nobody"), FAILURE),
        (StateError("a\nb"), b'{"is":"failure","code":"failed","message":"a\\\\nb"}'),
    ],
)
def test_errors_are_lines_of_earlier_versions(error, line):
    assert msgspec.json.encode(control_server.answer(Server(error), b'{"is":"reload"}')) == line
