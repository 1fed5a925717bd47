"""Files that are written to while they are transferred, as logs and databases are."""

from __future__ import annotations

import os
import random

import pytest

from ftpclient.client import Client
from ftpclient.transfer import pieces
from ftpclient.transfer.report import Listener
from ftpserver.serving.exchange import Exchange
from ftpserver.workspace.reading import OpenFile
from ftpwire import beneath, digests, growing
from ftpwire.messages import Entry, Failed, Found, Get, Hash, Hashed, Sending, Stat
from tests.ftpclient.aio.async_support import Blocking

pytestmark = pytest.mark.usefixtures("client_is_local")


KIB, MIB = 1024, 1024 * 1024
SIZES = {"small": 10, "medium": 700 * KIB, "asks": 5 * MIB, "pieces": 20 * MIB}
DATA = random.Random(3).randbytes(SIZES["pieces"])
BEFORE = 10**18
MORE = b"one line more\n"


@pytest.fixture
def server(start_server):
    return start_server(durable=False)


@pytest.fixture
def home(server):
    directory = server.settings.root / "alice"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(params=["Client", "AsyncClient"])
def client(request, server, connect):
    return connect(server, kind=Client if request.param == "Client" else Blocking)


@pytest.fixture(params=SIZES)
def size(request) -> int:
    return SIZES[request.param]


def write(path, size: int):
    path.write_bytes(DATA[:size])
    os.utime(path, ns=(BEFORE, BEFORE))
    return path


# what happens to a file --------------------------------------------------------------------


def grow(path) -> None:
    with path.open("ab") as file:
        file.write(MORE)


def rewrite(path) -> None:
    """Other bytes at the beginning, at another time."""
    with path.open("r+b") as file:
        file.write(bytes(byte ^ 1 for byte in file.read(1)))
        file.seek(0)
        file.write(os.urandom(8))


def grow_and_rewrite(path) -> None:
    grow(path)
    rewrite(path)


def shorten(path) -> None:
    os.truncate(path, os.stat(path).st_size - 5)


OTHERS = [rewrite, grow_and_rewrite, shorten]


class Recording(Listener):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.results = []
        self.remarks = []

    def finished(self, result) -> None:
        self.results.append(result)

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    @property
    def result(self):
        (result,) = self.results
        return result


class Times:
    """Does something to a file, so many times at most."""

    def __init__(self, change, path, times: int = 1) -> None:
        self.change, self.path, self.left = change, path, times

    def __call__(self) -> None:
        if self.left:
            self.left -= 1
            self.change(self.path)


@pytest.fixture
def after_a_look(monkeypatch):
    """Has something done to what is put, between the look at its size and the first read."""

    def arrange(work) -> None:
        real = beneath.regular

        def regular(fd: int):
            info = real(fd)
            work()
            return info

        monkeypatch.setattr(beneath, "regular", regular)

    return arrange


@pytest.fixture
def after_the_last_byte(monkeypatch):
    """Has something done to what is put when all of it was read, before it is looked at again."""

    def arrange(work) -> None:
        real = growing.has_grown

        def has_grown(*arguments):
            work()
            return real(*arguments)

        monkeypatch.setattr(growing, "has_grown", has_grown)

    return arrange


@pytest.fixture
def while_sending(monkeypatch):
    """Has something done to what a server sends, once it has said how large that is."""

    def arrange(work) -> None:
        real = Exchange.send

        def send(self, message, *arguments):
            real(self, message, *arguments)
            if isinstance(message, Sending):
                work()

        monkeypatch.setattr(Exchange, "send", send)

    return arrange


def put(client, source, reported, target="/log"):
    return client.put([source], target, parallel=3, listener=reported)


def get(client, target, reported):
    return client.get(["/log"], target, parallel=3, listener=reported)


# put ---------------------------------------------------------------------------------------


