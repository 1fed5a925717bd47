"""How long one active user waits for a reply, alone and beside clients that move many small files.

Lives here: requests in one session (a helper process), the clients that are busy meanwhile, and a
process that only echoes, which shows the cost of the machine alone.
Lives elsewhere: command lines (peers/), several timed clients (clients.py).

``python -m benchmarks.stat_beside PAUSE SECONDS SPEC`` sends requests for SECONDS, with PAUSE
seconds between a reply and the next request, and prints the milliseconds of each as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.measure import Column, Entry, Failed, Figures, Table, run
from benchmarks.peers import Peer
from benchmarks.processes import Unavailable, wait_for_calm
from benchmarks.timed import PATIENCE, helper

CLIENTS = 8
PAUSE = 0.01
"""Seconds between a reply and the next request, in the rows with a pause."""
FLOOR = 20
"""The limit of p99 in milliseconds, for one worker and for several."""
KEYS = ("ours-workers-1", "ours-workers-auto")
ASKED = "asked"
COLUMNS = (
    Column("p99", "p99 ms", 2),
    Column("p50", "p50 ms", 2),
    Column("max", "max ms", 1),
    Column("count", "replies", 0),
    Column("files", "files/s put meanwhile", 0),
)
_WARM_UP = 20


def stat_beside(bench: Bench, name: str) -> Table:
    """Measure each server alone and beside the clients, with and without pauses."""
    title = f"one user's `stat`, alone and beside {CLIENTS} clients that put small files"
    table = Table(name, title, COLUMNS)
    entries: list[Entry] = []
    for peer in bench.taking_part(KEYS, table.notes):
        try:
            entries += _entries(bench, peer)
        except Unavailable as error:
            table.notes.append(f"{peer.name}: {error}")
    bench.fill(table, entries)
    table.notes.append(f"floor: p99 at most {FLOOR} ms beside the clients")
    table.notes.append(
        "an echo: one byte to another process and back, beside the same clients: the cost of the "
        "machine for a process that has nothing else to do"
    )
    return table


def _entries(bench: Bench, peer: Peer) -> list[Entry]:
    asked = bench.source("asked", lambda path: workloads.small_tree(path, 1, 1))
    if not peer.stored(ASKED).exists():
        peer.offer(asked.path, ASKED)
    spec = peer.session()
    crowd = _Crowd(bench, peer)
    entries = []
    for kind, beside in (("alone", False), (f"beside {CLIENTS}", True)):
        for text, pause in (("", 0.0), (f", every {PAUSE * 1000:.0f} ms", PAUSE)):
            attempt = _attempt(bench, peer, crowd if beside else None, pause, spec)
            entries.append(Entry(f"{peer.name}, {kind}{text}", attempt, ours=True))
    echo = _attempt(bench, peer, crowd, PAUSE, {"kind": "echo"})
    name = f"an echo beside {peer.name}, every {PAUSE * 1000:.0f} ms"
    return [*entries, Entry(name, echo, limit=True)]


def _attempt(
    bench: Bench, peer: Peer, crowd: _Crowd | None, pause: float, spec: dict[str, Any]
) -> Callable[[], Figures]:
    """Return one round: send requests for some seconds, while the crowd, if any, is busy."""
    command = helper(str(pause), bench.scale.beside_seconds, spec, "benchmarks.stat_beside")

    def ask() -> Figures:
        run(command, bench.log(peer), PATIENCE)
        times = json.loads(bench.log(peer).read_text())
        cuts = quantiles(times, n=100, method="inclusive")
        return {"p50": cuts[49], "p99": cuts[98], "max": max(times), "count": len(times)}

    def attempt() -> Figures:
        wait_for_calm(bench.calm)
        if crowd is None:
            return ask()
        with crowd.at_work() as rate:
            figures = ask()
        return {**figures, "files": rate()}

    return attempt


class _Crowd:
    """Real clients, each of which puts one tree after another."""

    def __init__(self, bench: Bench, peer: Peer) -> None:
        self._bench = bench
        self._source = bench.each.path  # made here, because the clients' threads only read it
        self._clients = [peer.as_client(number) for number in range(CLIENTS)]

    @contextmanager
    def at_work(self) -> Iterator[Callable[[], float]]:
        """Keep all clients busy within the context. Yield a function that returns their files per
        second, to be called after the context.

        Raises:
            Failed: One of the clients failed.
        """
        stop = threading.Event()
        began = time.perf_counter()
        passed = 0.0
        with ThreadPoolExecutor(CLIENTS) as pool:
            try:
                works = [pool.submit(self._put, client, stop) for client in self._clients]
                self._wait_for_all(works)
                yield lambda: sum(work.result() for work in works) / passed
            finally:
                stop.set()
        passed = time.perf_counter() - began
        for work in works:
            work.result()

    def _put(self, client: Peer, stop: threading.Event) -> int:
        """Put trees until ``stop`` is set. Return the number of files."""
        trees = 0
        try:
            while not stop.is_set():
                command = client.put_tree(self._source, _tree(trees))
                trees += 1
                run(command, self._bench.log(client), PATIENCE)
        finally:
            for number in range(trees):
                workloads.remove(client.stored(_tree(number)))
        return trees * self._bench.scale.files_each

    def _wait_for_all(self, works: list[Future[int]]) -> None:
        """Wait until each client has stored something. Raises Failed."""
        while not all(client.stored(_tree(0)).exists() for client in self._clients):
            for work in works:
                if work.done():
                    raise Failed(f"a client of the crowd ended: {work.exception()}")
            time.sleep(0.01)


def _tree(number: int) -> str:
    return f"beside-{number}"


# the helper process ----------------------------------------------------------------------------


def _stat(spec: dict[str, Any]) -> Callable[[], object]:
    from ftpclient.client import Client

    client = Client(
        spec["server"],
        password=spec["password"],
        plaintext=spec["plaintext"],
        accept_new=True,
    )
    client.connect()
    return lambda: client.stat(f"/{ASKED}")


def _echo(spec: dict[str, Any]) -> Callable[[], object]:
    """Start a process that sends back each byte. It ends with this process."""
    here, there = socket.socketpair()
    if not os.fork():
        here.close()
        while data := there.recv(1):
            there.sendall(data)
        os._exit(0)
    there.close()

    def ask() -> object:
        here.sendall(b"?")
        return here.recv(1)

    return ask


def times(pause: float, seconds: float, spec: dict[str, Any]) -> list[float]:
    """Return the milliseconds from each request to its reply."""
    ask = {"ours": _stat, "echo": _echo}[spec["kind"]](spec)
    for _ in range(_WARM_UP):
        ask()
    found = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        ask()
        found.append((time.perf_counter() - began) * 1000)
        if pause:
            time.sleep(pause)
    return found


def main(arguments: list[str]) -> None:
    """Run the helper process."""
    pause, seconds, text = arguments
    spec = json.loads(text)
    os.environ.update(spec.get("environment", {}))
    print(json.dumps(times(float(pause), float(seconds), spec)))


if __name__ == "__main__":
    main(sys.argv[1:])
