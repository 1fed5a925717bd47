"""Small files that come together: the same is here then as if each had come by itself."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ftpclient.sync.plan import Options as SyncOptions
from ftpclient.transfer import get_files, run_size, whole_file
from ftpclient.transfer.report import Listener
from ftpserver.serving import opening
from ftpserver.serving.commands import COMMANDS, transfers
from ftpwire import messages, paths
from ftpwire.digests import digest
from ftpwire.errors import StoredFileDamaged
from ftpwire.frames import Kind
from ftpwire.messages import MANY_FILES, Get, GetFiles, Page, SendingFiles, Sent, SentFile
from tests.lying_server import LyingServer, file_entry

TIME = 1_600_000_000_123_456_789


class Recording(Listener):
    def __init__(self) -> None:
        self.results = []
        self.moved = self.files = self.size = 0

    def totals(self, files: int, size: int) -> None:
        self.files += files
        self.size += size

    def advanced(self, count: int) -> None:
        self.moved += count

    def finished(self, result) -> None:
        self.results.append(result)


def make(path: Path, data: bytes, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    os.utime(path, ns=(TIME, TIME + len(data)))
    return path


def tree(top: Path, count: int = 60) -> Path:
    """Small files, some that are not, links, empty directories."""
    for number in range(count):
        data = b"%d " % number * (number * 7)
        make(top / f"d{number % 7}" / f"{number}", data, 0o600 + number % 64)
    make(top / "deep" / "er" / "still" / "file", b"deep")
    make(top / "large", bytes(300_000))
    make(top / "edge", bytes(run_size.MOST_EACH))
    make(top / "beyond", bytes(run_size.MOST_EACH + 1))
    make(top / 'é \n"x"', b"")
    (top / os.fsdecode(b"no\xffutf8")).write_bytes(b"x")
    (top / "link").symlink_to("large")
    (top / "empty").mkdir()
    (top / "d3").chmod(0o750)
    os.utime(top / "deep", ns=(TIME, TIME))
    return top


def looks(top: Path) -> dict[str, tuple]:
    """All that a transfer keeps of a tree."""
    found = {}
    for path in (top, *sorted(top.rglob("*"))):
        info = path.lstat()
        if path.is_symlink():
            found[str(path.relative_to(top))] = (os.readlink(path), info.st_mtime_ns)
        else:
            content = path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(top))] = (info.st_mode, info.st_mtime_ns, content)
    return found


def test_no_item_is_larger_than_what_it_counts_for():
    name, path = b"n" * paths.MAX_NAME, b"/" * paths.MAX_PATH
    files = [messages.WantedFile(name, 2**63 - 1)] * messages.MAX_ITEMS
    request = GetFiles([messages.WantedFiles(path, files)])
    assert len(messages.encode(files[0])) - len(name) <= get_files._OVERHEAD
    assert len(messages.encode(messages.WantedFiles(path, []))) - len(path) <= get_files._OVERHEAD
    counted = messages.MAX_ITEMS * len(name) + len(path)
    assert len(messages.encode(request)) <= counted + (len(files) + 1) * get_files._OVERHEAD


@pytest.fixture
def requested(monkeypatch):
    """What this side's servers were asked for, by type."""
    found = {Get: [], GetFiles: []}
    for kind, name in ((Get, "get"), (GetFiles, "get_files")):
        real = getattr(transfers, name)

        def ask(exchange, workspace, request, real=real, kind=kind):
            found[kind].append(request)
            return real(exchange, workspace, request)

        command = COMMANDS[kind]
        monkeypatch.setitem(COMMANDS, kind, type(command)(**vars(command) | {"run": ask}))
    return found


@pytest.fixture
def without_feature(monkeypatch):
    monkeypatch.setattr(opening, "FEATURES", [f for f in opening.FEATURES if f != MANY_FILES])


def names_of(requests) -> list[bytes]:
    return [
        one.path.rstrip(b"/") + b"/" + file.name
        for request in requests
        for one in request.directories
        for file in one.files
    ]


