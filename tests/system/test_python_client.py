"""The Python classes against a real server that is frozen, and as mypy sees them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftpclient import Client, errors
from ftpclient.connection.known_hosts import KnownHosts
from tests.ftpclient.guard_support import ALL, StagingDirs, next_is_right
from tests.system.programs import eventually

ROOT = Path(__file__).parents[2]


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process are: a signal takes its time."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return all((task / "stat").read_text().rpartition(")")[2].split()[0] == "T" for task in tasks)


@pytest.mark.parametrize("rounds", [1, pytest.param(100, marks=pytest.mark.long)])
def test_a_frozen_server_holds_no_verb_longer_than_its_time(start_server, tmp_path, rounds):
    """SIGSTOP: the machine still takes connections and bytes, and nobody answers."""
    server = start_server("--durability", "none")
    alice = server.first_user()
    places = StagingDirs(server.home(), tmp_path / "here")
    places.fill()
    client = Client(
        f"alice@{server.reached}",
        password=alice.password,
        accept_new=True,
        known_hosts=KnownHosts(tmp_path / "known"),
    )
    others = {"change_password", "log_in"}  # they have another password than these
    with client:
        for name in [name for name in ALL if name not in others] * rounds:
            client.connect()
            server.signal(signal.SIGSTOP)
            eventually(lambda: is_stopped(server.process.pid))
            try:
                with pytest.raises(errors.TimedOut):
                    ALL[name](client, places, timeout=0.05)
                with pytest.raises(errors.TimedOut):  # on a connection of its own
                    client.whoami(timeout=0.05)
            finally:
                server.signal(signal.SIGCONT)
            next_is_right(client)
    places.close()


CONSUMER = """
from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, closing
from pathlib import Path, PurePosixPath

from ftpclient import AsyncClient, Client, errors
from ftpclient.transfer.report import Listener, Result, Summary
from ftpwire.messages import Entry


class Log(Listener):
    def finished(self, result: Result) -> None:
        error = result.error
        print(result.status, "" if error is None else error.code)


def blocking(client: Client) -> int:
    summary: Summary = client.put("a.b", "/", timeout=5)
    summary = client.put([Path("a"), b"b"], PurePosixPath("/x"), overwrite="older", listener=Log())
    summary = client.get(["/a", PurePosixPath("/b")], Path("here"))
    result: Result = client.put_file("a", "/a", overwrite="never")
    result = client.get_file(b"/a", "a", timeout=1.5)
    listing: Generator[Entry, None, None] = client.list_dir("/")
    with closing(client.list_dir("/", timeout=2)) as entries:
        sizes = [entry.size or 0 for entry in entries]
    client.move("/a", "/b", overwrite=False)
    entry: Entry | None = client.find("/a")
    try:
        client.stat("/nowhere")
    except errors.NotFound as error:
        path: bytes | None = error.path
        number: int | None = error.errno
    except errors.TimedOut as late:
        print(late.path, late.errno)
    except errors.FtpError as other:
        print(other.path, other.exit_code)
    client.move("/a", "/b", overwrite="older")  # type: ignore[arg-type]
    client.put(5, "/")  # type: ignore[arg-type]
    client.stat(5)  # type: ignore[arg-type]
    client.stat("/", timeout="long")  # type: ignore[arg-type]
    client.stat("/", times=5)  # type: ignore[call-arg]
    return sum(sizes) + len(summary.failures) + (result.size if entry else 0)


async def in_tasks(client: AsyncClient) -> int:
    task: asyncio.Task[Entry] = asyncio.create_task(client.stat("/a", timeout=1))
    one, two = await asyncio.gather(client.whoami(), client.hash(PurePosixPath("/a")))
    name: str = one
    size: int = two.size
    stream: AsyncGenerator[bytes, None] = client.get_stream("/a")
    async with aclosing(client.list_dir("/")) as entries:
        names: list[bytes] = [entry.path async for entry in entries]
    result: Result = await client.put_file(Path("a"), "/a")
    await client.stat(5)  # type: ignore[arg-type]
    return size + len(names) + result.size + len(name) + ((await task).size or 0)
"""


def test_mypy_takes_a_strict_consumer(tmp_path):
    """Also in that it finds the mistakes: an ignore that nothing needs would be told."""
    pytest.importorskip("mypy")
    (tmp_path / "consumer.py").write_text(CONSUMER)
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", "cache", "consumer.py"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, ""), found.stdout
