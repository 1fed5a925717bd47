"""Many clients that each store one small file after another, waiting until each is durable.

Lives here: the measurement, the disk for it, and the clients: a helper process with all sessions in
one thread.
Lives elsewhere: a session that uses little CPU time (raw.py), the list of measurements (suite.py).

All other measurements of small files are about their number; this one is about waiting for the
disk. Each file is a request of its own, which is acknowledged when the file is durable; then the
next one is sent. A server that syncs files one after another stores only as many as its disk can
sync, whatever the number of clients. The data directory may be in memory, where a sync takes no
time: so this measurement creates an ext4 of its own if possible.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workloads
from benchmarks.crowd import Helper, Spec
from benchmarks.engines import Engine, serving
from benchmarks.measure import Column, Entry, Failed, Figures, Table
from benchmarks.peers.ours import program
from benchmarks.processes import Unavailable, wait_for_calm
from benchmarks.raw import Session, request
from ftpwire import digests, frames, messages
from ftpwire.frames import Kind
from ftpwire.messages import MakeDir, Put, Sent

if TYPE_CHECKING:
    from benchmarks.bench import Bench

CLIENTS = 16
FIRST = 2
"""Clients that come first and are busy when the others come, so that `auto` has another process by
then. Sessions are never moved to another process."""
SIZE = 1024
"""Size of a file in bytes."""
FLOOR = 1000
GOAL = 1500
"""Files per second, of all clients together, on an ext4 of its own."""
_DISK = 2 * 1024**3
"""Size of that file system in bytes; its image is a sparse file."""
_PATIENCE = 60.0
_NAMES = {"1": "1 worker", "2": "2 workers", "auto": "workers auto"}


# the disk ------------------------------------------------------------------------------------


@contextmanager
def own_disk(place: Path) -> Iterator[Path]:
    """Mount an ext4 in a file for this measurement.

    Raises:
        Unavailable: It cannot be created or mounted here.
    """
    if os.geteuid() != 0:
        raise Unavailable("only root can mount a file system")
    image, point = place / "disk.img", place / "disk"
    point.mkdir()
    with open(image, "wb") as file:
        file.truncate(_DISK)
    _call("mkfs.ext4", "-q", "-F", str(image))
    _call("mount", "-o", "loop", str(image), str(point))
    try:
        yield point
    finally:
        _call("umount", str(point))
        image.unlink()


def _call(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=_PATIENCE)
    except FileNotFoundError:
        raise Unavailable(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{command[0]}: {error.stderr.strip()}") from None


# the measurement -----------------------------------------------------------------------------


def durable(bench: Bench, name: str) -> Table:
    """Measure the files per second that are acknowledged as durable, of all clients together."""
    title = f"{CLIENTS} clients each put files of {SIZE} bytes, one after another, TLS"
    columns = (
        Column("rate", "durable files/s in total", 0),
        Column("slowest", "ms for 99 of 100", 1),
        Column("server", "server's cores"),
        Column("clients", "clients' cores"),
    )
    table = Table(name, title, columns, more_is_better=True)
    # not below the data directory: if that is in memory, there is no disk to wait for
    place = Path(tempfile.mkdtemp(prefix="ftpd-durable-"))
    try:
        with ExitStack() as stack:
            try:
                disk = stack.enter_context(own_disk(place))
            except Unavailable as error:
                disk = bench.place
                table.notes.append(f"on {workloads.file_system(disk)}, not on ext4: {error}")
            else:
                table.notes.append("on an ext4 of its own, in a file")
            table.notes.append(f"floor: {FLOOR:,}, goal: {GOAL:,}")
            bench.fill(table, [_entry(bench, disk, workers) for workers in _NAMES])
    finally:
        workloads.remove(place)
    return table


def _entry(bench: Bench, disk: Path, workers: str) -> Entry:
    def command(root: Path, port: int) -> list[str]:
        where = ["--root", str(root), "--host", "127.0.0.1", "--port", str(port)]
        return [*program("ftpd"), "start", *where, "--workers", workers]

    engine = Engine(_NAMES[workers], command, ours=True)

    def attempt() -> Figures:
        place = Path(tempfile.mkdtemp(dir=disk))
        try:
            with (
                serving(engine, place, SIZE) as (server, spec),
                Helper(spec, place / "clients.log", "benchmarks.durable") as helper,
            ):
                seconds = bench.scale.login_seconds
                helper.do("open", count=FIRST)
                # long enough for another process to start, if there is to be one
                helper.do("put", size=SIZE, seconds=seconds * (2 if workers == "auto" else 0.25))
                helper.do("open", count=CLIENTS - FIRST)
                helper.do("put", size=SIZE, seconds=seconds / 4)  # warm
                wait_for_calm(bench.calm)
                cpu, began = server.cpu(), time.perf_counter()
                answer = helper.do("put", size=SIZE, seconds=seconds)
                cores = (server.cpu() - cpu) / (time.perf_counter() - began)
                return {
                    "rate": answer["rate"],
                    "slowest": answer["slowest"],
                    "server": cores,
                    "clients": answer["cores"],
                }
        finally:
            workloads.remove(place)

    return Entry(engine.name, attempt, ours=True)


# the clients ---------------------------------------------------------------------------------


class _Client:
    """One session, which stores one file at a time."""

    def __init__(self, spec: Spec, directory: str) -> None:
        self.session = Session(spec)
        self.began = 0.0
        self._directory = directory
        self._count = 0
        self.session.send(request(MakeDir(directory.encode(), parents=True)))
        self.answered()

    def put(self, size: int, rest: bytes) -> None:
        """Send the next file. ``rest`` is what follows the request."""
        name = f"{self._directory}/{self._count}".encode()
        self._count += 1
        self.began = time.perf_counter()
        self.session.send(request(Put(name, size)) + rest)

    def answered(self) -> None:
        """Receive the reply, which has begun to arrive."""
        self.session.answer(Kind.REPLY)


class Clients:
    """The commands of the helper process."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._clients: list[_Client] = []

    def open(self, count: int) -> dict[str, Any]:
        """Open COUNT sessions, each with a directory of its own."""
        first = len(self._clients)
        numbers = range(first, first + count)
        self._clients += [_Client(self._spec, f"/of-{number}") for number in numbers]
        return {}

    def put(self, size: int, seconds: float) -> dict[str, Any]:
        """Let each session put one file after another for some seconds."""
        data = bytes(size)
        rest = frames.frame(Kind.DATA, 1, data)
        rest += frames.frame(Kind.END, 1, messages.encode(Sent(size, digests.digest(data))))
        took: list[float] = []
        cpu, began = time.process_time(), time.perf_counter()
        with selectors.DefaultSelector() as selector:
            for client in self._clients:
                selector.register(client.session.fileno(), selectors.EVENT_READ, client)
                client.put(size, rest)
            while selector.get_map():
                for key, _ in selector.select():
                    client = key.data
                    client.answered()
                    now = time.perf_counter()
                    took.append(now - client.began)
                    if now - began < seconds:
                        client.put(size, rest)
                    else:
                        selector.unregister(key.fd)
        passed = time.perf_counter() - began
        took.sort()
        return {
            "rate": len(took) / passed,
            "slowest": took[len(took) * 99 // 100] * 1000,
            "cores": (time.process_time() - cpu) / passed,
        }


def main(arguments: list[str]) -> None:
    """Run the helper process."""
    clients = Clients(Spec(**json.loads(arguments[0])))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(clients, request.pop("do"))(**request)
        except (OSError, Failed) as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
