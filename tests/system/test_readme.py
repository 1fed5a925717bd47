"""The README's tour, word by word, beside the server that its first command leaves running."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.system.programs import clean_environment

README = Path(__file__).parents[2] / "README.md"
PROGRAMS = Path(sys.executable).parent


def tour() -> list[tuple[str, list[str]]]:
    """The commands of the tour, each with the lines that follow it."""
    marked = README.read_text().partition("<!-- tour -->\n```console\n")[2]
    steps: list[tuple[str, list[str]]] = []
    for line in marked.partition("```")[0].splitlines():
        if line.startswith("$ "):
            steps.append((line[2:], []))
        else:
            steps[-1][1].append(line)
    return steps


def script_of(steps: list[tuple[str, list[str]]], port: int) -> tuple[str, list[str]]:
    """A shell script that types the tour, and the output that the README shows for it."""
    commands, expected = ["exec 2>&1"], []
    for command, following in steps:
        command = command.replace("@localhost", f"@localhost:{port}")
        if command.endswith("ftp connect"):  # what follows is typed there, behind the prompts
            typed = "\n".join(line.partition("> ")[2] for line in following)
            command = f"{command} <<'END'\n{typed}\nEND"
        else:
            expected += following
        commands.append(command)
    return "\n".join(commands), expected


def undated(lines: list[str]) -> list[str]:
    """Lines without the times of files, which differ from run to run."""
    dated = [re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "DATE", line) for line in lines]
    return [re.sub(r"\d+ s ago|just now", "AGO", line) for line in dated]


@pytest.mark.needs("network")
def test_the_tour_is_what_happens(start_server, programs, tmp_path):
    here = tmp_path / "clone"
    here.mkdir()
    (here / ".venv").mkdir()
    (here / ".venv" / "bin").symlink_to(PROGRAMS)
    server = start_server(root=here / "home", environment={"LOGNAME": "owner"})
    script, expected = script_of(tour(), server.port)
    done = programs.run(["bash", "-c", script], cwd=here, env=clean_environment(tmp_path / "user"))
    assert undated(done.lines) == undated(expected)
    assert (here / "q3.txt").read_text() == "third quarter\n"
    assert (here / "home" / "alice" / "report" / "data.bin").stat().st_size == 3 * 1024 * 1024
