"""docs/from-*.md: each line in the column "You type here" works, the sessions are what happens.

A line runs beside the files of `build`, which are made anew for each: one of `ftp` as the command
line that it is, any other one in a shell. Its status is 0, or what the row says ("exits with 2").
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftpclient.shell.running import run_line
from tests.ftpclient.cli.command_lines import CommandLine
from tests.ftpclient.shell.shell_support import shell_of

DOCS = Path(__file__).parents[3] / "docs"
PAGES = sorted(path.stem for path in DOCS.glob("from-*.md"))
HOST = re.compile(r"files\.example\.net(?::\d+)?")
"""The server of the pages."""
VARIABLE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\dZ)?|\d+\.\d s")
"""What differs from run to run: times."""

LOCAL = {
    "a.txt": "one\n",
    "b.txt": "two\n",
    "report.txt": "third quarter\n",
    "dump.sql": "select 1;\n" * 40,
    "lines.ftp": "cd docs\n-rm nothing.txt\nget a.txt copy.txt\n",
    "list": "index.html\ncss/site.css\n",
    "patterns": "*.o\nbuild/\n",
    "site/index.html": "<p>new\n",
    "site/css/site.css": "p { }\n",
    "site/build/main.o": "object\n",
    "docs/a.txt": "one, longer\n",
}
REMOTE = {
    "report.txt": "third quarter, final\n",
    "big.iso": "x" * 70_000,
    "docs/a.txt": "one\n",
    "docs/b.txt": "two\n",
    "docs/log": "".join(f"line {number}\n" for number in range(30)),
    "docs/old/c.txt": "three\n",
    "www/index.html": "<p>old\n",
    "www/old.html": "<p>gone\n",
}

EFFECTS: dict[str, dict[str, str | None]] = {
    "ftp sync site files:www": {"www/index.html": "<p>new\n", "www/old.html": "<p>gone\n"},
    "ftp put report.txt ftpd://alice@files.example.net:4000/docs": {
        "docs/report.txt": "third quarter\n"
    },
    "ftp sync site :www": {"www/index.html": "<p>new\n", "www/old.html": "<p>gone\n"},
    "ftp sync --delete -y site :www": {"www/css/site.css": "p { }\n", "www/old.html": None},
    "sync --delete site :www": {"www/css/site.css": "p { }\n", "www/old.html": None},
    "ftp sync site :www/site": {"www/site/index.html": "<p>new\n"},
    "ftp sync -x '*' --include '*/' --include '*.html' site :www": {
        "www/index.html": "<p>new\n",
        "www/css/site.css": None,
        "www/build/main.o": None,
    },
    "ftp sync --exclude-from patterns site :www": {
        "www/css/site.css": "p { }\n",
        "www/build": None,
    },
    "sync -x /build/ site :www": {"www/css/site.css": "p { }\n", "www/build": None},
    "ftp sync --files-from list site :www": {"www/index.html": "<p>new\n", "www/build": None},
    "ftp sync --existing site :www": {"www/index.html": "<p>new\n", "www/css/site.css": None},
    "ftp sync --ignore-existing site :www": {
        "www/index.html": "<p>old\n",
        "www/css/site.css": "p { }\n",
    },
    "ftp sync -n site :www": {"www/index.html": "<p>old\n", "www/css": None},
    "ftp put -r -T --atomic site /www": {"www/index.html": "<p>new\n", "www/old.html": None},
    "ftp put -r -T --remove-source site /www": {"www/css/site.css": "p { }\n", "site": None},
    "put -r -T --remove-source site www": {"www/css/site.css": "p { }\n", "site": None},
    "ftp put -T report.txt /docs/q3.txt": {"docs/q3.txt": "third quarter\n"},
    "ftp put - /dump.sql": {"dump.sql": "select 2;\n"},
    "ftp find /docs -type f -mtime +30 -delete": {"docs/a.txt": "one\n"},
    "rm www/*.html": {
        "www/index.html": None,
        "www/old.html": None,
        "report.txt": "third quarter, final\n",
    },
    "put -t docs *.txt": {
        "docs/report.txt": "third quarter\n",
        "report.txt": "third quarter, final\n",
    },
    "rename report.txt old.txt": {"old.txt": "third quarter, final\n", "report.txt": None},
}
"""Files on the server after lines that could do something else with the same status; None: gone."""


def build(directory: Path, files: dict[str, str]) -> None:
    """Make a directory have these files, and nothing else."""
    for path in directory.iterdir():
        if path.name.startswith(".ftpd"):
            continue  # the server's own
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def content(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def rows(page: str) -> list[tuple[str, int]]:
    """The lines of a page's table, with their statuses."""
    found = []
    for line in (DOCS / f"{page}.md").read_text().splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) != 5 or not (codes := re.findall(r"`([^`]+)`", cells[2])):
            continue
        ends = re.search(r"exits with (\d+)", cells[3])
        found += [(code.replace(r"\|", "|"), int(ends[1]) if ends else 0) for code in codes]
    return found


