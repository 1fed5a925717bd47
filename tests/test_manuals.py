"""The manual pages: as the programs are now, complete, and clean for those who read roff."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from ftpclient.cli.main import remote
from ftpserver.cli.main import cli as ftpd
from tests.command_walk import PLACES, options

MAN = Path(__file__).parents[1] / "man"
_SPEC = importlib.util.spec_from_file_location("man_make", MAN / "make.py")
assert _SPEC is not None and _SPEC.loader is not None
make = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = make  # dataclasses look for it there
_SPEC.loader.exec_module(make)

SECTIONS = [
    *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "EXIT STATUS", "ENVIRONMENT"),
    *("FILES", "EXAMPLES", "SEE ALSO"),
]
programs = pytest.mark.parametrize("name", ["ftp", "ftpd"])


@programs
def test_the_page_is_as_it_would_be_made(name):
    kept = (MAN / f"{name}.1").read_text(encoding="utf-8")
    assert kept == make.make(name), "run python man/make.py"


@programs
def test_the_page_has_every_section_and_command(name):
    page = make.make(name)
    found = re.findall(r"^\.SH (.+)$", page, re.M)
    assert [one for one in found if one != "SHELL COMMANDS"] == SECTIONS
    root = remote if name == "ftp" else ftpd
    places = [place for place in PLACES if place.ctx.find_root().command is root]
    sections = re.split(r"^\.S[SH] ", page, flags=re.M)
    for place in places:
        words = place.words.replace("-", r"\-")
        if place.ctx.parent is None or words in ("ftp help", "ftp pwd"):
            continue  # the page itself; and commands that are listed in the shell alone
        if words.startswith("ftpd token"):
            continue  # it works, but ftpd user tokens is listed
        if words == "ftp forget":
            continue  # it works, but ftp servers --new-key is listed
        (text,) = (one for one in sections if one.partition("\n")[0] == words)
        if place.words.startswith("ftpd config "):
            continue  # their options are those of start
        for option in options(place.ctx):
            if not option.hidden and "--help" not in option.opts:
                assert any(
                    rf"\fB{one.replace('-', chr(92) + '-')}\fR" in text
                    for one in (*option.opts, *option.secondary_opts)
                ), option.opts


def test_commands_are_explained_once():
    for name in ("ftp", "ftpd"):
        headings = re.findall(r"^\.SS (.+)$", make.make(name), re.M)
        assert len(headings) == len(set(headings))


def test_examples_of_the_shell_are_typed_without_the_program():
    _, _, shell = make.make("ftp").partition(".SH SHELL COMMANDS")
    examples = re.findall(r"^\.EX\n(.+)$", shell.partition(".SH EXIT STATUS")[0], re.M)
    assert r"jobs \-o 1" in examples
    assert not [line for line in examples if line.startswith("ftp ")]


def _warnings(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]} (Debian's package of that name)")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stderr + (done.stdout if command[0] == "mandoc" else "")


@programs
def test_groff_has_nothing_to_complain_about(name):
    assert _warnings("groff", "-man", "-Tutf8", "-ww", str(MAN / f"{name}.1")) == ""


@programs
def test_mandoc_has_nothing_to_complain_about(name):
    assert _warnings("mandoc", "-Tlint", str(MAN / f"{name}.1")) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param(".ftpignore", r"\&.ftpignore", id="no-request"),
        pytest.param("a-b", r"a\-b", id="a-hyphen-that-can-be-pasted"),
        pytest.param("see `ftp ls` now", r"see \fBftp ls\fR now", id="bold"),
        pytest.param("a\\b", r"a\eb", id="backslash"),
        pytest.param("SHA256:…", r"SHA256:\[u2026]", id="beyond-ascii"),
    ],
)
def test_text_is_escaped(text, shown):
    assert make._text(text) == shown


def test_check_reports_an_old_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(make, "HERE", tmp_path)
    monkeypatch.setattr("sys.argv", ["make.py", "--check"])
    with pytest.raises(SystemExit, match="1"):
        make.main()
    assert "ftp.1 is old" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["make.py"])
    with pytest.raises(SystemExit, match="0"):
        make.main()
    assert {path.name for path in tmp_path.iterdir()} == {"ftp.1", "ftpd.1"}
    assert isinstance(make.MANUALS["ftp"].command, click.Group)
