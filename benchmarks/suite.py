"""The measurements, and the servers that take part in each.

Lives here: the list of measurements, each a function that returns one table.
Lives elsewhere: servers and command lines (peers/), running rounds (measure.py), families of
measurements that have a module of their own (clients.py, engines.py, …).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks import (
    clients,
    durable,
    engines,
    memory,
    several,
    stat_beside,
    trash,
    workloads,
)
from benchmarks.bench import Bench
from benchmarks.delay import Link
from benchmarks.measure import (
    Column,
    Command,
    Entry,
    Failed,
    Figures,
    Row,
    Table,
    interleave,
    kill_group,
    run,
    say_to_stderr,
    start,
)
from benchmarks.peers import Peer
from benchmarks.peers.ours import PASSWORD, USER, Ours, has_command, program
from benchmarks.processes import Unavailable, clean_environment, wait_for_calm
from benchmarks.timed import IN_ALL, PATIENCE, PER_GIB, SECONDS, helper, timed
from benchmarks.workloads import GiB, Source

DELAY = 0.05
"""Delay of the slow link in seconds, one way."""
PIECES_RATE = 20e6
"""Bytes per second of each connection over the limited link."""
PIECES_DELAY = 0.02
"""Delay of the limited link in seconds, one way."""
PIECES_CONNECTIONS = (1, 2, 4, None)
MiB = 1024 * 1024

LARGE_TLS = ("ours-tls", "nginx-tls", "vsftpd-tls", "lftp-tls", "sftp", "rsync-ssh", "rclone")
LARGE_PLAIN = (
    *("ours-plain", "ours-unix", "vsftpd-plain", "nginx-plain", "lftp-plain", "rsync", "iperf3"),
)
SMALL = (
    *("ours-tls", "rsync", "nginx-tls", "rsync-ssh", "sftp", "rclone"),
    *("lftp-plain", "lftp-tls", "ours-plain"),
)
SYNC = ("ours-tls", "rsync", "rsync-ssh", "rclone")
IDLE = ("ours-tls", "vsftpd-tls", "nginx-tls", "sftp", "ours-plain")
LOG_INS = ("ours-tls", "vsftpd-tls", "sftp")
FIRST_BYTE = ("ours-tls", "nginx-tls", "vsftpd-tls", "sftp")
DELAYED = ("ours-tls", "rsync", "rsync-ssh", "nginx-tls", "sftp")


# transfers -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """A transfer that every peer does: the source, the direction, and the columns."""

    source: Source
    up: bool
    columns: Sequence[Column]
    gib: float = 1.0

    def entry(self, bench: Bench, peer: Peer) -> Entry:
        """Prepare a peer for its rounds. Raises Unavailable."""
        return self._up(bench, peer) if self.up else self._down(bench, peer)

    def _up(self, bench: Bench, peer: Peer) -> Entry:
        path = self.source.path
        put = peer.put_tree if path.is_dir() else peer.put_file
        stored = peer.stored("up")
        return self._entry(bench, peer, put(path, "up"), stored)

    def _down(self, bench: Bench, peer: Peer) -> Entry:
        path = self.source.path
        if not peer.stored("down").exists():
            peer.offer(path, "down")
        target = bench.result("down")
        get = peer.get_tree if path.is_dir() else peer.get_file
        return self._entry(bench, peer, get("down", target), target)

    def _entry(self, bench: Bench, peer: Peer, command: Command, result: Path) -> Entry:
        def attempt() -> Figures:
            workloads.remove(result)
            try:
                figures = dict(timed(bench, peer, command, self.gib))
                if not peer.limit:
                    self.source.check(result)
            finally:
                workloads.remove(result)
            figures["rate"] = self.gib * GiB / 1e9 / figures["seconds"]
            return figures

        return Entry(peer.name, attempt, peer.ours, peer.limit)

    def measure(self, bench: Bench, table: Table, keys: Sequence[str]) -> Table:
        """Measure the transfer with every peer."""
        entries, started = [], []
        try:
            for peer in bench.taking_part(keys, table.notes):
                started.append(peer)
                try:
                    entries.append(self.entry(bench, peer))
                except Unavailable as error:
                    table.notes.append(f"{peer.name}: {error}")
            return bench.fill(table, entries)
        finally:
            for peer in started:
                peer.withdraw("down")


def large(bench: Bench, name: str, up: bool, keys: Sequence[str]) -> Table:
    gib = bench.scale.size / GiB
    way = "up" if up else "down"
    kind = "TLS or SSH" if "tls" in name else "plain"
    table = Table(name, f"one file of {gib:.3g} GiB, {kind}, {way}", PER_GIB)
    return Transfer(bench.large, up, PER_GIB, gib).measure(bench, table, keys)


def small(bench: Bench, name: str, up: bool) -> Table:
    scale = bench.scale
    title = f"{scale.files:,} files of 100 to 8,000 bytes in {scale.directories:,} directories, "
    table = Table(name, title + ("up" if up else "down"), IN_ALL)
    return Transfer(bench.small, up, IN_ALL).measure(bench, table, SMALL)


# a second sync -------------------------------------------------------------------------------


def sync(bench: Bench, name: str, up: bool) -> Table:
    title = f"sync of {bench.scale.sync_files:,} files of which none has changed, "
    table = Table(name, title + ("up" if up else "down"), IN_ALL)
    if not has_command("sync"):
        table.notes.append("`ftp sync` does not exist in this version")
        return table
    entries: list[Entry] = []
    targets: list[Path] = []
    try:
        for peer in bench.taking_part(SYNC, table.notes):
            try:
                entries.append(_sync_entry(bench, peer, up, targets))
            except Unavailable as error:
                table.notes.append(f"{peer.name}: the first sync failed: {error}")
        return bench.fill(table, entries)
    finally:
        for target in targets:
            workloads.remove(target)


def _sync_entry(bench: Bench, peer: Peer, up: bool, targets: list[Path]) -> Entry:
    """Do the first sync; return an entry that measures the next one."""
    source = bench.many
    target = peer.stored("many") if up else peer.place / "many"
    targets.append(target)
    if up:
        command = peer.sync_up(source.path, "many")
    else:
        peer.offer(source.path, "many-down")
        targets.append(peer.stored("many-down"))
        command = peer.sync_down("many-down", target)
    run(command, bench.log(peer), PATIENCE)

    def attempt() -> Figures:
        figures = timed(bench, peer, command)
        source.check(target)
        return figures

    return Entry(peer.name, attempt, peer.ours)


# sessions ------------------------------------------------------------------------------------


def idle(bench: Bench, name: str) -> Table:
    count = bench.scale.sessions
    columns = (
        Column("each", "KiB per session", 1),
        Column("total", "MiB in total", 1),
        Column("resident", "resident MiB in total", 1),
        Column("fresh", "MiB when just started", 1),
    )
    title = f"the server's memory with {count} idle sessions, logged in"
    table = Table(name, title, columns)
    table.notes.append(
        "pages that processes share are counted once, except under resident; one session was "
        "opened and closed before"
    )
    for key in IDLE:  # one after another, each with a new server
        if not bench.wanted(key):
            continue
        try:
            with bench.fresh(key) as peer:
                attempt = _idle_attempt(bench, peer, count)
                entry = Entry(peer.server_name, attempt, peer.ours)
                rows, notes = interleave([entry], 1, say_to_stderr(name))
        except Unavailable as error:
            rows, notes = [], [f"{key}: {error}"]
        table.rows += rows
        table.notes += notes
    return table


def _idle_attempt(bench: Bench, peer: Peer, count: int) -> Callable[[], Figures]:
    """Return an attempt whose first call opens only one session, so that what the first session
    loads does not count."""
    fresh = peer.server.memory().proportional
    amounts = iter((1, count))

    def attempt() -> Figures:
        peer.server.settle()
        before = peer.server.memory()
        command = helper("idle", next(amounts), peer.session(), "benchmarks.sessions")
        with open(bench.log(peer), "wb") as log:
            sessions = subprocess.Popen(
                command.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(command.env),
                start_new_session=True,
            )
        try:
            assert sessions.stdout is not None
            if sessions.stdout.readline() != b"ready\n":
                raise Failed("the sessions could not be opened")
            time.sleep(0.3)
            during = peer.server.memory()
            sessions.communicate(timeout=PATIENCE)
        finally:
            if sessions.poll() is None:
                kill_group(sessions)
                sessions.communicate()
        return {
            "each": (during.proportional - before.proportional) / 1024 / count,
            "total": during.proportional / MiB,
            "fresh": fresh / MiB,
            "resident": during.resident / MiB,
        }

    return attempt


def log_ins(bench: Bench, name: str) -> Table:
    table = Table(
        name,
        "log-ins per second over TLS or SSH, one after another (connect, handshake, log in, close)",
        (Column("rate", "per second", 1),),
        more_is_better=True,
    )
    table.notes.append(
        "vsftpd checks no password here (anonymous); each log-in to sshd includes starting `ssh`"
    )
    entries = []
    for peer in bench.taking_part(LOG_INS, table.notes):
        spec = peer.session()
        if isinstance(peer, Ours):
            by_token = {**spec, "password": None}
            if peer.token:
                entries.append(_log_in_entry(bench, peer, "ours, by token", by_token))
            entries.append(_log_in_entry(bench, peer, "ours, by password", spec))
        else:
            entries.append(_log_in_entry(bench, peer, peer.server_name, spec))
    return bench.fill(table, entries)


def _log_in_entry(bench: Bench, peer: Peer, name: str, spec: dict[str, object]) -> Entry:
    command = helper("log-ins", bench.scale.login_seconds, spec, "benchmarks.sessions")

    def attempt() -> Figures:
        wait_for_calm(bench.calm)
        run(command, bench.log(peer), PATIENCE)
        return {"rate": float(bench.log(peer).read_text())}

    return Entry(name, attempt, peer.ours)


# unauthenticated connections -----------------------------------------------------------------

REFUSALS = {
    "unknown name": ("nobody", "secret"),
    "wrong password": (USER, "wrong"),
    "disabled account": ("disabled", PASSWORD),
    "expired account": ("expired", PASSWORD),
    "address not allowed": ("elsewhere", PASSWORD),
}
"""Names and passwords that are refused; the last three need accounts made for it."""


def timing(bench: Bench, name: str) -> Table:
    table = Table(
        name,
        "from a log-in to its refusal, for every reason",
        (Column("ms", "milliseconds", 2),),
    )
    peer = bench.peer("ours-tls")
    assert isinstance(peer, Ours)
    for account, option in (
        ("disabled", ()),
        ("expired", ("--expires", "2020-01-01")),
        ("elsewhere", ("--network", "192.0.2.0/24")),
    ):
        peer.admin("user", "add", account, "--password-stdin", *option, given=PASSWORD)
    peer.admin("user", "disable", "disabled")
    spec = {**peer.session(), "cases": REFUSALS}
    command = helper("timing", bench.scale.tries, spec, "benchmarks.unauthenticated")
    wait_for_calm(bench.calm)
    run(command, bench.log(peer), PATIENCE)
    found = json.loads(bench.log(peer).read_text())
    table.rows += [Row(case, ours=True, values={"ms": found[case]}) for case in REFUSALS]
    medians = [row.median("ms") or 0.0 for row in table.rows]
    table.notes.append(
        f"{bench.scale.tries} attempts each, in turns; the medians differ by "
        f"{max(medians) - min(medians):.2f} ms at most"
    )
    return table


def flood(bench: Bench, name: str) -> Table:
    width = bench.scale.sessions // 4
    table = Table(
        name,
        f"transfers during failing log-ins on {width} connections at once, from ever new addresses",
        (SECONDS, Column("rate", "GB/s"), Column("tries", "failed log-ins per second", 0)),
    )
    peer = bench.peer("ours-tls")
    gib = bench.scale.size / GiB
    entries = []
    for up in (False, True):
        entry = Transfer(bench.large, up, table.columns, gib).entry(bench, peer)
        way = "up" if up else "down"
        entries.append(Entry(f"{way}, alone", entry.attempt, ours=True))
        entries.append(Entry(f"{way}, in a flood", _flooded(peer, width, entry.attempt), ours=True))
    bench.fill(table, entries)
    rates = {row.name: row.median("rate") or 0.0 for row in table.rows}
    for way in ("down", "up"):
        alone, flooded = rates.get(f"{way}, alone"), rates.get(f"{way}, in a flood")
        if alone and flooded:
            table.notes.append(f"{way}: {flooded / alone:.0%} of the throughput is kept")
    return table


def _flooded(peer: Peer, width: int, attempt: Callable[[], Figures]) -> Callable[[], Figures]:
    def flooded() -> Figures:
        command = helper("flood", width, peer.session(), "benchmarks.unauthenticated")
        unauthenticated = subprocess.Popen(
            command.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(command.env),
            start_new_session=True,
        )
        try:
            assert unauthenticated.stdout is not None
            if unauthenticated.stdout.readline() != "ready\n":
                raise Failed("the flood did not start")
            began = time.monotonic()
            figures = attempt()
            seconds = time.monotonic() - began
            out, _ = unauthenticated.communicate(timeout=PATIENCE)
        finally:
            if unauthenticated.poll() is None:
                kill_group(unauthenticated)
                unauthenticated.communicate()
        return {**figures, "tries": int(out) / seconds}

    return flooded


# latency -------------------------------------------------------------------------------------


def first_byte(bench: Bench, name: str) -> Table:
    table = Table(
        name,
        "from the start of the client to the first byte of a file on its output, TLS or SSH",
        (Column("ms", "milliseconds", 0),),
    )
    entries = []
    source = bench.source("first", lambda path: workloads.large_file(path, MiB))
    for peer in bench.taking_part(FIRST_BYTE, table.notes):
        peer.offer(source.path, "first")
        entries.append(Entry(peer.name, _first_byte_attempt(bench, peer, source), peer.ours))
    try:
        return bench.fill(table, entries)
    finally:
        for key in FIRST_BYTE:
            if key in bench.peers:
                bench.peers[key].withdraw("first")


def _first_byte_attempt(bench: Bench, peer: Peer, source: Source) -> Callable[[], Figures]:
    command = peer.cat("first")
    result = bench.result("first")

    def attempt() -> Figures:
        wait_for_calm(bench.calm)
        with open(bench.log(peer), "wb") as log:
            began = time.perf_counter()
            client = start(command, stdout=subprocess.PIPE, stderr=log)
        assert client.stdout is not None
        try:
            first = client.stdout.read(1)
            passed = time.perf_counter() - began
            result.write_bytes(first + client.stdout.read())
            if client.wait(PATIENCE):
                raise Failed(f"ended with status {client.returncode}")
        finally:
            client.stdout.close()
            if client.poll() is None:
                kill_group(client)
                client.wait()
        source.check(result)
        return {"ms": passed * 1000}

    return attempt


def delayed(bench: Bench, name: str, up: bool) -> Table:
    scale = bench.scale
    title = f"{scale.delayed_files:,} small files over a link of {DELAY * 1000:.0f} ms each way, "
    table = Table(name, title + ("up" if up else "down"), (SECONDS, *IN_ALL[1:4], IN_ALL[-1]))
    transfer = Transfer(bench.delayed, up, IN_ALL)
    entries, links, started = [], [], []
    try:
        for peer in bench.taking_part(DELAYED, table.notes):
            started.append(peer)
            if not up:
                peer.offer(bench.delayed.path, "down")  # not through the link
            link = Link(peer.port, DELAY, peer.place / "link.log")
            links.append(link)
            entries.append(transfer.entry(bench, peer.via(link.port)))
        return bench.fill(table, entries)
    finally:
        for link in links:
            link.stop()
        for peer in started:
            peer.withdraw("down")


def pieces(bench: Bench, name: str, up: bool) -> Table:
    size, rate = bench.scale.pieces_size, PIECES_RATE / 1e6
    title = (
        f"one file of {size // MiB} MiB over a link of {PIECES_DELAY * 1000:.0f} ms each way that "
        f"carries {rate:.0f} MB/s per connection, {'up' if up else 'down'}, TLS"
    )
    table = Table(name, title, PER_GIB)
    source = bench.source("pieces", lambda path: workloads.large_file(path, size))
    transfer = Transfer(source, up, PER_GIB, size / GiB)
    for peer in bench.taking_part(("ours-tls",), table.notes):
        assert isinstance(peer, Ours)
        if not up:
            peer.offer(source.path, "down")  # not through the link
        link = Link(peer.port, PIECES_DELAY, peer.place / "link.log", PIECES_RATE)
        try:
            entries = []
            for count in PIECES_CONNECTIONS:
                entry = transfer.entry(bench, peer.via(link.port).over(count))
                option = "by itself" if count is None else f"-P {count}"
                entries.append(replace(entry, name=f"{entry.name}, {option}"))
            bench.fill(table, entries)
        finally:
            link.stop()
            peer.withdraw("down")
    return table


# start-up ------------------------------------------------------------------------------------


def start_up(bench: Bench, name: str) -> Table:
    table = Table(
        name,
        "starting a client that does nothing",
        (Column("cpu", "CPU ms", 0), Column("wall", "wall ms", 0)),
    )
    table.notes.append("`python -c pass` is the floor for a client in Python")
    commands = {"`ftp --version`": [*program("ftp"), "--version"]}
    limits = {"`python -c pass`": [sys.executable, "-c", "pass"]}
    entries = [_start_entry(bench, text, argv, ours=True) for text, argv in commands.items()]
    entries += [_start_entry(bench, text, argv, limit=True) for text, argv in limits.items()]
    for client in ("curl", "rsync", "lftp"):
        if bench.families and (client == "curl" or client in bench.families):
            entries.append(_start_entry(bench, f"`{client} --version`", [client, "--version"]))
    return bench.fill(table, entries)


def _start_entry(
    bench: Bench, name: str, argv: list[str], *, ours: bool = False, limit: bool = False
) -> Entry:
    def attempt() -> Figures:
        wait_for_calm(bench.calm)
        ran = run(Command(argv), bench.place / "start-up.log", PATIENCE)
        return {"cpu": ran.cpu * 1000, "wall": ran.seconds * 1000}

    return Entry(name, attempt, ours, limit)


WORKS: dict[str, Callable[[Bench, str], Table]] = {
    "large-tls-down": lambda bench, name: large(bench, name, False, LARGE_TLS),
    "large-tls-up": lambda bench, name: large(bench, name, True, LARGE_TLS),
    "large-plain-down": lambda bench, name: large(bench, name, False, LARGE_PLAIN),
    "large-plain-up": lambda bench, name: large(bench, name, True, LARGE_PLAIN),
    "small-up": lambda bench, name: small(bench, name, True),
    "small-down": lambda bench, name: small(bench, name, False),
    "sync-up": lambda bench, name: sync(bench, name, True),
    "sync-down": lambda bench, name: sync(bench, name, False),
    "delay-up": lambda bench, name: delayed(bench, name, True),
    "delay-down": lambda bench, name: delayed(bench, name, False),
    "pieces-up": lambda bench, name: pieces(bench, name, True),
    "pieces-down": lambda bench, name: pieces(bench, name, False),
    "idle": idle,
    "log-ins": log_ins,
    "timing": timing,
    "flood": flood,
    "first-byte": first_byte,
    "start-up": start_up,
    **{
        f"clients-{count}-{way}": partial(clients.together, count=count, up=way == "up")
        for count in clients.COUNTS
        for way in ("up", "down")
    },
    "stat-beside": stat_beside.stat_beside,
    "trash-overwrite": trash.overwrite,
    "trash-remove": trash.remove,
    "workers-small-down": lambda bench, name: several.small(bench, name, up=False),
    "workers-small-up": lambda bench, name: several.small(bench, name, up=True),
    "workers-large-down": several.large,
    "durable-files": durable.durable,
    "idle-10000": engines.idle_many,
    "engines-1": lambda bench, name: engines.engines(bench, name, 1),
    "engines-100": lambda bench, name: engines.engines(bench, name, 100),
    "engines-10000": lambda bench, name: engines.engines(bench, name, bench.scale.crowd),
    "memory-up": lambda bench, name: memory.peaks(bench, name, up=True),
    "memory-down": lambda bench, name: memory.peaks(bench, name, up=False),
}
"""All measurements by name, in the order in which they run."""

NAMED_ONLY = frozenset({"memory-up", "memory-down"})
"""Measurements that take minutes and gigabytes: they run only by name."""


def chosen(names: Sequence[str]) -> list[str]:
    """Return the selected measurements, by name or by the beginning of a name.

    Without names these are all but NAMED_ONLY.

    Raises:
        KeyError: There is no such measurement.
    """
    for name in names:
        if not any(work == name or work.startswith(f"{name}-") for work in WORKS):
            raise KeyError(name)
    return [
        work
        for work in WORKS
        if (not names and work not in NAMED_ONLY)
        or any(work == name or work.startswith(f"{name}-") for name in names)
    ]
