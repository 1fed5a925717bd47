"""`ftpd start --discoverable` and `ftp discover`, on the real programs."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess

import pytest

from tests.system.programs import PATIENCE, clean_environment, eventually, program


@pytest.fixture
def port() -> int:
    """A UDP port that nobody uses just now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return sock.getsockname()[1]


@pytest.fixture
def discover(programs, tmp_path, port):
    """Runs `ftp discover` with an environment in which nothing is known of any server.

    Again, until so many have answered: a busy machine may not do so while the command waits.
    """

    def run(count: int, *options: str):
        command = [*program("ftp"), "discover", "--discovery-port", str(port), *options]
        environment = clean_environment(tmp_path)

        def found():
            ended = programs.run(command, status=None, env=environment, cwd=tmp_path)
            return ended if len(ended.lines) >= count else None

        return eventually(found, f"{count} answers")

    return run


@pytest.mark.needs("tls")
def test_all_servers_of_this_machine_are_found(start_server, discover, port, tmp_path):
    options = ("--discoverable", "--discovery-port", str(port), "--name")
    first = start_server(*options, "first one")
    plain = start_server(*options, "plain one", root=tmp_path / "other", plaintext=True)
    start_server(root=tmp_path / "hidden")
    records = discover(2, "--json").records
    assert [one["name"] for one in records] == ["first one", "plain one"]
    assert [f"{one['address']}:{one['port']}" for one in records] == [first.address, plain.address]
    assert [one["plaintext"] for one in records] == [False, True]
    assert f"key fingerprint {records[0]['fingerprint']}" in first.announced
    status = first.admin.run("status", "--json").record["discovery"]
    assert status["port"] == port and status["answered"] and not status["dropped"]
    assert f"UDP port {port}" in first.admin.run("status").text


@pytest.mark.needs("tls")
def test_what_was_found_is_not_trusted(start_server, discover, port, programs, tmp_path):
    server = start_server("--discoverable", "--discovery-port", str(port))
    (line,) = discover(1).lines
    name, address, version, fingerprint = line.split("\t")
    assert address == server.address
    env = clean_environment(tmp_path, FTP_PASSWORD="whatever")
    command = [*program("ftp"), "-s", f"alice@{address}", "ls"]
    assert fingerprint in programs.run(command, status=9, env=env, cwd=tmp_path).err


def test_connect_and_login_complete_what_answers(start_server, programs, port, tmp_path):
    server = start_server("--discoverable", "--discovery-port", str(port), "--name", "attic")
    address = f"127.0.0.1:{server.port}"

    def offered(line: str) -> list[str]:
        environment = clean_environment(
            tmp_path,
            FTP_DISCOVERY_PORT=str(port),
            _FTP_COMPLETE="bash_complete",
            COMP_WORDS=line,
            COMP_CWORD="2",
        )
        return programs.run(program("ftp"), env=environment).lines

    # a busy machine may not answer in the time that the Tab key has
    for line, expected in (("ftp connect ", address), ("ftp login alice@", f"alice@{address}")):
        eventually(lambda line=line, expected=expected: offered(line) == [f"plain,{expected}"])
    assert offered("ftp connect 10.") == [""]


# two machines ------------------------------------------------------------------------------


class Machine:
    """A network of its own in the kernel, joined to another one's by a cable."""

    def __init__(self, programs, place) -> None:
        self._programs = programs
        self._place = place
        self._holder = programs.start(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo here && exec sleep 1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        if self._holder.stdout.readline() != b"here\n":
            pytest.skip("networks of one's own cannot be made here")

    @property
    def number(self) -> str:
        return str(self._holder.pid)

    def on_it(self, *command: str) -> list[str]:
        return ["nsenter", "--target", self.number, "--net", *command]

    def join(self, cable: str, address: str) -> None:
        """Plug one end of a cable in."""
        run = self._programs.run
        run(["ip", "link", "set", cable, "netns", self.number])
        run(self.on_it("ip", "address", "add", f"{address}/24", "broadcast", "+", "dev", cable))
        run(self.on_it("ip", "link", "set", cable, "up"))

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        """Start a discoverable server; returns when it listens."""
        root = self._place / name
        command = [*program("ftpd"), "start", "--root", str(root), "--discoverable"]
        server = self._programs.start(
            self.on_it(*command, "--name", name, "--port", "0", *options),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=clean_environment(self._place),
            cwd=self._place,
        )
        assert server.stdout.readline().startswith(b"listening on ")
        return server

    def discover(self) -> dict[str, list[str]]:
        """The servers that are found from here: the addresses of each."""
        env = clean_environment(self._place)
        command = self.on_it(*program("ftp"), "discover", "--json")
        found = self._programs.run(command, status=None, env=env, cwd=self._place).records
        return {one["name"]: one["addresses"] for one in found}


@pytest.fixture
def machines(programs, tmp_path):
    """Two machines in one network, 10.77.0.1 and 10.77.0.2. It ends with the last of them."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        pytest.skip("takes root, and Linux's tools for networks")
    found = Machine(programs, tmp_path), Machine(programs, tmp_path)
    cable = [f"ftpd{os.getpid()}{end}" for end in "ab"]
    made = programs.run(
        ["ip", "link", "add", cable[0], "type", "veth", "peer", "name", cable[1]], status=None
    )
    if made.status:
        pytest.skip("cables cannot be made here")
    for number, machine in enumerate(found):
        machine.join(cable[number], f"10.77.0.{number + 1}")
    return found


def test_from_another_machine(machines):
    here, there = machines
    servers = [
        here.start("all"),
        here.start("one address", "--host", "10.77.0.1"),
        here.start("local", "--host", "127.0.0.1"),
    ]
    found_there = {"all": ["10.77.0.1"], "one address": ["10.77.0.1"]}
    found_here = {
        "all": ["10.77.0.1", "127.0.0.1"],
        "one address": ["10.77.0.1"],
        "local": ["127.0.0.1"],
    }
    # again: a busy machine may not answer while the command waits
    eventually(lambda: there.discover() == found_there)
    eventually(lambda: here.discover() == found_here)
    for server in servers:
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE) == 0
