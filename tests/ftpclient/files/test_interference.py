"""Remote files beside other threads, forks, Ctrl-C, and the end of the program."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable

import pytest

from ftpclient import Client
from ftpclient.files.writer import HELD
from ftpserver.testing import server

pytestmark = pytest.mark.system  # it starts processes

LARGE = HELD + 100_000


def in_child(work: Callable[[], object]) -> int:
    """Fork, and do something in the child; its status: 0 if nothing was raised there."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_threads_have_files_of_their_own_on_one_client(client, files):
    data = {f"/{name}": name.encode() * 2_000_000 for name in "abcd"}
    failures: list[BaseException] = []

    def work(path: str) -> None:
        try:
            for _ in range(3):
                with client.open(path, "wb") as file:
                    for start in range(0, len(data[path]), 700_000):
                        file.write(data[path][start : start + 700_000])
                with client.open(path) as file:
                    found = b"".join(iter(lambda: file.read(300_000), b""))
                assert found == data[path] == client.read(path)
                client.write(path + "-small", b"small")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(path,)) for path in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {"/" + name for name in os.listdir(files)} >= data.keys()


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_fork_leaves_the_files_of_its_parent_alone(client, files, size):
    (files / "a").write_bytes(bytes(range(256)) * 4000)
    reader = client.open("/a")
    reader.read(10)
    writer = client.open("/b", "wb")
    writer.write(b"x" * size)

    def child() -> None:
        assert reader.read(100_000) == (bytes(range(256)) * 4000)[10:100_010]
        if size == LARGE:
            with pytest.raises(ValueError, match="the parent process"):
                writer.write(b"of the child")
        writer.discard()

    assert in_child(child) == 0
    writer.write(b"y" * size)
    writer.close()
    assert reader.read() == (bytes(range(256)) * 4000)[10:]
    assert (files / "b").read_bytes() == b"x" * size + b"y" * size
    reader.close()


def test_a_child_that_stays_does_not_hold_up_its_parent(client, files):
    """It has all descriptors as well: closing them here ends nothing there."""
    writer = client.open("/b", "wb")
    writer.write(bytes(LARGE))
    go_on, proceed = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(proceed)
        os.read(go_on, 1)
        os._exit(0)
    try:
        writer.close()
        assert (files / "b").stat().st_size == LARGE
    finally:
        os.close(proceed)
        os.close(go_on)
        os.waitpid(child, 0)


@pytest.mark.parametrize("when", ["writing", "ending"])
def test_an_interrupted_writer_stores_nothing(client, files, monkeypatch, when):
    (files / "a").write_bytes(b"before")
    file = client.open("/a", "wb")
    file.write(bytes(LARGE))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    sender = file._stream
    if when == "writing":
        monkeypatch.setattr(type(sender), "write", interrupted)
    else:
        monkeypatch.setattr(type(sender), "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.write(b"more")
        file.close()
    assert file.closed
    file.close()
    assert (files / "a").read_bytes() == b"before"
    assert client.read("/a") == b"before"


def test_an_interrupted_reader_goes_on(client, files, monkeypatch):
    (files / "a").write_bytes(b"abc" * 100_000)
    with client.open("/a") as file:
        assert file.read(3) == b"abc"
        real = client.fetch_range

        def interrupted(*_: object) -> None:
            monkeypatch.setattr(client, "fetch_range", real)
            raise KeyboardInterrupt

        monkeypatch.setattr(client, "fetch_range", interrupted)
        file.seek(150_000)
        with pytest.raises(KeyboardInterrupt):
            file.read(10)
        file.seek(150_000)
        assert file.read() == b"abc" * 50_000


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "a = [file]; a.append(a); del file"])
def test_a_program_that_ends_with_open_files(end, tmp_path, monkeypatch):
    """It ends at once, and stores nothing of what wasn't closed."""
    code = (
        "from ftpclient import Client\n"
        "client = Client()\n"
        "file = client.open('/large', 'wb')\n"
        f"file.write(bytes({LARGE}))\n"
        "small = client.open('/small', 'wb')\n"
        "small.write(b'abc')\n"
        f"{end}\n"
    )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with server(environ=False) as there:
        done = subprocess.run(
            [sys.executable, "-W", "default", "-c", code],
            env=os.environ | there.environ,
            capture_output=True,
            text=True,
        )
        with Client(there.address, password=there.password, known_hosts=there.known_hosts) as one:
            assert list(one.list_dir("/")) == []
    assert done.returncode == (3 if "raise" in end else 0)
    assert done.stderr.count("was opened for writing and not closed: nothing was stored") == 2
    assert "Traceback" not in done.stderr
