"""Several clients at once, served by one process or by two.

Lives here: the measurements of `ftpd start --workers N`.
Lives elsewhere: the clients, which use little CPU time (raw.py), the list of measurements
(suite.py).

Clients and server share the machine's cores. So the table shows the cores that each side used: more
workers could not have had what the clients used.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import workloads
from benchmarks.crowd import Helper
from benchmarks.engines import Engine, serving
from benchmarks.measure import Column, Entry, Figures, Table
from benchmarks.peers.ours import program
from benchmarks.processes import Server, wait_for_calm

if TYPE_CHECKING:
    from benchmarks.bench import Bench

CLIENTS = 4
SMALL = 2048
"""Size of a small file in bytes."""
TIMES = 3
"""Number of times that each client fetches the large file."""
FLOOR = 1.5
"""Least rate of two workers with small files, as a multiple of the rate of one."""

_SHARES = (
    Column("server", "server's cores"),
    Column("clients", "clients' cores"),
    Column("least", "the slowest client's share", 2),
)
Work = Callable[[Helper, int], dict[str, Any]]


def _with_workers(count: int) -> Engine:
    def command(root: Path, port: int) -> list[str]:
        where = ["--root", str(root), "--host", "127.0.0.1", "--port", str(port)]
        return [*program("ftpd"), "start", *where, "--workers", str(count)]

    return Engine(f"{count} worker{'s' if count > 1 else ''}", command, ours=True)


@contextmanager
def _clients(bench: Bench, engine: Engine) -> Iterator[tuple[Server, list[Helper]]]:
    place = Path(tempfile.mkdtemp(dir=bench.place))
    try:
        with ExitStack() as stack:
            server, spec = stack.enter_context(serving(engine, place, bench.scale.fetch_size))
            (place / "root" / spec.user / "file").write_bytes(bytes(SMALL))
            helpers = [
                stack.enter_context(Helper(spec, place / f"client-{number}.log", "benchmarks.raw"))
                for number in range(CLIENTS)
            ]
            yield server, helpers
    finally:
        workloads.remove(place)


def _attempt(bench: Bench, engine: Engine, work: Work) -> Figures:
    with _clients(bench, engine) as (server, helpers), ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(work, helpers, range(CLIENTS)))  # warm-up: sessions, files, caches
        wait_for_calm(bench.calm)
        cpu, began = server.cpu(), time.perf_counter()
        answers = list(pool.map(work, helpers, range(CLIENTS)))
        passed = time.perf_counter() - began
        rates = [answer["rate"] for answer in answers]
        return {
            "rate": sum(rates),
            "server": (server.cpu() - cpu) / passed,
            "clients": sum(answer["cores"] for answer in answers),
            "least": min(rates) * CLIENTS / sum(rates),
        }


def _table(bench: Bench, name: str, title: str, rate: Column, work: Work) -> Table:
    table = Table(name, title, (rate, *_SHARES), more_is_better=True)
    engines = [_with_workers(count) for count in (1, 2)]
    entries = [
        Entry(one.name, lambda one=one: _attempt(bench, one, work), ours=True)  # type: ignore[misc]
        for one in engines
    ]
    bench.fill(table, entries)
    if len(table.rows) == len(engines):
        one, two = (row.median("rate") or 0.0 for row in table.rows)
        table.notes.append(f"two workers: {two / one:.2f} times one")
    return table


def small(bench: Bench, name: str, *, up: bool) -> Table:
    """Measure many small files, with all clients at once."""
    seconds = bench.scale.login_seconds

    def work(helper: Helper, number: int) -> dict[str, Any]:
        if up:
            return helper.do("up", directory=f"/of-{number}", size=SMALL, seconds=seconds)
        return helper.do("down", path="/file", seconds=seconds)

    title = f"{CLIENTS} clients {'put' if up else 'get'} files of {SMALL} bytes at once, TLS"
    table = _table(bench, name, title, Column("rate", "files/s in total", 0), work)
    table.notes.append(f"floor: {FLOOR}. The clients do not check what they receive")
    return table


def large(bench: Bench, name: str) -> Table:
    """Measure a large file, with all clients at once."""
    size = bench.scale.fetch_size

    def work(helper: Helper, number: int) -> dict[str, Any]:
        return helper.do("large", path="/large", size=size, times=TIMES)

    title = f"{CLIENTS} clients get {size // 2**20} MiB at once, {TIMES} times, TLS"
    table = _table(bench, name, title, Column("rate", "GB/s in total"), work)
    table.notes.append(
        "the clients discard what they receive, still encrypted; even one process encrypts and "
        "hashes on several cores, outside of Python's global lock"
    )
    return table
