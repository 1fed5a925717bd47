"""Pauses where workers die at their start."""

import pytest

from ftpserver.processes.short_lives import ShortLives


@pytest.mark.parametrize(
    ("count", "seconds"),
    [(0, 0), (1, 0), (2, 0.4), (3, 0.8), (7, 12.8), (11, 204.8), (12, 300), (10_000, 300)],
)
def test_the_pause_grows_up_to_a_limit(count, seconds):
    lives = ShortLives()
    lives.count = count
    assert lives.pause() == pytest.approx(seconds)


def test_after_some_in_a_row_it_is_rare_at_once():
    lives, pauses = ShortLives(), []
    for _ in range(9):
        lives.failed("no process")
        pauses.append(lives.pause(known=2, first=10.0))
    assert pauses == [0, 0, 10, 20, 40, 80, 160, 300, 300]


def test_what_is_a_short_life():
    lives = ShortLives()
    lives.ended(0.1, served=True)
    lives.ended(50.0, served=False)
    lives.failed("no process")
    assert lives.count == 3 and lives.reason == "no process"
    lives.ended(50.0, served=True)
    assert lives.count == 0
