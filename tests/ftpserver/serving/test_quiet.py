"""When a process is quiet."""

from __future__ import annotations

import pytest

from ftpserver.serving.quiet import Quiet

MIB = 1024 * 1024


class Process:
    """What it has moved and who is connected, and how often it was told to be quiet."""

    def __init__(self) -> None:
        self.received = self.sent = self.reported = 0
        self.connections: set[object] = set()
        self.quiet = Quiet(self.connections, lambda: (self.received, self.sent), self._tell)

    def _tell(self) -> None:
        self.reported += 1

    def look_until(self, end: int) -> int:
        """Rounds of a second each, from 0 to ``end``; how often it has been told in all."""
        for now in range(end + 1):
            self.quiet.look(float(now))
        return self.reported


@pytest.fixture
def process() -> Process:
    return Process()


def test_once_after_each_time_at_work(process):
    process.connections.add("one who stays and asks for nothing more")
    process.received = MIB
    assert process.look_until(2) == 0, "it may only pause"
    assert process.look_until(100) == 1
    process.sent = MIB
    assert process.look_until(100) == 2


def test_never_while_bytes_move(process):
    for now in range(100):
        process.sent += MIB
        process.quiet.look(float(now))
    assert process.reported == 0


def test_not_for_little(process):
    process.received = 4096
    assert process.look_until(100) == 0
    process.received += MIB
    assert process.look_until(100) == 1


def test_not_while_many_are_there(process):
    process.connections.update(range(1000))
    process.received = MIB
    assert process.look_until(100) == 0
    process.connections.clear()
    assert process.look_until(100) == 1
