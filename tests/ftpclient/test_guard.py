"""What holds around every verb: turns of threads, time, Ctrl-C, listeners that fail, paths."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pytest

from ftpclient import Client, errors, guard
from ftpclient.connection.connection import Connection
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.transfer.report import Listener, Result
from ftpclient.turns import Hold, Turns
from ftpwire import digests
from ftpwire import errors as inside
from tests.ftpclient.aio.async_support import Blocking
from tests.ftpclient.guard_support import (
    ALL,
    KNOWN,
    NAMES,
    PASSWORD,
    TRANSFERS,
    StagingDirs,
    next_is_right,
)
from tests.pairwise import pairwise
from tests.peer import PATIENCE
from tests.system.proxy import Proxy

BOTH = [pytest.param(Client, id="threads"), pytest.param(Blocking, id="asyncio")]


@pytest.fixture
def server(start_server):
    server = start_server()
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


@pytest.fixture
def other_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


# several threads ---------------------------------------------------------------------------


def work(client: Client, places: StagingDirs, name: str, rounds: int) -> None:
    """All kinds of verbs, each with its own answer."""
    mine = places.here / name
    mine.mkdir()
    for number in range(rounds):
        data = f"{name} {number} ".encode() * (1 + number % 7 * 2000)
        (mine / "file").write_bytes(data)
        client.put_file(mine / "file", f"/{name}")
        assert client.stat(f"/{name}").size == len(data)
        assert client.hash(f"/{name}").digest == digests.digest(data)
        client.get_file(f"/{name}", mine / "back")
        assert (mine / "back").read_bytes() == data
        client.make_dir(f"/d-{name}/{number}", parents=True)
        found = [entry.path for entry in client.list_dir(f"/d-{name}")]
        assert len(found) == number + 1
        with pytest.raises(FileNotFoundError) as caught:
            client.stat(f"/no-{name}")
        assert caught.value.path == b"/no-" + name.encode()
        assert sorted(entry.path for entry in client.list_dir("/many")) == NAMES


def share(start_server, connect, tmp_path, rounds: int) -> None:
    server = start_server(plaintext=False)
    places = StagingDirs(server.settings.root / "alice", tmp_path / "here")
    places.fill()
    client = connect(server)
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(work, client, places, f"t{n}", rounds) for n in range(4)]
        for job in jobs:
            job.result()
    next_is_right(client)
    places.close()


def test_four_threads_share_a_client(start_server, connect, tmp_path):
    share(start_server, connect, tmp_path, 3)


@pytest.mark.long
def test_four_threads_share_a_client_for_long(start_server, connect, tmp_path):
    share(start_server, connect, tmp_path, 100)


def test_an_open_listing_keeps_the_others_waiting(client, places, other_thread):
    listing = client.list_dir("many")
    first = next(listing)
    waiting = other_thread.submit(client.whoami, timeout=0.05)
    with pytest.raises(errors.TimedOut, match="another thread"):
        waiting.result()
    assert client.stat("known").size == len(KNOWN)  # the same thread's are part of it
    assert sorted([first.path, *(entry.path for entry in listing)]) == NAMES
    assert other_thread.submit(client.whoami).result() == "alice"


def end_by_close(listing, other_thread) -> None:
    listing.close()


def end_by_close_elsewhere(listing, other_thread) -> None:
    other_thread.submit(listing.close).result()


def end_by_throwing(listing, other_thread) -> None:
    with pytest.raises(ZeroDivisionError):
        listing.throw(ZeroDivisionError())


@pytest.mark.parametrize("end", [end_by_close, end_by_close_elsewhere, end_by_throwing])
@pytest.mark.parametrize("verb", ["list_dir", "walk"])
def test_a_listing_that_ends_early_lets_the_others_go_on(client, places, other_thread, verb, end):
    for _ in range(3):
        listing = getattr(client, verb)("/")
        next(listing)
        end(listing, other_thread)
        assert other_thread.submit(client.hash, "known").result().size == len(KNOWN)
    next_is_right(client)


def test_a_listing_that_is_dropped_lets_the_others_go_on(client, places, other_thread):
    """Also when the garbage collector finds it, in whichever thread."""
    holder: list[object] = [client.list_dir("many")]
    next(holder[0])
    holder.append(holder)  # a circle
    del holder
    other_thread.submit(gc.collect).result()
    assert other_thread.submit(client.whoami).result() == "alice"
    next_is_right(client)


def test_a_listing_may_go_on_in_another_thread(client, places, other_thread):
    listing = client.list_dir("many")
    first = next(listing)
    rest = other_thread.submit(list, listing).result()
    assert sorted(entry.path for entry in [first, *rest]) == NAMES
    next_is_right(client)


def test_two_listings_of_one_thread(client, places):
    one, two = client.list_dir("many"), client.list_dir("many")
    pairs = list(zip(one, two, strict=True))
    assert [a.path for a, _ in pairs] == [b.path for _, b in pairs]
    next_is_right(client)


def test_close_ends_open_listings(server, connect, places, other_thread):
    """Whoever has forgotten one doesn't keep the program from ending."""
    client = connect(server, password=PASSWORD)
    listing = other_thread.submit(lambda: [made := client.list_dir("many"), next(made)][0]).result()
    client.close()
    assert other_thread.submit(client.whoami).result() == "alice"
    listing.close()
    next_is_right(client)


