"""Running the real `ftpd` and `ftp`, as a user would.

Lives here: the two programs as subprocesses, what is checked of each run whatever the test is
about (no traceback, nothing left behind), and waiting for a condition.
Lives elsewhere: the fixtures (conftest.py), comparing trees (trees.py), a bad network (proxy.py).
"""

from __future__ import annotations

import inspect
import json
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.system.modes import DEFAULT, Mode
from tests.system.warm import Warm

MODULES = {"ftp": "ftpclient.__main__", "ftpd": "ftpserver.cli.main"}
PATIENCE = 120.0
"""Seconds after which something that should happen is given up. No test takes so long, not even
on a machine with many times more to do than it has processors."""
STAGING = b".ftpd-staging"
TRASH = b".ftpd-trash"


def program(name: str) -> list[str]:
    """The command that runs `ftp` or `ftpd` of the environment that runs the tests."""
    script = Path(sysconfig.get_path("scripts")) / name
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", f"from {MODULES[name]} import main; main()"]


def eventually(condition: Callable[[], Any], what: str = "") -> Any:
    """Poll until the condition is true; returns what it gave. Fails after PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not (result := condition()):
        assert time.monotonic() < deadline, f"never came about: {what or condition}"
        time.sleep(0.01)
    return result


def clean_environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which nothing of the caller's own set-up counts."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FTP_", "FTPD_", "XDG_", "PYTEST_", "NETRC"))
    }
    return kept | {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "LOGNAME": "alice",
        **more,
    }


@dataclass(frozen=True)
class Finished:
    """One run that has ended."""

    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout, one a line."""
        return [json.loads(line) for line in self.lines]

    @property
    def record(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        (record,) = self.records
        return record

    @property
    def complaint(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        return line

    def expect(self, status: int | None) -> Finished:
        """Itself, if it ended as it should; without a traceback in any case."""
        reported = f"status {self.status}\n--- stdout\n{self.out[-2000:]!r}\n--- stderr\n{self.err}"
        assert "Traceback" not in self.err, reported
        assert status is None or self.status == status, f"expected status {status}: {reported}"
        return self


class _WarmProcess(subprocess.Popen[bytes]):
    """A program that was forked from an interpreter with the libraries loaded."""

    def __init__(self, warm: Warm, command: list[str], **options: Any) -> None:
        self._warm = warm
        super().__init__(command, **options)

    def _execute_child(self, *given: Any) -> None:
        """Where subprocess forks: all around it stays as it is."""
        reported = dict(zip(_EXECUTE_CHILD, given, strict=False))
        streams = [reported[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if fd == -1 else fd for number, fd in enumerate(streams)]
        try:
            self.pid = self._warm.start(
                reported["args"],
                os.environ if reported["env"] is None else reported["env"],
                reported["cwd"] or os.getcwd(),
                streams,
            )
            self._child_created = True
        finally:
            self._close_pipe_fds(
                *(reported[name] for name in _EXECUTE_CHILD if name[:3] in ("p2c", "c2p", "err"))
            )


_EXECUTE_CHILD = tuple(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]
_PLAIN_OPTIONS = frozenset({"bufsize", "stdin", "stdout", "stderr", "cwd", "env"})
"""Options of Popen that a process which is there already can still follow."""


class Programs:
    """Everything that one test has started; what still runs at its end is killed.

    Attributes:
        warm: What `ftp` and `ftpd` are forked from, rather than started from nothing.
    """

    warm: Warm | None = None

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process that the test will not leave behind. Its pipes are unbuffered."""
        environment = options.get("env", os.environ)
        if (
            self.warm is not None
            and options.keys() <= _PLAIN_OPTIONS
            and self.warm.can_start(command, environment)
        ):
            process = _WarmProcess(self.warm, command, bufsize=0, **options)
        else:
            process = subprocess.Popen(command, bufsize=0, **options)
        self._started.append(process)
        return process

    def run(
        self, command: list[str], *, given: bytes = b"", status: int | None = 0, **options: Any
    ) -> Finished:
        """Run to its end, and check how that was."""
        process = self.start(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        return finish(process, status=status, given=given)

    def close(self) -> None:
        """Kill what still runs, and close every pipe."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass  # what was still buffered for it has no reader


def finish(
    process: subprocess.Popen[bytes], *, status: int | None = 0, given: bytes | None = None
) -> Finished:
    """Wait for a started program, and check how it ended."""
    out, err = process.communicate(given, timeout=PATIENCE)
    reported = (err or b"").decode("utf-8", "backslashreplace")
    return Finished(process.returncode, out or b"", reported).expect(status)


@dataclass
class User:
    """Somebody at a command line of their own, with a password and a server in mind."""

    programs: Programs
    home: Path
    name: str
    password: str
    server: str
    options: tuple[str, ...] = ("--accept-new",)
    on_server: Path = Path()
    """Where the server has this user's files."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(exist_ok=True)

    @property
    def settings(self) -> dict[str, str]:
        """The environment of this user's commands."""
        password = {"FTP_PASSWORD": self.password} if self.password else {}
        server = {"FTP_SERVER": f"{self.name}@{self.server}"}
        return clean_environment(self.home, **(server | password | dict(self.environment)))

    def command(self, *arguments: str | bytes | Path) -> list[str]:
        """The command line; bytes stand for themselves."""
        words = [os.fsdecode(argument) for argument in arguments]
        return [*program("ftp"), *self.options, *words]

    def run(
        self,
        *arguments: str | bytes | Path,
        status: int | None = 0,
        given: bytes = b"",
        cwd: Path | None = None,
    ) -> Finished:
        """Run one `ftp` command to its end."""
        return self.programs.run(
            self.command(*arguments),
            given=given,
            status=status,
            cwd=cwd or self.home,
            env=self.settings,
        )

    def start(
        self, *arguments: str | bytes | Path, cwd: Path | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start one `ftp` command; its standard streams are pipes."""
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        return self.programs.start(
            self.command(*arguments),
            cwd=cwd or self.home,
            env=self.settings,
            **(pipes | options),
        )

    def at(self, address: str) -> User:
        """The same user, who reaches the server by another address (of a proxy)."""
        return replace(self, server=address)


class Server:
    """A running `ftpd`.

    Attributes:
        root: The directory of the homes.
        announced: The lines that it printed when it was ready.
        address: HOST:PORT.
        reached: Where its users reach it: there, or at ``unix:PATH``, as the mode says.
        mode: The way of serving.
    """

    def __init__(
        self,
        programs: Programs,
        root: Path,
        place: Path,
        *options: str,
        mode: Mode = DEFAULT,
        plaintext: bool | None = None,
        host: str | None = "127.0.0.1",
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.programs = programs
        self.root = root
        self.mode = mode
        self.plaintext = mode.plaintext if plaintext is None else plaintext
        self._place = place
        # however full the disk of the tests is
        variables = {"FTPD_TRASH_RESERVE": "0"} | dict(environment or {})
        self._environment = clean_environment(place, **variables)
        self.log_path = place / "server.log"
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        command = [*program("ftpd"), "start", "--root", str(root), "--port", str(port)]
        command += mode.options
        if mode.unix:
            command += ["--unix", f"{root}.sock"]
        command += options
        if host is not None:
            command += ["--host", host]
        if self.plaintext:
            command.append("--plaintext")
        with open(self.log_path, "ab") as log:
            self.process = programs.start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                cwd=place,
                **more,
            )
        self.announced = self._read_announcement()
        self.address = self.announced[0].removeprefix("listening on ")
        self.port = 0 if "unix:" in self.address else int(self.address.rpartition(":")[2])
        self.reached = f"unix:{root}.sock" if mode.unix else self.address
        self.stop_requested = False

    def _read_announcement(self) -> list[str]:
        lines: list[str] = []
        assert self.process.stdout is not None
        while not (lines and lines[-1].startswith("connect with")):
            line = os.fsdecode(self.process.stdout.readline())
            assert line, f"ftpd ended with status {self.process.wait()}: {self.log}"
            lines.append(line.rstrip("\n"))
        assert lines[0].startswith("listening on "), lines
        return lines

    @property
    def log(self) -> str:
        """What this run has logged so far."""
        return self.log_path.read_bytes()[self._log_start :].decode("utf-8", "backslashreplace")

    @property
    def seen_from(self) -> str:
        """Where its users come from, as it tells that."""
        return "local" if self.mode.unix else "127.0.0.1"

    @property
    def counted_as(self) -> str:
        """What their failed log-ins count for."""
        return f"local:{os.geteuid()}" if self.mode.unix else "127.0.0.1"

    @property
    def has_key(self) -> bool:
        """Whether its users see a key, which they have to trust."""
        return not (self.plaintext or self.mode.unix)

    @property
    def options(self) -> tuple[str, ...]:
        """What clients have to say to reach it."""
        return ("--plaintext",) if self.plaintext else ("--accept-new",)

    @property
    def admin(self) -> Admin:
        """The accounts of its root."""
        return Admin(self.programs, self.root, self._place)

    def first_user(self) -> User:
        """Whoever started it first: the account that was made then."""
        eventually((self.root / ".ftpd" / "first-login").exists)
        name, password = (self.root / ".ftpd" / "first-login").read_text().split()
        return self.user(name, password)

    def add_user(self, name: str, *options: str) -> User:
        """A new account, and somebody who uses it."""
        password = f"password of {name}"
        self.admin.run("user", "add", name, "--password-stdin", *options, given=password.encode())
        return self.user(name, password)

    def user(self, name: str, password: str) -> User:
        """Somebody with an account."""
        place = self._place / f"at-{name}"
        home = self.home(name)
        return User(self.programs, place, name, password, self.reached, self.options, home)

    def home(self, name: str = "alice") -> Path:
        """The directory of a user's files on the server."""
        return self.root / name

    def staged(self, name: str = "alice") -> set[str]:
        """What lies in a home's staging, apart from what is always there."""
        try:
            return set(os.listdir(self.home(name) / os.fsdecode(STAGING))) - {"lock", "numbers"}
        except FileNotFoundError:
            return set()

    def connection(self) -> socket.socket:
        """A bare TCP connection to it."""
        host, _, port = self.address.rpartition(":")
        return socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE)

    def signal(self, number: int) -> None:
        """Send a signal to the server process."""
        self.stop_requested = True
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """Stop it in order: exit status 0, a clean log, nothing left behind."""
        if not self.stop_requested:
            self.signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE)
        assert "Traceback" not in self.log, self.log
        assert status == 0, f"ftpd ended with status {status}: {self.log}"
        self.check()

    def check(self) -> None:
        """The books are right: the ledger counts what is on the disk, and what is held or staged
        belongs to an interrupted upload that waits for its resume.

        For a server that isn't running.
        """
        database = sqlite3.connect(self.root / ".ftpd" / "state.db")
        try:
            leases = database.execute(
                "SELECT account_id, state, size, staging, files FROM lease"
            ).fetchall()
            accounts = database.execute(
                "SELECT id, name, home, used, held, files, held_files FROM account"
            ).fetchall()
        finally:
            database.close()
        for number, name, home, used, held, files, held_files in accounts:
            # a home below the root is kept as it is seen from there
            directory = os.path.join(os.fsencode(self.root), home or os.fsencode(name))
            kept = [lease for lease in leases if lease[0] == number]
            assert {state for _, state, _, _, _ in kept} <= {"kept"}, f"{name}: {kept}"
            assert held == sum(size for _, _, size, _, _ in kept), f"{name}: {held} bytes are held"
            held_by_leases = sum(count for _, _, _, _, count in kept)
            assert held_files == held_by_leases, f"{name}: {held_files} files are held"
            assert used == stored_bytes(directory), f"{name}: the ledger has {used} bytes"
            if Path(os.fsdecode(directory)) not in _changed_behind:
                assert files == stored_files(directory), f"{name}: the ledger has {files} files"
            owned = {os.fsdecode(staging) for _, _, _, staging, _ in kept}
            left = {entry.removesuffix(".ck") for entry in self.staged(name)}
            assert left <= owned, f"{name}: {left - owned} was left in staging"


@dataclass(frozen=True)
class Admin:
    """Whoever looks after the accounts of a root, with `ftpd user`."""

    programs: Programs
    root: Path
    place: Path

    def run(self, *arguments: str, status: int | None = 0, given: bytes = b"") -> Finished:
        """Run one `ftpd` command to its end."""
        return self.programs.run(
            [*program("ftpd"), *arguments],
            given=given,
            status=status,
            cwd=self.place,
            env=clean_environment(self.place, FTPD_ROOT=str(self.root)),
        )


def add_account(server: Server, programs: Programs, name: str) -> User:
    """A new account, made without running `ftpd user add`: for tests of something else."""
    from ftpserver.accounts.accounts import Accounts
    from ftpserver.database import open_state

    engine = open_state(server.root / ".ftpd")
    try:
        Accounts(engine, server.root).add(name, f"password of {name}")
    finally:
        engine.dispose()
    user = server.user(name, f"password of {name}")
    user.programs = programs
    return user


_changed_behind: set[Path] = set()


def behind(home: Path) -> Path:
    """A home in which a test makes something without the server, which counts what it knows."""
    _changed_behind.add(home)
    return home


def _stored(home: Path | bytes) -> Iterator[bytes]:
    """What counts in a home: all but staging, and what the trash has for itself."""
    top = os.fsencode(home)
    trash = os.path.join(top, TRASH)
    for directory, directories, files in os.walk(top):
        directories[:] = [name for name in directories if name != STAGING]
        if os.path.dirname(directory) == trash:
            files = [name for name in files if name != b"index"]
        own = directory == trash  # the directories of operations
        below = [] if own else [name for name in directories if name != TRASH]
        yield from (os.path.join(directory, name) for name in (*files, *below))


def stored_files(home: Path | bytes) -> int:
    """The files, directories and links in a home, those in the trash among them."""
    return sum(1 for _ in _stored(home))


def stored_bytes(home: Path | bytes) -> int:
    """The bytes of all files and links' targets in a home, those in the trash among them."""
    found = (os.lstat(path) for path in _stored(home))
    sized = (one for one in found if stat.S_ISREG(one.st_mode) or stat.S_ISLNK(one.st_mode))
    return sum(one.st_size for one in sized)
