"""--remove-source, killed at any time: each file is whole at one end, or at both."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.system import trees
from tests.system.programs import eventually, program

COUNT = 240
DIRECTIONS = ("put", "get")


def content(number: int) -> bytes:
    """What a file has: of all sizes up to some MiB, most of them small."""
    size = 5 * 2**20 if number % 80 == 7 else number * 37 % 9000
    return (b"%d:" % number).ljust(size, b"x")


def grow(root: Path) -> Path:
    for number in range(COUNT):
        path = root / f"d{number // 40}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    return root


def lost(source: Path, target: Path) -> list[str]:
    """The files that are nowhere, or not whole at either end."""
    found = []
    for number in range(COUNT):
        name = f"d{number // 40}/f{number}"
        ends = [root / name for root in (source, target) if (root / name).exists()]
        if not any(path.read_bytes() == content(number) for path in ends):
            found.append(name)
    return found


def count(root: Path) -> int:
    """The files below it, also while it goes away."""
    return sum(name.startswith("f") for _, _, names in os.walk(root) for name in names)


def killed(user, command: list[str], is_time: Callable[[], bool]) -> None:
    """Move until it is time, and kill the client then."""
    process = user.programs.start(
        command, cwd=user.home, env=user.settings, stdin=subprocess.DEVNULL
    )
    eventually(lambda: process.poll() is not None or is_time())
    process.kill()
    process.wait()


def ends_of(user, direction: str) -> tuple[Path, Path, list[str]]:
    """Source, target, and the command that moves the one into the other."""
    here, there = user.home / "here", user.on_server / "there"
    source, target = (here, there) if direction == "put" else (there, here)
    words = ("here", "/there") if direction == "put" else ("/there", "here")
    options = ["-T", "-r", "--remove-source"]
    return source, target, user.command(direction, *options, *words)


def begin(user, direction: str) -> None:
    """All files are in the source, and none in the target."""
    here = user.home / "here"
    if here.exists():
        trees.remove(here)
    user.run("rm", "-rf", "/there")
    grow(here)
    if direction == "get":
        user.run("put", "-T", "-r", "--remove-source", "here", "/there")


def rounds(user, direction: str, number: int) -> None:
    """Kill clients while files arrive, and while they leave: many of them can leave at once."""
    source, target, command = ends_of(user, direction)
    rng = random.Random(number)

    def have_arrived(some: int) -> bool:
        return count(target) > some

    def have_left(some: int) -> bool:
        return count(source) < COUNT - some

    for has_come in (have_arrived, have_left) * (number // 2):
        begin(user, direction)
        killed(user, command, partial(has_come, rng.randrange(COUNT)))
        assert lost(source, target) == []
        again = user.run(*command[len(user.command()) :], status=None)  # the same again ends it
        assert again.status in (0, 5), again.err  # 5: it had come to its end, or the server had
        assert not source.exists()
        assert lost(source, target) == []


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_client_that_is_killed_loses_nothing(user, direction):
    rounds(user, direction, 2)


@pytest.mark.long
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_many_clients_that_are_killed_lose_nothing(user, direction):
    rounds(user, direction, 60)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_control_a_client_in_haste_is_caught(user, direction):
    source, target, command = ends_of(user, direction)
    hasty = [sys.executable, str(Path(__file__).parent / "hasty.py")]
    command = hasty + command[len(program("ftp")) :]
    for at in (COUNT * 3 // 4, COUNT // 2, COUNT * 2 // 3, COUNT // 4) * 3:
        begin(user, direction)
        killed(user, command, lambda at=at: count(source) <= at)
        if lost(source, target):
            return
    pytest.fail("nothing was lost: the rounds would not see it")
