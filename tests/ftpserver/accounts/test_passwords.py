"""Work that gives way."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from ftpserver.accounts import passwords
from ftpserver.accounts.passwords import in_background


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is done in place")
def test_it_gives_way_and_nobody_else_does():
    before = niceness()
    assert in_background(niceness) == min(19, before + 15)
    assert niceness() == before
    assert in_background(threading.get_ident) != threading.get_ident()


def test_what_it_raises_comes_through():
    with pytest.raises(ZeroDivisionError):
        in_background(lambda: 1 // 0)
    assert in_background(lambda: None) is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is done in place")
def test_passwords_are_hashed_aside(monkeypatch):
    seen = []

    class Noting:
        def hash(self, password):
            seen.append(niceness())
            return "hashed"

        def verify(self, stored, password):
            seen.append(niceness())
            return True

    monkeypatch.setattr(passwords, "_hasher", Noting())
    assert passwords.hash_password("secret") == "hashed"
    assert passwords.verify_password("hashed", "secret")
    assert seen == [min(19, niceness() + 15)] * 2
