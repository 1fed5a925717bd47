"""Uploads of many small files in one request: what goes in it, and what its answers mean.

Lives elsewhere: the server in these tests (storing_server.py), the real one, cut anywhere
(test_put_files_cut.py), how many bytes go at once (test_run_size.py).
"""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest

from ftpclient import errors
from ftpclient.connection.protocol import Call
from ftpclient.transfer import put_files, retry
from ftpclient.transfer.report import Listener, Result
from ftpwire import paths
from ftpwire.frames import Kind
from ftpwire.messages import (
    MANY_FILES,
    MAX_BYTES,
    MAX_ITEMS,
    MAX_REQUEST_SIZE,
    Failed,
    FilesStored,
    Finished,
    Hole,
    ItemFailure,
    Listed,
    MakeDir,
    NewFile,
    NewFiles,
    NotStored,
    Put,
    PutFiles,
    SetAttributes,
    Stored,
    encode,
)
from tests.ftpclient.transfer.storing_server import StoringServer, tell_all
from tests.peer import Frame, Peer

MTIME = 1_600_000_000_123_456_789


class Recording(Listener):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.bytes = 0

    def finished(self, result: Result) -> None:
        self.results.append(result)

    def advanced(self, count: int) -> None:
        self.bytes += count


def test_no_item_is_larger_than_what_it_counts_for():
    most = 2**63 - 1
    file = NewFile(b"n" * paths.MAX_NAME, most, 0o7777, -most, bytes(32))
    path = b"/" * paths.MAX_PATH
    files, ends = [file] * MAX_ITEMS, [Finished(path, 0o7777, -most)]
    items = [encode(file), encode(NewFiles(path, [], 0o7777)), *map(encode, ends)]
    text = [paths.MAX_NAME, paths.MAX_PATH, paths.MAX_PATH]
    sizes = [len(item) - length for item, length in zip(items, text, strict=True)]
    assert max(sizes) <= put_files._OVERHEAD
    request = PutFiles([NewFiles(path, files, 0o7777)], ends, "always", True)
    counted = MAX_ITEMS * paths.MAX_NAME + 2 * paths.MAX_PATH
    assert len(encode(request)) <= counted + (MAX_ITEMS + 2) * put_files._OVERHEAD


@pytest.fixture
def tree(tmp_path):
    """Makes a tree: directories of files, some nested, with times and modes of their own."""

    def make(directories: int = 3, files: int = 4, size: int = 100):
        top = tmp_path / "tree"
        for number in range(directories):
            below = top / f"d{number}" / "deep" if number % 2 else top / f"d{number}"
            below.mkdir(parents=True)
            for name in range(files):
                path = below / f"f{name}"
                path.write_bytes(os.urandom(size))
                path.chmod(0o640 if name % 2 else 0o644)
                os.utime(path, ns=(MTIME, MTIME + name))
        (top / "empty").mkdir()
        (top / "nothing").write_bytes(b"")
        for number, (path, _, _) in enumerate(os.walk(top, topdown=False)):
            os.chmod(path, 0o755 - number % 2)
            os.utime(path, ns=(MTIME, MTIME - number))
        return top

    return make


def things(server: StoringServer) -> dict[tuple, tuple]:
    """What was done, whatever its order, each thing with the last that happened to it."""
    return {one[:2]: one for one in server.done}


def runs(server: StoringServer) -> list[PutFiles]:
    return [one for one in server.requests if isinstance(one, PutFiles)]


def test_a_tree_is_stored_the_same_with_and_without_it(fake, connect, tree) -> None:
    top = tree()
    whole = []
    for many in (True, False):
        server, reported = StoringServer(many=many), Recording()
        summary = connect(fake(server)).put(top, "/t", recursive=True, listener=reported)
        assert (summary.done, summary.failed, summary.exit_code) == (13, 0, 0)
        assert summary.size == reported.bytes == 1200
        reported.results.sort(key=lambda one: one.source)
        whole.append((things(server), reported.results, len(server.done)))
        kinds = {type(one) for one in server.requests}
        assert (PutFiles in kinds) == many
        assert not many or not kinds & {Put, MakeDir, SetAttributes}
    assert whole[0] == whole[1]
    assert [one.status for one in whole[0][1]] == ["done"] * 13
    assert all(one.digest for one in whole[0][1])


