"""Interrupted uploads that the server keeps: listed, counted, dropped, whatever serves."""

from __future__ import annotations

import errno
import json
import os
import time

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from ftpclient.cli import render
from ftpclient.client import Client
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.known_hosts import KnownHosts
from ftpclient.shell.completion import ShellCompleter
from ftpserver.storage.home import Home
from ftpserver.storage.permissions import Permissions
from ftpserver.storage.resumable import Checkpoint, look_at
from ftpwire import messages
from ftpwire.errors import Busy, ConnectionLost, Forbidden, NotFound, ProtocolError
from ftpwire.frames import Kind
from ftpwire.messages import Put, Ready, SpaceInfo
from tests.ftpclient.aio.async_support import Blocking
from tests.peer import Peer, eventually

MIB = 1024 * 1024
TOTAL, SENT = 9 * MIB, 6 * MIB
DAY = 24 * 3600


def begin(peer: Peer, path: bytes, mtime_ns: int = 5) -> int:
    """Send a part of a large upload; its request."""
    number = peer.request(Put(path, TOTAL, mtime_ns=mtime_ns, ask=True, parents=True))
    ready = peer.answer().message
    assert isinstance(ready, Ready)
    for _ in range((SENT - ready.offset) // MIB):
        peer.frame(Kind.DATA, number, bytes(MIB))
    return number


def interrupt(peer: Peer, path: bytes, mtime_ns: int = 5) -> None:
    """The same, and give it up."""
    number = begin(peer, path, mtime_ns)
    peer.frame(Kind.CANCEL, number)
    assert peer.answer().message.code == "cancelled"


def names_in_staging(server) -> set[str]:
    found = set(os.listdir(server.settings.root / "alice" / ".ftpd-staging"))
    return {name for name in found if name.startswith("u-")}


def held(server) -> int:
    return server.service.ledger.space(server.accounts.get("alice").id).held


@pytest.fixture(params=["Client", "AsyncClient"])
def client(request, server, connect):
    return connect(server, kind=Client if request.param == "Client" else Blocking)


# what there is -----------------------------------------------------------------------------


def test_they_are_listed_with_what_is_known_of_them(client, server, dial):
    before = int(time.time())
    with dial(server) as peer:
        interrupt(peer, b"/big.iso")
        interrupt(peer, b"/deep/er/file")
    assert client.kept() and {one.path for one in client.kept()} == {b"/big.iso", b"/deep/er/file"}
    for one in client.kept():
        assert (one.size, one.total) == (SENT, TOTAL)
        assert before - 1 <= one.touched <= time.time() + 1
        assert abs(one.until - one.touched - 7 * DAY) < 60
    space = client.space()
    assert (space.held, space.kept, space.kept_uploads) == (2 * TOTAL, 2 * TOTAL, 2)


def test_there_are_none(client):
    assert client.kept() == []
    assert client.drop_kept() == messages.KeptDropped(0, 0)
    with pytest.raises(NotFound, match="/file: no upload is kept"):
        client.drop_kept("/file")


def test_one_that_is_under_way_is_none_of_them(client, server, dial):
    peer = dial(server)
    begin(peer, b"/file")
    assert client.kept() == []
    space = client.space()
    assert (space.held, space.kept, space.kept_uploads) == (TOTAL, 0, 0)


def test_those_of_other_accounts_are_not_seen(client, server, dial, connect):
    server.accounts.add("bob", "secret")
    with dial(server) as peer:
        interrupt(peer, b"/file")
    bob = connect(server, user="bob")
    assert bob.kept() == [] and bob.drop_kept().count == 0
    with pytest.raises(NotFound):
        bob.drop_kept("/file")
    assert len(client.kept()) == 1


def test_where_nothing_is_listed_no_names_are_reported(server, dial, connect):
    with dial(server) as peer:
        interrupt(peer, b"/in/file")
    server.accounts.change("alice", permissions=Permissions.parse("none /in=upload-only"))
    client = connect(server)
    (one,) = client.kept()
    assert (one.path, one.total) == (None, TOTAL)
    assert client.drop_kept("/in/file").count == 1


def test_a_long_list_comes_in_parts(client, server, dial, monkeypatch):
    from ftpserver.serving.exchange import Exchange

    monkeypatch.setattr(
        Exchange, "page_size", property(lambda self: 200, lambda self, _: None), raising=False
    )
    with dial(server) as peer:
        for number in range(4):
            interrupt(peer, b"/%d" % number)
    assert sorted(one.path for one in client.kept()) == [b"/0", b"/1", b"/2", b"/3"]


# dropping ----------------------------------------------------------------------------------


def test_one_is_dropped_by_its_path(client, server, dial):
    with dial(server) as peer:
        interrupt(peer, b"/file", mtime_ns=5)
        interrupt(peer, b"/file", mtime_ns=6)
        interrupt(peer, b"/other")
    assert client.drop_kept("file") == messages.KeptDropped(2, 2 * TOTAL)
    assert [one.path for one in client.kept()] == [b"/other"]
    assert held(server) == TOTAL and len(names_in_staging(server)) == 2


def test_only_that_of_a_source_is_dropped(server, dial):
    with dial(server) as peer:
        interrupt(peer, b"/file", mtime_ns=5)
        interrupt(peer, b"/file", mtime_ns=6)
        peer.request(messages.DropKept(b"/file", TOTAL, 5))
        assert peer.answer().message == messages.KeptDropped(1, TOTAL)
        peer.request(messages.DropKept(b"/file", TOTAL, 5))
        assert peer.answer().message.code == "not-found"
        peer.request(messages.DropKept(b"/file", TOTAL, 6))
        assert peer.answer().message.count == 1
    assert held(server) == 0 and names_in_staging(server) == set()


def test_all_are_dropped(client, server, dial):
    with dial(server) as peer:
        for name in (b"/a", b"/b"):
            interrupt(peer, name)
    assert client.drop_kept() == messages.KeptDropped(2, 2 * TOTAL)
    assert client.kept() == [] and names_in_staging(server) == set() and held(server) == 0


def test_what_a_session_writes_just_now_is_not_dropped(client, server, dial):
    with dial(server) as peer:
        interrupt(peer, b"/idle")
        interrupt(peer, b"/busy")
    writer = dial(server)
    begin(writer, b"/busy")
    with pytest.raises(Busy, match="/busy: a session is uploading it"):
        client.drop_kept("/busy")
    assert client.drop_kept() == messages.KeptDropped(1, TOTAL, under_way=1)
    assert held(server) == TOTAL and len(names_in_staging(server)) == 2


@pytest.mark.parametrize("kind", [Client, Blocking])
def test_of_two_to_a_path_only_the_one_that_is_kept_is_dropped(server, connect, dial, kind):
    with dial(server) as peer:
        interrupt(peer, b"/file", mtime_ns=5)
        interrupt(peer, b"/other")
    begin(dial(server), b"/file", mtime_ns=6)
    client = connect(server, kind=kind)
    assert client.drop_kept("/file") == messages.KeptDropped(1, TOTAL, under_way=1)
    with pytest.raises(Busy) as raised:
        client.drop_kept("/file")
    assert raised.value.path == b"/file"
    assert [one.path for one in client.kept()] == [b"/other"]


@pytest.mark.parametrize(
    "values",
    [
        {"upload": b"/file", "size": TOTAL},
        {"upload": b"/file", "mtime_ns": 5},
        {"size": TOTAL, "mtime_ns": 5},
    ],
)
def test_half_of_what_names_a_source_is_refused(server, dial, values):
    with dial(server) as peer:
        interrupt(peer, b"/file")
        failed = peer.ask(messages.DropKept(**values))
        assert failed.code == "bad-request" and "size and mtime_ns" in failed.message
        assert failed.path == values.get("upload")
        assert len(names_in_staging(server)) == 2


def test_one_that_is_taken_up_between_looking_and_dropping(client, server, dial):
    """Its lock decides."""
    import fcntl

    with dial(server) as peer:
        interrupt(peer, b"/file")
    (name,) = [one for one in names_in_staging(server) if not one.endswith(".ck")]
    with open(server.settings.root / "alice" / ".ftpd-staging" / name, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert client.drop_kept() == messages.KeptDropped(0, 0, 1)
        with pytest.raises(Busy):
            client.drop_kept("/file")
    assert client.drop_kept().count == 1


def test_what_was_dropped_is_sent_from_its_first_byte(client, server, dial, files, tmp_path):
    source = tmp_path / "file"
    source.write_bytes(bytes(TOTAL))
    os.utime(source, ns=(0, 5))
    with dial(server) as peer:
        interrupt(peer, b"/file")
    client.drop_kept("/file")
    assert client.put([source], "/file").done == 1
    assert (files / "file").read_bytes() == bytes(TOTAL) and held(server) == 0


def test_the_quota_has_space_again(start_server, connect, dial, tmp_path):
    server = start_server(quota=10 * MIB)
    client = connect(server)
    with dial(server) as peer:
        interrupt(peer, b"/file")
    (tmp_path / "other").write_bytes(bytes(2 * MIB))
    assert client.put([tmp_path / "other"], "/other").exit_code == 7
    client.drop_kept("/file")
    assert client.put([tmp_path / "other"], "/other").exit_code == 0


# whatever serves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"workers": 2}, marks=pytest.mark.system),
        pytest.param({"isolation": "process"}, marks=pytest.mark.system),
        {"unix": True},
    ],
)
def test_in_other_ways_of_serving(start_server, dial, connect, tmp_path, options):
    if "unix" in options:
        options = {"unix": tmp_path / "socket"}
    server = start_server(**options)
    with dial(server) as peer, dial(server) as busy:
        interrupt(peer, b"/file")
        interrupt(peer, b"/other")
        begin(busy, b"/busy")
        if "unix" in options:
            address = ServerAddress("", 0, "alice", path=str(options["unix"]))
            client = Client(
                address, password="secret", known_hosts=KnownHosts(tmp_path / "known_hosts")
            )
        else:
            client = connect(server)
        with client:
            assert {one.path for one in client.kept()} == {b"/file", b"/other"}
            assert {one.size for one in client.kept()} == {SENT}
            assert client.space().kept == 2 * TOTAL
            with pytest.raises(Busy):
                client.drop_kept("/busy")
            assert client.drop_kept("/file").count == 1
            assert client.drop_kept() == messages.KeptDropped(1, TOTAL, under_way=1)
            assert client.kept() == []
    eventually(lambda: held(server) == TOTAL)  # of the one whose connection was lost


