"""One large file over several connections: whole and verified, whatever happens to any of them."""

from __future__ import annotations

import os
import random
import resource
import signal
import threading
from contextlib import contextmanager
from functools import partial

import pytest

from ftpclient.client import Client
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.interrupt import Interrupt
from ftpclient.transfer import fetch_pieces, pieces, pool, retry, send_pieces, waiting
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.placing import partial_name
from ftpclient.transfer.report import Listener
from ftpserver.serving import opening
from ftpserver.storage.upload import Receiving
from ftpwire import digests
from ftpwire.errors import BadMessage, ConnectionLost, Forbidden, Interrupted, TooMany
from ftpwire.frames import Kind
from ftpwire.messages import (
    PIECES,
    Entry,
    Failed,
    Found,
    Get,
    Hash,
    Hashed,
    Sending,
    Sent,
    Stat,
    WhoAmI,
)
from ftpwire.pieces import PIECE
from tests.lying_server import LyingServer, file_entry
from tests.peer import Frame, Peer, eventually
from tests.system import trees
from tests.system.proxy import Proxy

pytestmark = pytest.mark.usefixtures("client_is_local")


MIB = 1024 * 1024
SIZE = 24 * MIB + 12_345
CUT = 19 * MIB
"""Where most of these transfers are cut: so late that what is before the window is worth a lot."""
DATA = random.Random(21).randbytes(SIZE)
OVERHEAD = MIB
CONNECTIONS = 3
WINDOW = 2 * CONNECTIONS * PIECE
"""Most that comes again after a loss: what lies beyond the first gap."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Reconnect at once."""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)


@pytest.fixture(autouse=True)
def small_window(monkeypatch):
    """Of the same size both ways, so that small files are large."""
    monkeypatch.setattr(fetch_pieces, "_WINDOW", 2)
    monkeypatch.setattr(send_pieces, "_WINDOW", 2)


@pytest.fixture
def server(start_server):
    return start_server(durable=False)


@pytest.fixture
def home(server):
    directory = server.settings.root / "alice"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(DATA)
    os.chmod(path, 0o640)
    os.utime(path, ns=(10**18, 10**18 + 5))
    return path


class Recording(Listener):
    """Remembers every result, and counts the bytes."""

    def __init__(self) -> None:
        self.results = []
        self.remarks = []
        self.advances = 0
        self.started_names = []
        self.threads = set()

    def started(self, name: bytes, size) -> None:
        self.started_names.append(os.path.basename(name))

    def advanced(self, count: int) -> None:
        self.advances += count
        self.threads.add(threading.get_ident())

    def finished(self, result) -> None:
        self.results.append(result)

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    @property
    def result(self):
        (result,) = self.results
        return result


@pytest.fixture
def opened(monkeypatch):
    """The connections that clients have opened."""
    made = []
    real = Client.new_connection

    def new_connection(self):
        made.append(real(self))
        return made[-1]

    monkeypatch.setattr(Client, "new_connection", new_connection)
    return made


@contextmanager
def through(server, **options):
    """A proxy, and a client that comes through it."""
    with Proxy(server.address) as proxy:
        client = Client(f"alice@{proxy.address}", password="secret", plaintext=True, **options)
        try:
            yield proxy, client
        finally:
            client.close()
    eventually(lambda: not server.service.sessions)


def put(client, source, reported=None, **options):
    return client.put([source], "/file", parallel=CONNECTIONS, listener=reported, **options)


def get(client, target, reported=None, **options):
    return client.get(["/file"], target, parallel=CONNECTIONS, listener=reported, **options)


def space(server):
    return server.service.ledger.space(server.accounts.get("alice").id)


def staged(server) -> set[str]:
    return set(os.listdir(server.settings.root / "alice" / ".ftpd-staging")) - {"lock"}


def partials(directory) -> set[str]:
    return {name for name in os.listdir(directory) if name.startswith(".ftp-")}


