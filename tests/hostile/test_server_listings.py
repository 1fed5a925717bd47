"""A listing without end: it fills no disk, and Ctrl-C ends it soon.

Lives here: temporary files and memory of listings, giving a listing up.
Lives elsewhere: listings without end in memory (test_hostile_server.py).
"""

from __future__ import annotations

import gc
import itertools
import os
import tracemalloc
from contextlib import closing
from functools import partial
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from ftpclient import errors
from ftpclient.cli.app import App
from ftpclient.cli.commands import browsing
from ftpclient.client import Client
from ftpclient.connection import driver, protocol
from ftpclient.connection.connection import Connection
from ftpclient.connection.interrupt import Interrupt
from ftpclient.shell.running import run_line
from ftpclient.sync import deletions
from ftpclient.sync.job import Options as SyncOptions
from ftpclient.transfer import listing, spool
from ftpwire.errors import FtpError, Interrupted
from ftpwire.frames import Kind
from ftpwire.messages import (
    KEPT,
    TRASH,
    Entry,
    Failed,
    KeptUpload,
    KeptUploads,
    List,
    Listed,
    ListKept,
    ListTrash,
    Page,
    Stat,
    TrashedOperation,
    TrashItem,
    TrashPage,
)
from tests.ftpclient.aio.async_support import Blocking
from tests.lying_server import LyingServer, dir_entry, file_entry, link_entry
from tests.peer import Frame, Peer


def endless_server(served: list[int]) -> LyingServer:
    """It goes on listing one directory, whatever the client says; ``served`` counts pages."""

    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, List):
            return False
        for number in itertools.count():
            names = [b"%09d-%d" % (number, one) for one in range(100)]
            peer.reply(requested, Page(b"", [file_entry(name, digest=bytes(32)) for name in names]))
            served.append(number)
        return True

    return LyingServer(root=dir_entry, ask=ask)


@pytest.fixture
def space(monkeypatch, tmp_path):
    """The room of a disk, which can be set; listings go there soon, and look at it often."""
    space = SimpleNamespace(f_blocks=1000, f_bavail=500, looks=0)

    class Os:
        def __getattr__(self, name: str):
            return getattr(os, name)

        def statvfs(self, path: object) -> SimpleNamespace:
            space.looks += 1
            if space.looks > 20:
                space.f_bavail = 99
            return space

    monkeypatch.setattr(spool, "os", Os())
    monkeypatch.setattr(spool, "_IN_MEMORY", 1000)
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"in_memory": 1000})
    monkeypatch.setattr(spool, "_LOOK_EACH", 5000)
    monkeypatch.setattr(spool, "_RUN", 500)
    monkeypatch.setattr(spool, "_LOOK_EACH_ROWS", 500)
    monkeypatch.setattr(spool.Table.__init__, "__kwdefaults__", {"in_memory": 200})
    monkeypatch.setattr(protocol, "_CANCEL_SECONDS", 0.05)
    return space


def get(client, tmp_path):
    return client.get(["/tree"], str(tmp_path / "target"), recursive=True)


def sync(client, tmp_path):
    (tmp_path / "target").mkdir(exist_ok=True)
    return client.sync(b":/tree", os.fsencode(tmp_path / "target"), SyncOptions(force=True))


def ls(client, tmp_path):
    return list(spool.sort(client.list_dir("/tree"), lambda entry: entry.path))


def put(client, tmp_path):
    (tmp_path / "source").mkdir()
    return client.put([str(tmp_path / "source")], "/tree", recursive=True)


@pytest.mark.parametrize("verb", [get, sync, ls, put])
def test_it_ends_when_the_disk_gets_full(fake, connect, tmp_path, space, verb):
    client = connect(fake(endless_server([])), retries=0)
    with pytest.raises(FtpError) as caught:
        verb(client, tmp_path)
    assert caught.value.exit_code == 7
    assert "TMPDIR" in str(caught.value)
    assert 20 < space.looks < 30


def test_a_listing_with_an_end_is_taken(fake, connect, tmp_path, space):
    """The control: the same disk, and not as many pages."""
    pages = [
        Page(b"", [file_entry(b"%d-%d" % (page, one)) for one in range(30)], [], page == 9)
        for page in range(10)
    ]
    assert get(connect(fake(LyingServer(pages=pages)), retries=0), tmp_path).done == 300
    assert 0 < space.looks <= 20