def test_where_each_session_has_a_thread(start_server, dial, connect):
    server = start_server(threads=0)
    with dial(server) as peer:
        interrupt(peer, b"/file")
    client = connect(server)
    assert [one.path for one in client.kept()] == [b"/file"]
    assert client.drop_kept("/file").count == 1 and client.kept() == []


def test_on_a_disk_that_can_only_be_read(server, dial, connect, monkeypatch):
    """They are told without their paths, and cannot be dropped."""
    with dial(server) as peer:
        interrupt(peer, b"/file")

    def unwritable(self: Home) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Home, "_open_lock", unwritable)
    client = connect(server)
    (one,) = client.kept()
    assert (one.path, one.size, one.total) == (None, 0, TOTAL)
    for path in (None, "/file"):
        with pytest.raises(Forbidden, match="read-only"):
            client.drop_kept(path)
    assert held(server) == TOTAL and len(names_in_staging(server)) == 2


@pytest.mark.parametrize("kind", [Client, Blocking])
def test_a_lost_answer_to_a_drop_may_have_been_done(fake, kind):
    def script(peer):
        peer.greet(features=[messages.KEPT])
        peer.read()
        peer.reset()

    client = kind(fake(script).address, password="secret", plaintext=True)
    try:
        with pytest.raises(ConnectionLost, match="; it may have been done$"):
            client.drop_kept("/file")
    finally:
        client.close()


