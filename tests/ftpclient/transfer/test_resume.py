"""Going on: after a cut inside one run, and by the same command again. Results are told once."""

from __future__ import annotations

import functools
import os
import random
import threading
from collections import Counter
from contextlib import contextmanager

import pytest

from ftpclient.client import Client
from ftpclient.connection.interrupt import Interrupt
from ftpclient.transfer import download, retry
from ftpclient.transfer.job import RESUME_FROM, Stopped
from ftpclient.transfer.local_tree import LocalTree
from ftpclient.transfer.partial_file import PartialFile
from ftpclient.transfer.placing import partial_name
from ftpclient.transfer.report import Listener
from ftpclient.transfer.resume_notes import Unfinished
from ftpwire.channel import Channel
from ftpwire.errors import (
    ConnectionLost,
    Interrupted,
    LoginRefused,
    QuotaExceeded,
    UploadTakenOver,
)
from tests.pairwise import pairwise
from tests.system import trees
from tests.system.programs import eventually
from tests.system.proxy import Proxy

MIB = 1024 * 1024
PIECE = 16 * MIB
SIZE = 24 * MIB
OVERHEAD = MIB
"""Frames, requests and log-ins beside the bytes of a file."""


@functools.lru_cache(maxsize=8)
def content(size: int, seed: int = 1) -> bytes:
    """Bytes in which no piece looks like another."""
    return random.Random(seed).randbytes(size)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    """Reconnect at once."""
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)


@pytest.fixture
def server(start_server):
    return start_server(durable=False)


@pytest.fixture
def home(server):
    """Alice's home."""
    directory = server.settings.root / "alice"
    directory.mkdir(exist_ok=True)
    return directory


class Recording(Listener):
    """Remembers every result."""

    def __init__(self) -> None:
        self.results = []

    def finished(self, result) -> None:
        self.results.append(result)

    @property
    def names(self) -> Counter:
        """How often each local name was told, whichever side it is on."""
        return Counter(os.path.basename(result.source) for result in self.results)

    @property
    def statuses(self) -> Counter:
        return Counter(result.status for result in self.results)


@contextmanager
def through(server, **options):
    """A proxy, and a client that comes through it."""
    with Proxy(server.address) as proxy:
        client = Client(f"alice@{proxy.address}", password="secret", plaintext=True, **options)
        try:
            yield proxy, client
        finally:
            client.close()
    settled(server)


def settled(server) -> None:
    """Wait until the server has noticed that its clients are gone."""
    eventually(lambda: not server.service.sessions)


def space(server):
    """What the ledger says once no session is left."""
    settled(server)
    return server.service.ledger.space(server.accounts.get("alice").id)


def staged(server) -> set[str]:
    return set(os.listdir(server.settings.root / "alice" / ".ftpd-staging")) - {"lock", "numbers"}


def partials(directory) -> set[str]:
    return {name for name in os.listdir(directory) if name.startswith(".ftp-")}


# one large file ----------------------------------------------------------------------------

CUTS = [700, MIB, RESUME_FROM, RESUME_FROM + MIB, PIECE + 700, PIECE + MIB, SIZE - MIB, SIZE + 200]


@pytest.mark.parametrize("cut", CUTS)
def test_put_goes_on(server, home, tmp_path, cut):
    """What is sent again is at most one piece."""
    source = tmp_path / "source"
    source.write_bytes(content(SIZE))
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("up", cut)
        with pytest.raises(ConnectionLost):
            client.put([source], "/file")
    assert (home / "file").exists() is False or (home / "file").read_bytes() == content(SIZE)
    settled(server)
    with through(server) as (proxy, client):
        summary = client.put([source], "/file")
        assert (summary.done, summary.failed) == (1, 0)
        kept = max(0, cut - OVERHEAD - PIECE)
        assert proxy.passed("up") <= SIZE - kept + OVERHEAD
    assert (home / "file").read_bytes() == content(SIZE)
    after = space(server)
    assert (after.used, after.held) == (SIZE, 0)
    assert staged(server) == set()