def test_writing_that_fails_for_want_of_space(monkeypatch):
    one = spool.Spool(Page)

    def full(data: bytes) -> int:
        raise OSError(spool.errno.ENOSPC, "full")

    monkeypatch.setattr(one._file, "write", full)
    with pytest.raises(spool.SpoolFull) as caught:
        one.add(Page())
    assert caught.value.exit_code == 7
    one.close()


@pytest.mark.parametrize("verb", [get, sync])
def test_ctrl_c_waits_for_no_listing(fake, connect, tmp_path, monkeypatch, verb):
    """A server that goes on listing isn't waited for as one that ends an upload is."""
    waited = []
    cancel = Connection._cancel_calls

    def note(self, calls, seconds: float) -> None:
        if calls:
            waited.append(seconds)
        cancel(self, calls, 0.05)

    monkeypatch.setattr(Connection, "_cancel_calls", note)
    interrupt, served = Interrupt(), []

    class Served(list):
        def append(self, number: int) -> None:
            served.append(number)
            if number == 20:
                interrupt.set()

    try:
        client = connect(fake(endless_server(Served())), retries=0, interrupt=interrupt)
        with pytest.raises(Interrupted):
            verb(client, tmp_path)
        client.settle_interrupt()
        client.close()
    finally:
        interrupt.close()
    assert waited and max(waited) <= 0.5


def test_an_upload_is_waited_for_as_before():
    """The control: its end tells the server to keep what it got."""
    upload = protocol.Call()
    assert protocol.seconds_to_end([upload]) == protocol._CANCEL_SECONDS


# memory ----------------------------------------------------------------------------------------

_MANY = 3000


def many(make) -> list[Page]:
    """A directory with many entries, made before anybody measures."""
    names = [b"%05d-%s" % (number, b"long name" * 10) for number in range(_MANY)]
    return [
        Page(b"", [make(name) for name in names[at : at + 100]], [], at + 100 == _MANY)
        for at in range(0, _MANY, 100)
    ]


def a_link(name: bytes) -> Entry:
    return link_entry(name, b"target")


def sync_new(client, tmp_path):
    client.sync(b":/tree", os.fsencode(tmp_path / "new"), SyncOptions(dry_run=True))


def sync_doomed(client, tmp_path):
    """With a pattern: something in a directory that is deleted may have to stay."""
    (tmp_path / "empty").mkdir(exist_ok=True)
    options = SyncOptions(delete=True, force=True, dry_run=True, patterns=((True, "nothing"),))
    client.sync(os.fsencode(tmp_path / "empty"), b":/tree", options)


def walk(client, tmp_path):
    assert sum(len(entries) for _, entries in client.walk("/tree")) in (0, _MANY)


def line(text: str):
    """A line of the shell."""

    def run(client, tmp_path):
        app = App(server=str(client.address))
        app._client = client
        try:
            assert run_line(app, text) == 0
        finally:
            app.interrupt.close()

    return run


LISTERS = {
    "sync-new-links": (sync_new, a_link),
    "sync-new-directories": (sync_new, dir_entry),
    "sync-doomed-files": (sync_doomed, file_entry),
    "sync-doomed-directories": (sync_doomed, dir_entry),
    "get-directories": (get, dir_entry),
    "put": (put, file_entry),
    "walk": (walk, file_entry),
    "ls": (line("ls -C /tree"), file_entry),
    "find": (line("find /tree -name x"), file_entry),
    "du": (line("du /tree"), file_entry),
}


@pytest.fixture
def most_memory(fake, connect, tmp_path):
    """The most bytes that Python had while something was listed."""

    def measure(lister: str) -> int:
        run, make = LISTERS[lister]
        first, tree = tmp_path / "first", tmp_path / "tree"
        first.mkdir()
        tree.mkdir()
        run(connect(fake(LyingServer()), retries=0), first)  # modules are loaded
        client = connect(fake(LyingServer(pages=many(make))), retries=0)
        gc.collect()
        tracemalloc.start()
        try:
            run(client, tree)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    return measure


@pytest.fixture
def in_small_parts(monkeypatch):
    """Few pages are taken from the connection at a time: what is on its way is no listing."""
    monkeypatch.setattr(driver, "_FRAMES_AT_ONCE", 4)
    monkeypatch.setattr(listing, "_AHEAD", 4)


