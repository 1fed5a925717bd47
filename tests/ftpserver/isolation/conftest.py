"""Servers with isolated sessions, and such whose sessions do what somebody hostile wants.

The server runs in this process; its fork server and the sessions are real processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftpserver.isolation import supervisor
from ftpwire.messages import LoggedIn, WhoAmI
from tests.ftpserver.isolation.attacks import OTHER
from tests.peer import eventually


@pytest.fixture
def start(start_server) -> Callable:
    """Starts servers with isolated sessions."""

    def started(**options):
        return start_server(isolation="process", **options)

    return started


@pytest.fixture
def server(start):
    return start()


@pytest.fixture
def hostile(start, monkeypatch, dial, tmp_path):
    """Starts a server whose sessions do what lies in their homes; gives a function that attacks.

    It attacks as alice; bob is the other one, with a secret file. It returns what became of the
    attack, and None when the session's process has ended of it.
    """
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr(supervisor, "CHILD", "hostile_child")

    def started(*, weakened: bool = False, user: str | None = OTHER):
        if weakened:
            monkeypatch.setenv("FTPD_TEST_WEAKENED", str(tmp_path / "root" / "alice"))
        server = start()
        if os.geteuid() == 0:
            server.accounts.change("alice", system_user=user)
        server.accounts.add("bob", "bobs-secret")
        (server.settings.root / "bob" / "secret").write_text("bob's own")

        def attack(program: str, look: Callable[[], object] = lambda: None) -> str | None:
            path = server.settings.root / "alice" / "attack.py"
            path.write_text(program)
            path.chmod(0o644)
            with dial(server) as peer:
                # its log-in is written down a moment later, and some attacks are on that file
                eventually((server.settings.state / "audit.jsonl").exists)
                try:
                    answer = peer.ask(WhoAmI())
                except (EOFError, ConnectionError):
                    answer = None
                look()
            assert answer is None or isinstance(answer, LoggedIn), answer
            return None if answer is None else answer.user

        attack.server = server
        return attack

    return started
