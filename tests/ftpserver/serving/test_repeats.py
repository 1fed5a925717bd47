"""Answers that were lost: who asks again gets them, and nothing is done twice."""

from __future__ import annotations

import os
import re
import threading

import pytest
from msgspec.structs import replace

from ftpserver.errors import StateError
from ftpserver.serving import repeats
from ftpserver.serving.repeats import Repeats
from ftpserver.storage.home import Home
from ftpserver.storage.request_numbers import RequestNumbers
from ftpserver.storage.trash.index import Gone, encode
from ftpwire import errors
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    Done,
    EndTree,
    Failed,
    ListTrash,
    MakeDir,
    MakeLink,
    Move,
    Operation,
    Progress,
    Purge,
    Put,
    Remove,
    Removed,
    Restore,
    Restored,
    Sent,
    Stat,
    Stored,
    WhoAmI,
)
from tests.peer import Peer, eventually
from tests.protocol_document import section

KEY = b"12345678"


@pytest.fixture
def come(server, dial):
    """Connects, as a connection of one command."""

    def connected(key: bytes | None = KEY) -> Peer:
        peer = dial(server)
        assert peer.ask(Operation(key)) == Done()
        return peer

    return connected


def ask_again(peer: Peer, request, number: int = 1):
    return peer.ask(replace(request, number=number, again=True))


def put(peer: Peer, path: bytes, data: bytes = b"data") -> None:
    number = peer.request(Put(path, len(data)))
    peer.frame(Kind.DATA, number, data)
    peer.frame(Kind.END, number, Sent(len(data)))
    assert peer.answer().message == Stored(len(data))


@pytest.fixture
def stocked(files):
    (files / "file").write_bytes(b"data")
    (files / "dir").mkdir()
    (files / "dir" / "inner").write_bytes(b"1234")
    (files / "empty").mkdir()
    return files


CHANGES = {
    "make-dir": MakeDir(b"/new"),
    "make-link": MakeLink(b"/new", b"target", overwrite="never"),
    "remove-file": Remove(b"/file"),
    "remove-empty": Remove(b"/empty"),
    "remove-tree": Remove(b"/dir", recursive=True),
    "remove-for-good": Remove(b"/dir", recursive=True, final=True),
    "move": Move(b"/file", b"/moved"),
    "copy": Copy(b"/dir", b"/copied", recursive=True, overwrite="never"),
    "restore": Restore("of what was removed"),
    "purge": Purge(),
    "end-tree": EndTree(),
}


def test_these_are_the_requests_that_the_document_names():
    [sentence] = re.findall(
        r"\n\n(`make-dir`.*?) have the fields", section("Repeated requests"), re.S
    )
    tags = {str(type(one).__struct_config__.tag) for one in CHANGES.values()}
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == tags


@pytest.mark.parametrize("change", CHANGES)
def test_a_lost_answer_is_repeated(come, stocked, change):
    request, peer = CHANGES[change], come()
    if change in ("restore", "purge"):
        removed = peer.ask(Remove(b"/file"))
        assert removed.trashed
        if change == "restore":
            request = replace(request, operation=removed.operation)
    if change == "end-tree":
        assert peer.ask(BeginTree(b"/dir")) == Done()
    first = peer.ask(replace(request, number=1))
    assert not isinstance(first, Failed), first
    there = sorted(map(str, stocked.rglob("*")))
    other = come()
    assert ask_again(other, request) == first
    assert sorted(map(str, stocked.rglob("*"))) == there
    assert ask_again(peer, request) == first, "over the same connection, too"
    if change in ("move", "make-link", "remove-file", "end-tree"):
        assert isinstance(other.ask(replace(request, number=2)), Failed), "it cannot be done twice"


def test_failures_are_repeated(come, files):
    peer, request = come(), Move(b"/missing", b"/new")
    failed = peer.ask(replace(request, number=1))
    assert failed.code == "not-found"
    (files / "missing").touch()
    assert ask_again(come(), request) == failed
    assert ask_again(come(), request, 2) == Done()


def test_what_says_not_now_is_tried_again(start_server, dial):
    server = start_server(quota=10)
    peers = [dial(server) for _ in range(2)]
    for peer in peers:
        assert peer.ask(Operation(KEY)) == Done()
    put(peers[0], b"/file", b"123456")
    request = Copy(b"/file", b"/copy")
    assert peers[0].ask(replace(request, number=1)).code == "quota"
    put(peers[0], b"/file", b"1234")
    assert peers[0].ask(Purge()).files == 1
    assert ask_again(peers[1], request) == Copied(1, 0, 4)


