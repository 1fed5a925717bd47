"""The memory of our client and server with trees of very many files.

Lives here: one transfer of each tree, and the peak memory of both sides.
Lives elsewhere: the peak of a client's process alone (peak.py), that of a server (processes.py).

The files are empty: this measures what each file costs the client, not the disk. Results are
counted instead of compared, so that this process stays small, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.measure import Column, Command, Failed, Figures, Row, Table, run, say_to_stderr
from benchmarks.peers import Peer
from benchmarks.processes import Unavailable

PATIENCE = 1800.0
MiB = 1024 * 1024
NAME = "many"
KEY = "ours-tls"
COLUMNS = (
    Column("client_peak", "client's peak MiB", 1),
    Column("server_peak", "server's peak MiB", 1),
    Column("seconds", "seconds", 1),
    Column("rate", "files/s", 0),
)


def peaks(bench: Bench, name: str, *, up: bool) -> Table:
    """Measure one transfer for each number of files, each with a server of its own."""
    way = "up" if up else "down"
    table = Table(name, f"the peak memory of a transfer of empty files, {way}", COLUMNS)
    say = say_to_stderr(name)
    for files in bench.scale.memory_files:
        who = f"ours, {files:,} files"
        say(who)
        try:
            with bench.fresh(KEY) as peer:
                row = Row(who, ours=True)
                row.add(_attempt(bench, peer, files, up))
                table.rows.append(row)
        except (Unavailable, OSError) as error:
            table.notes.append(f"{who}: {error}")
    table.notes.append("measured once. 1.00 × means that memory does not grow with the files")
    return table


def _attempt(bench: Bench, peer: Peer, files: int, up: bool) -> Figures:
    stored, local = peer.stored(NAME), bench.place / f"{NAME}-files"
    source, result = (local, stored) if up else (stored, local)
    try:
        workloads.empty_tree(source, files)
        command = peer.put_tree(source, NAME) if up else peer.get_tree(NAME, result)
        peak = peer.place / "peak"
        peer.server.reset_peak()
        ran = run(_with_peak(command, peak), bench.log(peer), PATIENCE)
        if (count := workloads.count_files(result)) != files:
            raise Failed(f"{count:,} files arrived instead of {files:,}")
        return {
            "client_peak": int(peak.read_text()) / MiB,
            "server_peak": peer.server.peak() / MiB,
            "seconds": ran.seconds,
            "rate": files / ran.seconds,
        }
    finally:
        for tree in (source, result):
            workloads.remove(tree)


def _with_peak(command: Command, result: Path) -> Command:
    root = str(Path(__file__).resolve().parent.parent)
    argv = [sys.executable, "-m", "benchmarks.peak", str(result), *command.argv]
    return Command(argv, {**command.env, "PYTHONPATH": root})
