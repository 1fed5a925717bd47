"""What goes on beside serving: when it begins and ends, and what a server is without it."""

from __future__ import annotations

import pytest

from ftpserver.daemon.background import OptionalBackground
from ftpserver.daemon.control import is_running
from ftpserver.daemon.server import FtpServer
from ftpserver.settings.table import Settings


class Recorded:
    """A background that writes down what becomes of it."""

    def __init__(self, name: str, done: list[str], error: Exception | None = None) -> None:
        self._name = name
        self._done = done
        self._error = error

    def start(self) -> None:
        if self._error is not None:
            raise self._error
        self._done.append(f"{self._name} begins")

    def stop(self) -> None:
        self._done.append(f"{self._name} ends")


@pytest.fixture
def server(tmp_path):
    """A server that doesn't run yet, with nothing beside it."""
    settings = Settings(
        tmp_path / "root", host="127.0.0.1", port=0, plaintext=True, durable=False, audit_size=0
    )
    with FtpServer(settings) as server:
        yield server


def test_they_begin_with_the_server_and_end_the_other_way_round(server):
    done: list[str] = []
    server.backgrounds += [Recorded("one", done), Recorded("two", done)]
    with server.running():
        assert done == ["one begins", "two begins"]
        assert not is_running(server.settings.state), "a server alone has no control socket"
    assert done == ["one begins", "two begins", "two ends", "one ends"]


def test_when_one_fails_to_begin_those_before_it_end_and_so_does_the_server(server):
    done: list[str] = []
    server.backgrounds += [
        Recorded("one", done),
        Recorded("two", done, OSError(11, "no more threads")),
        Recorded("three", done),
    ]
    with pytest.raises(OSError, match="no more threads"), server.running():
        raise AssertionError("it must not serve")
    assert done == ["one begins", "one ends"]
    assert server.service.stopping


def test_one_that_is_impossible_is_done_without():
    done: list[str] = []
    nothing: OptionalBackground[Recorded] = OptionalBackground(lambda: None)
    nothing.start()
    nothing.stop()
    there = OptionalBackground(lambda: Recorded("it", done))
    there.start()
    assert there.running is not None
    there.stop()
    there.stop()
    assert done == ["it ends"] and there.running is None


def test_the_limits_of_the_server_and_its_workers_have_the_same_counters(server):
    limits, tallies = server.service.limits, server.tallies
    assert limits.counts is tallies.sessions
    assert limits.queue is tallies.queue
    assert limits.changes is tallies.changes
    assert limits._transfers is tallies.transfers