def test_put_of_a_file_that_grows(client, home, tmp_path, size, after_a_look, monkeypatch):
    monkeypatch.setattr(pieces, "LEAST", 16 * MIB)
    source = write(tmp_path / "log", size)
    after_a_look(Times(grow, source))
    reported = Recording()
    assert put(client, source, reported).exit_code == 0
    stored = home / "log"
    assert stored.read_bytes() == DATA[:size]
    assert stored.stat().st_mtime_ns == BEFORE, "it is as it was when it was opened"
    assert f"first {size} bytes" in reported.result.remark
    assert reported.result.digest == digests.digest(DATA[:size]) and reported.remarks == []


@pytest.mark.parametrize("change", OTHERS)
@pytest.mark.parametrize("size", [size for size in SIZES.values() if size > 256 * KIB])
def test_put_of_a_file_that_changes_once(client, home, tmp_path, size, after_the_last_byte, change):
    source = write(tmp_path / "log", size)
    after_the_last_byte(Times(change, source))
    reported = Recording()
    assert put(client, source, reported).exit_code == 0
    assert (home / "log").read_bytes() == source.read_bytes() != DATA[:size]
    assert (home / "log").stat().st_mtime_ns == source.stat().st_mtime_ns
    assert reported.result.remark is None
    assert reported.remarks == [f"{source}: changed while it was read; trying again"]


@pytest.mark.parametrize("change", OTHERS)
def test_put_of_a_file_that_changes_again(
    client, server, home, tmp_path, after_the_last_byte, change
):
    source = write(tmp_path / "log", SIZES["asks"] + 100)
    after_the_last_byte(Times(change, source, 2))
    reported = Recording()
    assert put(client, source, reported).exit_code == 1
    assert reported.result.error.code == "source-changed"
    assert str(source) in str(reported.result.error)
    assert not (home / "log").exists()
    account = server.accounts.get("alice").id
    assert server.service.ledger.space(account).held == 0, "nothing goes on with what came of it"
    assert put(client, source, Recording()).exit_code == 0
    assert (home / "log").read_bytes() == source.read_bytes()
    assert server.service.ledger.space(account).held == 0


def test_put_of_a_small_file_that_becomes_shorter_once(client, home, tmp_path, after_a_look):
    source = write(tmp_path / "log", 100)
    after_a_look(Times(shorten, source))
    assert put(client, source, Recording()).exit_code == 0
    assert (home / "log").read_bytes() == DATA[:95]


