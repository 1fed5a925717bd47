"""Someone with an account hashes passwords without end, so that nobody else can log in."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from argon2 import PasswordHasher

from ftpserver.accounts import accounts as accounts_module
from ftpserver.accounts import authenticator as module
from ftpserver.accounts import passwords
from ftpserver.accounts.accounts import Accounts
from ftpserver.accounts.passwords import MAX_PASSWORD
from ftpserver.accounts.turns import Turn
from ftpwire.errors import BadAccount, Busy
from ftpwire.messages import ChangePassword, Done, Failed, LoggedIn, Login, Register
from tests.peer import PATIENCE, eventually

WAYS = [
    pytest.param({}, id="threads"),
    pytest.param({"threads": 0}, id="threads-0"),
]
UNUSABLE = [
    pytest.param("", id="empty"),
    pytest.param("short", id="short"),
    pytest.param("ü" * (MAX_PASSWORD // 2 + 1), id="long"),
]


@pytest.fixture
def hashes(monkeypatch) -> list[str]:
    """What was hashed, or compared with a hash, since the start."""
    seen: list[str] = []
    for name in ("verify_password", "hash_password"):
        real = getattr(accounts_module, name)

        def counted(*args, real=real, name=name):
            seen.append(name)
            return real(*args)

        monkeypatch.setattr(accounts_module, name, counted)
    return seen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("new", UNUSABLE)
def test_an_unusable_new_password_costs_no_hash(start_server, dial, hashes, way, new):
    peer = dial(start_server(**way))
    hashes.clear()
    for _ in range(20):
        reply = peer.ask(ChangePassword("secret", new))
        assert isinstance(reply, Failed) and reply.code == BadAccount.code
    assert hashes == []
    assert isinstance(peer.ask(ChangePassword("secret", "correct-horse")), Done)  # the control
    assert hashes == ["verify_password", "hash_password"]


@pytest.mark.parametrize("new", UNUSABLE)
def test_registering_with_an_unusable_password_waits_for_nothing(start_server, dial, new):
    server = start_server(open_registration=True)
    server.service.limits.turn = _no_turn  # of the queue in which all log-ins wait
    with dial(server, logged_in=False) as peer:
        peer.hello()
        reply = peer.ask(Register("bob", new))
        assert isinstance(reply, Failed) and reply.code == BadAccount.code
        reply = peer.ask(Register("bob", "correct-horse"))  # the control
        assert isinstance(reply, Failed) and reply.code == Busy.code


def _no_turn(host: str):
    raise Busy("the queue is asked for a turn")


def test_an_account_changes_its_password_once_at_a_time(start_server, dial, monkeypatch):
    server = start_server()
    server.accounts.add("bob", "correct-horse")
    began, go_on = threading.Event(), threading.Event()
    real = Accounts.check_password

    def slow(self, name, password):
        if name == "alice":
            began.set()
            assert go_on.wait(PATIENCE)
        return real(self, name, password)

    monkeypatch.setattr(Accounts, "check_password", slow)
    first, others = dial(server), [dial(server) for _ in range(3)]
    bob = dial(server, logged_in=False)
    bob.hello()
    first.request(ChangePassword("secret", "correct-horse"))
    try:
        assert began.wait(PATIENCE)
        for other in others:
            reply = other.ask(ChangePassword("secret", "correct-horse"))
            assert isinstance(reply, Failed) and reply.code == Busy.code
        assert len(server.service.limits.queue) == 1  # nobody else waits, or is kept waiting
    finally:
        go_on.set()
    assert isinstance(first.answer().message, Done)
    assert isinstance(bob.ask(Login("bob", "correct-horse")), LoggedIn)
    # the control: it is for one account, and only as long as the change takes
    assert isinstance(first.ask(ChangePassword("correct-horse", "battery-staple")), Done)
    assert isinstance(bob.ask(ChangePassword("correct-horse", "battery-staple")), Done)


def test_the_new_password_is_hashed_in_a_turn_of_its_own(start_server, dial, monkeypatch):
    server = start_server()
    waiting: list[int] = []
    real = Accounts.set_password

    def counted(self, name, password):
        waiting.append(len(server.service.limits.queue))
        return real(self, name, password)

    monkeypatch.setattr(Accounts, "set_password", counted)
    assert isinstance(dial(server).ask(ChangePassword("secret", "correct-horse")), Done)
    assert waiting == [1]


def test_a_change_that_fails_can_be_tried_again(start_server):
    server = start_server()
    authenticator = server.service.authenticator
    account = server.accounts.get("alice")
    assert isinstance(authenticator, module.LocalAuthenticator)
    for _ in range(2):
        with pytest.raises(module.LoginRefused):
            authenticator.change_password("192.0.2.1", account, "wrong", "correct-horse")
    authenticator.change_password("192.0.2.1", account, "secret", "correct-horse")


@pytest.mark.long
@pytest.mark.parametrize(
    "way", [{}, {"threads": 0}, {"workers": 2}, {"isolation": "process"}], ids=str
)
def test_changing_passwords_without_end_keeps_nobody_out(start_server, dial, monkeypatch, way):
    """With hashes as dear as they are."""
    monkeypatch.setattr(passwords, "_hasher", PasswordHasher(2, 19 * 1024, 1))
    server = start_server(ban_after=10_000, **way)
    server.accounts.add("bob", "correct-horse")
    server.accounts.set_password("alice", "secret")
    stop = threading.Event()
    outcomes: Counter[str] = Counter()

    def change(peer: Any, new: str) -> None:
        while not stop.is_set():
            reply = peer.ask(ChangePassword("wrong" if new else "secret", new or "short"))
            outcomes[reply.code] += 1

    peers = [dial(server) for _ in range(20)]
    threads = [
        threading.Thread(target=change, args=(peer, "correct-horse" if number % 2 else ""))
        for number, peer in enumerate(peers)
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            with dial(server, logged_in=False) as bob:
                bob.log_in("bob", "correct-horse")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert outcomes[BadAccount.code] and outcomes[Busy.code]  # the control: it was a flood


# with workers --------------------------------------------------------------------------------


@pytest.fixture
def crowded(start_server) -> Iterator[Any]:
    """A server with workers whose only turn at hashing is taken, until ``give_back`` is called."""
    server = start_server(workers=2)
    server.tallies.queue.at_once = 1
    server.accounts.add("bob", "correct-horse")
    yield server


def turn_of(server: Any) -> Turn:
    """Have the turn at hashing, once somebody else has given it back."""
    turn = server.tallies.queue.enter("192.0.2.1", known=False)
    turn.began.result(PATIENCE)
    return turn


@pytest.mark.system
def test_workers_hash_no_more_than_one_process_does(crowded, dial):
    """And change an account's password once at a time."""
    queue = crowded.tallies.queue
    mine = [dial(crowded) for _ in range(2)]  # each in a worker of its own
    turn = turn_of(crowded)
    requested = ChangePassword("secret", "correct-horse")
    mine[0].request(requested)
    eventually(lambda: len(queue) == 2)
    reply = mine[1].ask(requested)
    assert isinstance(reply, Failed) and reply.code == Busy.code
    bobs = [dial(crowded, logged_in=False) for _ in range(2)]
    for count, bob in enumerate(bobs):
        bob.hello()
        bob.request(Login("bob", "correct-horse"))
        eventually(lambda count=count: len(queue) == 3 + count)
    assert all(one.is_silent() for one in (mine[0], *bobs))
    queue.leave(turn.token)
    for bob in bobs:  # the control: they wait, and are let in
        assert isinstance(bob.answer().message, LoggedIn)
    assert isinstance(mine[0].answer().message, Done)
    eventually(lambda: len(queue) == 0)
    assert isinstance(mine[0].ask(ChangePassword("correct-horse", "battery-staple")), Done)


@pytest.mark.system
def test_a_worker_killed_in_its_turn_gives_it_back(crowded, dial):
    queue = crowded.tallies.queue
    peers = [dial(crowded, logged_in=False) for _ in range(2)]
    for peer in peers:
        peer.hello()
    turn = turn_of(crowded)
    peers[0].request(Login("bob", "correct-horse"))
    eventually(lambda: len(queue) == 2)
    (waiting,) = queue._waiting.values()
    process = crowded.supervisor._workers[waiting.worker].pid
    os.kill(process, signal.SIGSTOP)
    try:
        queue.leave(turn.token)  # it is the worker's turn, which does nothing with it
        peers[1].request(Login("bob", "correct-horse"))
        eventually(lambda: len(queue) == 2)
        assert waiting.began.done() and peers[1].is_silent()
    finally:
        os.kill(process, signal.SIGKILL)
    assert isinstance(peers[1].answer().message, LoggedIn)
