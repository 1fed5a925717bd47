"""One run of the benchmarks: its directory, its amounts, and the servers that take part.

Lives here: starting each server once, making each source once.
Lives elsewhere: the measurements (suite.py, engines.py, several.py), running rounds (measure.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import workloads
from benchmarks.measure import (
    Entry,
    Table,
    interleave,
    say_to_stderr,
)
from benchmarks.peers import FACTORIES, Peer
from benchmarks.processes import Unavailable
from benchmarks.workloads import Scale, Source


@dataclass
class Bench:
    """One run: its directory, its amounts, and the servers that were started for it.

    Attributes:
        families: Families of peers that may take part.
        calm: The most seconds to wait before a round until the machine is otherwise idle.
    """

    place: Path
    scale: Scale
    families: frozenset[str]
    calm: float = 0.0
    peers: dict[str, Peer] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    versions: list[str] = field(default_factory=list)
    _sources: dict[str, Source] = field(default_factory=dict)

    def close(self) -> None:
        """Stop every server."""
        for peer in self.peers.values():
            peer.stop()
        self.peers.clear()

    # peers -----------------------------------------------------------------------------

    def wanted(self, key: str) -> bool:
        """Return True if a peer may take part."""
        return key.startswith("ours") or any(
            key == family or key.startswith(f"{family}-") for family in self.families
        )

    def peer(self, key: str) -> Peer:
        """Return a running server. Raises Unavailable, with the same reason each time."""
        if key in self.missing:
            raise Unavailable(self.missing[key])
        if key not in self.peers:
            try:
                self.peers[key] = self._started(key, self.place / key)
                self.versions += self.peers[key].versions()
            except Unavailable as error:
                self.missing[key] = str(error)
                raise
        return self.peers[key]

    def _started(self, key: str, place: Path, **environment: str) -> Peer:
        place.mkdir()
        peer = FACTORIES[key](place)
        peer.environment = environment
        try:
            peer.start()
        except OSError as error:
            raise Unavailable(str(error)) from None
        return peer

    @contextmanager
    def fresh(self, key: str, **environment: str) -> Iterator[Peer]:
        """Yield a server of its own, with settings in its environment, which is stopped afterwards.
        Raises Unavailable."""
        peer = self._started(key, Path(tempfile.mkdtemp(dir=self.place)) / key, **environment)
        self.versions += peer.versions()
        try:
            yield peer
        finally:
            peer.stop()

    def taking_part(self, keys: Sequence[str], notes: list[str]) -> Iterator[Peer]:
        """Yield the running servers among ``keys``; add a note for each of the others."""
        for key in keys:
            if self.wanted(key):
                try:
                    yield self.peer(key)
                except Unavailable as error:
                    notes.append(f"{key}: {error}")

    # sources ---------------------------------------------------------------------------

    def source(self, name: str, make: Callable[[Path], Path]) -> Source:
        """Return a source to transfer, which is made at first use."""
        if name not in self._sources:
            self._sources[name] = Source.of(make(self.place / f"source-{name}"))
        return self._sources[name]

    @property
    def large(self) -> Source:
        return self.source("large", lambda path: workloads.large_file(path, self.scale.size))

    @property
    def small(self) -> Source:
        scale = self.scale
        return self.source(
            "small", lambda path: workloads.small_tree(path, scale.files, scale.directories)
        )

    @property
    def each(self) -> Source:
        """The tree that each of several clients transfers."""
        count = self.scale.files_each
        return self.source(
            "each", lambda path: workloads.small_tree(path, count, max(1, count // 10))
        )

    @property
    def delayed(self) -> Source:
        count = self.scale.delayed_files
        return self.source(
            "delayed", lambda path: workloads.small_tree(path, count, max(1, count // 10))
        )

    @property
    def many(self) -> Source:
        count = self.scale.sync_files
        return self.source(
            "many", lambda path: workloads.small_tree(path, count, max(1, count // 100), 200)
        )

    def result(self, name: str) -> Path:
        """Return the path for downloads."""
        return self.place / f"result-{name}"

    def log(self, peer: Peer) -> Path:
        """Return the file for the output of a peer's last command."""
        return peer.place / "client.log"

    def fill(self, table: Table, entries: Sequence[Entry]) -> Table:
        """Run the rounds of a measurement."""
        rows, notes = interleave(entries, self.scale.rounds, say_to_stderr(table.name))
        table.rows += rows
        table.notes += notes
        return table
