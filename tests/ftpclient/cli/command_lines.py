"""Command lines of `ftp` in this process: what a script gets, without a process of its own.

Lives here: the arguments, the environment, the standard streams and the exit status of one run.
Lives elsewhere: the fixtures (conftest.py), what needs real programs (tests/system).
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ftpclient.__main__ import run_shell
from ftpclient.cli import main
from ftpclient.cli.app import App
from ftpserver.daemon.server import FtpServer
from tests.system.programs import Finished


@dataclass
class CommandLine:
    """Somebody at a command line, with a password and a server in mind.

    Attributes:
        server: HOST:PORT, or what stands for it.
        running: The server in this process, whatever the commands reach it by; None for a fake one.
    """

    capture: pytest.CaptureFixture[bytes]
    home: Path
    name: str
    password: str
    server: str
    running: FtpServer | None
    options: tuple[str, ...] = ("--plaintext",)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.home.mkdir(exist_ok=True)

    @property
    def on_server(self) -> Path:
        """Where the server has this user's files."""
        assert self.running is not None
        return self.running.settings.root / self.name

    def at(self, address: str) -> CommandLine:
        """The same user, who reaches the server by another address (of a proxy)."""
        return replace(self, server=address)

    def run(
        self,
        *arguments: str | bytes | Path,
        status: int | None = 0,
        given: bytes = b"",
        cwd: Path | None = None,
    ) -> Finished:
        """Run one command to its end; ``given`` is its standard input."""
        words = [*self.options, *(os.fsdecode(argument) for argument in arguments)]
        self.capture.readouterr()
        with ExitStack() as stack:
            stack.enter_context(_standard_input(given))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.chdir(cwd or self.home)
            patch.setenv("HOME", str(self.home))
            patch.setenv("XDG_CONFIG_HOME", str(self.home / "config"))
            for name, value in self._variables().items():
                patch.setenv(name, value)
            app = App(run_shell=run_shell)
            stack.callback(app.interrupt.close)
            stack.callback(app.close)
            ended = main.run(app, words)
        out, err = self.capture.readouterr()
        return Finished(ended, out, err.decode("utf-8", "backslashreplace")).expect(status)

    def _variables(self) -> dict[str, str]:
        password = {"FTP_PASSWORD": self.password} if self.password else {}
        server = {"FTP_SERVER": f"{self.name}@{self.server}"} if self.server else {}
        return server | password | self.environment


@contextmanager
def _standard_input(data: bytes) -> Iterator[None]:
    """Have a pipe with these bytes as descriptor 0, and as sys.stdin."""
    read, write = os.pipe()
    before, stdin = os.dup(0), sys.stdin

    def feed() -> None:
        try:
            with open(write, "wb", buffering=0) as pipe:
                pipe.write(data)
        except BrokenPipeError:
            pass  # the command didn't want all of it

    os.dup2(read, 0)
    os.close(read)
    feeding = threading.Thread(target=feed)
    feeding.start()
    sys.stdin = open(0, closefd=False)
    try:
        yield
    finally:
        sys.stdin.close()
        sys.stdin = stdin
        os.dup2(before, 0)  # closes the pipe: who feeds it ends
        os.close(before)
        feeding.join()
