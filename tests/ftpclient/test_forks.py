"""A client in a forked process: the child connects anew, and leaves the parent's stream alone."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ftpclient import AsyncClient, Client, errors
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.transfer.report import Listener, Result
from tests.ftpclient.guard_support import KNOWN, NAMES, PASSWORD, StagingDirs, next_is_right
from tests.peer import PATIENCE


@pytest.fixture
def server(start_server):
    """With TLS, whose records both processes would count."""
    server = start_server(plaintext=False)
    server.accounts.set_password("alice", PASSWORD)
    return server


@pytest.fixture
def client(server, connect):
    return connect(server, password=PASSWORD)


@pytest.fixture
def places(server, tmp_path) -> Iterator[StagingDirs]:
    made = StagingDirs(server.settings.root / "alice", tmp_path / "here")
    made.fill()
    yield made
    made.close()


class Child:
    """A forked process that does something; ``result`` is what came of it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                answer = pickle.dumps(work())
            except BaseException:
                answer = pickle.dumps(Failed(traceback.format_exc()))
            try:
                with open(write, "wb") as pipe:
                    pipe.write(answer)
            finally:
                os._exit(0)  # none of what the tests' runner would do at its end
        os.close(write)

    def result(self) -> Any:
        with open(self._read, "rb") as pipe:
            answer = pipe.read()
        os.waitpid(self.pid, 0)
        found = pickle.loads(answer)
        assert not isinstance(found, Failed), found.text
        return found


class Failed:
    def __init__(self, text: str) -> None:
        self.text = text


def port_of(client: Client) -> int:
    return client.connection.channel.socket.getsockname()[1]


def use(client: Client) -> int:
    next_is_right(client)
    return port_of(client)


def both_use_it(client: Client, rounds: int) -> None:
    mine = port_of(client)
    for _ in range(rounds):
        child = Child(lambda: use(client))
        next_is_right(client)  # at the same time
        assert child.result() != mine
        next_is_right(client)
        assert port_of(client) == mine, "the parent's connection was left alone"


def test_parent_and_child_use_the_same_client(client, places):
    both_use_it(client, 3)


@pytest.mark.long
def test_parents_and_children_use_the_same_client(client, places):
    both_use_it(client, 100)


def test_a_child_that_closes_it_closes_its_own(client, places):
    for end in (client.close, lambda: client.__exit__(None, None, None), lambda: None):
        mine = port_of(client)
        assert Child(end).result() is None
        next_is_right(client)
        assert port_of(client) == mine


def test_a_child_of_a_child(client, places):
    Child(lambda: (use(client), Child(lambda: use(client)).result())).result()
    next_is_right(client)


def test_a_child_says_that_it_has_no_connection(client, places):
    assert Child(lambda: client.connected).result() is False
    assert client.connected


def test_an_open_listing_is_the_parents(client, places):
    """What had come before the fork is there for both; what comes later is for one."""
    for number in range(1500):
        (places.home / f"d{number}").mkdir()
    listing = client.walk("/")
    first = next(listing)

    def go_on() -> str:
        with pytest.raises(errors.ConnectionLost) as caught:
            list(listing)
        next_is_right(client)
        return str(caught.value)

    assert "parent process" in Child(go_on).result()
    found = [directory for directory, _ in (first, *listing)]
    assert {b"", b"many"} < set(found) and len(set(found)) == 1502
    next_is_right(client)


def test_another_thread_is_in_a_verb(client, places):
    """Its turn ends with it: there is no such thread in the child."""
    begun, go_on = threading.Event(), threading.Event()

    class Waits(Listener):
        def finished(self, result: Result) -> None:
            begun.set()
            go_on.wait(PATIENCE)

    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(
            client.put, places.here / "many", "put/", recursive=True, listener=Waits()
        )
        begun.wait(PATIENCE)
        child = Child(lambda: use(client))
        child.result()
        go_on.set()
        assert job.result().done == len(NAMES)
    next_is_right(client)


def test_a_child_in_a_listener(client, places):
    """It stands amid a verb of the parent's; that verb is lost for it, and not for the parent."""
    children: list[Child] = []
    parent = os.getpid()

    class Forks(Listener):
        def finished(self, result: Result) -> None:
            if not children and os.getpid() == parent:
                children.append(Child(lambda: client.resolve("x")))

    summary = client.put(places.here / "many", "put/", recursive=True, listener=Forks())
    assert summary.done == len(NAMES)
    assert children[0].result() == b"/x"
    next_is_right(client)


# secrets -----------------------------------------------------------------------------------


def asks(server, requested: list[int], tmp_path) -> Client:
    def ask() -> str:
        requested.append(os.getpid())
        return PASSWORD

    host, port = server.server_address[:2]
    return Client(
        f"alice@{host}:{port}",
        password=ask,
        accept_new=True,
        known_hosts=KnownHosts(tmp_path / "known"),
    )


def test_nobody_is_asked_in_a_child(server, tmp_path):
    """Two processes at one terminal would each take a part of what is typed."""
    requested: list[int] = []
    client = asks(server, requested, tmp_path)

    def log_in() -> tuple[str, int]:
        try:
            client.whoami()
        except errors.LoginRefused as error:
            return str(error), len(requested)
        return "logged in", len(requested)

    text, count = Child(log_in).result()
    assert "forked" in text and count == 0
    assert client.whoami() == "alice" and requested == [os.getpid()]
    client.close()


def test_a_password_that_was_given_before_is_used_in_a_child(server, tmp_path):
    requested: list[int] = []
    client = asks(server, requested, tmp_path)
    with client:
        name, count = Child(lambda: (client.whoami(), len(requested))).result()
        assert (name, count) == ("alice", 1)
        assert client.whoami() == "alice"


def test_nobody_is_asked_about_a_key_in_a_child(server, tmp_path):
    requested: list[str] = []
    host, port = server.server_address[:2]
    client = Client(
        f"alice@{host}:{port}",
        password=PASSWORD,
        known_hosts=KnownHosts(tmp_path / "known"),
        ask=lambda endpoint, key: bool(requested.append(key)) or True,
    )

    def connect() -> tuple[bool, int]:
        try:
            client.connect()
        except errors.UnknownHost:
            return False, len(requested)
        return True, len(requested)

    assert Child(connect).result() == (False, 0)
    client.close()


def test_an_interrupt_stops_one_process(server, connect, places):
    interrupt = Interrupt()
    client = connect(server, password=PASSWORD, interrupt=interrupt)
    Child(lambda: (use(client), interrupt.set())).result()
    next_is_right(client)
    child = Child(lambda: use(client))
    child.result()
    client.close()
    interrupt.close()


# asyncio -----------------------------------------------------------------------------------


def test_a_child_with_a_loop_of_its_own(server, places, tmp_path):
    host, port = server.server_address[:2]
    client = AsyncClient(
        f"alice@{host}:{port}",
        password=PASSWORD,
        accept_new=True,
        known_hosts=KnownHosts(tmp_path / "known"),
    )

    async def work() -> tuple[str, int, list[bytes]]:
        names = sorted([entry.path async for entry in client.list_dir("many")])
        return await client.whoami(), (await client.hash("known")).size, names

    expected = ("alice", len(KNOWN), NAMES)

    async def main() -> None:
        assert await work() == expected
        mine = client._connection
        child = Child(lambda: asyncio.run(work()))
        assert await work() == expected
        assert await asyncio.to_thread(child.result) == expected
        assert await work() == expected
        assert client._connection is mine
        await client.close()

    asyncio.run(main())
