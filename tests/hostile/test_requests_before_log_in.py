"""Requests of strangers: a few are answered, then the connection ends.

The control: what is sent behind a log-in isn't counted, and neither are a user's requests.
"""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import suppress

import pytest

from ftpserver.serving.session import MOST_BEFORE_LOGIN
from ftpserver.settings.table import Startups
from ftpwire import messages
from ftpwire.frames import Kind
from ftpwire.messages import Found, Hello, LoggedIn, Login, Stat, WhoAmI
from tests.hostile.conftest import WAYS, each_way, ended
from tests.peer import PATIENCE, Peer, frame

LONG = 10 * PATIENCE
HELLO = frame(Kind.REQUEST, 0, messages.encode_hello(Hello()))


@each_way
def test_an_unauthenticated_client_is_answered_a_few_times(serve, way):
    site = serve(login_grace=LONG, stall=LONG)
    user = site.user()
    unauthenticated_client = site.knock()
    unauthenticated_client.send(HELLO)
    unauthenticated_client.read()
    for number in range(MOST_BEFORE_LOGIN):
        assert unauthenticated_client.ask(Stat(b"/")).code == "not-logged-in", number
    unauthenticated_client.request(Stat(b"/"))
    assert [one.code for one in ended(unauthenticated_client)] == ["bad-message"]
    assert site.is_served(user)


@each_way
@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.CANCEL], ids=["requests", "cancels"])
def test_a_flood_of_them_ends_at_once(serve, way, kind):
    """And nobody reads on for the sake of its last words."""
    site = serve(login_grace=LONG, stall=LONG)
    unauthenticated_client = site.knock()
    unauthenticated_client.send(HELLO)
    flood = frame(kind, 1, Stat(b"/") if kind == Kind.REQUEST else b"") * 1000
    sent = threading.Event()

    def pour() -> None:
        with suppress(OSError):
            while True:
                unauthenticated_client.send(flood)
        sent.set()

    thread = threading.Thread(target=pour)
    thread.start()
    unauthenticated_client.read_to_end()
    assert sent.wait(PATIENCE)
    thread.join()
    assert site.is_served(site.user())


@pytest.mark.long
@pytest.mark.parametrize("way", WAYS)
def test_a_hundred_unauthenticated_clients_asking_without_end(serve):
    """Beside a user, who is answered a thousand times."""
    site = serve(max_startups=Startups(200, 30, 400))
    user = site.user()
    stop = threading.Event()
    outcomes: Counter[str] = Counter()

    def ask() -> None:
        while not stop.is_set():
            with suppress(OSError, EOFError), Peer(site.connect()) as unauthenticated_client:
                unauthenticated_client.hello()
                unauthenticated_client.send(
                    frame(Kind.REQUEST, 1, Stat(b"/")) * (MOST_BEFORE_LOGIN + 1)
                )
                answers = [one.message for one in unauthenticated_client.read_to_end()]
                outcomes[getattr(answers[-1], "code", "") if answers else "cut"] += 1

    threads = [threading.Thread(target=ask) for _ in range(100)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(1000):
            assert site.is_served(user)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert outcomes["bad-message"], outcomes  # the control: they were there
    assert site.is_served(site.user())


@each_way
def test_what_follows_a_log_in_is_not_counted(serve, way):
    """The control: a client that doesn't wait for answers."""
    site = serve()
    peer = site.knock()
    login = frame(Kind.REQUEST, 1, Login("alice", "secret"))
    requested = b"".join(frame(Kind.REQUEST, 2 + number, Stat(b"/")) for number in range(100))
    peer.send(HELLO + login + requested)
    peer.read()
    assert peer.answer().message == LoggedIn("alice")
    for _ in range(100):
        assert isinstance(peer.answer().message, Found)


@each_way
def test_a_user_may_ask_as_often_as_it_likes(serve, way):
    """The control: also one whose log-in came late."""
    site = serve()
    peer = site.knock()
    peer.hello()
    for _ in range(MOST_BEFORE_LOGIN - 1):
        assert peer.ask(WhoAmI()).code == "not-logged-in"
    assert peer.ask(Login("alice", "secret")) == LoggedIn("alice")
    for _ in range(100):
        assert site.is_served(peer)