# functions of the user's -------------------------------------------------------------------


class Calls(Listener):
    """Calls something when it hears for the first time."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.results: list[Result] = []

    def finished(self, result: Result) -> None:
        if not self.results:
            self.results.append(result)
            self._call()


@pytest.mark.parametrize("name", TRANSFERS)
def test_a_listener_can_not_use_the_connection(client, places, name):
    """The verb would wait for its own end, or read another one's answer."""
    with pytest.raises(RuntimeError, match="cannot use the connection"):
        TRANSFERS[name](*listened(client, client.whoami), places, listener=Calls(client.whoami))
    next_is_right(client)


def listened(client, call) -> tuple[Client]:
    return (client,)


def test_a_listener_may_call_what_needs_no_connection(client, places):
    other = []
    listener = Calls(lambda: other.append((client.resolve("x"), client.cwd, client.connected)))
    client.put(places.here / "many", "put/", recursive=True, listener=listener)
    assert other == [(b"/x", b"/", True)]


def test_a_listener_may_use_another_client(server, connect, places):
    client, other = (connect(server, password=PASSWORD) for _ in range(2))
    found: list[str] = []
    listener = Calls(lambda: found.append(other.whoami()))
    client.put(places.here / "many", "put/", recursive=True, listener=listener)
    assert found == ["alice"]


def test_who_asks_for_a_password_can_not_use_the_connection(server, connect, places):
    requested = []

    def ask() -> str:
        with pytest.raises(RuntimeError, match="cannot use the connection"):
            client.whoami()
        requested.append(True)
        return PASSWORD

    host, port = server.server_address[:2]
    client = Client(f"alice@{host}:{port}", password=ask, plaintext=True)
    with client:
        assert client.whoami() == "alice"
    assert requested == [True]


class Fails(Listener):
    """Raises something at one of the calls of one of its methods."""

    wants_totals = True

    def __init__(self, method: str, call: int, error: BaseException) -> None:
        self.left = call
        self.calls_after = 0
        self._error = error

        def fail(*args: object) -> None:
            self.left -= 1
            if self.left == 0:
                raise error
            self.calls_after += self.left < 0

        setattr(self, method, fail)


KINDS = [ZeroDivisionError, OSError, inside.NotFound, inside.ConnectionLost, KeyboardInterrupt]