def test_which_failures_are_not_the_last_word():
    [sentence] = re.findall(
        r"says \"not now\", such as (.*?)\.\n", section("Repeated requests"), re.S
    )
    named = re.findall(r"`([a-z-]+)`", sentence)
    assert named
    for code in named:
        assert issubclass(errors.BY_CODE[code], repeats.NOT_THE_LAST_WORD)


def test_what_was_not_answered_is_done(come, stocked):
    assert ask_again(come(), Move(b"/file", b"/moved")) == Done()
    assert not (stocked / "file").exists()


def test_a_batch_is_noted_with_all_its_answers(come, files, server, monkeypatch):
    calls = []
    real = type(server.service.ledger).note_answers
    monkeypatch.setattr(
        type(server.service.ledger),
        "note_answers",
        lambda *args: (calls.append(len(args[3])), real(*args)),
    )
    for number in range(20):
        (files / f"{number}").touch()
    requests = [Remove(b"/%d" % number) for number in range(20)]
    peer = come()
    requested = [peer.request(replace(one, number=5 + at)) for at, one in enumerate(requests)]
    requested.append(peer.request(replace(Remove(b"/missing"), number=25)))
    answers = [peer.answer() for _ in requested]
    assert [one.request_id for one in answers] == requested
    assert sum(calls) == 21 and len(calls) < 10, "not one by one"
    other = come()
    for at, request in enumerate([*requests, Remove(b"/missing")]):
        assert ask_again(other, request, 5 + at) == answers[at].message
    assert answers[-1].message.code == "not-found"


def test_numbers_without_an_operation_mean_nothing(come, stocked):
    peer = come(None)
    assert peer.ask(Move(b"/file", b"/moved", number=1)) == Done()
    assert ask_again(peer, Move(b"/file", b"/moved")).code == "not-found"


def test_numbers_are_of_one_operation(come, stocked):
    assert come().ask(Move(b"/file", b"/moved", number=1)) == Done()
    other = come(b"another!")
    assert ask_again(other, Move(b"/file", b"/moved")).code == "not-found"
    assert other.ask(Operation(KEY)) == Done()
    assert ask_again(other, Move(b"/file", b"/moved")) == Done()


def test_an_answer_is_not_recorded_twice(come, stocked, server, start_server):
    assert come().ask(Move(b"/file", b"/moved", number=1)) == Done()
    assert ask_again(come(), Move(b"/file", b"/moved")) == Done()
    start_server.finish(server)
    log = (server.settings.state / "audit.jsonl").read_text()
    assert log.count('"event":"move"') == 1


# two connections at once -----------------------------------------------------------------


class Held:
    """Holds up moves until they may go on."""

    def __init__(self, monkeypatch) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.count = 0
        real = Home.move

        def move(home, *args, **named):
            self.count += 1
            self.begun.set()
            assert self.go_on.wait(60)
            return real(home, *args, **named)

        monkeypatch.setattr(Home, "move", move)


@pytest.fixture
def held(monkeypatch):
    holding = Held(monkeypatch)
    yield holding
    holding.go_on.set()


def test_who_asks_while_another_connection_is_at_it_waits(come, stocked, held):
    first, second, request = come(), come(), Move(b"/file", b"/moved")
    first.request(replace(request, number=1))
    assert held.begun.wait(60)
    requested = second.request(replace(request, number=1, again=True))
    third = come()
    assert isinstance(ask_again(third, Remove(b"/dir", recursive=True), 2), Removed), "another one"
    held.go_on.set()
    assert second.answer() == (Kind.REPLY, requested, first.answer().payload)
    assert held.count == 1
    assert not (stocked / "file").exists() and (stocked / "moved").exists()


def test_who_waits_can_cancel(come, stocked, held):
    first, second, request = come(), come(), Move(b"/file", b"/moved")
    first.request(replace(request, number=1))
    assert held.begun.wait(60)
    second.request(replace(request, number=1, again=True), cancelled=True)
    assert second.answer().message.code == "cancelled"
    assert isinstance(second.ask(WhoAmI()), object)
    held.go_on.set()
    assert first.answer().message == Done()
    assert ask_again(second, request) == Done()


def test_who_waits_can_leave(come, stocked, held, server):
    first, second, request = come(), come(), Move(b"/file", b"/moved")
    first.request(replace(request, number=1))
    assert held.begun.wait(60)
    second.request(replace(request, number=1, again=True))
    second.close()
    eventually(lambda: len(server.service.sessions) == 1)
    held.go_on.set()
    assert first.answer().message == Done()


