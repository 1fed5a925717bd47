"""`ftpd start --discoverable` and `ftp discover`, on the real programs."""

from __future__ import annotations

import socket

import pytest

from tests.system.programs import clean_environment, program


@pytest.fixture
def port() -> int:
    """A UDP port that nobody uses just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


@pytest.fixture
def discover(programs, tmp_path, port):
    """Runs `ftp discover` with an environment in which nothing is known of any server."""

    def run(*options: str, status: int = 0):
        command = [*program("ftp"), "discover", "--discovery-port", str(port), *options]
        return programs.run(command, status=status, env=clean_environment(tmp_path), cwd=tmp_path)

    return run


def test_all_servers_of_this_machine_are_found(start_server, discover, port, tmp_path):
    options = ("--discoverable", "--discovery-port", str(port), "--name")
    first = start_server(*options, "first one")
    plain = start_server(*options, "plain one", root=tmp_path / "other", plaintext=True)
    start_server(root=tmp_path / "hidden")
    records = discover("--json").records
    assert [one["name"] for one in records] == ["first one", "plain one"]
    assert [f"{one['address']}:{one['port']}" for one in records] == [first.address, plain.address]
    assert [one["plaintext"] for one in records] == [False, True]
    assert first.announced[1] == f"key fingerprint {records[0]['fingerprint']}"
    status = first.admin.run("status", "--json").record["discovery"]
    assert status["port"] == port and status["answered"] and not status["dropped"]
    assert f"UDP port {port}" in first.admin.run("status").text


def test_what_was_found_is_not_trusted(start_server, discover, port, programs, tmp_path):
    server = start_server("--discoverable", "--discovery-port", str(port))
    (line,) = discover().lines
    name, address, version, fingerprint = line.split("\t")
    assert address == server.address
    env = clean_environment(tmp_path, FTP_PASSWORD="whatever")
    command = [*program("ftp"), "-s", f"alice@{address}", "ls"]
    assert fingerprint in programs.run(command, status=9, env=env, cwd=tmp_path).err


def test_none_is_found(start_server, discover):
    start_server()
    assert "no server answers" in discover(status=5).complaint
    assert discover("--json", status=5).out == b""


def test_wrong_settings_are_refused(programs, tmp_path):
    for option in (("--name", "a\nb"), ("--name", "x" * 65), ("--discovery-port", "65536")):
        command = [*program("ftpd"), "config", "check", *option]
        programs.run(command, status=2, env=clean_environment(tmp_path), cwd=tmp_path)