@contextmanager
def in_the_middle(proxy: Proxy, way, work, *, after: int = 14 * MIB, each: int | None = None):
    """Run ``work`` until so many bytes have passed; what the block does happens then.

    With ``each``, no more than so many of a connection pass, and two have them: the pieces that are
    to be had just now may all be with the connections that were there first.
    """
    outcome = []

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            outcome.append(error)

    if each is None:
        proxy.hold(way, after)
    else:
        proxy.hold_each(way, each)
        after = 2 * each
    thread = threading.Thread(target=run)
    thread.start()
    try:
        eventually(lambda: proxy.passed(way) >= after)
        yield outcome
    finally:
        proxy.release()
        thread.join(60)
    assert not thread.is_alive() and outcome


# whole files -------------------------------------------------------------------------------


@pytest.mark.parametrize("plaintext", [True, False], ids=["plain", "tls"])
def test_both_ways(start_server, connect, source, tmp_path, opened, plaintext):
    server = start_server(durable=True, plaintext=plaintext)
    client, reported = connect(server), Recording()
    assert put(client, source, reported).done == 1
    trees.same(source, server.settings.root / "alice" / "file")
    assert get(client, tmp_path / "got", reported).done == 1
    trees.same(source, tmp_path / "got")
    assert len(opened) == 1 + 2 * CONNECTIONS
    assert [one.digest for one in reported.results] == [digests.digest(DATA)] * 2
    assert reported.advances == 2 * SIZE
    assert reported.threads == {threading.get_ident()}  # one line of progress
    client.close()
    eventually(lambda: not server.service.sessions)
    assert staged(server) == set() and partials(tmp_path) == set()
    assert (space(server).used, space(server).held) == (SIZE, 0)


def test_it_is_the_other_connections_that_carry_the_bytes(server, connect, source, tmp_path):
    client = connect(server)
    put(client, source)
    get(client, tmp_path / "got")
    assert client.connection.channel.bytes_out < MIB and client.connection.channel.bytes_in < MIB


def test_several_files_use_the_same_connections(server, connect, source, tmp_path, opened):
    client, second = connect(server), tmp_path / "second"
    second.write_bytes(DATA[::-1])
    small = tmp_path / "small"
    small.write_bytes(b"small")
    assert client.put([source, small, second], "/to/", parallel=CONNECTIONS).done == 3
    target = tmp_path / "got"
    target.mkdir()
    assert client.get(["/to/*"], target, parallel=CONNECTIONS).done == 3
    for path in (source, small, second):
        trees.same(path, target / path.name)
    assert len(opened) == 1 + 2 * CONNECTIONS


def test_a_large_file_in_a_tree(server, home, connect, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(pool, "LARGE_IN_TREE", SIZE)
    tree = tmp_path / "tree"
    for number in range(30):
        directory = tree / f"d{number % 3}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number}").write_bytes(b"%d" % number)
    (tree / "d1" / "large").write_bytes(DATA)
    (tree / "d2" / "less").write_bytes(DATA[1:])
    for directory in tree.iterdir():
        os.chmod(directory, 0o555)
        os.utime(directory, ns=(10**18, 10**18))
    client, reported = connect(server), Recording()
    options = {"recursive": True, "parallel": CONNECTIONS, "listener": reported}
    assert client.put([tree], "/tree", **options).done == 32
    trees.same(tree, home / "tree")
    assert client.get(["/tree"], tmp_path / "got", **options).done == 32
    trees.same(tree, tmp_path / "got")
    assert len(opened) == 1 + 2 * CONNECTIONS
    assert client.connection.channel.bytes_out < MIB and client.connection.channel.bytes_in < MIB
    assert sorted(reported.started_names) == [b"large", b"large", b"less", b"less"]
    assert reported.advances >= 2 * SIZE


def test_small_files_are_not_cut(server, connect, tmp_path, opened):
    client, path = connect(server), tmp_path / "path"
    path.write_bytes(DATA[: pieces.LEAST - 1])
    put(client, path)
    get(client, tmp_path / "got")
    assert len(opened) == 1
    path.write_bytes(DATA[: pieces.LEAST])
    put(client, path)
    assert len(opened) == 1 + CONNECTIONS