@pytest.fixture
def little(in_small_parts, monkeypatch):
    """Few names are kept in memory, and the disk has room."""
    monkeypatch.setattr(spool.Spool.__init__, "__kwdefaults__", {"in_memory": 1000})
    monkeypatch.setattr(spool.Table.__init__, "__kwdefaults__", {"in_memory": 100})
    monkeypatch.setattr(spool, "_RUN", 200)
    monkeypatch.setattr(spool, "_CHUNK", 20)
    monkeypatch.setattr(browsing, "_IN_COLUMNS", 100)
    monkeypatch.setattr(deletions, "_MOST_MISSING", 100)


@pytest.mark.parametrize("lister", LISTERS)
def test_a_long_directory_is_not_kept_in_memory(most_memory, little, lister):
    assert most_memory(lister) < 600_000


@pytest.mark.parametrize("lister", ["sync-doomed-files", "get-directories", "ls"])
def test_what_is_kept_in_memory_shows(most_memory, in_small_parts, lister):
    """The control: the same listings, kept in memory."""
    assert most_memory(lister) > 600_000


# what is given as a whole ----------------------------------------------------------------------


def fsspec_of(client):
    found = pytest.importorskip("ftpclient.fsspec").FtpFileSystem(
        str(client.address), plaintext=True, skip_instance_cache=True
    )
    found.client.close()
    found.client = client
    return found


def endless_uploads(peer: Peer, requested: Frame) -> None:
    while True:
        uploads = [KeptUpload(b"/%d" % number, 1, 2, 3, 4) for number in range(100)]
        peer.reply(requested, KeptUploads(uploads))


def endless_trash(peer: Peer, requested: Frame) -> None:
    name = "0123456789abcdef-01234567"
    operation = TrashedOperation(name, 1, "rm", None, None, 1, 1, 1, 1, True, False, b"/a")
    item = TrashItem("01234567-0", "removed", b"/a", "file", 1, 1, 1, "kept", 1)
    while True:
        if requested.message.items:
            peer.reply(requested, TrashPage([], name, [item] * 100))
        else:
            peer.reply(requested, TrashPage([operation] * 100))


WHOLE = {
    "glob": lambda client, here: client.glob("/tree/*"),
    "get-pattern": lambda client, here: client.get(["/tree/*"], str(here)),
    "fsspec-ls": lambda client, here: fsspec_of(client).ls("/tree"),
    "fsspec-find": lambda client, here: fsspec_of(client).find("/tree"),
    "kept": lambda client, here: client.kept(),
    "trash": lambda client, here: client.trash(),
    "trash-items": lambda client, here: client.trash_items(),
    "versions": lambda client, here: client.versions("/a"),
    "undo": lambda client, here: client.undo(),
}


@pytest.fixture
def endless(fake, monkeypatch):
    """A server that lists directories, kept uploads and its trash without end."""
    monkeypatch.setattr(spool, "_MOST_HELD", 100_000)
    monkeypatch.setattr(protocol, "_CANCEL_SECONDS", 0.05)
    listing = endless_server([])

    def ask(peer: Peer, requested: Frame) -> bool:
        if isinstance(requested.message, ListKept):
            endless_uploads(peer, requested)
        if isinstance(requested.message, ListTrash):
            endless_trash(peer, requested)
        if isinstance(requested.message, Stat) and b"*" in requested.message.path:
            peer.reply(requested, Failed("not-found", "nothing"))
            return True
        return listing.ask(peer, requested)

    greet = partial(Peer.greet, features=[KEPT, TRASH])
    return fake(LyingServer(root=dir_entry, ask=ask, greet=greet))


def ends_with_7(verb) -> None:
    with pytest.raises(FtpError) as caught:
        verb()
    assert isinstance(caught.value, errors.TooLong)
    assert isinstance(caught.value, errors.FtpError)  # as all that verbs raise
    assert caught.value.exit_code == 7


@pytest.mark.parametrize("what", WHOLE)
def test_a_result_without_end_ends_with_7(endless, connect, tmp_path, what):
    client = connect(endless, retries=0)
    ends_with_7(lambda: WHOLE[what](client, tmp_path))


