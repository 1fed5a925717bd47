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
from contextlib import ExitStack
from pathlib import Path

import pytest

from ftpserver.cpus import cpus
from tests import sparse
from tests.system import trees
from tests.system.modes import AUTO
from tests.system.programs import behind, clean_environment, eventually
from tests.system.test_growing import grown

KIB, MIB, GIB = 2**10, 2**20, 2**30

MEASURED = """
import sys
from ftpclient.cli.main import main
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

    def run(self, verb, *arguments, status=0):
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
            self.most[verb] = most_memory_of(self._user, verb, *arguments, status=status)
        finally:
            ended.set()
            watching.join()


def most_memory_of(user, *arguments, status=0):
    """Run one `ftp` command; the most bytes that its process ever had."""
    reported = user.home / "most-memory"
    # the file to write to takes the place of the program's name, which nothing asks for
    code = MEASURED.replace("sys.argv[0]", repr(str(reported)))
    words = [os.fspath(argument) for argument in arguments]
    user.programs.run(
        [sys.executable, "-c", code, *user.options, *words],
        status=status,
        cwd=user.home,
        env=clean_environment(
            user.home, FTP_PASSWORD=user.password, FTP_SERVER=f"{user.name}@{user.server}"
        ),
    )
    return int(reported.read_text()) * KIB


def solid(path, size):
    with open(sparse.make_solid(path, size), "r+b") as file:
        file.write(b"not only zeros")
    return path


def hollow(path, size):
    sparse.make(path, [(False, 100)])
    os.truncate(path, size)
    return path


LONG = [pytest.mark.long, pytest.mark.timeout(1200)]


@pytest.mark.parametrize(
    ("size", "plaintext", "make"),
    [
        pytest.param(128 * MIB, False, solid, id="128-MiB-tls"),
        pytest.param(128 * MIB, True, solid, id="128-MiB-plain"),
        pytest.param(2 * GIB, True, hollow, id="2-GiB-of-hole"),
        pytest.param(4 * GIB, False, solid, id="4-GiB-tls", marks=LONG),
        pytest.param(4 * GIB, True, solid, id="4-GiB-plain", marks=LONG),
    ],
)
def test_flat_in_the_size_of_a_file(start_server, roomy, size, plaintext, make):
    server = start_server(plaintext=plaintext)
    alice = server.first_user()
    small, large = make(roomy / "small", 8 * MIB), make(roomy / "large", size)
    few, many = Measured(server, alice), Measured(server, alice)
    few.run("put", small, "/small")
    few.run("get", "/small", roomy / "small-back")
    many.run("put", large, "/large")
    many.run("get", "/large", roomy / "large-back")

    assert (roomy / "large-back").stat().st_size == size
    for what, most in many.most.items():
        assert most - few.most[what] < 8 * MIB, (what, few.most, many.most)
    alice.run("rm", "/large")


TRAVELLING = {"put": 330, "get": 330, "server": 280}
LISTED = {"ls": 250, "du": 250, "server": 150}
"""Bytes that each entry more may take. A list of the entries alone takes 375.

