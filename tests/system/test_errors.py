"""How `ftp` ends when something goes wrong: one line, and one test for each exit status.

11 is in test_sync.py, and 130 in test_faults.py. What else ends so is in
tests/ftpclient/cli/test_exit_statuses.py.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import stat
import subprocess

import pytest

from tests.system import trees
from tests.system.programs import PATIENCE
from tests.system.proxy import Proxy

KIB, MIB = 2**10, 2**20


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


# 1: something failed -----------------------------------------------------------------------


def test_one_of_several_that_fails(user):
    user.run("put", "-", "/there", given=b"x")
    ended = user.run("cat", "/none", "/there", status=1)
    assert ended.out == b"x"
    assert "/none" in reported(ended)


# 2: usage ----------------------------------------------------------------------------------


def test_wrong_usage(user):
    assert told_as_json(user, "nosuch", status=2)["error"] == "usage"
    user.options = ()
    assert user.run(status=2).err.startswith("Usage: ftp")


def test_help_and_version(user):
    for arguments in (["--help"], ["--version"], ["put", "--help"]):
        assert user.run(*arguments).out


# 3: log-in refused -------------------------------------------------------------------------


def test_a_wrong_name_and_a_wrong_password_are_reported_alike(user):
    user.password += "x"
    wrong_password = reported(user.run("ls", status=3))
    user.name = "nobody"
    wrong_name = reported(user.run("ls", status=3))

    assert wrong_name == wrong_password
    assert told_as_json(user, "ls", status=3)["error"] == "login-refused"


# 4: no connection --------------------------------------------------------------------------


def test_a_dead_server(user):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        user.server = f"127.0.0.1:{listener.getsockname()[1]}"
    assert "refused" in reported(user.run("ls", status=4))


# 5: not found ------------------------------------------------------------------------------


def test_nothing_there(user):
    assert "no such" in reported(user.run("get", "/none", status=5))
    assert told_as_json(user, "ls", "/none", status=5)["error"] == "not-found"


# 6: not permitted --------------------------------------------------------------------------


def test_what_is_not_permitted(server):
    bob = server.add_user("bob", "--permit", "read-only")
    assert "rule: " in reported(bob.run("mkdir", "/d", status=6))
    record, summary = bob.run("--json", "put", "-", "/x", status=6).records
    assert record["error"].startswith("forbidden") or "rule: " in record["error"]
    assert summary["failed"] == 1


# 7: no room --------------------------------------------------------------------------------


def test_too_much_is_refused_before_it_is_sent(start_server, tmp_path):
    server = start_server()
    bob = server.add_user("bob", "--quota", "8MiB")
    (tmp_path / "large").write_bytes(os.urandom(9 * MIB))
    with Proxy(server.reached) as proxy:
        far = bob.at(proxy.address)
        complaint = reported(far.run("put", tmp_path / "large", "/large", status=7))
        assert proxy.passed("up") < 64 * KIB
    bob.run("put", "-", "/half", given=bytes(5 * MIB))
    record = told_as_json(bob, "cp", "/half", "/other", status=7)
    bob.run("rm", "/half")

    assert "quota" in complaint
    assert (record["error"], record["needed"], record["free"]) == ("quota", 5 * MIB, 3 * MIB)
    left = trees.names(server.home("bob"))
    assert {name for name in left if not name.startswith(b".ftpd-")} == set()
    assert bob.run("--json", "df").record["free"] == 8 * MIB


# 8: damaged --------------------------------------------------------------------------------


def test_a_file_that_rotted_on_the_server_is_not_handed_out(user, tmp_path):
    size = 6 * MIB
    user.run("put", "-", "/file", given=os.urandom(size))
    rotting = user.on_server / "file"
    info = rotting.stat()
    with open(rotting, "r+b") as file:
        file.seek(size // 2)
        file.write(b"rot!")
    os.utime(rotting, ns=(info.st_atime_ns, info.st_mtime_ns))
    (tmp_path / "back").write_bytes(b"old")

    for command in (["get", "/file", tmp_path / "back"], ["cat", "/file"]):
        failed = user.run(*command, status=8)
        reported(failed)
        assert "on the server's disk" in failed.err

    assert (tmp_path / "back").read_bytes() == b"old"
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


# 9: the server's key -----------------------------------------------------------------------


@pytest.mark.needs("tls")
def test_an_unknown_server(user):
    user.options = ()

    complaint = reported(user.run("ls", status=9))

    assert "SHA256:" in complaint and "--accept-new" in complaint
    assert told_as_json(user, "ls", status=9)["error"] == "host-unknown"
    user.run("ls", "--accept-new")
    user.run("ls")
    hosts = user.home / "config" / "ftp-client" / "known_hosts"
    assert hosts.read_text().startswith(f"{user.server} SHA256:")
    assert stat.S_IMODE(hosts.stat().st_mode) == 0o600


@pytest.mark.needs("tls")
def test_a_changed_key(start_server):
    first = start_server()
    alice = first.first_user()
    alice.run("put", "-", "kept", given=b"kept")
    first.stop()
    shutil.rmtree(first.root / ".ftpd" / "tls")
    second = start_server(port=first.port)
    key = second.announced[1].split()[-1]
    assert key != first.announced[1].split()[-1]

    for options in ((), ("--accept-new",)):
        alice.options = options
        complaint = reported(alice.run("ls", status=9))
        assert "CHANGED" in complaint and key in complaint
        assert f"ftp servers --new-key {second.address}" in complaint
    assert told_as_json(alice, "ls", status=9)["error"] == "host-key-changed"
    assert "logged in" not in second.log and "refused" not in second.log  # no password went out

    alice.run("servers", "--new-key", second.address)
    assert alice.run("cat", "kept").out == b"kept"


# 10: protocol and version ------------------------------------------------------------------


@pytest.mark.needs("tls")
def test_plaintext_where_tls_is_spoken(user):
    user.options = ("--plaintext",)

    assert "leave --plaintext out" in reported(user.run("ls", status=10))


# what surrounds a command ------------------------------------------------------------------


def test_debug_shows_where_an_error_is_from(user):
    user.password = "wrong"
    running = user.start("--debug", "ls")
    _, err = running.communicate(timeout=PATIENCE)

    assert err.startswith(b"Traceback")
    assert err.splitlines()[-1].startswith(b"ftp: ")
    assert running.returncode == 3
    assert b"wrong" not in err.replace(b"wrong user name or password", b"")


# standard streams that are closed ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "out", "err"),
    [
        pytest.param("ls / 2>&-", 0, b"", b"", id="stderr"),
        pytest.param("ls /nope 2>&-", 5, b"", b"", id="stderr-and-an-error"),
        pytest.param("whoami <&-", 0, None, b"", id="stdin"),
        pytest.param(
            "whoami >&-", 1, b"", b"ftp: standard output: bad file descriptor\n", id="stdout"
        ),
        pytest.param(
            "whoami >/dev/full", 1, b"", b"ftp: standard output: the disk is full\n", id="full"
        ),
        pytest.param("whoami >&- 2>&- <&-", 1, b"", b"", id="all"),
    ],
)
def test_closed_standard_streams(user, words, status, out, err):
    """No connection gets their descriptors, where a complaint would be written to it."""
    command = shlex.join(user.command())
    finished = subprocess.run(
        ["/bin/sh", "-c", f"{command} {words}"],
        env=user.settings,
        cwd=user.home,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert finished.returncode == status, finished
    assert finished.stderr == err
    assert finished.stdout == (f"{user.name}\n".encode() if out is None else out)
