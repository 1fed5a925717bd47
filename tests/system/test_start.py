"""Starting and stopping `ftpd`: what it says, what it refuses, how it ends."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import stat
import subprocess

import pytest

from ftpclient import Client
from ftpclient.connection.known_hosts import KnownHosts
from ftpserver.processes.time_slices import LONG_NANOSECONDS, scheduling_of
from ftpwire.errors import ConnectionLost
from tests.system.programs import (
    PATIENCE,
    clean_environment,
    eventually,
    finish,
    program,
)

MIB = 1024 * 1024
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")

from_nothing = pytest.mark.usefixtures("cold_starts")
"""Not forked from an interpreter that has the libraries loaded: what starts matters here."""

_libc = ctypes.CDLL(None, use_errno=True)


def bow_to_modes():
    """Run in the child: a root that has no more rights over files than their owner."""
    set_securebits, no_root = 28, 0b11
    if os.geteuid() == 0 and _libc.prctl(set_securebits, no_root, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture
def refused(programs, tmp_path):
    """Runs an `ftpd start` that has to fail; returns its one line."""

    def run(*options, status=1, root=None, **more):
        root = root or tmp_path / "root"
        ended = programs.run(
            [*program("ftpd"), "start", "--host", "127.0.0.1", "--root", str(root), *options],
            status=status,
            cwd=tmp_path,
            env=clean_environment(tmp_path),
            **more,
        )
        assert ended.out == b""
        if status == 1:
            assert ended.complaint.startswith("ftpd: ")
        return ended.err.splitlines()[-1]

    return run


@pytest.mark.parametrize("bounded", [False, True], ids=["without-a-quota", "with-one"])
def test_open_registration_is_warned_of(start_server, bounded):
    server = start_server("--open-registration", *(["--default-quota", "1GiB"] if bounded else []))
    assert ("open-registration without default-quota" in server.log) is not bounded


def python_client(user, tmp_path):
    """A connection that the test itself holds, by the public API."""
    return Client(
        f"{user.name}@{user.server}",
        password=user.password,
        accept_new=True,
        known_hosts=KnownHosts(tmp_path / "hosts"),
    )


def no_longer_accepts(server):
    try:
        server.connection().close()
    except OSError:
        return True
    return False


def slices_of(process):
    """The time slices of the threads of a process, and of those that it has started."""
    slices = set()
    try:
        threads = os.listdir(f"/proc/{process}/task")
    except FileNotFoundError:
        threads = []
    for thread in threads:
        try:
            slices.add(scheduling_of(int(thread)).slice)
            with open(f"/proc/{process}/task/{thread}/children") as file:
                children = file.read().split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended just now
        for child in children:
            slices |= slices_of(int(child))
    return slices


@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_threads_of_all_its_processes_have_long_time_slices(start_server, workers):
    """Threads that the kernel interrupts keep all others of their process waiting."""
    try:
        known = scheduling_of().slice
    except OSError:
        known = 0
    if not known:
        pytest.skip("this system knows no slices")
    server = start_server("--workers", workers)
    server.first_user().run("ls", "/")
    assert slices_of(server.process.pid) == {LONG_NANOSECONDS}


# what it says ------------------------------------------------------------------------------


@from_nothing
@pytest.mark.needs("network")
@pytest.mark.needs("tls")
def test_says_where_it_listens_then_its_key_then_how_to_connect(server, alice):
    listening, key, connect = server.announced

    assert re.fullmatch(r"listening on 127\.0\.0\.1:\d+", listening)
    fingerprint = FINGERPRINT.search(key)[0]
    assert connect.split() == ["connect", "with", "ftp", "connect", f"alice@{server.address}"]
    assert server.admin.run("fingerprint").text.strip() == fingerprint
    # and it is what a client shows of a server that it doesn't know
    alice.options = ()
    assert fingerprint in alice.run("ls", status=9).complaint


@pytest.mark.needs("network")
def test_plaintext_is_said(start_server):
    server = start_server(plaintext=True)

    assert "plaintext" in server.announced[1]
    assert f"ftp --plaintext connect alice@{server.address}" in server.announced[2]
    server.first_user().run("ls")
    assert not (server.root / ".ftpd" / "tls").exists()


@from_nothing
def test_help_and_version(programs, tmp_path):
    for arguments in (["--help"], ["--version"], ["start", "--help"]):
        assert programs.run([*program("ftpd"), *arguments], cwd=tmp_path).out


# the first account -------------------------------------------------------------------------


@from_nothing
def test_the_first_account_is_in_a_private_file_when_there_is_no_terminal(start_server):
    server = start_server()
    line = server.process.stdout.readline().decode()
    path = server.root / ".ftpd" / "first-login"
    name, password = path.read_text().splitlines()

    assert name == "alice" and str(path) in line and name in line
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert password not in line and password not in server.log
    assert server.user(name, password).run("whoami").lines == ["alice"]


@from_nothing
def test_the_first_account_is_shown_on_a_terminal(programs, tmp_path):
    ours, theirs = os.openpty()
    process = programs.start(
        [*program("ftpd"), "start", "--host=127.0.0.1", "--port=0", f"--root={tmp_path}/root"],
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=clean_environment(tmp_path),
    )
    os.close(theirs)
    with open(ours, "rb", buffering=0) as terminal:
        shown = b""
        while b"shown only now" not in shown:
            shown += terminal.read(1000)
        # the terminal stays open: once it is gone, the rest of that line cannot be written
        password = re.search(rb"alice, password (\S+)", shown)[1]
        address = re.search(rb"listening on (\S+)", shown)[1]
        assert not (tmp_path / "root" / ".ftpd" / "first-login").exists()
        got = programs.run(
            [*program("ftp"), "--accept-new", "-s", f"alice@{address.decode()}", "whoami"],
            cwd=tmp_path,
            env=clean_environment(tmp_path, FTP_PASSWORD=password.decode()),
        )
        assert got.lines == ["alice"]
        process.terminate()
        assert password.decode() not in finish(process).err


@pytest.mark.needs("tls")
def test_a_second_start_keeps_key_and_account(start_server):
    first = start_server()
    user = first.first_user()
    user.run("ls")
    first.stop()

    second = start_server(port=first.port)

    assert second.announced[1] == first.announced[1]
    assert second.first_user().password == user.password
    user.options = ()  # pinned: nobody has to accept the key again
    user.run("ls")
    accounts = second.admin.run("user", "list", "--json").records
    assert [account["name"] for account in accounts] == ["alice"]


@pytest.mark.needs("network")
def test_no_account_is_made_where_there_is_one(start_server, tmp_path, programs):
    (tmp_path / "root").mkdir()
    programs.run(
        [*program("ftpd"), "user", "add", "bob", "--password-stdin", f"--root={tmp_path}/root"],
        given=b"correct-horse\n",
        cwd=tmp_path,
        env=clean_environment(tmp_path),
    )

    server = start_server()

    assert server.announced[2].endswith(f"connect bob@{server.address}")
    assert not (server.root / ".ftpd" / "first-login").exists()


# what it refuses ---------------------------------------------------------------------------


def test_a_port_in_use(refused, start_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        reported = refused("--port", str(port))

    assert f"127.0.0.1:{port}" in reported and "in use" in reported
    start_server()  # the root is free


def test_a_root_that_another_server_has(refused, start_server):
    first = start_server()

    reported = refused("--port", "0")

    assert str(first.root) in reported and str(first.process.pid) in reported
    first.first_user().run("ls")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        pytest.param(["--host", "192.0.2.1", "--port", "0"], 1, id="not-our-address"),
        pytest.param(["--port", "65536"], 2, id="no-port"),
    ],
)
def test_an_option_that_cannot_be(refused, options, status):
    assert refused(*options, status=status)


def test_damaged_state_is_reported_in_a_line(refused, start_server):
    server = start_server()
    server.stop()
    damaged, content = server.root / ".ftpd" / "state.db", b"this is no database" * 100
    damaged.write_bytes(content)

    reported = refused("--port", "0")

    assert damaged.parent.name in reported
    assert damaged.read_bytes() == content  # what is broken is left for somebody to look at


# where it listens --------------------------------------------------------------------------


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this machine")


@pytest.mark.needs("network")
@needs_ipv6
def test_ipv6(start_server):
    server = start_server(host="[::1]")

    assert server.address == f"[::1]:{server.port}"
    assert server.announced[2].endswith(f"alice@[::1]:{server.port}")
    assert server.first_user().run("whoami").lines == ["alice"]


# private files -----------------------------------------------------------------------------


def test_private_files_are_private_whatever_the_umask(start_server):
    server = start_server(preexec_fn=lambda: os.umask(0))
    server.first_user().run("mkdir", "d")
    state = server.root / ".ftpd"

    modes = {
        str(path.relative_to(server.root)): stat.S_IMODE(path.lstat().st_mode)
        for path in (state, *state.rglob("*"), server.home())
    }

    assert modes.pop(".ftpd/tls/cert.pem") == 0o644  # what every client is shown anyway
    assert {".ftpd", ".ftpd/state.db", ".ftpd/tls/key.pem", ".ftpd/lock", "alice"} <= set(modes)
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


# how it ends -------------------------------------------------------------------------------


def test_after_a_crash_it_starts_again_on_the_same_root_and_port(start_server, tmp_path):
    first = start_server()
    user = first.first_user()
    user.run("put", "-", "kept", given=b"kept")
    with python_client(user, tmp_path) as client:
        client.connect()  # a connection that the crash cuts leaves its port in TIME_WAIT
        first.kill()

    second = start_server(port=first.port)

    assert second.port == first.port
    assert user.run("cat", "kept").out == b"kept"


@from_nothing
@pytest.mark.parametrize(
    ("number", "plaintext"),
    [(signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["term-tls", "ctrl-c-plain"],
)
def test_stopping_reports_idle_clients(start_server, tmp_path, number, plaintext):
    server = start_server(plaintext=plaintext)
    user = server.first_user()
    client = Client(
        f"{user.name}@{user.server}",
        password=user.password,
        plaintext=server.plaintext,
        accept_new=True,
        known_hosts=KnownHosts(tmp_path / "hosts"),
        retries=0,
    )
    with client:
        client.connect()

        server.signal(number)

        server.stop()
        with pytest.raises(ConnectionLost, match="shutting down"):
            client.whoami()
    stopping, ended, stopped = server.log.splitlines()[-3:]
    assert stopping.endswith(" INFO stopping") and stopped.endswith(" INFO stopped")
    assert ended.endswith(" out: the server is shutting down")


def test_stopping_lets_an_upload_finish(start_server, roomy):
    server = start_server("--grace", str(PATIENCE))
    upload = server.first_user().start("put", "-", "big")
    upload.stdin.write(b"a" * MIB)
    upload.stdin.flush()
    eventually(server.staged, "an upload under way")

    server.signal(signal.SIGTERM)
    eventually(lambda: no_longer_accepts(server), "the server accepts nobody new")
    assert server.process.poll() is None

    finish(upload, given=b"b" * MIB)
    server.stop()
    assert (server.home() / "big").read_bytes() == b"a" * MIB + b"b" * MIB


def test_stopping_lets_a_download_finish(start_server, roomy):
    server = start_server("--grace", str(PATIENCE))
    user = server.first_user()
    data = os.urandom(1024) * 32 * 1024
    user.run("put", "-", "big", given=data)
    download = user.start("get", "big", "-")
    begun = download.stdout.read(1024)

    server.signal(signal.SIGTERM)
    eventually(lambda: no_longer_accepts(server), "the server accepts nobody new")

    assert begun + finish(download).out == data
    server.stop()


@pytest.mark.telling
def test_what_takes_longer_than_the_grace_is_cut(start_server):
    server = start_server("--grace", "0.2")
    user = server.first_user()
    user.run("put", "-", "file", given=b"old")
    upload = user.start("put", "-", "file")
    upload.stdin.write(b"new" * MIB)
    upload.stdin.flush()
    eventually(server.staged, "an upload under way")

    server.signal(signal.SIGTERM)
    server.stop()

    assert (server.home() / "file").read_bytes() == b"old"
    assert finish(upload, status=4, given=b"more").complaint.startswith("ftp: ")


@from_nothing
def test_a_second_signal_ends_it_at_once(start_server):
    number = signal.SIGTERM
    server = start_server("--grace", "100000")
    user = server.first_user()
    upload = user.start("put", "-", "file")
    upload.stdin.write(b"new" * MIB)
    upload.stdin.flush()
    eventually(server.staged, "an upload under way")
    server.signal(number)
    eventually(lambda: "stopping" in server.log, "the first signal is heard")
    assert server.process.poll() is None

    server.signal(number)

    assert server.process.wait(PATIENCE) == 128 + number
    finish(upload, status=4, given=b"more")
    # it was no orderly end: the next start repairs what was left
    again = start_server()
    eventually(lambda: not again.staged(), "staging is cleaned")
    assert not (again.home() / "file").exists()
