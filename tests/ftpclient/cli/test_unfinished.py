"""The list of unfinished transfers: the file, and what a command notes there."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from ftpclient.cli import unfinished
from ftpclient.cli.unfinished import LARGE, MOST, Note, Transfer, Transfers
from ftpclient.connection import files


def made(words: str = "put big /", **more) -> Transfer:
    given = {"when": int(time.time())} | more
    return Transfer("alice@host:1234", "/docs", "/home/alice", words, **given)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "user" / ".local" / "state" / "ftp-client" / "unfinished.jsonl"


@pytest.fixture
def transfers(path) -> Transfers:
    assert files.state_directory() == path.parent
    return Transfers()


def test_the_file_is_private_and_has_a_line_for_each(transfers, path):
    assert transfers.unfinished() == []
    odd = made(os.fsdecode(b"put '\xff\n' /"), aliases={"up": "put -r"})
    for one in (made("put a /"), odd, made("put a /")):
        transfers.add(one)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes().splitlines()) == 2
    assert [(one.number, one.words) for one in transfers.unfinished()] == [
        (2, odd.words),
        (1, "put a /"),
    ]
    transfers.remove(odd)
    assert [one.words for one in transfers.unfinished()] == ["put a /"]
    assert "password" not in json.loads(path.read_text())


def test_what_is_old_or_too_much_goes(transfers):
    transfers.add(made("put old /", when=int(time.time()) - 31 * 86400))
    transfers.add(made("put kept /", when=int(time.time()) - 29 * 86400))
    assert [one.words for one in transfers.unfinished()] == ["put kept /"]
    for number in range(MOST):
        transfers.add(made(f"put {number} /"))
    known = transfers.unfinished()
    assert [known[0].words, known[-1].words, len(known)] == ["put 0 /", f"put {MOST - 1} /", MOST]


def test_a_torn_line_and_one_of_another_version_are_passed_over(transfers, path):
    transfers.add(made())
    good = path.read_bytes()
    path.write_bytes(b'{"server": 5}\n[]\n\n' + good + good[: len(good) // 2])
    assert [one.words for one in transfers.unfinished()] == ["put big /"]


@pytest.mark.parametrize(
    "damage",
    [
        {"when": 10**20},
        {"words": "put a\0b /"},
        {"directory": "/\0"},
        {"local_directory": "/\0"},
        {"server": "\ud800"},
    ],
    ids=str,
)
def test_a_damaged_line_is_passed_over(transfers, path, damage):
    transfers.add(made())
    line = json.loads(path.read_text())
    path.write_text(f"{json.dumps(line | damage)}\n{json.dumps(line)}\n")
    assert [one.words for one in transfers.unfinished()] == ["put big /"]


def test_each_keeps_its_number_while_others_run_or_are_done(transfers, path):
    first, second, third = made("put 1 /"), made("put 2 /"), made("put 3 /")
    for one in (first, second, third):
        transfers.add(one)
    process = os.getpid()
    transfers.add(msgspec.structs.replace(first, process=process, born=unfinished._born(process)))
    assert [(one.number, one.words) for one in transfers.unfinished()] == [
        (2, "put 2 /"),
        (3, "put 3 /"),
    ]
    transfers.add(first)  # it was stopped again
    transfers.remove(second)
    assert {one.number: one.words for one in transfers.unfinished()} == {
        1: "put 1 /",
        3: "put 3 /",
    }
    line = json.loads(path.read_text().splitlines()[0])
    del line["number"]
    path.write_text(path.read_text() + json.dumps(line | {"words": "put 4 /"}) + "\n")
    assert sorted(one.number for one in transfers.unfinished()) == [1, 3, 4]


def test_a_file_that_others_may_write_is_not_used(transfers, path):
    transfers.add(made())
    path.chmod(0o660)
    assert transfers.unfinished() == []


def test_several_write_at_the_same_time(transfers):
    threads = [
        threading.Thread(target=transfers.add, args=(made(f"put {number} /"),))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(transfers.unfinished()) == 20


def test_one_that_runs_is_not_listed(transfers):
    """Unless its process is gone, even if another one has its number now."""
    process = os.getpid()
    running = msgspec.structs.replace(made(), process=process, born=unfinished._born(process))
    transfers.add(running)
    assert running.is_running and transfers.unfinished() == []
    transfers.add(msgspec.structs.replace(running, born="1"))
    assert len(transfers.unfinished()) == 1
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    transfers.add(msgspec.structs.replace(running, process=ended.pid, born=""))
    assert len(transfers.unfinished()) == 1


@pytest.mark.parametrize(
    ("status", "left"), [(0, 0), (1, 0), (7, 0), (4, 1), (130, 1)], ids=lambda value: str(value)
)
def test_what_is_noted_of_a_command(transfers, status, left):
    note = Note(made())
    note.begin(LARGE)
    assert not transfers._read(), "it is small so far"
    note.begin(LARGE + 1)
    assert len(transfers._read()) == 1 and transfers.unfinished() == []
    note.end(status)
    assert len(transfers.unfinished()) == left
    again = Note(made())
    again.end(2)
    again.end(130)
    assert len(transfers.unfinished()) == left
    again.end(0)
    assert transfers.unfinished() == [], "it is done, though little was left to do"


def test_one_that_another_process_has_taken_over_is_not_listed(transfers):
    note = Note(made())
    note.begin(LARGE + 1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        running = msgspec.structs.replace(
            made(), process=other.pid, born=unfinished._born(other.pid)
        )
        transfers._change(lambda known: [running])
        note.end(4)
        assert transfers.unfinished() == []
        other.communicate(b"\n")
    assert [one.words for one in transfers.unfinished()] == ["put big /"]


def test_without_a_writable_home(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/none")
    note = Note(made())
    note.begin(LARGE + 1)
    note.end(130)
    assert Transfers().unfinished() == []


class Client:
    def __init__(self) -> None:
        from ftpclient.connection.addresses import ServerAddress

        self.address, self.user = ServerAddress.parse("alice@host:1234"), "alice"


def test_the_reminder(transfers):
    day = 86400
    assert unfinished.reminder(Client()) == ""
    transfers.add(made("put 1 /"))
    assert unfinished.reminder(Client()) == "1 transfer of today isn't finished: resume"
    other = msgspec.structs.replace(made("put 2 /"), server="bob@host:1234")
    transfers.add(other)
    assert unfinished.reminder(Client()) == "1 transfer of today isn't finished: resume"
    transfers.add(made("put 3 /", when=int(time.time()) - day))
    assert unfinished.reminder(Client()) == "2 transfers aren't finished: resume"
    transfers.remove(made("put 1 /"))
    assert unfinished.reminder(Client()) == "1 transfer of yesterday isn't finished: resume"