def test_by_itself_only_far_and_large(
    server, connect, source, tmp_path, opened, monkeypatch, by_distance
):
    client = connect(server)
    monkeypatch.setattr(retry, "_FAR_PIECES_LEAST", SIZE + 1)
    client.connection.round_trip = 0.02
    client.put([source], "/file")
    monkeypatch.setattr(retry, "_FAR_PIECES_LEAST", SIZE)
    client.connection.round_trip = 0.019
    client.get(["/file"], tmp_path / "near")
    assert len(opened) == 1
    client.connection.round_trip = 0.02
    client.get(["/file"], tmp_path / "far")
    assert len(opened) == 5
    client.put([source], "/other")
    assert len(opened) == 9
    trees.same(source, tmp_path / "far")


def test_an_older_server_gets_it_whole(server, connect, source, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(opening, "FEATURES", [])
    client = connect(server)
    put(client, source)
    get(client, tmp_path / "got")
    trees.same(source, tmp_path / "got")
    assert len(opened) == 1


def test_a_server_that_gives_no_key(server, connect, source, home, monkeypatch):
    monkeypatch.setattr(Receiving, "take_pieces", lambda self: None)
    assert put(connect(server), source).done == 1
    trees.same(source, home / "file")


def test_no_more_connections_are_to_be_had(server, connect, source, tmp_path, monkeypatch):
    client, reported = connect(server), Recording()

    def new_connection(self):
        raise TooMany("one is enough")

    monkeypatch.setattr(Client, "new_connection", new_connection)
    put(client, source, reported)
    get(client, tmp_path / "got", reported)
    trees.same(source, tmp_path / "got")
    assert reported.remarks and set(reported.remarks) == {"no further connection: one is enough"}


def test_a_file_without_a_kept_digest(server, connect, source, home, tmp_path):
    (home / "file").write_bytes(DATA)
    assert get(connect(server), tmp_path / "got").done == 1
    assert (tmp_path / "got").read_bytes() == DATA


def test_a_file_that_rotted_on_the_server(server, connect, source, home, tmp_path):
    client, reported = connect(server), Recording()
    put(client, source)
    info = (home / "file").stat()
    with open(home / "file", "r+b") as file:
        file.seek(21 * MIB)
        file.write(b"rotten")
    os.utime(home / "file", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert get(client, tmp_path / "got", reported).exit_code == 8
    assert "ftpd scrub" in str(reported.result.error)
    assert not (tmp_path / "got").exists() and partials(tmp_path) == set()


def test_bytes_that_change_on_the_way(server, source, home, tmp_path):
    with through(server) as (proxy, client):
        proxy.flip("up", 12 * MIB)
        assert put(client, source).exit_code == 8
        assert put(client, source).done == 1
        proxy.flip("down", proxy.passed("down") + 12 * MIB)
        assert get(client, tmp_path / "got").exit_code == 8
        assert not (tmp_path / "got").exists() and partials(tmp_path) == set()


def test_what_is_there_is_not_replaced(server, connect, source, home, tmp_path):
    client, reported = connect(server), Recording()
    (home / "file").write_bytes(b"old")
    (tmp_path / "got").write_bytes(b"old")
    put(client, source, reported, overwrite="never")
    get(client, tmp_path / "got", reported, overwrite="never")
    assert [one.status for one in reported.results] == ["skipped", "skipped"]
    assert (home / "file").read_bytes() == (tmp_path / "got").read_bytes() == b"old"


def test_what_does_not_fit_is_refused_before_its_first_byte(start_server, source, home):
    server = start_server(durable=False, quota=SIZE - 1, root=home.parent.parent / "other")
    with through(server) as (proxy, client):
        assert put(client, source).exit_code == 7
        assert proxy.passed("up") < MIB
    assert space(server).held == 0


@contextmanager
def full_disk(size: int):
    """No file of this process, which is server and client, can be larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk(server, home, connect, source, tmp_path):
    client, reported = connect(server), Recording()
    with full_disk(11 * MIB):
        put(client, source, reported)
    (home / "file").write_bytes(DATA)
    with full_disk(11 * MIB):
        get(client, tmp_path / "got", reported)
    assert [one.error.code for one in reported.results] == ["disk-full", "disk-full"]
    assert staged(server) == set() and partials(tmp_path) == set()
    assert space(server).held == 0
    assert get(client, tmp_path / "got").done == 1  # over the same connection


# losses ------------------------------------------------------------------------------------


def test_a_connection_of_several_is_cut_in_an_upload(server, source, home):
    reported = Recording()
    with through(server) as (proxy, client):
        work = partial(put, client, source, reported)
        with in_the_middle(proxy, "up", work, each=PIECE // 2) as outcome:
            proxy.cut_newest()
        assert outcome[0].done == 1, outcome
        assert proxy.passed("up") <= SIZE + WINDOW + OVERHEAD
    trees.same(source, home / "file")
    assert reported.result.status == "done" and len(reported.remarks) == 1
    assert (space(server).used, space(server).held) == (SIZE, 0)
    assert staged(server) == set()


def test_a_connection_of_several_is_cut_in_a_download(server, source, home, tmp_path):
    (home / "file").write_bytes(DATA)
    reported = Recording()
    with through(server) as (proxy, client):
        target = tmp_path / "got"
        work = partial(get, client, target, reported)
        with in_the_middle(proxy, "down", work, each=PIECE // 2) as outcome:
            proxy.cut_newest()
        assert outcome[0].done == 1, outcome
        assert proxy.passed("down") <= SIZE + WINDOW + OVERHEAD
    trees.same(home / "file", target)
    assert reported.result.status == "done" and len(reported.remarks) == 1
    assert partials(tmp_path) == set()


@pytest.mark.parametrize("cut", [700, 3 * MIB, CUT])
def test_put_goes_on_by_the_same_command(server, home, source, cut):
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("up", cut)
        with pytest.raises(ConnectionLost):
            put(client, source)
    kept = space(server).held
    with through(server) as (proxy, client):
        reported = Recording()
        assert put(client, source, reported).done == 1
        assert proxy.passed("up") <= SIZE + OVERHEAD
        assert reported.advances == SIZE
        if cut > WINDOW + 4 * MIB + OVERHEAD:
            assert kept and proxy.passed("up") <= SIZE - cut + WINDOW + OVERHEAD
    trees.same(source, home / "file")
    assert (space(server).used, space(server).held) == (SIZE, 0)
    assert staged(server) == set()


@pytest.mark.parametrize("first", [1, CONNECTIONS])
@pytest.mark.parametrize("then", [1, CONNECTIONS])
def test_get_goes_on_by_the_same_command(server, home, tmp_path, first, then):
    """Also with another number of connections."""
    (home / "file").write_bytes(DATA)
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("down", CUT)
        with pytest.raises(ConnectionLost):
            client.get(["/file"], tmp_path / "got", parallel=first)
    assert len(partials(tmp_path)) == 1
    with through(server) as (proxy, client):
        assert client.get(["/file"], tmp_path / "got", parallel=then).done == 1
        assert proxy.passed("down") <= SIZE - CUT + (WINDOW if first > 1 else 0) + OVERHEAD
    assert (tmp_path / "got").read_bytes() == DATA
    assert partials(tmp_path) == set()


def test_not_to_be_resumed(server, home, source, tmp_path):
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("up", CUT)
        with pytest.raises(ConnectionLost):
            put(client, source)
    with through(server) as (proxy, client):
        assert put(client, source, resume=False).done == 1
        assert proxy.passed("up") > SIZE
    trees.same(source, home / "file")


def test_hopeless(server, source):
    reported = Recording()
    with through(server, retries=1) as (proxy, client):
        proxy.cut_at("up", *range(6 * MIB, 30 * MIB, 5 * MIB))
        with pytest.raises(ConnectionLost):
            put(client, source, reported)
    assert (reported.result.status, reported.result.size) == ("failed", SIZE)


@pytest.mark.parametrize("way", ["up", "down"])
def test_ctrl_c(server, home, source, tmp_path, way):
    """What is there without a gap is gone on with."""
    interrupt = Interrupt()
    target = tmp_path / "got"
    if way == "down":
        (home / "file").write_bytes(DATA)
    with through(server, interrupt=interrupt) as (proxy, client):

        def work():
            return put(client, source) if way == "up" else get(client, target)

        with in_the_middle(proxy, way, work, after=CUT) as outcome:
            interrupt.set()
        assert isinstance(outcome[0], Interrupted)
        client.settle_interrupt()
    with through(server) as (proxy, client):
        assert (put(client, source) if way == "up" else get(client, target)).done == 1
        assert proxy.passed(way) <= SIZE - CUT + WINDOW + OVERHEAD
    assert (home / "file").read_bytes() == DATA
    assert way == "up" or target.read_bytes() == DATA
    interrupt.close()


@pytest.mark.parametrize("kept", [True, False], ids=["kept-digest", "no-digest"])
def test_the_first_connection_is_not_idle(server, home, connect, tmp_path, monkeypatch, kept):
    """A server may end sessions that ask for nothing."""
    monkeypatch.setattr(waiting, "KEEP_ALIVE_SECONDS", 0.0)
    client, requested = connect(server), []
    real = client.connection.ask
    monkeypatch.setattr(client.connection, "ask", lambda one: requested.append(one) or real(one))
    (home / "file").write_bytes(DATA)
    if kept:
        client.hash("/file")
    client.limit_rate = 100 * MIB
    assert get(client, tmp_path / "got").done == 1
    assert WhoAmI() in requested


# what changes meanwhile --------------------------------------------------------------------

CHANGES = [
    pytest.param(lambda path: path.write_bytes(DATA[::-1]), id="other-bytes"),
    pytest.param(lambda path: os.truncate(path, 17 * MIB), id="shorter"),
    pytest.param(lambda path: os.truncate(path, SIZE + 1), id="longer"),
    pytest.param(lambda path: path.write_bytes(DATA[::-1] + DATA), id="longer-and-other-bytes"),
]
TRY_AGAIN = "changed while it was read; trying again"


def is_what_it_was_or_is(reported: Recording, path, stored: bytes) -> bool:
    """A file that only grew: its first bytes, with a remark. Else it was sent once more."""
    if reported.result.remark is None:
        return stored == path.read_bytes() and TRY_AGAIN in str(reported.remarks)
    if TRY_AGAIN in str(reported.remarks):  # it was rewritten, and grew while it was sent again
        return path.read_bytes().startswith(stored)
    return stored == DATA and not reported.remarks


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_while_it_is_sent(server, home, source, change):
    reported = Recording()
    with through(server) as (proxy, client):
        with in_the_middle(proxy, "up", lambda: put(client, source, reported)):
            change(source)
        assert is_what_it_was_or_is(reported, source, (home / "file").read_bytes())
        assert put(client, source).done == 1
    trees.same(source, home / "file")
    assert staged(server) == set() and space(server).held == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_remote_file_that_changes_between_its_pieces(server, home, tmp_path, change):
    (home / "file").write_bytes(DATA)
    reported = Recording()
    with through(server) as (proxy, client):
        target = tmp_path / "got"
        with in_the_middle(proxy, "down", lambda: get(client, target, reported)):
            change(home / "file")
        assert partials(tmp_path) == set()
        if TRY_AGAIN not in str(reported.remarks) and reported.remarks:
            trees.same(home / "file", target)  # a frame could not be filled: it was begun again
        else:
            assert is_what_it_was_or_is(reported, home / "file", target.read_bytes())
            assert get(client, target).done == 1
    trees.same(home / "file", target)


def test_a_remote_file_that_another_replaces(server, home, tmp_path):
    """Each piece is of one file or of the other; together they would be neither."""
    (home / "file").write_bytes(DATA)
    (home / "other").write_bytes(DATA[::-1])
    reported = Recording()
    with through(server) as (proxy, client):
        # before the first pieces are there, the last one is not asked for: see WINDOW
        work = partial(get, client, tmp_path / "got", reported)
        with in_the_middle(proxy, "down", work, each=PIECE // 2):
            os.replace(home / "other", home / "file")
        assert reported.result.status == "done" and TRY_AGAIN in str(reported.remarks)
    trees.same(home / "file", tmp_path / "got")


# several at once ---------------------------------------------------------------------------


def together(*works) -> list:
    start, outcomes = threading.Barrier(len(works)), []

    def run(work) -> None:
        start.wait(30)
        outcomes.append(work())

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return outcomes


def test_two_gets_to_one_name(server, home, connect, tmp_path):
    (home / "file").write_bytes(DATA)
    clients = [connect(server), connect(server)]
    outcomes = together(*[partial(get, client, tmp_path / "got") for client in clients])
    assert [one.done for one in outcomes] == [1, 1]
    assert (tmp_path / "got").read_bytes() == DATA and partials(tmp_path) == set()


def test_two_puts_to_one_name(server, home, connect, source, tmp_path):
    """Of different files: the name has one of them, whole."""
    other = tmp_path / "other"
    other.write_bytes(DATA[::-1])
    clients = [connect(server), connect(server)]
    outcomes = together(lambda: put(clients[0], source), lambda: put(clients[1], other))
    assert [one.done for one in outcomes] == [1, 1]
    assert (home / "file").read_bytes() in (DATA, DATA[::-1])
    for client in clients:
        client.close()
    eventually(lambda: not server.service.sessions)
    assert staged(server) == set()
    assert (space(server).used, space(server).held) == (SIZE, 0)


def test_a_later_put_of_the_same_file_takes_it_over(server, home, source):
    with through(server, retries=0) as (proxy, client):
        with in_the_middle(proxy, "up", lambda: put(client, source)) as outcome:
            later = Client(
                ServerAddress(*server.server_address[:2], "alice"),
                password="secret",
                plaintext=True,
            )
            assert put(later, source).done == 1
            later.close()
        assert isinstance(outcome[0], ConnectionLost)
    trees.same(source, home / "file")
    assert staged(server) == set()
    assert (space(server).used, space(server).held) == (SIZE, 0)


# partial files with gaps -------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    opened = LocalTree(os.fsencode(tmp_path))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("ranges", "good"),
    [
        ([(0, 9 * MIB)], 9 * MIB),
        ([(0, 5 * MIB), (8 * MIB, 9 * MIB)], 4 * MIB),
        ([(0, 8 * MIB), (12 * MIB, 13 * MIB)], 6 * MIB),
        ([(MIB, 13 * MIB)], 0),
    ],
)
def test_a_killed_download_leaves_gaps(tree, tmp_path, ranges, good):
    """What follows the first of them isn't hashed for nothing."""
    name = os.fsdecode(partial_name((b"name",)))
    with open(tmp_path / name, "wb") as file:
        for start, end in ranges:
            file.seek(start)
            file.write(DATA[start:end])
        file.flush()
        if len(ranges) > 1 and os.lseek(file.fileno(), 0, os.SEEK_HOLE) > ranges[0][1] + MIB:
            pytest.skip("this file system knows no holes")
    found = PartialFile(tree, (b"name",), resume=True)
    assert found.offset == good
    found.drop()


@pytest.mark.parametrize("parallel", [1, CONNECTIONS])
def test_going_on_after_a_killed_download(server, home, connect, tmp_path, parallel):
    (home / "file").write_bytes(DATA)
    with open(tmp_path / os.fsdecode(partial_name((b"got",))), "wb") as file:
        file.write(DATA[: 9 * MIB])
        file.seek(14 * MIB)
        file.write(DATA[14 * MIB : 20 * MIB])
    client = connect(server)
    assert client.get(["/file"], tmp_path / "got", parallel=parallel).done == 1
    assert (tmp_path / "got").read_bytes() == DATA


# a server without manners ------------------------------------------------------------------

ENTRY = Entry(b"/file", "file", SIZE, 0o644, 5)


def serve(peer: Peer, answer) -> None:
    """A server that has the file; ``answer`` says what it does about a piece."""
    peer.greet(features=["pieces"])
    while True:
        requested = peer.read()
        if requested.kind != Kind.REQUEST:
            continue
        request = requested.message
        match request:
            case Stat():
                peer.reply(requested, Found(ENTRY))
            case Get(length=0):
                peer.reply(requested, Sending(SIZE, 0o644, 5))
                peer.frame(Kind.END, requested.request_id, Sent(SIZE, digests.digest(DATA)))
            case Hash():
                peer.reply(requested, Hashed(digests.digest(DATA), SIZE))
            case _:
                answer(peer, requested, request)


def too_much(peer, requested, request):
    peer.reply(requested, Sending(SIZE, 0o644, 5, request.offset))
    peer.frame(Kind.DATA, requested.request_id, bytes(request.length + 1))


def too_little(peer, requested, request):
    peer.reply(requested, Sending(SIZE, 0o644, 5, request.offset))
    peer.frame(Kind.END, requested.request_id, Sent(SIZE))


def elsewhere(peer, requested, request):
    peer.reply(requested, Sending(SIZE, 0o644, 5, request.offset + 1))


def unannounced(peer, requested, request):
    peer.frame(Kind.DATA, requested.request_id, b"x")


def twice(peer, requested, request):
    for _ in range(2):
        peer.reply(requested, Sending(SIZE, 0o644, 5, request.offset))


@pytest.mark.parametrize("answer", [too_much, too_little, elsewhere, unannounced, twice])
def test_a_server_that_breaks_the_rules(fake, connect, tmp_path, answer):
    server = fake(lambda peer: serve(peer, answer))
    with pytest.raises(BadMessage):
        get(connect(server), tmp_path / "got")
    assert not (tmp_path / "got").exists() and partials(tmp_path) == set()


def another_file(peer, requested, request):
    info = Sending(SIZE, 0o644, 6 if request.offset else 5, request.offset)
    peer.reply(requested, info)
    peer.frame(Kind.DATA, requested.request_id, DATA[request.offset :][: request.length])
    peer.frame(Kind.END, requested.request_id, Sent(SIZE))


def other_bytes(peer, requested, request):
    peer.reply(requested, Sending(SIZE, 0o644, 5, request.offset))
    peer.frame(Kind.DATA, requested.request_id, bytes(request.length))
    peer.frame(Kind.END, requested.request_id, Sent(SIZE))


@pytest.mark.parametrize(
    ("answer", "code"), [(another_file, "source-changed"), (other_bytes, "verification-failed")]
)
def test_a_server_that_sends_something_else(fake, connect, tmp_path, answer, code):
    reported = Recording()
    get(connect(fake(lambda peer: serve(peer, answer))), tmp_path / "got", reported)
    assert reported.result.error.code == code
    assert not (tmp_path / "got").exists() and partials(tmp_path) == set()


def test_a_piece_that_is_refused_reports_why(fake, connect, tmp_path):
    """All of it: the rule that forbids it is among the facts of an answer."""

    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, Get):
            return False
        if requested.message.length == 0:
            peer.reply(requested, Sending(SIZE, 0o644, 5))
            peer.frame(Kind.END, requested.request_id, Sent(0, bytes(32)))
        else:
            peer.reply(requested, Failed("forbidden", "no", path=b"/x", rule="/x=none"))
        return True

    server = LyingServer(
        root=lambda path: file_entry(path, size=SIZE),
        ask=ask,
        greet=lambda peer: peer.greet(features=[PIECES]),
    )
    client = connect(fake(server), retry_for=0)
    error = client.get(["/x"], tmp_path / "got", parallel=2).first_error
    assert isinstance(error, Forbidden) and str(error) == "/x: no"
    assert (error.path, error.rule) == (b"/x", "/x=none")