def test_who_waits_hears_that_it_goes_on(come, stocked, held, server):
    first, second, request = come(), come(), Move(b"/file", b"/moved")
    first.request(replace(request, number=1))
    assert held.begun.wait(60)
    waits = threading.Event()
    (session,) = [one for one in server.service.sessions if one.doing is None]
    will_block = session.exchange.will_block
    session.exchange.will_block = lambda: (will_block(), waits.set())
    requested = second.request(replace(request, number=1, again=True))
    assert waits.wait(60)
    for _ in range(2):  # nothing moved since the one before
        session.say_alive()
    sign = second.read()
    assert (sign.request_id, sign.message) == (requested, Progress(0))
    held.go_on.set()
    assert second.answer().message == Done()


def test_a_lost_connection_does_not_do_what_was_asked_for_again(come, stocked, held):
    """It has requests before itself, and comes to them when they are done already."""
    lost, second = come(), come()
    late = lost.request(Move(b"/file", b"/moved", number=1))
    later = lost.request(Remove(b"/dir/inner", number=2))
    assert held.begun.wait(60)
    removed = ask_again(second, Remove(b"/dir/inner"), 2)
    assert removed.files == 1
    put(second, b"/dir/inner", b"of somebody else")
    held.go_on.set()
    assert [lost.answer().request_id for _ in range(2)] == [late, later]
    assert (stocked / "dir" / "inner").read_bytes() == b"of somebody else"


def test_a_connection_that_ends_gives_its_requests_back(come, stocked, held, monkeypatch):
    """What it could not finish, another one does."""

    def fail(*args, **named):
        raise errors.ConnectionLost("gone")

    first, second, request = come(), come(), Move(b"/file", b"/moved")
    with monkeypatch.context() as patch:
        patch.setattr(Home, "move", fail)
        first.request(replace(request, number=1))
        assert first.read_to_end() == []
    held.go_on.set()
    assert ask_again(second, request) == Done()


def test_a_connection_keeps_no_more_numbers_than_a_limit(come, server, monkeypatch):
    monkeypatch.setattr(repeats, "MAX_RECORDED", 3, raising=False)
    peer = come()
    for number in range(1, 20, 2):
        assert ask_again(peer, Remove(b"/missing"), number).code == "not-found"
    (session,) = server.service.sessions
    assert list(session.exchange.repeats._recorded) == [15, 17, 19]
    claims = RequestNumbers(session.exchange.workspace.home, session.account.id, KEY)
    try:
        claimed = [number for number in range(1, 20, 2) if claims.claim(number)]
    finally:
        claims.close()
    assert claimed == [1, 3, 5, 7, 9, 11, 13]


def test_a_number_whose_answer_cannot_be_looked_for_is_given_back(
    come, stocked, server, monkeypatch
):
    def fail(*_):
        raise StateError("the books cannot be read")

    first, request = come(), Move(b"/file", b"/moved")
    (session,) = server.service.sessions
    session.exchange.repeats.rest = lambda: None  # as of one that has other things to do
    with monkeypatch.context() as patch:
        patch.setattr(type(server.service.ledger), "answer", fail)
        assert ask_again(first, request).code == "internal"
    second = come()
    second.request(replace(request, number=1, again=True))
    assert second.answer().message == Done()


# a server that died before it noted the answer ---------------------------------------------


@pytest.fixture
def forgetful(monkeypatch):
    """Nothing is noted: as if the server ended between the work and that."""
    monkeypatch.setattr(Repeats, "_note", lambda *_: None)


@pytest.mark.parametrize("change", ["remove-file", "remove-empty", "remove-tree", "move"])
def test_the_trash_reports_what_was_done(come, stocked, forgetful, change):
    request, peer = CHANGES[change], come()
    first = peer.ask(replace(request, number=1))
    peer.close()
    assert ask_again(come(), request) == first


@pytest.mark.parametrize("became", ["restored", "purged"])
def test_what_is_not_in_the_trash_any_more_was_removed(come, stocked, forgetful, became):
    peer = come()
    removed = peer.ask(Remove(b"/file", number=1))
    if became == "restored":
        assert isinstance(peer.ask(Restore(removed.operation, target=b"/there")), Restored)
    else:
        [item] = items(peer, removed.operation)
        assert peer.ask(Purge(removed.operation, [item.name])).files == 1
        # an operation of which nothing is left is gone as a whole
    peer.close()
    again = ask_again(come(), Remove(b"/file"))
    if became == "restored":
        assert again == Removed(0, 0, 0, removed.operation, trashed=True)
    else:
        assert isinstance(again, Removed) and again.trashed or again.code == "not-found"


