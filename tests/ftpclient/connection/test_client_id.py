"""The id of a client program, and the operations of its commands: connection/client_id.py."""

from __future__ import annotations

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftpclient.connection import client_id as module
from ftpclient.connection.client_id import Operation, client_id, in_force, under
from ftpwire import messages


@pytest.fixture(autouse=True)
def fresh():
    """As in a new process: nothing is remembered."""
    module._kept.cache_clear()
    yield
    module._kept.cache_clear()


def test_an_id_is_drawn_once_and_kept_for_the_next_process(tmp_path):
    path = tmp_path / "config" / "client-id"
    first = client_id(path)
    module._kept.cache_clear()
    assert len(first) == 8
    assert client_id(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_by_default_it_lies_beside_the_other_files_of_the_client(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    found = client_id()
    assert (tmp_path / "ftp-client" / "client-id").read_text() == found.hex() + "\n"


def test_several_that_are_the_first_draw_one(tmp_path):
    path = tmp_path / "client-id"
    count = 4
    together = threading.Barrier(count)

    def draw(_: int) -> bytes:
        together.wait(10)
        return module._kept.__wrapped__(path)

    with ThreadPoolExecutor(count) as pool:
        assert len(set(pool.map(draw, range(count)))) == 1


@pytest.mark.parametrize("contents", ["", "xyz", "00", "00" * 9, "ä" * 8])
def test_what_is_no_id_is_replaced(tmp_path, contents):
    path = tmp_path / "client-id"
    path.write_text(contents)
    assert client_id(path).hex() + "\n" == path.read_text()


def test_without_a_home_the_process_has_one(monkeypatch):
    path = module.files.NOWHERE / "client-id"
    assert client_id(path) == client_id(path)
    assert not path.parent.exists()


def test_nothing_is_made_in_the_home_of_somebody_else(tmp_path, monkeypatch):
    there = tmp_path / "alice"
    there.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "stat", lambda self, **_: os.stat_result((0o40755, *[12345] * 9)))
    assert len(client_id(there / "ftp-client" / "client-id")) == 8
    assert os.listdir(there) == []


def test_an_operation_says_the_command_and_whose_it_is():
    one = Operation("rm -r /x", keep=False)
    assert one.request() == messages.Operation(one.id, "rm -r /x", client_id(), False)
    assert one.id != Operation("rm -r /x").id


def test_words_are_made_when_they_are_needed_and_cut():
    requested = []

    def words() -> str:
        requested.append(1)
        return "rm " + "x" * 300

    one = Operation(words)
    assert not requested
    assert len(one.request().words) == 200
    assert one.words == one.words and len(requested) == 1
    messages.decode_request(messages.encode(one.request()))


def test_numbers_are_drawn_once_for_each_request_by_any_thread():
    one = Operation("mv a b")

    def number(_: int) -> int:
        return one.numbered(messages.Remove(b"/a")).number

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(number, range(1000))) == list(range(1, 1001))
    again = messages.Remove(b"/a", number=7, again=True)
    assert one.numbered(again) is again


def test_words_can_be_sent_whatever_is_in_a_path():
    odd = os.fsdecode(b"rm \xff\x1b[31m")
    sent = messages.decode_request(messages.encode(Operation(odd).request()))
    assert sent.words == "rm \\xff\\x1b[31m"


def test_a_child_process_has_an_operation_of_its_own():
    one = Operation("mv a b")
    one.numbered(messages.Remove(b"/a"))
    before = one.id
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, one.id + bytes([one.numbered(messages.Remove(b"/a")).number]))
        os._exit(0)
    os.waitpid(pid, 0)
    reported = os.read(read, 100)
    os.close(read)
    os.close(write)
    assert reported[:8] != before and reported[8] == 1
    assert one.id == before and one.numbered(messages.Remove(b"/a")).number == 2


def test_the_innermost_operation_of_a_client_is_in_force():
    first, second, third = Operation("1"), Operation("2"), Operation("3")
    one, other = object(), object()
    assert in_force(one) is None
    with under(first):
        with under(second, one), under(third, other):
            assert in_force(one) is second and in_force(other) is third
            assert in_force(object()) is first
        assert in_force(one) is first
    assert in_force(one) is None


def test_another_thread_has_none():
    with under(Operation("1")), ThreadPoolExecutor(1) as pool:
        assert pool.submit(in_force, None).result() is None
