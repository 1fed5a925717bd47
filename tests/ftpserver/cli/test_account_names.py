"""The names that the Tab key offers, from an accounts file that it leaves as it is."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest
from click.shell_completion import get_completion_class

from ftpserver.cli.main import cli
from ftpwire import completion


@pytest.fixture
def tab(root, monkeypatch, capsys):
    """Completes a line in bash; what is offered."""
    completion.register()
    monkeypatch.setenv("COMP_WORDBREAKS", " ")
    monkeypatch.setenv("FTPD_ROOT", str(root))

    def complete(line: str) -> list[str]:
        monkeypatch.setenv("COMP_LINE", line)
        answer = get_completion_class("bash")(cli, {}, "ftpd", "_FTPD_COMPLETE").complete()
        assert capsys.readouterr() == ("", "")
        return answer.split("\n") if answer else []

    return complete


@pytest.mark.parametrize(
    "line",
    [
        *("user set", "user show", "user passwd", "user remove", "user rename", "user disable"),
        *(
            "why",
            "kick",
            "user tokens",
            "token list",
            "unban 127.0.0.1",
            "scrub",
            "user set --root {root}",
        ),
    ],
)
def test_accounts_are_offered(tab, ftpd, root, line):
    for name in ("alice", "bob"):
        ftpd("user", "add", name, "--password-stdin", stdin=b"correct-horse\n")
    assert tab(f"ftpd {line.format(root=root)} al") == ["plain,alice"]
    assert tab("ftpd user add al") == []


@pytest.fixture
def state(root):
    """An accounts file of another version."""
    place = root / ".ftpd"
    place.mkdir(parents=True)
    with closing(sqlite3.connect(place / "state.db")) as file:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("CREATE TABLE account (name TEXT)")
        file.execute("INSERT INTO account VALUES ('alice')")
        file.commit()
    return place


def names_and_times(place):
    return {path.name: path.stat().st_mtime_ns for path in place.iterdir()}


def test_an_earlier_file_is_read_and_nothing_is_made(tab, state):
    before = names_and_times(state)
    assert list(before) == ["state.db"]
    assert tab("ftpd why ") == ["plain,alice"]
    assert names_and_times(state) == before


def test_a_file_in_use_is_read_as_it_is_now(tab, state):
    with closing(sqlite3.connect(state / "state.db")) as file:
        file.execute("INSERT INTO account VALUES ('bob')")
        file.commit()
        before = names_and_times(state)
        assert {"state.db-wal", "state.db-shm"} < set(before)
        assert tab("ftpd why ") == ["plain,alice", "plain,bob"]
        assert set(names_and_times(state)) == set(before)


@pytest.mark.parametrize("name", ["state.db-wal", "state.db-shm"])
def test_half_of_what_belongs_to_it_is_left_alone(tab, state, name):
    (state / name).touch()
    assert tab("ftpd why ") == []
    assert set(names_and_times(state)) == {"state.db", name}


def test_what_is_no_accounts_file_has_nothing_to_offer(tab, state, monkeypatch, tmp_path):
    os.truncate(state / "state.db", 100)
    assert tab("ftpd why ") == []
    monkeypatch.setenv("FTPD_ROOT", str(tmp_path / "nowhere"))
    assert tab("ftpd why ") == []
    assert not (tmp_path / "nowhere").exists()