def test_what_was_going_to_be_purged_is_in_the_trash(come, stocked, forgetful):
    """The crash came between that line and the rename."""
    peer = come()
    removed = peer.ask(Remove(b"/file", number=1))
    [item] = items(peer, removed.operation)
    peer.close()
    index = stocked / ".ftpd-trash" / removed.operation / "index"
    with open(index, "ab") as file:
        file.write(encode([Gone(item.name, "purged")]))
    assert ask_again(come(), Remove(b"/file")) == removed


def items(peer: Peer, operation: str) -> list:
    peer.request(ListTrash(operation, items=True))
    found = []
    while (answer := peer.answer()).kind == Kind.REPLY:
        found += answer.message.items
    return found


def test_a_line_alone_is_no_removal(come, stocked, forgetful, monkeypatch):
    """The crash came before the rename."""
    from ftpserver.storage.trash import operation

    def fail(*_, **__):
        raise OSError(5, "as if it ended here")

    peer = come()
    with monkeypatch.context() as patch:
        patch.setattr(operation.Operation, "take", fail)
        assert isinstance(peer.ask(Remove(b"/empty", number=1)), Failed)
    peer.close()
    again = ask_again(come(), Remove(b"/empty"))
    assert again.trashed and not (stocked / "empty").exists()


def test_a_source_that_is_there_again_is_moved(come, stocked, forgetful):
    peer = come()
    assert peer.ask(Move(b"/file", b"/moved", number=1)) == Done()
    put(peer, b"/file", b"another one")
    peer.close()
    assert ask_again(come(), Move(b"/file", b"/moved")) == Done()
    assert (stocked / "moved").read_bytes() == b"another one"
    assert peer is not None


def test_what_was_removed_for_good_leaves_no_trace(come, stocked, forgetful):
    peer = come()
    assert peer.ask(Remove(b"/file", final=True, number=1)) == Removed(1, 0, 4)
    peer.close()
    assert ask_again(come(), Remove(b"/file", final=True)).code == "not-found"


def test_what_was_not_noted_may_be_done_once_more(come, stocked, forgetful):
    peer = come()
    changes = [
        MakeDir(b"/new"),
        MakeLink(b"/new-link", b"target"),
        Copy(b"/file", b"/copied"),
    ]
    for number, request in enumerate(changes, 1):
        assert not isinstance(peer.ask(replace(request, number=number)), Failed)
    removed = peer.ask(Remove(b"/empty"))
    assert peer.ask(Operation(b"undo....")) == Done()
    assert peer.ask(Restore(removed.operation, number=1)).items == 1
    assert peer.ask(BeginTree(b"/tree")) == Done()
    peer.close()
    other = come()
    answers = [ask_again(other, request, number) for number, request in enumerate(changes, 1)]
    assert answers[0].code == "exists"
    assert answers[1:] == [Done(), Copied(1, 0, 4)]
    assert ask_again(other, Restore(removed.operation), 4).already == 1
    assert ask_again(other, EndTree(), 5).code == "failed"


# what goes wrong on the way ------------------------------------------------------------------


def test_answers_that_cannot_be_noted_are_given_all_the_same(come, stocked, server, monkeypatch):
    def full(*_):
        raise errors.DiskFull("the disk is full")

    peer = come()
    with monkeypatch.context() as patch:
        patch.setattr(type(server.service.ledger), "note_answers", full)
        assert peer.ask(Move(b"/file", b"/moved", number=1)) == Done()
    assert peer.ask(WhoAmI()) is not None


def test_a_read_only_home_answers_as_ever(come, stocked, server, monkeypatch):
    peer = come()
    assert peer.ask(Stat(b"/")) is not None
    monkeypatch.setattr(Home, "read_only", True)
    assert ask_again(peer, Remove(b"/file")).code == "forbidden"


def test_a_note_of_another_version_is_passed_over(come, stocked, server, caplog):
    account = server.accounts.get("alice")
    server.service.ledger.note_answers(account.id, KEY, [(1, b"\xc1")])
    assert ask_again(come(), Move(b"/file", b"/moved")) == Done()
    assert "cannot be read" in caplog.text


def test_nothing_stays_open(come, stocked, server):
    """(Every test looks for that.) What was asked for again keeps its place until the end."""
    peer = come()
    assert ask_again(peer, Move(b"/file", b"/moved")) == Done()
    assert os.listdir(server.settings.root / "alice" / ".ftpd-staging").count("numbers") == 1
    (session,) = server.service.sessions
    session.exchange.repeats.go_idle()
    assert session.exchange.repeats._numbers is not None
    assert peer.ask(Operation(b"another!")) == Done()
    assert session.exchange.repeats._numbers is None
