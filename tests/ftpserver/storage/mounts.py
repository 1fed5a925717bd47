"""File systems of a test's own, mounted for its time: every one is unmounted at the end."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

Mount = Callable[..., Path]


def _mount(*arguments: str | Path) -> None:
    try:
        subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", b"").decode().strip() or error
        pytest.skip(f"mounting isn't permitted here: {reason}")


def _make_ext4(image: Path) -> None:
    command = ["mkfs.ext4", "-q", "-F", image]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("mkfs.ext4 is not installed (it is in e2fsprogs)")


def remount_read_only(point: Path) -> None:
    """What is mounted there can only be read from now on."""
    _mount("-o", "remount,ro", point)


def limit(point: Path, size: str) -> None:
    """A tmpfs has room for so much from now on."""
    _mount("-o", f"remount,size={size}", point)


@pytest.fixture
def mount(tmp_path) -> Iterator[Mount]:
    """Mounts something at a directory, which is made: ``tmpfs``, ``bind``, ``ext4`` (in a loop
    device), or ``overlay`` with ``lower`` below what is written."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    with ExitStack() as stack:

        def unmount_all() -> None:
            """Also what the test has moved elsewhere, with the directory that it is in."""
            lines = Path("/proc/self/mountinfo").read_text().splitlines()
            for point in reversed([line.split()[4] for line in lines]):
                if point.startswith(f"{tmp_path}/"):
                    subprocess.run(["umount", "--lazy", point], check=True, capture_output=True)

        stack.callback(unmount_all)

        def mounted(kind: str, point: Path, lower: Path | None = None) -> Path:
            point.mkdir(exist_ok=True)
            aside = tmp_path / f"{kind}-of-{point.name}"
            aside.mkdir()
            if kind == "tmpfs":
                _mount("-t", "tmpfs", "none", point)
            elif kind == "bind":
                _mount("--bind", aside, point)
            elif kind == "ext4":
                image = aside / "image"
                with open(image, "wb") as file:
                    file.truncate(16 << 20)
                _make_ext4(image)
                _mount("-o", "loop", image, point)
            else:
                assert lower is not None
                _mount("-t", "tmpfs", "none", aside)  # upper layers need attributes of their own
                for name in ("up", "work"):
                    (aside / name).mkdir()
                layers = f"lowerdir={lower},upperdir={aside / 'up'},workdir={aside / 'work'}"
                _mount("-t", "overlay", "overlay", "-o", layers, point)
            return point

        yield mounted
