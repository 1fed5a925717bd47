"""What every peer has in common.

Lives here: finding programs, keys, and what suite.py may ask of a server with its client.
Lives elsewhere: each peer's set-up and command lines (the other modules of this package).
"""

from __future__ import annotations

import copy
import getpass
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks import workloads
from benchmarks.measure import Command
from benchmarks.processes import Server, Unavailable, free_port

CIPHER = "TLS_AES_128_GCM_SHA256"
"""Everybody's, as far as it can be set: AES-128-GCM."""
PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


def find(program: str) -> str:
    """Where a program is. Raises Unavailable."""
    found = shutil.which(program, path=PATH)
    if found is None:
        raise Unavailable(f"{program} is not installed")
    return found


def user() -> str:
    """The name of whoever runs this."""
    return getpass.getuser()


def call(*argv: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program for its output. Raises Unavailable."""
    done = subprocess.run(argv, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Unavailable(f"{Path(argv[0]).name} {argv[1]} failed: {done.stderr.strip()[-200:]}")
    return done.stdout


def version_line(*argv: str) -> str:
    """The first line of what a program says about its version, on whichever stream."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return " ".join(lines[0].split()[:4]) if lines else argv[0]


class Peer:
    """A server on loopback, and its client.

    A subclass sets ``name`` and overrides what it can do; the rest raises Unavailable.
    Commands are for the caller to run, so that a client's start-up is counted.

    Args:
        place: A directory of its own, for its settings and its files.

    Attributes:
        place: For a copy made by ``as_client``, that client's directory.
    """

    name = ""
    server_name = ""
    """Of the server alone, where its client doesn't matter."""
    ours = False
    limit = False
    """Not a transfer of files: shown for comparison only."""
    port = 0
    """Where its clients connect."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "files"
        self.sources: dict[str, Path] = {}
        self.environment: Mapping[str, str] = {}
        """Settings of the server, where it has some for a measurement."""
        self._server: Server | None = None

    # its life ----------------------------------------------------------------------------

    def start(self) -> None:
        """Set it up and start it. Raises Unavailable."""
        self.check_programs()
        self.root.mkdir(parents=True)
        self.port = free_port()
        try:
            self.launch()
        except BaseException:
            self.stop()
            raise

    def check_programs(self) -> None:
        """Raises Unavailable when one is missing."""
        raise NotImplementedError

    def launch(self) -> None:
        """Start the server on ``port``, and wait until it listens."""
        raise NotImplementedError

    def serve(self, *argv: str, env: Mapping[str, str] | None = None) -> Server:
        """Start the server's process."""
        self._server = Server(argv, self.place / "server.log", env=env)
        return self._server

    @property
    def server(self) -> Server:
        """Its process. Only after ``start``."""
        assert self._server is not None
        return self._server

    def stop(self) -> None:
        """Stop the server. Can be called twice."""
        if self._server is not None:
            self._server.stop()

    def via(self, port: int) -> Self:
        """The same server, reached through a proxy."""
        other = copy.copy(self)
        other.port = port
        return other

    def as_client(self, number: int) -> Self:
        """The same server, as one of several clients has it: with settings and logs of its own.

        Raises:
            Unavailable: It can't be set up.
        """
        other = copy.copy(self)
        other.place = self.place / f"client-{number}"
        other.place.mkdir(exist_ok=True)
        return other

    def versions(self) -> list[str]:
        """What is measured, with version numbers."""
        return []

    # files on the server -----------------------------------------------------------------

    def stored(self, name: str) -> Path:
        """Where a file lies on the server's disk."""
        return self.root / name

    def offer(self, source: Path, name: str) -> None:
        """Have the server hold a file or tree, ready to be fetched."""
        self.sources[name] = source
        workloads.link(source, self.stored(name))

    def withdraw(self, name: str) -> None:
        """Take it away again."""
        workloads.remove(self.stored(name))

    # command lines -----------------------------------------------------------------------

    def put_file(self, source: Path, name: str) -> Command:
        """Upload a file."""
        raise self._cannot("upload files")

    def get_file(self, name: str, target: Path) -> Command:
        """Download a file."""
        raise self._cannot("download files")

    def put_tree(self, source: Path, name: str) -> Command:
        """Upload a directory with its contents."""
        raise self._cannot("upload trees")

    def get_tree(self, name: str, target: Path) -> Command:
        """Download a directory with its contents."""
        raise self._cannot("download trees")

    def sync_up(self, source: Path, name: str) -> Command:
        """Bring the server's copy of a directory up to date."""
        raise self._cannot("synchronise")

    def sync_down(self, name: str, target: Path) -> Command:
        """Bring the local copy of a directory up to date."""
        raise self._cannot("synchronise")

    def cat(self, name: str) -> Command:
        """Download a file to standard output."""
        raise self._cannot("write to standard output")

    def session(self) -> dict[str, Any]:
        """What sessions.py needs to open one session."""
        raise self._cannot("open idle sessions")

    def _cannot(self, what: str) -> Unavailable:
        return Unavailable(f"its client can't {what}")


class Certificate:
    """An ECDSA P-256 key with a certificate for 127.0.0.1, as ftpd makes one for itself."""

    def __init__(self, place: Path) -> None:
        self.certificate = place / "certificate.pem"
        self.key = place / "key.pem"
        call(
            find("openssl"),
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-nodes", "-days", "30", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"),
            *("-keyout", str(self.key), "-out", str(self.certificate)),
        )


class Curl:
    """curl's command lines for a server with URLs.

    Args:
        base: What all URLs begin with, without a slash at the end.
        options: For every call.
    """

    PARALLEL = ("--parallel", "--parallel-max", "8")
    """For many small files: faster than one after another, though on kept connections too."""

    def __init__(self, base: str, options: Sequence[str], place: Path) -> None:
        self._base = base
        self._start = [find("curl"), "-q", "-sS", "--fail", *options]
        self._place = place

    def put(self, source: Path, name: str) -> Command:
        return Command([*self._start, "-T", str(source), f"{self._base}/{name}"])

    def get(self, name: str, target: Path) -> Command:
        return Command([*self._start, "-o", str(target), f"{self._base}/{name}"])

    def cat(self, name: str) -> Command:
        return Command([*self._start, f"{self._base}/{name}"])

    def put_all(self, source: Path, name: str) -> Command:
        """All files of a tree; curl gets the list of names."""
        lines = (
            f'upload-file = "{source / below}"\nurl = "{self._base}/{name}/{below}"\n'
            for below in workloads.names(source)
        )
        return self._many(f"up-{name}", lines)

    def get_all(self, source: Path, name: str, target: Path) -> Command:
        """All files of a tree; curl gets the list of names, which ``source`` has."""
        lines = (
            f'output = "{target / below}"\nurl = "{self._base}/{name}/{below}"\n'
            for below in workloads.names(source)
        )
        return self._many(f"down-{name}", lines)

    def _many(self, what: str, lines: Iterable[str]) -> Command:
        config = self._place / f"curl-{what}.conf"
        config.write_text("".join(lines))
        return Command([*self._start, "--create-dirs", *self.PARALLEL, "-K", str(config)])