def test_put_of_a_small_file_that_becomes_shorter_each_time(client, home, tmp_path, after_a_look):
    source = write(tmp_path / "log", 100)
    after_a_look(Times(shorten, source, 2))
    reported = Recording()
    assert put(client, source, reported).exit_code == 1
    assert reported.result.error.code == "source-changed" and not (home / "log").exists()


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_tree_with_files_that_grow(client, home, tmp_path, monkeypatch, parallel):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, size in SIZES.items():
        write(tree / name, size)
    real = beneath.regular

    def regular(fd: int):
        info = real(fd)
        grow(tree / os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        return info

    monkeypatch.setattr(beneath, "regular", regular)
    reported = Recording()
    summary = client.put([tree], "/tree", recursive=True, parallel=parallel, listener=reported)
    assert (summary.done, summary.failed) == (len(SIZES), 0)
    for name, size in SIZES.items():
        assert (home / "tree" / name).read_bytes() == DATA[:size]
    assert sum(result.remark is not None for result in reported.results) == len(SIZES)


def test_an_atomic_tree_keeps_the_remark(client, tmp_path, after_a_look):
    tree = tmp_path / "tree"
    tree.mkdir()
    after_a_look(Times(grow, write(tree / "log", 10)))
    reported = Recording()
    assert client.put([tree], "/t", recursive=True, atomic=True, listener=reported).exit_code == 0
    assert reported.result.remark is not None


# get ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [False, True], ids=["new", "digest-kept"])
def test_get_of_a_file_that_grows(client, home, tmp_path, size, while_sending, kept):
    path = write(home / "log", size)
    if kept:
        client.hash("/log")
    while_sending(Times(grow, path))
    reported = Recording()
    assert get(client, tmp_path / "got", reported).exit_code == 0
    assert (tmp_path / "got").read_bytes() == DATA[:size]
    assert (tmp_path / "got").stat().st_mtime_ns == BEFORE
    assert f"first {size} bytes" in reported.result.remark and reported.remarks == []


@pytest.mark.parametrize("change", [rewrite, grow_and_rewrite])
def test_get_of_a_file_that_changes_once(client, home, tmp_path, size, while_sending, change):
    """What was sent of it is a mixture, or may be one."""
    path = write(home / "log", size)
    while_sending(Times(change, path))
    reported = Recording()
    summary = get(client, tmp_path / "got", reported)
    assert summary.exit_code == 0, reported.result
    assert reported.remarks in ([], ["/log: changed while it was read; trying again"])
    got = (tmp_path / "got").read_bytes()
    if reported.remarks:
        assert got == path.read_bytes()
        assert (tmp_path / "got").stat().st_mtime_ns == path.stat().st_mtime_ns
    else:  # it was rewritten before its first byte was read: what came is one state of it
        assert change is grow_and_rewrite and got == path.read_bytes()[:size]


def test_get_of_a_file_that_changes_again(client, home, tmp_path, size, while_sending):
    path = write(home / "log", size)
    while_sending(Times(rewrite, path, 100))
    reported = Recording()
    assert get(client, tmp_path / "got", reported).exit_code == 1
    assert reported.result.error.code == "source-changed" and len(reported.remarks) == 1
    assert not (tmp_path / "got").exists()
    assert [name for name in os.listdir(tmp_path) if name.startswith(".ftp-")] == []


@pytest.mark.parametrize("parallel", [1, 3])
@pytest.mark.parametrize("change", [grow, rewrite])
def test_a_remote_tree_whose_files_change(client, home, tmp_path, monkeypatch, parallel, change):
    (home / "tree").mkdir()
    for number in range(20):
        write(home / "tree" / f"{number:02}", 1000 + number)
    os.utime(home / "tree", ns=(BEFORE, BEFORE))
    changed = set()
    real = Exchange.send

    def send(self, message, *arguments):
        real(self, message, *arguments)
        if isinstance(message, Sending) and message.size not in changed:
            changed.add(message.size)
            change(home / "tree" / f"{message.size - 1000:02}")

    monkeypatch.setattr(Exchange, "send", send)
    reported = Recording()
    target = tmp_path / "got"
    summary = client.get(["/tree"], target, recursive=True, parallel=parallel, listener=reported)
    assert (summary.done, summary.failed) == (20, 0)
    assert target.stat().st_mtime_ns == BEFORE, "its time comes after its last file"
    for number in range(20):
        got = (target / f"{number:02}").read_bytes()
        there = (home / "tree" / f"{number:02}").read_bytes()
        assert got == (there[: 1000 + number] if change is grow else there)


def test_a_stream_of_a_file_that_grows(client, home, while_sending):
    path = write(home / "log", 10)
    while_sending(Times(grow, path))
    reading, writing = os.pipe()
    try:
        assert client.get_stream("/log", writing) == (10, digests.digest(DATA[:10]))
        assert os.read(reading, 100) == DATA[:10]
    finally:
        os.close(reading)
        os.close(writing)


def test_an_older_server_that_refuses_it(fake, connect, tmp_path):
    """It is asked once more, and then believed."""
    requested = []

    def serve(peer):
        peer.greet()
        while True:
            frame = peer.read()
            if isinstance(frame.message, Stat):
                peer.reply(frame, Found(Entry(b"/log", "file", 3, 0o644, 5)))
                continue
            assert isinstance(frame.message, Get)
            requested.append(frame.message)
            peer.reply(frame, Sending(3, 0o644, 5))
            peer.reply(frame, Failed("source-changed", "/log: changed while it was read"))

    reported = Recording()
    assert get(connect(fake(serve)), tmp_path / "got", reported).exit_code == 1
    assert reported.result.error.code == "source-changed" and len(requested) == 2


# sync --------------------------------------------------------------------------------------


def test_sync_of_a_file_that_grows(client, home, tmp_path, after_a_look):
    source = tmp_path / "tree"
    source.mkdir()
    log = write(source / "log", SIZES["asks"])
    after_a_look(Times(grow, log))
    reported = Recording()
    assert client.sync(source, ":/tree", listener=reported).exit_code == 0
    assert (home / "tree" / "log").read_bytes() == DATA[: SIZES["asks"]]
    assert [result.remark is not None for result in reported.results if result.step.action == "put"]
    assert client.sync(source, ":/tree").sent == 1, "the rest comes with the next one"
    assert (home / "tree" / "log").read_bytes() == log.read_bytes()
    assert client.sync(source, ":/tree").sent == 0


@pytest.mark.parametrize("change", [grow, rewrite])
def test_sync_from_the_server(client, home, tmp_path, while_sending, change):
    (home / "tree").mkdir()
    log = write(home / "tree" / "log", 1000)
    while_sending(Times(change, log))
    assert client.sync(":/tree", tmp_path / "got").exit_code == 0
    got = (tmp_path / "got" / "log").read_bytes()
    assert got == (DATA[:1000] if change is grow else log.read_bytes())
    client.sync(":/tree", tmp_path / "got")
    assert (tmp_path / "got" / "log").read_bytes() == log.read_bytes()


# hash, cp ----------------------------------------------------------------------------------


@pytest.fixture
def before_the_check(monkeypatch):
    """Has something done on the server between the last read and the look at what changed."""

    def arrange(work) -> None:
        real = OpenFile.has_grown

        def late(*arguments):
            work()
            return real(*arguments)

        monkeypatch.setattr(OpenFile, "has_grown", late)

    return arrange


def test_hash_of_a_file_that_grows(server, home, dial, before_the_check):
    before_the_check(Times(grow, write(home / "log", 1000)))
    peer = dial(server)
    assert peer.ask(Hash(b"/log")) == Hashed(digests.digest(DATA[:1000]), 1000)
    whole = (home / "log").read_bytes()
    assert peer.ask(Hash(b"/log")) == Hashed(digests.digest(whole), len(whole)), "it isn't kept"


@pytest.mark.parametrize(("times", "code"), [(1, None), (2, "source-changed")])
def test_hash_of_a_file_that_changes(server, home, dial, before_the_check, times, code):
    before_the_check(Times(rewrite, write(home / "log", 1000), times))
    answer = dial(server).ask(Hash(b"/log"))
    if code is not None:
        assert answer.code == code
    else:
        assert answer == Hashed(digests.digest((home / "log").read_bytes()), 1000)


@pytest.mark.parametrize("kept", [False, True], ids=["new", "digest-kept"])
def test_copy_of_a_file_that_grows(client, home, before_the_check, kept):
    path = write(home / "log", 1000)
    if kept:
        client.hash("/log")
    before_the_check(Times(grow, path))
    client.copy("/log", "/copy")
    assert (home / "copy").read_bytes() == DATA[:1000]
    assert (home / "copy").stat().st_mtime_ns == BEFORE


@pytest.mark.parametrize("kept", [False, True], ids=["new", "digest-kept"])
def test_copy_of_a_file_that_is_rewritten_meanwhile(client, home, before_the_check, kept):
    path = write(home / "log", 1000)
    if kept:
        client.hash("/log")
    work = Times(rewrite, path)
    before_the_check(work)
    client.copy("/log", "/copy")
    assert (home / "copy").read_bytes() == path.read_bytes()
    assert work.left == 0
