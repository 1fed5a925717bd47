"""The trash and repeated answers, where each session has a process of its own."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from msgspec.structs import replace as changed

from ftpserver.isolation import handler
from ftpserver.isolation.interfaces import LiveSettings
from ftpserver.settings.table import Settings
from ftpwire.frames import Kind
from ftpwire.messages import Done, Move, Operation, Put, Remove, Restore, Sent, Stored
from tests.peer import Peer, eventually

KEY = b"12345678"


def test_settings_reach_a_process_whole(tmp_path):
    reported = replace(Settings(tmp_path), stall=5.0, trash_days=1, trash_max=50, limit_rate=7)
    own = replace(Settings(tmp_path), login_grace=3.0)
    found = LiveSettings.of(reported).applied_to(own)
    assert found == replace(reported, login_grace=3.0)


def put(peer: Peer, path: bytes, size: int = 4) -> None:
    number = peer.request(Put(path, size))
    peer.frame(Kind.DATA, number, bytes(size))
    peer.frame(Kind.END, number, Sent(size))
    assert peer.answer().message == Stored(size)


@pytest.mark.needs("isolation")
def test_answers_are_repeated_between_processes(server, dial):
    first, second = dial(server), dial(server)
    for peer in (first, second):
        assert peer.ask(Operation(KEY, "a command")) == Done()
    put(first, b"/file")
    move, remove = Move(b"/file", b"/moved", number=1), Remove(b"/moved", number=2)
    answers = [first.ask(move), first.ask(remove)]
    assert answers[0] == Done() and answers[1].trashed
    first.close()
    assert [second.ask(changed(one, again=True)) for one in (move, remove)] == answers
    restored = second.ask(Restore(answers[1].operation, items=[], number=3))
    assert restored.items >= 1


@pytest.mark.needs("isolation")
def test_an_account_s_trash_settings_reach_its_processes(server, dial):
    peer = dial(server)
    put(peer, b"/one")
    assert peer.ask(Remove(b"/one")).trashed
    server.accounts.change("alice", trash_days=0)

    def is_final() -> bool:
        put(peer, b"/two")
        return not peer.ask(Remove(b"/two")).trashed

    eventually(is_final)
    server.accounts.change("alice", trash_days=None)
    eventually(lambda: not is_final())


@pytest.mark.needs("isolation")
def test_the_server_s_trash_settings_reach_its_processes(server, dial):
    peer = dial(server)
    put(peer, b"/one")
    assert peer.ask(Remove(b"/one")).trashed
    server.supervisor.apply_settings(replace(server.settings, trash_days=0), new_key=False)

    def is_final() -> bool:
        put(peer, b"/two")
        return not peer.ask(Remove(b"/two")).trashed

    eventually(is_final)


@pytest.mark.needs("isolation")
def test_what_becomes_of_the_trash_is_recorded(start_server, dial):
    """As by a server whose sessions are threads."""
    server = start_server(isolation="process", quota=100)
    files = server.settings.root / "alice"
    peer = dial(server)
    put(peer, b"/old", 60)
    assert peer.ask(Operation(b"command1")) == Done()
    gone = peer.ask(Remove(b"/old"))
    put(peer, b"/new", 60)
    assert peer.ask(Operation(b"command2")) == Done()
    removed = peer.ask(Remove(b"/new"))
    (files / "new").write_bytes(b"in the way")
    assert peer.ask(Operation(b"command3")) == Done()
    restored = peer.ask(Restore(removed.operation))
    assert len(restored.conflicts) == 1
    restored = peer.ask(Restore(removed.operation, conflict="replace"))
    assert restored.items == 1
    peer.close()
    start_server.finish(server)
    lines = (server.settings.state / "audit.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    (evict,) = [one for one in found if one["event"] == "evict"]
    assert (evict["user"], evict["bytes"]) == ("alice", 60)
    assert (evict["details"]["operations"], evict["details"]["names"]) == (1, [gone.operation])
    first, second = [one["details"] for one in found if one["event"] == "restore"]
    assert first == {"conflicts": 1}
    assert second == {"by": restored.operation}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("names", ["x" * 10_000]),
        ("names", ["0" * 16 + "-" + "0" * 8] * 21),
        ("names", [["0"]]),
        ("names", "0"),
        ("operations", -1),
        ("operations", 2**64),
        ("operations", [1]),
        ("why", "x" * 10_000),
        ("of its own", 1),
    ],
)
def test_a_session_reports_no_other_details(name, value):
    assert not handler._is_detail(name, value)
