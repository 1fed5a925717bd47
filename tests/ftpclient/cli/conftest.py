"""Who runs commands in the tests of command lines."""

from __future__ import annotations

import sys

import pytest

from ftpserver.daemon.server import FtpServer
from tests.ftpclient.cli.command_lines import CommandLine
from tests.peer import FakeServer


@pytest.fixture
def at_a_command_line(tmp_path, capfdbinary, monkeypatch):
    """Makes users of servers in this process, by default alice."""
    for stream in (sys.stdout, sys.stderr):  # as main() does
        stream.reconfigure(errors="backslashreplace")

    def make(server: FtpServer, name: str = "alice", password: str = "secret") -> CommandLine:
        if name not in {account.name for account in server.accounts}:
            server.accounts.add(name, password)
        options = ("--plaintext",) if server.settings.plaintext else ("--accept-new",)
        host, port = server.server_address[:2]
        place = tmp_path / f"at-{name}"
        return CommandLine(capfdbinary, place, name, password, f"{host}:{port}", server, options)

    return make


@pytest.fixture
def at_a_fake(tmp_path, capfdbinary):
    """Makes somebody whose server follows a script."""

    def make(fake: FakeServer) -> CommandLine:
        return CommandLine(
            capfdbinary, tmp_path / "home", "alice", "secret", f"127.0.0.1:{fake.port}", None
        )

    return make


@pytest.fixture
def user(start_server, at_a_command_line) -> CommandLine:
    """Alice, whose server speaks without TLS, and waits for no disk."""
    return at_a_command_line(start_server(durable=False))
