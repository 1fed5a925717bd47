"""Faults in the middle of a transfer: what is there afterwards, and that others don't notice.

After each of them: the old file is whole at both ends, no name shows half a file, room that was
held is given back or belongs to an upload that can be resumed, and the server serves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ftpserver import ballast
from tests.system import trees
from tests.system.programs import (
    PATIENCE,
    STAGING,
    TRASH,
    clean_environment,
    eventually,
    finish,
    stored_bytes,
)
from tests.system.proxy import Proxy

KIB, MIB = 2**10, 2**20
OLD = b"the old file"
TIME = 1_700_000_000_123_456_789


def new_file(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(size))
    os.utime(path, ns=(TIME, TIME))
    return path


def visible(home):
    """The names in a home, staging and the trash left out."""
    return {name for name in trees.names(home) if name.split(b"/")[0] not in (STAGING, TRASH)}


def staged(user):
    """What lies in a home's staging."""
    return trees.names(user.on_server / os.fsdecode(STAGING)) - {b"lock"}


def partials(directory):
    """What downloads have left behind below a directory."""
    return {name for name in trees.names(directory) if name.endswith(b".part")}


def probe(user):
    """The server serves others: a put, a look and a get."""
    data = os.urandom(1000)
    user.run("put", "-", "/probe", given=data)
    assert user.run("cat", "/probe").out == data
    user.run("rm", "/probe")


def all_is_given_back(user):
    space = user.run("--json", "df").record
    return space["held"] == 0 and space["used"] + space["trash"] == stored_bytes(user.on_server)


# a client that dies ------------------------------------------------------------------------


