"""rsync with its daemon: plain, verified only in transit, not durable. The fastest competitor."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.measure import Command
from benchmarks.peers.base import Peer, find, user, version_line

KEEP = "-rlpt"
"""Options to preserve what ours preserves as well: links, modes, times."""


class RsyncDaemon(Peer):
    """rsync:// without a password."""

    name = "rsync daemon (plain)"

    def check_programs(self) -> None:
        self._rsync = find("rsync")

    def launch(self) -> None:
        config = self.place / "rsyncd.conf"
        who = f"uid = {user()}\ngid = {os.getgid()}\n" if os.getuid() == 0 else ""
        config.write_text(
            f"pid file = {self.place / 'rsyncd.pid'}\n"
            f"log file = {self.place / 'rsyncd.log'}\n"
            "use chroot = no\nreverse lookup = no\ntransfer logging = no\n"
            f"{who}[data]\npath = {self.root}\nread only = no\n"
        )
        argv = [self._rsync, "--daemon", "--no-detach", f"--config={config}"]
        self.serve(*argv, f"--port={self.port}", "--address=127.0.0.1").wait_for_port(self.port)

    def versions(self) -> list[str]:
        return [version_line(self._rsync, "--version")]

    def _copy(self, source: str, target: str) -> Command:
        return Command([self._rsync, KEEP, source, target])

    def _url(self, name: str) -> str:
        return f"rsync://127.0.0.1:{self.port}/data/{name}"

    def put_file(self, source: Path, name: str) -> Command:
        return self._copy(str(source), self._url(name))

    def get_file(self, name: str, target: Path) -> Command:
        return self._copy(self._url(name), str(target))

    def put_tree(self, source: Path, name: str) -> Command:
        return self._copy(f"{source}/", f"{self._url(name)}/")

    def get_tree(self, name: str, target: Path) -> Command:
        return self._copy(f"{self._url(name)}/", f"{target}/")

    sync_up = put_tree
    sync_down = get_tree