@pytest.mark.parametrize("kind", [Client, Blocking])
def test_a_list_that_breaks_off(fake, kind):
    def script(peer):
        peer.greet(features=[messages.KEPT])
        request = peer.read()
        peer.reply(request, messages.KeptUploads([messages.KeptUpload(b"/a", 1, 2, 3, 4)]))
        peer.reset()

    client = kind(fake(script).address, password="secret", plaintext=True)
    try:
        with pytest.raises(ConnectionLost) as caught:
            client.kept()
        assert "may have been" not in str(caught.value)
    finally:
        client.close()


# older servers, older files ----------------------------------------------------------------


def test_an_older_server(server, connect, monkeypatch):
    from ftpserver.serving import opening

    monkeypatch.setattr(opening, "FEATURES", ["pieces"])
    for kind in (Client, Blocking):
        client = connect(server, kind=kind)
        with pytest.raises(ProtocolError, match="this server is too old to list kept") as raised:
            client.kept()
        assert raised.value.exit_code == 10
        with pytest.raises(ProtocolError):
            client.drop_kept()
        assert client.whoami() == "alice", "the connection is as good as before"


def test_files_of_an_older_server_have_no_path(client, server, dial, monkeypatch):
    """They can be dropped all the same, and gone on with."""
    with monkeypatch.context() as patch:
        real = Checkpoint.__init__
        patch.setattr(
            Checkpoint, "__init__", lambda self, fd, name, target=b"": real(self, fd, name)
        )
        with dial(server) as peer:
            interrupt(peer, b"/a")
            interrupt(peer, b"/b")
            interrupt(peer, b"/c")
    assert [(one.path, one.size) for one in client.kept()] == [(None, SENT)] * 3
    assert client.drop_kept("/a").count == 1, "its name in staging is made of the path"
    peer = dial(server)
    number = peer.request(Put(b"/b", TOTAL, mtime_ns=5, ask=True, parents=True))
    assert peer.answer().message.offset == SENT
    peer.frame(Kind.CANCEL, number)
    peer.answer()
    assert {one.path for one in client.kept()} == {None, b"/b"}, "it is written down now"
    assert client.drop_kept().count == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty", "another-target"])
