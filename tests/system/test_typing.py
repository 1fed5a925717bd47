"""The types of the public names, as the type checker of another project sees them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ftpclient

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="mypy is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("fsspec") is None, reason="fsspec is not there"),
]

WRONG = """\
from ftpclient import Client, Clint
from ftpserver.testing import server

def wrong(client: Client) -> int:
    client.open("/a", "r")
    client.write("/a", "text")
    client.is_dir(5)
    with server() as there:
        there.adress
    return client.read("/a")
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mypy")


def check(file: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Have mypy look at a file, strictly, and with nothing of this project's settings."""
    options = ["--strict", "--config-file=", "--follow-imports=silent", f"--cache-dir={cache}"]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(file)],
        capture_output=True,
        text=True,
        cwd=cache,
        env=os.environ | {"MYPYPATH": str(HERE.parents[1])},
    )


def test_a_consumer_is_right(cache):
    done = check(HERE / "consumer.py", cache)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_a_wrong_one_is_reported(cache, tmp_path):
    """The control: what is wrong is seen, so that the names have types at all."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    done = check(wrong, cache)
    for line, what in [
        (1, 'has no attribute "Clint"'),
        (5, "No overload variant"),
        (6, "incompatible type"),
        (7, "incompatible type"),
        (9, 'has no attribute "adress"'),
        (10, "Incompatible return value"),
    ]:
        assert any(
            reported.startswith(f"{wrong}:{line}: error:") and what in reported
            for reported in done.stdout.splitlines()
        ), f"line {line}: {what}\n{done.stdout}"


def test_every_name_has_a_type(cache, tmp_path):
    file = tmp_path / "names.py"
    lines = [f"reveal_type(ftpclient.{name})\n" for name in ftpclient.__all__]
    file.write_text("import ftpclient\n" + "".join(lines))
    done = check(file, cache)
    reported = [line for line in done.stdout.splitlines() if "Revealed type is" in line]
    assert len(reported) == len(ftpclient.__all__), done.stdout
    assert not [line for line in reported if '"Any"' in line or '"object"' in line]
