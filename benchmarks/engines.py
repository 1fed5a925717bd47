"""Ways to serve many sessions: threads, parked threads, coroutines, greenlets.

Lives here: the engines and what is measured of each, with a crowd of sessions there.
Lives elsewhere: the crowd (crowd.py), the servers that aren't the product (coroutines.py,
greenlets.py), the order of things (suite.py).

Every engine serves a root of its own with the same account, over TLS, and is asked by the same
helper process. With the threads' engines it is the product as it comes, gevent runs the same code;
the coroutine server is a small one, which keeps no quotas, limits, permissions nor audit log.
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
"""Most sessions that ask at the same time."""
LOG_INS = 50
_ENOUGH = 50
"""Sessions, from which on what each of them takes can be told from what the first ones load."""
FETCHES = 5
MiB = 1024 * 1024

COLUMNS = (
    Column("rate", "requests/s", 0),
    Column("fetch", "transfer GB/s"),
    Column("each", "KiB for each session", 1),
    Column("total", "MiB in all", 0),
    Column("log_in", "ms for a log-in", 1),
)


@dataclass(frozen=True)
class Engine:
    """One way to serve.

    Attributes:
        command: The command line for a root and a port.
        check: Raises Unavailable when it can't be had here.
        most: Sessions with which it can be measured in reasonable time.
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
    Engine("a thread each", _ftpd(program("ftpd"), "--threads", "0"), ours=True),
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
    """A running server of that kind, with a small file and a large one of ``size`` bytes.

    Raises:
        Unavailable: It can't be had, or doesn't start.
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
    """A root with its key, an account and a token."""
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
    """The server, and a helper of which everything was used once: that is nobody's memory."""
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
    """Every engine with so many sessions."""
    sessions = f"{count:,} session{'s' if count > 1 else ''}"
    title = f"{sessions} over TLS, of which at most {AT_ONCE} ask at the same time"
    table = Table(name, title, COLUMNS, more_is_better=True)
    table.notes.append(
        "memory: idle, after the last one has logged in; then, with all of them there, one more "
        f"logs in {LOG_INS} times, one fetches {bench.scale.fetch_size // MiB} MiB {FETCHES} "
        "times, and all ask (stat) in turns. asyncio: no quotas, limits, permissions, audit log"
    )
    rounds = 1 if count >= bench.scale.crowd else bench.scale.rounds
    say = say_to_stderr(name)
    for engine in ENGINES:
        row = Row(engine.name, engine.ours)
        try:
            if count > engine.most:
                raise Unavailable("given up: with 10,000 sessions it was not done after 8 minutes")
            for number in range(rounds):
                say(f"round {number + 1}: {engine.name}")
                row.add(_figures(bench, engine, count))
        except (Unavailable, OSError) as error:
            table.notes.append(f"{engine.name}: {error}")
        if row.values:
            table.rows.append(row)
    return table


def idle_many(bench: Bench, name: str) -> Table:
    """What thousands of idle sessions take from whoever has something to do."""
    count = bench.scale.crowd
    columns = (
        Column("fetch", "transfer GB/s"),
        Column("log_in", "ms for a log-in", 1),
        Column("total", "MiB in all", 0),
    )
    table = Table(name, f"one transfer and one log-in beside {count:,} idle sessions, TLS", columns)
    table.more_is_better = True
    alone, beside = Row("alone", ours=True), Row(f"beside {count:,}", ours=True)
    say = say_to_stderr(name)
    with _crowd(bench, PARKED) as empty, _crowd(bench, PARKED) as full:
        say(f"{count:,} sessions are opened")
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
