"""The cost of the trash, and its savings: the same server with and without it.

Lives here: overwriting many small files, and removing a large tree.
Lives elsewhere: the other transfers (suite.py).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import workloads
from benchmarks.bench import Bench
from benchmarks.measure import Entry, Figures, Table, run
from benchmarks.peers.ours import USER, Ours
from benchmarks.processes import Unavailable
from benchmarks.timed import IN_ALL, PATIENCE, timed
from benchmarks.workloads import Source

_KINDS = {"ours, trash-days 7": "7", "ours, trash-days 0": "0"}


@contextmanager
def _servers(bench: Bench, table: Table) -> Iterator[dict[str, Ours]]:
    """Yield a server with a trash and one without, by their names."""
    with ExitStack() as stack:
        found: dict[str, Ours] = {}
        for name, days in _KINDS.items():
            try:
                peer = stack.enter_context(bench.fresh("ours-tls", FTPD_TRASH_DAYS=days))
            except Unavailable as error:
                table.notes.append(f"{name}: {error}")
                continue
            assert isinstance(peer, Ours)
            found[name] = peer
        yield found


def _empty(peer: Ours) -> None:
    """Free disk space between two rounds. The quota store need not be right for this."""
    workloads.remove(peer.root / USER / ".ftpd-trash")


def overwrite(bench: Bench, name: str) -> Table:
    """Measure uploads of small files over others of the same names."""
    scale = bench.scale
    title = f"{scale.files:,} files of 100 to 8,000 bytes, up over others of the same names"
    table = Table(name, title, IN_ALL)
    others = bench.source(
        "small-others",
        lambda path: workloads.small_tree(path, scale.files, scale.directories, 7_999),
    )
    sources = (bench.small, others)
    with _servers(bench, table) as servers:
        entries = []
        for kind, peer in servers.items():
            peer.offer(sources[0].path, "over")
            entries.append(Entry(kind, _overwriting(bench, peer, sources), ours=True))
        return bench.fill(table, entries)


def _overwriting(bench: Bench, peer: Ours, sources: tuple[Source, Source]) -> Callable[[], Figures]:
    count = 0

    def attempt() -> Figures:
        nonlocal count
        count += 1
        source = sources[count % 2]
        _empty(peer)
        command = peer.command("put", "-r", "-T", str(source.path), "/over")
        figures = timed(bench, peer, command)
        source.check(peer.stored("over"))
        return figures

    return attempt


def remove(bench: Bench, name: str) -> Table:
    """Measure the removal of a tree by one command."""
    table = Table(name, f"`ftp rm -r` of a tree of {bench.scale.sync_files:,} files", IN_ALL)
    with _servers(bench, table) as servers:
        entries = []
        for kind, peer in servers.items():
            run(peer.command("mkdir", "-p", "/tree"), bench.log(peer), PATIENCE)
            entries.append(Entry(kind, _removing(bench, peer, bench.many.path), ours=True))
        return bench.fill(table, entries)


def _removing(bench: Bench, peer: Ours, source: Path) -> Callable[[], Figures]:
    def attempt() -> Figures:
        _empty(peer)
        target = peer.stored("tree")
        workloads.remove(target)
        shutil.copytree(source, target)
        try:
            return timed(bench, peer, peer.command("rm", "-r", "-f", "/tree"))
        finally:
            workloads.remove(target)

    return attempt
