"""Faults in the middle of a transfer: what is there afterwards, and that others don't notice.

After each of them: the old file is whole at both ends, no name shows half a file, room that was
held is given back or belongs to an upload that can be resumed, and the server serves.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading

import pytest

from ftpwire import frames, messages
from ftpwire.frames import HEADER, Kind
from ftpwire.messages import Get, Hello, Login, Put, Sent
from tests.peer import Peer
from tests.system import trees
from tests.system.programs import STAGING, eventually, finish, stored_bytes
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
    """The names in a home, staging left out."""
    return {name for name in trees.names(home) if name.split(b"/")[0] != STAGING}


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
    room = user.run("--json", "df").record
    return room["held"] == 0 and room["used"] == stored_bytes(user.on_server)


# a client that dies ------------------------------------------------------------------------


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
@pytest.mark.parametrize("size", [MIB, 24 * MIB], ids=["1-MiB", "24-MiB"])
def test_a_client_killed_in_the_middle_of_a_put(start_server, tmp_path, size, plaintext):
    server = start_server(plaintext=plaintext)
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
    if size == MIB:  # too small to be worth keeping
        eventually(lambda: not server.staged(), "staging is cleaned")
        eventually(lambda: all_is_given_back(alice), "what was held is given back")

    alice.run("put", source, "/file")  # the same again finishes it

    assert not server.staged()
    trees.same(source, server.home() / "file")
    assert all_is_given_back(alice)


def test_what_a_killed_client_had_sent_need_not_be_sent_again(start_server, tmp_path):
    server = start_server()
    alice = server.first_user()
    source = new_file(tmp_path / "source", 40 * MIB)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 36 * MIB)
        running = alice.at(proxy.address).start("put", source, "/file")
        eventually(lambda: proxy.passed("up") >= 36 * MIB, "most of it is sent")
        running.kill()
        finish(running, status=-signal.SIGKILL)
    eventually(lambda: "connection" in server.log.splitlines()[-1], "the server has noticed")
    with Proxy(server.reached) as proxy:
        alice.at(proxy.address).run("put", source, "/file")
        assert proxy.passed("up") < 20 * MIB
    trees.same(source, server.home() / "file")


def test_a_client_killed_in_the_middle_of_a_tree(start_server, tmp_path):
    server = start_server()
    alice, bob = server.first_user(), server.add_user("bob")
    for number in range(600):
        new_file(tmp_path / "tree" / str(number // 50) / str(number), 10_000)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 3 * MIB)
        running = alice.at(proxy.address).start("put", "-r", f"{tmp_path}/tree/.", "/tree")
        eventually(lambda: proxy.passed("up") >= 3 * MIB, "half of it is sent")
        running.kill()
        finish(running, status=-signal.SIGKILL)
        probe(bob)
    eventually(lambda: all_is_given_back(alice), "what was held is given back")
    eventually(lambda: not server.staged(), "staging is cleaned")
    for name in visible(server.home()):
        path = server.home() / os.fsdecode(name)
        if path.is_file():
            assert path.read_bytes() == (tmp_path / os.fsdecode(name)).read_bytes()

    alice.run("put", "-r", f"{tmp_path}/tree/.", "/tree")

    trees.same(tmp_path / "tree", server.home() / "tree")


# a server that dies ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MIB, 24 * MIB], ids=["1-MiB", "24-MiB"])
def test_a_server_killed_in_the_middle_of_a_put(start_server, tmp_path, size):
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
    if size == MIB:
        eventually(lambda: not again.staged(), "staging is cleaned")
        eventually(lambda: all_is_given_back(alice), "the home is counted again")
    alice.run("put", source, "/file")
    trees.same(source, server.home() / "file")
    assert not again.staged()
    eventually(lambda: all_is_given_back(alice), "the home is counted again")


def test_a_server_killed_in_the_middle_of_a_tree(start_server, tmp_path):
    server = start_server()
    alice = server.first_user()
    for number in range(600):
        new_file(tmp_path / "tree" / str(number // 50) / str(number), 10_000)
    with Proxy(server.reached) as proxy:
        proxy.hold("up", 3 * MIB)
        running = alice.at(proxy.address).start(
            "put", "--retries=0", "-r", f"{tmp_path}/tree/.", "/tree"
        )
        eventually(lambda: proxy.passed("up") >= 3 * MIB, "half of it is sent")
        server.kill()
        finish(running, status=4)

    again = start_server(port=server.port)

    eventually(lambda: not again.staged(), "staging is cleaned")
    eventually(lambda: all_is_given_back(alice), "the home is counted again")
    for name in visible(server.home()):
        path = server.home() / os.fsdecode(name)
        if path.is_file():
            assert path.read_bytes() == (tmp_path / os.fsdecode(name)).read_bytes()
    alice.run("put", "-r", f"{tmp_path}/tree/.", "/tree")
    trees.same(tmp_path / "tree", server.home() / "tree")


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


# a connection that is cut ------------------------------------------------------------------

PUT_SIZES = {"small": 10_000, "streamed": MIB, "asked": 5 * MIB}
"""One for each way in which a file is sent."""


def cuts(size):
    """Numbers of bytes after which to cut: around each frame of the opening, and in the data."""
    opening = [1, 9, 80, 150, 240]
    within = [size // 3, size - 1, size, size + 8, size + 150, size + 300]
    return sorted({*opening, *(count for count in within if count > 0)})


def sent_by(user, *arguments):
    """Bytes of each direction that a command takes on an undisturbed connection."""
    with Proxy(user.server) as proxy:
        user.at(proxy.address).run(*arguments)
        return proxy.passed("up"), proxy.passed("down")


@pytest.mark.parametrize("size", PUT_SIZES.values(), ids=PUT_SIZES)
def test_a_put_that_is_cut_anywhere(user_without_tls, tmp_path, size):
    user = user_without_tls
    source = new_file(tmp_path / "source", size)
    total, _ = sent_by(user, "put", source, "/whole")
    user.run("put", "-", "/file", given=OLD)
    new = source.read_bytes()

    for count in [count for count in cuts(size) if count < total]:
        with Proxy(user.server) as proxy:
            proxy.cut_after("up", count)
            cut = user.at(proxy.address).run(
                "put", "--no-resume", "--retries=0", source, "/file", status=4
            )
            assert len(cut.err.splitlines()) == 1
        assert (user.on_server / "file").read_bytes() == OLD, f"cut after {count} bytes"
        assert visible(user.on_server) == {b"file", b"whole"}

    # in the answer: it may be stored by then, and then it is whole
    for back in (60, 10, 1):
        with Proxy(user.server) as proxy:
            proxy.cut_after("down", sent_by(user, "put", "--no-resume", source, "/x")[1] - back)
            user.at(proxy.address).run("put", "--retries=0", source, "/file", status=4)
        assert (user.on_server / "file").read_bytes() in (OLD, new)
    user.run("put", source, "/file")
    assert (user.on_server / "file").read_bytes() == new
    eventually(lambda: not staged(user), "staging is cleaned")
    eventually(lambda: all_is_given_back(user), "what was held is given back")


@pytest.mark.parametrize("size", PUT_SIZES.values(), ids=PUT_SIZES)
def test_a_get_that_is_cut_anywhere(user_without_tls, tmp_path, size):
    user = user_without_tls
    source = new_file(tmp_path / "source", size)
    user.run("put", source, "/file")
    target = tmp_path / "target" / "file"
    target.parent.mkdir()
    _, total = sent_by(user, "get", "/file", target)
    target.write_bytes(OLD)

    for count in [count for count in cuts(size) if count < total]:
        with Proxy(user.server) as proxy:
            proxy.cut_after("down", count)
            cut = user.at(proxy.address).run(
                "get", "--no-resume", "--retries=0", "/file", target, status=4
            )
            assert len(cut.err.splitlines()) == 1
        assert target.read_bytes() == OLD, f"cut after {count} bytes"
        if count < 4 * MIB:  # less isn't worth keeping
            assert not partials(target.parent), f"cut after {count} bytes"
    user.run("get", "/file", target)
    trees.same(source, target)
    assert not partials(target.parent)


@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_transfer_through_tls_that_is_cut(user, tmp_path, verb):
    source = new_file(tmp_path / "source", MIB)
    user.run("put", source, "/file")
    target = tmp_path / "target" / "file"
    target.parent.mkdir()
    target.write_bytes(OLD)
    user.run("put", target, "/target")
    arguments = ["put", source, "/target"] if verb == "put" else ["get", "/file", target]

    for count in (1, 400, 1700, 3000, 100_000, MIB):
        with Proxy(user.server) as proxy:
            proxy.cut_after("up" if verb == "put" else "down", count)
            user.at(proxy.address).run(verb, "--retries=0", *arguments[1:], status=4)
        assert target.read_bytes() == OLD
        assert (user.on_server / "target").read_bytes() == OLD
        assert not partials(target.parent)
    user.run(*arguments)


@pytest.mark.needs("tls")
def test_a_command_that_is_cut(user):
    """Whatever is asked, an end in the answer is 4, and the next command works.

    1,800 bytes lie in the answers only where TLS shook hands before.
    """
    user.run("put", "-", "/file", given=OLD)
    for arguments in (["ls"], ["df"], ["stat", "/file"], ["cat", "/file"], ["rm", "/none"]):
        with Proxy(user.server) as proxy:
            proxy.cut_after("down", 1800)
            user.at(proxy.address).run(*arguments, status=4)
    probe(user)


# two at once -------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [50_000, MIB, 6 * MIB], ids=PUT_SIZES)
def test_two_uploads_to_one_name_give_one_of_the_two(user, tmp_path, size):
    sources = [new_file(tmp_path / name, size + number) for number, name in enumerate("ab")]
    contents = {source.read_bytes() for source in sources}

    for _ in range(5):
        puts = [user.start("put", "--no-resume", source, "/file") for source in sources]
        for running in puts:
            finish(running)

        assert (user.on_server / "file").read_bytes() in contents
    assert visible(user.on_server) == {b"file"}
    assert all_is_given_back(user)


def test_the_same_file_uploaded_twice_at_once(user, tmp_path):
    """The same source to the same target: they may share what is staged, never mix it."""
    source = new_file(tmp_path / "source", 12 * MIB)
    for _ in range(3):
        puts = [user.start("put", "--no-resume", source, "/file") for _ in range(2)]
        statuses = {finish(running, status=None).status for running in puts}

        assert 0 in statuses
        trees.same(source, user.on_server / "file")
    eventually(lambda: all_is_given_back(user), "what was held is given back")


def test_whoever_reads_while_others_write_gets_one_or_the_other(user, tmp_path):
    sources = [new_file(tmp_path / name, 300_000 + number) for number, name in enumerate("ab")]
    contents = {source.read_bytes() for source in sources}
    user.run("put", sources[0], "/file")
    over = threading.Event()

    def write():
        number = 0
        while not over.is_set():
            number += 1
            user.run("put", sources[number % 2], "/file")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(6):
            assert user.run("cat", "/file").out in contents
    finally:
        over.set()
        writer.join()


def test_a_put_into_a_directory_that_goes_away(user, tmp_path):
    source = new_file(tmp_path / "source", 6 * MIB)
    user.run("mkdir", "/d")
    with Proxy(user.server) as proxy:
        proxy.hold("up", 3 * MIB)
        running = user.at(proxy.address).start("put", source, "/d/file")
        eventually(lambda: proxy.passed("up") >= 3 * MIB, "half of it is sent")
        user.run("rm", "-r", "/d")
        proxy.release()

        assert "no such" in finish(running, status=5).complaint
    assert visible(user.on_server) == set()
    eventually(lambda: all_is_given_back(user), "what was held is given back")


def test_a_source_that_changes_while_it_is_sent(user, tmp_path):
    source = new_file(tmp_path / "source", 24 * MIB)
    user.run("put", "-", "/file", given=OLD)
    with Proxy(user.server) as proxy:
        proxy.hold("up", 2 * MIB)
        running = user.at(proxy.address).start("put", source, "/file")
        eventually(lambda: proxy.passed("up") >= 2 * MIB, "some of it is sent")
        with open(source, "r+b") as file:
            file.truncate(8 * MIB)
        proxy.release()

        complaint = finish(running, status=1).complaint
        assert "changed" in complaint or "became shorter" in complaint
    assert (user.on_server / "file").read_bytes() == OLD
    user.run("put", source, "/file")
    trees.same(source, user.on_server / "file")
    eventually(lambda: all_is_given_back(user), "what was held is given back")


def test_a_file_that_changes_while_it_is_got(user, tmp_path):
    source = new_file(tmp_path / "source", 24 * MIB)
    user.run("put", source, "/file")
    target = tmp_path / "target" / "file"
    target.parent.mkdir()
    target.write_bytes(OLD)
    with Proxy(user.server) as proxy:
        proxy.hold("down", 2 * MIB)
        running = user.at(proxy.address).start("get", "--retries=0", "/file", target)
        eventually(lambda: proxy.passed("down") >= 2 * MIB, "some of it has come")
        with open(user.on_server / "file", "r+b") as file:
            file.seek(20 * MIB)
            file.write(b"changed")
        proxy.release()

        assert finish(running, status=None).status in (1, 4, 8)
    assert target.read_bytes() == OLD
    user.run("get", "/file", target)
    trees.same(user.on_server / "file", target)


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


@pytest.mark.parametrize("size", [16 * MIB, 200 * MIB], ids=["a-bit", "by-far"])
def test_a_file_that_is_larger_than_the_disk(on_small_disk, tmp_path, size):
    alice = on_small_disk
    with open(tmp_path / "source", "wb") as source:
        source.truncate(size)

    for _ in range(2):
        told = alice.run("put", tmp_path / "source", "/file", status=7).complaint
        assert f"full: {size} bytes needed" in told  # none of it was sent
        told = alice.run("put", "-", "/piped", given=bytes(16 * MIB), status=7).complaint
        assert "full" in told

    assert (alice.on_server / "file").read_bytes() == OLD
    assert visible(alice.on_server) == {b"file"}
    assert all_is_given_back(alice)
    probe(alice)


def test_many_files_that_are_larger_than_the_disk(on_small_disk, tmp_path):
    """By what they take there, which is twice what they hold: that shows only on the way."""
    alice = on_small_disk
    for number in range(2000):
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
    assert "full" in alice.run("put", "-", "/new", given=b"x" * 100_000, status=7).complaint
    alice.run("rm", "/file")
    (small_disk / "filler").unlink()
    probe(alice)
    assert all_is_given_back(alice)


def test_a_local_disk_that_is_full(user, small_disk):
    user.run("put", "-", "/file", given=os.urandom(16 * MIB))
    (small_disk / "file").write_bytes(OLD)

    told = user.run("get", "/file", small_disk / "file", status=7).complaint

    assert "full" in told
    assert (small_disk / "file").read_bytes() == OLD
    assert not partials(small_disk)


# peers without manners ---------------------------------------------------------------------


def bare(server, name="alice", password=None, **options):
    """A connection that speaks in frames, logged in."""
    if password is None:
        password = (server.root / ".ftpd" / "first-login").read_text().split()[1]
    peer = Peer.connect(("127.0.0.1", server.port), **options)
    peer.hello(max_data=512 * KIB)
    assert peer.ask(Login(name, password)) == messages.LoggedIn(name)
    return peer


def test_clients_that_never_read(start_server):
    server = start_server("--grace", "0", plaintext=True)
    alice, bob = server.first_user(), server.add_user("bob")
    alice.run("put", "-", "/large", given=bytes(32 * MIB))
    deaf = [bare(server, buffers=4096) for _ in range(3)]
    try:
        for peer in deaf:
            peer.request(Get(b"/large"))
            peer.read()  # it has begun
        probe(bob)
        assert alice.run("get", "/large", "-").out == bytes(32 * MIB)
        deaf[1].socket.settimeout(0)
        with pytest.raises(BlockingIOError):  # and one that goes on asking until it can't
            while True:
                deaf[1].request(messages.List(b"/"))
        probe(bob)
        server.stop()  # nobody waits for them
    finally:
        for peer in deaf:
            peer.close()


def test_a_slow_reader(start_server):
    server = start_server()
    alice, bob = server.first_user(), server.add_user("bob")
    data = os.urandom(KIB) * 8 * KIB
    alice.run("put", "-", "/large", given=data)
    slow = alice.start("get", "/large", "-")
    got = bytearray()
    while len(got) < 256 * KIB:
        got += slow.stdout.read(100)
    probe(bob)

    assert bytes(got) + finish(slow).out == data


def test_a_slow_writer(start_server):
    server = start_server()
    alice, bob = server.first_user(), server.add_user("bob")
    slow = alice.start("put", "-", "/piped")
    for _ in range(2000):
        slow.stdin.write(b"drop by drop ")
    probe(bob)

    finish(slow, given=b"the end")

    assert (server.home() / "piped").read_bytes() == b"drop by drop " * 2000 + b"the end"


GARBAGE = {
    "nothing": b"",
    "half-a-header": frames.frame(Kind.REQUEST, 0)[:5],
    "half-a-hello": frames.frame(Kind.REQUEST, 0, messages.encode_hello(Hello()))[:20],
    "half-a-tls-record": b"\x16\x03\x01\x02\x00\x01\x00",
    "zeros": bytes(10_000),
    "random": bytes(range(1, 256)) * 100,
    "huge-frame": HEADER.pack(2**32 - 1, Kind.REQUEST, 0),
    "huge-data-before-log-in": HEADER.pack(2**20, Kind.DATA, 1) + bytes(100_000),
    "unknown-kind": HEADER.pack(10, 99, 0) + bytes(10),
    "not-msgpack": frames.frame(Kind.REQUEST, 0, b"FTPW" + b"\xc1" * 100),
    "deep-msgpack": frames.frame(Kind.REQUEST, 0, b"FTPW" + b"\x91" * 4000),
    "wrong-message": frames.frame(Kind.REQUEST, 0, b"FTPW" + messages.encode(Get(b"/x"))),
    "frames-of-nothing": frames.frame(Kind.REQUEST, 0) * 1000,
}


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
def test_garbage_before_log_in(start_server, plaintext):
    server = start_server(plaintext=plaintext)
    alice = server.first_user()
    open_ones = []
    try:
        for garbage in GARBAGE.values():
            for close in (False, True):
                connection = server.connection()
                open_ones.append(connection)
                try:
                    connection.sendall(garbage)
                    if close:
                        connection.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # it was told to go already
        probe(alice)
        server.stop()
    finally:
        for connection in open_ones:
            connection.close()
    assert all(line.isprintable() for line in server.log.splitlines())


def garbage_after_log_in():
    put = Put(b"/file", 100)
    encoded = messages.encode(put)
    request = frames.frame(Kind.REQUEST, 5, encoded)
    return {
        "unknown-message": frames.frame(Kind.REQUEST, 5, b"\x81\xa2op\xa4nope"),
        "wrong-type": frames.frame(Kind.REQUEST, 5, b"\x82\xa2op\xa3get\xa4path\x05"),
        "reply": frames.frame(Kind.REPLY, 5, encoded),
        "data-outside": frames.frame(Kind.DATA, 5, bytes(1000)),
        "too-much-data": HEADER.pack(2**30, Kind.DATA, 5),
        "too-large-request": HEADER.pack(2**30, Kind.REQUEST, 5),
        "more-than-announced": request
        + frames.frame(Kind.DATA, 5, bytes(101))
        + frames.frame(Kind.END, 5, messages.encode(Sent(101))),
        "less-than-announced": request + frames.frame(Kind.END, 5, messages.encode(Sent(0))),
        "another-id": request + frames.frame(Kind.DATA, 6, bytes(100)),
        "a-request-inside": request + request,
        "wrong-digest": request
        + frames.frame(Kind.DATA, 5, bytes(100))
        + frames.frame(Kind.END, 5, messages.encode(Sent(100, bytes(32)))),
        "no-end": request + frames.frame(Kind.DATA, 5, bytes(100)),
        "half-the-data": request + HEADER.pack(100, Kind.DATA, 5) + bytes(50),
        "end-of-nothing": frames.frame(Kind.END, 5, messages.encode(Sent(0))),
        "cancel-of-nothing": frames.frame(Kind.CANCEL, 5) * 100,
        "end-that-is-no-message": request + frames.frame(Kind.END, 5, b"\xc1"),
    }


@pytest.mark.parametrize("goes", ["closing", "resetting", "silent"])
def test_garbage_after_log_in(start_server, goes):
    server = start_server("--grace", "0", plaintext=True)
    alice = server.first_user()
    alice.run("put", "-", "/file", given=OLD)
    peers = []
    try:
        for garbage in garbage_after_log_in().values():
            peer = bare(server)
            peers.append(peer)
            peer.send(garbage)
            if goes == "closing":
                peer.socket.shutdown(socket.SHUT_WR)
                peer.rest()
            elif goes == "resetting":
                peer.reset()
        probe(alice)
        assert (server.home() / "file").read_bytes() == OLD
        if goes != "silent":
            eventually(lambda: not server.staged(), "staging is cleaned")
            eventually(lambda: all_is_given_back(alice), "what was held is given back")
        server.stop()
        assert (server.home() / "file").read_bytes() == OLD
    finally:
        for peer in peers:
            peer.close()
    assert all(line.isprintable() for line in server.log.splitlines())


def test_many_connections_at_once(start_server):
    """More than a listen queue of 5 would take, all of them silent; and they leave nothing."""
    server = start_server()
    alice = server.first_user()
    alice.run("ls")
    before = len(os.listdir(f"/proc/{server.process.pid}/task"))
    silent = [server.connection() for _ in range(200)]
    try:
        probe(alice)
    finally:
        for connection in silent:
            connection.close()
    eventually(lambda: len(os.listdir(f"/proc/{server.process.pid}/task")) <= before, "threads end")
    eventually(
        lambda: len(os.listdir(f"/proc/{server.process.pid}/fd")) < 60, "descriptors are closed"
    )


# Ctrl-C in a script ------------------------------------------------------------------------


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
@pytest.mark.parametrize("size", [3 * MIB, 48 * MIB], ids=["3-MiB", "48-MiB"])
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

        assert finish(running, status=130).complaint == "ftp: interrupted"
    if size > 4 * MIB:
        assert (server.home() / "file").read_bytes() == OLD
    else:  # all of it may have been on its way already
        assert (server.home() / "file").read_bytes() in (OLD, source.read_bytes())
        eventually(lambda: not server.staged(), "staging is cleaned")
        eventually(lambda: all_is_given_back(alice), "what was held is given back")
    alice.run("put", source, "/file")
    trees.same(source, server.home() / "file")
    assert all_is_given_back(alice) and not server.staged()


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plain"])
@pytest.mark.parametrize("size", [3 * MIB, 48 * MIB], ids=["3-MiB", "48-MiB"])
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
        assert ended.complaint == "ftp: interrupted"
        assert target.read_bytes() == OLD
    else:  # all of it may have come already
        assert ended.status in (0, 130)
        assert target.read_bytes() in (OLD, source.read_bytes())
        assert not partials(target.parent)
    alice.run("get", "/file", target)
    trees.same(source, target)
    assert not partials(target.parent)


@pytest.mark.parametrize("verb", ["put", "get"])
def test_ctrl_c_in_a_tree(user, tmp_path, verb):
    for number in range(300):
        new_file(tmp_path / "tree" / str(number // 50) / str(number), 20_000)
    direction = "up" if verb == "put" else "down"
    arguments = ["-r", f"{tmp_path}/tree/.", "/tree"]
    if verb == "get":
        user.run("put", *arguments)
        arguments = ["-r", "/tree/.", tmp_path / "back"]
    target = user.on_server / "tree" if verb == "put" else tmp_path / "back"
    with Proxy(user.server) as proxy:
        proxy.hold(direction, 2 * MIB)
        running = user.at(proxy.address).start(verb, *arguments)
        eventually(lambda: proxy.passed(direction) >= 2 * MIB, "some of it is sent")
        running.send_signal(signal.SIGINT)
        proxy.release()

        assert finish(running, status=130).complaint == "ftp: interrupted"
    assert not partials(target)
    for path in target.rglob("*"):
        if path.is_file():
            whole = tmp_path / "tree" / path.relative_to(target)
            assert path.read_bytes() == whole.read_bytes()

    user.run(verb, *arguments)

    trees.same(tmp_path / "tree", target)
    eventually(lambda: all_is_given_back(user), "what was held is given back")


def test_ctrl_c_while_a_pipe_is_silent(user):
    running = user.start("put", "-", "/piped")
    running.stdin.write(b"some")
    eventually(lambda: staged(user), "staging")

    running.send_signal(signal.SIGINT)

    assert running.wait(60) == 130
    assert visible(user.on_server) == set()
    eventually(lambda: all_is_given_back(user), "what was held is given back")


@pytest.mark.parametrize("verb", ["put", "get", "ls"])
def test_ctrl_c_when_the_server_says_nothing_more(user, tmp_path, verb):
    """The connection hangs: nothing can be sent, nothing comes. It ends all the same."""
    source = new_file(tmp_path / "source", 24 * MIB)
    user.run("put", source, "/file")
    target = tmp_path / "target"
    arguments = {
        "put": ["put", "--no-resume", source, "/other"],
        "get": ["get", "/file", target],
        "ls": ["ls", "/"],
    }[verb]
    held = 2 * MIB
    if verb == "ls":  # short of the end of what comes, which is more with TLS
        with Proxy(user.server) as proxy:
            user.at(proxy.address).run(*arguments)
            held = proxy.passed("down") - 40
    with Proxy(user.server) as proxy:
        direction = "up" if verb == "put" else "down"
        proxy.hold(direction, held)
        running = user.at(proxy.address).start(*arguments)
        eventually(lambda: proxy.passed(direction) >= held, "it hangs")
        running.send_signal(signal.SIGINT)

        assert running.wait(30) == 130
    assert not target.exists()
    assert visible(user.on_server) == {b"file"}


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
