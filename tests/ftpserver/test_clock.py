"""The time of one run: it goes on evenly, and jumps of the system's clock are noticed."""

from __future__ import annotations

import pytest

from ftpserver.clock import JUMP_SECONDS, Clock

YEAR = 365 * 24 * 3600


class System:
    """The system's clocks: one that is set, and one that only ever goes on."""

    def __init__(self) -> None:
        self.wall = 1_800_000_000.0
        self.ticks = 50.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.ticks += seconds


@pytest.fixture
def system() -> System:
    return System()


@pytest.fixture
def clock(system) -> Clock:
    return Clock(lambda: system.wall, lambda: system.ticks)


@pytest.mark.parametrize("jump", [-YEAR, -700, 700, YEAR])
def test_it_goes_on_evenly(clock, system, jump):
    began = clock.now()
    system.passes(10)
    system.wall += jump
    system.passes(10)
    assert clock.now() == began + 20
    assert clock.latest() == began + 20 + max(0, jump)
    assert clock.earliest() == began + 20 + min(0, jump)
    assert clock.by_system(clock.now() + 5) == system.wall + 5


def test_each_jump_is_reported_once(clock, system):
    assert clock.take_jump() == 0
    system.passes(YEAR)
    assert clock.take_jump() == 0, "time that passes is no jump"
    for jump in (700, -YEAR, -JUMP_SECONDS, JUMP_SECONDS):
        system.wall += jump
        assert clock.take_jump() == jump
        assert clock.take_jump() == 0
    system.wall += JUMP_SECONDS / 2
    assert clock.take_jump() == 0
    system.wall += JUMP_SECONDS / 2
    assert clock.take_jump() == JUMP_SECONDS, "small ones add up"
