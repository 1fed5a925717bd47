"""Standard output whose reader has left, or that cannot be written to, while commands work."""

from __future__ import annotations

import io
import os
import sys

import pytest

from ftpclient.cli import main
from ftpclient.shell.running import run_line
from ftpclient.shell.scripts import run_batch
from ftpclient.transfer import run_size
from ftpclient.transfer.job import Enough
from ftpclient.transfer.report import Listener
from ftpwire import standard
from ftpwire.messages import Remove
from tests.ftpclient.shell.shell_support import shell_of
from tests.peer import eventually

FILES = 60
AT_ONCE = 5


def stream_on(fd: int) -> io.TextIOWrapper:
    """Unbuffered: the first line is the one that fails."""
    return io.TextIOWrapper(standard.Output(fd, raises=True), encoding="utf-8", write_through=True)


@pytest.fixture
def left(monkeypatch, capfd):
    """To be called in a test: standard output is a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield lambda: monkeypatch.setattr(sys, "stdout", stream_on(writing))
    os.close(writing)


@pytest.fixture
def full(monkeypatch, capfd):
    """To be called in a test: standard output is on a full disk."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    fd = os.open("/dev/full", os.O_WRONLY)
    yield lambda: monkeypatch.setattr(sys, "stdout", stream_on(fd))
    os.close(fd)


@pytest.fixture
def tree(local):
    """Local files, and some of them on the server."""
    (local / "tree").mkdir()
    for number in range(FILES):
        (local / "tree" / f"{number:03}").write_bytes(b"%d" % number)
    (local / "file").write_bytes(b"content")
    return local


@pytest.fixture
def there(files):
    files.mkdir(exist_ok=True)
    (files / "dir").mkdir()
    for number in range(FILES):
        (files / "dir" / f"{number:03}").write_bytes(b"%d" % number)
    (files / "a").write_bytes(bytes(20_000))
    (files / "b").write_bytes(bytes(20_000))
    return files


PRINTING = [
    *("ls", "ls -l /dir", "ls --json dir", "ls -R", "find /", "find / -0", "tree", "du", "df"),
    *(
        "stat /a",
        "hash a b",
        "cat a b",
        "get a -",
        "whoami",
        "pwd",
        "help",
        "ls --help",
        "find -ls",
    ),
    *("df --json", "token list --json", "lpwd"),
]


@pytest.mark.parametrize("line", PRINTING)
def test_nobody_reads_what_is_printed(app, there, tree, left, capfd, line):
    left()
    app.client.issue_token("one")
    assert run_line(app, line) == 141
    assert main.ended(app, 141) == 141
    assert capfd.readouterr().err == ""
    assert app.client.connected and app.client.space()


@pytest.mark.parametrize("line", PRINTING)
def test_what_is_printed_can_not_be_written(app, there, tree, full, capfd, line):
    full()
    app.client.issue_token("one")
    assert run_line(app, line) == 0
    assert main.ended(app, 0) == 1
    assert capfd.readouterr().err == "ftp: standard output: the disk is full\n"


def test_a_status_of_its_own_stays(app, there, full, capfd):
    full()
    assert run_line(app, "ls /dir /nope") == 1
    assert run_line(app, "ls /nope") == 5
    assert main.ended(app, 5) == 5
    assert len(capfd.readouterr().err.splitlines()) == 3


def test_as_json(app, full, capfd):
    full()
    app.as_json = True
    assert run_line(app, "whoami --json") == 0
    assert main.ended(app, 0) == 1
    assert capfd.readouterr().err.startswith('{"error": "disk-full", "message": "standard output')


# transfers ---------------------------------------------------------------------------------

TRANSFERS = [
    "put -v -r tree /new",
    "put --json -r tree /new",
    "put -v -r --parallel 3 tree /new",
    "sync -v tree :/new",
    "sync --json tree :/new",
    "get -v -r /dir new",
    "get --json -r /dir new",
    "get -v -r --parallel 3 /dir new",
    "sync -v :/dir new",
    "get -v dir/* ./",
    "put -v tree/* /",
]


def count(local, there) -> int:
    """Files that were transferred."""
    places = [local / "new", there / "new", local, there]
    return sum(
        path.is_file() and path.name.isdigit()
        for one in places
        if one.is_dir()
        for path in one.iterdir()
    )


def names_of_partials(local, there) -> list[str]:
    return [path.name for path in local.rglob(".ftp-*")] + [
        name for name in os.listdir(there / ".ftpd-staging") if name not in ("lock", "numbers")
    ]


@pytest.fixture
def few_together(monkeypatch):
    """A request of many small files has a few of those in these tests."""
    for name in ("FIRST", "LEAST", "MAX_BYTES"):
        monkeypatch.setattr(run_size, name, 4)