@pytest.mark.parametrize("what", ["glob", "kept", "trash", "undo"])
def test_so_does_one_of_an_event_loop(endless, connect, tmp_path, what):
    client = connect(endless, retries=0, kind=Blocking)
    ends_with_7(lambda: WHOLE[what](client, tmp_path))


OPERATION = TrashedOperation(
    "0123456789abcdef-01234567", 1, "rm", None, None, 1, 1, 1, 1, True, False, b"/a"
)
ITEM = TrashItem("01234567-0", "removed", b"/a", "file", 1, 1, 1, "kept", 1)


@pytest.mark.parametrize(
    "page",
    [
        TrashPage([structs.replace(OPERATION, name="\x1b[31m")]),
        TrashPage([structs.replace(OPERATION, name="../../0123456789abcdef-01234567")]),
        TrashPage([structs.replace(OPERATION, first=b"a")]),
        TrashPage([], None, [ITEM]),
        TrashPage([], OPERATION.name, [structs.replace(ITEM, name="../x")]),
        TrashPage([], OPERATION.name, [structs.replace(ITEM, path=b"/a/..")]),
        TrashPage([], OPERATION.name, [structs.replace(ITEM, path=b"")]),
        TrashPage([], OPERATION.name, [structs.replace(ITEM, path=b"//a")]),
        TrashPage([], OPERATION.name, [structs.replace(ITEM, target=b"a/")]),
        TrashPage([], OPERATION.name, [structs.replace(ITEM, within=b"/.")]),
    ],
)
def test_what_can_be_no_trash(fake, connect, page):
    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, ListTrash):
            return False
        peer.reply(requested, page)
        peer.frame(Kind.END, requested.request_id, Listed())
        return True

    server = LyingServer(root=dir_entry, ask=ask, greet=partial(Peer.greet, features=[TRASH]))
    client = connect(fake(server), retries=0)
    with pytest.raises(errors.BadMessage, match="unusable|without their operation"):
        client.trash_items()


@pytest.mark.parametrize("kind", [Client, Blocking])
def test_of_a_stream_only_what_is_taken_is_kept(endless, connect, kind):
    client = connect(endless, kind=kind)
    entries = client.list_dir("/tree")
    assert len(list(itertools.islice(entries, 250))) == 250
    entries.close()


def test_a_result_with_an_end_is_given(fake, connect, monkeypatch):
    """The control: as many as there is room for."""
    monkeypatch.setattr(spool, "_MOST_HELD", 100_000)
    pages = [Page(b"", [file_entry(b"%d" % one) for one in range(50)], [], True)]
    there = {b"/tree/*": None}
    server = LyingServer(pages=pages, root=lambda path: there.get(path, dir_entry(path)))
    client = connect(fake(server), retries=0)
    assert len(client.glob("/tree/*")) == 50
    assert len(fsspec_of(client).ls("/tree")) == 50


# tables ----------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["set", "update", "pop", "take", "get"]),
            st.integers(0, 8),
            st.integers(1, 9),
        )
    ),
    st.integers(1, 4),
)
def test_a_table_is_a_dictionary(steps, in_memory):
    with closing(spool.Table(Page, in_memory=in_memory)) as table:
        model: dict[bytes, Page] = {}
        for step, number, value in steps:
            name = b"%d" % number
            if step == "set":
                table[name] = model[name] = Page(b"%d" % value)
            elif step == "update":
                many = {name: Page(b"%d" % value), b"%d" % (number + 1): Page(b"many")}
                table.update(many)
                model.update(many)
            elif step == "take":
                assert table.taker(name, None) == model.pop(name, None)
            elif step == "pop":
                assert table.pop(name) == model.pop(name, None)
            assert table.get(name) == model.get(name)
            assert (name in table) == (name in model)
            assert dict(table.items()) == model
            assert bool(table) == bool(model)
            assert len(list(table.items())) == len(model)


def test_a_table_that_has_no_space(monkeypatch):
    with closing(spool.Table(Page, in_memory=1)) as table:
        table[b"first"] = Page()
        assert table._stored is not None
        table._stored.run("PRAGMA max_page_count = 3")
        with pytest.raises(spool.SpoolFull) as caught:
            for number in range(1000):
                table[b"%d" % number] = Page(b"long" * 100)
        assert caught.value.exit_code == 7