def test_a_client_killed_in_the_middle_of_a_put(start_server, tmp_path):
    """Of a file that is too small to be worth keeping; test_resume.py has a large one."""
    size = MIB
    server = start_server()
    alice, bob = server.first_user(), server.add_user("bob")
    alice.run("put", "-", "/file", given=OLD)
    source = new_file(tmp_path / "source", size)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", size // 2)
        running = alice.at(proxy.address).start("put", source, "/file")
        eventually(lambda: proxy.passed("up") >= size // 2, "half of it is sent")
        eventually(server.staged, "the upload is staged")
        probe(bob)

        running.kill()
        finish(running, status=-signal.SIGKILL)
        probe(bob)
    assert (server.home() / "file").read_bytes() == OLD
    eventually(lambda: not server.staged(), "staging is cleaned")
    eventually(lambda: all_is_given_back(alice), "what was held is given back")

    alice.run("put", source, "/file")  # the same again finishes it

    assert not server.staged()
    trees.same(source, server.home() / "file")
    assert all_is_given_back(alice)


# a server that dies ------------------------------------------------------------------------


def test_a_server_killed_in_the_middle_of_a_put(start_server, tmp_path):
    """Of a file that is too small to be worth keeping; test_resume.py has a large one."""
    size = MIB
    server = start_server()
    alice = server.first_user()
    alice.run("put", "-", "/file", given=OLD)
    source = new_file(tmp_path / "source", size)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", size // 2)
        running = alice.at(proxy.address).start("put", "--retries=0", source, "/file")
        eventually(lambda: proxy.passed("up") >= size // 2, "half of it is sent")
        eventually(server.staged, "the upload is staged")
        server.kill()
        proxy.release()
        assert finish(running, status=4).complaint.startswith("ftp: ")

    again = start_server(port=server.port)

    assert (server.home() / "file").read_bytes() == OLD
    eventually(lambda: not again.staged(), "staging is cleaned")
    eventually(lambda: all_is_given_back(alice), "the home is counted again")
    alice.run("put", source, "/file")
    trees.same(source, server.home() / "file")
    assert not again.staged()
    eventually(lambda: all_is_given_back(alice), "the home is counted again")


def test_a_server_killed_in_the_middle_of_a_get(start_server, tmp_path):
    server = start_server()
    alice = server.first_user()
    source = new_file(tmp_path / "source", 24 * MIB)
    alice.run("put", source, "/file")
    target = tmp_path / "target" / "file"
    target.parent.mkdir()
    target.write_bytes(OLD)
    with Proxy(server.reached) as proxy:
        proxy.hold("down", 12 * MIB)
        running = alice.at(proxy.address).start("get", "--retries=0", "/file", target)
        eventually(lambda: proxy.passed("down") >= 12 * MIB, "half of it has come")
        server.kill()
        proxy.release()
        finish(running, status=4)
    assert target.read_bytes() == OLD
    assert len(partials(target.parent)) == 1  # what the same again goes on with

    start_server(port=server.port)
    alice.run("get", "/file", target)

    trees.same(source, target)
    assert not partials(target.parent)


def test_a_transfer_goes_on_by_itself_when_the_server_comes_back(start_server, tmp_path):
    server = start_server()
    alice = server.first_user()
    source = new_file(tmp_path / "source", 40 * MIB)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 20 * MIB)
        running = alice.at(proxy.address).start("put", "--retries=30", source, "/file")
        eventually(lambda: proxy.passed("up") >= 20 * MIB, "half of it is sent")
        server.kill()
        start_server(port=server.port)
        proxy.release()

        finish(running)
    trees.same(source, server.home() / "file")


# a full disk -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A directory on a file system of 12 MiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(directory)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.fixture
def on_small_disk(small_disk, start_server):
    """Alice, whose server's root is on a small disk."""
    server = start_server(root=small_disk / "root")
    alice = server.first_user()
    alice.run("put", "-", "/file", given=OLD)
    return alice


def test_a_file_that_is_larger_than_the_disk(on_small_disk, tmp_path):
    alice, size = on_small_disk, 16 * MIB
    with open(tmp_path / "source", "wb") as source:
        source.truncate(size)

    for _ in range(2):
        reported = alice.run("put", tmp_path / "source", "/file", status=7).complaint
        assert "full: 16.0 MiB needed" in reported  # none of it was sent
        reported = alice.run("put", "-", "/piped", given=bytes(16 * MIB), status=7).complaint
        assert "full" in reported

    assert (alice.on_server / "file").read_bytes() == OLD
    assert visible(alice.on_server) == {b"file"}
    assert all_is_given_back(alice)
    probe(alice)


def test_many_files_that_are_larger_than_the_disk(on_small_disk, tmp_path):
    """By what they take there, which is twice what they hold: that shows only on the way."""
    alice = on_small_disk
    for number in range(1900):
        new_file(tmp_path / "tree" / "all" / str(number), 4097)

    ended = alice.run("--json", "put", "-r", tmp_path / "tree", "/tree", status=None)

    assert ended.status in (1, 7)
    done = {r["destination"] for r in ended.records if r.get("status") == "done"}
    assert {r["error"] for r in ended.records if r.get("status") == "failed"} == {"disk-full"}
    for path in alice.on_server.glob("tree/*/*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(alice.on_server)).read_bytes()
    assert done <= {f"/{p.relative_to(alice.on_server)}" for p in alice.on_server.rglob("*")}
    alice.run("rm", "-rf", "/tree")  # perhaps nothing of it had room
    assert all_is_given_back(alice)
    probe(alice)


def test_a_disk_that_somebody_else_has_filled(on_small_disk, small_disk):
    alice = on_small_disk
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(filler, b"x" * 4096)
    except OSError:
        os.close(filler)

    assert alice.run("cat", "/file").out == OLD
    large = bytes(ballast.SIZE + MIB)  # what is kept back for the server isn't enough for it
    assert "full" in alice.run("put", "-", "/new", given=large, status=7).complaint
    alice.run("rm", "/file")
    (small_disk / "filler").unlink()
    probe(alice)
    assert all_is_given_back(alice)


def test_a_local_disk_that_is_full(user, small_disk):
    user.run("put", "-", "/file", given=os.urandom(16 * MIB))
    (small_disk / "file").write_bytes(OLD)

    reported = user.run("get", "/file", small_disk / "file", status=7).complaint

    assert "full" in reported
    assert (small_disk / "file").read_bytes() == OLD
    assert not partials(small_disk)


# Ctrl-C in a script ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "plaintext"), [(3 * MIB, True), (24 * MIB, False)], ids=["3-MiB-plain", "24-MiB-tls"]
)
def test_ctrl_c_in_a_put(start_server, tmp_path, size, plaintext):
    server = start_server(plaintext=plaintext)
    alice = server.first_user()
    alice.run("put", "-", "/file", given=OLD)
    source = new_file(tmp_path / "source", size)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", size // 2)
        running = alice.at(proxy.address).start("put", source, "/file")
        eventually(lambda: proxy.passed("up") >= size // 2, "half of it is sent")
        running.send_signal(signal.SIGINT)
        proxy.release()

        assert finish(running, status=130).complaint.startswith("ftp: interrupted: stopped at ")
    if size > 4 * MIB:
        assert (server.home() / "file").read_bytes() == OLD
    else:  # all of it may have been on its way already
        assert (server.home() / "file").read_bytes() in (OLD, source.read_bytes())
        eventually(lambda: not server.staged(), "staging is cleaned")
        eventually(lambda: all_is_given_back(alice), "what was held is given back")
    alice.run("put", source, "/file")
    trees.same(source, server.home() / "file")
    assert all_is_given_back(alice) and not server.staged()


@pytest.mark.parametrize(
    ("size", "plaintext"), [(3 * MIB, False), (24 * MIB, True)], ids=["3-MiB-tls", "24-MiB-plain"]
)
def test_ctrl_c_in_a_get(start_server, tmp_path, size, plaintext):
    server = start_server(plaintext=plaintext)
    alice = server.first_user()
    source = new_file(tmp_path / "source", size)
    alice.run("put", source, "/file")
    target = tmp_path / "target" / "file"
    target.parent.mkdir()
    target.write_bytes(OLD)
    with Proxy(server.reached) as proxy:
        proxy.hold("down", size // 2)
        running = alice.at(proxy.address).start("get", "/file", target)
        eventually(lambda: proxy.passed("down") >= size // 2, "half of it has come")
        running.send_signal(signal.SIGINT)
        proxy.release()

        ended = finish(running, status=130 if size > 4 * MIB else None)
    if size > 4 * MIB:
        assert ended.complaint.startswith("ftp: interrupted: stopped at ")
        assert target.read_bytes() == OLD
    else:  # all of it may have come already
        assert ended.status in (0, 130)
        assert target.read_bytes() in (OLD, source.read_bytes())
        assert not partials(target.parent)
    alice.run("get", "/file", target)
    trees.same(source, target)
    assert not partials(target.parent)


def test_ctrl_c_while_a_pipe_is_silent(user):
    running = user.start("put", "-", "/piped")
    running.stdin.write(b"some")
    eventually(lambda: staged(user), "staging")

    running.send_signal(signal.SIGINT)

    assert running.wait(PATIENCE) == 130
    assert visible(user.on_server) == set()
    eventually(lambda: all_is_given_back(user), "what was held is given back")


LEAVING = """
import os, signal
from ftpclient.cli import main
from ftpclient.cli.app import App
App.close = lambda self: os.kill(os.getpid(), signal.SIGINT)
main.main()
"""


def test_ctrl_c_when_the_work_is_done(programs, tmp_path):
    running = programs.start(
        [sys.executable, "-c", LEAVING, "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(tmp_path),
    )
    assert finish(running, status=-signal.SIGINT).err == ""


def test_ctrl_c_twice_ends_it_at_once(user, tmp_path):
    source = new_file(tmp_path / "source", 24 * MIB)
    with Proxy(user.server) as proxy:
        proxy.hold("up", 2 * MIB)
        running = user.at(proxy.address).start("put", source, "/file")
        eventually(lambda: proxy.passed("up") >= 2 * MIB, "some of it is sent")

        def has_ended():
            running.send_signal(signal.SIGINT)
            return running.poll() is not None

        eventually(has_ended)
        assert finish(running, status=None).status in (130, -signal.SIGINT)
    assert visible(user.on_server) == set()