def test_a_damaged_checkpoint(client, server, dial, damage):
    with dial(server) as peer:
        interrupt(peer, b"/file")
    directory = server.settings.root / "alice" / ".ftpd-staging"
    (name,) = [one for one in names_in_staging(server) if one.endswith(".ck")]
    path = directory / name
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[:12])
        case "flipped":
            path.write_bytes(data[:11] + b"?" + data[12:])
        case "gone":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "another-target":
            fd = os.open(directory, os.O_RDONLY)
            try:
                other = Checkpoint(fd, os.fsencode(name), b"/another")
                other.write([])
                other.close()
            finally:
                os.close(fd)
    (one,) = client.kept()
    assert (one.path, one.size, one.total) == (None, 0, TOTAL)
    assert client.drop_kept().count == 1 and held(server) == 0


def test_a_staging_file_that_somebody_removed(client, server, dial):
    with dial(server) as peer:
        interrupt(peer, b"/file")
    for name in names_in_staging(server):
        (server.settings.root / "alice" / ".ftpd-staging" / name).unlink()
    (one,) = client.kept()
    assert (one.path, one.size, one.touched, one.total) == (None, 0, 0, TOTAL)
    assert client.drop_kept().size == TOTAL and held(server) == 0


def test_it_is_listed_after_a_restart(start_server, dial, connect):
    server = start_server()
    with dial(server) as peer:
        interrupt(peer, b"/file")
    start_server.finish(server)
    assert [one.path for one in connect(start_server()).kept()] == [b"/file"]


@pytest.mark.parametrize("target", [b"", b"/a", b"/" + b"x" * 4095])
def test_what_a_checkpoint_reports(tmp_path, target):
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "u-1").write_bytes(bytes(100))
        one = Checkpoint(fd, b"u-1.ck", target)
        one.write([(10, bytes(32)), (20, bytes(32))])
        one.append(30, bytes(32))
        assert one.read(100) == [(10, bytes(32)), (20, bytes(32)), (30, bytes(32))]
        one.close()
        found = look_at(fd, b"u-1")
        assert (found.target, found.size) == (target or None, 30)
        with (tmp_path / "u-1.ck").open("ab") as file:
            file.write(b"torn by a crash".ljust(48))
        assert look_at(fd, b"u-1").size == 30
        (tmp_path / "u-1.ck").unlink()
        os.mkfifo(tmp_path / "u-1.ck")  # by somebody who has the same home
        assert look_at(fd, b"u-1").size == 0
    finally:
        os.close(fd)


