"""iperf3: one TCP stream without files. This is the limit for any transfer."""

from __future__ import annotations

from pathlib import Path

from benchmarks.measure import Command
from benchmarks.peers.base import Peer, find, version_line


class Iperf(Peer):
    """Sends as many bytes as the file has, from memory, and discards them."""

    name = "iperf3 (no files: the limit)"
    limit = True

    def check_programs(self) -> None:
        self._iperf = find("iperf3")

    def launch(self) -> None:
        server = self.serve(
            self._iperf, "-s", "-B", "127.0.0.1", "-p", str(self.port), "--forceflush"
        )
        server.wait_for_line("Server listening on")

    def versions(self) -> list[str]:
        return [version_line(self._iperf, "--version")]

    def offer(self, source: Path, name: str) -> None:
        self.sources[name] = source

    def _flow(self, size: int, *options: str) -> Command:
        argv = [self._iperf, "-c", "127.0.0.1", "-p", str(self.port), "-n", str(size)]
        return Command([*argv, "-l", "512K", *options])

    def put_file(self, source: Path, name: str) -> Command:
        return self._flow(source.stat().st_size)

    def get_file(self, name: str, target: Path) -> Command:
        return self._flow(self.sources[name].stat().st_size, "-R")
