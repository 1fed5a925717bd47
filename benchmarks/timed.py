"""Timed commands of a peer, and the columns for their resources.

Lives here: what most measurements have in common.
Lives elsewhere: the measurements (suite.py, clients.py, trash.py), running rounds (measure.py).
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
"""Seconds after which a command is stopped, and its peer is removed from the measurement."""
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
    """Run a peer's command. Return its figures, with CPU seconds per GiB of ``gib``."""
    return timed_together(bench, peer, [command], [bench.log(peer)], gib)


def timed_together(
    bench: Bench, peer: Peer, commands: Sequence[Command], logs: Sequence[Path], gib: float = 1.0
) -> Figures:
    """Run commands of several clients of a peer at the same time. Return their figures together.

    The client's peak is that of the client with the highest one. Raises Failed.
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
    if peer.ours:  # other peers have several processes, which share most pages
        # at least the peak of this process: the kernel counts that before the exec
        figures["client_peak"] = max(ran.peak for ran in rans) / MiB
        figures["server_peak"] = peer.server.peak() / MiB
    return figures


def helper(what: str, amount: float, spec: dict[str, object], module: str) -> Command:
    """Return the command of a helper process: a module of this package that gets what to do, an
    amount and a spec, and prints its result."""
    argv = [sys.executable, "-m", module, what, str(amount), json.dumps(spec)]
    return Command(argv, {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)})