# the commands ------------------------------------------------------------------------------


@pytest.fixture
def kept(server, dial):
    """Two of them."""
    with dial(server) as peer:
        interrupt(peer, b"/big.iso")
        interrupt(peer, b"/dir/with blank")


def test_the_command(run, kept):
    status, out, err = run("kept")
    assert (status, err) == (0, "")
    lines = sorted(out.splitlines(), key=lambda line: line.split("  ")[-1])
    assert len(lines) == 2
    assert lines[0].endswith("  /big.iso") and lines[1].endswith("  /dir/with blank")
    assert all("6.0 MiB of 9.0 MiB" in line and " s old  until 20" in line for line in lines)
    assert run("kept /big.iso")[1].count("\n") == 1
    status, out, err = run("kept /nope /big.iso")
    assert (status, out.count("\n")) == (1, 1)
    assert err == "ftp: /nope: no upload is kept for it\n"
    assert run("kept /nope")[0] == 5


def test_as_json(run, kept):
    status, out, _ = run("kept --json")
    records = [json.loads(line) for line in out.splitlines()]
    assert status == 0 and {one["path"] for one in records} == {"/big.iso", "/dir/with blank"}
    for one in records:
        assert (one["size"], one["total"]) == (SENT, TOTAL)
        assert 0 <= one["age_seconds"] < 60 and one["until"].endswith("Z")
    status, out, err = run("kept --json --all")
    reported = {"dropped": 2, "size": 2 * TOTAL, "busy": 0, "under_way": 0}
    assert json.loads(out) == {"action": "kept-drop", "status": "done", "error": None} | reported
    assert (status, err) == (0, "")


@pytest.mark.parametrize(
    ("line", "left", "status", "reported"),
    [
        ("kept --drop /big.iso", 1, 0, "dropped 1 upload: 9.0 MiB freed\n"),
        ("kept --drop big.iso 'dir/with blank'", 0, 0, "dropped 2 uploads: 18.0 MiB freed"),
        ("kept --all", 0, 0, "dropped 2 uploads: 18.0 MiB freed\n"),
        ("kept --drop --all", 0, 0, "dropped 2 uploads"),
        ("kept --drop /nope", 2, 5, "ftp: /nope: no upload is kept for it\n"),
        ("kept --drop /nope /big.iso", 1, 1, "ftp: /nope: no upload is kept for it\n"),
        ("kept --drop", 2, 2, "--drop needs the PATH of an upload, or --all"),
        ("kept --all /big.iso", 2, 2, "--all and PATH cannot be used together"),
    ],
)
def test_dropping_by_command(app, run, kept, line, left, status, reported):
    found, out, err = run(line)
    assert (found, out) == (status, "")
    assert reported in err
    assert len(app.client.kept()) == left


ODD = [b"/a b", b"/[1].iso", b"/1.iso", b"/2.iso", b"/.hidden.iso", b"/d/3.iso", b"/\xff\n\x1bm"]


@pytest.fixture
def odd(server, dial):
    """Some with names that are patterns, or hidden, or no text."""
    with dial(server) as peer:
        for path in ODD:
            interrupt(peer, path)