Both sizes are large, and what is compared is the difference between them: what fills up once,
however large the directory (requests that wait for their answers, buffers, what the allocator
keeps), has done so with the smaller one already, or is little beside so many entries. How far it
fills depends on how far one side is behind the other, so that no bound of the whole holds on a busy
machine.
"""


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


def flat(few: Measured, many: Measured, entries: int, allowed: dict[str, int]) -> None:
    """So many entries more made next to no difference."""
    grown = {verb: (most - few.most[verb]) / entries for verb, most in many.most.items()}
    print(grown)
    assert all(grown[verb] < allowed[verb] for verb in grown), (grown, few.most, many.most)


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        pytest.param(5_000, 20_000, id="20,000"),
        pytest.param(20_000, 100_000, id="100,000", marks=LONG),
    ],
)
def test_flat_in_the_size_of_a_directory_that_travels(start_server, roomy, fewer, more):
    server = start_server("--durability", "none")
    alice = server.first_user()
    few, many = Measured(server, alice), Measured(server, alice)
    for measured, count in ((few, fewer), (many, more)):
        source, back = make_directory(roomy / f"{count}", count), roomy / f"{count}-back"
        measured.run("put", "-rq", source, f"/{count}")
        measured.run("get", "-rq", f"/{count}", back)
        assert len(os.listdir(back)) == count
        trees.remove(back)
    flat(few, many, more - fewer, TRAVELLING)


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        pytest.param(10_000, 40_000, id="40,000"),
        pytest.param(40_000, 200_000, id="200,000", marks=LONG),
    ],
)
def test_flat_in_the_size_of_a_directory_that_is_listed(start_server, fewer, more):
    server = start_server()
    alice = server.first_user()
    few, many = Measured(server, alice), Measured(server, alice)
    for measured, count in ((few, fewer), (many, more)):
        make_directory(behind(server.home()) / f"{count}", count)
        measured.run("ls", f"/{count}")
        measured.run("du", f"/{count}")
    flat(few, many, more - fewer, LISTED)


@pytest.mark.parametrize(
    ("fewer", "more"),
    [
        pytest.param(25_000, 60_000, id="60,000"),
        pytest.param(40_000, 200_000, id="200,000", marks=LONG),
    ],
)
def test_flat_in_the_size_of_a_directory_that_is_compared(start_server, roomy, fewer, more):
    """Beyond 20,000 names, which both have, a sync keeps them on disk."""
    server = start_server()
    alice = server.first_user()
    few, many = Measured(server, alice), Measured(server, alice)
    for measured, count in ((few, fewer), (many, more)):
        make_directory(behind(server.home()) / f"{count}", count)
        (roomy / "here").mkdir(exist_ok=True)
        measured.run("sync", "-q", "--dry-run", f":/{count}", roomy / "here")
    # a name takes 64 bytes more or less, by when memory is given back; 477 when all are kept there
    flat(few, many, more - fewer, {"sync": 250, "server": 150})


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_flat_in_the_number_of_differences(start_server, roomy):
    """All files differ, and each of them is printed: a check sorts them on disk."""
    server = start_server()
    alice = server.first_user()
    few, many = Measured(server, alice), Measured(server, alice)
    for measured, count in ((few, 20_000), (many, 100_000)):
        make_directory(behind(server.home()) / f"{count}", count)
        here = make_directory(roomy / f"{count}", count)
        for name in os.listdir(here):
            (here / name).chmod(0o600)
        measured.run("check", here, f":/{count}", status=1)
        trees.remove(here)
    flat(few, many, 80_000, {"check": 250, "server": 150})


@pytest.mark.needs("workers")
@pytest.mark.skipif(cpus() < 2, reason="one CPU is used by one process")
def test_idle_processes_are_small(start_server, roomy):
    """A server that has had much to do, and the worker beside it: what both have for themselves.

    The bound is generous: what shows is a module that has grown large, and memory that is kept.
    """
    server = start_server(mode=AUTO)
    alice = server.first_user()
    source = make_directory(roomy / "many", 2000)
    with ExitStack() as stack:
        grown(server, alice, stack)
    for number in range(4):
        alice.run("put", "-rq", source, f"/{number}")
    eventually(lambda: own_memory_of(server) < 85 * MIB, f"{own_memory_of(server) / MIB:.1f} MiB")


def own_memory_of(server) -> int:
    """Bytes of memory that no file backs, of all its processes together."""
    processes = list(family_of(server.process.pid))
    assert len(processes) == 2
    rollups = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in processes]
    return sum(
        int(line.split()[1]) * KIB
        for rollup in rollups
        for line in rollup.splitlines()
        if line.startswith("Pss_Anon:")
    )