def test_a_directory_gets_its_attributes_after_all_that_is_in_it(fake, connect, tree) -> None:
    server = StoringServer()
    connect(fake(server)).put(tree(40, 30, 400), "/t", recursive=True)
    assert len(runs(server)) > 3
    made: set[bytes] = {b"/"}
    closed: set[bytes] = set()
    for verb, path, *_ in server.done:
        above = paths.parent_of(path)
        if verb == "attributes":
            assert path in made
            closed.add(path)
        else:
            assert above in made and above not in closed and path not in closed
            if verb == "mkdir":
                made.add(path)
    assert closed == made - {b"/"}


def test_no_request_has_more_than_it_may(fake, connect, tree) -> None:
    """The server in these tests holds each against the limits."""
    server = StoringServer()
    connect(fake(server)).put(tree(4, 600, 10), "/t", recursive=True)
    count = [sum(1 + len(one.files) for one in run.directories) for run in runs(server)]
    assert MAX_ITEMS * 0.9 < max(count) <= MAX_ITEMS and len(server.files) == 2401


def test_many_bytes_at_once_but_no_more(fake, connect, tree) -> None:
    server = StoringServer()
    connect(fake(server)).put(tree(2, 100, 8000), "/t", recursive=True)
    sizes = [sum(new.size for one in run.directories for new in one.files) for run in runs(server)]
    assert 64 * 1024 < max(sizes) <= MAX_BYTES


def test_long_names_fill_a_request_as_well(fake, connect, tmp_path) -> None:
    server = StoringServer()
    top = tmp_path / "tree"
    top.mkdir()
    for number in range(500):
        (top / f"{number:0250}").write_bytes(b"x")
    connect(fake(server)).put(top, "/t", recursive=True)
    assert len(runs(server)) > 1 and len(server.files) == 500


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 300_000])
def test_a_single_file_is_sent_as_ever(fake, connect, tmp_path, size) -> None:
    source = tmp_path / "file"
    source.write_bytes(os.urandom(size))
    requested = []
    for many in (True, False):
        server = StoringServer(many=many)
        connect(fake(server)).put(source, "/file")
        assert server.files == {b"/file": source.read_bytes()}
        requested.append(server.requests)
    assert requested[0] == requested[1] and isinstance(requested[0][-1], Put)


def test_what_goes_by_itself_keeps_its_place(fake, connect, tmp_path) -> None:
    """Small, large and links, to one directory, in the order in which they were named."""
    sources = []
    for number, size in enumerate([10, 20, 70_000, 30, 0, 300_000, 40, 50]):
        sources.append(tmp_path / f"f{number}")
        sources[-1].write_bytes(os.urandom(size))
    link = tmp_path / "link"
    link.symlink_to("somewhere")
    server = StoringServer()
    server.directories[b"/d"] = (0o755, 0)
    named = [*sources[:4], link, *sources[4:]]
    summary = connect(fake(server)).put(named, "/d/", links=True)
    assert summary.done == 9
    order = [one[1] for one in server.done]
    assert order[1:] == [b"/d/%s" % os.fsencode(one.name) for one in named]
    kinds = [type(one).__name__ for one in server.requests]
    assert kinds[-7:] == ["PutFiles", "Put", "Put", "MakeLink", "Put", "Put", "PutFiles"]


def test_a_list_of_files(fake, connect, tree) -> None:
    server = StoringServer()
    names = ["d0/f1", "d1/deep/f2", "empty"]
    summary = connect(fake(server)).put(tree(), "/t", recursive=True, files_from=names)
    assert summary.done == 2
    assert {one[1] for one in server.done if one[0] == "file"} == {b"/t/d0/f1", b"/t/d1/deep/f2"}
    assert runs(server) and not any(isinstance(one, Put) for one in server.requests)


@pytest.mark.parametrize("overwrite", ["always", "never", "older"])
def test_what_to_do_about_what_is_there_goes_along(fake, connect, tree, overwrite) -> None:
    server = StoringServer()
    connect(fake(server)).put(tree(), "/t", recursive=True, overwrite=overwrite)
    assert {run.overwrite for run in runs(server)} == {overwrite}
    assert {run.parents for run in runs(server)} == {False}


# what fails --------------------------------------------------------------------------------


def refusing(**codes: str):
    """Refuses what ends with a name, by a code: ``f1="quota"``; or ``attributes_d0=…``."""

    def refuse(verb: str, path: bytes) -> str | None:
        name = paths.name_of(path).decode()
        return codes.get(name if verb == "file" else f"{verb}_{name}")

    return refuse


