"""`ftpd` and `ftp` themselves, as a user runs them: verified, durable, nothing turned off."""

from __future__ import annotations

import copy
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from benchmarks.measure import Command, run
from benchmarks.peers.base import Peer
from benchmarks.processes import Server, Unavailable, clean_environment

USER = "bench"
PASSWORD = "only for the benchmarks"
MODULES = {"ftp": "ftpclient.__main__", "ftpd": "ftpserver.cli.main"}
PATIENCE = 600.0


def program(name: str) -> list[str]:
    """Return the command that runs `ftp` or `ftpd` of this Python environment."""
    script = Path(sysconfig.get_path("scripts")) / name
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", f"from {MODULES[name]} import main; main()"]


def has_command(name: str) -> bool:
    """Return True if `ftp NAME` exists in this version."""
    help_call = [*program("ftp"), name, "--help"]
    return subprocess.run(help_call, capture_output=True, env=clean_environment()).returncode == 0


class Ours(Peer):
    """The product, with TLS (the default) or --plaintext, over TCP or a Unix socket.

    Args:
        workers: Value of ``--workers``; None for the default of `ftpd`.

    Attributes:
        user: The account that commands use.
        token: True if `ftp login` has saved a token, which commands then use, as scripts would.
    """

    ours = True

    def __init__(
        self, place: Path, *, tls: bool, unix: bool = False, workers: str | None = None
    ) -> None:
        super().__init__(place)
        self.tls = tls
        self.workers = workers
        self._socket = place / "socket" if unix else None
        kind = "Unix socket" if unix else "TLS" if tls else "plain"
        if workers is not None:
            kind = "1 worker" if workers == "1" else f"workers {workers}"
        self.name = self.server_name = f"ours, {kind}"
        self.user = USER
        self.token = False
        self._clients: dict[int, Ours] = {}
        self.connections: int | None = None
        """Number of connections for a large file or a tree; None for the default of `ftp`."""
        self.start_server = program("ftpd")
        """The command that starts `ftpd`; profiles.py adds a profiler."""
        self.start_client = program("ftp")

    def check_programs(self) -> None:
        pass  # our own programs exist

    def launch(self) -> None:
        sessions = ("--max-sessions", "100000")  # hundreds are opened on purpose
        self.admin("user", "add", USER, "--password-stdin", *sessions, given=PASSWORD)
        self.launch_server()
        if has_command("login"):
            self.token = self._save_token()

    def admin(self, *arguments: str, given: str = "") -> None:
        """Run an `ftpd` command on the root. The server may be running or not."""
        done = subprocess.run(
            [*program("ftpd"), *arguments, "--root", str(self.root)],
            input=given.encode(),
            capture_output=True,
            env=self._environment(),
        )
        if done.returncode:
            what = " ".join(arguments[:2])
            raise Unavailable(f"ftpd {what} failed: {done.stderr.decode().strip()}")

    def launch_server(self) -> Server:
        """Start `ftpd` on the root, which has an account already."""
        argv = [*self.start_server, "start", "--host", "127.0.0.1", "--port", str(self.port)]
        if not self.tls:
            argv.append("--plaintext")
        if self._socket is not None:
            argv += ["--unix", str(self._socket)]
        if self.workers is not None:
            argv += ["--workers", self.workers]
        server = self.serve(*argv, "--root", str(self.root), env=self._environment())
        server.wait_for_line("listening on ")
        return server

    def as_client(self, number: int) -> Ours:
        """Return a client with an account of its own, and a saved token."""
        if number not in self._clients:
            other = super().as_client(number)
            other.user = f"{USER}-{number}"
            self.admin("user", "add", other.user, "--password-stdin", given=PASSWORD)
            other.token = other._save_token()
            self._clients[number] = other
        return self._clients[number]

    def _save_token(self) -> bool:
        """Log in and save a token. Return False if commands still need the password."""
        log = self.place / "login.log"
        address = self._address()
        environment = self._environment() | {"FTP_PASSWORD": PASSWORD}
        try:
            run(Command([*self._ftp(), "login", address], environment), log, PATIENCE)
            without = Command([*self._ftp(), "ls", "/"], self._environment() | self._server_name())
            run(without, log, PATIENCE)
        except Unavailable:
            return False
        return True

    def _environment(self) -> dict[str, str]:
        own = {"HOME": str(self.place), "XDG_CONFIG_HOME": str(self.place / "config")}
        return own | dict(self.environment)

    def _address(self) -> str:
        where = f"127.0.0.1:{self.port}" if self._socket is None else f"unix:{self._socket}"
        return f"{self.user}@{where}"

    def _server_name(self) -> dict[str, str]:
        return {"FTP_SERVER": self._address()}

    def _ftp(self) -> list[str]:
        return [*self.start_client, "--accept-new" if self.tls else "--plaintext", "--quiet"]

    def command(self, *arguments: str) -> Command:
        """Return an `ftp` command for this server."""
        environment = self._environment() | self._server_name()
        if not self.token:
            environment["FTP_PASSWORD"] = PASSWORD
        return Command([*self._ftp(), *arguments], environment)

    def via(self, port: int) -> Ours:
        other = super().via(port)
        other.token = False  # the token was saved for the server's own port
        return other

    def over(self, connections: int | None) -> Ours:
        """Return the same server, with this many connections for each large file and tree."""
        other = copy.copy(self)
        other.connections = connections
        return other

    def _moving(self, verb: str, *paths: str) -> Command:
        parallel = [] if self.connections is None else ["-P", str(self.connections)]
        return self.command(verb, *parallel, *paths)

    def stored(self, name: str) -> Path:
        return self.root / self.user / name

    def offer(self, source: Path, name: str) -> None:
        self.sources[name] = source
        put = self.put_tree if source.is_dir() else self.put_file
        run(put(source, name), self.place / "offer.log", PATIENCE)

    def put_file(self, source: Path, name: str) -> Command:
        return self._moving("put", str(source), f"/{name}")

    def get_file(self, name: str, target: Path) -> Command:
        return self._moving("get", f"/{name}", str(target))

    def put_tree(self, source: Path, name: str) -> Command:
        return self._moving("put", "-r", str(source), f"/{name}")

    def get_tree(self, name: str, target: Path) -> Command:
        return self._moving("get", "-r", f"/{name}", str(target))

    def sync_up(self, source: Path, name: str) -> Command:
        return self.command("sync", str(source), f":/{name}")

    def sync_down(self, name: str, target: Path) -> Command:
        return self.command("sync", f":/{name}", str(target))

    def cat(self, name: str) -> Command:
        return self.command("cat", f"/{name}")

    def session(self) -> dict[str, Any]:
        return {
            "kind": "ours",
            "server": f"{self.user}@127.0.0.1:{self.port}",
            "port": self.port,
            "password": PASSWORD,
            "plaintext": not self.tls,
            "environment": self._environment(),
        }
