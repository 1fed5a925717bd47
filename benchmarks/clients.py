"""Several real clients at once, each with a tree of small files.

Lives here: which servers take part, running the clients together, the floors for the results.
Lives elsewhere: a client's command lines and settings (peers/).

Clients and server share the machine's cores: the server cannot have what the clients use. So the
table shows the CPU seconds of both sides besides the files per second.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.measure import Column, Command, Entry, Figures, Table
from benchmarks.peers import Peer
from benchmarks.processes import Unavailable
from benchmarks.timed import IN_ALL, timed_together

COUNTS = (1, 2, 4, 8)
MANY = 8
"""Number of clients that the floors apply to."""
FLOOR_AGAINST_ONE = 1.0
"""Least rate of one worker with MANY clients, as a multiple of its rate with one client."""
FLOOR_AGAINST_RSYNC, GOAL_AGAINST_RSYNC = 0.6, 1.0
"""Least and desired rate with ``--workers auto``, as a multiple of the rsync daemon's."""

AUTO, ONE_WORKER, RSYNC = "ours-workers-auto", "ours-workers-1", "rsync"
KEYS = (AUTO, ONE_WORKER, RSYNC, "rsync-ssh", "sftp", "vsftpd-tls")
ONE_CLIENT = ", one client"
"""End of the name of the row that one worker is compared with."""
COLUMNS = (Column("rate", "files/s in total", 0), *IN_ALL)


@dataclass(frozen=True)
class _Together:
    """COUNT clients of a peer that do the same at once, each in a directory of its own."""

    bench: Bench
    peer: Peer
    count: int
    up: bool

    def entry(self, name: str) -> Entry:
        """Prepare the peer for its rounds. Raises Unavailable."""
        clients = [self.peer.as_client(number) for number in range(self.count)]
        source = self.bench.each
        commands: list[Command] = []
        results = []
        for number, client in enumerate(clients):
            if self.up:
                commands.append(client.put_tree(source.path, _up(number)))
                results.append(client.stored(_up(number)))
                continue
            if not client.stored(_down(number)).exists():
                client.offer(source.path, _down(number))
            results.append(self.bench.result(_down(number)))
            commands.append(client.get_tree(_down(number), results[-1]))
        logs = [self.bench.log(client) for client in clients]

        def attempt() -> Figures:
            for result in results:
                workloads.remove(result)
            try:
                figures = timed_together(self.bench, self.peer, commands, logs)
                for result in results:
                    source.check(result)
            finally:
                for result in results:
                    workloads.remove(result)
            files = self.count * self.bench.scale.files_each
            return {**figures, "rate": files / figures["seconds"]}

        return Entry(name, attempt, self.peer.ours)


def _up(number: int) -> str:
    return f"up-{number}"


def _down(number: int) -> str:
    return f"down-{number}"


def together(bench: Bench, name: str, *, count: int, up: bool) -> Table:
    """Measure ``count`` clients at once.

    With more than one, the rate of one worker with a single client is measured in the same rounds,
    so that both are measured under the same conditions.
    """
    who = f"{count} clients at once, each" if count > 1 else "one client"
    title = f"{who} with {bench.scale.files_each:,} small files, {'up' if up else 'down'}"
    table = Table(name, title, COLUMNS, more_is_better=True)
    entries: list[Entry] = []
    started: list[Peer] = []
    try:
        for peer in bench.taking_part(KEYS, table.notes):
            started.append(peer)
            try:
                entries.append(_Together(bench, peer, count, up).entry(peer.name))
                if peer is bench.peers.get(ONE_WORKER) and count > 1:
                    entries.append(_Together(bench, peer, 1, up).entry(peer.name + ONE_CLIENT))
            except Unavailable as error:
                table.notes.append(f"{peer.name}: {error}")
        bench.fill(table, entries)
    finally:
        for peer in started:
            for number in range(count):
                peer.as_client(number).withdraw(_down(number))
    table.notes += _comparisons(bench, table, count)
    return table


def _comparisons(bench: Bench, table: Table, count: int) -> list[str]:
    """Return notes that compare ours, with the floors where they apply."""
    rates = {row.name: row.median("rate") or 0.0 for row in table.rows}
    auto, worker, rsync = (
        bench.peers[key].name if key in bench.peers else "" for key in (AUTO, ONE_WORKER, RSYNC)
    )
    alone = f"{worker}{ONE_CLIENT}"
    notes = []
    if worker in rates and rates.get(alone):
        times = rates[worker] / rates[alone]
        floor = f" (floor: {FLOOR_AGAINST_ONE} ×)" if count == MANY else ""
        notes.append(f"1 worker, {count} clients against 1 client: {times:.2f} ×{floor}")
    if auto in rates and rates.get(rsync):
        times = rates[auto] / rates[rsync]
        floor = f" (floor: {FLOOR_AGAINST_RSYNC} ×, goal: {GOAL_AGAINST_RSYNC} ×)"
        notes.append(f"workers auto against {rsync}: {times:.2f} ×{floor if count == MANY else ''}")
    return notes