@pytest.mark.parametrize("cut", CUTS)
def test_get_goes_on(server, home, tmp_path, cut):
    (home / "file").write_bytes(content(SIZE))
    target = tmp_path / "got"
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("down", cut)
        with pytest.raises(ConnectionLost):
            client.get(["/file"], target)
    assert not target.exists()
    with through(server) as (proxy, client):
        assert client.get(["/file"], target).done == 1
        kept = max(0, cut - OVERHEAD - PIECE)
        assert proxy.passed("down") <= SIZE - kept + OVERHEAD
    trees.same(home / "file", target)
    assert partials(tmp_path) == set()


def test_cuts_within_one_run(server, home, tmp_path):
    """Both ways: each loss goes on where it was, and the file is told once."""
    source, target = tmp_path / "source", tmp_path / "got"
    source.write_bytes(content(SIZE))
    reported = Recording()
    with through(server) as (proxy, client):
        proxy.cut_at("up", 6 * MIB, 12 * MIB, 18 * MIB)
        assert client.put([source], "/file", listener=reported).done == 1
        assert proxy.passed("up") <= SIZE + 3 * OVERHEAD
        proxy.cut_at("down", 6 * MIB, 12 * MIB, 18 * MIB)
        assert client.get(["/file"], target, listener=reported).done == 1
        assert proxy.passed("down") <= SIZE + 3 * OVERHEAD
    assert [result.status for result in reported.results] == ["done", "done"]
    trees.same(source, target)
    after = space(server)
    assert (after.used, after.held) == (SIZE, 0)


