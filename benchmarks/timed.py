"""One timed command of a peer, and the columns that show what it took.

Lives here: what most measurements have in common. Lives elsewhere: what is measured (suite.py,
trash.py), how rounds are run (measure.py).
"""

from __future__ import annotations

from benchmarks.bench import Bench
from benchmarks.measure import Column, Command, Figures, run
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
    peer.server.reset_peak()
    wait_for_calm(bench.calm)
    before, others = peer.server.cpu(), busy()
    ran = run(command, bench.log(peer), PATIENCE)
    others = busy() - others
    served = peer.server.cpu() - before
    figures = {
        "others": max(0.0, others - ran.cpu - served) / ran.seconds,
        "seconds": ran.seconds,
        "client_cpu": ran.cpu / gib,
        "server_cpu": served / gib,
        "both_cpu": (ran.cpu + served) / gib,
    }
    if peer.ours:  # one process each; others spread over several, and share pages
        # not less than what this process has: the kernel counts that in before the exec
        figures["client_peak"] = ran.peak / MiB
        figures["server_peak"] = peer.server.peak() / MiB
    return figures
