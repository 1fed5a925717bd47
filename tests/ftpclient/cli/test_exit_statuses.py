"""What goes wrong, and how a command line tells it: one line, the right exit status.

Lives elsewhere: that real programs end so, one test for each status (tests/system/test_errors.py).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from functools import partial

import pytest

from ftpclient.connection import opening
from ftpclient.transfer import retry
from ftpwire.errors import QuotaExceeded
from ftpwire.messages import Failed
from tests.ftpclient.cli.command_lines import CommandLine
from tests.system import trees
from tests.system.proxy import Proxy

MIB = 2**20


def reported(ended):
    """The one complaint, which has the form of all of them."""
    assert ended.complaint.startswith("ftp: ") and ended.complaint.isprintable()
    return ended.complaint


def told_as_json(user, *arguments, status):
    """The one complaint with --json."""
    ended = user.run("--json", *arguments, status=status)
    record = json.loads(ended.complaint)
    assert {"error", "message"} <= set(record)
    return record


# 2: usage ----------------------------------------------------------------------------------


WRONG = [
    ["nosuch"],
    ["--nosuch", "ls"],
    ["ls", "--nosuch"],
    ["put"],
    ["mv", "one"],
    ["whoami", "extra"],
    ["mkdir", "-m", "999", "d"],
    ["put", "-n", "-u", "file"],
    ["put", "-"],
    ["-s", "user@host:99999", "ls"],
    ["-s", "two words", "ls"],
    ["-s", "@host", "ls"],
    ["-s", "[::1", "ls"],
]


def test_wrong_usage(user):
    for arguments in WRONG:
        reported(user.run(*arguments, status=2))
        if not arguments[0].startswith("-"):
            assert told_as_json(user, *arguments, status=2)["error"] == "usage"
    assert "standard output" in told_as_json(user, "get", "/none", "-", status=2)["message"]


# 3: log-in refused -------------------------------------------------------------------------


@pytest.mark.parametrize("password", ["x" * 1024, "\x1b[31m\n"], ids=["longest", "control"])
def test_passwords_that_are_refused(user, password):
    user.password = password
    reported(user.run("ls", status=3))
    assert told_as_json(user, "ls", status=3)["error"] == "login-refused"


def test_what_is_no_name_or_password_is_refused_at_once(user):
    for name in ("x" * 3000, "\udcff", "\x1b[31m", "Alice", ".."):
        reported(user.run("-s", f"{name}@{user.server}", "ls", status=3))
    for user.password in ("x" * 5000, "\udcff"):
        reported(user.run("ls", status=3))


# 4: no connection --------------------------------------------------------------------------


def test_a_dead_server(user):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        user.server = f"127.0.0.1:{listener.getsockname()[1]}"
    (user.home / "file").write_bytes(b"x")
    for words in ("ls", "put file x", "put - x", "get x", "get x -", "cat x", "rm x", "df"):
        assert "refused" in reported(user.run(*words.split(), status=4))
    assert told_as_json(user, "ls", status=4)["error"] == "connect-failed"


def test_a_server_that_closes_at_once(fake, at_a_fake, monkeypatch):
    monkeypatch.setattr(opening, "pause", lambda seconds, interrupt: None)
    text = reported(at_a_fake(fake(lambda peer: None)).run("ls", status=4))
    assert text.endswith(" times: perhaps it has too many connections now")


def test_a_command_that_is_cut(user, monkeypatch):
    """Whatever is asked, an end in the answer is 4, and the next command works."""
    impatient = partial(retry.Patience, 0.2, None, wait=time.sleep)
    monkeypatch.setattr(retry, "_patience", lambda client, listener: impatient(listener))
    user.run("put", "-", "/file", given=b"some bytes")
    for words in ("ls", "df", "stat /file", "cat /file", "rm /none"):
        with Proxy(user.server) as proxy:
            user.at(proxy.address).run(*words.split(), status=None)
            whole = proxy.passed("down")
        with Proxy(user.server) as proxy:
            proxy.cut_after("down", whole - 10)
            user.at(proxy.address).run(*words.split(), status=4)
    assert user.run("cat", "/file").out == b"some bytes"


# 5: not found ------------------------------------------------------------------------------


NOTHING_THERE = [
    "ls /none",
    "ls /none/below",
    "stat /none",
    "cat /none",
    "hash /none",
    "du /none",
    "get /none",
    "get -r /none x/",
    "get /none -",
    "rm /none",
    "rm -r /none",
    "mv /none /other",
    "cp /none /other",
    "mkdir /none/below",
    "put none",
    "put -r none /x/",
    "put file /none/below/x",
]


def test_nothing_there(user):
    (user.home / "file").write_bytes(b"x")
    for line in NOTHING_THERE:
        arguments = line.split()
        assert "no such" in reported(user.run(*arguments, status=5))
        if arguments[0] not in ("put", "get"):  # those tell it as the file's own end
            assert told_as_json(user, *arguments, status=5)["error"] == "not-found"


def test_a_server_that_was_never_known_can_not_be_forgotten(user):
    for words in (("forget",), ("servers", "--new-key"), ("logout", "--forget")):
        reported(user.run(*words, "elsewhere:1", status=5))


# 6: not permitted --------------------------------------------------------------------------


def test_what_the_modes_on_the_server_forbid(plain_user, start_server, at_a_command_line):
    alice = at_a_command_line(start_server())
    alice.run("put", "-", "closed", given=b"secret")
    alice.run("mkdir", "sealed")
    (alice.on_server / "closed").chmod(0)
    (alice.on_server / "sealed").chmod(0o555)

    reported(alice.run("cat", "closed", status=6))
    reported(alice.run("get", "closed", status=6))
    reported(alice.run("put", "-", "sealed/new", status=6, given=b"x"))
    reported(alice.run("mkdir", "sealed/new", status=6))
    assert told_as_json(alice, "hash", "closed", status=6)["error"] == "forbidden"

    assert os.listdir(alice.on_server / "sealed") == []
    assert os.listdir(alice.home) in ([], ["config"])
    (alice.on_server / "sealed").chmod(0o755)


def test_what_local_modes_forbid(plain_user, user, tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "open").write_bytes(b"x")
    (tmp_path / "tree" / "closed").write_bytes(b"secret")
    (tmp_path / "tree" / "closed").chmod(0)
    (tmp_path / "sealed").mkdir(mode=0o555)

    assert "closed" in reported(user.run("put", "-r", tmp_path / "tree", "/tree", status=1))
    assert trees.names(user.on_server / "tree") == {b"open"}
    reported(user.run("put", tmp_path / "tree" / "closed", "/c", status=6))
    reported(user.run("get", "/tree/open", tmp_path / "sealed", status=6))
    assert os.listdir(tmp_path / "sealed") == []


# 7: no room --------------------------------------------------------------------------------


@pytest.fixture
def bob(start_server, at_a_command_line) -> CommandLine:
    """Somebody with a quota of 1 MiB."""
    server = start_server(durable=False)
    bob = at_a_command_line(server, "bob")
    server.accounts.change("bob", quota=MIB)
    return bob


SMALL = 20_000


def make_many(directory, count):
    for number in range(count):
        (directory / str(number % 7)).mkdir(parents=True, exist_ok=True)
        (directory / str(number % 7) / str(number)).write_bytes(os.urandom(SMALL))


def whole_and_told(ended, home, source):
    """What was told as done is there, whole; what wasn't isn't."""
    done = {r["destination"] for r in ended.records if r.get("status") == "done"}
    there = list(home.glob("tree/*/*"))
    assert {f"/{path.relative_to(home)}" for path in there} == done
    for path in there:
        assert path.read_bytes() == (source / path.relative_to(home / "tree")).read_bytes()
    return there


def test_a_tree_that_cannot_fit(bob, tmp_path):
    make_many(tmp_path / "tree", 75)
    ended = bob.run("--json", "put", "-r", tmp_path / "tree", "/tree", status=None)
    assert ended.status in (1, 7)
    whole_and_told(ended, bob.on_server, tmp_path / "tree")
    space = bob.run("--json", "df").record
    assert space["used"] <= MIB and space["held"] == 0
    bob.run("rm", "-rf", "/tree")
    assert bob.run("--json", "df").record["free"] == MIB


def test_two_trees_at_once_never_take_more_than_the_quota(bob, connect, tmp_path):
    """Each fits by itself, and both don't."""
    make_many(tmp_path / "tree", 40)
    clients = [connect(bob.running, "bob") for _ in range(2)]
    together, summaries = threading.Barrier(2), list[int]()

    def put(number: int) -> None:
        together.wait(30)
        try:
            summary = clients[number].put([tmp_path / "tree"], f"/{number}", recursive=True)
        except QuotaExceeded as error:  # before the first byte
            summaries.append(error.exit_code)
        else:
            summaries.append(summary.exit_code)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(summaries) == 2 and set(summaries) <= {0, 1, 7} and set(summaries) != {0}
    there = [path for number in "01" for path in bob.on_server.glob(f"{number}/*/*")]
    assert {path.stat().st_size for path in there} == {SMALL}
    space = bob.run("--json", "df").record
    assert space["used"] == SMALL * len(there) <= MIB and space["held"] == 0


