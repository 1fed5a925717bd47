"""Numbers of requests: claimed by one session at a time, of all processes."""

from __future__ import annotations

import os

import pytest

from ftpserver.storage import request_numbers, upload_locks
from ftpserver.storage.request_numbers import RequestNumbers, runs_of

KEY = b"12345678"


@pytest.fixture
def claims(open_home):
    """Opens numbers as sessions would; they are closed in the end."""
    opened = []

    def make(account_id: int = 1, key: bytes = KEY) -> RequestNumbers:
        opened.append(RequestNumbers(open_home(), account_id, key))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def test_one_at_a_time(claims):
    first, second = claims(), claims()
    assert first.claim(1) and first.claim(1), "one's own"
    assert not second.claim(1)
    assert second.claim(2)
    first.give_back([1])
    assert second.claim(1)


def test_each_account_and_operation_has_its_own(claims):
    assert claims().claim(1)
    assert claims(2).claim(1)
    assert claims(key=b"another!").claim(1)


def test_runs_are_given_back_at_once(claims):
    first, second = claims(), claims()
    for number in (*range(1, 1001), 2**32 - 1):
        assert first.claim(number)
    first.give_back([*range(10, 1001), 5])
    assert [number for number in range(1, 1001) if not second.claim(number)] == [
        1,
        2,
        3,
        4,
        6,
        7,
        8,
        9,
    ]
    assert not second.claim(2**32 - 1)


def test_who_ends_gives_all_back(claims):
    first, second = claims(), claims()
    assert first.claim(1) and not second.claim(1)
    first.close()
    first.close()
    assert second.claim(1)


def test_a_process_that_dies_gives_all_back(claims):
    second = claims()
    ready, wrote = os.pipe()
    child = os.fork()
    if not child:
        claims().claim(1)
        os.write(wrote, b"x")
        os._exit(0)
    os.read(ready, 1)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(wrote)
    assert second.claim(1)


def test_without_such_locks_everybody_can_claim(claims, monkeypatch):
    monkeypatch.setattr(upload_locks, "_ask", lambda *_: None)
    first, second = claims(), claims()
    assert first.claim(1) and second.claim(1)
    first.give_back([1])


def test_runs():
    assert runs_of([]) == []
    assert runs_of([3, 1, 2, 7, 9, 8, 20]) == [(1, 3), (7, 3), (20, 1)]


def test_places_are_within_what_a_file_may_have(claims):
    for account_id in (1, 2**31):
        for key in (bytes(8), b"\xff" * 8):
            first = claims(account_id, key)._first
            assert 0 <= first <= first + 2**32 - 1 < 2**62
            assert first % 2**request_numbers._NUMBER_BITS == 0