def test_one_that_fails_is_reported_with_its_error_and_the_others_are_stored(
    fake, connect, tree
) -> None:
    refuse = refusing(f1="forbidden", f2="exists")
    server, reported = StoringServer(refuse=refuse), Recording()
    summary = connect(fake(server)).put(tree(), "/t", recursive=True, listener=reported)
    assert (summary.done, summary.failed) == (7, 6)
    failed = {one.target: one for one in reported.results if one.error is not None}
    assert {path: type(one.error) for path, one in failed.items()} == {
        b"/t/d0/f1": errors.Forbidden,
        b"/t/d1/deep/f1": errors.Forbidden,
        b"/t/d2/f1": errors.Forbidden,
        b"/t/d0/f2": errors.AlreadyExists,
        b"/t/d1/deep/f2": errors.AlreadyExists,
        b"/t/d2/f2": errors.AlreadyExists,
    }
    assert len(server.files) == 7
    for path, one in failed.items():
        assert one.error.path == path
        assert one.source.endswith(path[2:]) and one.status == "failed"


def test_what_is_kept_on_purpose_is_no_failure(fake, connect, tree) -> None:
    server = StoringServer(refuse=refusing(f1="exists"))
    summary = connect(fake(server)).put(tree(), "/t", recursive=True, overwrite="never")
    assert (summary.done, summary.skipped, summary.failed, summary.exit_code) == (10, 3, 0, 0)


@pytest.mark.parametrize("verb", ["mkdir", "attributes"])
def test_a_directory_that_fails_is_reported_and_one_that_does_not_is_not(
    fake, connect, tree, verb
) -> None:
    server, reported = (
        StoringServer(refuse=refusing(**{f"{verb}_deep": "not-a-directory"})),
        Recording(),
    )
    summary = connect(fake(server)).put(tree(), "/t", recursive=True, listener=reported)
    assert (summary.done, summary.failed) == (13, 1)
    (failed,) = (one for one in reported.results if one.status != "done")
    assert isinstance(failed.error, errors.NotADirectory)
    assert (failed.target, failed.size) == (b"/t/d1/deep", 0)


def test_an_account_without_space_ends_the_job(fake, connect, tree) -> None:
    """As ever: it is told once, and what was stored before counts."""
    server = StoringServer(refuse=lambda verb, path: "quota" if len(server.files) > 5 else None)
    reported = Recording()
    summary = connect(fake(server)).put(tree(30, 40, 2000), "/t", recursive=True, listener=reported)
    assert summary.exit_code == 7 and summary.done == 6 == len(server.files)
    (failed,) = (one for one in reported.results if one.status == "failed")
    assert "what was done is kept" in str(failed.error)
    assert len(runs(server)) < 20, "the rest was not sent"


def test_a_source_goes_only_if_it_was_stored(fake, connect, tree) -> None:
    server, top = StoringServer(refuse=refusing(f2="forbidden")), tree()
    summary = connect(fake(server)).put(top, "/t", recursive=True, remove_source=True)
    assert (summary.done, summary.failed) == (10, 3)
    left = {str(one.relative_to(top)) for one in top.rglob("*") if not one.is_dir()}
    assert left == {"d0/f2", "d1/deep/f2", "d2/f2"}
    assert not (top / "empty").exists()


def test_an_empty_file_that_is_not_wanted(fake, connect, tree) -> None:
    server = StoringServer()
    summary = connect(fake(server)).put(tree(), "/t", recursive=True, no_empty=True)
    assert (summary.done, summary.failed) == (12, 1)


@pytest.mark.parametrize("code", ["bad-request", "verification-failed", "cancelled"])
def test_where_all_of_a_request_is_refused_each_of_its_files_has_failed(
    fake, connect, tree, code
) -> None:
    def answer(peer, requested, failures, count) -> None:
        peer.reply(requested, Failed(code, "not so"))

    server, reported = StoringServer(answer=answer), Recording()
    summary = connect(fake(server)).put(tree(), "/t", recursive=True, listener=reported)
    assert (summary.done, summary.failed) == (0, 13 + 2 * 6)  # a directory is made, and finished
    files = [one for one in reported.results if one.size or one.target == b"/t/nothing"]
    assert len({one.target for one in files}) == 13
    assert {one.error.code for one in files} == {"failed" if code == "cancelled" else code}


