"""Servers and commands where the disk is full, or can only be read."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ftpserver import ballast
from tests.system.programs import PATIENCE, add_account, eventually, finish

MIB = 1024 * 1024
can_mount = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """A file system at a place, as long as that takes."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    with mounted(tmp_path / "root", "-t", "tmpfs", "-o", "size=8m", "none") as place:
        yield place


def read_only(place: Path):
    """The same files, which can only be read there."""
    return mounted(place, "-o", "bind,ro", str(place))


def fill(disk: Path) -> None:
    """Leave not a byte of room."""
    with open(disk / "filler", "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


@can_mount
def test_a_full_disk_can_be_cleaned_up_through_the_server(small_disk, start_server, programs):
    server = start_server(root=small_disk)
    alice = add_account(server, programs, "alice-two")
    alice.run("put", "-", "/large", given=os.urandom(MIB))
    server.stop()
    assert (small_disk / ".ftpd" / ballast.NAME).stat().st_size == ballast.SIZE
    fill(small_disk)
    again = start_server(root=small_disk, port=server.port)
    assert "using the reserved space" in again.log
    alice.run("rm", "/large")
    assert alice.run("df").status == 0
    alice.run("ls", "/large", status=5)


def use_up_files(disk: Path) -> None:
    """Leave room for bytes, and for no new file."""
    (disk / "fillers").mkdir()
    for number in itertools.count():
        try:
            (disk / "fillers" / str(number)).touch()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return


@can_mount
def test_a_disk_without_space_for_new_files_can_be_cleaned_up(tmp_path, start_server, programs):
    """SQLite makes two, each socket is one."""
    with mounted(tmp_path / "root", "-t", "tmpfs", "-o", "size=64m,nr_inodes=150", "none") as disk:
        server = start_server(root=disk)
        alice = add_account(server, programs, "alice-two")
        alice.run("mkdir", "/d")
        alice.run("put", "-", "/d/file", given=b"x")
        server.stop()
        use_up_files(disk)
        again = start_server(root=disk, port=server.port)
        assert "using the reserved space" in again.log
        assert again.admin.run("status", "--json").record["trouble"] == []
        alice.run("rm", "-r", "/d")
        alice.run("put", "-", "/another", given=b"y")
        again.stop()


@can_mount
@pytest.mark.parametrize("options", [(), ("--workers", "2"), ("--isolation", "process")])
def test_what_was_removed_without_any_space_is_counted_by_the_next_start(
    small_disk, start_server, programs, options
):
    """Room for the books there was none, so the next start must not go on from what they say."""
    server = start_server(*options, root=small_disk)
    alice = add_account(server, programs, "alice-two")
    alice.run("put", "-", "/large", given=os.urandom(MIB))
    server.stop()
    for path in (small_disk / ".ftpd").glob(f"{ballast.NAME}*"):
        path.unlink()
    fill(small_disk)
    without = start_server(*options, root=small_disk, port=server.port)
    alice.run("rm", "/large")
    without.signal(signal.SIGTERM)
    without.process.wait(PATIENCE)
    (small_disk / "filler").unlink()
    assert "will be recounted at next start" in server.admin.run("check").text
    again = start_server(*options, root=small_disk, port=server.port)
    eventually(lambda: "used 0 B" in alice.run("df").text)
    again.stop()


@can_mount
def test_without_a_control_socket_the_server_is_not_said_to_be_missing(start_server, programs):
    server = start_server()
    (server.root / ".ftpd" / "control.sock").unlink()
    said = server.admin.run("status", status=4).complaint
    assert f"process {server.process.pid}" in said and "no control socket" in said


@can_mount
def test_without_any_space_the_server_still_listens_and_says_so(small_disk, start_server, programs):
    server = start_server(root=small_disk)
    alice = add_account(server, programs, "alice-two")
    alice.run("put", "-", "/small", given=b"x" * 100)
    server.stop()
    (small_disk / ".ftpd" / ballast.NAME).unlink()
    fill(small_disk)
    again = start_server(root=small_disk, port=server.port)
    assert alice.run("cat", "/small").out == b"x" * 100
    assert "is full" in alice.run("put", "-", "/more", given=b"y", status=7).err
    (trouble,) = again.admin.run("status", "--json").record["trouble"]
    assert "nothing can be changed" in trouble and "nothing can be changed" in again.log
    (small_disk / "filler").unlink()


@can_mount
def test_commands_that_look_work_on_a_read_only_copy(start_server, tmp_path, programs):
    server = start_server()
    alice = add_account(server, programs, "alice-two")
    alice.run("put", "-", "/file", given=b"x")
    server.stop()
    root = server.root
    with read_only(root):
        admin = server.admin
        assert any("alice-two" in line for line in admin.run("user", "list").lines)
        assert admin.run("why", "alice-two", "login").text.startswith("allowed")
        assert any("alice-two" in line for line in admin.run("log").lines)
        assert admin.run("check").text.endswith("no problems found\n")
        assert "cannot be written" in admin.run("user", "disable", "alice-two", status=1).complaint


@can_mount
def test_a_token_revoked_a_moment_ago_is_not_good_on_a_read_only_copy(
    start_server, tmp_path, programs
):
    """What SQLite's own way to read such a file would pass over: the write-ahead log."""
    server = start_server()
    alice = add_account(server, programs, "alice-two")
    alice.run("login")
    (token,) = server.admin.run("token", "list", "alice-two", "--json").records
    server.admin.run("token", "revoke", token["id"])
    server.process.kill()
    finish(server.process, status=None)
    server.stop_requested = True
    assert (server.root / ".ftpd" / "state.db-wal").stat().st_size > 0, "or nothing is shown"
    with read_only(server.root):
        assert server.admin.run("token", "list", "alice-two", "--json").records == []


@can_mount
def test_a_home_on_a_read_only_disk_is_served(start_server, tmp_path, programs):
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    (shelf / "book").write_text("chapter one")
    server = start_server()
    server.admin.run(
        *("user", "add", "alice-two", "--home", str(shelf), "--password-stdin"),
        given=b"correct-horse\n",
    )
    alice = server.user("alice-two", "correct-horse")
    with read_only(shelf):
        assert alice.run("cat", "/book").text == "chapter one"
        assert alice.run("ls", "/").lines[-1].endswith("book")
        for command in (
            *(("put", "-", "/more"), ("rm", "/book"), ("mv", "/book", "/novel"), ("mkdir", "/new")),
            *(("chmod", "600", "/book"), ("put", "-", "/book")),
        ):
            refused = alice.run(*command, given=b"x", status=6)
            assert "read-only" in refused.err, command
    assert os.listdir(shelf) == ["book"] or sorted(os.listdir(shelf)) == [".ftpd-staging", "book"]