def fail_in(client, places, name: str, method: str, call: int, kind: type[BaseException]) -> bool:
    """Whether the listener had the chance."""
    error = kind("of the listener")
    listener = Fails(method, call, error)
    try:
        TRANSFERS[name](client, places, listener=listener)
    except BaseException as raised:
        assert raised is error
        assert listener.left <= 0
        failed = True
    else:
        failed = False
    assert failed == (listener.left <= 0)
    next_is_right(client)
    return failed


@pairwise(
    {
        "name": list(TRANSFERS),
        "method": ["totals", "started", "advanced", "finished"],
        "call": [1, 2, 7],
        "kind": KINDS,
    }
)
def test_a_listener_that_fails(client, places, name, method, call, kind):
    """What it raises ends the verb, whatever it is; and the next verb is right."""
    fail_in(client, places, name, method, call, kind)


@pytest.mark.long
@pytest.mark.parametrize("name", TRANSFERS)
def test_a_listener_that_fails_often(client, places, name):
    dice = random.Random(name)
    for _ in range(100):
        method = dice.choice(["totals", "started", "advanced", "finished"])
        fail_in(client, places, name, method, dice.randint(1, 50), dice.choice(KINDS))


def test_a_listener_that_fails_is_not_called_again(client, places):
    listener = Fails("finished", 3, ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        client.put(places.here / "many", "put/", recursive=True, listener=listener)
    assert listener.calls_after == 0


@pytest.mark.system
@pairwise(
    {
        "name": [name for name in TRANSFERS if name != "put_stream"],
        "method": ["totals", "started", "advanced", "finished"],
        "kind": [ZeroDivisionError, OSError, inside.NotFound, inside.Interrupted],
    }
)
def test_a_listener_of_a_task_that_fails(server, connect, places, name, method, kind):
    """It ends the verb, though it is called in the loop's thread and not in the transfer's."""
    fail_in(connect(server, kind=Blocking, password=PASSWORD), places, name, method, 1, kind)


def test_a_question_that_fails(client, places):
    """The one of sync, before it deletes."""
    from ftpclient.sync.job import Options

    def confirm(plan: object) -> bool:
        raise OSError("no terminal")

    with pytest.raises(OSError, match="no terminal"):
        client.sync(places.here / "to", ":/many", Options(delete=True, force=True), confirm=confirm)
    next_is_right(client)


# Ctrl-C ------------------------------------------------------------------------------------


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C as Python has it, whatever the tests' runner has made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def press(monkeypatch) -> Callable[[int], Callable[[], int]]:
    """Presses Ctrl-C when the connection is waited for the n-th time; counts the waits."""
    real = Connection.pump

    def prepare(at: int) -> Callable[[], int]:
        waits = 0

        def pump(self: Connection, deadline: float | None = None) -> None:
            nonlocal waits
            waits += 1
            if waits == at:
                signal.raise_signal(signal.SIGINT)
            real(self, deadline)

        monkeypatch.setattr(Connection, "pump", pump)
        return lambda: waits

    return prepare


@pytest.mark.parametrize("name", ALL)
def test_ctrl_c_in_a_verb(client, places, ctrl_c, press, name):
    """It is the same KeyboardInterrupt as ever; the connection stays, and is in step."""
    for at in (1, 3):
        connection = client._connection
        waits = press(at)
        with suppress(errors.NotFound):
            if name == "remove":
                (places.home / "moved").touch()
            if waits() < at:
                try:
                    ALL[name](client, places)
                except KeyboardInterrupt:
                    assert waits() >= at
                else:
                    assert waits() < at
        press(0)
        if name not in ("log_in", "change_password") and waits() >= at:
            assert client._connection is connection and not connection.broken
        next_is_right(client)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_when_a_verb_is_done(client, places, ctrl_c, monkeypatch):
    """It isn't lost: the handler is another one for a moment only."""
    real = Connection.result

    def result(self, call):
        found = real(self, call)
        signal.raise_signal(signal.SIGINT)
        return found

    monkeypatch.setattr(Connection, "result", result)
    with pytest.raises(KeyboardInterrupt):
        client.whoami()
    monkeypatch.undo()
    next_is_right(client)


def test_ctrl_c_while_another_thread_has_its_turn(client, places, ctrl_c, other_thread):
    """It ends the wait, and not what the other thread does."""
    listing = other_thread.submit(lambda: [made := client.list_dir("many"), next(made)][0]).result()
    timer = threading.Timer(0.05, signal.pthread_kill, (threading.get_ident(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        client.whoami()
    timer.join()
    assert len(other_thread.submit(list, listing).result()) == len(NAMES) - 1
    next_is_right(client)


def test_ctrl_c_in_a_function_of_the_users(client, places, ctrl_c):
    """There it comes at once, as everywhere in a program."""
    reached = []

    def hear() -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append("after it")

    with pytest.raises(KeyboardInterrupt):
        client.put(places.here / "many", "put/", recursive=True, listener=Calls(hear))
    assert not reached
    next_is_right(client)


@pytest.mark.system
@pytest.mark.parametrize("name", ALL)
def test_an_exception_out_of_a_signal_handler(client, places, press, name):
    """It may come anywhere: the connection is dropped, and the next verb has another one."""

    class Alarm(BaseException):
        pass

    def ring(number: int, frame: object) -> None:
        raise Alarm

    (places.home / "moved").touch()
    (places.home / "copied").touch()
    before = signal.signal(signal.SIGINT, ring)
    try:
        waits = press(1)
        with pytest.raises(Alarm):
            ALL[name](client, places)
        assert waits() >= 1
    finally:
        press(0)
        signal.signal(signal.SIGINT, before)
    next_is_right(client)


def pressed_somewhere(call: Callable[[], object], seconds: float) -> None:
    """Call something, and press Ctrl-C so many seconds later, wherever that is."""
    begun = threading.Event()
    main = threading.get_ident()

    def press() -> None:
        begun.wait()
        time.sleep(seconds)  # a random moment is what is wanted
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        begun.set()
        with suppress(errors.FtpError):
            call()
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:  # the verb was quicker
            time.sleep(0.01)  # a signal that comes just before a wait doesn't end it
        pytest.fail("no KeyboardInterrupt has come")
    except KeyboardInterrupt:
        pass
    thread.join()


@pytest.mark.long
@pytest.mark.parametrize("name", ALL)
def test_ctrl_c_at_any_moment(client, places, ctrl_c, name):
    dice = random.Random(name)
    began = time.monotonic()
    with suppress(errors.NotFound):
        ALL[name](client, places)
    longest = time.monotonic() - began
    for _ in range(100):
        pressed_somewhere(lambda: ALL[name](client, places), dice.uniform(0, longest))
        next_is_right(client)


# time --------------------------------------------------------------------------------------


OTHERWISE = ("log_in", "get_stream")
"""They are other verbs in AsyncClient; that of Client has a test of its own."""


@pytest.fixture
def frozen(server, tmp_path, connect) -> Iterator[Callable]:
    """A client of either kind, whose server says nothing any more; and what thaws it."""
    with Proxy(server.address) as proxy:
        made: list = []

        def freeze(
            kind: type, before: Callable[[Client], object] = lambda client: None
        ) -> tuple[Client, Callable[[], None]]:
            client = kind(
                f"alice@{proxy.address}",
                password=PASSWORD,
                plaintext=True,
                known_hosts=KnownHosts(tmp_path / "known_hosts"),
            )
            made.append(client)
            client.connect()
            before(client)
            proxy.freeze()
            return client, proxy.release

        yield freeze
        proxy.release()
        for client in made:
            client.close()


@pytest.mark.system
@pairwise({"kind": BOTH, "name": [name for name in ALL if name not in OTHERWISE]})
def test_a_frozen_server_holds_no_verb_longer_than_its_time(frozen, places, kind, name):
    client, thaw = frozen(kind)
    with pytest.raises(errors.TimedOut, match=r"within 0\.05 seconds") as caught:
        ALL[name](client, places, timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert not isinstance(caught.value, inside.ConnectionLost)
    thaw()
    next_is_right(client)


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_frozen_server_holds_no_other_verb(frozen, places, name):
    client, thaw = frozen(Client)
    with pytest.raises(errors.TimedOut):
        ALL[name](client, places, timeout=0.05)
    thaw()
    next_is_right(client)


def test_a_frozen_server_holds_no_stream_of_a_task(frozen, places):
    client, thaw = frozen(Blocking)

    async def take() -> None:
        async for _ in client.client.get_stream("large", timeout=0.05):
            pass

    with pytest.raises(errors.TimedOut):
        client.run(take())
    thaw()
    next_is_right(client)


def test_what_was_left_early_counts_as_well(frozen, places):
    """The rest of a listing is cancelled by the verb that comes next, in its own time."""
    client, thaw = frozen(Client, lambda client: next(client.walk("/")))
    with pytest.raises(errors.TimedOut):
        client.whoami(timeout=0.05)
    thaw()
    next_is_right(client)


def test_a_server_that_never_answers_a_new_connection(server, places):
    with Proxy(server.address) as proxy:
        proxy.hold("down", 0)
        client = Client(f"alice@{proxy.address}", password=PASSWORD, plaintext=True)
        for name in ("connect", "whoami", "tokens"):
            with pytest.raises(errors.TimedOut):
                getattr(client, name)(timeout=0.05)
        proxy.release()
        next_is_right(client)
        client.close()


def test_what_may_have_been_done_is_said(frozen, places):
    client, thaw = frozen(Client)
    with pytest.raises(errors.TimedOut, match="it may have been done"):
        client.make_dir("new", timeout=0.05)


def test_time_that_is_enough_is_no_limit(client, places):
    for name, call in ALL.items():
        with suppress(errors.NotFound):
            call(client, places, timeout=PATIENCE), name
    next_is_right(client)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 1e300])
def test_a_time_that_can_not_be(client, timeout):
    with pytest.raises(ValueError, match="a number of seconds"):
        client.whoami(timeout=timeout)


# the same words ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
class TestWords:
    def test_one_path_is_never_letters(self, server, connect, tmp_path, monkeypatch, kind):
        """`put("a.b", "/", recursive=True)` put the whole current directory, for the dot in it."""
        client = connect(server, kind=kind, password=PASSWORD)
        monkeypatch.chdir(tmp_path)
        files = server.settings.root / "alice"
        Path("a.b").write_bytes(b"the file")
        Path("a").write_bytes(b"another")
        for source in ("a.b", b"a.b", Path("a.b")):
            assert client.put(source, "/", recursive=True).done == 1
            assert {one for one in os.listdir(files) if one[0] != "."} == {"a.b"}
            (files / "a.b").unlink()
        for sources in (["a.b", "a"], (Path("a.b"), b"a"), iter(["a", "a.b"])):
            assert client.put(sources, "/").done == 2
        Path("out").mkdir()
        for source in ("a.b", b"a.b", PurePosixPath("/a.b")):
            assert client.get(source, Path("out")).done == 1
            assert os.listdir("out") == ["a.b"]
            Path("out/a.b").unlink()
        assert client.get([PurePosixPath("a"), "a.b"], b"out").done == 2

    def test_remote_paths_of_any_type(self, server, connect, kind):
        client = connect(server, kind=kind, password=PASSWORD)
        for number, path in enumerate(("/d", b"/d", PurePosixPath("/d"))):
            client.make_dir(path, parents=True)
            assert client.stat(path).type == "dir"
            client.make_link(PurePosixPath(f"/d/{number}"), PurePosixPath("x"))
            assert client.find(f"/d/{number}").target == b"x"
            assert len(list(client.list_dir(path))) == number + 1
        for wrong in (5, None, object(), ["/d"]):
            with pytest.raises(TypeError):
                client.stat(wrong)
        assert client.whoami() == "alice"

    def test_overwrite_has_the_same_words(self, server, connect, tmp_path, kind):
        client = connect(server, kind=kind, password=PASSWORD)
        (tmp_path / "f").write_bytes(b"f")
        client.put_file(tmp_path / "f", "a")
        client.copy("a", "there", overwrite="always")
        kept = [
            lambda how: client.copy("a", "there", overwrite=how),
            lambda how: client.move("a", "there", overwrite=how),
            lambda how: client.make_link("there", "a", overwrite=how),
            lambda how: client.put_file(tmp_path / "f", "there", overwrite=how),
            lambda how: client.get_file("there", tmp_path / "f", overwrite=how),
        ]
        for verb in kept:
            for never in ("never", False):
                with pytest.raises(FileExistsError):
                    verb(never)
            for always in ("always", True):
                verb(always)
                client.put_file(tmp_path / "f", "a", overwrite=always)
        assert client.put(tmp_path / "f", "there", overwrite="never").skipped == 1
        for verb in (
            lambda: client.copy("a", "b", overwrite="older"),
            lambda: client.move("a", "b", overwrite="sometimes"),
            lambda: client.put(tmp_path / "f", "c", overwrite="sometimes"),
        ):
            with pytest.raises(ValueError, match="overwrite must be"):
                verb()
        assert client.whoami() == "alice"

    def test_one_file_is_one_result(self, server, connect, tmp_path, kind):
        """Its names are names, whatever is in them."""
        client = connect(server, kind=kind, password=PASSWORD)
        for name in ("*", "[x]", "?", "plain"):
            (tmp_path / "f").write_bytes(os.fsencode(name))
            put = client.put_file(tmp_path / "f", name)
            assert (put.status, put.target, put.size) == ("done", b"/" + name.encode(), len(name))
        got = client.get_file("*", tmp_path / "[*]")
        assert (got.status, got.source) == ("done", b"/*")
        assert (tmp_path / "[*]").read_bytes() == b"*"
        with pytest.raises(FileNotFoundError):
            client.get_file("[*]", tmp_path / "none")
        with pytest.raises(FileNotFoundError):
            client.put_file(tmp_path / "*", "none")
        with pytest.raises(IsADirectoryError):
            client.get_file("/", tmp_path / "none")
        with pytest.raises(IsADirectoryError):
            client.put_file(tmp_path, "none")
        with pytest.raises(NotADirectoryError):
            client.put_file(tmp_path / "f", "none/")
        assert not (tmp_path / "none").exists()
        assert client.find("none") is None


# the lock ----------------------------------------------------------------------------------


def test_turns_are_one_at_a_time():
    turns = Turns()
    inside_now, most = 0, 0

    def run() -> None:
        nonlocal inside_now, most
        for _ in range(200):
            with turns.taken(None, None):
                inside_now += 1
                most = max(most, inside_now)
                inside_now -= 1

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and not turns.held


def test_a_stream_can_be_left_twice():
    turns, hold = Turns(), Hold()
    with turns.taken(hold, None):
        assert turns.is_mine
    assert turns.held and not turns.is_mine
    turns.leave(hold)
    turns.leave(hold)
    assert not turns.held


def test_ctrl_c_right_after_a_callback_does_not_leave_the_thread_within_it() -> None:
    class Pressed:
        is_at_once = False

        def set_at_once(self, at_once: bool) -> None:
            if not at_once:
                raise KeyboardInterrupt

    inside = object.__new__(guard.Guard)
    inside._thread, inside._ctrl_c = threading.local(), Pressed()
    with pytest.raises(KeyboardInterrupt):
        inside._as_callback(lambda: None)
    assert not inside._thread.in_callback