def test_a_server_with_too_many_transfers_is_waited_for(fake, connect, tree, monkeypatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.001)
    refused = []

    def answer(peer, requested, failures, count) -> None:
        if refused:
            tell_all(peer, requested, failures, count)
        else:
            refused.append(requested)
            peer.reply(requested, Failed("too-many", "one transfer at a time"))

    server = StoringServer(answer=answer)
    faked = fake(server)
    summary = connect(faked).put(tree(), "/t", recursive=True)
    assert (summary.done, summary.failed, faked.connections) == (13, 0, 2)


def test_one_of_a_request_that_is_too_many_fails_alone(fake, connect, tree) -> None:
    server = StoringServer(refuse=refusing(f1="too-many"))
    faked = fake(server)
    summary = connect(faked).put(tree(), "/t", recursive=True)
    assert (summary.done, summary.failed, faked.connections) == (10, 3, 1)


# servers that lie --------------------------------------------------------------------------

LIES = {
    "beyond": lambda peer, requested, count: not_stored(peer, requested, count),
    "twice": lambda peer, requested, count: not_stored(peer, requested, 2, 2),
    "twice-apart": lambda peer, requested, count: [
        not_stored(peer, requested, 2) for _ in range(2)
    ],
    "backwards": lambda peer, requested, count: not_stored(peer, requested, 3, 2),
    "more": lambda peer, requested, count: stored(peer, requested, count + 1),
    "fewer": lambda peer, requested, count: stored(peer, requested, count - 1),
    "failed-and-done": lambda peer, requested, count: [
        not_stored(peer, requested, 2),
        stored(peer, requested, count),
    ],
    "after-the-end": lambda peer, requested, count: [
        stored(peer, requested, count),
        not_stored(peer, requested, 2),
    ],
    "end-twice": lambda peer, requested, count: [stored(peer, requested, count) for _ in range(2)],
    "another-end": lambda peer, requested, count: peer.frame(
        Kind.END, requested.request_id, Listed()
    ),
    "another-reply": lambda peer, requested, count: peer.reply(requested, Stored(1)),
    "bytes": lambda peer, requested, count: peer.frame(Kind.DATA, requested.request_id, b"bytes"),
    "a-hole": lambda peer, requested, count: peer.frame(Kind.NOTICE, requested.request_id, Hole(7)),
}


def not_stored(peer: Peer, requested: Frame, *indexes: int) -> None:
    peer.reply(requested, NotStored([ItemFailure(index, "exists", "no") for index in indexes]))


def stored(peer: Peer, requested: Frame, done: int) -> None:
    peer.frame(Kind.END, requested.request_id, FilesStored(done))


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_that_cannot_be_ends_the_connection(fake, connect, tree, lie) -> None:
    def answer(peer, requested, failures, count) -> None:
        LIES[lie](peer, requested, count)

    server = StoringServer(answer=answer)
    client = connect(fake(server), retries=0)
    with pytest.raises(errors.ProtocolError):
        client.put(tree(), "/t", recursive=True)
        client.whoami()  # what came after the end is heard of by whoever asks next


@pytest.mark.parametrize("end", [True, False])
def test_an_answer_before_the_bytes_came_ends_the_connection(
    fake, connect, tmp_path, tree, end
) -> None:
    """The server answers the request at once, and takes nothing of what follows it."""
    answered = threading.Event()

    def ask(peer: Peer, requested: Frame) -> bool:
        if isinstance(requested.message, PutFiles):
            if end:
                put = requested.message
                count = sum(1 + len(one.files) for one in put.directories) + len(put.finished)
                stored(peer, requested, count)
            else:
                not_stored(peer, requested, 1)
            answered.set()
            peer.read_to_end()
        return False

    class Slow(Listener):
        def finished(self, result: Result) -> None:
            assert result.status == "failed", "nothing was stored"

    server = StoringServer(ask=ask)
    client = connect(fake(server), retries=0)
    send = client.connection.send_data

    def send_late(call, data) -> None:
        client.connection.flush()
        answered.wait(60)
        send(call, data[:1])
        while True:  # until the answer has come
            client.connection.pump()

    client.connection.send_data = send_late
    with pytest.raises(errors.ProtocolError):
        client.put(tree(), "/t", recursive=True, listener=Slow())


# what is under way ---------------------------------------------------------------------------