def test_a_pipe_that_is_too_long(bob):
    reported(bob.run("put", "-", "piped", status=7, given=b"x" * 3 * MIB))
    assert not (bob.on_server / "piped").exists()
    assert bob.run("--json", "df").record["free"] == MIB


def test_what_is_over_the_limit_is_not_sent_again_and_again(bob, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "fits").write_bytes(os.urandom(MIB // 2))
    (tree / "large").write_bytes(os.urandom(5 * MIB))
    with Proxy(bob.server) as proxy:
        far = bob.at(proxy.address)
        for _ in range(3):
            assert "5.5 MiB needed" in far.run("sync", tree, ":/tree", status=7).err
            far.run("put", tree / "large", "/large", status=7)
        assert proxy.passed("up") < MIB // 16
    assert not (bob.on_server / "large").exists()


def test_a_resumed_upload_does_not_slip_past_the_limit(bob, tmp_path):
    """What an interrupted upload holds is its own; after the limit was lowered it is refused."""
    accounts = bob.running.accounts
    accounts.change("bob", quota=16 * MIB)
    large, other = tmp_path / "large", tmp_path / "other"
    large.write_bytes(os.urandom(12 * MIB))
    other.write_bytes(os.urandom(8 * MIB))
    with Proxy(bob.server) as proxy:
        proxy.cut_at("up", 8 * MIB)
        bob.at(proxy.address).run("put", "--retries", "0", large, "/large", status=4)

    assert bob.run("--json", "df").record["held"] == 12 * MIB
    bob.run("put", other, "/other", status=7)
    accounts.change("bob", quota=10 * MIB)
    bob.run("put", other, "/other", status=7)
    space = bob.run("--json", "df").record
    assert space["used"] + space["held"] == 12 * MIB

    bob.run("put", large, "/large")  # it had its room before that, and no byte more
    space = bob.run("--json", "df").record
    assert space | {"total": 10 * MIB, "used": 12 * MIB, "held": 0, "free": 0} == space
    bob.run("put", "-", "/one", given=b"1", status=7)
    bob.run("rm", "/large")
    bob.run("put", other, "/other")


# 8: damaged --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, MIB, 6 * MIB])
def test_a_file_that_rotted_on_the_server_is_not_handed_out(user, tmp_path, size):
    user.run("put", "-", "/file", given=os.urandom(size))
    rotting = user.on_server / "file"
    info = rotting.stat()
    with open(rotting, "r+b") as file:
        file.seek(size // 2)
        file.write(b"rot!")
    os.utime(rotting, ns=(info.st_atime_ns, info.st_mtime_ns))
    (tmp_path / "back").write_bytes(b"old")

    for command in (["get", "/file", tmp_path / "back"], ["cat", "/file"]):
        assert "on the server's disk" in reported(user.run(*command, status=8))

    assert (tmp_path / "back").read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


@pytest.mark.parametrize("size", [1000, MIB, 6 * MIB])
@pytest.mark.parametrize("verb", ["put", "get"])
def test_a_byte_that_changed_on_the_way_is_noticed(user, tmp_path, verb, size):
    (tmp_path / "source").write_bytes(os.urandom(size))
    (tmp_path / "target").write_bytes(b"old")
    user.run("put", tmp_path / "source", "/there")
    user.run("put", "-", "/target", given=b"old")
    with Proxy(user.server) as proxy:
        far = user.at(proxy.address)
        if verb == "put":
            proxy.flip("up", 600 + size // 2)
            reported(far.run("put", tmp_path / "source", "/target", status=8))
        else:
            proxy.flip("down", 600 + size // 2)
            reported(far.run("get", "/there", tmp_path / "target", status=8))
    assert (user.on_server / "target").read_bytes() == b"old"
    assert (tmp_path / "target").read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


def test_a_byte_that_changed_inside_tls_is_noticed(start_server, at_a_command_line, tmp_path):
    alice = at_a_command_line(start_server(plaintext=False))
    (tmp_path / "source").write_bytes(os.urandom(MIB))
    with Proxy(alice.server) as proxy:
        proxy.flip("up", 500_000)
        far = alice.at(proxy.address)
        reported(far.run("put", "--retries=0", tmp_path / "source", "/t", status=4))
    assert not (alice.on_server / "t").exists()


# 10: protocol ------------------------------------------------------------------------------


def test_a_server_that_talks_in_escapes(fake, at_a_fake):
    def script(peer):
        peer.greet()
        while True:
            peer.reply(peer.read(), Failed("\x1b[31mcode", "\x1b]0;owned\x07\nftp: all is well\r"))

    reported(at_a_fake(fake(script)).run("df", status=1))


@pytest.mark.parametrize("plaintext", [True, False], ids=["plaintext", "tls"])
@pytest.mark.parametrize(
    "greeting",
    [b"SSH-2.0-OpenSSH_9.2\r\n", b"220 FTP server ready\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"],
    ids=["ssh", "ftp", "http"],
)
def test_a_server_of_another_kind(fake, at_a_fake, greeting, plaintext):
    """It is told what is there, not how the bytes could not be read."""

    def script(peer):
        peer.send(greeting + b"x" * 100)
        while peer.socket.recv(1000):
            pass

    user = at_a_fake(fake(script))
    user.options = ("--plaintext",) if plaintext else ()
    complaint = reported(user.run("ls", status=10 if plaintext else 4))
    assert "is it an ftpd" in complaint
    assert user.server in complaint


# several at once, and what surrounds a command ---------------------------------------------


def test_one_of_several_that_fails_makes_it_1(user):
    user.run("put", "-", "/there", given=b"x")
    assert user.run("cat", "/none", "/there", status=1).out == b"x"
    assert "/none" in reported(user.run("stat", "/there", "/none", status=1))
    told_twice = user.run("cat", "/none", "/nil", status=5)
    assert len(told_twice.err.splitlines()) == 2


def test_settings_that_cannot_be_written(start_server, at_a_command_line):
    alice = at_a_command_line(start_server(plaintext=False))
    (alice.home / "config").write_bytes(b"a file where a directory belongs")
    (remark,) = alice.run("ls").err.splitlines()
    assert "known_hosts: the server's key cannot be saved" in remark


def test_settings_are_not_needed_without_tls(user):
    (user.home / "config").write_bytes(b"a file where a directory belongs")
    user.run("ls")