def session(page: str) -> list[str]:
    """The lines of a page's session."""
    text = (DOCS / f"{page}.md").read_text()
    return re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)[0].splitlines()


def steady(lines: list[str]) -> list[str]:
    """The lines without times, and with the output of each command in one order: directories are
    listed as the file system has them."""
    commands: list[list[str]] = [[]]
    for line in lines:
        if re.match(r"\$ |alice@\S+> ", line):
            commands.append([])
        commands[-1].append(VARIABLE.sub("TIME", line))
    return [line for typed, *shown in commands[1:] for line in (typed, *sorted(shown))]


class World:
    """Alice in a local directory, with her files on a server.

    Attributes:
        shell: Runs a line in a shell; its status and output, complaints with it.
    """

    def __init__(self, here: Path, user: CommandLine, shell: Callable[[str], tuple[int, str]]):
        self.here, self.user, self.shell = here, user, shell

    def directory(self) -> str:
        """Where the shell is on the server."""
        return self.shell("pwd")[1].strip()

    def at_a_terminal(self, line: str) -> str:
        """What a line shows that is typed into the user's own shell."""
        if line.startswith("ftp connect"):
            return ""  # the next lines are typed there
        if line.startswith("ftp "):
            return self.run(line)[1]
        return subprocess.run(
            line, shell=True, cwd=self.here, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    def reset(self) -> None:
        build(self.here, LOCAL)
        build(self.user.on_server, REMOTE)
        self.shell("cd /")

    def run(self, line: str) -> tuple[int, str]:
        """Run a line of a page."""
        line = HOST.sub(self.user.server, line)
        if not line.startswith("ftp "):
            return self.shell(line)
        words = shlex.split(line)[1:]
        given = b"select 2;\n" if "-" in words else b""
        done = self.user.run(*words, status=None, given=given, cwd=self.here)
        return done.status, done.text + done.err


@pytest.fixture
def world(server, at_a_command_line, tmp_path, monkeypatch, capfdbinary) -> Iterator[World]:
    here = tmp_path / "here"
    here.mkdir()
    user = at_a_command_line(server)
    monkeypatch.chdir(here)
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(user.home / "config"))  # the shell, too
    user.run("login", "--name", "files", f"{user.name}@{user.server}")
    with shell_of(server) as app:

        def shell(line: str) -> tuple[int, str]:
            status = run_line(app, line)
            out, err = capfdbinary.readouterr()
            return status, (out + err).decode()

        yield World(here, user, shell)


@pytest.mark.parametrize("page", PAGES)
def test_every_line_of_the_table_works(world, page):
    lines = rows(page)
    assert len(lines) >= 20
    for line, status in lines:
        world.reset()
        got, said = world.run(line)
        assert got == status, f"{line}: {got}: {said}"
        there = {name: content(world.user.on_server / name) for name in EFFECTS.get(line, ())}
        assert there == EFFECTS.get(line, {}), line


def test_the_effects_are_those_of_lines_that_are_there():
    assert EFFECTS.keys() <= {line for page in PAGES for line, _ in rows(page)}


@pytest.mark.parametrize("page", PAGES)
def test_the_session_is_what_happens(world, page):
    world.reset()
    shown = session(page)
    happened = []
    for line in shown:
        if line.startswith("$ "):
            happened += [line, *world.at_a_terminal(line[2:]).splitlines()]
        elif typed := re.match(r"alice@files\.example\.net:\S+> (.+)", line):
            prompt = f"alice@files.example.net:{world.directory()}> "
            happened += [prompt + typed[1], *world.run(typed[1])[1].splitlines()]
    said = "\n".join(happened).replace(world.user.server, "files.example.net")
    assert steady(said.splitlines()) == steady(shown)


def test_there_is_a_page_for_each_of_them():
    assert PAGES == ["from-lftp", "from-rclone", "from-rsync", "from-sftp"]