@pytest.mark.parametrize(
    ("line", "named", "status"),
    [
        ("*.iso", {b"/[1].iso", b"/1.iso", b"/2.iso"}, 0),
        ("[1].iso", {b"/[1].iso"}, 0),  # there is one of this very name
        ("[2].iso", {b"/2.iso"}, 0),
        ("'[2].iso'", set(), 5),  # in quotes it is no pattern
        ("*/3.iso", {b"/d/3.iso"}, 0),
        (".*", {b"/.hidden.iso"}, 0),
        ("*.nope", set(), 5),
        ("*.nope 1.iso", {b"/1.iso"}, 1),
        (r"$'\xff\n\x1bm'", {b"/\xff\n\x1bm"}, 0),
    ],
)
def test_patterns_and_odd_names(app, run, odd, line, named, status):
    found, out, err = run(f"kept {line}")
    assert (found, len(out.splitlines())) == (status, len(named))
    assert "\x1b" not in out, "what came from the other side is shown escaped"
    assert ("no upload is kept" in err) == bool(status)
    found, _, err = run(f"kept --drop {line}")
    assert found == status and ("no upload is kept" in err) == bool(status)
    assert {one.path for one in app.client.kept()} == set(ODD) - named


def test_one_that_goes_on_is_said(app, run, kept, server, dial):
    begin(dial(server), b"/big.iso")
    status, _, err = run("kept --drop /big.iso")
    assert (status, err) == (Busy.exit_code, "ftp: /big.iso: a session is uploading it\n")
    status, _, err = run("kept --all")
    assert (status, err.splitlines()[1:]) == (0, ["1 running upload was not dropped"])


def test_completion(app, kept):
    def offered(text: str) -> list[str]:
        event = CompleteEvent(completion_requested=True)
        found = ShellCompleter(app).get_completions(Document(text), event)
        return [one.display_text for one in found]

    assert "kept" in offered("ke")
    assert offered("kept --drop ") == ["big.iso", "dir/"]
    assert offered("kept --drop /dir/w") == ["with blank"]
    assert set(offered("kept --")) >= {"--drop", "--all", "--json"}


# df ----------------------------------------------------------------------------------------


def test_df_names_what_is_kept(run, kept, server, dial):
    status, out, _ = run("df")
    assert status == 0
    assert (
        "18.0 MiB kept for 2 interrupted uploads (kept lists them, kept --drop removes them)\n"
        in out
    )
    assert "under way" not in out
    writer = dial(server)
    begin(writer, b"/third")
    out = run("df")[1]
    assert "\n9.0 MiB reserved for running uploads\n" in out and "18.0 MiB kept for 2" in out
    record = json.loads(run("df --json")[1])
    assert (record["held"], record["kept"], record["kept_uploads"]) == (
        3 * TOTAL,
        2 * TOTAL,
        2,
    )
    assert record["disk_free"] > 0


@pytest.mark.parametrize(
    ("space", "free"),
    [
        (
            SpaceInfo(0, 0, None, None, disk_free=5 * MIB),
            "free 5.0 MiB (limited by the server's disk)",
        ),
        (
            SpaceInfo(0, 0, 9 * MIB, 9 * MIB, disk_free=5 * MIB),
            "free 5.0 MiB (limited by the server's disk)",
        ),
        (SpaceInfo(0, 0, 3 * MIB, 3 * MIB, disk_free=5 * MIB), "free 3.0 MiB"),
        (SpaceInfo(0, 0, 3 * MIB, 3 * MIB), "free 3.0 MiB"),
        (SpaceInfo(0, 0), "free unlimited"),
    ],
)
def test_df_reports_the_space_that_is_the_bound(space, free):
    (line,) = render.space_lines(space)
    assert line.endswith(free)


def test_df_names_commands_as_they_are_typed():
    line = list(render.space_lines(SpaceInfo(0, held=5, kept=5, kept_uploads=1), "ftp {}".format))[
        -1
    ]
    assert line.endswith("(ftp kept lists them, ftp kept --drop removes them)")


def test_it_is_recorded(server, client, dial):
    with dial(server) as peer:
        interrupt(peer, b"/file")
    client.drop_kept("/file")
    client.drop_kept()

    def records() -> list[dict]:
        path = server.settings.state / "audit.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [one for one in map(json.loads, lines) if one["event"] == "drop-kept"]

    eventually(lambda: len(records()) == 2)
    first, second = records()
    assert (first["path"], first["bytes"], first["files"]) == ("/file", TOTAL, 1)
    assert "path" not in second and second["outcome"] == "ok"
