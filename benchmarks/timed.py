"""Timed commands of a peer, and the columns that show what they took.

Lives here: what most measurements have in common. Lives elsewhere: what is measured (suite.py,
clients.py, trash.py), how rounds are run (measure.py).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.measure import Column, Command, Figures, run_together
from benchmarks.peers import Peer
from benchmarks.processes import busy, wait_for_calm

PATIENCE = 180.0
"""Seconds after which a command is stopped, and its peer is out of that measurement."""
MiB = 1024 * 1024

SECONDS = Column("seconds", "seconds", 3)
PEAKS = (
    Column("client_peak", "our client's peak MiB", 0),
    Column("server_peak", "our server's peak MiB", 0),
    Column("others", "others' cores"),
)
PER_GIB = (
    SECONDS,
    Column("rate", "GB/s"),
    Column("client_cpu", "client CPU s/GiB"),
    Column("server_cpu", "server CPU s/GiB"),
    *PEAKS,
)
IN_ALL = (
    SECONDS,
    Column("both_cpu", "CPU s of both"),
    Column("client_cpu", "client CPU s"),
    Column("server_cpu", "server CPU s"),
    *PEAKS,
)


def timed(bench: Bench, peer: Peer, command: Command, gib: float = 1.0) -> Figures:
    """Run a peer's command; its figures, CPU seconds for each of ``gib``."""
    return timed_together(bench, peer, [command], [bench.log(peer)], gib)


def timed_together(
    bench: Bench, peer: Peer, commands: Sequence[Command], logs: Sequence[Path], gib: float = 1.0
) -> Figures:
    """Run commands of several clients of a peer at the same time; their figures together.

    The client's peak is that of the client that had the highest. Raises Failed.
    """
    peer.server.reset_peak()
    wait_for_calm(bench.calm)
    before, others = peer.server.cpu(), busy()
    seconds, rans = run_together(commands, logs, PATIENCE)
    others = busy() - others
    served = peer.server.cpu() - before
    cpu = sum(ran.cpu for ran in rans)
    figures = {
        "others": max(0.0, others - cpu - served) / seconds,
        "seconds": seconds,
        "client_cpu": cpu / gib,
        "server_cpu": served / gib,
        "both_cpu": (cpu + served) / gib,
    }
    if peer.ours:  # others spread over several processes, and share most pages
        # not less than what this process has: the kernel counts that in before the exec
        figures["client_peak"] = max(ran.peak for ran in rans) / MiB
        figures["server_peak"] = peer.server.peak() / MiB
    return figures


def helper(what: str, amount: float, spec: dict[str, object], module: str) -> Command:
    """The command of a helper process: a module of this package that is told what, how much, and
    where, and prints its result."""
    argv = [sys.executable, "-m", module, what, str(amount), json.dumps(spec)]
    return Command(argv, {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)})
