"""Homes with shared directories, with mounts in them, and on overlay."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system import trees

MIB = 1024 * 1024
GROUP = 33

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and give any group")


@pytest.fixture
def tree(tmp_path) -> Path:
    """A small tree with what trees have."""
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    for name, size in {"empty": 0, "small": 100, "sub/middle": MIB, "large": 9 * MIB}.items():
        (top / name).write_bytes(os.urandom(size))
    (top / "link").symlink_to("small")
    return top


@pytest.fixture
def mount() -> Iterator[Callable[..., Path]]:
    """Mounts something; it is unmounted at the end."""
    with ExitStack() as stack:

        def mounted(point: Path, *options: str) -> Path:
            point.mkdir(exist_ok=True)
            done = subprocess.run(["mount", *options, str(point)], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
            stack.callback(subprocess.run, ["umount", "-l", str(point)], check=True)
            return point

        yield mounted


@pytest.mark.telling
def test_a_shared_directory(server, alice, tree):
    """Group and setgid of all that comes into it; a server without the right leaves modes."""
    shared = alice.on_server / "www"
    shared.mkdir()
    os.chown(shared, -1, GROUP)
    shared.chmod(0o2775)
    server.admin.run("recount")  # the directory itself
    for _ in range(2):
        alice.run("put", "-r", tree, "/www/")
        alice.run("put", "-r", "--atomic", tree, "/www/atomic")
        alice.run("put", "-r", "-P", "3", f"{tree}/.", "/www/parallel")
        alice.run("sync", tree, ":/www/synced")
    alice.run("cp", "-r", "/www/tree", "/www/copied")
    alice.run("mkdir", "/www/made")
    for path in (shared, *shared.rglob("*")):
        info = path.lstat()
        assert info.st_gid == GROUP, path
        if stat.S_ISDIR(info.st_mode):
            assert info.st_mode & 0o2755 == 0o2755, (path, oct(info.st_mode))
    assert list(shared.rglob(".ftpd-staging")) == []
    alice.run("rm", "-r", "/www")
    server.stop()  # the books are right


@pytest.mark.telling
def test_a_mount_below(server, alice, tree, mount):
    disk = mount(alice.on_server / "disk", "-t", "tmpfs", "none")
    server.admin.run("recount")  # the mount's own directory
    for _ in range(2):
        alice.run("put", "-r", f"{tree}/.", "/disk/put")
        alice.run("put", "-P", "2", tree / "large", "/disk/large")
    trees.same(tree, disk / "put")
    refused = alice.run("put", "-r", "--atomic", tree, "/disk/atomic", status=1).complaint
    assert "/disk/atomic" in refused and "/.ftpd-staging" in refused
    alice.run("cp", "-r", "/disk/put", "/copied")
    alice.run("mv", "/disk/put", "/out")
    alice.run("mv", "/out", "/disk/in")
    trees.same(tree, disk / "in")
    for path in ("/disk", "/disk/"):
        assert "mounted there" in alice.run("rm", "-r", path, status=1).complaint
    alice.run("mkdir", "/above")
    mount(alice.on_server / "above" / "disk", "-t", "tmpfs", "none")
    assert "at disk below it" in alice.run("rm", "-r", "/above", status=1).complaint
    alice.run("rm", "-r", "/disk/in")
    alice.run("rm", "/disk/large")
    assert os.listdir(disk) == []
    server.admin.run("recount")
    server.stop()


def test_a_home_on_overlay(start_server, tmp_path, tree, mount):
    image = tmp_path / "image"
    trees_in_image = [image / "old", image / "older"]
    for directory in trees_in_image:
        (directory / "sub").mkdir(parents=True)
        (directory / "sub" / "file").write_text("of the image")
    upper = mount(tmp_path / "upper", "-t", "tmpfs", "none")
    for name in ("up", "work"):
        (upper / name).mkdir()
    layers = f"lowerdir={image},upperdir={upper}/up,workdir={upper}/work"
    home = mount(tmp_path / "home", "-t", "overlay", "overlay", "-o", layers)
    server = start_server()
    server.admin.run(
        *("user", "add", "carol", "--home", str(home), "--password-stdin"),
        given=b"correct-horse",
    )
    carol = server.user("carol", "correct-horse")
    refused = carol.run("put", "-r", "--atomic", tree, "/old", status=1).complaint
    assert "/old" in refused and "/.ftpd-staging" in refused
    carol.run("put", "-r", f"{tree}/.", "/old")
    carol.run("mv", "/old", "/moved")
    carol.run("rm", "-r", "/older")
    for _ in range(2):
        carol.run("put", "-r", "--atomic", tree, "/new")
    trees.same(tree, home / "new")
    assert sorted(os.listdir(home)) == [".ftpd-staging", ".ftpd-trash", "moved", "new"]
    server.stop()
