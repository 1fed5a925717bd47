"""Ways to serve many sessions: threads, parked threads, coroutines, greenlets.

Lives here: the engines, and the measurements of each with many sessions.
Lives elsewhere: the sessions (crowd.py), the servers that are not the product (coroutines.py,
greenlets.py), the list of measurements (suite.py).

Every engine serves a root of its own with the same account, over TLS, and gets requests from the
same helper process. The engines with threads are the product itself, and gevent runs the same code.
The coroutine server is a small one without quotas, limits, permissions or audit log.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import greenlets, workloads
from benchmarks.crowd import Helper, Spec
from benchmarks.measure import Column, Figures, Row, Table, say_to_stderr
from benchmarks.peers.ours import program
from benchmarks.processes import Server, Unavailable, free_port, wait_for_calm

if TYPE_CHECKING:
    from benchmarks.bench import Bench

AT_ONCE = 100
"""Most sessions that send requests at the same time."""
LOG_INS = 50
_ENOUGH = 50
"""Fewest sessions for a figure per session: with fewer, what the first ones load dominates it."""
FETCHES = 5
MiB = 1024 * 1024

COLUMNS = (
    Column("rate", "requests/s", 0),
    Column("fetch", "transfer GB/s"),
    Column("each", "KiB per session", 1),
    Column("total", "MiB in total", 0),
    Column("log_in", "ms per log-in", 1),
)


@dataclass(frozen=True)
class Engine:
    """One way to serve.

    Attributes:
        command: Function that returns the command line for a root and a port.
        check: Function that raises Unavailable if the engine is not available here.
        most: Most sessions that can be measured in reasonable time.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    ours: bool = False
    check: Callable[[], None] = lambda: None
    most: int = sys.maxsize


def _ftpd(start: list[str], *options: str) -> Callable[[Path, int], list[str]]:
    def command(root: Path, port: int) -> list[str]:
        where = ["--root", str(root), "--host", "127.0.0.1", "--port", str(port)]
        return [*start, "start", *where, "--max-user-sessions", "1000000", *options]

    return command


def _coroutines(root: Path, port: int) -> list[str]:
    key = root / ".ftpd" / "tls"
    arguments = [str(root), str(port), str(key / "cert.pem"), str(key / "key.pem")]
    return [sys.executable, "-m", "benchmarks.coroutines", *arguments]


PARKED = Engine("parked threads", _ftpd(program("ftpd")), ours=True)
ENGINES = (
    PARKED,
    Engine("one thread per session", _ftpd(program("ftpd"), "--threads", "0"), ours=True),
    Engine("asyncio", _coroutines),
    Engine(
        "gevent",
        _ftpd([sys.executable, "-m", "benchmarks.greenlets"], "--threads", "0"),
        check=greenlets.check,
        most=2000,
    ),
)


@contextmanager
def serving(engine: Engine, place: Path, size: int) -> Iterator[tuple[Server, Spec]]:
    """Run a server of that kind, with a small file and a large one of ``size`` bytes.

    Raises:
        Unavailable: It is not available, or does not start.
    """
    engine.check()
    root = place / "root"
    spec = _prepare(root)
    (root / spec.user / "small").write_bytes(b"small")
    workloads.large_file(root / spec.user / "large", size)
    path = str(Path(__file__).parent.parent)
    server = Server(engine.command(root, spec.port), place / "server.log", env={"PYTHONPATH": path})
    with server:
        server.wait_for_line("listening on ")
        yield server, spec


def _prepare(root: Path) -> Spec:
    """Create a root with its key, an account and a token. Return how to connect to it."""
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.accounts.tokens import Tokens
    from ftpserver.database import open_state
    from ftpserver.net.tls import ensure_key
    from ftpserver.settings.table import state_of

    state = state_of(root)
    state.mkdir(mode=0o700, parents=True)
    certificate, _ = ensure_key(state)
    engine = open_state(state)
    try:
        accounts = Accounts(engine, root)
        account = accounts.add("bench", "only for the benchmarks")
        secret = Tokens(engine, accounts).issue(account, "benchmarks").secret
    finally:
        engine.dispose()
    return Spec(free_port(), str(certificate), "bench", secret)


