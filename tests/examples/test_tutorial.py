"""docs/tutorial.md shows what the files hold, and what they print."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.programs import Programs, clean_environment

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
SHOWN = re.findall(r"^<!-- (\S+) -->\n```python\n(.*?)^```$", TUTORIAL, re.S | re.M)
SESSIONS = re.findall(r"^```console\n(.*?)^```$", TUTORIAL, re.S | re.M)


@pytest.mark.parametrize(("name", "code"), SHOWN, ids=[name for name, _ in SHOWN])
def test_code_is_what_the_file_holds(name, code):
    assert f"\n{code}" in f"\n{(ROOT / name).read_text()}"


def test_no_code_is_without_its_file():
    assert len(SHOWN) == TUTORIAL.count("```python\n") > 10


def test_every_example_is_reported():
    reported = {name for name, _ in SHOWN} | set(re.findall(r"\bexamples/\w+\.py\b", TUTORIAL))
    assert reported == {f"examples/{path.name}" for path in EXAMPLES.glob("*.py")}


def test_every_file_that_is_named_exists():
    for name in re.findall(r"`(ftp\w+/\S*?)`", TUTORIAL):
        assert (ROOT / name).exists(), name


@pytest.fixture
def programs():
    started = Programs()
    yield started
    started.close()


@pytest.mark.parametrize("session", SESSIONS, ids=[text.split("\n")[0] for text in SESSIONS])
def test_what_is_typed_prints_what_is_shown(session, programs, tmp_path):
    """The whole of a session, with a free port instead of 4321."""
    port, printed = "0", []
    env = clean_environment(tmp_path)
    for typed in re.findall(r"^\$ (.*)$", session, re.M):
        python, example, *arguments = shlex.split(typed.removesuffix("&"))
        assert python == "python"
        words = [port if word == "4321" else word for word in arguments]
        command = [sys.executable, str(ROOT / example), *words]
        printed.append(f"$ {typed}")
        if not typed.endswith("&"):
            printed += programs.run(command, env=env, cwd=tmp_path).lines
            continue
        server = programs.start(command, stdout=subprocess.PIPE, env=env, cwd=tmp_path)
        assert server.stdout is not None
        line = server.stdout.readline().decode().rstrip("\n")
        if "port" in line:
            port = line.split()[-1]
            line = line.replace(port, "4321")
        printed.append(line)
    assert printed == session.splitlines()
