"""Fetching onto a real disk that takes several names for one. The rules themselves are tested in
tests/ftpclient/transfer/test_folding.py, on a disk that is made up."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_DISKS = {
    "vfat": (["mkfs.vfat"], ["-o", "loop,quiet,utf8=1"]),
    "ext4": (["mkfs.ext4", "-q", "-F", "-O", "casefold"], ["-o", "loop"]),
}


@pytest.fixture(params=sorted(_DISKS))
def folding_disk(request, tmp_path) -> Iterator[Path]:
    """A directory on such a disk, in an image file."""
    make, options = _DISKS[request.param]
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    if shutil.which(make[0]) is None:
        pytest.skip(f"{make[0]} is not here")
    image, disk = tmp_path / "image", tmp_path / "disk"
    disk.mkdir()
    with open(image, "wb") as file:
        file.truncate(32 * 2**20)
    for command in ([*make, str(image)], ["mount", *options, str(image), str(disk)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no {request.param} that folds names: {done.stderr.strip()}")
    try:
        directory = disk / "here"
        directory.mkdir()
        if request.param == "ext4":
            subprocess.run(["chattr", "+F", str(directory)], check=True, capture_output=True)
        yield directory
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_neither_of_two_names_is_lost(user, folding_disk):
    user.run("mkdir", "/d")
    for name in ("README", "readme", "other"):
        user.run("put", "-", f"/d/{name}", given=name.encode())
    for _ in range(2):
        reported = user.run("get", "-rT", "/d", folding_disk / "d", status=1)
        assert "will not overwrite just-created" in reported.complaint
        kept = {path.name: path.read_text() for path in (folding_disk / "d").iterdir()}
        assert len(kept) == 2 and all(name == text for name, text in kept.items())