WAYS = {
    "get": lambda client, source, target, **options: client.get(
        [source], target, recursive=True, **options
    ),
    "parallel": lambda client, source, target, **options: client.get(
        [source], target, recursive=True, parallel=2, **options
    ),
    "sync": lambda client, source, target, **options: client.sync(
        f":{source}", str(target), **options
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("feature", [True, False], ids=["many", "one-by-one"])
def test_a_tree_is_here_as_it_is_there(request, connect, start_server, tmp_path, way, feature):
    if not feature:
        request.getfixturevalue("without_feature")
    requested = request.getfixturevalue("requested")
    server = start_server()
    top = tree(server.settings.root / "alice" / "t")
    reported = Recording()
    summary = way(connect(server), "/t", tmp_path / "t", listener=reported)
    assert (summary.exit_code, summary.failed) == (0, 0)
    assert looks(tmp_path / "t") == looks(top)
    names = names_of(requested[GetFiles]) + [one.path for one in requested[Get]]
    assert sorted(names) == sorted(set(names))  # nothing came twice
    assert len(requested[Get]) >= 2 if feature else not requested[GetFiles]
    if feature:
        assert len(names_of(requested[GetFiles])) > 55
    done = {one.target: one for one in reported.results if one.status == "done" and one.digest}
    files = [path for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(done) == len(files)
    for path in files:
        one = done[bytes(tmp_path / "t" / path.relative_to(top))]
        assert (one.size, one.digest) == (path.stat().st_size, digest(path.read_bytes()))
    assert reported.moved == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_with_other_ways_of_serving(connect, start_server, tmp_path, isolation):
    server = start_server(isolation=isolation, plaintext=False)
    top = tree(server.settings.root / "alice" / "t")
    assert WAYS["get"](connect(server), "/t", tmp_path / "t").exit_code == 0
    assert looks(tmp_path / "t") == looks(top)


def test_a_second_time_nothing_comes(client, files, tmp_path, requested):
    client.put([tree(tmp_path / "t")], "/t", recursive=True)  # which keeps the digests
    top = files / "t"
    summary = client.get(["/t/."], tmp_path / "t", recursive=True)
    assert summary.unchanged == summary.done - 1  # but for the link
    assert not names_of(requested[GetFiles])
    assert looks(tmp_path / "t") == looks(top)


def test_what_is_there_is_replaced_whole_and_what_is_not_meant_stays(client, files, tmp_path):
    tree(files / "t")
    client.get(["/t"], tmp_path / "t", recursive=True)
    for name in ("d1/1", "d1/8"):
        make(files / "t" / name, b"new bytes of " + name.encode(), 0o640)
    (tmp_path / "t" / "own").write_bytes(b"stays")
    (tmp_path / "other").write_bytes(b"is not followed")
    (tmp_path / "t" / "d1" / "8").unlink()
    (tmp_path / "t" / "d1" / "8").symlink_to(tmp_path / "other")
    assert client.get(["/t/."], tmp_path / "t", recursive=True).exit_code == 0
    (tmp_path / "t" / "own").unlink()
    assert looks(tmp_path / "t" / "d1") == looks(files / "t" / "d1")
    assert (tmp_path / "other").read_bytes() == b"is not followed"


@pytest.mark.parametrize("overwrite", ["never", "older"])
def test_what_is_not_to_be_replaced_stays(client, files, tmp_path, overwrite):
    for name in ("kept", "more", "new"):
        make(files / "t" / name, b"from there")
    make(tmp_path / "t" / "kept", b"is here")
    os.utime(tmp_path / "t" / "kept", ns=(2 * TIME, 2 * TIME))
    summary = client.get(["/t/."], tmp_path / "t", recursive=True, overwrite=overwrite)
    assert (summary.done, summary.skipped, summary.exit_code) == (2, 1, 0)
    assert (tmp_path / "t" / "kept").read_bytes() == b"is here"
    assert (tmp_path / "t" / "new").read_bytes() == b"from there"


def test_what_an_earlier_try_left_is_not_left_for_ever(client, files, tmp_path):
    from ftpclient.transfer.placing import partial_name

    for name in (b"one", b"two"):
        make(files / "t" / os.fsdecode(name), b"small by now")
    (tmp_path / "t").mkdir()
    left = tmp_path / "t" / os.fsdecode(partial_name((b"one",)))
    left.write_bytes(bytes(5_000_000))
    left.chmod(0o600)
    assert client.get(["/t/."], tmp_path / "t", recursive=True).exit_code == 0
    assert sorted(os.listdir(tmp_path / "t")) == ["one", "two"]


# what doesn't come with the others -----------------------------------------------------------


def test_what_changed_since_it_was_listed_comes_by_itself(
    client, files, tmp_path, requested, monkeypatch
):
    top = tree(files / "t")
    real = get_files.GetFilesRuns.send

    def send(runs) -> None:
        if runs.has_some and not (top / "d1" / "1").stat().st_size == 5:
            make(top / "d1" / "1", b"other")  # another size than was listed
            (top / "d2" / "2").unlink()
        real(runs)

    monkeypatch.setattr(get_files.GetFilesRuns, "send", send)
    reported = Recording()
    summary = client.get(["/t"], tmp_path / "t", recursive=True, listener=reported)
    (failure,) = [one for one in reported.results if one.status == "failed"]
    assert (summary.failed, failure.error.code) == (1, "not-found")
    assert str(failure.error).startswith("/t/d2/2")
    assert (tmp_path / "t" / "d1" / "1").read_bytes() == b"other"
    assert {b"/t/d1/1", b"/t/d2/2"} <= {one.path for one in requested[Get]}
    assert len({one.target for one in reported.results}) == len(reported.results)
    found, wanted = looks(tmp_path / "t"), looks(top)
    assert found.keys() == wanted.keys()


def test_a_damaged_file_is_reported_as_by_get_and_the_others_come(client, files, tmp_path):
    client.put([str(tree(tmp_path / "source"))], "/t", recursive=True)
    damaged = files / "t" / "d5" / "5"
    info = damaged.stat()
    damaged.write_bytes(b"X" * info.st_size)
    os.utime(damaged, ns=(info.st_mtime_ns, info.st_mtime_ns))
    reported = Recording()
    summary = client.get(["/t"], tmp_path / "t", recursive=True, listener=reported)
    (failure,) = [one for one in reported.results if one.status == "failed"]
    assert type(failure.error).__name__ == StoredFileDamaged.__name__ and summary.exit_code
    assert not (tmp_path / "t" / "d5" / "5").exists()
    assert summary.done == len([one for one in reported.results if one.status == "done"]) > 60


def test_links_that_are_followed_come_as_what_they_lead_to(client, files, tmp_path):
    make(files / "elsewhere", b"far")
    make(files / "t" / "near", b"near")
    (files / "t" / "far").symlink_to("../elsewhere")
    (files / "t" / "dir").mkdir()
    make(files / "other" / "in", b"in")
    (files / "t" / "other").symlink_to("../other")
    client.get(["/t"], tmp_path / "t", recursive=True, copy_links=True)
    assert (tmp_path / "t" / "far").read_bytes() == b"far"
    assert not (tmp_path / "t" / "far").is_symlink()
    assert (tmp_path / "t" / "other" / "in").read_bytes() == b"in"


def test_a_server_that_refuses_the_request_is_asked_for_each(client, files, tmp_path, monkeypatch):
    top = tree(files / "t")

    def refuse(exchange, workspace, request):
        raise messages.Failed("failed", "not today").to_error()

    command = COMMANDS[GetFiles]
    monkeypatch.setitem(COMMANDS, GetFiles, type(command)(**vars(command) | {"run": refuse}))
    assert client.get(["/t"], tmp_path / "t", recursive=True).exit_code == 0
    assert looks(tmp_path / "t") == looks(top)


# placing -------------------------------------------------------------------------------------


def test_where_no_unnamed_files_can_be_made(client, files, tmp_path, monkeypatch):
    """It is tried once, and all files come all the same."""
    top, tries = tree(files / "t"), []
    real = os.open

    def refuse(path, flags, *arguments, **options):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            tries.append(path)
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *arguments, **options)

    monkeypatch.setattr(whole_file.os, "open", refuse)
    assert client.get(["/t"], tmp_path / "t", recursive=True).exit_code == 0
    monkeypatch.undo()
    assert len(tries) == 1
    assert looks(tmp_path / "t") == looks(top)


def test_without_proc(client, files, tmp_path, monkeypatch):
    top = tree(files / "t")
    real = os.link

    def missing(source, *arguments, **options):
        return real(b"/missing" + source, *arguments, **options)

    monkeypatch.setattr(whole_file.os, "link", missing)
    assert client.get(["/t"], tmp_path / "t", recursive=True).exit_code == 0
    monkeypatch.undo()
    assert looks(tmp_path / "t") == looks(top)


def test_what_came_there_meanwhile_is_replaced_or_stays(client, files, tmp_path, monkeypatch):
    """Between the making of the directory and the file's own name."""
    for name in ("one", "two"):
        make(files / "t" / name, b"from there")
    real = os.link

    def late(source, name, **options):
        if name == b"two" and not (tmp_path / "t" / "two").exists():
            (tmp_path / "t" / "two").write_bytes(b"was quicker")
        return real(source, name, **options)

    monkeypatch.setattr(whole_file.os, "link", late)
    assert client.get(["/t"], tmp_path / "t", recursive=True).exit_code == 0
    assert (tmp_path / "t" / "two").read_bytes() == b"from there"
    assert sorted(os.listdir(tmp_path / "t")) == ["one", "two"]


def test_a_source_that_is_removed_is_here_for_good_before(client, files, tmp_path, monkeypatch):
    top = tree(files / "t", 30)
    expected = looks(top)
    synced = []
    real = os.fsync
    monkeypatch.setattr(whole_file.os, "fsync", lambda fd: (synced.append(fd), real(fd))[1])
    summary = client.get(["/t"], tmp_path / "t", recursive=True, remove_source=True)
    monkeypatch.undo()
    assert summary.exit_code == 0 and not list(files.glob("t/d*/*"))
    found = looks(tmp_path / "t")
    assert found.keys() == expected.keys()
    assert len(synced) >= 2 * 30  # each file, and its directory


# stopping ------------------------------------------------------------------------------------


def server_of(count: int, size: int, answer) -> tuple[LyingServer, list[int]]:
    """A server of as many files of one size, and how many of them each request is for.

    Args:
        answer: What is said of each file of the request of that number, and the bytes of each.
    """
    asked_for: list[int] = []

    def ask(peer, requested) -> bool:
        if not isinstance(requested.message, GetFiles):
            return False
        files = sum(len(one.files) for one in requested.message.directories)
        sent, data = answer(len(asked_for))
        asked_for.append(files)
        peer.reply(requested, SendingFiles([sent] * files))
        if data:
            peer.frame(Kind.DATA, requested.request_id, data * files)
        peer.frame(Kind.END, requested.request_id, Sent(len(data) * files))
        return True

    entries = [file_entry(b"%d" % number, size=size) for number in range(count)]
    pages = [
        Page(b"", entries[at : at + 500], [], at + 500 >= count) for at in range(0, count, 500)
    ]
    greet = {"features": [MANY_FILES]}
    return LyingServer(pages=pages, ask=ask, greet=lambda peer: peer.greet(**greet)), asked_for


def test_when_its_listener_has_enough_what_was_only_collected_is_left_out(fake, connect, tmp_path):
    """There are more than can be asked for before anything is known of them."""

    class Few(Recording):
        def finished(self, result) -> None:
            super().finished(result)
            self.enough = True

    server, asked_for = server_of(9000, 0, lambda number: (SentFile(0o644, 5, digest(b"")), b""))
    client, reported = connect(fake(server), retries=0), Few()
    with pytest.raises(Exception, match="stopped"):
        client.get(["/t"], tmp_path / "t", recursive=True, listener=reported)
    assert 0 < len(reported.results) == sum(asked_for) < 9000  # what was asked for has come
    assert len(os.listdir(tmp_path / "t")) == len(reported.results)


def test_the_first_failure_stops_it(fake, connect, tmp_path):
    size, bad = 20_000, SentFile(0o644, 5, bytes(32))
    server, asked_for = server_of(
        3000, size, lambda number: (None, b"") if number else (bad, bytes(size))
    )
    with pytest.raises(Exception, match="stopped at the first failure"):
        connect(fake(server), retries=0).get(["/t"], tmp_path, recursive=True, fail_fast=True)
    assert sum(asked_for) < 3000


def test_a_limited_rate_makes_the_requests_small(client, files, tmp_path, requested):
    for number in range(100):
        make(files / "t" / f"{number:04}", bytes(1000))
    client.limit_rate = 20_000

    class Few(Recording):
        def finished(self, result) -> None:
            self.enough = True

    with pytest.raises(Exception, match="stopped"):
        client.get(["/t"], tmp_path / "t", recursive=True, listener=Few())
    assert all(len(names_of([one])) <= 20 for one in requested[GetFiles])


def test_sync_down_replaces_and_removes(client, files, tmp_path):
    top = tree(files / "t")
    client.sync(":/t", str(tmp_path / "t"))
    make(top / "d1" / "1", b"changed")
    make(top / "d9" / "new", b"new")
    (top / "d2" / "2").unlink()
    client.sync(":/t", str(tmp_path / "t"), SyncOptions(delete=True))
    assert looks(tmp_path / "t") == looks(top)


def test_the_next_ones_are_asked_for_before_the_answers_have_come(fake, connect, tmp_path):
    """A long line is filled: this server answers nothing before it has many requests."""
    waiting: list[int] = []
    count = 200

    def ask(peer, requested) -> bool:
        if not isinstance(requested.message, GetFiles):
            return False
        waiting.append(requested.request_id)
        asked_for.append(sum(len(one.files) for one in requested.message.directories))
        if len(waiting) >= 20 or sum(asked_for) == count:
            for number, files in zip(waiting, asked_for[-len(waiting) :], strict=True):
                peer.reply(number, SendingFiles([sent] * files))
                peer.frame(Kind.DATA, number, data * files)
                peer.frame(Kind.END, number, Sent(len(data) * files))
            waiting.clear()
        return True

    data = bytes(20_000)
    sent = SentFile(0o644, 5, digest(data))
    asked_for: list[int] = []
    entries = [file_entry(b"%d" % number, size=len(data)) for number in range(count)]
    server = LyingServer(
        pages=[Page(b"", entries, [], True)],
        ask=ask,
        greet=lambda peer: peer.greet(features=[MANY_FILES]),
    )
    client = connect(fake(server), retries=0)
    assert client.get(["/t"], tmp_path / "t", recursive=True).done == count
    assert sum(asked_for) == count and len(asked_for) > 20
    assert max(asked_for) * len(data) <= messages.MAX_BYTES


def test_no_request_has_more_than_it_may(client, files, tmp_path, requested):
    """Of short names as many as there may be; long ones fill it before."""
    for number in range(2100):
        make(files / "t" / f"{number:04}", b"")
    for number in range(400):
        make(files / "u" / f"{number:0240}", b"x")
    assert client.get(["/t", "/u"], tmp_path, recursive=True).exit_code == 0
    counts = [len(one.directories) + len(names_of([one])) for one in requested[GetFiles]]
    assert messages.MAX_ITEMS - 1 <= max(counts) <= messages.MAX_ITEMS
    assert all(
        len(messages.encode(one)) <= messages.MAX_REQUEST_SIZE for one in requested[GetFiles]
    )
    assert len(os.listdir(tmp_path / "t")) == 2100 and len(os.listdir(tmp_path / "u")) == 400
