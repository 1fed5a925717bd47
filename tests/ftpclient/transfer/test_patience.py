"""How long a lost connection is made again: by time without progress, and not by how often."""

from __future__ import annotations

import os
import random
import threading
from types import SimpleNamespace

import pytest

from ftpclient.client import Client
from ftpclient.connection.interrupt import Interrupt
from ftpclient.connection.protocol import TooManyTransfers
from ftpclient.transfer import retry
from ftpclient.transfer.job import RESUME_FROM
from ftpclient.transfer.report import Listener
from ftpclient.transfer.retry import Patience
from ftpwire.errors import Busy, ConnectFailed, ConnectionLost, Interrupted, SessionEnded, TooMany
from tests.clock import Clock
from tests.ftpclient.aio.async_support import Blocking
from tests.peer import eventually
from tests.system.proxy import Proxy

MIB = 1024 * 1024
PART = 5 * MIB
"""Bytes after which a connection ends: more than are worth keeping (RESUME_FROM)."""
KINDS = [pytest.param(Client, id="blocking"), pytest.param(Blocking, id="asyncio")]
EACH_WITH_ONE = [
    pytest.param("put", Client, id="put-blocking"),
    pytest.param("get", Blocking, id="get-asyncio"),
]


class WaitingClock(Clock):
    """Time that also passes in waits, which it records."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.waits.append(seconds)


class Counting(Listener):
    def __init__(self) -> None:
        self.lines: list[tuple[float, float]] = []
        self.losses: list[str] = []
        self.results = []
        self.regains = 0

    def lost(self, error) -> None:
        self.losses.append(str(error))

    def waiting(self, lost: float, left: float) -> None:
        self.lines.append((lost, left))

    def regained(self) -> None:
        self.regains += 1

    def finished(self, result) -> None:
        self.results.append(result)


LOST = ConnectionLost("gone")


def patience(
    clock: WaitingClock, retry_for: float = 900.0, retries: int | None = None, listener=None
):
    return Patience(retry_for, retries, listener or Listener(), clock.wait, clock)


def tries(one: Patience, most: int = 10_000) -> int:
    """How often it is tried until that is over."""
    for count in range(most):
        try:
            one.lost(LOST)
        except ConnectionLost as error:
            assert error is LOST
            return count
        one.pause()
    return most


# the clock ---------------------------------------------------------------------------------


def test_it_is_abandoned_after_the_time_without_progress():
    clock = WaitingClock()
    count = tries(patience(clock))
    assert clock.now - 1000.0 == pytest.approx(900.0)
    assert 25 < count < 90  # waits grow to half a minute or so


def test_waits_grow_up_to_half_a_minute_and_differ():
    listener, clock = Counting(), WaitingClock()
    tries(patience(clock, listener=listener))
    starts = [
        left
        for (_, left), (_, before) in zip(listener.lines[1:], listener.lines, strict=False)
        if before == 0.0 and left
    ]
    assert starts[0] < 2.0 and max(starts) <= 45.0
    assert max(starts) > 20.0
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(
    ("requested", "least", "most"),
    [
        pytest.param(None, 0.0, 1.0, id="nothing"),
        pytest.param(-5, 0.0, 1.0, id="nonsense"),
        pytest.param(20, 20.0, 21.0, id="some-seconds"),
        pytest.param(10**12, 600.0, 601.0, id="for-ever"),
    ],
)
def test_a_server_that_says_when_to_come_again_is_believed(requested, least, most):
    clock = WaitingClock()
    one = patience(clock)
    one.lost(LOST, requested)
    one.pause()
    assert least < clock.now - 1000.0 <= most
    one.lost(LOST)
    one.pause()
    assert clock.now - 1000.0 <= most + 2.0, "it was asked for once"


def test_it_waits_no_longer_than_is_wanted_whatever_the_server_asks_for():
    clock = WaitingClock()
    one = patience(clock, 5.0)
    one.lost(LOST, 600)
    one.pause()
    assert clock.now == 1005.0


@pytest.mark.parametrize("kind", [Busy, TooMany])
def test_what_the_server_asks_for_reaches_the_wait(kind, monkeypatch):
    """Also of an account that has too many transfers, which is as good as a lost connection."""
    requested = []
    monkeypatch.setattr(Patience, "pause", lambda self: requested.append(self._at_least))
    client = SimpleNamespace(address=SimpleNamespace(endpoint="server"), connection=None)
    errors = [
        kind("full", retry_after=7),
        TooManyTransfers.of(TooMany("full", retry_after=8), "full"),
    ]
    for error in errors:
        retry._regain(client, patience(WaitingClock()), error, lambda connection: None)
    assert requested == [7, 8]


def test_progress_begins_it_anew():
    clock = WaitingClock()
    one = patience(clock, 60.0)
    for _ in range(100):  # far more than a minute in all
        one.lost(LOST)
        one.pause()
        clock.now += 50.0
        one.came_further()
    assert clock.now > 5000.0
    assert tries(one) > 1


def test_time_in_which_bytes_moved_does_not_count():
    clock = WaitingClock()
    one = patience(clock, 60.0)
    for _ in range(5):
        one.lost(LOST)
        one.pause()
        clock.now += 3600.0
        one.moved_for(3600.0)
    assert tries(one) > 1


def test_a_connection_that_stalls_is_tried_again_at_least_once():
    clock = WaitingClock()
    clock.now += 60.0  # of silence, before it was given up
    one = patience(clock, 30.0)
    one.lost(LOST)
    one.pause()


def test_after_a_long_sleep_it_is_tried_before_it_is_abandoned():
    clock = WaitingClock()
    one = patience(clock, 30.0)
    one.lost(LOST)
    clock.wait = lambda seconds: setattr(clock, "now", clock.now + 3600.0)
    one._wait = clock.wait
    one.pause()  # here comes a try
    with pytest.raises(ConnectionLost):
        one.lost(LOST)


@pytest.mark.parametrize(("bound", "expected"), [(0, 0), (1, 1), (7, 7)])
def test_a_bound_counts_all_losses(bound, expected):
    clock = WaitingClock()
    one = patience(clock, retries=bound)
    count = 0
    with pytest.raises(ConnectionLost):
        while True:
            one.lost(LOST)
            one.pause()
            one.came_further()
            count += 1
    assert count == expected


def test_zero_means_never():
    assert tries(patience(WaitingClock(), 0.0)) == 0


def test_a_session_that_was_ended_on_purpose_is_not_made_again():
    with pytest.raises(SessionEnded):
        patience(WaitingClock()).lost(SessionEnded("kicked"))


def test_the_wait_is_counted_each_second():
    listener, clock = Counting(), WaitingClock()
    one = patience(clock, listener=listener)
    for _ in range(8):
        one.lost(LOST)
        one.pause()
    assert max(clock.waits) <= 1.0
    last = [line for line in listener.lines if line[1]][-1]
    assert last[0] > 10.0 and last[1] <= 1.0
    assert listener.lines[-1][1] == 0.0


# transfers ---------------------------------------------------------------------------------


@pytest.fixture
def short_waits(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.01)


@pytest.fixture
def through(connect, start_server, request, short_waits):
    """A client that comes to a server through a proxy."""

    def make(server, kind=Client, **options):
        proxy = Proxy(server.address)
        proxy.__enter__()
        request.addfinalizer(lambda: proxy.__exit__(None, None, None))
        client = kind(f"alice@{proxy.address}", password="secret", plaintext=True, **options)
        request.addfinalizer(client.close)
        return proxy, client

    return make


def source_of(tmp_path, size: int):
    path = tmp_path / "source"
    path.write_bytes(random.Random(7).randbytes(size))
    return path


@pytest.mark.system
@pytest.mark.parametrize(("way", "kind"), EACH_WITH_ONE)
def test_a_link_that_is_cut_again_and_again(start_server, through, tmp_path, kind, way):
    """More often than any number that one would choose for it; each connection brings something."""
    server = start_server(durable=False)
    source = source_of(tmp_path, 9 * PART)
    listener = Counting()
    proxy, client = through(server, kind)
    cuts = [number * PART + 1000 for number in range(1, 9)]
    if way == "put":
        proxy.cut_at("up", *cuts)
        summary = client.put([source], "/file", listener=listener)
        found = server.settings.root / "alice" / "file"
    else:
        with Client(server_address(server), password="secret", plaintext=True) as other:
            other.put([source], "/file")
        proxy.cut_at("down", *cuts)
        found = tmp_path / "found"
        summary = client.get(["/file"], found, listener=listener)
    assert (summary.done, summary.failed) == (1, 0)
    assert found.read_bytes() == source.read_bytes()
    assert len(listener.losses) >= 6
    assert listener.regains == len(listener.losses)
    assert len(listener.results) == 1


def server_address(server) -> str:
    return f"alice@127.0.0.1:{server.server_address[1]}"


@pytest.mark.system
@pytest.mark.parametrize(("way", "kind"), EACH_WITH_ONE)
def test_a_link_that_hangs_is_abandoned_after_the_stall_time_and_made_again(
    start_server, through, tmp_path, kind, way
):
    server = start_server(durable=False, stall=1.0)
    source = source_of(tmp_path, 2 * PART)
    proxy, client = through(server, kind)
    if way == "put":
        proxy.hang_at("up", PART)
        summary = client.put([source], "/file")
        found = server.settings.root / "alice" / "file"
    else:
        with Client(server_address(server), password="secret", plaintext=True) as other:
            other.put([source], "/file")
        proxy.hang_at("down", PART)
        found = tmp_path / "found"
        summary = client.get(["/file"], found)
    assert (summary.done, summary.failed) == (1, 0)
    assert found.read_bytes() == source.read_bytes()


def test_what_never_comes_further_is_abandoned(start_server, through, tmp_path):
    """Bytes that leave here, and whose coming nobody has acknowledged, are no progress."""
    server = start_server(durable=False)
    source = source_of(tmp_path, RESUME_FROM - 1)
    proxy, client = through(server, retry_for=0.5)
    proxy.cut_at("up", *(number * MIB for number in range(1, 2000)))
    with pytest.raises(ConnectionLost, match=r"stopped at .* of 4\.0 MiB: .* to start over"):
        client.put([source], "/file")


@pytest.mark.system
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_is_stopped_and_started_again(start_server, tmp_path, short_waits, kind):
    server = start_server(durable=False, grace=0.2)
    port = server.server_address[1]
    source = source_of(tmp_path, 4 * PART)
    client = kind(f"alice@127.0.0.1:{port}", password="secret", plaintext=True)
    began, failures = threading.Event(), []

    class Watching(Counting):
        def advanced(self, count: int) -> None:
            began.set()

    listener = Watching()

    def transfer() -> None:
        try:
            getattr(client, "client", client).limit_rate = 20 * MIB
            assert client.put([source], "/file", listener=listener).done == 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=transfer)
    thread.start()
    try:
        assert began.wait(20)
        start_server.finish(server)
        eventually(lambda: listener.lines or not thread.is_alive())  # nobody is there: it is tried
        assert listener.lines, failures
        again = start_server(durable=False, port=port)
    finally:
        thread.join()
        client.close()
    assert not failures, failures
    assert (again.settings.root / "alice" / "file").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("refusal", [TooMany("too many sessions"), Busy("many log in just now")])
def test_a_full_server_on_the_way_back_is_waited_for(
    start_server, through, tmp_path, monkeypatch, refusal
):
    server = start_server(durable=False)
    source = source_of(tmp_path, 3 * PART)
    proxy, client = through(server)
    proxy.cut_at("up", PART + 1000)
    client.connect()
    real, refused = Client.new_connection, []

    def full(self):
        if len(refused) < 3:
            refused.append(1)
            raise refusal
        return real(self)

    monkeypatch.setattr(Client, "new_connection", full)
    assert client.put([source], "/file").done == 1
    assert len(refused) == 3


def test_one_that_stays_full_ends_as_a_lost_connection(
    start_server, through, tmp_path, monkeypatch
):
    proxy, client = through(start_server(), retry_for=0.2)
    proxy.cut_at("up", PART)
    client.connect()

    def full(self):
        raise TooMany("too many sessions")

    monkeypatch.setattr(Client, "new_connection", full)
    with pytest.raises(ConnectionLost, match="too many sessions") as caught:
        client.put([source_of(tmp_path, 2 * PART)], "/file")
    assert caught.value.exit_code == 4


def test_a_first_contact_fails_at_once(start_server):
    server = start_server()
    port = server.server_address[1]
    start_server.finish(server)
    with pytest.raises(ConnectFailed):
        Client(f"alice@127.0.0.1:{port}", password="secret", plaintext=True).connect()


def test_a_first_contact_that_is_waited_for(start_server, short_waits):
    server = start_server()
    port = server.server_address[1]
    start_server.finish(server)
    client = Client(f"alice@127.0.0.1:{port}", password="secret", plaintext=True)

    class Starting(Listener):
        tries = 0

        def waiting(self, lost: float, left: float) -> None:
            self.tries += not left
            if self.tries == 3:
                self.tries += 1
                start_server(port=port)

    listener = Starting()
    try:
        retry.first_contact(client, listener)
        assert client.connected and listener.tries > 3
    finally:
        client.close()


@pytest.mark.parametrize("kind", KINDS)
def test_what_came_from_a_pipe_is_not_sent_again(start_server, through, kind):
    server = start_server(durable=False)
    proxy, client = through(server, kind)
    proxy.cut_at("up", MIB)
    read, write = os.pipe()

    def fill() -> None:
        try:
            for _ in range(64):
                os.write(write, bytes(65536))
        except BrokenPipeError:
            pass
        finally:
            os.close(write)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        with pytest.raises(ConnectionLost, match="nothing was stored") as caught:
            client.put_stream(read, "/file")
        assert caught.value.exit_code == 4
    finally:
        os.close(read)
        thread.join()
    assert not (server.settings.root / "alice" / "file").exists()


def test_a_pipe_that_was_not_read_yet_loses_nothing(start_server, through):
    """What was asked before the first byte is asked again."""
    server = start_server(durable=False)
    proxy, client = through(server)
    client.connect()
    proxy.cut_newest()
    read, write = os.pipe()
    os.write(write, b"from a pipe")
    os.close(write)
    try:
        assert client.put_stream(read, "/file").done == 1
    finally:
        os.close(read)
    assert (server.settings.root / "alice" / "file").read_bytes() == b"from a pipe"


def test_ctrl_c_ends_the_wait_and_says_how_far_it_came(start_server, through, tmp_path):
    server = start_server(durable=False)
    interrupt = Interrupt()

    class Stopping(Counting):
        def waiting(self, lost: float, left: float) -> None:
            interrupt.set()

    try:
        proxy, client = through(server, interrupt=interrupt)
        proxy.cut_after("up", PART)
        with pytest.raises(Interrupted) as caught:
            client.put([source_of(tmp_path, 4 * PART)], "/file", listener=Stopping())
        client.close()
    finally:
        interrupt.close()
    text = str(caught.value)
    assert text.startswith("interrupted: stopped at ")
    assert text.endswith(" of 20.0 MiB: run the same command to resume")


# what cannot be repeated --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["remove", "move", "copy", "make_dir", "set_attributes"])
def test_of_a_lost_answer_it_is_said_that_it_may_have_been_done(fake, connect, kind, verb):
    def script(peer):
        peer.greet()
        peer.read()
        peer.reset()

    arguments = ("/a", "/b") if verb in ("move", "copy") else ("/a",)
    client = connect_to(fake(script), kind)
    try:
        with pytest.raises(ConnectionLost, match="; it may have been done$") as caught:
            getattr(client, verb)(*arguments)
        assert caught.value.exit_code == 4
    finally:
        client.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["stat", "hash", "space"])
def test_a_question_was_not_done(fake, kind, verb):
    def script(peer):
        peer.greet()
        peer.read()
        peer.reset()

    client = connect_to(fake(script), kind)
    try:
        with pytest.raises(ConnectionLost) as caught:
            getattr(client, verb)(*(() if verb == "space" else ("/a",)))
        assert "may have been" not in str(caught.value)
    finally:
        client.close()


def connect_to(server, kind):
    return kind(server.address, password="secret", plaintext=True)


def test_the_server_is_named_once(fake):
    """Also when the token went out together with HELLO, and the connection was closed then."""

    def script(peer):
        peer.read()
        peer.reset()

    client = connect_to(fake(script), Client)
    with pytest.raises(ConnectFailed) as caught:
        client.connect()
    assert str(caught.value).count(client.address.endpoint) == 1
