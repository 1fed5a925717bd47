"""Memory is flat: in the size of a file, in the size of a directory, on both sides.

What is compared is the most memory that a process ever had (VmHWM), after something small and
after something large. For the client it is read by the client's process itself, at its end: the
kernel's ru_maxrss of a child counts in what its parent had before exec. Of the server it is that of
the largest of its processes, and is read all the while: a session in a process of its own takes
its figure with it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import trees
from tests.system.programs import clean_environment

KIB, MIB, GIB = 2**10, 2**20, 2**30

MEASURED = """
import sys
from ftpclient.cli import main
try:
    main()
finally:
    with open("/proc/self/status") as status, open(sys.argv[0], "w") as told:
        told.write(next(line for line in status if line.startswith("VmHWM")).split()[1])
"""


pytestmark = [
    pytest.mark.usefixtures("cold_starts"),  # what was loaded before a fork counts as well
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="this system doesn't tell peaks of memory"
    ),
]


def family_of(process: int) -> Iterator[int]:
    """A process, and all that descend from it."""
    yield process
    tasks = Path(f"/proc/{process}/task")
    try:
        for task in os.listdir(tasks):
            for child in (tasks / task / "children").read_text().split():
                yield from family_of(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return  # it, or a thread of it, has ended meanwhile: the next look has the rest


def memory_of_server(server):
    """The most bytes that one of the server's processes has had, of those that are there now."""
    most = 0
    for process in family_of(server.process.pid):
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue  # a session that is over
        _, found, rest = status.partition("VmHWM:")
        if found:  # what has ended and isn't reaped yet has no memory
            most = max(most, int(rest.split()[0]) * KIB)
    return most


class Measured:
    """The most memory of commands, by verb, and of the server meanwhile."""

    def __init__(self, server, user):
        self._server, self._user = server, user
        self.most = {"server": 0}

    def run(self, verb, *arguments):
        """Run one `ftp` command."""
        ended = threading.Event()

        def watch():
            while True:
                over = ended.is_set()
                self.most["server"] = max(self.most["server"], memory_of_server(self._server))
                if over:
                    return
                ended.wait(0.02)

        watching = threading.Thread(target=watch)
        watching.start()
        try:
            self.most[verb] = most_memory_of(self._user, verb, *arguments)
        finally:
            ended.set()
            watching.join()


def most_memory_of(user, *arguments):
    """Run one `ftp` command; the most bytes that its process ever had."""
    told = user.home / "most-memory"
    # the file to write to takes the place of the program's name, which nothing asks for
    code = MEASURED.replace("sys.argv[0]", repr(str(told)))
    words = [os.fspath(argument) for argument in arguments]
    user.programs.run(
        [sys.executable, "-c", code, *user.options, *words],
        cwd=user.home,
        env=clean_environment(
            user.home, FTP_PASSWORD=user.password, FTP_SERVER=f"{user.name}@{user.server}"
        ),
    )
    return int(told.read_text()) * KIB


def sparse(path, size):
    with open(path, "wb") as file:
        file.truncate(size)
        file.write(b"not only zeros")
    return path


SIZES = [
    pytest.param(512 * MIB, id="512-MiB"),
    pytest.param(4 * GIB, id="4-GiB", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
]


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
@pytest.mark.parametrize("size", SIZES)
def test_flat_in_the_size_of_a_file(start_server, roomy, size, plaintext):
    server = start_server(plaintext=plaintext)
    alice = server.first_user()
    small, large = sparse(roomy / "small", 8 * MIB), sparse(roomy / "large", size)
    few, many = Measured(server, alice), Measured(server, alice)
    few.run("put", small, "/small")
    few.run("get", "/small", roomy / "small-back")
    many.run("put", large, "/large")
    many.run("get", "/large", roomy / "large-back")

    assert (roomy / "large-back").stat().st_size == size
    for what, most in many.most.items():
        assert most - few.most[what] < 8 * MIB, (what, few.most, many.most)
        assert most < 200 * MIB, what
    alice.run("rm", "/large")


COUNTS = [
    pytest.param(20_000, id="20,000"),
    pytest.param(100_000, id="100,000", marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
]
ALLOWED = {
    "put": 16 * MIB,
    "get": 26 * MIB,  # both keep the most requests that may be unanswered, and 80 bytes a file
    "ls": 7 * MIB,
    "du": 4 * MIB,
    "server": 4 * MIB,
}
"""Bytes more than for a small directory. A list of the entries alone takes 7.5 and 37.5 MiB."""


def make_directory(directory, count):
    """Files with long names, all in one directory."""
    directory.mkdir()
    handle = os.open(directory, os.O_RDONLY)
    try:
        for number in range(count):
            name = f"{number:06}-{'long name' * 22}"
            os.close(os.open(name, os.O_CREAT | os.O_WRONLY, dir_fd=handle))
    finally:
        os.close(handle)
    return directory


@pytest.mark.parametrize("count", COUNTS)
def test_flat_in_the_size_of_a_directory(start_server, roomy, count):
    server = start_server()
    alice = server.first_user()
    few_files = make_directory(roomy / "few", 200)
    many_files = make_directory(roomy / "many", count)
    few, many = Measured(server, alice), Measured(server, alice)
    for measured, source in ((few, few_files), (many, many_files)):
        there = f"/{source.name}"
        measured.run("put", "-rq", source, there)
        measured.run("ls", there)
        measured.run("get", "-rq", there, roomy / f"{source.name}-back")
        measured.run("du", there)

    assert len(os.listdir(roomy / "many-back")) == count
    for what, most in many.most.items():
        assert most - few.most[what] < ALLOWED[what], (what, few.most, many.most)
        assert most < 160 * MIB, what
    trees.remove(roomy / "many-back")
    alice.run("rm", "-r", "/many")