@pytest.mark.usefixtures("few_together")
@pytest.mark.parametrize("line", TRANSFERS)
def test_a_transfer_whose_reader_leaves(app, there, tree, left, capfd, line):
    """What is under way is finished: files are there whole, and nothing is said to have failed."""
    left()
    app.client.connection.protocol.max_requests = AT_ONCE
    assert run_line(app, line) == 141
    assert main.ended(app, 141) == 141
    assert capfd.readouterr().err == ""
    least = 0 if line.startswith("sync") else 1  # its first line is about a directory
    assert least <= count(tree, there) <= (FILES if "parallel" in line else 4 * AT_ONCE)
    # other connections are closed, and the server discards what they had begun
    eventually(lambda: names_of_partials(tree, there) == [])
    eventually(lambda: app.client.space().held == 0)
    assert app.client.connected, "the session goes on"


@pytest.mark.parametrize("line", TRANSFERS)
def test_a_transfer_whose_output_is_full(app, there, tree, full, capfd, line):
    full()
    assert run_line(app, line) == 0
    assert main.ended(app, 0) == 1
    err = capfd.readouterr().err.splitlines()
    assert [one for one in err if "standard output" in one] == err[-1:]
    assert not any("failed" in one for one in err)
    assert count(tree, there) == FILES


def test_a_tree_that_is_put_at_once_is_whole_or_not_there(app, there, tree, left, capfd):
    left()
    assert run_line(app, "put -v -r --atomic tree /new") == 141
    assert len(os.listdir(there / "new")) == FILES


def test_a_sync_that_stops_deletes_nothing_more(app, there, tree, left, monkeypatch, capfd):
    left()
    removed = []
    submit = app.client.connection.submit

    def watched(call, request, cost=0):
        removed.append(isinstance(request, Remove))
        submit(call, request, cost)

    monkeypatch.setattr(app.client.connection, "submit", watched)
    assert run_line(app, "sync -v --delete -y tree :/dir/../dir") == 141
    assert not any(removed)


def test_a_dry_run(app, there, tree, left, capfd):
    left()
    assert run_line(app, "sync -n tree :/new") == 141
    assert capfd.readouterr().err == "" and not (there / "new").exists()


def test_removing_stops_between_two(app, there, left, capfd):
    """What isn't printed goes on to its end."""
    left()
    assert run_line(app, "rm -r /dir") == 0
    assert not (there / "dir").exists()


@pytest.mark.usefixtures("few_together")
def test_of_an_own_listener(client, files, tmp_path):
    class Two(Listener):
        done = 0

        def finished(self, result) -> None:
            self.done += 1
            self.enough = self.done >= 2

    (tmp_path / "tree").mkdir()
    for number in range(FILES):
        (tmp_path / "tree" / f"{number}").write_bytes(b"x")
    listener = Two()
    client.connection.protocol.max_requests = AT_ONCE
    with pytest.raises(Enough):
        client.put([tmp_path / "tree"], "/new", recursive=True, listener=listener)
    assert 2 <= listener.done == len(os.listdir(files / "new")) < FILES


# the shell ---------------------------------------------------------------------------------


def test_a_batch_ends_when_its_reader_has_left(server, there, tree, left, capfd):
    left()
    with shell_of(server, batch=True) as app:
        assert run_batch(app, ["-ls -l /dir\n", "put file /later\n"]) == 141
    assert not (there / "later").exists() and capfd.readouterr().err == ""


def test_a_batch_goes_on_when_its_output_is_full(server, there, tree, full, capfd):
    full()
    with shell_of(server, batch=True) as app:
        assert run_batch(app, ["ls -l /dir\n", "put file /later\n"]) == 0
        assert main.ended(app, 0) == 1
    assert (there / "later").exists()
    assert capfd.readouterr().err.splitlines()[-1:] == ["ftp: standard output: the disk is full"]


# the streams themselves --------------------------------------------------------------------


def test_the_reader_is_reported_once(left):
    left()
    with pytest.raises(standard.ReaderLeft):
        print("x" * 100_000, flush=True)
    print("y" * 100_000, flush=True)
    assert standard.reader_left() and isinstance(standard.flush(), BrokenPipeError)


def test_a_broken_standard_error_is_no_matter(monkeypatch, app, capfd):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        raw = standard.Output(writing, raises=False)
        monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(raw)))
        assert run_line(app, "ls /nope") == 5
        sys.stderr.flush()
        assert run_line(app, "ls /nope") == 5
        assert raw.failure is not None and not standard.reader_left()
    finally:
        os.close(writing)


def test_a_pipe_that_does_not_block_is_waited_for(monkeypatch):
    import threading

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    monkeypatch.setattr(sys, "stdout", stream_on(writing))
    received = bytearray()

    def read() -> None:
        while data := os.read(reading, 65536):
            received.extend(data)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        print("x" * 1_000_000, flush=True)
        assert standard.flush() is None
    finally:
        monkeypatch.undo()
        os.close(writing)
        thread.join(30)
        os.close(reading)
    assert len(received) == 1_000_001