class Silent:
    """A connection on which something is answered only when that is waited for."""

    def __init__(self) -> None:
        self.channel = SimpleNamespace(pace=None)
        self.server = SimpleNamespace(features=[MANY_FILES])
        self.calls: list = []
        self.requests: list = []
        self.most = 0

    def submit(self, call, request, cost=0) -> None:
        self.calls.append(call)
        self.requests.append(request)
        self.most = max(self.most, sum(len(getattr(one, "items", ())) for one in self.calls))

    def pump(self) -> None:
        call = self.calls.pop(0)
        call.end_by(None)
        call.on_done()

    def send_data(self, call, data) -> None:
        pass

    send_end = send_data

    def poll(self) -> None:
        pass

    def check(self) -> None:
        pass


def silent_runs() -> tuple[put_files.FileRuns, Silent, list[Result]]:
    """What collects, on a connection of its own, and where ends are told."""
    connection, ended = Silent(), []
    transfer = SimpleNamespace(
        connection=connection,
        options=SimpleNamespace(overwrite="always"),
        end_stored=ended.extend,
        advanced=lambda size: None,
    )
    return put_files.FileRuns(transfer), connection, ended


def add(runs: put_files.FileRuns, path: bytes) -> None:
    new = NewFile(paths.name_of(path), 1, 0o644, 0, bytes(32))
    runs.add(new, Result(path, path, 1, "done"), b"x")


def test_so_many_files_are_under_way_at_most(monkeypatch) -> None:
    monkeypatch.setattr(put_files, "_MOST_UNANSWERED", 3000)
    runs, connection, ended = silent_runs()
    for number in range(20_000):
        add(runs, b"/%06d" % number)
    runs.flush()
    assert 3000 < connection.most <= 3000 + MAX_ITEMS
    while connection.calls:
        connection.pump()
    assert len(ended) == 20_000


def test_answers_are_heard_while_more_is_sent() -> None:
    """What was stored is told then, and by what an answer took the next request is measured: all
    of them heard at the end would seem to have taken no time."""
    runs, connection, ended = silent_runs()
    connection.poll = connection.pump
    for number in range(5000):
        add(runs, b"/%06d" % number)
    assert not connection.calls and len(ended) > 5000 - MAX_ITEMS


def test_a_name_that_no_server_takes_spoils_no_other_file() -> None:
    runs, connection, _ = silent_runs()
    for name in (b"a", b"b", b"x" * 256, b"c", b"d"):
        add(runs, b"/" + name)
    runs.flush()
    assert [type(one).__name__ for one in connection.requests] == ["PutFiles", "Put", "PutFiles"]
    assert connection.requests[1].path == b"/" + b"x" * 256


def test_what_comes_into_a_directory_after_its_attributes_is_sent_after_them() -> None:
    """As where two sources are put into one directory."""
    runs, connection, _ = silent_runs()
    for number in range(2):
        runs.change(Call(), MakeDir(b"/d", 0o755, parents=True, fill=True))
        add(runs, b"/d/f%d" % number)
        runs.change(Call(), SetAttributes(b"/d", 0o500, 7))
    runs.flush()
    assert [len(one.finished) for one in connection.requests] == [1, 1]
    assert [one.directories[0].files[0].name for one in connection.requests] == [b"f0", b"f1"]


def test_directories_without_files_keep_to_the_limits_as_well() -> None:
    runs, connection, _ = silent_runs()
    for number in range(3000):
        runs.change(Call(), MakeDir(b"/%d" % number, 0o755, parents=True, fill=True))
        runs.change(Call(), SetAttributes(b"/%d" % number, 0o755, 7))
    runs.flush()
    counts = [len(one.directories) + len(one.finished) for one in connection.requests]
    assert sum(counts) == 6000 and max(counts) <= MAX_ITEMS
    assert max(len(encode(one)) for one in connection.requests) <= MAX_REQUEST_SIZE


@pytest.mark.parametrize(
    "request_",
    [
        MakeDir(b"/d"),
        MakeDir(b"/d", parents=True),
        SetAttributes(b"/d", 0o755),
        SetAttributes(b"/d", None, 7),
        SetAttributes(b"/d", 0o755, 7, exact=True),
        SetAttributes(b"/d", 0o755, 7, setgid=True),
    ],
    ids=repr,
)
def test_what_means_something_else_goes_by_itself(request_) -> None:
    runs, connection, _ = silent_runs()
    add(runs, b"/a")
    add(runs, b"/b")
    runs.change(Call(), request_)
    assert connection.requests[1:] == [request_]