@contextmanager
def _crowd(bench: Bench, engine: Engine) -> Iterator[tuple[Server, Helper]]:
    """Start the server, and a helper that has done everything once, outside of the measurement."""
    place = Path(tempfile.mkdtemp(dir=bench.place))
    try:
        with serving(engine, place, bench.scale.fetch_size) as (server, spec):
            with Helper(spec, place / "crowd.log") as helper:
                helper.do("open", count=1)
                helper.do("ask", seconds=0.1, at_once=1)
                helper.do("fetch", path="/large")
                helper.do("close")
                yield server, helper
    finally:
        workloads.remove(place)


def _figures(bench: Bench, engine: Engine, count: int) -> Figures:
    seconds = bench.scale.login_seconds
    with _crowd(bench, engine) as (server, helper):
        wait_for_calm(bench.calm)
        before = server.memory().proportional
        helper.do("open", count=count)
        log_in = _log_in(helper)
        during = server.memory().proportional
        figures = {
            "total": during / MiB,
            "log_in": log_in,
            "fetch": _fetch(helper),
            "rate": helper.do("ask", seconds=seconds, at_once=AT_ONCE)["rate"],
        }
        if count >= _ENOUGH:
            figures["each"] = (during - before) / 1024 / count
        return figures


def _log_in(helper: Helper) -> float:
    return median(helper.do("log_in", times=LOG_INS)["ms"])


def _fetch(helper: Helper) -> float:
    return median(helper.do("fetch", path="/large")["rate"] for _ in range(FETCHES))


def engines(bench: Bench, name: str, count: int) -> Table:
    """Measure every engine with COUNT sessions."""
    sessions = f"{count:,} session{'s' if count > 1 else ''}"
    title = f"{sessions} over TLS, of which at most {AT_ONCE} send requests at the same time"
    table = Table(name, title, COLUMNS, more_is_better=True)
    table.notes.append(
        "memory: idle, after the last log-in; then, with all of them connected, one more "
        f"logs in {LOG_INS} times, one fetches {bench.scale.fetch_size // MiB} MiB {FETCHES} "
        "times, and all send requests (stat). asyncio: no quotas, limits, permissions, audit log"
    )
    rounds = 1 if count >= bench.scale.crowd else bench.scale.rounds
    say = say_to_stderr(name)
    for engine in ENGINES:
        row = Row(engine.name, engine.ours)
        try:
            if count > engine.most:
                raise Unavailable("skipped: with 10,000 sessions it took more than 8 minutes")
            for number in range(rounds):
                say(f"round {number + 1}: {engine.name}")
                row.add(_figures(bench, engine, count))
        except (Unavailable, OSError) as error:
            table.notes.append(f"{engine.name}: {error}")
        if row.values:
            table.rows.append(row)
    return table


def idle_many(bench: Bench, name: str) -> Table:
    """Measure how thousands of idle sessions slow down a transfer and a log-in."""
    count = bench.scale.crowd
    columns = (
        Column("fetch", "transfer GB/s"),
        Column("log_in", "ms per log-in", 1),
        Column("total", "MiB in total", 0),
    )
    table = Table(name, f"one transfer and one log-in beside {count:,} idle sessions, TLS", columns)
    table.more_is_better = True
    alone, beside = Row("alone", ours=True), Row(f"beside {count:,}", ours=True)
    say = say_to_stderr(name)
    with _crowd(bench, PARKED) as empty, _crowd(bench, PARKED) as full:
        say(f"opening {count:,} sessions")
        full[1].do("open", count=count)
        for number in range(bench.scale.rounds):
            for row, (server, helper) in ((alone, empty), (beside, full)):
                say(f"round {number + 1}: {row.name}")
                wait_for_calm(bench.calm)
                figures = {"fetch": _fetch(helper), "log_in": _log_in(helper)}
                row.add({**figures, "total": server.memory().proportional / MiB})
    table.rows += [alone, beside]
    kept = (beside.median("fetch") or 0.0) / (alone.median("fetch") or 1.0)
    table.notes.append(f"{kept:.0%} of the transfer's speed is kept")
    return table
