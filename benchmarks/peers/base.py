"""The parts that all peers have in common.

Lives here: finding programs, keys, and the interface of a server with its client for suite.py.
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
"""The cipher of all peers, as far as it can be set: AES-128-GCM."""
PATH = os.environ.get("PATH", os.defpath) + ":/usr/local/sbin:/usr/sbin:/sbin"


def find(program: str) -> str:
    """Return the path of a program. Raises Unavailable."""
    found = shutil.which(program, path=PATH)
    if found is None:
        raise Unavailable(f"{program} is not installed")
    return found


def user() -> str:
    """Return the name of the user who runs this."""
    return getpass.getuser()


def call(*argv: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program, and return its output. Raises Unavailable."""
    done = subprocess.run(argv, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Unavailable(f"{Path(argv[0]).name} {argv[1]} failed: {done.stderr.strip()[-200:]}")
    return done.stdout


def version_line(*argv: str) -> str:
    """Return the first line of a program's version, from either output stream."""
    done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return " ".join(lines[0].split()[:4]) if lines else argv[0]


class Peer:
    """A server on loopback, and its client.

    A subclass sets ``name`` and overrides what it supports; the rest raises Unavailable. Methods
    return commands for the caller to run, so that a client's start-up time counts.

    Args:
        place: A directory of its own, for its settings and its files.

    Attributes:
        place: In a copy made by ``as_client``, that client's directory.
    """

    name = ""
    server_name = ""
    """Name of the server alone, where its client is irrelevant."""
    ours = False
    limit = False
    """True if it transfers no files: shown for comparison only."""
    port = 0
    """Port that its clients connect to."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.root = place / "files"
        self.sources: dict[str, Path] = {}
        self.environment: Mapping[str, str] = {}
        """Settings of the server for one measurement, as environment variables."""
        self._server: Server | None = None

    # starting and stopping ---------------------------------------------------------------

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
        """Raise Unavailable if a program is missing."""
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
        """The server's process. Available after ``start``."""
        assert self._server is not None
        return self._server

    def stop(self) -> None:
        """Stop the server. Can be called twice."""
        if self._server is not None:
            self._server.stop()

    def via(self, port: int) -> Self:
        """Return the same server, reached through a proxy."""
        other = copy.copy(self)
        other.port = port
        return other

    def as_client(self, number: int) -> Self:
        """Return the same server for one of several clients, with its own settings and logs.

        Raises:
            Unavailable: It cannot be set up.
        """
        other = copy.copy(self)
        other.place = self.place / f"client-{number}"
        other.place.mkdir(exist_ok=True)
        return other

    def versions(self) -> list[str]:
        """Return the programs that are measured, with version numbers."""
        return []

    # files on the server -----------------------------------------------------------------

    def stored(self, name: str) -> Path:
        """Return the path of a file on the server's disk."""
        return self.root / name

    def offer(self, source: Path, name: str) -> None:
        """Make the server store a file or tree, ready to be downloaded."""
        self.sources[name] = source
        workloads.link(source, self.stored(name))

    def withdraw(self, name: str) -> None:
        """Remove an offered file or tree."""
        workloads.remove(self.stored(name))

    # command lines -----------------------------------------------------------------------

    def put_file(self, source: Path, name: str) -> Command:
        """Return the command that uploads a file."""
        raise self._cannot("upload files")

    def get_file(self, name: str, target: Path) -> Command:
        """Return the command that downloads a file."""
        raise self._cannot("download files")

    def put_tree(self, source: Path, name: str) -> Command:
        """Return the command that uploads a directory with its contents."""
        raise self._cannot("upload trees")

    def get_tree(self, name: str, target: Path) -> Command:
        """Return the command that downloads a directory with its contents."""
        raise self._cannot("download trees")

    def sync_up(self, source: Path, name: str) -> Command:
        """Return the command that updates the server's copy of a directory."""
        raise self._cannot("synchronise")

    def sync_down(self, name: str, target: Path) -> Command:
        """Return the command that updates the local copy of a directory."""
        raise self._cannot("synchronise")

    def cat(self, name: str) -> Command:
        """Return the command that downloads a file to standard output."""
        raise self._cannot("write to standard output")

    def session(self) -> dict[str, Any]:
        """Return the spec for sessions.py to open one session."""
        raise self._cannot("open idle sessions")

    def _cannot(self, what: str) -> Unavailable:
        return Unavailable(f"its client cannot {what}")


class Certificate:
    """An ECDSA P-256 key with a certificate for 127.0.0.1, like the one that ftpd generates."""

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
        base: The beginning of all URLs, without a slash at the end.
        options: Options of every command.
    """

    PARALLEL = ("--parallel", "--parallel-max", "8")
    """Options for many small files: faster than one after another, even on kept connections."""

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
        """Upload all files of a tree; curl gets a list of their names."""
        lines = (
            f'upload-file = "{source / below}"\nurl = "{self._base}/{name}/{below}"\n'
            for below in workloads.names(source)
        )
        return self._many(f"up-{name}", lines)

    def get_all(self, source: Path, name: str, target: Path) -> Command:
        """Download all files of a tree; curl gets a list of their names, taken from ``source``."""
        lines = (
            f'output = "{target / below}"\nurl = "{self._base}/{name}/{below}"\n'
            for below in workloads.names(source)
        )
        return self._many(f"down-{name}", lines)

    def _many(self, what: str, lines: Iterable[str]) -> Command:
        config = self._place / f"curl-{what}.conf"
        config.write_text("".join(lines))
        return Command([*self._start, "--create-dirs", *self.PARALLEL, "-K", str(config)])