def test_hopeless(server, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(content(SIZE))
    reported = Recording()
    with through(server, retries=2) as (proxy, client):
        proxy.cut_at("up", *range(MIB, 10 * MIB, MIB))
        with pytest.raises(ConnectionLost):
            client.put([source], "/file", listener=reported)
    assert [(result.status, result.size) for result in reported.results] == [("failed", SIZE)]


def changed_bytes(source):
    info = source.stat()
    source.write_bytes(content(SIZE, seed=2))
    os.utime(source, ns=(info.st_atime_ns, info.st_mtime_ns))


def changed_late(source):
    info = source.stat()
    source.write_bytes(content(SIZE)[:-1] + b"!")
    os.utime(source, ns=(info.st_atime_ns, info.st_mtime_ns))


CHANGES = [
    pytest.param(changed_bytes, id="other-bytes-same-time"),
    pytest.param(changed_late, id="another-last-byte-same-time"),
    pytest.param(lambda source: source.write_bytes(content(SIZE - 1)), id="shorter"),
    pytest.param(lambda source: source.write_bytes(content(SIZE + 5)), id="longer"),
    pytest.param(lambda source: os.utime(source, ns=(5, 5)), id="touched"),
    pytest.param(lambda source: source.write_bytes(b"small now"), id="small-now"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changed_meanwhile(server, home, tmp_path, change):
    source = tmp_path / "source"
    source.write_bytes(content(SIZE))
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("up", 20 * MIB)
        with pytest.raises(ConnectionLost):
            client.put([source], "/file")
    change(source)
    with through(server) as (_, client):
        assert client.put([source], "/file").done == 1
    trees.same(source, home / "file")
    after = space(server)
    assert (after.used, after.held) == (source.stat().st_size, 0)
    assert staged(server) == set()


@pytest.mark.parametrize("change", CHANGES)
def test_a_remote_file_that_changed_meanwhile(server, home, tmp_path, change):
    (home / "file").write_bytes(content(SIZE))
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("down", 20 * MIB)
        with pytest.raises(ConnectionLost):
            client.get(["/file"], tmp_path / "got")
    change(home / "file")
    with through(server) as (_, client):
        assert client.get(["/file"], tmp_path / "got").done == 1
    trees.same(home / "file", tmp_path / "got")
    assert partials(tmp_path) == set()


@pytest.mark.parametrize("position", [0, RESUME_FROM, 19 * MIB])
def test_a_partial_file_that_somebody_changed(server, home, tmp_path, position):
    (home / "file").write_bytes(content(SIZE))
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("down", 20 * MIB)
        with pytest.raises(ConnectionLost):
            client.get(["/file"], tmp_path / "got")
    (name,) = partials(tmp_path)
    with open(tmp_path / name, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    with through(server) as (_, client):
        assert client.get(["/file"], tmp_path / "got").done == 1
    trees.same(home / "file", tmp_path / "got")


def test_not_to_be_resumed(server, home, tmp_path):
    """Neither is what is there from an earlier try used, nor does it get in the way."""
    source = tmp_path / "source"
    source.write_bytes(content(SIZE))
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("up", 20 * MIB)
        with pytest.raises(ConnectionLost):
            client.put([source], "/file")
    with through(server) as (proxy, client):
        assert client.put([source], "/file", resume=False).done == 1
        assert proxy.passed("up") > SIZE
        proxy.cut_at("down", 10 * MIB)
        reported = Recording()
        assert client.get(["/file"], tmp_path / "got", resume=False, listener=reported).done == 1
    assert len(reported.results) == 1
    trees.same(source, tmp_path / "got")


# partial files -----------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path):
    opened = LocalTree(os.fsencode(tmp_path))
    yield opened
    opened.close()


def test_a_second_transfer_to_the_same_name_takes_another_partial(tree, tmp_path):
    first = PartialFile(tree, (b"name",))
    second = PartialFile(tree, (b"name",))
    os.write(first.fd, b"first")
    os.write(second.fd, b"second")
    second.place(0o644, 1)
    assert (tmp_path / "name").read_bytes() == b"second"
    first.place(0o644, 1)
    assert (tmp_path / "name").read_bytes() == b"first"
    assert partials(tmp_path) == set()


def test_a_partial_that_nobody_could_find_again_is_not_left(tree, tmp_path):
    first = PartialFile(tree, (b"name",))
    second = PartialFile(tree, (b"name",))
    second.leave()
    first.leave()
    assert partials(tmp_path) == {os.fsdecode(partial_name((b"name",)))}


def test_two_gets_of_one_file_at_once(server, home, tmp_path, connect):
    (home / "file").write_bytes(content(SIZE))
    clients = [connect(server) for _ in range(3)]
    together, done = threading.Barrier(3), []

    def get(client) -> None:
        together.wait(30)
        done.append(client.get(["/file"], tmp_path / "got").done)

    threads = [threading.Thread(target=get, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [1, 1, 1]
    for client in clients:
        client.close()
    trees.same(home / "file", tmp_path / "got")
    assert partials(tmp_path) == set()


def test_two_puts_of_one_file_at_once(server, home, tmp_path, connect):
    """The newer takes over, and the older leaves it be: one of the two is there, whole."""
    sources = []
    for seed in (1, 2):
        sources.append(tmp_path / f"source{seed}")
        sources[-1].write_bytes(content(SIZE, seed))
        os.utime(sources[-1], ns=(7, 7))
    together, ended = threading.Barrier(2), []

    def put(source) -> None:
        client = connect(server, retries=50)
        together.wait(30)
        try:
            ended.append(client.put([source], "/file").exit_code)
        except UploadTakenOver as error:
            ended.append(error.exit_code)
        client.close()

    threads = [threading.Thread(target=put, args=(source,)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) in ([0, 4], [0, 0])  # where one was done before the other began
    assert (home / "file").read_bytes() in [source.read_bytes() for source in sources]
    after = space(server)
    assert (after.used, after.held) == (SIZE, 0)
    assert staged(server) == set()


def test_a_get_that_is_stopped_before_it_asks_leaves_what_was_there(
    server, home, tmp_path, monkeypatch
):
    """While the local part is hashed: nothing stays open, and it can be gone on with."""
    (home / "file").write_bytes(content(SIZE))
    with through(server, retries=0) as (proxy, client):
        proxy.cut_after("down", 20 * MIB)
        with pytest.raises(ConnectionLost):
            client.get(["/file"], tmp_path / "got")
    (name,) = partials(tmp_path)
    size = (tmp_path / name).stat().st_size

    def stop(*_: object) -> None:
        raise Interrupted("interrupted")

    with through(server) as (_, client):
        with monkeypatch.context() as patch:
            patch.setattr(download.Download, "hash_into", stop)
            with pytest.raises(Interrupted):
                client.get(["/file"], tmp_path / "got")
        assert (tmp_path / name).stat().st_size == size
        assert client.get(["/file"], tmp_path / "got").done == 1


# trees -------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    """Small files, larger ones, links, an empty directory, a closed one."""
    top = tmp_path / "files"
    for number in range(8):
        directory = top / f"d{number}"
        directory.mkdir(parents=True)
        for count in range(12):
            (directory / f"{number}-{count}").write_bytes(content(count * 9000, count))
        (directory / f"large{number}").write_bytes(content(MIB, number))
        os.symlink("nowhere", directory / f"link{number}")
    (top / "huge").write_bytes(content(9 * MIB))
    (top / "empty").mkdir()
    for directory in (top / "d3", top / "empty"):
        os.chmod(directory, 0o555)
        os.utime(directory, ns=(10**18, 10**18))
    yield top
    os.chmod(top / "d3", 0o755)


def everything(top) -> set[bytes]:
    """The names of all that is told: not directories."""
    return {
        os.path.basename(path)
        for path in trees.names(top)
        if os.path.islink(os.fsencode(top) + b"/" + path)
        or os.path.isfile(os.fsencode(top) + b"/" + path)
    }


PARALLEL = pytest.mark.parametrize("parallel", [1, 3])


@PARALLEL
def test_trees_travel(server, home, tmp_path, files, parallel):
    reported = Recording()
    with through(server) as (_, client):
        client.put([files], "/tree", recursive=True, parallel=parallel, listener=reported)
        trees.same(files, home / "tree")
        assert reported.names == Counter(everything(files))
        got = Recording()
        client.get(["/tree"], tmp_path / "got", recursive=True, parallel=parallel, listener=got)
        trees.same(files, tmp_path / "got")
        assert got.names == Counter(everything(files))
        assert reported.statuses.keys() | got.statuses.keys() == {"done"}
        again = Recording()
        client.put([files], "/tree", recursive=True, parallel=parallel, listener=again)
    os.chmod(tmp_path / "got" / "d3", 0o755)


@pairwise(
    {
        "parallel": [1, 3],
        "resume": [pytest.param(True, id="resume"), pytest.param(False, id="no-resume")],
        "direction": ["up", "down"],
    }
)
def test_cuts_within_a_tree(server, home, tmp_path, files, parallel, resume, direction):
    """Each result is told exactly once, links and all."""
    reported, target = Recording(), tmp_path / "got"
    options = {"recursive": True, "parallel": parallel, "resume": resume, "listener": reported}
    with through(server, retries=20) as (proxy, client):
        if direction == "up":
            proxy.cut_at("up", MIB // 2, 3 * MIB, 8 * MIB)
            summary = client.put([files], "/tree", **options)
        else:
            client.put([files], "/tree", recursive=True)
            proxy.cut_at("down", MIB // 2, 3 * MIB, 8 * MIB)
            summary = client.get(["/tree"], target, **options)
    assert (summary.done, summary.failed) == (len(everything(files)), 0)
    assert reported.names == Counter(everything(files))
    assert reported.statuses.keys() == {"done"}
    trees.same(files, home / "tree" if direction == "up" else target)
    if direction == "down":
        os.chmod(target / "d3", 0o755)
    assert space(server).held == 0
    assert staged(server) == set()


def test_what_was_there_before_is_reported_after_a_cut_too(server, home, files):
    """A loss early in the run: what comes after it is unchanged, and was not told yet."""
    with through(server) as (_, client):
        client.put([files], "/", recursive=True)
    reported = Recording()
    with through(server) as (proxy, client):
        client.connect()
        proxy.cut_at("down", proxy.passed("down") + 3000)
        summary = client.put([files], "/", recursive=True, listener=reported)
    assert (summary.failed, reported.statuses.keys()) == (0, {"done"})
    assert reported.names == Counter(everything(files))


@PARALLEL
def test_the_same_command_again(server, home, tmp_path, files, parallel):
    """It goes on with the same target, and sends no file twice."""
    with through(server, retries=0) as (proxy, client):
        options = {"recursive": True, "parallel": parallel}
        proxy.cut_at("up", 7 * MIB)
        with pytest.raises(ConnectionLost):
            client.put([files], "/tree", **options)
        client.close()
        there = {
            os.path.basename(path)
            for path in trees.names(home / "tree")
            if os.path.isfile(os.fsencode(home / "tree") + b"/" + path)
        }
        reported = Recording()
        client.put([files], "/tree", listener=reported, **options)
    trees.same(files, home / "tree")
    assert reported.names == Counter(everything(files))
    unchanged = {os.path.basename(one.source) for one in reported.results if one.unchanged}
    assert there <= unchanged


def test_a_password_that_changed_meanwhile(server, files):
    """The loss is not regained: what was lost is told all the same."""

    class Changing(Recording):
        def lost(self, error) -> None:
            server.accounts.set_password("alice", "another")

    reported = Changing()
    with through(server) as (proxy, client):
        client.connect()
        proxy.cut_at("up", proxy.passed("up") + MIB)
        with pytest.raises(LoginRefused):
            client.put([files / "huge"], "/huge", listener=reported)
    assert [result.status for result in reported.results] == ["failed"]


@PARALLEL
def test_stops_at_the_first_failure(server, home, files, parallel):
    """What is still to come then is not sent, and the session stays."""
    (home / "tree" / "huge").mkdir(parents=True)
    for number in range(1000):
        (files / "d0" / f"more{number}").write_bytes(b"")
    reported = Recording()
    with through(server) as (_, client):
        with pytest.raises(Stopped):
            client.put(
                [files / "huge", files / "d0"],
                "/tree",
                recursive=True,
                parallel=parallel,
                fail_fast=True,
                listener=reported,
            )
        assert client.whoami() == "alice"
    assert reported.statuses["failed"] >= 1
    assert reported.statuses["done"] < 1000
    assert max(reported.names.values()) == 1


@PARALLEL
def test_failures_are_reported_and_the_rest_goes_on(server, home, files, parallel):
    (home / "files" / "d1" / "1-1").mkdir(parents=True)
    reported = Recording()
    with through(server) as (_, client):
        summary = client.put([files], "/", recursive=True, parallel=parallel, listener=reported)
    assert (summary.failed, summary.exit_code) == (1, 1)
    assert reported.names == Counter(everything(files))
    assert (home / "files" / "huge").read_bytes() == content(9 * MIB)


@PARALLEL
@pytest.mark.parametrize("verb", ["put", "get"])
def test_ctrl_c_leaves_nothing_open(server, home, tmp_path, files, parallel, verb):
    """Threads, descriptors and locks are given back; what is there can be gone on with."""
    interrupt = Interrupt()

    class Stops(Recording):
        seen = 0

        def advanced(self, count: int) -> None:
            self.seen += count
            if self.seen > 6 * MIB and not self.stopped:
                self.stopped = True
                interrupt.set()

        stopped = False

    try:
        with through(server, interrupt=interrupt) as (_, client):
            if verb == "get":
                client.put([files], "/tree", recursive=True)

            def run(listener):
                options = {"recursive": True, "parallel": parallel, "listener": listener}
                if verb == "put":
                    return client.put([files], "/tree", **options)
                return client.get(["/tree"], tmp_path / "got", **options)

            with pytest.raises(Interrupted):
                run(Stops())
            client.settle_interrupt()
            assert run(Recording()).failed == 0
        trees.same(files, home / "tree" if verb == "put" else tmp_path / "got")
        if verb == "get":
            os.chmod(tmp_path / "got" / "d3", 0o755)
    finally:
        interrupt.close()
    assert space(server).held == 0


# the whole job beforehand ------------------------------------------------------------------


@pytest.fixture
def small_server(start_server):
    """With room for 20 MiB."""
    return start_server(quota=20 * MIB, durable=False)


def test_what_cant_fit_is_refused_before_its_first_byte(small_server, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(3):
        (source / f"f{number}").write_bytes(bytes(7 * MIB))
    with through(small_server) as (proxy, client):
        with pytest.raises(QuotaExceeded, match="nothing was sent"):
            client.put([source], "/tree", recursive=True)
        assert proxy.passed("up") < OVERHEAD
        # nothing was begun: the same command is not one that goes on
        client.make_dir("/tree")
        os.unlink(source / "f0")
        assert client.put([source], "/tree", recursive=True).done == 2
        assert client.stat("/tree/source").type == "dir"


def test_what_an_earlier_try_holds_is_not_counted_against_it(small_server, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(content(15 * MIB))
    with through(small_server, retries=0) as (proxy, client):
        proxy.cut_after("up", 8 * MIB)
        with pytest.raises(ConnectionLost):
            client.put([source], "/file", recursive=True)
    with through(small_server) as (_, client):
        assert client.put([source], "/file", recursive=True).done == 1


def test_a_note_is_made_only_where_something_begins(tmp_path):
    note = Unfinished("put", "server", "source", "target")
    assert note.target(into=False) is False
    assert note.exists()
    assert note.target(into=True) is False  # gone on with
    note.complete()
    assert note.target(into=True) is True


def test_a_disk_that_fails_in_the_middle_of_a_frame_ends_the_connection(
    server, home, tmp_path, monkeypatch
):
    """The announced bytes cannot come: an error in their place would be taken for them."""
    monkeypatch.setattr(Channel, "is_local", False)
    source = tmp_path / "source"
    source.write_bytes(content(SIZE))
    with through(server, retries=0) as (_, client):
        client.put([source], "/file")  # with a digest, so that it is sent without a copy

        def fail(*_: object) -> int:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "sendfile", fail)
        with pytest.raises(ConnectionLost):
            client.get(["/file"], tmp_path / "got")
    assert not (tmp_path / "got").exists()


def test_an_atomic_tree_is_reported_once_it_is_there(server, home, files):
    """A loss in the middle begins anew: what was sent before counted for nothing."""
    reported = Recording()
    with through(server) as (proxy, client):
        proxy.cut_at("up", 3 * MIB, 20 * MIB)
        summary = client.put([files], "/tree", recursive=True, atomic=True, listener=reported)
    assert (summary.done, summary.failed) == (len(everything(files)), 0)
    assert reported.names == Counter(everything(files))
    trees.same(files, home / "tree")
    assert space(server).held == 0
    assert staged(server) == set()


def test_of_an_atomic_tree_that_failed_nothing_is_reported_as_done(server, home, files):
    os.mkfifo(files / "d0" / "fifo")
    (files / "d1" / "gone").symlink_to("/nonexistent")
    reported = Recording()
    with through(server) as (_, client):
        summary = client.put(
            [files], "/tree", recursive=True, atomic=True, copy_links=True, listener=reported
        )
    assert summary.failed and not summary.done
    assert "done" not in reported.statuses
    assert not (home / "tree").exists()
    after = space(server)
    assert (after.used, after.held) == (0, 0)
    assert staged(server) == set()


def test_a_closed_tree_is_exchanged_without_privileges(plain_user, server, home, tmp_path):
    """Moving a directory takes permission to write in it, which its mode may forbid."""
    with through(server) as (_, client):
        for seed in (1, 2, 3):
            source = tmp_path / f"v{seed}"
            source.mkdir()
            (source / "file").write_bytes(content(10, seed))
            os.chmod(source, 0o555)
            assert client.put([source], "/site", recursive=True, atomic=True).failed == 0
            trees.same(source, home / "site")
    assert staged(server) == set()


# before the first file -----------------------------------------------------------------------


@pytest.mark.parametrize("further", [3, 60])
@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_a_connection_that_is_lost_before_the_first_file(server, home, tmp_path, further, several):
    """While it is asked what the target is, what a pattern matches, whether there is room."""
    names = ["a", "b"] if several else ["a"]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    reported = Recording()
    with through(server) as (proxy, client):
        client.connect()
        proxy.cut_at("up", proxy.passed("up") + further)
        assert client.put([tmp_path / name for name in names], "/", listener=reported).failed == 0
        proxy.cut_at("up", proxy.passed("up") + further)
        target = tmp_path / "got"
        target.mkdir()
        assert client.get(["/[ab]"], target, listener=reported).failed == 0
        proxy.cut_at("up", proxy.passed("up") + further)
        client.retries = 0
        with pytest.raises(ConnectionLost):
            client.get(["/[ab]"], target)
    assert sorted(os.listdir(target)) == names
    assert reported.names == Counter(2 * [name.encode() for name in names])
