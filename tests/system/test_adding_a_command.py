"""The example of docs/architecture.md, applied as it is printed, and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.system.programs import clean_environment

ROOT = Path(__file__).parents[2]
PACKAGES = ("ftpwire", "ftpserver", "ftpclient")
DOCUMENT = ROOT / "docs" / "architecture.md"

USE = """
import os, subprocess, sys
from ftpclient import Client
from ftpserver.testing import server

with server() as there, Client() as client:
    (there.home / "link").symlink_to("some/where")
    assert client.read_link("/link") == b"some/where"
    for path, status in (("/link", 0), ("/", 1), ("/none", 5)):
        command = [sys.executable, "-m", "ftpclient", "readlink", path]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert ran.returncode == status, ran.stderr
        print(ran.stdout.strip())
"""


def example() -> str:
    """The printed lines."""
    return DOCUMENT.read_text().partition("## Adding a command")[2].split("```")[1]


def changes(text: str) -> dict[str, list[list[str]]]:
    """Of each file, its parts: lines with a sign before them."""
    found: dict[str, list[list[str]]] = {}
    parts: list[list[str]] = []
    for line in text.splitlines()[1:]:
        if line.startswith("@@"):
            parts.append([])
        elif line[:1] in ("+", " ", ""):
            parts[-1].append(line or " ")
        else:
            parts = found.setdefault(line.partition(":")[0], [[]])
    return found


def apply(source: str, part: list[str]) -> str:
    """Add a part's new lines where its other lines stand, one after another, in a file once."""
    before = "\n".join(line[1:] for line in part if line[0] == " ")
    pattern = re.escape(before).replace(r"\ \n", r"\ *\n")
    places = [found for found in re.finditer(rf"^{pattern}", source, re.M)]
    assert len(places) == 1, (before, len(places))
    after = "\n".join(line[1:] for line in part)
    return source[: places[0].start()] + after + source[places[0].end() :]


def test_it_takes_less_than_forty_lines():
    new = [line for line in example().splitlines() if line.startswith("+")]
    assert len([line for line in new if line != "+"]) < 40


def test_it_works_as_printed(tmp_path):
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name, parts in changes(example()).items():
        path = tmp_path / name
        source = path.read_text()
        for part in parts:
            source = apply(source, part)
        path.write_text(source)
    group = tmp_path / "ftpclient" / "cli" / "group.py"
    group.write_text(group.read_text().replace('"pwd", ', '"pwd", "readlink", ', 1))
    ran = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env=clean_environment(tmp_path, PYTHONPATH=os.fspath(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["some/where"]
